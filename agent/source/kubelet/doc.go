// Package kubelet says which PCI functions the kubelet of this node has
// allocated to pods, by its pod-resources API (k8s.io/kubelet,
// pkg/apis/podresources/v1), so that nobody takes them away. It is a source of
// facts and not of desired state, and the only importer of that API and of gRPC.
//
//	c := kubelet.New("/var/lib/kubelet/pod-resources/kubelet.sock")
//	allocated, err := c.Allocated(ctx, time.Now())
//
// No socket is no kubelet: nothing is allocated. A socket at which nobody
// answers in time, or not as the API says, is an error, and never "nothing
// allocated"; so is a socket that was there once and is gone, as while a
// kubelet starts anew.
//
// A device is a function when its id is a PCI address, as the SR-IOV device
// plugin's are, or contains one. DRA drivers write it with dashes, because a
// device name is a DNS label: "0000-3b-02-1", "pci-0000-3b-02-1".
//
// One connection is made for each question, and closed: that needs no thought
// of a kubelet that starts anew, costs less than a millisecond, and leaves
// nothing behind. Callers share answers by saying how old one may be.
//
// # Caveats
//
// What the API does not tell cannot be known. It lists no init containers but
// those that keep running. A kubelet that has just started lists only the pods
// that it knows already. Ids that are numbers or random (shared RDMA, IOMMU
// groups) name no function. A function that is only offered to pods
// (GetAllocatableResources) is nobody's: holding it would hold it for ever.
package kubelet
