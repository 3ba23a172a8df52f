package walk

import (
	"slices"
	"strings"

	"eniagent/drivers/host"
)

// Scenario is a walk with a name.
type Scenario struct {
	Name  string
	Steps []Step
}

// Suite are the scenarios that hold the contract of each write.
func (m Machine) Suite() []Scenario {
	return slices.Concat(m.binding(), m.counting(), m.linksAndModules(), m.settings(), m.ports())
}

func override(on, value string) Step    { return Step{verb: setOverride, on: on, value: value} }
func bindTo(driver, on string) Step     { return Step{verb: bind, on: on, driver: driver} }
func unbindFrom(driver, on string) Step { return Step{verb: unbind, on: on, driver: driver} }
func toProbe(on string) Step            { return Step{verb: probe, on: on} }
func vfs(on, value string) Step         { return Step{verb: setVFs, on: on, value: value} }
func autoprobe(on, value string) Step   { return Step{verb: setAutoprobe, on: on, value: value} }
func mtu(on string, n int) Step         { return Step{verb: setMTU, on: on, number: n} }
func admin(on string, n int) Step       { return Step{verb: setAdmin, on: on, number: n} }
func altName(on, name string, n int) Step {
	return Step{verb: setAltName, on: on, value: name, number: n}
}
func name(on, value string) Step     { return Step{verb: setName, on: on, value: value} }
func mac(on, value string) Step      { return Step{verb: setMAC, on: on, value: value} }
func channels(on, value string) Step { return Step{verb: setChannels, on: on, value: value} }
func rings(on, value string) Step    { return Step{verb: setRings, on: on, value: value} }
func feature(on string, n int) Step {
	return Step{verb: setFeature, on: on, value: knownFeature, number: n}
}

func port(op host.Op, pf string, vf int, value string) Step {
	return Step{verb: setPort, op: op, on: pf, number: vf, value: value}
}
func module(v verb, name string) Step { return Step{verb: v, on: name} }

// absent is a function that is not there.
const absent = "0000:7f:00.0"

// binding is what binds a function.
func (m Machine) binding() []Scenario {
	a, b := m.PFs[0], m.PFs[1]
	vf0, vf1 := a.vf(0), a.vf(1)
	return []Scenario{
		{"override", []Step{
			override(vf0, "vfio-pci"), override(vf0, ""), override(vf0, "igbvf\n"), override(vf0, "\n"), override(vf0, "none"),
			override(vf0, "\x00"), override(vf0, "none"), override(vf0, "vfio-pci\nmore"), override(vf0, "two words"),
			override(vf0, strings.Repeat("x", 4094)), override(vf0, strings.Repeat("x", 4095)), override(vf0, strings.Repeat("x", 4096)),
			override(vf0, strings.Repeat("x", 9000)), override(a.Address, "vfio-pci"), override(absent, "vfio-pci"),
		}},
		{"bind and unbind", []Step{
			unbindFrom("vfio-pci", vf0), unbindFrom(noDriver, vf0), unbindFrom(vfDriver, absent), bindTo(vfDriver, vf0), bindTo("vfio-pci", vf0),
			unbindFrom(vfDriver, vf0), unbindFrom(vfDriver, vf0), bindTo("vfio-pci", vf0), bindTo(pfDriver, vf0), bindTo(noDriver, vf0),
			bindTo(vfDriver, absent), override(vf0, "vfio-pci"), bindTo(vfDriver, vf0), bindTo("vfio-pci", vf0), bindTo("vfio-pci", vf0),
			bindTo(vfDriver, vf0), override(vf0, "\n"), bindTo("vfio-pci", vf0), unbindFrom("vfio-pci", vf0), bindTo(vfDriver, vf0),
		}},
		{"a driver of other functions", []Step{
			override(vf0, pfDriver), unbindFrom("", vf0), bindTo(pfDriver, vf0), toProbe(vf0), override(vf0, "pcieport"), unbindFrom("", vf0),
			override(a.Address, vfDriver), bindTo(vfDriver, a.Address), override(a.Address, "none"), toProbe(vf0), override(vf0, "\n"), toProbe(vf0),
		}},
		{"two functions on vfio-pci", []Step{
			override(vf0, "vfio-pci"), override(vf1, "vfio-pci"), unbindFrom("", vf0), unbindFrom("", vf1), toProbe(vf0), toProbe(vf1),
			override(b.Address, "vfio-pci"), unbindFrom("", b.Address), bindTo("", b.Address), module(unload, "vfio_iommu_type1"),
			unbindFrom("", vf0), unbindFrom("", vf1), module(unload, "vfio_pci"), module(unload, "vfio_pci_core"), module(unload, "vfio"),
		}},
		{"a held function", []Step{
			override(vf0, "vfio-pci"), unbindFrom("", vf0), toProbe(vf0),
			{verb: hold, on: vf0},
			override(vf0, "\n"), bindTo("vfio-pci", vf0),
			unbindFrom("vfio-pci", vf0), bindTo(vfDriver, vf0), override(vf0, "none"), unbindFrom("vfio-pci", vf0), mtu(vf1, 1600),
			{verb: release, on: vf0},
			bindTo(vfDriver, vf0), mtu(vf0, 1600),
		}},
		{"probe", []Step{
			toProbe(vf0), toProbe(absent), unbindFrom(vfDriver, vf0), override(vf0, "none"), toProbe(vf0), override(vf0, "vfio-pci"), toProbe(vf0),
			toProbe(vf0), override(vf0, "uio_pci_generic"), toProbe(vf0), unbindFrom("", vf0), toProbe(vf0), unbindFrom("", vf0),
			override(vf0, "\n"), toProbe(vf0),
		}},
	}
}

