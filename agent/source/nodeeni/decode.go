package nodeeni

import (
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"eniagent/agent/source/nodeeni/v1alpha1"
)

// object is a NodeENI as far as it can be read. One that cannot be must not hide
// the others of its list, nor end a watch.
type object struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	spec        v1alpha1.NodeENISpec
	attachments []attachment
	total       int   // attachments of all nodes
	err         error // why it cannot be read
	anybodys    bool  // nor can it be seen whose it is
}

// attachment is one of the status, at its index there.
type attachment struct {
	v1alpha1.ENIAttachment

	index int
}

// header is what is read of an object's metadata: the rest is large, and of no
// use here.
type header struct {
	metav1.TypeMeta
	Metadata struct {
		Name              string            `json:"name"`
		UID               types.UID         `json:"uid"`
		Generation        int64             `json:"generation"`
		ResourceVersion   string            `json:"resourceVersion"`
		DeletionTimestamp *metav1.Time      `json:"deletionTimestamp"`
		Annotations       map[string]string `json:"annotations"` // a bookmark's
		Labels            map[string]string `json:"labels"`      // a Node's
	} `json:"metadata"`
}

func headerOf(b []byte) (h header, err error) {
	if err = json.Unmarshal(b, &h); err != nil {
		err = fmt.Errorf("read metadata: %w", err)
	}
	return h, err
}

func (h header) meta() metav1.ObjectMeta {
	m := metav1.ObjectMeta{
		Name: h.Metadata.Name, UID: h.Metadata.UID, Generation: h.Metadata.Generation,
		ResourceVersion: h.Metadata.ResourceVersion, DeletionTimestamp: h.Metadata.DeletionTimestamp,
	}
	if end, ok := h.Metadata.Annotations[metav1.InitialEventsAnnotationKey]; ok {
		m.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: end}
	}
	return m
}

// UnmarshalJSON fails only where the object has no name to speak of it by.
func (o *object) UnmarshalJSON(b []byte) error {
	h, err := headerOf(b)
	if err != nil {
		return err
	}
	*o = object{TypeMeta: h.TypeMeta, ObjectMeta: h.meta()}
	var body struct {
		Spec   v1alpha1.NodeENISpec   `json:"spec"`
		Status v1alpha1.NodeENIStatus `json:"status"`
	}
	o.err = json.Unmarshal(b, &body)
	if o.err != nil {
		// It may still be seen whose it is.
		body.Status.Attachments, o.anybodys = whose(b)
	}
	o.spec, o.total = body.Spec, len(body.Status.Attachments)
	for i, a := range body.Status.Attachments {
		o.attachments = append(o.attachments, attachment{ENIAttachment: a, index: i})
	}
	return nil
}

// whose are the attachments of an object that cannot be read, with no more than
// their nodes; anybody's when not even these can be.
func whose(b []byte) (all []v1alpha1.ENIAttachment, anybodys bool) {
	var body struct {
		Status struct {
			Attachments []struct {
				NodeID string `json:"nodeID"`
			} `json:"attachments"`
		} `json:"status"`
	}
	if err := json.Unmarshal(b, &body); err != nil {
		return nil, true
	}
	for _, a := range body.Status.Attachments {
		all = append(all, v1alpha1.ENIAttachment{NodeID: a.NodeID})
	}
	return all, false
}

// keep drops the attachments of other nodes, and says whether the object
// concerns this one. One of which nobody can tell whose it is concerns all.
func (o *object) keep(node string) bool {
	if o.anybodys {
		o.spec = v1alpha1.NodeENISpec{}
		return true
	}
	var own []attachment
	for _, a := range o.attachments {
		if a.NodeID == node {
			own = append(own, a)
		}
	}
	o.attachments = own
	if len(own) == 0 {
		*o = object{TypeMeta: o.TypeMeta, ObjectMeta: metav1.ObjectMeta{Name: o.Name, ResourceVersion: o.ResourceVersion, Annotations: o.Annotations}}
	}
	return len(own) > 0
}

// DeepCopyObject makes it a runtime.Object.
func (o *object) DeepCopyObject() runtime.Object {
	c := &object{TypeMeta: o.TypeMeta, ObjectMeta: *o.ObjectMeta.DeepCopy(), spec: *o.spec.DeepCopy(), total: o.total, err: o.err, anybodys: o.anybodys}
	c.attachments = slices.Clone(o.attachments)
	return c
}
