package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The names of the resource.
const (
	Group    = "eniagent.dev"
	Version  = "v1alpha1"
	Kind     = "NodeInterfacePolicy"
	Resource = "nodeinterfacepolicies"
	// ConditionReady of a node says whether all of a policy is as asked there.
	ConditionReady = "Ready"
)

// GroupVersion is the group and version of the resource.
func GroupVersion() schema.GroupVersion { return schema.GroupVersion{Group: Group, Version: Version} }

// NodeInterfacePolicy says what the extra network interfaces of the nodes that it
// selects shall be. An interface that no policy asks for any more gets back what
// it had before.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=nip
// +kubebuilder:printcolumn:name="Nodes",type=string,JSONPath=`.spec.nodeSelector.matchLabels`,description="Labels of the nodes that are selected"
// +kubebuilder:printcolumn:name="PCI",type=string,JSONPath=`.spec.interfaces[0].pci`,description="PCI address of the first interface"
// +kubebuilder:printcolumn:name="MAC",type=string,JSONPath=`.spec.interfaces[0].mac`,priority=1,description="MAC address of the first interface"
// +kubebuilder:printcolumn:name="Name",type=string,JSONPath=`.spec.interfaces[0].name`,priority=1,description="Name of the first interface"
// +kubebuilder:printcolumn:name="Driver",type=string,JSONPath=`.spec.interfaces[0].driver`,description="Driver of the first interface"
// +kubebuilder:printcolumn:name="VFs",type=integer,JSONPath=`.spec.interfaces[0].vfs.count`,description="Virtual functions of the first interface"
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.interfaces[0].pool`,priority=1,description="Pool of the first interface"
// +kubebuilder:printcolumn:name="First node",type=string,JSONPath=`.status.nodes[0].node`,description="First of the nodes that it concerns"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.nodes[0].conditions[?(@.type=="Ready")].status`,description="Whether that node is as asked"
// +kubebuilder:printcolumn:name="Why",type=string,JSONPath=`.status.nodes[0].conditions[?(@.type=="Ready")].message`,priority=1,description="Why it is not"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeInterfacePolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec NodeInterfacePolicySpec `json:"spec"`
	// +optional
	Status NodeInterfacePolicyStatus `json:"status,omitempty"`
}

// NodeInterfacePolicySpec is what is asked for.
type NodeInterfacePolicySpec struct {
	// Labels of the nodes that it is about; {} selects every node, as everywhere in Kubernetes
	NodeSelector NodeSelector `json:"nodeSelector"`
	// What is asked of each interface. What is not mentioned is left as it is. An
	// interface that another object asks for too is left as it is, until only one does
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(a, !has(a.pci) || self.exists_one(b, has(b.pci) && (b.pci.size() < 12 ? '0000:' + b.pci : b.pci).lowerAscii() == (a.pci.size() < 12 ? '0000:' + a.pci : a.pci).lowerAscii()))",message="one pci is in several interfaces; merge them"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !has(a.mac) || self.exists_one(b, has(b.mac) && b.mac.lowerAscii() == a.mac.lowerAscii()))",message="one mac is in several interfaces; merge them"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !has(a.name) || self.exists_one(b, has(b.name) && b.name == a.name))",message="one name is in several interfaces; merge them"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !has(a.pool) || !has(a.driver) || self.all(b, !has(b.pool) || !has(b.driver) || a.pool != b.pool || a.driver == b.driver))",message="interfaces of one pool are asked to be on several drivers; give one of them another pool"
	Interfaces []Interface `json:"interfaces"`
}

// NodeSelector selects nodes by their labels. All of it must be true of a node.
type NodeSelector struct {
	// Labels that the node has, with these values
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	MatchLabels map[string]LabelValue `json:"matchLabels,omitempty"`
	// What else is true of its labels
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	MatchExpressions []NodeSelectorRequirement `json:"matchExpressions,omitempty"`
}

// LabelValue is the value of a label.
//
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^(([A-Za-z0-9][A-Za-z0-9_.-]*)?[A-Za-z0-9])?$`
type LabelValue string

// NodeSelectorRequirement is what is to be true of one label.
//
// +kubebuilder:validation:XValidation:rule="self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : !has(self.values) || self.values.size() == 0",message="In and NotIn need values, Exists and DoesNotExist have none; add or remove values"
type NodeSelectorRequirement struct {
	// Name of the label
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?([A-Za-z0-9][A-Za-z0-9_.-]*)?[A-Za-z0-9]$`
	Key string `json:"key"`
	// How it is compared
	// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
	Operator string `json:"operator"`
	// With what
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Values []LabelValue `json:"values,omitempty"`
}

