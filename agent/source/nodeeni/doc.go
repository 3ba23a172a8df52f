// Package nodeeni reads the desired state from a Kubernetes API, from NodeENIs and
// NodeInterfacePolicies, follows them as they change, and tells in their status how
// it stands. Packages v1alpha1 and policy/v1alpha1 have their types.
//
// A NodeENI concerns the node that one of its status.attachments names; that its
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
// A NodeInterfacePolicy is about the nodes whose labels its nodeSelector fits, and
// says of their interfaces what a file can, by the same rules (package entry).
//
// Objects are named "nodeeni/NAME/ENI" and "nodeinterfacepolicy/NAME/INTERFACE" in
// what is asked and refused. Where two ask for one interface, neither is taken, and
// the refusals name both; that a MAC address and a PCI address mean the same one,
// the agent finds out.
//
// # Deletions
//
// The Desired of this source is Complete: it is made of a list that arrived whole
// and is no older than the question, and of every change since. While the API
// cannot be asked, an Update says why, and there is no Desired that lacks
// anything. A NodeENI that is being deleted asks for its interfaces to be given
// back, before its finalizer lets it go. A policy that is being deleted, or that is
// about other nodes now, asks nothing, which comes to the same.
//
// A kind of object that was not listed yet is refused as a whole ("nodeeni"), so
// that what it asked before stays in force, while the other kind goes on. So are
// the policies while the labels of this node are not known.
//
// What cannot be used is refused one by one, and what it asked before stays in
// force: a value that is none, an ENI that the instance metadata does not know.
//
// # Caveats
//
// The API is listed once and watched from then on; who is idle asks nothing. The
// NodeENIs of other nodes are read and forgotten. Of Nodes there is asked for this
// one alone, and for its metadata alone. A watch is resumed where it
// broke off, however the API went away; only when it no longer knows the place
// (410 Gone) is it listed again.
//
// A kernel's driver is asked for by name, so that an interface comes back when
// DPDK is switched off. It is ena; where an instance has another,
// Options.KernelDriver says so.
//
// The status of a policy has a part of each node, which that node applies and
// removes. The part of a node that is gone for good stays there: nobody else owns
// it.
package nodeeni
