package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// writeFiles writes files/ and returns the text of SHA256SUMS.
func writeFiles(plan *Plan, from sources, out string) ([]byte, error) {
	sums := map[string][]byte{}
	for _, file := range plan.File {
		path, err := served(file.URL)
		if err != nil {
			return nil, err
		}
		data, usual, err := from.read(&file.Entry)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file.URL, err)
		}
		mode, err := file.mode(usual)
		if err != nil {
			return nil, err
		}
		if sums[path], err = put(out, path, os.FileMode(mode), data); err != nil {
			return nil, err
		}
	}
	for _, archive := range plan.Archive {
		path, err := served(archive.URL)
		if err != nil {
			return nil, err
		}
		members, err := from.members(archive.Entries)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", archive.URL, err)
		}
		var data bytes.Buffer
		zip := gzip.NewWriter(&data)
		if err := writeTar(zip, members, plan.Time); err != nil {
			return nil, fmt.Errorf("%s: %w", archive.URL, err)
		}
		if err := zip.Close(); err != nil {
			return nil, err
		}
		if sums[path], err = put(out, path, 0o644, data.Bytes()); err != nil {
			return nil, err
		}
	}
	var paths []string
	for path := range sums {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	var text bytes.Buffer
	for _, path := range paths {
		fmt.Fprintf(&text, "%x  %s\n", sums[path], path)
	}
	return text.Bytes(), nil
}

// served is the place of an address in the folder.
func served(url string) (string, error) {
	rest, found := strings.CutPrefix(url, "https://")
	if !found || strings.Contains(rest, "..") {
		return "", fmt.Errorf("`%s` is not an https address of a file", url)
	}
	return "files/" + rest, nil
}

func put(out, path string, mode os.FileMode, data []byte) ([]byte, error) {
	path = filepath.Join(out, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	return sum[:], nil
}

// writeTar writes members as they are ordered, owned by root.
func writeTar(to io.Writer, members []member, plan timestamp) error {
	archive := tar.NewWriter(to)
	for _, m := range members {
		header := m.header
		header.ModTime = plan
		header.Format = tar.FormatUSTAR
		if len(header.PAXRecords) > 0 {
			header.Format = tar.FormatPAX
		}
		header.Size = int64(len(m.data))
		if err := archive.WriteHeader(&header); err != nil {
			return fmt.Errorf("`%s`: %w", header.Name, err)
		}
		if _, err := archive.Write(m.data); err != nil {
			return err
		}
	}
	return archive.Close()
}
