package kube

import (
	"context"
	"encoding/json"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"eniagent/agent/source/nodeeni/v1alpha1"
)

// controller writes NodeENIs as the AWS multi-ENI controller does. It knows none
// of the fields that the agent has added, writes whole statuses, and on a conflict
// writes what it had in mind over what there is.
type controller struct {
	t         testing.TB
	client    client.Client
	conflicts int
}

// controlled is a NodeENI as the controller knows it.
type controlled struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   v1alpha1.NodeENISpec `json:"spec,omitempty"`
	Status controlledStatus     `json:"status,omitempty"`
}

type controlledStatus struct {
	Attachments []controlledAttachment `json:"attachments,omitempty"`
}

type controlledAttachment struct {
	NodeID           string      `json:"nodeID"`
	InstanceID       string      `json:"instanceID,omitempty"`
	ENIID            string      `json:"eniID"`
	AttachmentID     string      `json:"attachmentID,omitempty"`
	SubnetID         string      `json:"subnetID,omitempty"`
	SubnetCIDR       string      `json:"subnetCIDR,omitempty"`
	MTU              int         `json:"mtu,omitempty"`
	DeviceIndex      int         `json:"deviceIndex,omitempty"`
	Status           string      `json:"status,omitempty"`
	LastUpdated      metav1.Time `json:"lastUpdated,omitempty"`
	DPDKBound        bool        `json:"dpdkBound,omitempty"`
	DPDKDriver       string      `json:"dpdkDriver,omitempty"`
	DPDKResourceName string      `json:"dpdkResourceName,omitempty"`
	DPDKPCIAddress   string      `json:"dpdkPCIAddress,omitempty"`
}

// DeepCopyObject makes it a runtime.Object.
func (o *controlled) DeepCopyObject() runtime.Object {
	b, err := json.Marshal(o)
	c := &controlled{}
	if err == nil {
		err = json.Unmarshal(b, c)
	}
	if err != nil {
		panic(err) // it came from JSON
	}
	return c
}

func newController(t testing.TB, c *cluster) *controller {
	t.Helper()
	known := runtime.NewScheme()
	known.AddKnownTypeWithName(v1alpha1.GroupVersion().WithKind(v1alpha1.Kind), &controlled{})
	metav1.AddToGroupVersion(known, v1alpha1.GroupVersion())
	cl, err := client.New(c.env.Config, client.Options{Scheme: known})
	if err != nil {
		t.Fatal(err)
	}
	return &controller{t: t, client: cl}
}

// attachment is what it appends for an ENI that it attached to a node.
func attachment(node, eni string, spec v1alpha1.NodeENISpec) controlledAttachment {
	return controlledAttachment{
		NodeID: node, ENIID: eni, InstanceID: "i-0123456789abcdef0", AttachmentID: "eni-attach-0" + eni[4:], SubnetID: "subnet-08c2ddc07218f1105",
		SubnetCIDR: "10.0.16.0/20", MTU: spec.MTU, DeviceIndex: spec.DeviceIndex, Status: v1alpha1.Attached, LastUpdated: metav1.Now(),
	}
}

// status writes the whole status of an object.
func (k *controller) status(name string, change func(*controlled)) {
	k.t.Helper()
	o := &controlled{}
	k.must(k.client.Get(context.Background(), client.ObjectKey{Name: name}, o))
	change(o)
	for range 20 {
		err := k.client.Status().Update(context.Background(), o)
		if !apierrors.IsConflict(err) {
			k.must(err)
			return
		}
		k.conflicts++
		latest := &controlled{}
		k.must(k.client.Get(context.Background(), client.ObjectKey{Name: name}, latest))
		latest.Status = o.Status
		o = latest
	}
	k.t.Fatalf("the controller cannot write %s: conflicts", name)
}

// update writes the object itself, such as its finalizers.
func (k *controller) update(name string, change func(*controlled)) {
	k.t.Helper()
	for range 20 {
		o := &controlled{}
		err := k.client.Get(context.Background(), client.ObjectKey{Name: name}, o)
		if apierrors.IsNotFound(err) {
			return
		}
		k.must(err)
		change(o)
		if err = k.client.Update(context.Background(), o); !apierrors.IsConflict(err) {
			k.must(client.IgnoreNotFound(err))
			return
		}
	}
	k.t.Fatalf("the controller cannot write %s: conflicts", name)
}

// create is a user's, and what the controller does then: the finalizer, and an
// attachment after the other.
func (k *controller) create(name string, spec v1alpha1.NodeENISpec, on ...[2]string) {
	k.t.Helper()
	if spec.NodeSelector == nil {
		spec.NodeSelector = map[string]string{"ng": "multi-eni"}
	}
	o := &controlled{Spec: spec}
	o.Name = name
	k.must(k.client.Create(context.Background(), o))
	k.t.Cleanup(func() {
		k.must(client.IgnoreNotFound(k.client.Delete(context.Background(), o)))
		k.update(name, func(o *controlled) { o.Finalizers = nil })
	})
	k.update(name, func(o *controlled) { o.Finalizers = []string{v1alpha1.Finalizer} })
	for _, at := range on {
		k.attach(name, at[0], at[1])
	}
}

func (k *controller) attach(name, node, eni string) {
	k.t.Helper()
	k.status(name, func(o *controlled) {
		o.Status.Attachments = append(o.Status.Attachments, attachment(node, eni, o.Spec))
	})
}

// detach drops the attachments of an ENI.
func (k *controller) detach(name, eni string) {
	k.t.Helper()
	k.status(name, func(o *controlled) {
		o.Status.Attachments = slices.DeleteFunc(o.Status.Attachments, func(a controlledAttachment) bool { return a.ENIID == eni })
	})
}

// touch renews the attachments, as it does whenever it looks.
func (k *controller) touch(name string) {
	k.t.Helper()
	k.status(name, func(o *controlled) {
		for i := range o.Status.Attachments {
			o.Status.Attachments[i].LastUpdated = metav1.Now()
		}
	})
}

// remove is a user's kubectl delete --wait=false; then the controller detaches the
// ENIs, without a word with the node, and lets the object go.
func (k *controller) remove(name string, detach func()) {
	k.t.Helper()
	o := &controlled{}
	o.Name = name
	k.must(k.client.Delete(context.Background(), o))
	k.update(name, func(o *controlled) {
		o.Annotations = map[string]string{"aws-multi-eni-controller/cleanup-start-time": metav1.Now().Format("2006-01-02T15:04:05Z07:00")}
	})
	if detach != nil {
		detach()
	}
	k.update(name, func(o *controlled) { o.Finalizers, o.Annotations = nil, nil })
}

// spec is a user's change of what is asked.
func (k *controller) spec(name string, change func(*v1alpha1.NodeENISpec)) {
	k.t.Helper()
	k.update(name, func(o *controlled) { change(&o.Spec) })
}

func (k *controller) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}
