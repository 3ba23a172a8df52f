package sim

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// dump is all mutable state as sorted lines, one a thing. What only counts is
// left out.
func (m *machine) dump() string {
	lines := []string{fmt.Sprintf("boot %d id=%s", m.Boot, m.bootID())}
	for _, f := range m.Present {
		lines = append(lines, m.functionLine(f))
	}
	for i := range m.Netdevs {
		lines = append(lines, m.netdevLine(&m.Netdevs[i]))
	}
	for _, l := range m.Loaded {
		line := fmt.Sprintf("module %s state=%s", l.Name, l.State)
		for _, name := range slices.Sorted(maps.Keys(l.Params)) {
			line += fmt.Sprintf(" %s=%s", name, l.Params[name])
		}
		lines = append(lines, line)
	}
	for _, d := range m.Disk {
		if !d.Now.Gone {
			lines = append(lines, fmt.Sprintf("file %s text=%q durable=%t", d.Path, d.Now.Text, d.durable()))
		}
	}
	for _, d := range m.Drivers {
		lines = append(lines, "driver "+d)
	}
	for _, t := range m.Taints {
		lines = append(lines, "taint "+t)
	}
	for _, h := range m.Holds {
		lines = append(lines, fmt.Sprintf("hold %s pid=%d", h.Address, h.PID))
	}
	for i, w := range m.Calls {
		lines = append(lines, fmt.Sprintf("running %02d %s", i, w.Call))
	}
	for i, a := range m.Faults {
		lines = append(lines, fmt.Sprintf("fault %02d %s nth=%d times=%d seen=%d", i, a.Label, a.Nth, a.Times, a.Seen))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func (m *machine) functionLine(f *function) string {
	override := "(null)"
	if f.Override != nil {
		override = fmt.Sprintf("%q", *f.Override)
	}
	line := fmt.Sprintf("function %s inode=%d driver=%s override=%s", f.Address, f.Inode, orDash(f.Driver), override)
	if m.devices[f.Address].TotalVFs > 0 {
		line += fmt.Sprintf(" vfs=%d autoprobe=%t", f.VFs, !f.NoProbe)
	}
	if m.onVFIO(f) {
		line += " vfio=" + m.vfioName(f)
	}
	for word, set := range map[string]bool{" uio=" + f.UIO: f.UIO != "", " no_carrier": f.Dark} {
		if set {
			line += word
		}
	}
	line += f.keptText()
	if f.Ail != nil {
		line += fmt.Sprintf(" ails=%+v", *f.Ail)
	}
	if f.Leaving {
		line += " leaving"
	}
	if f.Removing {
		line += " removing"
	}
	if f.Owner != 0 {
		line += " locked"
	}
	return line
}

func (m *machine) netdevLine(n *netdev) string {
	line := fmt.Sprintf("link %s index=%d mtu=%d up=%t oper=%s mac=%s", n.Name, n.Index, n.MTU, n.Up, n.oper(), orDash(n.MAC))
	if n.Bus != "" {
		line += " bus=" + n.Bus
	}
	line += m.settingsText(n)
	if n.Master != 0 {
		line += fmt.Sprintf(" master=%d", n.Master)
	}
	if n.Lower != 0 {
		line += fmt.Sprintf(" lower=%d", n.Lower)
	}
	return line
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// describe is what the machine has, as a table for people.
func (m *machine) describe() string {
	rows := [][]string{{"FUNCTION", "ID", "DRIVER", "GROUP", "NETDEV", "MTU", "LINK", "NOTE"}}
	for _, f := range m.Present {
		d := m.devices[f.Address]
		name, mtu, link := "-", "-", "-"
		if n := m.netdevOf(f.Address); n != nil {
			name, mtu, link = n.Name, strconv.Itoa(n.MTU), n.oper()
		}
		id := strings.TrimPrefix(d.Vendor, "0x") + ":" + strings.TrimPrefix(d.Device, "0x")
		rows = append(rows, []string{f.Address, id, orDash(f.Driver), orDash(m.group(f)), name, mtu, link, m.note(f, d)})
	}
	return fmt.Sprintf("simulated kernel %s, boot %d\n\n%s", m.cfg.Release, m.Boot, table(rows))
}

// table is rows in columns of equal width.
func table(rows [][]string) string {
	width := map[int]int{}
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			line += fmt.Sprintf("%-*s  ", width[i], cell)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

// note is what is unusual about a function, in words.
func (m *machine) note(f *function, d *Device) string {
	var notes []string
	if d.PF != "" {
		notes = append(notes, "VF of "+d.PF)
	}
	if f.VFs > 0 {
		notes = append(notes, fmt.Sprintf("%d of %d VFs", f.VFs, d.TotalVFs))
	}
	if f.Override != nil {
		notes = append(notes, fmt.Sprintf("override %q", *f.Override))
	}
	for _, h := range m.Holds {
		if h.Address == f.Address {
			notes = append(notes, fmt.Sprintf("held by process %d", h.PID))
		}
	}
	if f.Owner != 0 {
		notes = append(notes, "a write hangs on it")
	}
	return strings.Join(notes, ", ")
}
