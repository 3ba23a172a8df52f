// Package v1alpha1 is the NodeENI resource of networking.k8s.aws/v1alpha1, field
// by field as the AWS multi-ENI controller has it: that one writes the objects'
// status, the agent reads them.
//
// The resource's definition in deploy/kubernetes/crds is generated from these
// types. It asks for no more than the controller's own does: objects that are in
// a cluster already stay valid. What an agent cannot use, it refuses itself, with
// the reason.
//
// +groupName=networking.k8s.aws
// +kubebuilder:object:generate=true
package v1alpha1
