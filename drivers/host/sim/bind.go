package sim

import (
	"slices"
	"strconv"
	"syscall"

	"eniagent/drivers"
)

// match is pci_match_device: an override decides alone, else the driver's
// table does.
func (m *machine) match(driver string, f *function) bool {
	if f.Override != nil {
		return *f.Override == driver
	}
	return m.drivers[driver].takes(m.devices[f.Address])
}

// mayProbe is pci_device_can_probe: sriov_drivers_autoprobe gates every probe
// of a VF without an override, not only the one at its creation.
func (m *machine) mayProbe(f *function) bool {
	pf := m.find(m.devices[f.Address].PF)
	return pf == nil || !pf.NoProbe || f.Override != nil
}

// probe is really_probe of one driver, with the function's device_lock held.
func (m *machine) probe(driver string, f *function) syscall.Errno {
	if f.Driver != "" {
		return syscall.EBUSY
	}
	if !m.mayProbe(f) || !m.match(driver, f) {
		return syscall.ENODEV
	}
	makes := m.drivers[driver].Makes
	// A group that user space owns takes no driver that does DMA by itself
	// (iommu_device_use_default_domain); vfio drivers do not ask.
	if makes != MakesVFIO && m.groupHeld(m.devices[f.Address].IOMMUGroup) {
		return syscall.EBUSY
	}
	if d := m.drivers[driver]; d.RefusesOthers != 0 && !d.takes(m.devices[f.Address]) {
		return d.RefusesOthers
	}
	switch makes {
	case MakesVFIO:
		if errno := m.joinVFIO(f); errno != 0 {
			return errno
		}
	case MakesUIO:
		f.UIO = m.freeUIO()
	case MakesNet:
		m.addFunctionNetdev(f, m.drivers[driver])
	}
	f.Driver = driver
	m.event(drivers.Target(f.Address), "bind")
	return 0
}

// attach is device_attach: the first driver that takes the function and whose
// probe succeeds has it. That none does is no error.
func (m *machine) attach(f *function) {
	for _, driver := range m.Drivers {
		if m.match(driver, f) && m.probe(driver, f) == 0 {
			return
		}
	}
}

// detach is __device_release_driver, and says whether it is over: vfio waits
// until no process holds the function. What is visible of the binding goes
// first, so that a function whose unbind hangs looks driverless.
func (m *machine) detach(f *function, seq uint64) bool {
	if f.Driver == "" {
		return true
	}
	if !f.Leaving {
		f.Leaving = true
		m.dirty = true
	}
	if !m.drivers[f.Driver].StubVFs && !m.dropVFs(f, seq) {
		return false
	}
	if m.drivers[f.Driver].Makes == MakesVFIO && m.held(f.Address) {
		return false
	}
	m.dropNetdev(f.Address)
	f.Driver, f.Leaving, f.NoIOMMU, f.UIO = "", false, "", ""
	m.event(drivers.Target(f.Address), "unbind")
	return true
}

// remove takes the function out of the kernel, and says whether it is over.
func (m *machine) remove(f *function, seq uint64) bool {
	if !f.Removing {
		f.Removing = true
		m.dirty = true
	}
	if !m.removeBehind(f, seq) {
		return false
	}
	// A PF without a driver can have VFs too.
	if !m.detach(f, seq) || !m.dropVFs(f, seq) {
		return false
	}
	m.Present = slices.DeleteFunc(m.Present, func(o *function) bool { return o == f })
	m.event(drivers.Target(f.Address), "remove")
	return true
}

// removeBehind takes out what sits behind a bridge, which goes first
// (pci_remove_bus_device of drivers/pci/remove.c), and says whether it is over.
func (m *machine) removeBehind(bridge *function, seq uint64) bool {
	for _, addr := range m.addresses() {
		f := m.find(addr)
		if f == nil || m.devices[addr].Bridge != bridge.Address || m.devices[addr].PF != "" {
			continue
		}
		if !f.lock(seq) || !m.remove(f, seq) {
			return false
		}
	}
	return true
}

