package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Plan is mirror.toml: what the folder holds, and what each part is made from.
type Plan struct {
	Name  string
	About string
	// Time is every time in an archive or an image.
	Time time.Time
	// File is one served as it is; Archive a .tar.gz.
	File    []File
	Archive []Archive
	Layer   map[string]Layer
	Image   []Image
	StandIn []StandIn `toml:"stand-in"`
}

// File is served at URL.
type File struct {
	URL string
	Entry
}

// Archive is a .tar.gz served at URL.
type Archive struct {
	URL     string
	Entries []Entry
}

// Layer is an image layer; Libraries adds the shared libraries that its programs of the tree need.
type Layer struct {
	Libraries bool
	Entries   []Entry
}

// Entry is one member of an archive or layer, or a whole folder of them.
type Entry struct {
	Path string
	Mode string

	// At most one of these says what it is; without any it is a file with the contents Text.
	Built  string // COMPONENT/NAME: what a component's recipe built or copied, a file or a folder
	Tree   string // a file or folder of the packages' tree
	Text   string
	Link   string // target of a symbolic link
	Hard   string // target of a hard link
	Folder bool

	// Join puts the files of a folder that end as Path does one after another, with Between, in Before and After.
	Join                   bool
	Before, Between, After string

	Xattrs map[string]string // name → value, in hexadecimal
}

// Image is one image of the layout.
type Image struct {
	Name       string
	Layers     []string
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	Workdir    string
	Ports      []string
	// Docker says that manifest and layers carry Docker's media types instead of OCI's.
	Docker bool
}

// StandIn says what is served in place of what upstream serves.
type StandIn struct {
	For string
	Is  string
}

func readPlan(file string) (*Plan, error) {
	var plan Plan
	meta, err := toml.DecodeFile(file, &plan)
	if err != nil {
		return nil, fmt.Errorf("reading `%s`: %w", file, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("`%s` has unknown keys: %v", file, unknown)
	}
	for _, image := range plan.Image {
		for _, layer := range image.Layers {
			if _, found := plan.Layer[layer]; !found {
				return nil, fmt.Errorf("`%s`: the image `%s` names the layer `%s`, which is not described", file, image.Name, layer)
			}
		}
	}
	return &plan, nil
}

// mode is the entry's mode, or `usual` where it names none.
func (e *Entry) mode(usual int64) (int64, error) {
	if e.Mode == "" {
		return usual, nil
	}
	mode, err := strconv.ParseInt(e.Mode, 8, 64)
	if err != nil {
		return 0, fmt.Errorf("`%s`: `%s` is not an octal mode", e.Path, e.Mode)
	}
	return mode, nil
}

// origin is origin.toml: two keys that programs read, and the table of stand-ins for people.
func (p *Plan) origin() []byte {
	var text bytes.Buffer
	fmt.Fprintf(&text, "name = %q\nabout = %q\n\n# What stands in for what:\n", p.Name, strings.TrimSpace(p.About))
	for _, s := range p.StandIn {
		fmt.Fprintf(&text, "#   %s\n#       %s\n", s.For, s.Is)
	}
	return text.Bytes()
}
