package nodeeni

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"eniagent/agent/source"
	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
)

const (
	// pending is the agent's word for what is still to be looked at, too.
	pending = "pending"
	// maxInterfaces is how many interfaces a node tells of, those first that are not
	// as asked; and maxOfAll how many all nodes do, about: they have to fit into one
	// object, of 1.5 MB, where each takes some 400 bytes with who wrote it.
	maxInterfaces = 128
	maxOfAll      = 1024
)

// applyStatus applies a node's part of a policy's status: no other is touched, and
// no version of the object need be known.
func (a *api) applyStatus(node string) applier {
	return func(ctx context.Context, name string, status []byte) (*policy, error) {
		p, force := &policy{}, true
		o := metav1.PatchOptions{FieldManager: manager(node), Force: &force}
		err := a.client.Patch(types.ApplyYAMLPatchType).Resource(a.kind.resource).Name(name).SubResource("status").
			VersionedParams(&o, a.parameters).Body(status).MaxRetries(0).Do(ctx).Into(p)
		return p, err
	}
}

// manager is who owns a node's part, which may have 128 characters.
func manager(node string) string {
	const prefix, most = "eniagent-", 128
	if len(prefix)+len(node) <= most {
		return prefix + node
	}
	sum := sha256.Sum256([]byte(node))
	return prefix + hex.EncodeToString(sum[:])
}

// draftOfPolicy is what is to be written to a policy; false when it says what it
// shall, or nothing true is known.
func (w *writer) draftOfPolicy(o *policy, p *paper) (draft, bool) {
	want, settled, known := w.latest.part(o, p.part, w.node)
	if !known || samePart(first(o.nodes), want) {
		return draft{}, false
	}
	put := func(ctx context.Context) (uint64, error) {
		changed, err := w.apply(ctx, o.Name, applied(o, want))
		if err != nil {
			return 0, err
		}
		p.part = want
		return numbered(changed.ResourceVersion), nil
	}
	restores := p.part != nil && samePart(p.part, want)
	return draft{kind: nodePolicies(), total: o.total, settled: settled, restores: restores, put: put}, true
}

func first(all []policyv1alpha1.NodeStatus) *policyv1alpha1.NodeStatus {
	if len(all) == 0 {
		return nil
	}
	return &all[0]
}

// samePart says whether two parts are one to the API.
func samePart(a, b *policyv1alpha1.NodeStatus) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// applied is what is applied to a policy: its node's part, or none of it. The same
// policy is meant, not one that was made since under its name.
func applied(o *policy, part *policyv1alpha1.NodeStatus) []byte {
	status := map[string]any{}
	if part != nil {
		status["nodes"] = []any{part}
	}
	metadata := map[string]any{"name": o.Name}
	if o.UID != "" {
		metadata["uid"] = o.UID
	}
	b, err := json.Marshal(map[string]any{
		"apiVersion": policyv1alpha1.GroupVersion().String(), "kind": policyv1alpha1.Kind, "metadata": metadata, "status": status,
	})
	if err != nil {
		return nil // words and numbers always encode
	}
	return b
}

// part is what this node's part of a policy's status shall say; nil is nothing.
// Said is what it was last made to say, whatever became of it. Settled is false
// when it is about to say something else, known while there is nothing true to say.
func (a *account) part(o *policy, said *policyv1alpha1.NodeStatus, node string) (want *policyv1alpha1.NodeStatus, settled, known bool) {
	asks, about := a.asks[o.Name]
	looked := a.report.Generation == a.generation
	if a.report.Generation == "" {
		return nil, true, false // an agent that just started
	}
	standings := a.standingsOf(policyName(o.Name, nil))
	if !about && len(standings) == 0 {
		return nil, true, looked // of what the node has not looked at, something may be left
	}
	had := said
	if h := first(o.nodes); h != nil {
		had = h
	}
	want, settled = &policyv1alpha1.NodeStatus{Node: node}, looked
	for _, s := range standings {
		settled = settled && s.Settled
		want.Interfaces = append(want.Interfaces, a.statusOf(s, had))
	}
	for _, i := range asks {
		a.complement(want, i)
	}
	if had != nil {
		want.Conditions = sameTimes(had.Conditions)
	}
	c := a.ready(o, want, asks, about)
	c.ObservedGeneration = a.observed(o, standings, c.Reason == reasonOf(refused))
	if had != nil {
		c.ObservedGeneration = max(c.ObservedGeneration, had.ObservedGeneration)
	}
	setCondition(&want.Conditions, c)
	want.ObservedGeneration = c.ObservedGeneration
	want.Interfaces = bounded(want.Interfaces, share(o.total))
	return want, settled, true
}

// standingsOf are the standings of what one object asks.
func (a *account) standingsOf(object string) (all []source.Standing) {
	for _, s := range a.report.Standings {
		if strings.HasPrefix(s.Object, object+"/") {
			all = append(all, s)
		}
	}
	return all
}