// dropVFs removes a PF's virtual functions one after the other, as
// sriov_disable does, and says whether it is over.
func (m *machine) dropVFs(pf *function, seq uint64) bool {
	if pf.VFs == 0 {
		return true
	}
	for _, addr := range m.vfs(pf.Address) {
		f := m.find(addr)
		if f == nil {
			continue
		}
		if !f.lock(seq) || !m.remove(f, seq) {
			return false
		}
	}
	pf.VFs, pf.Kept = 0, nil
	m.requeue(pf)
	m.dirty = true
	return true
}

// createVFs makes n virtual functions, or fewer when the device has no more:
// the kernel reports success then too.
func (m *machine) createVFs(pf *function, n int) {
	addrs := m.vfs(pf.Address)
	addrs = addrs[:min(n, len(addrs))]
	pf.VFs, pf.Kept = len(addrs), freshVFs(len(addrs))
	m.requeue(pf)
	m.dirty = true
	for _, addr := range addrs {
		m.attach(m.addFunction(m.devices[addr]))
	}
}

// totalVFs is pci_sriov_get_totalvfs: a PF's own driver may lower it while it
// is bound.
func (m *machine) totalVFs(pf *function) int {
	d := m.devices[pf.Address]
	if pf.Driver != "" && m.drivers[pf.Driver].Makes == MakesNet {
		return d.TotalVFs
	}
	return max(d.TotalVFs, d.BareVFs)
}

// joinVFIO gives a function its vfio group, which it must have from an IOMMU
// unless no-IOMMU mode makes one up.
func (m *machine) joinVFIO(f *function) syscall.Errno {
	if m.devices[f.Address].IOMMUGroup != "" {
		return 0
	}
	if vfio := m.module("vfio"); vfio == nil || vfio.Params[noIOMMUParam] != "Y" {
		return syscall.EINVAL
	}
	f.NoIOMMU = m.freeGroup()
	m.taint(taintUser)
	return 0
}

// group is the IOMMU group of a function, with one that vfio made up.
func (m *machine) group(f *function) string {
	if f.NoIOMMU != "" {
		return f.NoIOMMU
	}
	return m.devices[f.Address].IOMMUGroup
}

// groups are the IOMMU groups there are, and their functions.
func (m *machine) groups() map[string][]string {
	gs := map[string][]string{}
	for _, f := range m.Present {
		if g := m.group(f); g != "" {
			gs[g] = append(gs[g], f.Address)
		}
	}
	return gs
}

// groupHeld says whether user space owns a group.
func (m *machine) groupHeld(group string) bool {
	if group == "" || len(m.Holds) == 0 {
		return false
	}
	return slices.ContainsFunc(m.Present, func(f *function) bool {
		return m.group(f) == group && m.onVFIO(f) && m.held(f.Address)
	})
}

// onVFIO says whether the function has a vfio driver, be it a leaving one.
func (m *machine) onVFIO(f *function) bool {
	return f.Driver != "" && m.drivers[f.Driver].Makes == MakesVFIO
}

// freeGroup is the lowest number that no IOMMU group has.
func (m *machine) freeGroup() string {
	gs := m.groups()
	for n := 0; ; n++ {
		if g := strconv.Itoa(n); gs[g] == nil {
			return g
		}
	}
}

// freeUIO is the lowest free uio device.
func (m *machine) freeUIO() string {
	for n := 0; ; n++ {
		name := "uio" + strconv.Itoa(n)
		if !slices.ContainsFunc(m.Present, func(f *function) bool { return f.UIO == name }) {
			return name
		}
	}
}

// lock takes the device_lock for a call, and says whether the call has it.
func (f *function) lock(seq uint64) bool {
	if f.Owner != 0 && f.Owner != seq {
		return false
	}
	f.Owner = seq
	return true
}
