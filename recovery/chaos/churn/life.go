//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// life draws what is asked of a node.
type life struct {
	rng *rand.Rand
}

func (l life) one(of ...string) string    { return of[l.rng.IntN(len(of))] }
func (l life) chance(percent int) bool    { return l.rng.IntN(100) < percent }
func (l life) number(least, most int) int { return least + l.rng.IntN(most-least+1) }

// entries are those of a file of desired state for these PFs.
func (l life) entries(pfs []string) []string {
	var all []string
	for i, pf := range pfs {
		if e := l.entry(i, pf); e != "" {
			all = append(all, e)
		}
	}
	return all
}

// entry is what is asked of one PF; "" is nothing.
func (l life) entry(i int, pf string) string {
	fields := []string{fmt.Sprintf("pci: %q", pf)}
	switch l.rng.IntN(10) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("{pci: %q, state: released}", pf)
	case 2, 3:
		return fmt.Sprintf("{pci: %q, driver: vfio-pci}", pf)
	}
	if l.chance(40) {
		fields = append(fields, "driver: igb")
	}
	fields = append(fields, "up: true")
	if l.chance(50) {
		fields = append(fields, "mtu: "+l.one("1500", "2000", "4000", "9000"))
	}
	fields = append(fields, l.settings(i)...)
	if l.chance(70) {
		fields = append(fields, l.vfs(i))
	}
	return "{" + strings.Join(fields, ", ") + "}"
}

// settings are what ethtool and ip could set of a PF.
func (l life) settings(i int) (fields []string) {
	if l.chance(30) {
		fields = append(fields, fmt.Sprintf("altNames: [%s]", l.one(fmt.Sprintf("storage%d", i), fmt.Sprintf("lan%d, data%d", i, i))))
	}
	if l.chance(30) {
		fields = append(fields, "features: {"+l.one("tx-tcp-segmentation: false", "rx-gro: false", "rx-checksum: false, tx-nocache-copy: true")+"}")
	}
	if l.chance(30) {
		fields = append(fields, "rings: {"+l.one("rx: 512", "tx: 1024", "rx: 128, tx: 128")+"}")
	}
	if l.chance(25) {
		fields = append(fields, "channels: {combined: "+l.one("1", "2")+"}")
	}
	return fields
}

// vfs asks for virtual functions.
func (l life) vfs(pf int) string {
	count := l.number(0, 4)
	if l.chance(15) {
		count = 7
	}
	var defaults []string
	for _, d := range []string{"driver: vfio-pci", "trust: true", "spoofCheck: false", fmt.Sprintf("vlan: {id: %d}", l.number(1, 4000))} {
		if l.chance(40) {
			defaults = append(defaults, d)
		}
	}
	var overrides []string
	for i := range count {
		if !l.chance(40) {
			continue
		}
		fields := []string{fmt.Sprintf("index: %d", i)}
		for _, f := range []string{
			l.one("driver: vfio-pci", "driver: igbvf", "driver: igbvf, up: true", "driver: igbvf, mtu: 1400, altNames: [vf"+fmt.Sprint(pf, i)+"]"), fmt.Sprintf("mac: %q", fmt.Sprintf("52:54:00:0%d:00:0%d", pf+1, i)),
			fmt.Sprintf("vlan: {id: %d, qos: %d}", l.number(1, 4000), l.number(0, 7)), "trust: " + l.one("true", "false"),
		} {
			if l.chance(50) {
				fields = append(fields, f)
			}
		}
		overrides = append(overrides, "{"+strings.Join(fields, ", ")+"}")
	}
	text := fmt.Sprintf("count: %d, replaceVFs: churn", count)
	if len(defaults) > 0 {
		text += ", defaults: {" + strings.Join(defaults, ", ") + "}"
	}
	if len(overrides) > 0 {
		text += ", overrides: [" + strings.Join(overrides, ", ") + "]"
	}
	return "vfs: {" + text + "}"
}

// before are the commands that make a PF as somebody else left it, by the name of
// its network device.
func (l life) before(name string) (all [][]string) {
	add := func(words ...string) { all = append(all, words) }
	ip := func(words ...string) { add(append([]string{"/bin/ip", "link"}, words...)...) }
	if l.chance(50) {
		ip("property", "add", "dev", name, "altname", name+"-rack7")
	}
	if l.chance(50) {
		add("/bin/ethtool", "-G", name, "rx", l.one("128", "512"), "tx", l.one("128", "1024"))
	}
	if l.chance(30) {
		add("/bin/ethtool", "-L", name, "combined", l.one("1", "2"))
	}
	if l.chance(50) {
		add("/bin/ethtool", "-K", name, "tso", "off", "gro", l.one("on", "off"))
	}
	if l.chance(50) {
		ip("set", "dev", name, "mtu", l.one("1400", "3000"))
	}
	if l.chance(60) {
		ip("set", "dev", name, "up")
	}
	return all
}

// beforeVFs are those that configure the VFs that somebody else made.
func (l life) beforeVFs(name string, count int) (all [][]string) {
	for vf := range count {
		set := func(words ...string) {
			all = append(all, append([]string{"/bin/ip", "link", "set", "dev", name, "vf", fmt.Sprint(vf)}, words...))
		}
		if l.chance(50) {
			set("vlan", fmt.Sprint(l.number(1, 4000)), "qos", fmt.Sprint(l.number(0, 7)))
		}
		if l.chance(50) {
			set("mac", fmt.Sprintf("52:54:00:aa:00:0%d", vf))
		}
		if l.chance(50) {
			set("trust", "on")
		}
		if l.chance(30) {
			set("spoofchk", "off")
		}
	}
	return all
}