func (a *account) statusOf(s source.Standing, had *policyv1alpha1.NodeStatus) policyv1alpha1.InterfaceStatus {
	i := policyv1alpha1.InterfaceStatus{
		Entry: s.Entry, PCIAddress: string(s.Target), State: s.State, Condition: s.Condition, Reason: cut(s.Reason), Driver: s.Driver, Pool: s.Pool,
	}
	var was policyv1alpha1.InterfaceStatus
	if had != nil {
		if at := slices.IndexFunc(had.Interfaces, func(i policyv1alpha1.InterfaceStatus) bool { return i.Entry == s.Entry }); at >= 0 {
			was = had.Interfaces[at]
		}
	}
	i.Since = a.since(s.Since, was.Since, was.Condition == s.Condition)
	return i
}

// complement has a part speak of an interface that is asked for, also where the
// ask is refused, or nobody has looked at it yet.
func (a *account) complement(part *policyv1alpha1.NodeStatus, asked source.Interface) {
	entry := asked.Selector.String()
	at := slices.IndexFunc(part.Interfaces, func(i policyv1alpha1.InterfaceStatus) bool { return i.Entry == entry })
	why, no := a.refusal(asked.Object)
	switch {
	case no && at >= 0:
		part.Interfaces[at].Condition, part.Interfaces[at].Reason = refused, cut(why)
	case no:
		part.Interfaces = append(part.Interfaces, policyv1alpha1.InterfaceStatus{Entry: entry, Condition: refused, Reason: cut(why)})
	case at < 0:
		part.Interfaces = append(part.Interfaces, policyv1alpha1.InterfaceStatus{Entry: entry, Condition: pending})
	}
}

// ready is whether all of a policy is as asked on this node.
func (a *account) ready(o *policy, part *policyv1alpha1.NodeStatus, asks []source.Interface, about bool) metav1.Condition {
	c := metav1.Condition{Type: policyv1alpha1.ConditionReady, Status: metav1.ConditionFalse, LastTransitionTime: metav1.Now().Rfc3339Copy()}
	why, no := a.refusal(policyName(o.Name, nil))
	switch {
	case !about:
		c.Reason, c.Message = reasonOf(released), "not asked of this node any more: it is being given back"
		return c
	case no:
		c.Reason, c.Message = reasonOf(refused), why
		return c
	}
	given := map[string]bool{}
	for _, i := range asks {
		given[i.Selector.String()] = i.State == source.Released
	}
	var wrong []policyv1alpha1.InterfaceStatus
	for _, i := range part.Interfaces {
		of, _, _ := strings.Cut(i.Entry, " vf ")
		if i.Condition != right && (i.Condition != released || !given[of]) {
			wrong = append(wrong, i)
		}
	}
	if len(wrong) == 0 {
		c.Status, c.Reason = metav1.ConditionTrue, reasonOf(right)
		return c
	}
	c.Reason, c.Message = reasonOf(cmp.Or(wrong[0].Condition, pending)), strings.TrimSuffix(wrong[0].Entry+": "+wrong[0].Reason, ": ")
	if more := len(wrong) - 1; more > 0 {
		c.Message += fmt.Sprintf(" (and %d more that are not as asked)", more)
	}
	return c
}

// observed is the generation of a policy that the node has looked at in all of
// its interfaces; 0 when that is not known.
func (a *account) observed(o *policy, standings []source.Standing, no bool) int64 {
	if no && len(standings) == 0 {
		return o.Generation
	}
	if len(standings) == 0 {
		return a.of[a.report.Generation][o.UID]
	}
	least := int64(0)
	for i, s := range standings {
		if g := a.of[s.Generation][o.UID]; i == 0 || g < least {
			least = g
		}
	}
	return least
}

// share is how many interfaces one of so many nodes tells of. It changes only as
// often as their number doubles: what follows is a write of each.
func share(nodes int) int {
	return max(1, min(maxInterfaces, maxOfAll>>bits.Len(uint(max(0, nodes-1)))))
}

// bounded are the interfaces that there is room for.
func bounded(all []policyv1alpha1.InterfaceStatus, most int) []policyv1alpha1.InterfaceStatus {
	if len(all) <= most {
		return all
	}
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b policyv1alpha1.InterfaceStatus) int {
		return rank(a) - rank(b)
	})
	return sorted[:most]
}

func rank(i policyv1alpha1.InterfaceStatus) int {
	switch {
	case i.Condition != right && i.Condition != released:
		return 0
	case !strings.Contains(i.Entry, " vf "):
		return 1
	}
	return 2
}

// cut is a reason of an interface, which need not say all.
func cut(reason string) string {
	const most = 256
	if len(reason) > most {
		return strings.ToValidUTF8(reason[:most-3], "") + "..."
	}
	return reason
}
