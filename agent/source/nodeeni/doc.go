// Package nodeeni reads the desired state from the NodeENI objects of a
// Kubernetes API and follows them as they change. Package v1alpha1 has their
// types.
//
// An object concerns the node that one of its status.attachments names; that its
// nodeSelector fits the node is not enough, because only the attachment says that
// the ENI is there. Each attachment of this node is one interface:
//
//	enableDPDK                 the DPDK driver (dpdkDriver, else vfio-pci)
//	dpdkResourceName alone     the kernel's driver, up, MTU
//	neither                    the same
//
// and dpdkResourceName is the pool it is in. Which interface an ENI is, nothing
// says but the ENI's MAC address, from the metadata of the instance, or the PCI
// address in the object, where that is about one ENI of this node: an object that
// names several subnets gets an ENI in each, one after the other. Names and device
// indexes say nothing.
//
// # Deletions
//
// The Desired of this source is Complete: it is made of a list that arrived whole
// and is no older than the question, and of every change since. While the API
// cannot be asked, an Update says why, and there is no Desired that lacks
// anything. An object that is being deleted asks for its interfaces to be given
// back, before its finalizer lets it go.
//
// What cannot be used is refused one by one, and what it asked before stays in
// force: a value that is none, an ENI that the instance metadata does not know.
//
// # Caveats
//
// The API is listed once and watched from then on; who is idle asks nothing. The
// objects of other nodes are read and forgotten. A watch is resumed where it
// broke off, however the API went away; only when it no longer knows the place
// (410 Gone) is it listed again.
//
// A kernel's driver is asked for by name, so that an interface comes back when
// DPDK is switched off. It is ena; where an instance has another,
// Options.KernelDriver says so.
package nodeeni