// counting is what makes VFs, and decides about their drivers.
func (m Machine) counting() []Scenario {
	a, b := m.PFs[0], m.PFs[1]
	vf0, vf1 := a.vf(0), a.vf(1)
	return []Scenario{
		{"numvfs", []Step{
			vfs(a.Address, "2"), vfs(a.Address, "1"), vfs(a.Address, "3"), vfs(a.Address, "8"), vfs(a.Address, "9"), vfs(a.Address, "many"),
			vfs(a.Address, "-1"), vfs(a.Address, ""), vfs(a.Address, "2\n"), vfs(a.Address, "+2"), vfs(a.Address, "0x2"), vfs(a.Address, "02"),
			vfs(a.Address, "1_0"), vfs(a.Address, "0b10"), vfs(a.Address, "70000"), vfs(vf0, "1"), override(vf1, "vfio-pci"), mtu(vf0, 9000),
			vfs(a.Address, "0"), vfs(a.Address, "0"), vfs(a.Address, "7"), vfs(b.Address, "1"), vfs(a.Address, "0"), vfs(b.Address, "0"),
		}},
		{"numvfs of a PF without its driver", []Step{
			unbindFrom(pfDriver, a.Address), vfs(a.Address, "0"), vfs(a.Address, "1"), vfs(a.Address, "8"), vfs(a.Address, "9"),
			override(a.Address, "vfio-pci"), bindTo("vfio-pci", a.Address), vfs(a.Address, "1"), vfs(a.Address, "0"),
			unbindFrom("", a.Address), override(a.Address, "uio_pci_generic"), toProbe(a.Address), vfs(a.Address, "1"), unbindFrom("", a.Address),
			override(a.Address, "\n"), bindTo(pfDriver, a.Address), vfs(a.Address, "8"),
		}},
		{"autoprobe", []Step{
			autoprobe(a.Address, "0"), autoprobe(a.Address, "0"), unbindFrom(vfDriver, vf0), toProbe(vf0), bindTo(vfDriver, vf0),
			override(vf0, "vfio-pci"), toProbe(vf0), unbindFrom("", vf0), override(vf0, vfDriver), bindTo(vfDriver, vf0),
			vfs(a.Address, "0"), vfs(a.Address, "1"), autoprobe(a.Address, "1"), toProbe(vf0), autoprobe(a.Address, "maybe"),
			autoprobe(a.Address, "2"), autoprobe(a.Address, "off"), autoprobe(a.Address, "y\n"), autoprobe(a.Address, ""), autoprobe(vf0, "1"),
		}},
	}
}

