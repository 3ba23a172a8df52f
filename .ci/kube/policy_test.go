package kube

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"eniagent/agent/source"
	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
	"eniagent/agent/source/nodeeni/v1alpha1"
)

// policy is one of the test for nodes with a nic, or for all where that is "". It
// is gone at the test's end.
func (c *cluster) policy(t *testing.T, name, nic, entry string) {
	t.Helper()
	selector := "{}"
	if nic != "" {
		selector = "{matchLabels: {nic: " + nic + "}}"
	}
	p := &policyv1alpha1.NodeInterfacePolicy{}
	must(t, yaml.UnmarshalStrict([]byte("{nodeSelector: "+selector+", interfaces: [{"+entry+"}]}"), &p.Spec))
	p.Name = name
	must(t, c.client.Create(t.Context(), p))
	t.Cleanup(func() {
		must(t, client.IgnoreNotFound(c.client.Delete(context.Background(), p)))
		c.changePolicy(t, name, func(p *policyv1alpha1.NodeInterfacePolicy) { p.Finalizers = nil })
	})
}

// changePolicy changes one, if it is there.
func (c *cluster) changePolicy(t *testing.T, name string, change func(*policyv1alpha1.NodeInterfacePolicy)) {
	t.Helper()
	p := &policyv1alpha1.NodeInterfacePolicy{}
	if err := c.client.Get(context.Background(), client.ObjectKey{Name: name}, p); apierrors.IsNotFound(err) {
		return
	}
	base := p.DeepCopy()
	change(p)
	must(t, client.IgnoreNotFound(c.client.Patch(context.Background(), p, client.MergeFrom(base))))
}

// node makes a Node with a nic, or changes it; it is gone at the test's end.
func (c *cluster) node(t *testing.T, name, nic string) {
	t.Helper()
	n := &corev1.Node{}
	n.Name = name
	if err := c.client.Get(t.Context(), client.ObjectKeyFromObject(n), n); err == nil {
		n.Labels["nic"] = nic
		must(t, c.client.Update(t.Context(), n))
		return
	}
	n.Labels = map[string]string{"nic": nic}
	must(t, c.client.Create(t.Context(), n))
	t.Cleanup(func() { must(t, client.IgnoreNotFound(c.client.Delete(context.Background(), n))) })
}

func TestALifeOfAPolicy(t *testing.T) {
	c := requireCluster(t)
	f := follow(t, c, nil)
	f.await("", "ERROR")
	const web = "nodeinterfacepolicy/web/0000:3b:00.0 pci 0000:3b:00.0"
	c.node(t, there, "fast")
	c.policy(t, "web", "fast", `pci: "3B:00.0", mtu: 9000`)
	f.await("nodeinterfacepolicy REFUSED") // there is no such Node
	c.node(t, here, "fast")
	f.await(web + " mtu=9000")
	c.node(t, here, "slow")
	f.await("") // given back
	c.node(t, here, "fast")
	f.await(web + " mtu=9000")
	c.node(t, there, "slow") // no news
	c.changePolicy(t, "web", func(p *policyv1alpha1.NodeInterfacePolicy) {
		mtu := policyv1alpha1.MTU(1500)
		p.Spec.Interfaces[0].MTU = &mtu
	})
	f.await(web + " mtu=1500")

	// A NodeENI for the same function: neither is taken, and both are told.
	c.object(t, "rival", v1alpha1.NodeENISpec{DPDKPCIAddress: "0000:3b:00.0"})
	c.attach(t, "rival", on(here, eni1))
	u := f.await("rival/" + eni1 + " REFUSED; nodeinterfacepolicy/web/0000:3b:00.0 REFUSED")
	for _, r := range u.Desired.Refused {
		if want := "pci 0000:3b:00.0 is asked for by nodeeni/rival/" + eni1 + " and nodeinterfacepolicy/web/0000:3b:00.0: keep one"; r.Reason != want {
			t.Errorf("refused for %q, want %q", r.Reason, want)
		}
	}
	c.remove(t, "rival")
	f.await(web + " mtu=1500")

	// The API is away, and comes back: what changed meanwhile is seen, without a list.
	lists := f.line.count("list nodeinterfacepolicies") + f.line.count("watch all nodeinterfacepolicies")
	f.line.set(true)
	f.await("ERROR", web+" mtu=1500")
	c.changePolicy(t, "web", func(p *policyv1alpha1.NodeInterfacePolicy) {
		p.Spec.Interfaces[0].MTU = nil
		up := true
		p.Spec.Interfaces[0].Up = &up
	})
	f.line.set(false)
	f.await(web+" up", "ERROR", web+" mtu=1500")
	if n := f.line.count("list nodeinterfacepolicies") + f.line.count("watch all nodeinterfacepolicies") - lists; n != 0 {
		t.Errorf("%d more lists", n)
	}

	// It is going: a finalizer of somebody else does not hold the interface up.
	c.changePolicy(t, "web", func(p *policyv1alpha1.NodeInterfacePolicy) { p.Finalizers = []string{"example.com/slow"} })
	p := &policyv1alpha1.NodeInterfacePolicy{}
	p.Name = "web"
	must(t, c.client.Delete(t.Context(), p))
	f.await("", "ERROR", web+" up")
}

