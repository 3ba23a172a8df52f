// Package sriov has the kinds of a physical function that makes virtual ones:
// numvfs, and what the function's driver keeps for each of them.
//
// numvfs holds the addresses of the VFs rather than their number, so that what
// exists by a state can be told on any machine, and the switch
// sriov_drivers_autoprobe with them, because VFs are made with it off: no
// driver of the kernel's is to flicker up on a VF that is for vfio-pci. It is
// back where it was before anything is bound, as it gates every later probe of
// a VF that has no override (seen on Linux 6.12).
//
// The kernel makes and removes all VFs of a function at once: from one count to
// another the way leads over none (Documentation/PCI/pci-iov-howto.rst, and
// EBUSY of drivers/pci/pci-sysfs.c).
package sriov
