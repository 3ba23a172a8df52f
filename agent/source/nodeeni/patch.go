package nodeeni

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"eniagent/agent/source/nodeeni/v1alpha1"
)

// operation is one of a JSON patch, RFC 6902.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// fields are those of an attachment that its node writes, by their names there.
// Extra are those that the controller does not know.
func fields(a v1alpha1.ENIAttachment) (all, extra map[string]any) {
	all = map[string]any{
		"dpdkBound": a.DPDKBound, "dpdkDriver": a.DPDKDriver, "dpdkResourceName": a.DPDKResourceName, "dpdkPCIAddress": a.DPDKPCIAddress,
	}
	extra = map[string]any{
		"state": a.State, "stateSince": inSeconds(a.StateSince), "driver": a.Driver, "pciAddress": a.PCIAddress, "conditions": sameTimes(a.Conditions),
	}
	return all, extra
}

// inSeconds is a time as the API has it; two that are the same are equal.
func inSeconds(t *metav1.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

func sameTimes(all []metav1.Condition) (same []metav1.Condition) {
	for _, c := range all {
		c.LastTransitionTime = metav1.NewTime(c.LastTransitionTime.UTC())
		same = append(same, c)
	}
	return same
}

// difference are the operations that make the attachment at an index say what it
// shall, if it is still about the same ENI of the same node. Nothing else of the
// object is read or written, whoever else writes it.
func difference(index int, have, want v1alpha1.ENIAttachment, known bool) (ops []operation) {
	at := fmt.Sprintf("/status/attachments/%d/", index)
	is, isExtra := fields(have)
	shall, shallExtra := fields(want)
	if known { // the definition in the API has the fields that the controller does not know
		for name := range isExtra {
			is[name], shall[name] = isExtra[name], shallExtra[name]
		}
	}
	for _, name := range []string{"dpdkBound", "dpdkDriver", "dpdkResourceName", "dpdkPCIAddress", "state", "stateSince", "driver", "pciAddress", "conditions"} {
		v, ok := shall[name]
		switch {
		case !ok || reflect.DeepEqual(is[name], v):
		case reflect.ValueOf(v).IsZero():
			ops = append(ops, operation{Op: "remove", Path: at + name})
		default:
			ops = append(ops, operation{Op: "add", Path: at + name, Value: v})
		}
	}
	if len(ops) == 0 {
		return nil
	}
	guard := []operation{
		{Op: "test", Path: at + "nodeID", Value: have.NodeID}, {Op: "test", Path: at + "eniID", Value: have.ENIID},
	}
	return append(guard, ops...)
}

// patchOf makes the attachments of an object say what they shall; nil when they
// do.
func patchOf(have []attachment, want []v1alpha1.ENIAttachment, known bool) []byte {
	var all []operation
	for i, a := range have {
		all = append(all, difference(a.index, a.ENIAttachment, want[i], known)...)
	}
	if len(all) == 0 {
		return nil
	}
	b, err := json.Marshal(all)
	if err != nil {
		return nil // words and numbers always encode
	}
	return b
}

// agree says whether two lists of attachments say the same of the same ENIs.
func agree(a, b []v1alpha1.ENIAttachment, known bool) bool {
	return slices.EqualFunc(a, b, func(a, b v1alpha1.ENIAttachment) bool {
		return a.NodeID == b.NodeID && a.ENIID == b.ENIID && difference(0, a, b, known) == nil
	})
}