// linksAndModules is links, modules, and what takes a PF away.
func (m Machine) linksAndModules() []Scenario {
	a := m.PFs[0]
	vf0, vf1 := a.vf(0), a.vf(1)
	return []Scenario{
		{"MTU", []Step{
			mtu(a.Address, 9000), mtu(a.Address, 9000), mtu(a.Address, 9216), mtu(a.Address, 9217), mtu(a.Address, 68), mtu(a.Address, 67),
			mtu(a.Address, 0), mtu(a.Address, 70000), mtu(vf0, 9216), mtu(vf0, 9217), mtu(vf0, 1501), mtu(absent, 1500), admin(a.Address, 1),
			mtu(a.Address, 1600), admin(vf0, 1), mtu(vf0, 9000), unbindFrom("", vf0), mtu(vf0, 1500), toProbe(vf0),
		}},
		{"admin", []Step{
			admin(a.Address, 1), admin(a.Address, 1), admin(vf0, 1), admin(vf0, 0), admin(vf0, 1), admin(a.Address, 0), admin(vf0, 0), admin(vf0, 0),
			admin(absent, 1), admin(a.Address, 1), unbindFrom("", vf0), toProbe(vf0), admin(vf1, 1), unbindFrom(pfDriver, a.Address), bindTo(pfDriver, a.Address),
		}},
		{"modules", []Step{
			module(load, "vfio_pci"), module(load, "nosuch"), module(unload, "nosuch"), module(unload, "vfio"), module(unload, "vfio_pci_core"),
			module(unload, "vfio_pci"), bindTo("vfio-pci", vf0), module(unload, "vfio_pci_core"), module(load, "vfio_pci"), module(unload, "irqbypass"),
			module(unload, "vfio"), module(unload, "vfio_iommu_type1"), module(unload, "vfio"), module(load, "vfio_pci_core"), module(load, "vfio"),
			unbindFrom("", vf0), override(vf0, "vfio-pci"), module(load, "irqbypass"), module(load, "vfio_pci_core"), module(load, "vfio_pci"),
			module(unload, "vfio_pci"), module(unload, vfDriver), module(load, vfDriver), module(unload, "uio"), module(unload, "uio_pci_generic"), module(unload, "uio"),
		}},
		{"the PF's driver", []Step{
			override(vf0, "vfio-pci"), unbindFrom("", vf0), toProbe(vf0), unbindFrom(pfDriver, a.Address), toProbe(a.Address), vfs(a.Address, "1"),
			module(unload, pfDriver), module(load, pfDriver),
		}},
		{"remove and rescan", []Step{
			{verb: rescan, value: "1"},
			{verb: remove, on: a.Address, value: "0"},
			{verb: remove, on: a.Address, value: "x"},
			override(a.Address, "none"),
			{verb: remove, on: a.Address, value: "1"},
			{verb: remove, on: a.Address, value: "1"},
			{verb: rescan, value: "0"},
			{verb: rescan, value: "1"},
			vfs(a.Address, "1"),
		}},
	}
}

