package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

type timestamp = time.Time

// sources is where entries get their contents.
type sources struct {
	tree       string
	components map[string]string
}

// member is one entry of an archive to be.
type member struct {
	header tar.Header
	data   []byte
	// native says that it is a file of the tree, whose shared libraries may be wanted.
	native bool
}

// read returns the contents of an entry that is a file.
func (s sources) read(e *Entry) ([]byte, error) {
	switch {
	case e.Program != "":
		component, program, _ := strings.Cut(e.Program, "/")
		folder, found := s.components[component]
		if !found {
			return nil, fmt.Errorf("`%s`: the component `%s` is not built", e.Program, component)
		}
		return os.ReadFile(filepath.Join(folder, program))
	case e.Tree != "":
		return os.ReadFile(filepath.Join(s.tree, e.Tree))
	case e.Join != "":
		return s.join(e.Join)
	}
	return []byte(e.Text), nil
}

// join puts the files of a folder of the tree one after another, in the order of their names.
func (s sources) join(folder string) ([]byte, error) {
	entries, err := os.ReadDir(filepath.Join(s.tree, folder))
	if err != nil {
		return nil, err
	}
	var all bytes.Buffer
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(s.tree, folder, entry.Name()))
		if err != nil {
			return nil, err
		}
		all.Write(data)
		if !bytes.HasSuffix(data, []byte("\n")) {
			all.WriteByte('\n')
		}
	}
	return all.Bytes(), nil
}

// members are the entries as members of an archive, the folders above each before it.
func (s sources) members(entries []Entry) ([]member, error) {
	var members []member
	for i := range entries {
		more, err := s.expand(&entries[i])
		if err != nil {
			return nil, err
		}
		members = append(members, more...)
	}
	return withParents(members), nil
}

func (s sources) expand(e *Entry) ([]member, error) {
	m := member{header: tar.Header{Name: e.Path, Typeflag: tar.TypeReg}}
	usual := int64(0o644)
	var err error
	switch {
	case e.Folder:
		m.header.Name, m.header.Typeflag, usual = strings.TrimSuffix(e.Path, "/")+"/", tar.TypeDir, 0o755
	case e.Link != "":
		m.header.Linkname, m.header.Typeflag, usual = e.Link, tar.TypeSymlink, 0o777
	case e.Hard != "":
		m.header.Linkname, m.header.Typeflag = e.Hard, tar.TypeLink
	case e.Tree != "":
		info, err := os.Stat(filepath.Join(s.tree, e.Tree))
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			return s.below(e.Tree, e.Path)
		}
		m.native, usual = true, int64(info.Mode().Perm())
		fallthrough
	default:
		if e.Program != "" {
			usual = 0o755
		}
		if m.data, err = s.read(e); err != nil {
			return nil, err
		}
	}
	if m.header.Mode, err = e.mode(usual); err != nil {
		return nil, err
	}
	for name, value := range e.Xattrs {
		raw, err := hex.DecodeString(value)
		if err != nil {
			return nil, fmt.Errorf("`%s`: the value of `%s` is not hexadecimal", e.Path, name)
		}
		if m.header.PAXRecords == nil {
			m.header.PAXRecords = map[string]string{}
		}
		m.header.PAXRecords["SCHILY.xattr."+name] = string(raw)
	}
	return []member{m}, nil
}

// below is every file and link below a folder of the tree, placed below `place`.
func (s sources) below(folder, place string) ([]member, error) {
	var members []member
	root := filepath.Join(s.tree, folder)
	err := filepath.WalkDir(root, func(file string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		name := path.Join(place, relative)
		if entry.Type()&os.ModeSymlink != 0 {
			target, err := os.Readlink(file)
			members = append(members, member{header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}})
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(file)
		members = append(members, member{header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: int64(info.Mode().Perm())}, data: data, native: true})
		return err
	})
	return members, err
}

// withParents puts the folders above each member before it, once, unless they are named themselves.
func withParents(members []member) []member {
	known := map[string]bool{}
	for _, m := range members {
		if m.header.Typeflag == tar.TypeDir {
			known[strings.TrimPrefix(m.header.Name, "./")] = true
		}
	}
	var all []member
	for _, m := range members {
		dots := strings.HasPrefix(m.header.Name, "./")
		parts := strings.Split(strings.TrimPrefix(strings.TrimSuffix(m.header.Name, "/"), "./"), "/")
		for i := 1; i < len(parts) && !dots; i++ {
			folder := strings.Join(parts[:i], "/") + "/"
			if !known[folder] {
				known[folder] = true
				all = append(all, member{header: tar.Header{Name: folder, Typeflag: tar.TypeDir, Mode: 0o755}})
			}
		}
		all = append(all, m)
	}
	return all
}

// libraryFolders of the tree, in the order of search.
var libraryFolders = []string{"usr/lib64", "usr/lib/x86_64-linux-gnu", "usr/lib"}

// withLibraries adds the shared libraries that the members need, and those that these need.
func (s sources) withLibraries(members []member) ([]member, error) {
	have := map[string]bool{}
	for _, m := range members {
		have[path.Base(m.header.Name)] = true
	}
	var added []member
	for queue := members; len(queue) > 0; queue = queue[1:] {
		if !queue[0].native || !bytes.HasPrefix(queue[0].data, []byte(elf.ELFMAG)) {
			continue
		}
		needed, err := needs(queue[0].data)
		if err != nil {
			return nil, fmt.Errorf("`%s`: %w", queue[0].header.Name, err)
		}
		for _, name := range needed {
			if have[name] {
				continue
			}
			have[name] = true
			library, err := s.library(name)
			if err != nil {
				return nil, fmt.Errorf("`%s`: %w", queue[0].header.Name, err)
			}
			added = append(added, library)
			queue = append(queue, library)
		}
	}
	sort.Slice(added, func(i, j int) bool { return added[i].header.Name < added[j].header.Name })
	return withParents(append(members, added...)), nil
}

// needs are the names of the libraries that a program or library names, and of its loader.
func needs(data []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	names, err := file.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	if interpreter := file.Section(".interp"); interpreter != nil {
		loader, err := interpreter.Data()
		if err != nil {
			return nil, err
		}
		names = append(names, path.Base(strings.TrimRight(string(loader), "\x00")))
	}
	return names, nil
}

func (s sources) library(name string) (member, error) {
	for _, folder := range libraryFolders {
		data, err := os.ReadFile(filepath.Join(s.tree, folder, name))
		if err == nil {
			return member{header: tar.Header{Name: path.Join(folder, name), Typeflag: tar.TypeReg, Mode: 0o755}, data: data, native: true}, nil
		}
		if !os.IsNotExist(err) {
			return member{}, err
		}
	}
	return member{}, fmt.Errorf("the tree has no library `%s`", name)
}
