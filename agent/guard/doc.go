// Package guard refuses what would cut a node off, or take a device from
// whoever uses it.
//
// It has four rules. The management path: no function that carries, itself,
// below whatever stack of netdevs (stack.go), or as the physical function of one
// that does, a default route of any table, the node's own address, or the way to
// an address that must stay reachable. Where the stack ends in what the kernel
// does not tell, no function that may carry it. No default route: while there is
// none at all, as early at boot, no kernel netdev is taken away. In use: no
// function that a program holds, whose netdev is in another namespace or has one
// on top that is, or that the kubelet has allocated to a pod; no physical one while
// that is so of its VFs; and none at all while a kubelet is there
// and does not answer. The group: no member of an IOMMU group goes to vfio-pci
// unless all do that the kernel has, and no VF is made for it that would be in its
// PF's group.
//
// # Caveats
//
// The rules are asked again directly before each unbind, and there remains a
// moment between the answer and the write. A program that opens a device in
// that moment is not protected from the unbind, and the unbind then waits for it.
package guard