// settings is what ethtool sets, and alternative names. A walk leaves behind what
// no reset undoes, so that each ends with what it began with, or with a netdev
// that its driver makes anew. How many channels there are at first depends on
// the processors: they are looked at once they have been set.
func (m Machine) settings() []Scenario {
	a, b := m.PFs[0], m.PFs[1]
	vf0 := a.vf(0)
	anew := []Step{unbindFrom(pfDriver, b.Address), bindTo(pfDriver, b.Address)}
	return []Scenario{
		{"alternative names", slices.Concat([]Step{
			altName(b.Address, "lan0", 1), altName(b.Address, "lan0", 1), altName(vf0, "lan0", 1), altName(vf0, "lan0", 0), altName(b.Address, "lan1", 0),
			altName(b.Address, "a name of/text", 1), altName(b.Address, strings.Repeat("x", 127), 1), altName(b.Address, strings.Repeat("x", 128), 1),
			altName(absent, "lan2", 1), altName(b.Address, "lan0", 0), altName(b.Address, "lan0", 0), altName(b.Address, "lan2", 1),
		}, anew, []Step{altName(vf0, "lan2", 1), altName(vf0, "lan2", 0)})},
		{"rings", slices.Concat([]Step{
			rings(b.Address, "rx=512 mini=0 jumbo=0 tx=512"), rings(b.Address, "rx=1001 mini=0 jumbo=0 tx=1"), rings(b.Address, "rx=4096 mini=0 jumbo=0 tx=4096"),
			rings(b.Address, "rx=4097 mini=0 jumbo=0 tx=256"), rings(b.Address, "rx=256 mini=1 jumbo=0 tx=256"), rings(absent, "rx=256 mini=0 jumbo=0 tx=256"),
			admin(b.Address, 1), rings(b.Address, "rx=1024 mini=0 jumbo=0 tx=256"), rings(vf0, "rx=512 mini=0 jumbo=0 tx=64"), rings(vf0, "rx=256 mini=0 jumbo=0 tx=256"),
		}, anew)},
		{"channels", slices.Concat([]Step{
			channels(b.Address, "rx=0 tx=0 combined=1"), channels(b.Address, "rx=0 tx=0 combined=8"), channels(b.Address, "rx=0 tx=0 combined=9"),
			channels(b.Address, "rx=1 tx=1 combined=0"), channels(vf0, "rx=0 tx=0 combined=1"), admin(b.Address, 1), channels(b.Address, "rx=0 tx=0 combined=2"),
			channels(a.Address, "rx=0 tx=0 combined=1"), channels(a.Address, "rx=0 tx=0 combined=3"), channels(a.Address, "rx=0 tx=0 combined=2"),
		}, []Step{unbindFrom(pfDriver, b.Address)})},
		{"channels and VFs", []Step{
			channels(b.Address, "rx=0 tx=0 combined=4"), vfs(b.Address, "2"), channels(b.Address, "rx=0 tx=0 combined=4"), channels(b.Address, "rx=0 tx=0 combined=1"),
			rings(b.Address, "rx=512 mini=0 jumbo=0 tx=512"), vfs(b.Address, "0"), channels(b.Address, "rx=0 tx=0 combined=3"), feature(b.Address, 0),
			vfs(b.Address, "1"), vfs(b.Address, "0"), feature(b.Address, 1),
		}},
		{"names", slices.Concat([]Step{
			name(b.Address, "lan0"), name(b.Address, "lan0"), name(vf0, "lan0"), name(b.Address, "lan"+strings.Repeat("x", 12)), name(b.Address, "lan"+strings.Repeat("x", 13)),
			name(b.Address, "a b"), name(b.Address, "a/b"), name(absent, "lan1"), altName(b.Address, "lan1", 1), name(b.Address, "lan1"), name(vf0, "lan1"),
			admin(b.Address, 1), name(b.Address, "lan2"),
		}, anew)},
		{"MAC addresses", slices.Concat([]Step{
			mac(b.Address, knownMAC+":00:02:00"), mac(b.Address, "01:00:5e:00:00:01"), mac(b.Address, host.NoMAC), mac(absent, knownMAC+":00:02:00"),
			admin(b.Address, 1), mac(b.Address, knownMAC+":00:02:01"), mac(vf0, knownMAC+":00:02:02"), unbindFrom("", vf0), toProbe(vf0),
		}, anew)},
		{"MAC addresses of VFs whose PF is up", slices.Concat([]Step{
			admin(a.Address, 1), mac(vf0, knownMAC+":00:02:02"), unbindFrom("", vf0), toProbe(vf0), port(host.OpVFMAC, a.Address, 0, knownMAC+":00:01:00"),
			unbindFrom("", vf0), toProbe(vf0), mac(vf0, knownMAC+":00:02:03"), port(host.OpVFTrust, a.Address, 0, "on"), mac(vf0, knownMAC+":00:02:03"), vfs(a.Address, "0"),
		}, anew)},
		{"features", slices.Concat([]Step{
			feature(b.Address, 0), feature(b.Address, 0), feature(b.Address, 1), feature(absent, 0), feature(vf0, 0), feature(vf0, 1), feature(b.Address, 0),
		}, anew)},
	}
}

