package walk

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"eniagent/drivers/host/sim"
)

const (
	pfDriver = "igb"
	vfDriver = "igbvf"
	maxVFs   = 7
	knownMAC = "52:54:00" // what all MACs of a Machine begin with
)

// Machine is two Intel 82576 PFs, and the kernel's release.
type Machine struct {
	Release string `json:"release"`
	PFs     [2]PF  `json:"pfs"`
}

// PF is an 82576 port behind a root port of its own.
type PF struct {
	Address string `json:"address"`
	Bridge  string `json:"bridge"`
	MAC     string `json:"mac"`
}

// vf is the address of a PF's n-th virtual function: 0x80 further, and every
// other one from there.
func (p PF) vf(n int) string {
	devfn := 0x80 + 2*n
	return fmt.Sprintf("%s%02x.%d", strings.TrimSuffix(p.Address, "00.0"), devfn>>3, devfn&7)
}

// functions are all that there can be.
func (m Machine) functions() []string {
	var all []string
	for _, p := range m.PFs {
		all = append(all, p.Address)
		for n := range maxVFs + 1 {
			all = append(all, p.vf(n))
		}
	}
	return all
}

// modules are those that a walk loads and looks at, each after what it needs.
func modules() []sim.Module {
	names := []string{"uio", "uio_pci_generic", "vfio", "vfio_iommu_type1", "irqbypass", "vfio_pci_core", "vfio_pci", pfDriver, vfDriver}
	var list []sim.Module
	for _, name := range names {
		for _, m := range sim.DefaultNode().Modules {
			if m.Name == name {
				list = append(list, m)
			}
		}
	}
	return list
}

// Simulated is the machine for package sim.
func (m Machine) Simulated() sim.Config {
	c := sim.Config{
		Seed: "walk", Release: m.Release, Fence: true,
		Links: []sim.Netdev{{Name: "lo", Kind: "loopback", MAC: "00:00:00:00:00:00", MTU: 65536, Up: true}},
	}
	for _, mod := range sim.DefaultNode().Modules {
		if slices.Contains([]string{"pcieport", "dca", "i2c_algo_bit"}, mod.Name) {
			c.Modules = append(c.Modules, mod)
		}
	}
	c.Modules = append(c.Modules, modules()...)
	group := 0
	next := func() string { group++; return fmt.Sprint(group) }
	for i, p := range m.PFs {
		c.Devices = append(c.Devices,
			sim.Device{Address: p.Bridge, Vendor: "0x1b36", Device: "0x000c", Class: "0x060400", IOMMUGroup: next()},
			sim.Device{
				Address: p.Address, Vendor: "0x8086", Device: "0x10c9", Class: "0x020000", Bridge: p.Bridge, IOMMUGroup: next(),
				TotalVFs: maxVFs, BareVFs: maxVFs + 1,
				Net: &sim.Netdev{Name: fmt.Sprintf("pf%d", i), MAC: p.MAC, PermMAC: p.MAC, Set: sim.IGB()},
			})
		for n := range maxVFs {
			c.Devices = append(c.Devices, sim.Device{
				Address: p.vf(n), Vendor: "0x8086", Device: "0x10ca", Class: "0x020000", Bridge: p.Bridge, PF: p.Address, IOMMUGroup: next(),
				Net: &sim.Netdev{Name: fmt.Sprintf("pf%dvf%d", i, n), Set: sim.IGBVF()},
			})
		}
	}
	return c
}

func errnoName(e syscall.Errno) string {
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return e.Error()
}
