package module

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// config is what modprobe would do besides loading a module's file: modprobe.d(5)
// and the kernel's command line.
type config struct {
	options  map[string][]string // in the order in which modprobe puts them together
	installs map[string]string   // the first command counts
	softdeps []softdep           // the first that matches counts
	denied   map[string]bool     // by the kernel itself (module_blacklist)
}

// softdep is a line such as "softdep vfio post: vfio_iommu_type1", whose name is
// a pattern.
type softdep struct {
	pattern   string
	pre, post []string
}

// configDirs is where modprobe looks for its configuration. A file hides one of
// the same name in a later directory (kmod 30; later ones have /usr/lib as well).
func configDirs() []string {
	return []string{"/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"}
}

// readConfig reads the files in the order of their names, then the kernel's own
// softdeps, then its command line, as libkmod does (libkmod-config.c). There is a
// Go library that loads modules, and none that reads modprobe.d.
func readConfig(ctx context.Context, r host.Reader, dir string) (*config, error) {
	files := map[string]string{}
	for _, d := range configDirs() {
		names, err := r.List(ctx, d)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read modprobe's configuration: %w", err)
		}
		for _, name := range names {
			if _, hidden := files[name]; !hidden && strings.HasSuffix(name, ".conf") {
				files[name] = d + "/" + name
			}
		}
	}
	c := &config{options: map[string][]string{}, installs: map[string]string{}, denied: map[string]bool{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text, err := optional(ctx, r, files[name])
		if err != nil {
			return nil, err
		}
		c.parse(text)
	}
	text, err := optional(ctx, r, dir+"modules.softdep")
	if err != nil {
		return nil, err
	}
	c.parse(text)
	if text, err = optional(ctx, r, "/proc/cmdline"); err != nil {
		return nil, err
	}
	c.commandLine(text)
	return c, nil
}

// parse reads the commands that matter when a module is loaded by its name: alias
// and blacklist do not.
func (c *config) parse(text string) {
	text = strings.ReplaceAll(text, "\\\n", "")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		command, rest := cutWord(strings.TrimRight(line, "\r\n"))
		name, rest := cutWord(rest)
		if name == "" || rest == "" {
			continue
		}
		name = canonical(name)
		switch command {
		case "options":
			c.options[name] = append(c.options[name], rest)
		case "install":
			if _, ok := c.installs[name]; !ok {
				c.installs[name] = rest
			}
		case "softdep":
			c.softdeps = append(c.softdeps, softdepOf(name, rest))
		}
	}
}

// cutWord is the first word of a line, and what follows it.
func cutWord(line string) (word, rest string) {
	line = strings.TrimLeft(line, " \t")
	at := strings.IndexAny(line, " \t")
	if at < 0 {
		return line, ""
	}
	return line[:at], strings.TrimLeft(line[at:], " \t")
}

func softdepOf(pattern, text string) softdep {
	s := softdep{pattern: pattern}
	var into *[]string
	for _, w := range strings.Fields(text) {
		switch {
		case w == "pre:":
			into = &s.pre
		case w == "post:":
			into = &s.post
		case into != nil:
			*into = append(*into, canonical(w))
		}
	}
	return s
}

// commandLine reads "module.parameter=value", whose value may be quoted, and
// "module_blacklist=a,b", which the kernel holds every load against
// (kernel/module/main.c).
func (c *config) commandLine(text string) {
	quoted := false
	for _, word := range strings.FieldsFunc(text, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t' || r == '\n')
	}) {
		name, value, _ := strings.Cut(word, "=")
		if name == "module_blacklist" {
			for _, m := range strings.Split(value, ",") {
				c.denied[canonical(m)] = true
			}
		}
		if module, param, ok := strings.Cut(name, "."); ok && module != "" && param != "" {
			c.options[canonical(module)] = append(c.options[canonical(module)], word[len(module)+1:])
		}
	}
}

// optionsOf are the parameters that a module is loaded with, as the kernel takes
// them.
func (c *config) optionsOf(name string) string { return strings.Join(c.options[name], " ") }

// softdepsOf are the modules to load before and after one.
func (c *config) softdepsOf(name string) softdep {
	for _, s := range c.softdeps {
		if hit, err := path.Match(s.pattern, name); err == nil && hit {
			return s
		}
	}
	return softdep{}
}

// forbids says whether a command in the place of a load only keeps the module
// out, as hardening guides have it.
func forbids(command string) bool {
	word, _ := cutWord(command)
	return slices.Contains([]string{"true", "false", ":", "nologin"}, path.Base(word))
}

// Remarks are what modprobe would do for modules that are to be loaded and the
// agent does not: it runs no command. That one may not be loaded at all is
// drivers.ErrRefused.
func Remarks(ctx context.Context, r host.Reader, modules []drivers.Target) ([]string, error) {
	x, err := readIndex(ctx, r)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, t := range modules {
		name, _ := t.ModuleName()
		command, ok := x.config.installs[name]
		switch {
		case x.config.denied[name]:
			return nil, fmt.Errorf("%w: the kernel's command line forbids module %s (module_blacklist): take it off there", drivers.ErrRefused, name)
		case ok && forbids(command):
			return nil, fmt.Errorf("%w: modprobe.d forbids module %s (install %s %s): take that line away", drivers.ErrRefused, name, name, command)
		case ok:
			all = append(all, fmt.Sprintf("modprobe.d has a command for module %s that is not run (install %s %s): the module is loaded by itself", name, name, command))
		}
	}
	return all, nil
}
