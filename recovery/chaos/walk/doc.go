// Package walk makes the same writes on any host.Kernel and writes down what
// came of each, so that the simulated kernel can be held against a real one.
//
// A walk begins with a reset, which brings a machine of two SR-IOV NICs to the
// same state whatever was done to it before. Then it takes steps: those of a
// Suite, or random ones from a seed. The trace has a line for each: the call,
// its errno, and what changed of all that can be seen of the functions, their
// netdevs and the modules. Compare finds where two traces part.
//
// Package chaos runs the walks in a VM and here, and prints what differs.
//
// # Caveats
//
// Numbers that the kernel gives out (IOMMU groups, ifindexes, inodes) are
// compared by whether they have changed; random MACs by being random.
package walk