// Interface is what is asked of one PCI function of a node.
//
// +kubebuilder:validation:XValidation:rule="[has(self.pci), has(self.mac), has(self.name)].exists_one(x, x)",message="want exactly one of pci, mac, name, to say which interface it is; add one or keep one of them"
// +kubebuilder:validation:XValidation:rule="has(self.state) && self.state == 'released' || has(self.driver) || has(self.up) || has(self.mtu) || has(self.pool) || has(self.vfs) || has(self.altNames) || has(self.channels) || has(self.rings) || has(self.features)",message="nothing is asked of it; add driver, up, mtu, pool or vfs, or \"state: released\""
// +kubebuilder:validation:XValidation:rule="!has(self.state) || self.state != 'released' || !(has(self.driver) || has(self.up) || has(self.mtu) || has(self.pool) || has(self.vfs) || has(self.altNames) || has(self.channels) || has(self.rings) || has(self.features))",fieldPath=".state",message="a released interface gets its baseline back; remove driver, up, mtu, pool, vfs, altNames, channels, rings and features"
// +kubebuilder:validation:XValidation:rule="!has(self.state) || self.state != 'released' || !has(self.onStop)",fieldPath=".onStop",message="a released interface is given back whether or not the agent stops; remove onStop"
// +kubebuilder:validation:XValidation:rule="!has(self.driver) || !(self.driver in ['vfio-pci', 'uio_pci_generic', 'igb_uio']) || !(has(self.up) || has(self.mtu) || has(self.altNames) || has(self.channels) || has(self.rings) || has(self.features))",fieldPath=".driver",message="this driver leaves no network interface to configure; remove up, mtu, altNames, channels, rings and features"
// +kubebuilder:validation:XValidation:rule="!has(self.driver) || !(self.driver in ['vfio-pci', 'uio_pci_generic', 'igb_uio']) || !has(self.vfs)",fieldPath=".driver",message="only a kernel driver makes virtual functions; remove vfs, or this driver"
type Interface struct {
	// PCI address, domain:bus:device.function in hex, such as 0000:3b:00.1
	// +optional
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F][.][0-7]$')",message="want domain:bus:device.function in hex, such as \"0000:3b:00.1\""
	PCI string `json:"pci,omitempty"`
	// MAC address, the permanent one
	// +optional
	MAC MAC `json:"mac,omitempty"`
	// Name of the network interface, or an alternative name. It is looked up once and remembered as a PCI address
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=127
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^/:[:space:][:cntrl:]]+$') && self != '.' && self != '..'",message="want an interface's name: at most 127 bytes, no '/', ':' or spaces"
	Name string `json:"name,omitempty"`
	// configured, or released: what it was before the agent first touched it is restored
	// +optional
	// +kubebuilder:validation:Enum=configured;released
	State string `json:"state,omitempty"`
	// What a stop of the agent does with it and its virtual functions: retain, as they are, or release, until the next start. Without it the agent's flag --on-stop says it
	// +optional
	// +kubebuilder:validation:Enum=retain;release
	OnStop string `json:"onStop,omitempty"`
	// Whether it is administratively up
	// +optional
	Up *bool `json:"up,omitempty"`
	// MTU in bytes
	// +optional
	MTU *MTU `json:"mtu,omitempty"`
	// Names that it shall have too. Those that others gave it stay
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	AltNames []AltName `json:"altNames,omitempty"`
	// Queues
	// +optional
	Channels *Channels `json:"channels,omitempty"`
	// Ring sizes in descriptors
	// +optional
	Rings *Rings `json:"rings,omitempty"`
	// Offloads, by the names that ethtool -k lists, such as tx-tcp-segmentation
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=64
	// +kubebuilder:validation:XValidation:rule="self.all(k, !(k in ['tx-checksumming', 'tx', 'rx-checksumming', 'rx', 'scatter-gather', 'sg', 'tcp-segmentation-offload', 'tso', 'generic-segmentation-offload', 'gso', 'generic-receive-offload', 'gro', 'large-receive-offload', 'lro', 'rx-vlan-offload', 'rxvlan', 'tx-vlan-offload', 'txvlan', 'ntuple-filters', 'ntuple', 'receive-hashing', 'rxhash']))",message="one of them is ethtool's word; want the kernel's, as ethtool -k lists them below it, such as tx-tcp-segmentation"
	Features map[string]bool `json:"features,omitempty"`
	// Driver as in /sys/bus/pci/drivers: vfio-pci, uio_pci_generic, igb_uio, or one of the kernel
	// +optional
	Driver Driver `json:"driver,omitempty"`
	// Virtual functions. A change of their number makes all of them anew, and waits until none is in use
	// +optional
	VFs *VFs `json:"vfs,omitempty"`
	// Resource of the SR-IOV device plugin that it is in while it is as asked, such as intel.com/sriov_dpdk
	// +optional
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*/[a-zA-Z0-9_-]{1,63}$')",message="want the name of a resource of the device plugin, prefix/name, such as intel.com/sriov_dpdk: a DNS subdomain, then letters, digits, '-' and '_'"
	Pool string `json:"pool,omitempty"`
	// The reason, in words, for touching it although it is on the node's management path
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.trim() != \"\"",message="want the reason, in words, for touching the node's management path"
	AllowManagementPath string `json:"allowManagementPath,omitempty"`
}

