package sim

import (
	"slices"
	"strconv"
	"syscall"
)

// netdevOf is the netdev of a function, nil when it has none.
func (m *machine) netdevOf(addr string) *netdev {
	at := slices.IndexFunc(m.Netdevs, func(n netdev) bool { return n.Bus == addr && addr != "" })
	if at < 0 {
		return nil
	}
	return &m.Netdevs[at]
}

// netDir is where a netdev's directory is.
func (m *machine) netDir(n *netdev) string {
	if n.Bus == "" {
		return virtualNet + "/" + n.Name
	}
	return m.parentDir(n) + "/net/" + n.Name
}

// parentDir is the device that a function's netdev hangs on.
func (m *machine) parentDir(n *netdev) string {
	if n.Nest != "" {
		return m.dirs[n.Bus] + "/" + n.Nest
	}
	return m.dirs[n.Bus]
}

func (m *machine) netClassNode() (node, bool) {
	return dirNode(m.netdevNames, func(name string) (node, bool) {
		for i := range m.Netdevs {
			if m.Netdevs[i].Name == name && m.Netdevs[i].Netns == "" {
				return linkNode(netClass, m.netDir(&m.Netdevs[i]))
			}
		}
		return node{}, false
	}), true
}

func (m *machine) netdevNames() []string {
	var names []string
	for i := range m.Netdevs {
		if m.Netdevs[i].Netns == "" {
			names = append(names, m.Netdevs[i].Name)
		}
	}
	return names
}

// netdevsNode is the "net" directory of a function's device, or of none.
func (m *machine) netdevsNode(addr, parent string) node {
	return dirNode(m.netdevNames, func(name string) (node, bool) {
		at := slices.IndexFunc(m.Netdevs, func(n netdev) bool { return n.Bus == addr && n.Name == name && n.Netns == "" })
		if at < 0 {
			return node{}, false
		}
		return m.netdevNode(&m.Netdevs[at], parent), true
	})
}

func (m *machine) netdevNode(n *netdev, parent string) node {
	dir := m.netDir(n)
	names := []string{"addr_assign_type", "address", "carrier", "device", "flags", "ifindex", "master", "mtu", "operstate", "speed", "statistics", "subsystem", "type"}
	for i := range m.Netdevs {
		names = append(names, "lower_"+m.Netdevs[i].Name, "upper_"+m.Netdevs[i].Name)
	}
	return dirNode(func() []string { return names }, func(name string) (node, bool) {
		if s, ok := n.attribute(name); ok {
			return textNode(s)
		}
		if name == "carrier" {
			return n.carrierNode(), true
		}
		switch name {
		case "speed":
			return m.speedNode(n), true
		case "statistics":
			return m.statisticsNode(n), true
		case "device":
			return linkIf(parent != "", dir, parent)
		case "subsystem":
			return linkNode(dir, netClass)
		case "master":
			master := m.netdev(n.Master)
			if master == nil {
				return node{}, false
			}
			return linkNode(dir, m.netDir(master))
		}
		return m.neighbourNode(n, dir, name)
	})
}

// attribute is the text of one of a netdev's files.
func (n *netdev) attribute(name string) (string, bool) {
	switch name {
	case "addr_assign_type": // NET_ADDR_PERM, NET_ADDR_RANDOM, NET_ADDR_SET
		if n.Chosen {
			return "3", true
		}
		return strconv.Itoa(boolInt(n.Random)), true
	case "address":
		return n.MAC, true
	case "flags":
		return map[bool]string{true: "0x1003", false: "0x1002"}[n.Up], true
	case "ifindex":
		return strconv.Itoa(n.Index), true
	case "mtu":
		return strconv.Itoa(n.MTU), true
	case "operstate":
		return n.oper(), true
	case "type":
		return map[bool]string{true: "772", false: "1"}[n.Name == "lo"], true
	}
	return "", false
}

// carrierNode cannot be read while the netdev is down.
func (n *netdev) carrierNode() node {
	switch {
	case !n.Up:
		return node{errno: syscall.EINVAL}
	case n.Dark:
		return node{text: "0"}
	default:
		return node{text: "1"}
	}
}

// neighbourNode is a link to a device above or below.
func (m *machine) neighbourNode(n *netdev, dir, name string) (node, bool) {
	for i := range m.Netdevs {
		o := &m.Netdevs[i]
		if o.Netns != n.Netns { // netdev_adjacent_add_links, net/core/dev.c
			continue
		}
		above := o.Lower == n.Index || n.Master == o.Index
		below := n.Lower == o.Index || o.Master == n.Index
		if above && name == "upper_"+o.Name || below && name == "lower_"+o.Name {
			return linkNode(dir, m.netDir(o))
		}
	}
	return node{}, false
}

func (m *machine) uioClassNode() (node, bool) {
	if m.module("uio") == nil {
		return node{}, false
	}
	return dirNode(m.uioNames, func(name string) (node, bool) {
		for _, f := range m.Present {
			if f.UIO == name && name != "" {
				return linkNode(uioClass, m.dirs[f.Address]+"/uio/"+name)
			}
		}
		return node{}, false
	}), true
}

func (m *machine) uioNames() []string {
	var names []string
	for _, f := range m.Present {
		names = append(names, f.UIO)
	}
	return names
}

// uioNode is a function's "uio" directory.
func (m *machine) uioNode(f *function) node {
	return dirNode(func() []string { return []string{f.UIO} }, func(name string) (node, bool) {
		return filesNode([]string{"name"}, func(file string) (string, bool) { return f.Driver, file == "name" }), name == f.UIO
	})
}
