package nodeeni

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"eniagent/agent/source"
	"eniagent/agent/source/entry"
	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
)

// policy is a NodeInterfacePolicy as far as it can be read.
type policy struct {
	metav1.TypeMeta
	metav1.ObjectMeta

	selector   *metav1.LabelSelector // nil selects nothing
	interfaces json.RawMessage
	err        error                       // why it cannot be read
	nodes      []policyv1alpha1.NodeStatus // this one's part of the status
	total      int                         // nodes that have a part in it
}

// UnmarshalJSON fails only where the object has no name to speak of it by.
func (p *policy) UnmarshalJSON(b []byte) error {
	h, err := headerOf(b)
	if err != nil {
		return err
	}
	*p = policy{TypeMeta: h.TypeMeta, ObjectMeta: h.meta()}
	var body struct {
		Spec struct {
			NodeSelector *metav1.LabelSelector `json:"nodeSelector"`
			Interfaces   json.RawMessage       `json:"interfaces"`
		} `json:"spec"`
	}
	p.err = json.Unmarshal(b, &body)
	p.selector, p.interfaces = body.Spec.NodeSelector, body.Spec.Interfaces
	var rest struct {
		Status policyv1alpha1.NodeInterfacePolicyStatus `json:"status"`
	}
	if json.Unmarshal(b, &rest) == nil { // what is not, is written anew
		p.nodes, p.total = rest.Status.Nodes, len(rest.Status.Nodes)
	}
	return nil
}

// keep drops what the status says of other nodes. Which nodes a policy is about,
// their labels say.
func (p *policy) keep(node string) bool {
	var own []policyv1alpha1.NodeStatus
	for _, n := range p.nodes {
		if n.Node == node {
			own = append(own, n)
		}
	}
	p.nodes = own
	return true
}

// DeepCopyObject makes it a runtime.Object.
func (p *policy) DeepCopyObject() runtime.Object {
	c := &policy{TypeMeta: p.TypeMeta, ObjectMeta: *p.ObjectMeta.DeepCopy(), selector: p.selector.DeepCopy(), err: p.err, total: p.total}
	c.interfaces = append(c.interfaces, p.interfaces...)
	for _, n := range p.nodes {
		c.nodes = append(c.nodes, *n.DeepCopy())
	}
	return c
}

// node is the Node of this node.
type node struct {
	metav1.TypeMeta
	metav1.ObjectMeta
}

// UnmarshalJSON takes its name and its labels.
func (n *node) UnmarshalJSON(b []byte) error {
	h, err := headerOf(b)
	if err != nil {
		return err
	}
	*n = node{TypeMeta: h.TypeMeta, ObjectMeta: h.meta()}
	n.Labels = h.Metadata.Labels
	return nil
}

func (n *node) keep(name string) bool { return n.Name == name }

// same says that there is no news: a Node changes all the time.
func (n *node) same(old *node) bool { return maps.Equal(n.Labels, old.Labels) }

// DeepCopyObject makes it a runtime.Object.
func (n *node) DeepCopyObject() runtime.Object {
	return &node{TypeMeta: n.TypeMeta, ObjectMeta: *n.ObjectMeta.DeepCopy()}
}

// policyFamily is what the names of policies begin with, as NodeENIs have family.
const policyFamily = "nodeinterfacepolicy"

// policyName is what a policy asks of one interface; of all of them, where that
// is nil.
func policyName(name string, s *source.Selector) string {
	if s == nil {
		return policyFamily + "/" + name
	}
	// No two of these look alike, and none has a '/'.
	return policyFamily + "/" + name + "/" + string(s.PCI) + s.MAC + s.Name
}

// selects says whether a policy is about a node with these labels.
func (p *policy) selects(of map[string]string) (bool, *source.Problem) {
	if p.err != nil {
		return true, unreadable(policyFamily, p.err) // it may be
	}
	s, err := metav1.LabelSelectorAsSelector(p.selector)
	if err != nil {
		return true, &source.Problem{Path: "spec.nodeSelector", Reason: oneLine(err) + "; want labels and values as Kubernetes has them, with In, NotIn, Exists or DoesNotExist"}
	}
	return s.Matches(labels.Set(of)), nil
}

// policy adds what one policy asks of a node with these labels. One that is being
// deleted, and one that is about other nodes, asks nothing: what it asked before
// is given back.
func (t *translation) policy(p *policy, of map[string]string) {
	if p.DeletionTimestamp != nil {
		t.judged = append(t.judged, p)
		return
	}
	selected, problem := p.selects(of)
	if problem != nil {
		t.refuse(policyName(p.Name, nil), problem)
		return
	}
	t.judged = append(t.judged, p)
	if !selected {
		return
	}
	list, problems := entry.List("spec.interfaces", p.interfaces)
	for i := range list {
		list[i].Object = policyName(p.Name, &list[i].Selector)
		t.asked = append(t.asked, ask{Interface: list[i]})
	}
	t.asks[p.Name] = list
	if len(problems) > 0 {
		t.refuse(policyName(p.Name, nil), summed(problems))
	}
}

// summed are problems as one reason.
func summed(all []*source.Problem) *source.Problem {
	const some = 3
	var texts []string
	for _, p := range all[:min(some, len(all))] {
		texts = append(texts, p.Error())
	}
	if n := len(all) - some; n > 0 {
		texts = append(texts, fmt.Sprintf("and %d more problems", n))
	}
	return &source.Problem{Reason: strings.Join(texts, "; ")}
}

// policies adds what the policies ask. While the node's labels are not known,
// nobody knows which of them are about it: what they asked before stays.
func (t *translation) policies(all content[*policy], nodes content[*node], name string) {
	switch {
	case !all.listed:
		t.refuse(policyFamily, &source.Problem{Reason: oneLine(all.err)})
	case !asksAnything(all.all):
		t.judged = all.all // about no node, whatever its labels
	case !nodes.listed:
		t.refuse(policyFamily, &source.Problem{Reason: "the labels of this node are not known: " + oneLine(nodes.err)})
	case len(nodes.all) == 0:
		t.refuse(policyFamily, wrong("node", name, "there is no such Node, so that its labels are not known: want its name in the API, as spec.nodeName of the pod has it"))
	default:
		t.asks = map[string][]source.Interface{}
		for _, p := range all.all {
			t.policy(p, nodes.all[0].Labels)
		}
	}
}

// asksAnything says that there are policies that may ask something of some node.
func asksAnything(all []*policy) bool {
	for _, p := range all {
		if p.DeletionTimestamp == nil {
			return true
		}
	}
	return false
}
