package entry

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"eniagent/agent/source"
	"eniagent/drivers"
)

// maxVFs is more than any function makes.
const maxVFs = 256

// vfAttributes are the fields that ask something of a virtual function.
func vfAttributes() []attribute {
	var of []attribute
	for _, a := range attributes() {
		if a.name == "driver" || a.name == "up" || a.name == "mtu" || a.name == "pool" {
			of = append(of, a)
		}
	}
	return of
}

// vfs reads what is asked of the virtual functions of one interface.
func (p *parser) vfs(f field, path string) *source.VFs {
	n := f.value
	if n.Kind != yaml.MappingNode {
		p.problems.add(f.line, path, n, "want a mapping: count, and optionally defaults and overrides")
		return nil
	}
	before := len(p.problems)
	fields, meant := p.fields(n, path, []string{"count", "defaults", "overrides", "replaceVFs"})
	v := &source.VFs{}
	if count, ok := fields["count"]; ok {
		v.Count = p.number(count, join(path, "count"), 0, maxVFs, "want the number of virtual functions, from 0 to 256")
	} else if !meant["count"] {
		p.problems.add(f.line, join(path, "count"), nil, "missing; say how many virtual functions there shall be, 0 for none")
	}
	if r, ok := fields["replaceVFs"]; ok {
		v.ReplaceVFs = p.replaceVFs(r, join(path, "replaceVFs"))
	}
	if d, ok := fields["defaults"]; ok {
		v.Defaults = p.vf(d.value, d.line, join(path, "defaults"), nil, "")
	}
	if d := fields["defaults"]; v.Defaults.MAC != "" {
		p.problems.add(d.line, join(path, "defaults.mac"), nil, "one MAC for all of them; give each its own, in overrides")
	}
	if len(p.problems) > before {
		return nil // what the overrides are to be held against is not known
	}
	if o, ok := fields["overrides"]; ok {
		v.Overrides = p.overrides(o, join(path, "overrides"), v)
	}
	if len(p.problems) == before {
		p.ports(v, f.line, path)
	}
	if asked := present(fields, []string{"defaults", "overrides"}); v.Count == 0 && len(asked) > 0 {
		p.problems.add(f.line, path, nil, "there are to be none, so nothing can be asked of them; remove "+strings.Join(asked, ", "))
	}
	return v
}

// replaceVFs reads the reason for replacing VFs that somebody else configured.
func (p *parser) replaceVFs(f field, path string) string {
	n, ok := scalar(f.value)
	if !ok || n.ShortTag() != "!!str" || strings.TrimSpace(n.Value) == "" {
		p.problems.add(f.line, path, f.value, "want the reason, in words, for making VFs anew that somebody else has configured")
		return ""
	}
	return strings.TrimSpace(n.Value)
}

// number reads a plain decimal.
func (p *parser) number(f field, path string, least, most int, want string) int {
	n, ok := scalar(f.value)
	if !ok {
		p.problems.add(f.line, path, f.value, want)
		return 0
	}
	i, err := strconv.Atoi(n.Value)
	if err != nil || n.ShortTag() != "!!int" || strconv.Itoa(i) != n.Value || i < least || i > most {
		p.problems.add(f.line, path, f.value, want)
		return 0
	}
	return i
}

// vf reads what is asked of one virtual function; above is the driver that it
// has without a field of its own.
func (p *parser) vf(n *yaml.Node, line int, path string, also []string, above string) source.VF {
	asks := append(names(vfAttributes()), portNames()...)
	if n.Kind != yaml.MappingNode {
		p.problems.add(line, path, n, "want a mapping of "+strings.Join(asks, ", "))
		return source.VF{}
	}
	var e source.Interface
	fields, meant := p.fields(n, path, append(slices.Clone(asks), also...))
	for _, a := range vfAttributes() {
		f, ok := fields[a.name]
		if !ok {
			continue
		}
		v, ok := scalar(f.value)
		if ok && a.name == "pool" && v.Value == source.NoPool && slices.Contains(also, "index") {
			e.Pool = source.NoPool
			continue
		}
		if !ok || !a.set(&e, v) {
			p.problems.add(f.line, join(path, a.name), f.value, a.want)
		}
	}
	port := p.port(fields, path)
	link := present(fields, []string{"up", "mtu"})
	driver := above
	if e.Driver != "" {
		driver = e.Driver
	}
	switch {
	case len(present(fields, asks)) == 0 && len(meant) == 0:
		p.problems.add(line, path, nil, "nothing is asked; add "+strings.Join(asks, ", ")+", or remove it")
	case len(link) > 0 && drivers.Bare(driver):
		p.problems.add(line, path, nil, driver+" leaves no network interface to configure; remove "+strings.Join(link, ", "))
	}
	if d := misnamed(e.Driver); d != "" {
		p.problems.add(fields["driver"].line, join(path, "driver"), fields["driver"].value, meantDriver+d)
	}
	return source.VF{Up: e.Up, MTU: e.MTU, Driver: e.Driver, Pool: e.Pool, Port: port}
}

func (p *parser) overrides(f field, path string, v *source.VFs) []source.Override {
	if f.value.Kind != yaml.SequenceNode || len(f.value.Content) > maxVFs {
		p.problems.add(f.line, path, f.value, "want a list of at most one override for each VF")
		return nil
	}
	all := make([]source.Override, 0, len(f.value.Content))
	places := map[int]place{}
	for i, n := range f.value.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if n.Kind != yaml.MappingNode {
			p.problems.add(n.Line, at, n, "want a mapping: index, and what is asked of that VF")
			continue
		}
		before := len(p.problems)
		o := source.Override{VF: p.vf(n, n.Line, at, []string{"index"}, v.Defaults.Driver)}
		index, ok := field{}, false
		for k := 0; k+1 < len(n.Content); k += 2 {
			if n.Content[k].Value == "index" {
				index, ok = field{n.Content[k].Line, n.Content[k+1]}, true
			}
		}
		if !ok {
			p.problems.add(n.Line, join(at, "index"), nil, "missing; say which VF, counted from 0")
			continue
		}
		o.Index = p.number(index, join(at, "index"), 0, v.Count-1, fmt.Sprintf("want the index of a VF, from 0 to %d", v.Count-1))
		if len(p.problems) > before {
			continue
		}
		if first, twice := places[o.Index]; twice {
			p.problems.add(n.Line, join(at, "index"), index.value, fmt.Sprintf("is %s already; merge the two", first))
			continue
		}
		places[o.Index] = place{n.Line, at}
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b source.Override) int { return a.Index - b.Index })
	return all
}
