package entry

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"eniagent/agent/source"
	"eniagent/drivers"
)

const (
	maxAltName  = 127 // ALTIFNAMSIZ without its NUL
	maxNames    = 16  // altNames of one entry
	maxFeatures = 64  // as many as the kernel has
	maxSetting  = 1 << 20
)

// setting is a field whose value is a list or a mapping.
type setting struct {
	name string
	// read puts the value into the entry, or adds what is wrong with it.
	read func(p *parser, e *source.Interface, f field, path string)
}

// settings are the fields that ask for more of the netdev than one value.
func settings() []setting {
	return []setting{
		{"altNames", readAltNames},
		{"channels", readChannels},
		{"rings", readRings},
		{"features", readFeatures},
	}
}

func settingNames() []string {
	var ns []string
	for _, s := range settings() {
		ns = append(ns, s.name)
	}
	return ns
}

// readAltNames reads a list of names, as udev would take them for names.
func readAltNames(p *parser, e *source.Interface, f field, path string) {
	list := f.value.Content
	switch {
	case f.value.Kind != yaml.SequenceNode || len(list) == 0:
		p.problems.add(f.line, path, f.value, "want a list of names, such as [eni0, storage]; without any, remove the field")
		return
	case len(list) > maxNames:
		p.problems.add(f.line, path, nil, fmt.Sprintf("%d names; want at most %d", len(list), maxNames))
		return
	}
	for i, n := range list {
		path := fmt.Sprintf("%s[%d]", path, i)
		v, ok := scalar(n)
		switch {
		case !ok || !text(v) || !altName(v.Value):
			p.problems.add(n.Line, path, n, "want a name of 1 to 127 characters, no '/', ':', '%' or spaces, not only digits, in quotes if it looks like something else")
		case slices.Contains(e.AltNames, v.Value):
			p.problems.add(n.Line, path, n, "given twice; remove one")
		default:
			e.AltNames = append(e.AltNames, v.Value)
		}
	}
}

// altName says whether udev would take it for an alternative name.
func altName(name string) bool {
	odd := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("/:%", r) }
	return name != "" && len(name) <= maxAltName && name != "." && name != ".." && !strings.ContainsFunc(name, odd) &&
		strings.Trim(name, "0123456789") != ""
}

func readChannels(p *parser, e *source.Interface, f field, path string) {
	e.Channels = &source.Channels{}
	p.numbers(f, path, "combined: 4", []count{
		{"rx", 0, &e.Channels.RX}, {"tx", 0, &e.Channels.TX}, {"combined", 0, &e.Channels.Combined},
	})
}

func readRings(p *parser, e *source.Interface, f field, path string) {
	e.Rings = &source.Rings{}
	p.numbers(f, path, "rx: 1024, tx: 1024", []count{
		{"rx", 1, &e.Rings.RX}, {"tx", 1, &e.Rings.TX}, {"mini", 0, &e.Rings.Mini}, {"jumbo", 0, &e.Rings.Jumbo},
	})
}

// count is a field of a mapping that is a number.
type count struct {
	name  string
	least int
	into  **int
}

// numbers reads a mapping of numbers, at least one of them.
func (p *parser) numbers(f field, path, such string, counts []count) {
	if f.value.Kind != yaml.MappingNode || len(f.value.Content) == 0 {
		p.problems.add(f.line, path, f.value, "want a mapping, such as {"+such+"}; to ask for nothing, remove the field")
		return
	}
	var known []string
	for _, c := range counts {
		known = append(known, c.name)
	}
	fields, _ := p.fields(f.value, path, known)
	for _, c := range counts {
		field, ok := fields[c.name]
		if !ok {
			continue
		}
		v, ok := scalar(field.value)
		n := 0
		if ok {
			n, ok = number(v, c.least, maxSetting)
		}
		if !ok {
			p.problems.add(field.line, join(path, c.name), field.value, fmt.Sprintf("want a number from %d to %d, without quotes", c.least, maxSetting))
			continue
		}
		*c.into = &n
	}
}

// readFeatures reads a mapping of names to whether they shall be on. Which there
// are, the kernel says when they are looked at.
func readFeatures(p *parser, e *source.Interface, f field, path string) {
	content := f.value.Content
	switch {
	case f.value.Kind != yaml.MappingNode || len(content) == 0:
		p.problems.add(f.line, path, f.value, "want a mapping, such as {tx-tcp-segmentation: false}; to ask for nothing, remove the field")
		return
	case len(content) > 2*maxFeatures:
		p.problems.add(f.line, path, nil, fmt.Sprintf("%d features; want at most %d", len(content)/2, maxFeatures))
		return
	}
	e.Features = map[string]bool{}
	for i := 0; i+1 < len(content); i += 2 {
		p.feature(e, content[i], content[i+1], path)
	}
}

func (p *parser) feature(e *source.Interface, key, value *yaml.Node, path string) {
	v, ok := scalar(value)
	_, twice := e.Features[key.Value]
	switch {
	case key.Kind != yaml.ScalarNode || !drivers.FeatureName(key.Value):
		p.problems.add(key.Line, path, key, "as a feature's name; want one that ethtool -k lists, such as tx-tcp-segmentation")
	case ethtoolWord(key.Value) != "":
		p.problems.add(key.Line, join(path, key.Value), nil, "that is ethtool's word for it; the kernel's is "+ethtoolWord(key.Value))
	case twice:
		p.problems.add(key.Line, join(path, key.Value), nil, "given twice; remove one")
	case !ok || v.ShortTag() != "!!bool":
		p.problems.add(key.Line, join(path, key.Value), value, "want true or false")
	default:
		e.Features[key.Value] = strings.EqualFold(v.Value, "true")
	}
}

// ethtoolWord is the kernel's name of what ethtool calls otherwise; "" where it
// does not.
func ethtoolWord(name string) string {
	switch name {
	case "tx-checksumming", "tx":
		return "tx-checksum-ip-generic, or tx-checksum-ipv4 and tx-checksum-ipv6"
	case "rx-checksumming", "rx":
		return "rx-checksum"
	case "scatter-gather", "sg":
		return "tx-scatter-gather"
	case "tcp-segmentation-offload", "tso":
		return "tx-tcp-segmentation, with tx-tcp6-segmentation and others beside it"
	case "generic-segmentation-offload", "gso":
		return "tx-generic-segmentation"
	case "generic-receive-offload", "gro":
		return "rx-gro"
	case "large-receive-offload", "lro":
		return "rx-lro"
	case "rx-vlan-offload", "rxvlan":
		return "rx-vlan-hw-parse"
	case "tx-vlan-offload", "txvlan":
		return "tx-vlan-hw-insert"
	case "ntuple-filters", "ntuple":
		return "rx-ntuple-filter"
	case "receive-hashing", "rxhash":
		return "rx-hashing"
	}
	return ""
}
