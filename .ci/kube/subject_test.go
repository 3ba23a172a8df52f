package kube

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
	"eniagent/agent/source/nodeeni/v1alpha1"
)

// kubelet plays those of all nodes: a pod of the device plugin that is being
// deleted ends, and the DaemonSet's next starts.
type kubelet struct {
	*pluginNode
	mu   sync.Mutex
	made map[string]int // pods, by node
}

// newKubelet has a pod of the plugin on each node, which started long ago.
func newKubelet(t *testing.T, c *cluster, nodes ...string) *kubelet {
	t.Helper()
	k := &kubelet{pluginNode: &pluginNode{c, t, plugins}, made: map[string]int{}}
	for _, on := range nodes {
		k.pod(k.next(on), on)
		k.starts(on+"-1", time.Now().Add(-time.Hour), true)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if err := k.look(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			time.Sleep(100 * time.Millisecond) // as a kubelet does, it looks now and then
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		must(t, c.client.DeleteAllOf(context.Background(), &core.Pod{}, client.InNamespace(plugins), client.MatchingLabels{"name": pluginLabel}, client.GracePeriodSeconds(0)))
	})
	return k
}

// next names the next pod of a node.
func (k *kubelet) next(on string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.made[on]++
	return fmt.Sprintf("%s-%d", on, k.made[on])
}

// restarts are how often a node's pod was deleted and came again.
func (k *kubelet) restarts(on string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.made[on] - 1
}

func (k *kubelet) look(ctx context.Context) error {
	all := &core.PodList{}
	if err := k.client.List(ctx, all, client.InNamespace(plugins), client.MatchingLabels{"name": pluginLabel}); err != nil {
		return err
	}
	for i := range all.Items {
		p := &all.Items[i]
		if p.DeletionTimestamp == nil {
			continue
		}
		if err := k.client.Delete(ctx, p, client.GracePeriodSeconds(0)); err != nil {
			return client.IgnoreNotFound(err)
		}
		name := k.next(p.Spec.NodeName)
		again := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: plugins, Labels: p.Labels, OwnerReferences: p.OwnerReferences}}
		again.Spec = core.PodSpec{NodeName: p.Spec.NodeName, Containers: []core.Container{{Name: "plugin", Image: "plugin"}}}
		if err := k.client.Create(ctx, again); err != nil {
			return err
		}
		if err := k.status(name, time.Now(), true); err != nil {
			return err
		}
	}
	return nil
}

// subject is a node whose agent is listened to, with the objects that
// concern it: a NodeENI by its name and -a, another with -b, and a policy.
type subject struct {
	*node
	t        *testing.T
	c        *cluster
	api      *kubernetes.Clientset // as its agent may
	asked    *recorder
	kubelets *kubelet
	before   int // events about the policy before it changed
}

// newSubject is one whose agent has a token; of an old API, where it has to list.
func newSubject(t *testing.T, c *cluster, name, token string, old bool) *subject {
	t.Helper()
	s := &subject{t: t, c: c}
	s.asked, _ = record(c.env.Config)
	s.asked.age(old)
	address, certificate := s.asked.proxy(t, c.env.Config)
	ca, err := os.ReadFile(certificate)
	must(t, err)
	s.node = newNode(t, c, name, 3)
	must(t, os.WriteFile(filepath.Join(s.dir, "kubeconfig"), leading(address, ca, token), 0o600))
	c.node(t, name, name)
	return s
}

// restartsPlugins has the agent do so from its next start on.
func (s *subject) restartsPlugins() { s.flags = append(s.flags, "--plugin-namespace="+plugins) }

func (s *subject) first() string  { return s.name + "-a" }
func (s *subject) second() string { return s.name + "-b" }

// told is what the status of the NodeENI of a slot says.
func (s *subject) told(name string, slot int) string {
	o := &v1alpha1.NodeENI{}
	if err := s.c.client.Get(context.Background(), client.ObjectKey{Name: name}, o); err != nil {
		return err.Error()
	}
	return told(o, eniOf(s.name, slot))
}

// events are how often this node told that an object is right, or something else.
func (s *subject) events(kind, name, reason string) (times int) {
	l := &eventsv1.EventList{}
	must(s.t, s.c.client.List(context.Background(), l, client.InNamespace("default")))
	for _, e := range l.Items {
		if e.ReportingInstance != s.name || e.Regarding.Kind != kind || e.Regarding.Name != name || e.Reason != reason {
			continue
		}
		times++
		if e.Series != nil {
			times += int(e.Series.Count) - 1
		}
	}
	return times
}

// fact is something that an agent brings about.
type fact string

