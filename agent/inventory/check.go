package inventory

import (
	"context"
	"fmt"
	"strings"

	"eniagent/drivers/host"
	"eniagent/drivers/module"
)

// Check is one thing a host needs, or is better off with.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"` // empty when OK
}

// Checks looks at what binding functions to userspace drivers takes.
func Checks(ctx context.Context, h host.Host) []Check {
	return []Check{
		iommu(ctx, h), lockdown(ctx, h), noIOMMU(ctx, h),
		moduleCheck(ctx, h, "vfio-pci"), moduleCheck(ctx, h, "uio_pci_generic"), hugepages(ctx, h),
	}
}

func iommu(ctx context.Context, h host.Host) Check {
	c := Check{Name: "IOMMU"}
	groups, err := h.List(ctx, "/sys/kernel/iommu_groups")
	if c.OK = err == nil && len(groups) > 0; c.OK {
		c.Found = fmt.Sprintf("on, %d groups", len(groups))
		return c
	}
	c.Found = "off: there are no IOMMU groups"
	c.Remedy = "switch VT-d or AMD-Vi on in the firmware and boot with intel_iommu=on (AMD needs nothing); without one, only --allow-noiommu is left, which taints the kernel"
	return c
}

func lockdown(ctx context.Context, h host.Host) Check {
	c := Check{Name: "lockdown", OK: true, Found: "none"}
	mode, err := h.Read(ctx, "/sys/kernel/security/lockdown")
	if err != nil {
		return c
	}
	_, mode, _ = strings.Cut(mode, "[")
	c.Found, _, _ = strings.Cut(mode, "]")
	if c.OK = c.Found == "none"; !c.OK {
		c.Remedy = "unsigned modules, uio and no-IOMMU are refused under lockdown; vfio-pci with an IOMMU is not"
	}
	return c
}

func noIOMMU(ctx context.Context, h host.Host) Check {
	v, err := h.Read(ctx, host.SysModule+"vfio/parameters/enable_unsafe_noiommu_mode")
	switch {
	case missing(err):
		return Check{Name: "no-IOMMU mode", OK: true, Found: "not offered (vfio not loaded, or built without it)"}
	case err != nil:
		return Check{Name: "no-IOMMU mode", Found: err.Error(), Remedy: "the agent needs to read /sys/module"}
	case v == "Y":
		return Check{Name: "no-IOMMU mode", Found: "ON: programs can reach all memory by DMA, the kernel is tainted", Remedy: "use an IOMMU, and write N to the parameter"}
	}
	return Check{Name: "no-IOMMU mode", OK: true, Found: "off"}
}

func moduleCheck(ctx context.Context, h host.Host, name string) Check {
	c := Check{Name: "module " + name, OK: true}
	if _, err := h.Inode(ctx, host.PCIDrivers+name); err == nil {
		c.Found = "loaded"
		return c
	}
	modules, err := module.Closure(ctx, h, name)
	if err != nil {
		c.OK, c.Found = false, err.Error()
		c.Remedy = "install the modules package of the running kernel"
		return c
	}
	c.Found = fmt.Sprintf("installed, loaded when needed (%d modules)", len(modules))
	return c
}

func hugepages(ctx context.Context, h host.Host) Check {
	c := Check{Name: "hugepages"}
	const dir = "/sys/kernel/mm/hugepages"
	sizes, err := h.List(ctx, dir)
	if err != nil {
		c.Found, c.Remedy = "not supported by the kernel", "DPDK programs then need --no-huge"
		return c
	}
	var found []string
	for _, s := range sizes {
		n, err := h.Read(ctx, dir+"/"+s+"/nr_hugepages")
		if err == nil && n != "0" {
			found = append(found, n+" of "+strings.TrimPrefix(s, "hugepages-"))
		}
	}
	if c.OK = len(found) > 0; c.OK {
		c.Found = strings.Join(found, ", ")
		return c
	}
	c.Found, c.Remedy = "none reserved", "DPDK programs want some: sysctl vm.nr_hugepages=N"
	return c
}
