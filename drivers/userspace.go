package drivers

import "slices"

// UserspaceDrivers hand a function to a program. Under them it has no netdev,
// and they match a function only through its driver_override.
func UserspaceDrivers() []string { return []string{"vfio-pci", "uio_pci_generic", "igb_uio"} }

// Userspace says whether the driver is one of them.
func Userspace(driver string) bool { return slices.Contains(UserspaceDrivers(), driver) }

// pfStub holds a physical function for its VFs alone (drivers/pci/pci-pf-stub.c).
const pfStub = "pci-pf-stub"

// stubDrivers only hold a function: no netdev, and nothing for a program. The
// kernel's pci-stub and pci-pf-stub, and pciback of Xen.
func stubDrivers() []string { return []string{"pci-stub", pfStub, "pciback"} }

// Bare says whether a driver takes any function, through its driver_override,
// and leaves it without a netdev.
func Bare(driver string) bool {
	return Userspace(driver) || slices.Contains(stubDrivers(), driver)
}

// MakesVFs says whether a driver may make virtual functions. Of the bare ones
// pci-pf-stub does; vfio-pci does with enable_sriov, and what it makes is for
// programs that share a token with the one that has the physical function.
func MakesVFs(driver string) bool { return driver != "" && (driver == pfStub || !Bare(driver)) }
