//go:build linux

package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// modules is the part of a lib/modules directory that goes into the guest: files, relative to it, and the indexes
// of depmod, reduced to what is there.
type modules struct {
	files   []string
	indexes map[string][]byte
}

// selectModules takes the named modules and all they depend on. Names the kernel has built in need no file; a name
// that a kernel of another version does not have at all is left out, and missed by whoever loads it.
func selectModules(p Parts, names []string) (modules, error) {
	read := func(name string) (string, error) {
		raw, err := os.ReadFile(filepath.Join(p.Modules, name))
		if err != nil {
			return "", fmt.Errorf("read module index: %w", err)
		}
		return string(raw), nil
	}
	dep, err := read("modules.dep")
	if err != nil {
		return modules{}, err
	}
	want := map[string]bool{}
	for _, name := range names {
		want[canonical(name)] = true
	}
	m := modules{indexes: map[string][]byte{}}
	for line := range strings.Lines(dep) {
		file, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		if want[moduleOf(file)] {
			m.files = append(append(m.files, file), strings.Fields(needs)...)
		}
	}
	slices.Sort(m.files)
	m.files = slices.Compact(m.files)

	there, thereFile := map[string]bool{}, map[string]bool{}
	for _, file := range m.files {
		there[moduleOf(file)], thereFile[file] = true, true
	}
	m.indexes["modules.dep"] = filter(dep, func(line string) bool {
		file, _, _ := strings.Cut(line, ":")
		return thereFile[file]
	})
	alias, err := read("modules.alias")
	if err != nil {
		return modules{}, err
	}
	m.indexes["modules.alias"] = filter(alias, func(line string) bool {
		f := strings.Fields(line)
		return len(f) == 3 && there[canonical(f[2])]
	})
	for _, name := range []string{"modules.softdep", "modules.builtin"} {
		text, err := read(name)
		if err != nil {
			return modules{}, err
		}
		m.indexes[name] = []byte(text)
	}
	return m, nil
}

func filter(text string, keep func(string) bool) []byte {
	var out []byte
	for line := range strings.Lines(text) {
		if keep(line) {
			out = append(out, line...)
		}
	}
	return out
}

// canonical spells a module's name as the kernel does.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func moduleOf(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return canonical(name)
}
