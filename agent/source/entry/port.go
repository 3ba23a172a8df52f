package entry

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"eniagent/agent/source"
)

const (
	maxVLAN = 4094
	maxQoS  = 7
	maxRate = 1 << 20 // Mbit/s
)

// portNames are the fields that ask something of the physical function for a
// virtual one.
func portNames() []string {
	return []string{"mac", "vlan", "trust", "spoofCheck", "linkState", "minTxRate", "maxTxRate"}
}

// port reads these fields of one virtual function.
func (p *parser) port(fields map[string]field, path string) (port source.Port) {
	if f, ok := fields["mac"]; ok {
		port.MAC = p.ownMAC(f, join(path, "mac"))
	}
	if f, ok := fields["vlan"]; ok {
		port.VLAN = p.vlan(f, join(path, "vlan"))
	}
	port.Trust = p.toggle(fields, path, "trust")
	port.SpoofCheck = p.toggle(fields, path, "spoofCheck")
	if f, ok := fields["linkState"]; ok {
		port.LinkState = p.word(f, join(path, "linkState"), "auto", "enable", "disable")
	}
	const rate = "want a number of Mbit/s from 0 to 1048576, without quotes; 0 is none"
	port.MinTxRate = p.optional(fields, path, "minTxRate", maxRate, rate)
	port.MaxTxRate = p.optional(fields, path, "maxTxRate", maxRate, rate)
	return port
}

// ownMAC reads the MAC of one virtual function, which no other one has.
func (p *parser) ownMAC(f field, path string) string {
	var e source.Interface
	v, ok := scalar(f.value)
	if !ok || !setMAC(&e, v) {
		p.problems.add(f.line, path, f.value, "want the MAC address of one interface, such as 52:54:00:00:00:01")
		return ""
	}
	mac := e.Selector.MAC
	if first, twice := p.macs[mac]; twice {
		p.problems.add(f.line, path, f.value, fmt.Sprintf("is that of the VF %s already; give each its own", first))
		return ""
	}
	p.macs[mac] = place{f.line, path}
	return mac
}

func (p *parser) vlan(f field, path string) *source.VLAN {
	if f.value.Kind != yaml.MappingNode || len(f.value.Content) == 0 {
		p.problems.add(f.line, path, f.value, "want a mapping, such as {id: 100}; to ask for none, write {id: 0, qos: 0}")
		return nil
	}
	fields, _ := p.fields(f.value, path, []string{"id", "qos", "protocol"})
	v := &source.VLAN{
		ID:  p.optional(fields, path, "id", maxVLAN, "want the number of a VLAN from 1 to 4094, without quotes; 0 is none"),
		QoS: p.optional(fields, path, "qos", maxQoS, "want a priority from 0 to 7, without quotes"),
	}
	if f, ok := fields["protocol"]; ok {
		v.Protocol = p.word(f, join(path, "protocol"), "802.1Q", "802.1ad")
	}
	return v
}

// toggle reads true or false; nil where the field is not there.
func (p *parser) toggle(fields map[string]field, path, name string) *bool {
	f, ok := fields[name]
	if !ok {
		return nil
	}
	v, ok := scalar(f.value)
	if !ok || v.ShortTag() != "!!bool" {
		p.problems.add(f.line, join(path, name), f.value, "want true or false")
		return nil
	}
	on := strings.EqualFold(v.Value, "true")
	return &on
}

// optional reads a number from 0; nil where the field is not there.
func (p *parser) optional(fields map[string]field, path, name string, most int, want string) *int {
	f, ok := fields[name]
	if !ok {
		return nil
	}
	n := p.number(f, join(path, name), 0, most, want)
	return &n
}

// word reads one of some words.
func (p *parser) word(f field, path string, words ...string) string {
	v, ok := scalar(f.value)
	if !ok || !slices.Contains(words, v.Value) {
		p.problems.add(f.line, path, f.value, "want one of "+strings.Join(words, ", "))
		return ""
	}
	return v.Value
}

// ports finds what is legal for each field, and not together: of the defaults
// and of what overrides make of them.
func (p *parser) ports(v *source.VFs, line int, path string) {
	check := func(where string, vf source.VF) {
		if least, most := vf.MinTxRate, vf.MaxTxRate; least != nil && most != nil && *most != 0 && *least > *most {
			p.problems.add(line, where, nil, fmt.Sprintf("minTxRate %d is above maxTxRate %d; swap them, or ask for less", *least, *most))
		}
	}
	before := len(p.problems)
	check(join(path, "defaults"), v.Defaults)
	for _, o := range v.Overrides {
		if len(p.problems) == before {
			check(fmt.Sprintf("%s.overrides: index %d", path, o.Index), v.Of(o.Index))
		}
	}
}
