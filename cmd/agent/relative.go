package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// absolute makes paths that are given relative to the working directory
// absolute: the writer children and the next command must mean the same ones.
// An empty one stays, and is refused where it matters.
func (c *cli) absolute() error {
	o := &c.options
	for _, path := range []*string{&o.StateDir, &o.ConfigFile, &o.Root, &o.Simulate} {
		if *path == "" || filepath.IsAbs(*path) || path == &o.ConfigFile && *path == stdin {
			continue
		}
		here, err := os.Getwd()
		if err == nil {
			// $PWD may lead here through a symbolic link, which CheckPath refuses
			// although nobody gave it.
			here, err = filepath.EvalSymlinks(here)
		}
		if err != nil {
			return fmt.Errorf("%s: find the working directory: %w", *path, err)
		}
		*path = from(here, *path)
	}
	return nil
}

// from is the absolute path of one that is relative to a directory. Steps up at
// its beginning are taken; one further in may lead through a symbolic link, so
// it stays and is refused by agent.CheckPath.
func from(dir, path string) string {
	for path == ".." || strings.HasPrefix(path, "../") {
		dir, path = filepath.Dir(dir), strings.TrimLeft(strings.TrimPrefix(path, ".."), "/")
	}
	if slices.Contains(strings.Split(path, "/"), "..") {
		return strings.TrimRight(dir, "/") + "/" + path
	}
	return filepath.Join(dir, path)
}
