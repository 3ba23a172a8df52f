// Package sriov has the kinds of a physical function that makes virtual ones:
// numvfs, and what the function's driver keeps for each of them.
//
// numvfs holds the addresses of the VFs rather than their number, so that what
// exists by a state can be told on any machine, and the switch
// sriov_drivers_autoprobe with them, because VFs are made with it off: no
// driver of the kernel's is to flicker up on a VF that is for vfio-pci. It is
// back where it was before anything is bound, as it gates every later probe of
// a VF that has no override (seen on Linux 6.12). Where a function tells the
// addresses of its VFs only while it has some, a goal may be their number alone.
//
// The attributes of a VF (vf.mac, vf.vlan, vf.trust, vf.spoofchk, vf.state and
// vf.rate, as ip link set PF vf N has them) have the VF as their target, and are
// read and written through the netdev of its PF: so they can be while the VF
// itself is on vfio-pci, or on nothing. They last as long as the VF.
//
// The kernel makes and removes all VFs of a function at once: from one count to
// another the way leads over none (Documentation/PCI/pci-iov-howto.rst, and
// EBUSY of drivers/pci/pci-sysfs.c).
//
// # Caveats
//
// A driver takes its VF's MAC when it is probed: of a VF that is bound to one of
// the kernel's, another MAC changes what its PF lets through at once, and the
// netdev's own at the next probe. igbvf asks igb for it, which answers while its
// own netdev is up. A VF that is trusted may change its MAC itself.
package sriov