// ports is what a PF keeps for its VFs. Each ends without these, so that the next
// walk has new ones.
func (m Machine) ports() []Scenario {
	a, b := m.PFs[0].Address, m.PFs[1].Address
	vf0, vf1 := m.PFs[0].vf(0), m.PFs[0].vf(1)
	const mac, noVLAN = knownMAC + ":00:01:00", "id=0 qos=0 protocol=802.1Q"
	return []Scenario{
		{"what a PF keeps for its VFs", []Step{
			port(host.OpVFMAC, a, 0, mac), port(host.OpVFMAC, a, 0, mac), port(host.OpVFMAC, a, 0, host.NoMAC), port(host.OpVFMAC, a, 1, "01:00:5e:00:00:01"),
			port(host.OpVFMAC, a, 2, mac), port(host.OpVFVLAN, a, 0, "id=100 qos=3 protocol=802.1Q"), port(host.OpVFVLAN, a, 1, "id=4094 qos=0 protocol=802.1Q"),
			port(host.OpVFVLAN, a, 0, "id=100 qos=0 protocol=802.1ad"), port(host.OpVFVLAN, a, 0, "id=0 qos=5 protocol=802.1Q"), port(host.OpVFVLAN, a, 0, noVLAN),
			port(host.OpVFVLAN, a, 7, noVLAN), port(host.OpVFTrust, a, 0, "on"), port(host.OpVFTrust, a, 0, "on"), port(host.OpVFTrust, a, 0, "off"),
			port(host.OpVFTrust, a, 2, "on"), port(host.OpVFSpoofCheck, a, 1, "off"), port(host.OpVFSpoofCheck, a, 2, "off"), port(host.OpVFState, a, 0, "disable"),
			port(host.OpVFRate, a, 0, "min=0 max=100"), port(host.OpVFRate, a, 0, "min=10 max=100"), port(host.OpVFMAC, b, 0, mac), port(host.OpVFVLAN, b, 0, noVLAN),
			port(host.OpVFTrust, b, 0, "on"), port(host.OpVFSpoofCheck, b, 0, "off"), port(host.OpVFState, b, 0, "auto"), port(host.OpVFTrust, absent, 0, "on"),
			port(host.OpVFTrust, vf0, 0, "on"), vfs(a, "0"),
		}},
		{"what outlives a VF's driver, and what does not outlive the VF", []Step{
			port(host.OpVFMAC, a, 0, mac), port(host.OpVFVLAN, a, 1, "id=7 qos=0 protocol=802.1Q"), override(vf0, "vfio-pci"), unbindFrom("", vf0),
			port(host.OpVFTrust, a, 0, "on"), toProbe(vf0), port(host.OpVFVLAN, a, 0, "id=8 qos=0 protocol=802.1Q"), unbindFrom("", vf0), override(vf0, "\n"),
			toProbe(vf0), vfs(a, "0"), vfs(a, "2"), port(host.OpVFVLAN, a, 1, "id=7 qos=0 protocol=802.1Q"), unbindFrom(pfDriver, a), bindTo(pfDriver, a),
			vfs(a, "1"), vfs(a, "0"),
		}},
		{"the MAC of a VF whose PF is up", []Step{
			admin(a, 1), port(host.OpVFMAC, a, 0, mac), unbindFrom("", vf0), toProbe(vf0), port(host.OpVFMAC, a, 0, host.NoMAC), unbindFrom("", vf0), toProbe(vf0),
			port(host.OpVFMAC, a, 1, knownMAC+":00:01:01"), unbindFrom("", vf1), toProbe(vf1), vfs(a, "0"),
		}},
	}
}