// MTU is in bytes.
//
// +kubebuilder:validation:Minimum=68
// +kubebuilder:validation:Maximum=65535
type MTU int32

// MAC is the MAC address of one interface, such as 52:54:00:00:00:01.
//
// +kubebuilder:validation:MaxLength=17
// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9a-fA-F][02468aceACE]((:[0-9a-fA-F]{2}){5}|(-[0-9a-fA-F]{2}){5}|[0-9a-fA-F]{2}([.][0-9a-fA-F]{4}){2})$') && self.matches('[1-9a-fA-F]')",message="want the MAC address of one interface, such as 52:54:00:00:00:01"
type MAC string

// AltName is an alternative name.
//
// +kubebuilder:validation:MaxLength=127
// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]*[!-$&-.;-~][!-$&-.0-9;-~]*$') && self != '.' && self != '..'",message="want a name of 1 to 127 characters, no '/', ':', '%' or spaces, not only digits"
type AltName string

// Driver is the name of a PCI driver.
//
// +kubebuilder:validation:MaxLength=55
// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9][A-Za-z0-9_-]*$')",message="want a driver's name as in /sys/bus/pci/drivers, such as vfio-pci"
// +kubebuilder:validation:XValidation:rule="!(self in ['vfio_pci', 'uio-pci-generic', 'uio_pci-generic', 'uio-pci_generic', 'igb-uio'])",message="that is a module's name; the driver is vfio-pci, uio_pci_generic or igb_uio"
type Driver string

// Setting is a number of queues or descriptors.
//
// +kubebuilder:validation:Minimum=0
// +kubebuilder:validation:Maximum=1048576
type Setting int32

// RingSize is a number of descriptors.
//
// +kubebuilder:validation:Minimum=1
// +kubebuilder:validation:Maximum=1048576
type RingSize int32

// Channels are queues.
//
// +kubebuilder:validation:XValidation:rule="has(self.rx) || has(self.tx) || has(self.combined)",message="nothing is asked; add rx, tx or combined, or remove channels"
type Channels struct {
	// +optional
	RX *Setting `json:"rx,omitempty"`
	// +optional
	TX *Setting `json:"tx,omitempty"`
	// +optional
	Combined *Setting `json:"combined,omitempty"`
}

// Rings are ring sizes.
//
// +kubebuilder:validation:XValidation:rule="has(self.rx) || has(self.tx) || has(self.mini) || has(self.jumbo)",message="nothing is asked; add rx, tx, mini or jumbo, or remove rings"
type Rings struct {
	// +optional
	RX *RingSize `json:"rx,omitempty"`
	// +optional
	TX *RingSize `json:"tx,omitempty"`
	// +optional
	Mini *Setting `json:"mini,omitempty"`
	// +optional
	Jumbo *Setting `json:"jumbo,omitempty"`
}

