// Command pack writes the mirror folder from what is built: files, archives, images, digests and origin.toml.
//
// It looks at no clock, no environment and no file but those that the plan names, so the same inputs give the same bytes.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	out := flag.String("out", "", "folder to write; must be empty or absent")
	tree := flag.String("tree", "", "folder of unpacked packages: what the plan calls a tree")
	flag.Parse()
	if *out == "" || flag.NArg() < 1 {
		fmt.Fprintln(os.Stderr, "usage: pack -out DIR -tree DIR PLAN COMPONENT=DIR…")
		os.Exit(2)
	}
	if err := run(*out, *tree, flag.Arg(0), flag.Args()[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(out, tree, file string, components []string) error {
	plan, err := readPlan(file)
	if err != nil {
		return err
	}
	from := sources{tree: tree, components: map[string]string{}}
	for _, c := range components {
		name, folder, found := strings.Cut(c, "=")
		if !found {
			return fmt.Errorf("`%s` is not COMPONENT=DIR", c)
		}
		from.components[name] = folder
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	sums, err := writeFiles(plan, from, out)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "SHA256SUMS"), sums, 0o644); err != nil {
		return err
	}
	if err := writeImages(plan, from, filepath.Join(out, "images")); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "origin.toml"), plan.origin(), 0o644)
}
