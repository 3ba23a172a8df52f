// Package kubelet says which PCI functions the kubelet of this node has
// allocated to pods, by its pod-resources API (k8s.io/kubelet,
// pkg/apis/podresources/v1), so that nobody takes them away. It is a source of
// facts and not of desired state, and the only importer of that API and of gRPC.
//
//	c := kubelet.New("/var/lib/kubelet/pod-resources/kubelet.sock", groups)
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
// KubeVirt's are IOMMU groups ("23"): each then stands for the functions that its
// group has for programs, looked up when the kubelet is asked.
//
// One connection is made for each question, and closed: that needs no thought
// of a kubelet that starts anew, costs less than a millisecond, and leaves
// nothing behind. Callers share answers by saying how old one may be.
//
// # Caveats
//
// What the API does not tell cannot be known. It lists no init containers but
// those that keep running. A kubelet that has just started lists only the pods
// that it knows already. Random ids (shared RDMA of some plugins) name no function,
// and a number that is no group's holds one too many where there is such a group.
// Before Kubernetes 1.34 a kubelet lists pods that have completed, too, until they are
// deleted (KubeletPodResourcesListUseActivePods); the API does not tell which these
// are. A function that is only offered to pods (GetAllocatableResources) is nobody's:
// holding it would hold it for ever.
package kubelet