// VFs are the virtual functions of an interface.
//
// +kubebuilder:validation:XValidation:rule="self.count > 0 || !has(self.defaults) && !has(self.overrides)",message="there are to be none, so nothing can be asked of them; remove defaults and overrides"
// +kubebuilder:validation:XValidation:rule="!has(self.defaults) || !has(self.defaults.mac)",fieldPath=".defaults.mac",message="one MAC for all of them; give each its own, in overrides"
// +kubebuilder:validation:XValidation:rule="!has(self.defaults) || has(self.defaults.driver) || has(self.defaults.up) || has(self.defaults.mtu) || has(self.defaults.pool) || has(self.defaults.vlan) || has(self.defaults.trust) || has(self.defaults.spoofCheck) || has(self.defaults.linkState) || has(self.defaults.minTxRate) || has(self.defaults.maxTxRate) || has(self.defaults.mac)",fieldPath=".defaults",message="nothing is asked; add driver, up, mtu, pool, vlan, trust, spoofCheck, linkState, minTxRate or maxTxRate, or remove it"
// +kubebuilder:validation:XValidation:rule="!has(self.overrides) || self.overrides.all(o, o.index < self.count)",fieldPath=".overrides",message="an index is not below count; VFs are counted from 0"
// +kubebuilder:validation:XValidation:rule="!has(self.defaults) || !has(self.defaults.driver) || !(self.defaults.driver in ['vfio-pci', 'uio_pci_generic', 'igb_uio']) || !has(self.defaults.up) && !has(self.defaults.mtu)",fieldPath=".defaults.driver",message="this driver leaves no network interface to configure; remove up and mtu"
// +kubebuilder:validation:XValidation:rule="!has(self.overrides) || self.overrides.all(o, !has(o.up) && !has(o.mtu) || !((has(o.driver) ? o.driver : has(self.defaults) && has(self.defaults.driver) ? self.defaults.driver : \"\") in ['vfio-pci', 'uio_pci_generic', 'igb_uio']))",fieldPath=".overrides",message="up or mtu is asked of a VF whose driver leaves no network interface to configure; remove them, or give it a driver of the kernel"
// +kubebuilder:validation:XValidation:rule="!has(self.defaults) || !has(self.defaults.pool) || self.defaults.pool != 'none'",fieldPath=".defaults.pool",message="none is for overrides; remove it"
// +kubebuilder:validation:XValidation:rule="!has(self.defaults) || !has(self.defaults.minTxRate) || !has(self.defaults.maxTxRate) || self.defaults.maxTxRate == 0 || self.defaults.minTxRate <= self.defaults.maxTxRate",fieldPath=".defaults.minTxRate",message="minTxRate is above maxTxRate; swap them, or ask for less"
// +kubebuilder:validation:XValidation:rule="!has(self.overrides) || self.overrides.all(o, (has(o.maxTxRate) ? o.maxTxRate : has(self.defaults) && has(self.defaults.maxTxRate) ? self.defaults.maxTxRate : 0) == 0 || (has(o.minTxRate) ? o.minTxRate : has(self.defaults) && has(self.defaults.minTxRate) ? self.defaults.minTxRate : 0) <= (has(o.maxTxRate) ? o.maxTxRate : has(self.defaults) && has(self.defaults.maxTxRate) ? self.defaults.maxTxRate : 0))",fieldPath=".overrides",message="the minTxRate of a VF is above its maxTxRate, with those of the defaults; swap them, or ask for less"
// +kubebuilder:validation:XValidation:rule="!has(self.defaults) || !has(self.defaults.pool) || !has(self.defaults.driver) || !has(self.overrides) || self.overrides.all(o, !has(o.driver) || o.driver == self.defaults.driver || has(o.pool) && o.pool != self.defaults.pool)",fieldPath=".overrides",message="a VF in the pool of the others is asked to be on another driver; give it another pool, or \"pool: none\""
type VFs struct {
	// How many there shall be, 0 for none
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=256
	Count int32 `json:"count"`
	// What is asked of each
	// +optional
	Defaults *VF `json:"defaults,omitempty"`
	// What is asked of one, field by field in the place of the defaults
	// +optional
	// +listType=map
	// +listMapKey=index
	// +kubebuilder:validation:MaxItems=256
	Overrides []Override `json:"overrides,omitempty"`
	// The reason, in words, for making VFs anew, with another count, that somebody else has configured
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.trim() != \"\"",message="want the reason, in words, for making VFs anew that somebody else has configured"
	ReplaceVFs string `json:"replaceVFs,omitempty"`
}

