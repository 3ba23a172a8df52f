package drivers

import "slices"

// UserspaceDrivers hand a function to a program. Under them it has no netdev,
// and they match a function only through its driver_override.
func UserspaceDrivers() []string { return []string{"vfio-pci", "uio_pci_generic", "igb_uio"} }

// Userspace says whether the driver is one of them.
func Userspace(driver string) bool { return slices.Contains(UserspaceDrivers(), driver) }
