// Package sim is a simulated Linux kernel behind host.Host: PCI functions,
// drivers, modules, IOMMU groups, network devices, and the errors, the locks
// and the blocking of a real one.
//
// Kernel lives in memory and is cheap to Clone, so that a crash can be tried at
// every boundary of every write. File is the same kernel with its state in a
// JSON file: it outlives a killed process, and processes share it.
//
//	k := sim.New(sim.DefaultNode())
//	release := k.Hold("0000:01:10.0") // a DPDK process opens the function
//	k.Inject(sim.Fault{Label: "probe", Errno: syscall.EIO})
//
// # How it is made
//
// A Config is what a machine is made of and never changes behind its owner's
// back; from it comes a layout, shared by all clones. A machine is a layout and
// the mutable state of one boot. Reads walk a virtual file system that is made
// on the way (fs.go, sysfs.go, procfs.go). Every write is queued as a call in
// the kernel (queue.go) and advanced until it is over, or blocked on a
// device_lock or on a process that holds a vfio function open; whatever unblocks
// it advances it again, whether or not anybody still waits for it.
//
// # Caveats
//
// Do queues behind a blocked write as a bare system call does, unless
// Config.Fence is set: then it is refused at once, as behind host.Pool.
//
// Package recovery/chaos/walk holds this kernel against a real one: the same
// writes on both, compared errno by errno and state by state. No difference is
// excused. Kept out of the walks, because no answer to it is right, is
//
//	what                                               because of (Linux 6.12)
//	igbvf's reset after a loss of its link, which a    drivers/net/ethernet/intel/igbvf/netdev.c:1780,
//	close of the same VF races with, and may hang in   WARN_ON(test_bit(__IGBVF_RESETTING)) in igbvf_close
//
// so a walk sends nothing. Not compared are the carrier, the numbers of IOMMU
// groups, ifindexes and inodes (only whether they change), and the values of
// random MACs.
//
// A write of no bytes does nothing, as in sysfs: driver_override is cleared
// with "\n".
package sim