// The facts, after the second NodeENI was made and changed, and the policy changed.
const (
	eniDone     fact = "the NodeENI is carried out"
	eniTold     fact = "the NodeENI's status says so"
	eniEvent    fact = "an event about the NodeENI"
	eniAgain    fact = "the event about the NodeENI says that it happened again"
	policyDone  fact = "the policy is carried out"
	policyTold  fact = "the policy's status says so"
	policyEvent fact = "an event about the policy"
	restarted   fact = "the device plugin is restarted"
)

func facts() []fact {
	return []fact{eniDone, eniTold, eniEvent, policyDone, policyTold, policyEvent, restarted, eniAgain}
}

// is says how it is with a fact, "true" when it holds.
func (s *subject) is(f fact) string {
	said := func(is, want string) string { return strings.Replace(is, want, "true", 1) }
	switch f {
	case eniDone:
		return said(s.sees(0), "ena up 1300 intel.com/b")
	case eniTold:
		return said(s.told(s.second(), 0), "ena 0000:00:06.0 intel.com/b up Right 2")
	case eniEvent:
		return fmt.Sprint(s.events(v1alpha1.Kind, s.second(), "Right") > 0)
	case eniAgain:
		return fmt.Sprint(s.events(v1alpha1.Kind, s.second(), "Right") > 1)
	case policyDone:
		return said(s.sees(2), "ena up 1400 intel.com/p")
	case policyTold:
		n, ok := s.c.part(s.t, s.name, s.name)
		if !ok || n.ObservedGeneration != 2 {
			return fmt.Sprintf("%+v", n)
		}
		return said(n.Conditions[0].Reason, "Right")
	case policyEvent:
		return fmt.Sprint(s.events(policyv1alpha1.Kind, s.name, "Right") > s.before)
	case restarted:
		return fmt.Sprint(s.kubelets.restarts(s.name) > 0)
	}
	return "no such fact"
}

// comes waits for a fact.
func (s *subject) comes(t *testing.T, f fact) {
	t.Helper()
	await(t, s.name+": "+string(f), "true", func() string {
		is := s.is(f)
		if is != "true" {
			time.Sleep(100 * time.Millisecond) // many look at once
		}
		return is
	})
}

// says waits until the agent says something, in its log or its status.
func (s *subject) says(t *testing.T, words string) {
	t.Helper()
	await(t, s.name+": the agent says "+words, "true", func() string {
		status, _ := s.command("status", "-o", "json").Output()
		said := strings.ReplaceAll(s.log()+string(status), `\`, "")
		if strings.Contains(said, words) {
			return "true"
		}
		time.Sleep(200 * time.Millisecond)
		return string(status)
	})
}

// begin has a node do what two objects ask that were there before its agent.
func (s *subject) begin(k *controller) {
	s.t.Helper()
	k.create(s.first(), forDPDK(1, "intel.com/a"), [2]string{s.name, eniOf(s.name, 1)})
	s.c.policy(s.t, s.name, s.name, fmt.Sprintf(`pci: %q, up: true, mtu: 9000, pool: intel.com/p`, slot(2)))
	s.start()
}

// stillHas is what has become of the first NodeENI.
func (s *subject) stillHas() []string {
	return []string{s.sees(1), s.told(s.first(), 1)}
}

// hasFirst is what it shall be.
func hasFirst() []string {
	return []string{"vfio-pci intel.com/a", "vfio-pci 0000:00:07.0 intel.com/a bound Right 1"}
}

// goOn waits for that, makes a second NodeENI and changes the policy.
func (s *subject) goOn(t *testing.T, k *controller) {
	t.Helper()
	await(t, s.name+" has what was asked first", fmt.Sprint(append(hasFirst(), "ena up 9000 intel.com/p")), func() string {
		return fmt.Sprint(append(s.stillHas(), s.sees(2)))
	})
	s.ask(t, k)
}

func (s *subject) ask(t *testing.T, k *controller) {
	t.Helper()
	s.before = s.events(policyv1alpha1.Kind, s.name, "Right")
	spec := kernelPool(0, "intel.com/b")
	spec.MTU = 1400
	k.create(s.second(), spec, [2]string{s.name, eniOf(s.name, 0)})
	s.c.changePolicy(t, s.name, func(p *policyv1alpha1.NodeInterfacePolicy) {
		mtu := policyv1alpha1.MTU(1400)
		p.Spec.Interfaces[0].MTU = &mtu
	})
}

// changeAgain changes the second NodeENI, once it was told of.
func (s *subject) changeAgain(t *testing.T, k *controller) {
	t.Helper()
	s.comes(t, eniEvent)
	k.spec(s.second(), func(spec *v1alpha1.NodeENISpec) { spec.MTU = 1300 })
}
