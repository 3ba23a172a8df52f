package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The names of the resource.
const (
	Group    = "networking.k8s.aws"
	Version  = "v1alpha1"
	Kind     = "NodeENI"
	Resource = "nodeenis"
	// Finalizer is the controller's: it detaches the ENIs before the object goes.
	Finalizer = "nodeeni.networking.k8s.aws/finalizer"
	// Attached is the status of an attachment that the node has.
	Attached = "attached"
)

// GroupVersion is the group and version of the resource.
func GroupVersion() schema.GroupVersion { return schema.GroupVersion{Group: Group, Version: Version} }

// NodeENI asks for elastic network interfaces on the nodes that it selects, and
// says how the nodes configure them.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=neni
// +kubebuilder:printcolumn:name="Index",type=integer,JSONPath=`.spec.deviceIndex`,description="Device index of the ENI"
// +kubebuilder:printcolumn:name="MTU",type=integer,JSONPath=`.spec.mtu`,description="MTU of the interface"
// +kubebuilder:printcolumn:name="DPDK",type=boolean,JSONPath=`.spec.enableDPDK`,description="Whether the interface is bound to a DPDK driver"
// +kubebuilder:printcolumn:name="Resource",type=string,JSONPath=`.spec.dpdkResourceName`,description="Device plugin resource that pods ask for"
// +kubebuilder:printcolumn:name="First node",type=string,JSONPath=`.status.attachments[0].nodeID`,description="First of the nodes that have an ENI attached"
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.attachments[0].state`,description="What the interface is there"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.attachments[0].conditions[?(@.type=="Ready")].status`,description="Whether it is as asked there"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.attachments[0].conditions[?(@.type=="Ready")].reason`,priority=1,description="How it stands there"
// +kubebuilder:printcolumn:name="Driver",type=string,JSONPath=`.spec.dpdkDriver`,priority=1,description="DPDK driver"
// +kubebuilder:printcolumn:name="PCI",type=string,JSONPath=`.spec.dpdkPCIAddress`,priority=1,description="PCI address of the interface on its node"
// +kubebuilder:printcolumn:name="ENI",type=string,JSONPath=`.status.attachments[0].eniID`,priority=1,description="ENI on the first node"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeENI struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec NodeENISpec `json:"spec,omitempty"`
	// +optional
	Status NodeENIStatus `json:"status,omitempty"`
}

// NodeENISpec is what is asked for.
type NodeENISpec struct {
	// Labels to select nodes that should have ENIs attached
	NodeSelector map[string]string `json:"nodeSelector"`
	// AWS Subnet ID where the ENI should be created
	// +optional
	SubnetID string `json:"subnetID,omitempty"`
	// AWS Subnet Name where the ENI should be created (used if subnetID is not provided)
	// +optional
	SubnetName string `json:"subnetName,omitempty"`
	// List of AWS Subnet IDs; an ENI is created in each of them
	// +optional
	SubnetIDs []string `json:"subnetIDs,omitempty"`
	// List of AWS Subnet Names (used if subnetIDs is not provided)
	// +optional
	SubnetNames []string `json:"subnetNames,omitempty"`
	// AWS Security Group IDs to attach to the ENI
	// +optional
	SecurityGroupIDs []string `json:"securityGroupIDs,omitempty"`
	// AWS Security Group Names to attach to the ENI (used if securityGroupIDs is not provided)
	// +optional
	SecurityGroupNames []string `json:"securityGroupNames,omitempty"`
	// Device index for the ENI (default: 1)
	// +optional
	// +kubebuilder:default=1
	DeviceIndex int `json:"deviceIndex,omitempty"`
	// Whether to delete the ENI when the node is terminated
	// +optional
	// +kubebuilder:default=true
	DeleteOnTermination bool `json:"deleteOnTermination,omitempty"`
	// Description for the ENI
	// +optional
	Description string `json:"description,omitempty"`
	// Maximum Transmission Unit (MTU) of the interface; 0 or none leaves it as it is
	// +optional
	MTU int `json:"mtu,omitempty"`
	// Whether to bind the interface to a DPDK driver
	// +optional
	EnableDPDK bool `json:"enableDPDK,omitempty"`
	// DPDK driver to bind to (default: vfio-pci)
	// +optional
	DPDKDriver string `json:"dpdkDriver,omitempty"`
	// Resource of the SR-IOV device plugin that pods ask for, such as intel.com/sriov
	// +optional
	DPDKResourceName string `json:"dpdkResourceName,omitempty"`
	// PCI address of the interface on its node (e.g., 0000:00:06.0); without one it is found by the MAC address of the ENI
	// +optional
	DPDKPCIAddress string `json:"dpdkPCIAddress,omitempty"`
}

// NodeENIStatus is what the controller did.
type NodeENIStatus struct {
	// +optional
	Attachments []ENIAttachment `json:"attachments,omitempty"`
}

// ENIAttachment is an ENI on a node.
type ENIAttachment struct {
	// Name of the node
	// +optional
	NodeID string `json:"nodeID,omitempty"`
	// EC2 instance ID
	// +optional
	InstanceID string `json:"instanceID,omitempty"`
	// ID of the attached ENI
	// +optional
	ENIID string `json:"eniID,omitempty"`
	// ID of the ENI attachment
	// +optional
	AttachmentID string `json:"attachmentID,omitempty"`
	// ID of the subnet where the ENI was created
	// +optional
	SubnetID string `json:"subnetID,omitempty"`
	// CIDR block of the subnet where the ENI was created
	// +optional
	SubnetCIDR string `json:"subnetCIDR,omitempty"`
	// Maximum Transmission Unit (MTU) configured for the ENI
	// +optional
	MTU int `json:"mtu,omitempty"`
	// Device index used for this ENI attachment
	// +optional
	DeviceIndex int `json:"deviceIndex,omitempty"`
	// Status of the attachment
	// +optional
	Status string `json:"status,omitempty"`
	// Timestamp of the last update
	// +optional
	LastUpdated metav1.Time `json:"lastUpdated,omitempty"`
	// Whether the ENI is bound to DPDK
	// +optional
	DPDKBound bool `json:"dpdkBound,omitempty"`
	// DPDK driver used for this ENI
	// +optional
	DPDKDriver string `json:"dpdkDriver,omitempty"`
	// Resource name used for the DPDK interface in SRIOV device plugin
	// +optional
	DPDKResourceName string `json:"dpdkResourceName,omitempty"`
	// PCI address of the ENI when bound to DPDK
	// +optional
	DPDKPCIAddress string `json:"dpdkPCIAddress,omitempty"`
	// What the interface is on its node: unknown, down, up, configuring, bound, degraded, error, gone or quarantined
	// +optional
	State string `json:"state,omitempty"`
	// Since when it is that
	// +optional
	StateSince *metav1.Time `json:"stateSince,omitempty"`
	// Driver that the interface is bound to
	// +optional
	Driver string `json:"driver,omitempty"`
	// PCI address of the interface on its node
	// +optional
	PCIAddress string `json:"pciAddress,omitempty"`
	// How the interface stands against what the object asks: Ready, and why not
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ConditionReady is the type of the condition that says whether an interface is
// as asked.
const ConditionReady = "Ready"

// NodeENIList is a list of them.
//
// +kubebuilder:object:root=true
type NodeENIList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []NodeENI `json:"items"`
}
