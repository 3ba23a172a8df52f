// Package dpdk has the kinds that hand a PCI function to a userspace driver
// and take it back: driver, and noiommu.
//
// The driver and the driver_override of a function are one State, because
// neither means anything without the other: a kernel driver refuses a function
// whose override names another (ENODEV), and a userspace driver matches no
// function without one.
//
// # Caveats
//
// The way from one driver to another always starts with the override and goes
// through no driver at all. That holds in both directions: going back to the
// kernel's driver clears the override first, where undoing the writes in
// reverse would try to bind while it still names vfio-pci.
package dpdk
