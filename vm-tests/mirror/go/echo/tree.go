package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// tree prints what lies below a folder, so that a test can compare how layers were put on top of each other.
func tree(args []string) error {
	if len(args) != 1 {
		usage()
	}
	return filepath.WalkDir(args[0], func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		// The number of links of a folder is the file system's affair.
		links, contents := "-", "-"
		stat := info.Sys().(*syscall.Stat_t)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			links, contents = fmt.Sprint(stat.Nlink), fmt.Sprintf("%x", sha256.Sum256(data))
		case info.Mode()&os.ModeSymlink != 0:
			if contents, err = os.Readlink(path); err != nil {
				return err
			}
		}
		when := info.ModTime().UTC().Format("2006-01-02T15:04:05Z")
		fmt.Println(info.Mode(), fmt.Sprintf("%d:%d", stat.Uid, stat.Gid), links, when, contents, path)
		return nil
	})
}