// TestADeletedPolicyIsSeenAtTheNextStart: nobody looked while it went.
func TestADeletedPolicyIsSeenAtTheNextStart(t *testing.T) {
	c := requireCluster(t)
	c.node(t, here, "fast")
	c.policy(t, "goes", "fast", `name: eth1, up: true`)
	c.policy(t, "stays", "", `name: eth2, up: true`)
	const stays = "nodeinterfacepolicy/stays/eth2 name eth2 up"
	f := follow(t, c, nil)
	f.await("nodeinterfacepolicy/goes/eth1 name eth1 up; " + stays)
	f.stop()
	p := &policyv1alpha1.NodeInterfacePolicy{}
	p.Name = "goes"
	must(t, c.client.Delete(t.Context(), p))
	f = follow(t, c, nil)
	f.await(stays)
}

// part is what the status of a policy says of a node.
func (c *cluster) part(t *testing.T, policy, node string) (policyv1alpha1.NodeStatus, bool) {
	t.Helper()
	p := &policyv1alpha1.NodeInterfacePolicy{}
	must(t, c.client.Get(t.Context(), client.ObjectKey{Name: policy}, p))
	for _, n := range p.Status.Nodes {
		if n.Node == node {
			return n, true
		}
	}
	return policyv1alpha1.NodeStatus{}, false
}

// TestAPolicysStatus has a part of each node that it is about; what one writes
// leaves the others.
func TestAPolicysStatus(t *testing.T) {
	c := requireCluster(t)
	c.node(t, here, "fast")
	c.policy(t, "shared", "fast", `name: eth1, up: true`)
	other := fmt.Sprintf(`{"apiVersion":"eniagent.dev/v1alpha1","kind":"NodeInterfacePolicy","metadata":{"name":"shared"},"status":{"nodes":[{"node":%q,"observedGeneration":1,
		"conditions":[{"type":"Ready","status":"True","reason":"Right","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}]}}`, there)
	o := &policyv1alpha1.NodeInterfacePolicy{}
	o.Name = "shared"
	must(t, c.client.Status().Patch(t.Context(), o, client.RawPatch(types.ApplyYAMLPatchType, []byte(other)), client.FieldOwner("eniagent-"+there)))

	f := follow(t, c, nil)
	const entry = "nodeinterfacepolicy/shared/eth1"
	generation := f.await(entry+" name eth1 up", "ERROR").Desired.Generation
	report := func(conditions ...string) {
		r := source.Report{Generation: generation}
		for _, condition := range conditions {
			r.Standings = append(r.Standings, source.Standing{
				Object: entry, Entry: "name eth1", Target: "0000:3b:00.0", Condition: condition, Since: time.Now(), State: "up", Driver: "ice", Settled: true, Generation: generation,
			})
		}
		f.source.Report(r)
	}
	says := func(status metav1.ConditionStatus, reason string, observed int64) {
		t.Helper()
		eventually(t, fmt.Sprintf("this node says %s, %s of generation %d", status, reason, observed), func() bool {
			n, ok := c.part(t, "shared", here)
			return ok && n.ObservedGeneration == observed && n.Conditions[0].Status == status && n.Conditions[0].Reason == reason && n.Interfaces[0].PCIAddress == "0000:3b:00.0"
		})
		if n, ok := c.part(t, "shared", there); !ok || n.ObservedGeneration != 1 {
			t.Errorf("the other node's part is %+v", n)
		}
	}
	report("right")
	says(metav1.ConditionTrue, "Right", 1)
	written := f.line.count("patch status")
	report("right") // and so does the watch, which shows what was written
	report("held")
	says(metav1.ConditionFalse, "Held", 1)
	if n := f.line.count("patch status") - written; n != 1 {
		t.Errorf("%d writes for one change", n)
	}
	c.changePolicy(t, "shared", func(p *policyv1alpha1.NodeInterfacePolicy) { no := false; p.Spec.Interfaces[0].Up = &no })
	generation = f.await(entry + " name eth1").Desired.Generation
	report("right")
	says(metav1.ConditionTrue, "Right", 2)
	if table := c.kubectl(t, "", "get", "nip", "shared"); !strings.Contains(table, here) && !strings.Contains(table, there) || !strings.Contains(table, "True") {
		t.Errorf("kubectl get nip shows\n%s", table)
	}
	c.node(t, here, "slow")
	generation = f.await("").Desired.Generation
	report("held")
	says(metav1.ConditionFalse, "Released", 2)
	report()
	eventually(t, "nothing of this node is left in the status", func() bool {
		_, ok := c.part(t, "shared", here)
		return !ok
	})
	if _, ok := c.part(t, "shared", there); !ok {
		t.Error("the other node's part is gone")
	}
}
