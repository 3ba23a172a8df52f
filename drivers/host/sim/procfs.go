package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// taintBits is /proc/sys/kernel/tainted, by Documentation/admin-guide/tainted-kernels.
func (m *machine) taintBits() int {
	bits := 0
	for _, t := range m.Taints {
		bits |= map[string]int{taintUser: 1 << 6, taintOutOfTree: 1 << 12}[t]
	}
	return bits
}

func (m *machine) procModules() (node, bool) {
	var lines []string
	for _, l := range m.Loaded {
		if m.modules[l.Name].Builtin {
			continue
		}
		by := "-"
		if holders := m.holders(l.Name); len(holders) > 0 {
			by = strings.Join(holders, ",") + ","
		}
		state := map[string]string{moduleLive: "Live", moduleComing: "Loading", moduleGoing: "Unloading"}[l.State]
		lines = append(lines, fmt.Sprintf("%s 65536 %d %s %s 0x0000000000000000", l.Name, m.references(l.Name), by, state))
	}
	slices.Reverse(lines) // the last one loaded comes first
	return textNode(strings.Join(lines, "\n"))
}

// procNode is the processes that hold functions open, as a search for the
// holder of a group sees them.
func (m *machine) procNode() (node, bool) {
	return dirNode(func() []string {
		var pids []string
		for _, h := range m.Holds {
			pids = append(pids, strconv.Itoa(h.PID))
		}
		return pids
	}, func(name string) (node, bool) {
		pid, err := strconv.Atoi(name)
		if err != nil || !slices.ContainsFunc(m.Holds, func(h hold) bool { return h.PID == pid }) {
			return node{}, false
		}
		return m.processNode(pid), true
	}), true
}

func (m *machine) processNode(pid int) node {
	return dirNode(func() []string { return []string{"cmdline", "comm", "fd"} }, func(name string) (node, bool) {
		switch name {
		case "cmdline":
			return textNode("/usr/bin/dpdk-testpmd\x00")
		case "comm":
			return textNode("dpdk-testpmd")
		case "fd":
			return m.fdNode(pid), true
		}
		return node{}, false
	})
}

func (m *machine) fdNode(pid int) node {
	var open []string
	for _, h := range m.Holds {
		if f := m.find(h.Address); h.PID == pid && f != nil && m.onVFIO(f) {
			open = append(open, "/dev/vfio/"+m.vfioName(f))
		}
	}
	return dirNode(func() []string {
		var names []string
		for i := range open {
			names = append(names, strconv.Itoa(i+3))
		}
		return names
	}, func(name string) (node, bool) {
		i, err := strconv.Atoi(name)
		if err != nil || i < 3 || i-3 >= len(open) {
			return node{}, false
		}
		return node{kind: kindLink, text: open[i-3]}, true
	})
}

// vfioName is the name of a function's group in /dev/vfio.
func (m *machine) vfioName(f *function) string {
	if f.NoIOMMU != "" {
		return "noiommu-" + f.NoIOMMU
	}
	return m.group(f)
}

func (m *machine) devNode() (node, bool) {
	return dirNode(m.uioNames, func(name string) (node, bool) {
		there := slices.ContainsFunc(m.Present, func(f *function) bool { return f.UIO == name && !f.ailment().NoNode })
		return node{kind: kindDevice}, there && name != ""
	}), true
}

// devVFIONode has a node for each group with a function on a vfio driver, from
// its bind until its unbind is over.
func (m *machine) devVFIONode() (node, bool) {
	if m.module("vfio") == nil {
		return node{}, false
	}
	names := []string{"vfio"}
	for _, f := range m.Present {
		if m.onVFIO(f) && !f.ailment().NoNode {
			names = append(names, m.vfioName(f))
		}
	}
	return dirNode(func() []string { return names }, func(name string) (node, bool) {
		return node{kind: kindDevice}, slices.Contains(names, name)
	}), true
}

// busy says whether opening a device node is refused because somebody has it.
func (m *machine) busy(path string) bool {
	name, ok := strings.CutPrefix(path, "/dev/vfio/")
	return ok && slices.ContainsFunc(m.Present, func(f *function) bool {
		return m.onVFIO(f) && m.vfioName(f) == name && m.held(f.Address)
	})
}