// VF is what is asked of a virtual function.
type VF struct {
	// Without one it gets the kernel's own
	// +optional
	Driver Driver `json:"driver,omitempty"`
	// +optional
	Up *bool `json:"up,omitempty"`
	// +optional
	MTU *MTU `json:"mtu,omitempty"`
	// As that of an interface; in an override none takes it out of that of the others
	// +optional
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:XValidation:rule="self == 'none' || self.contains('/')",message="want the name of a resource of the device plugin, prefix/name, such as intel.com/sriov_dpdk: a DNS subdomain, then letters, digits, '-' and '_'"
	// +kubebuilder:validation:Pattern=`^(none|[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*/[a-zA-Z0-9_-]{1,63})$`
	Pool string `json:"pool,omitempty"`
	// That of one VF only. A driver takes it when it is bound
	// +optional
	MAC MAC `json:"mac,omitempty"`
	// +optional
	VLAN *VLAN `json:"vlan,omitempty"`
	// +optional
	Trust *bool `json:"trust,omitempty"`
	// +optional
	SpoofCheck *bool `json:"spoofCheck,omitempty"`
	// That of the physical function, or always on or off
	// +optional
	// +kubebuilder:validation:Enum=auto;enable;disable
	LinkState string `json:"linkState,omitempty"`
	// +optional
	MinTxRate *Rate `json:"minTxRate,omitempty"`
	// +optional
	MaxTxRate *Rate `json:"maxTxRate,omitempty"`
}

// Rate is in Mbit/s; 0 is none.
//
// +kubebuilder:validation:Minimum=0
// +kubebuilder:validation:Maximum=1048576
type Rate int32

// Override is what is asked of one virtual function.
//
// +kubebuilder:validation:XValidation:rule="has(self.driver) || has(self.up) || has(self.mtu) || has(self.pool) || has(self.mac) || has(self.vlan) || has(self.trust) || has(self.spoofCheck) || has(self.linkState) || has(self.minTxRate) || has(self.maxTxRate)",message="nothing is asked; add driver, up, mtu, pool, mac, vlan, trust, spoofCheck, linkState, minTxRate or maxTxRate, or remove it"
type Override struct {
	// Which of them, counted from 0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	Index int32 `json:"index"`
	VF    `json:",inline"`
}

// VLAN is the VLAN of a virtual function. What is not named stays as it is.
//
// +kubebuilder:validation:XValidation:rule="has(self.id) || has(self.qos) || has(self.protocol)",message="nothing is asked; add id, such as {id: 100}, or for none {id: 0, qos: 0}"
type VLAN struct {
	// 0 is none
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	ID *int32 `json:"id,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=7
	QoS *int32 `json:"qos,omitempty"`
	// +optional
	// +kubebuilder:validation:Enum="802.1Q";"802.1ad"
	Protocol string `json:"protocol,omitempty"`
}

// NodeInterfacePolicyStatus is how the nodes stand.
type NodeInterfacePolicyStatus struct {
	// Each node that it concerns, by its agent
	// +optional
	// +listType=map
	// +listMapKey=node
	Nodes []NodeStatus `json:"nodes,omitempty"`
}

// NodeStatus is how one node stands.
type NodeStatus struct {
	// Name of the node
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
	// Generation of the policy that the node looked at
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Ready: whether all interfaces are as asked
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// How its interfaces stand, those first that are not as asked where there are many
	// +optional
	// +listType=map
	// +listMapKey=entry
	// +kubebuilder:validation:MaxItems=128
	Interfaces []InterfaceStatus `json:"interfaces,omitempty"`
}

// InterfaceStatus is how one interface stands.
type InterfaceStatus struct {
	// Its selector, such as "pci 0000:3b:00.1", and "vf 0" for a virtual function of it
	Entry string `json:"entry"`
	// PCI address that it stands for
	// +optional
	PCIAddress string `json:"pciAddress,omitempty"`
	// What it is: bound, up, down and others
	// +optional
	State string `json:"state,omitempty"`
	// How it stands against what is asked: right, held, refused and others
	// +optional
	Condition string `json:"condition,omitempty"`
	// Why
	// +optional
	Reason string `json:"reason,omitempty"`
	// Since when the condition holds
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// Driver that it is bound to
	// +optional
	Driver string `json:"driver,omitempty"`
	// Pool of the device plugin that it is in
	// +optional
	Pool string `json:"pool,omitempty"`
}

// NodeInterfacePolicyList is a list of them.
//
// +kubebuilder:object:root=true
type NodeInterfacePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []NodeInterfacePolicy `json:"items"`
}
