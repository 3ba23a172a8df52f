package guard

import (
	"context"
	"path"
	"strings"
	"time"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
)

// vfio is the state of a function that programs reach by its IOMMU group.
func vfio() drivers.State { return dpdk.Bound("vfio-pci") }

// group looks at every member of the IOMMU group before one of them goes to
// vfio-pci: the group is viable only when none is left to the kernel
// (vfio_dev_viable, drivers/vfio/vfio_main.c). One that goes with the same goal,
// whose own rules are asked there, is none; so is one that is wanted and may go.
func (g *Guard) group(ctx context.Context, key drivers.Key, to drivers.State, goal plan.Goal, since time.Time) error {
	if key.Kind != dpdk.KindDriver || to != vfio() {
		return nil
	}
	members, err := host.GroupOf(ctx, g.o.Host, string(key.Target))
	if err != nil {
		return err
	}
	for _, m := range members {
		t := drivers.Target(m.Address)
		switch {
		case t == key.Target, m.Viable(), goal[drivers.Key{Kind: dpdk.KindDriver, Target: t}] == to:
			continue
		case g.o.Wanted == nil || !g.o.Wanted(t):
			return g.refuse(Group, key.Target, "give that one to vfio-pci too, or none",
				"%s is in the same IOMMU group and on %s, so no program could open the group", m.Address, m.Driver)
		}
		if err := g.follows(ctx, t, m.Driver, since); err != nil {
			return g.refuse(Group, key.Target, "both go to vfio-pci, or none",
				"%s is in the same IOMMU group and on %s, so no program could open the group, and it cannot follow: %v", m.Address, m.Driver, err)
		}
	}
	return nil
}

// follows says why a function may not leave its driver.
func (g *Guard) follows(ctx context.Context, t drivers.Target, driver string, since time.Time) error {
	spec, _ := g.o.Specs.Find(dpdk.KindDriver)
	key := drivers.Key{Kind: dpdk.KindDriver, Target: t}
	if err := g.path(ctx, spec, key, dpdk.Bound(driver), false); err != nil {
		return err
	}
	return g.inUse(ctx, spec, t, dpdk.Bound(driver), since)
}

// isolates refuses to make VFs for vfio-pci that would share the IOMMU group of
// their PF, which stays the kernel's. They do where a port above the PF has no
// ACS: then it is in that port's group, and so is all that comes below it
// (pci_device_group, drivers/iommu/iommu.c).
func (g *Guard) isolates(ctx context.Context, spec drivers.Spec, key drivers.Key, to drivers.State, goal plan.Goal) error {
	if spec.Makes == nil {
		return nil
	}
	var one drivers.Target
	for _, vf := range spec.Makes(to) {
		if goal[drivers.Key{Kind: dpdk.KindDriver, Target: vf}] == vfio() {
			one = vf
			break
		}
	}
	if one == "" {
		return nil
	}
	members, err := host.GroupOf(ctx, g.o.Host, string(key.Target))
	if err != nil {
		return err
	}
	dir, err := g.o.Host.Readlink(ctx, host.PCIDevices+string(key.Target))
	if err != nil {
		return nil //nolint:nilerr // it is gone: then the write says so
	}
	port := ""
	for _, m := range members {
		if m.Bridge && strings.Contains(dir, "/"+m.Address+"/") {
			port = m.Address
		}
	}
	for _, m := range members {
		if port != "" && !m.Viable() && goal[drivers.Key{Kind: dpdk.KindDriver, Target: drivers.Target(m.Address)}] != vfio() {
			return g.refuse(Group, key.Target, "use a slot behind ports with ACS, or a kernel driver for the VFs",
				"the port %s above it does not isolate what is below (no ACS), so that %s would be in the IOMMU group of %s, which is on %s, and no program could open it",
				port, one, path.Base(m.Address), m.Driver)
		}
	}
	return nil
}
