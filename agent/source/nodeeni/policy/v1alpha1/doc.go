// Package v1alpha1 is the NodeInterfacePolicy resource of eniagent.dev/v1alpha1:
// what a file of desired state can ask of a node's interfaces, for the nodes that
// a policy selects. Its fields have the names that they have in the file.
//
// The resource's definition in deploy/kubernetes/crds is generated from these
// types. It refuses what can be judged without knowing the node, with what to
// write instead; the agent judges all of it again.
//
// +groupName=eniagent.dev
// +kubebuilder:object:generate=true
package v1alpha1
