//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// modprobe takes what the kernel and people pass: options are of no interest, but for -r, and parameters follow the
// first name unless -a says that names do.
func modprobe(args []string) error {
	var remove, all bool
	var names []string
	for _, a := range args {
		switch {
		case a == "-r":
			remove = true
		case a == "-a":
			all = true
		case !strings.HasPrefix(a, "-"):
			names = append(names, a)
		}
	}
	if len(names) == 0 {
		return errors.New("no module named")
	}
	if remove {
		for _, name := range names {
			if err := unix.DeleteModule(canonical(name), unix.O_NONBLOCK); err != nil {
				return fmt.Errorf("remove %s: %w", name, err)
			}
		}
		return nil
	}
	ix, err := readIndex()
	if err != nil {
		return err
	}
	if all {
		return ix.loadAll(names...)
	}
	return ix.load(names[0], strings.Join(names[1:], " "))
}

// index is what depmod wrote about the modules that are here.
type index struct {
	dir     string
	deps    map[string][]string // canonical name -> its file, then the files it needs
	aliases [][2]string         // pattern, canonical name
	builtin map[string]bool
}

func readIndex() (*index, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("read the kernel's release: %w", err)
	}
	ix := &index{
		dir:     "/lib/modules/" + unix.ByteSliceToString(u.Release[:]),
		deps:    map[string][]string{},
		builtin: map[string]bool{},
	}
	err := errors.Join(
		eachLine(ix.dir+"/modules.dep", func(line string) {
			file, needs, _ := strings.Cut(line, ":")
			ix.deps[moduleOf(file)] = append([]string{file}, strings.Fields(needs)...)
		}),
		eachLine(ix.dir+"/modules.alias", func(line string) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" {
				ix.aliases = append(ix.aliases, [2]string{f[1], canonical(f[2])})
			}
		}),
		eachLine(ix.dir+"/modules.builtin", func(line string) { ix.builtin[moduleOf(line)] = true }),
	)
	if err != nil {
		return nil, fmt.Errorf("read the module index: %w", err)
	}
	return ix, nil
}

func eachLine(file string, f func(string)) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		f(strings.TrimSpace(line))
	}
	return nil
}

// canonical spells a module's name as the kernel does.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func moduleOf(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return canonical(name)
}

func (ix *index) loadAll(names ...string) error {
	for _, name := range names {
		if err := ix.load(name, ""); err != nil {
			return err
		}
	}
	return nil
}

func (ix *index) load(name, params string) error {
	mod := canonical(name)
	if ix.builtin[mod] {
		return nil
	}
	files, ok := ix.deps[mod]
	if !ok {
		for _, a := range ix.aliases {
			if m, _ := path.Match(canonical(a[0]), mod); m {
				return ix.load(a[1], params)
			}
		}
		return fmt.Errorf("module %s not found in %s", name, ix.dir)
	}
	// modules.dep lists a module before what it needs.
	for i := len(files) - 1; i > 0; i-- {
		if err := insert(filepath.Join(ix.dir, files[i]), ""); err != nil {
			return err
		}
	}
	return insert(filepath.Join(ix.dir, files[0]), params)
}

func insert(file, params string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("load module: %w", err)
	}
	defer func() { _ = f.Close() }()
	flags := 0
	if filepath.Ext(file) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), params, flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", file, err)
	}
	return nil
}
