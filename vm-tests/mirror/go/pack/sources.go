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

// place is where an entry's file or folder lies, or nothing.
func (s sources) place(e *Entry) (string, error) {
	switch {
	case e.Built != "":
		component, name, _ := strings.Cut(e.Built, "/")
		folder, found := s.components[component]
		if !found {
			return "", fmt.Errorf("`%s`: the component `%s` is not built", e.Built, component)
		}
		return filepath.Join(folder, name), nil
	case e.Tree != "":
		return filepath.Join(s.tree, e.Tree), nil
	}
	return "", nil
}

// read returns the contents of an entry that is a file, and its usual mode.
func (s sources) read(e *Entry) ([]byte, int64, error) {
	place, err := s.place(e)
	if err != nil || place == "" {
		return []byte(e.Text), 0o644, err
	}
	if e.Join {
		data, err := join(place, e)
		return data, 0o644, err
	}
	info, err := os.Stat(place)
	if err != nil {
		return nil, 0, err
	}
	data, err := os.ReadFile(place)
	return data, int64(info.Mode().Perm()), err
}

// join puts the files of a folder one after another, in the order of their names.
func join(folder string, e *Entry) ([]byte, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var parts [][]byte
	for _, entry := range entries {
		if path.Ext(entry.Name()) != path.Ext(e.Path) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err != nil {
			return nil, err
		}
		parts = append(parts, append(bytes.TrimRight(data, "\n"), '\n'))
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("`%s` holds no file that ends as `%s`", folder, e.Path)
	}
	return []byte(e.Before + string(bytes.Join(parts, []byte(e.Between))) + e.After), nil
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
	place, err := s.place(e)
	if err != nil {
		return nil, err
	}
	if place != "" && !e.Join {
		info, err := os.Stat(place)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			return below(place, e)
		}
	}
	m := member{header: tar.Header{Name: e.Path, Typeflag: tar.TypeReg}, native: e.Tree != ""}
	var usual int64
	switch {
	case e.Folder:
		m.header.Name, m.header.Typeflag, usual = strings.TrimSuffix(e.Path, "/")+"/", tar.TypeDir, 0o755
	case e.Link != "":
		m.header.Linkname, m.header.Typeflag, usual = e.Link, tar.TypeSymlink, 0o777
	case e.Hard != "":
		m.header.Linkname, m.header.Typeflag, usual = e.Hard, tar.TypeLink, 0o644
	default:
		if m.data, usual, err = s.read(e); err != nil {
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

// below is every file and link below the folder `root`, placed below the entry's path.
func below(root string, e *Entry) ([]member, error) {
	var members []member
	err := filepath.WalkDir(root, func(file string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		m := member{header: tar.Header{Name: path.Join(e.Path, relative)}, native: e.Tree != ""}
		if entry.Type()&os.ModeSymlink != 0 {
			m.header.Typeflag, m.header.Mode = tar.TypeSymlink, 0o777
			m.header.Linkname, err = os.Readlink(file)
		} else {
			var info os.FileInfo
			if info, err = entry.Info(); err != nil {
				return err
			}
			m.header.Typeflag, m.header.Mode = tar.TypeReg, int64(info.Mode().Perm())
			m.data, err = os.ReadFile(file)
		}
		members = append(members, m)
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
