package module

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// index is what depmod wrote for the running kernel.
type index struct {
	file    map[string]string   // name to absolute path
	deps    map[string][]string // name to all it needs, in the order to load
	builtin map[string]bool
	config  *config
}

// readIndex reads modules.dep, modules.softdep and modules.builtin of the
// running kernel, and modprobe's configuration (formats: modules.dep(5) and
// modprobe.d(5)).
func readIndex(ctx context.Context, r host.Reader) (*index, error) {
	release, err := host.KernelRelease(ctx, r)
	if err != nil {
		return nil, err
	}
	dir := "/lib/modules/" + release + "/"
	text, err := r.Read(ctx, dir+"modules.dep")
	if err != nil {
		return nil, fmt.Errorf("read module dependencies: %w", err)
	}
	x := &index{
		file: map[string]string{}, deps: map[string][]string{}, builtin: map[string]bool{},
	}
	for line := range strings.Lines(text) {
		file, deps, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		name := nameOf(file)
		x.file[name] = absolute(dir, file)
		for _, d := range strings.Fields(deps) {
			x.deps[name] = append(x.deps[name], nameOf(d))
		}
		slices.Reverse(x.deps[name]) // depmod lists the last to load first
	}
	// Both are optional: older depmods write none.
	if x.config, err = readConfig(ctx, r, dir); err != nil {
		return nil, err
	}
	if text, err = optional(ctx, r, dir+"modules.builtin"); err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		x.builtin[nameOf(strings.TrimSpace(line))] = true
	}
	return x, nil
}

// optional is a file that need not be there. One that cannot be read is not
// one that is not there.
func optional(ctx context.Context, r host.Reader, file string) (string, error) {
	text, err := r.Read(ctx, file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read module index: %w", err)
	}
	return text, nil
}

func absolute(dir, file string) string {
	if path.IsAbs(file) {
		return file
	}
	return dir + file
}

func nameOf(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return canonical(name)
}

func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Closure is the module and everything to be loaded with it, in the order to
// load: dependencies, soft ones before, the module, soft ones after. A soft
// dependency that this kernel does not have is left out; the module itself
// missing is drivers.ErrUnsupported.
func Closure(ctx context.Context, r host.Reader, name string) ([]drivers.Target, error) {
	x, err := readIndex(ctx, r)
	if err != nil {
		return nil, err
	}
	name = canonical(name)
	if x.builtin[name] {
		return nil, nil
	}
	if _, ok := x.file[name]; !ok {
		return nil, fmt.Errorf("module %s is not installed for the running kernel: %w", name, drivers.ErrUnsupported)
	}
	var order []string
	x.visit(name, map[string]bool{}, &order)
	targets := make([]drivers.Target, 0, len(order))
	for _, n := range order {
		t, err := drivers.Module(n)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

func (x *index) visit(name string, seen map[string]bool, order *[]string) {
	if _, ok := x.file[name]; !ok || seen[name] {
		return
	}
	seen[name] = true
	soft := x.config.softdepsOf(name)
	for _, d := range slices.Concat(x.deps[name], soft.pre) {
		x.visit(d, seen, order)
	}
	*order = append(*order, name)
	for _, d := range soft.post {
		x.visit(d, seen, order)
	}
}
