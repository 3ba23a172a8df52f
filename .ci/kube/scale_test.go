package kube

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"eniagent/agent/source/nodeeni/v1alpha1"
)

const (
	// campaignVar asks for the whole of what otherwise is a sample, and changesVar
	// for so many changes.
	campaignVar = "ENIAGENT_CAMPAIGN"
	changesVar  = "ENIAGENT_CHANGES"
)

func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: want a positive number", name, s)
	}
	return n
}

// field is which objects there are: some have attachments of many nodes, each at a
// slot of its own, and so many share all nodes of each slot that is left.
type field struct {
	nodes, large, many, slots, share int
	changes                          int // of one attachment each
	atOnce                           int // objects that are changed together
	idle                             time.Duration
}

// claim is one object of a field, and what it asks now.
type claim struct {
	name  string
	slot  int
	nodes []*member
	spec  v1alpha1.NodeENISpec
}

// TestScale holds many nodes against one API: each node's own word on each change,
// nobody else's touched, and as few requests as that takes.
func TestScale(t *testing.T) {
	c := requireCluster(t)
	shape := field{nodes: 20, large: 1, many: 20, slots: 3, share: 2, changes: 500, atOnce: 4, idle: 2 * time.Second}
	if os.Getenv(campaignVar) == "1" {
		shape = field{nodes: 200, large: 2, many: 50, slots: 4, share: 24, changes: setting(t, changesVar, 10_000), atOnce: 16, idle: time.Minute}
	}
	k := newController(t, c)
	f := newFleet(t, c, "scale", shape.nodes, shape.slots)
	counts := map[string]int{}
	began, cpu := time.Now(), processor()
	report := func(what string, changes int) map[string]int {
		t.Helper()
		asked := f.meter.since(counts)
		t.Logf("%s: %d changes in %s, %s of processor and %d MB of heap for %d agents; %s; %d MB watched", what, changes,
			time.Since(began).Round(100*time.Millisecond), (processor() - cpu).Round(100*time.Millisecond), heap()>>20, shape.nodes, perVerb(asked), f.meter.watched.Swap(0)>>20)
		began, cpu = time.Now(), processor()
		return asked
	}
	claims, attachments := f.claim(k, shape)
	f.settle(c, claims)
	asked := report(fmt.Sprintf("%d objects with %d attachments", len(claims), attachments), attachments)
	if asked["list"] > shape.nodes || asked["watch"] < shape.nodes {
		t.Errorf("%d agents asked for %v: want one list at most, and one watch each", shape.nodes, asked)
	}

	changes := f.change(c, k, shape, claims)
	asked = report("changes", changes)
	// One that got no answer is made again where it is not seen to have been taken, and so is one that a busy API is
	// late to show.
	most := changes + changes/4 + asked["patch without an answer"]
	if asked["patch"] > most || asked["event"] > 2*changes || asked["list"] > 0 || asked["create"] > 0 || asked["patch 409"] > 0 {
		t.Errorf("%d changes cost %v: want a patch each, and no more than one in four beside", changes, asked)
	}

	time.Sleep(shape.idle)
	if asked = report("nothing", 0); asked["patch"] > 0 || asked["list"] > 0 || asked["watch"] > shape.nodes {
		t.Errorf("idle for %s, %d agents asked for %v", shape.idle, shape.nodes, asked)
	}

	// The controller looks at everything at once, and drops what it does not know.
	dropped := 0
	for _, o := range claims {
		k.touch(o.name)
		dropped += len(o.nodes)
	}
	f.settle(c, claims)
	asked = report("the controller's own updates", dropped)
	if asked["patch"] > dropped+dropped/20 || asked["list"] > 0 {
		t.Errorf("%d attachments that lost fields cost %v: want a patch each at most", dropped, asked)
	}
	for _, m := range f.members {
		if s := m.agent.Status(context.Background()); len(s.Operations) > 0 || s.Source.Error != "" {
			t.Errorf("%s: %+v", m.name, s)
		}
	}
}

// change changes what is asked, some objects at a time, and waits for each.
func (f *fleet) change(c *cluster, k *controller, shape field, claims []*claim) (changes int) {
	f.t.Helper()
	r, began := rand.New(rand.NewPCG(1, 2)), time.Now()
	for rounds := 1; changes < shape.changes; rounds++ {
		some := pick(r, claims, shape.atOnce)
		if rounds%10 == 1 {
			some = append(some, claims[rounds/10%shape.large])
		}
		for _, o := range some {
			o.next(r)
			k.spec(o.name, func(s *v1alpha1.NodeENISpec) { *s = o.spec })
			changes += len(o.nodes)
		}
		f.settle(c, some)
		if rounds%10 == 0 {
			f.t.Logf("%d changes after %s", changes, time.Since(began).Round(time.Second))
		}
	}
	return changes
}

// TestTheControllerWritesOverWhatNodesSaid, as it does on a conflict: what each
// node has is true again once it rests, and nobody's ENI has become another's.
func TestTheControllerWritesOverWhatNodesSaid(t *testing.T) {
	c := requireCluster(t)
	k := newController(t, c)
	f := newFleet(t, c, "over", 5, 1)
	counts := map[string]int{}
	claims, _ := f.claim(k, field{many: 5, large: 1, slots: 1, share: 1})
	f.settle(c, claims)
	f.meter.since(counts)
	o := claims[0]
	for i := range 30 {
		if i == 10 {
			o.next(rand.New(rand.NewPCG(uint64(i), 0)))
			k.spec(o.name, func(s *v1alpha1.NodeENISpec) { *s = o.spec })
		}
		k.status(o.name, func(o *controlled) {
			for i := range o.Status.Attachments {
				o.Status.Attachments[i].LastUpdated = metav1.Now()
			}
			time.Sleep(50 * time.Millisecond) // what the cloud takes to answer
		})
	}
	f.settle(c, claims)
	asked := f.meter.since(counts)
	t.Logf("the controller had %d conflicts in 30 updates; 5 agents: %s", k.conflicts, perVerb(asked))
	if k.conflicts == 0 || asked["patch"] > 30 || asked["list"] > 0 {
		t.Errorf("%d conflicts, and the agents asked for %v", k.conflicts, asked)
	}
}

func perVerb(asked map[string]int) string {
	if len(asked) == 0 {
		return "no request"
	}
	var all []string
	for _, what := range slices.Sorted(maps.Keys(asked)) {
		all = append(all, fmt.Sprintf("%d %s", asked[what], what))
	}
	return strings.Join(all, ", ")
}

// processor is the time that this process has had of the processors.
func processor() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// claim makes the objects of a field.
func (f *fleet) claim(k *controller, shape field) (claims []*claim, attachments int) {
	f.t.Helper()
	add := func(at int, nodes []*member) {
		o := &claim{name: fmt.Sprintf("scale-%d", len(claims)), slot: at, nodes: nodes, spec: plain()}
		o.spec.NodeSelector = map[string]string{"ng": "multi-eni"}
		o.spec.DPDKResourceName = fmt.Sprintf("intel.com/pool_%d", len(claims))
		if len(claims)%2 == 0 {
			o.spec.DPDKPCIAddress = slot(at)
		}
		k.create(o.name, o.spec)
		k.status(o.name, func(c *controlled) {
			for _, m := range nodes {
				a := attachment(m.name, eniOf(m.name, at), o.spec)
				a.InstanceID = "i-" + m.name
				c.Status.Attachments = append(c.Status.Attachments, a)
			}
		})
		claims = append(claims, o)
		attachments += len(nodes)
	}
	for at := range shape.slots {
		if at < shape.large {
			add(at, f.members[:shape.many])
			continue
		}
		for nodes := range slices.Chunk(f.members, (len(f.members)+shape.share-1)/shape.share) {
			add(at, nodes)
		}
	}
	return claims, attachments
}

func pick(r *rand.Rand, from []*claim, n int) []*claim {
	some := slices.Clone(from)
	r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	some = slices.DeleteFunc(some, func(o *claim) bool { return len(o.nodes) == len(from[0].nodes) })
	return some[:min(n, len(some))]
}

// next asks for something that the instances do not have now.
func (o *claim) next(r *rand.Rand) {
	was := o.spec
	for o.spec.EnableDPDK == was.EnableDPDK && o.spec.DPDKDriver == was.DPDKDriver && o.spec.MTU == was.MTU {
		switch r.IntN(4) {
		case 0:
			o.spec.EnableDPDK, o.spec.DPDKDriver = true, "vfio-pci"
		case 1:
			o.spec.EnableDPDK, o.spec.DPDKDriver = true, "uio_pci_generic"
		case 2:
			o.spec.EnableDPDK, o.spec.DPDKDriver, o.spec.MTU = false, "", 9001
		case 3:
			o.spec.EnableDPDK, o.spec.DPDKDriver, o.spec.MTU = false, "", 1400
		}
	}
}

// has is what an instance shall have.
func (o *claim) has() string {
	if o.spec.EnableDPDK {
		return o.spec.DPDKDriver + " " + o.spec.DPDKResourceName
	}
	return fmt.Sprintf("ena up %d %s", o.spec.MTU, o.spec.DPDKResourceName)
}

// tells is what its attachment shall say of that.
func (o *claim) tells(generation int64) string {
	driver, state := "ena", "up"
	if o.spec.EnableDPDK {
		driver, state = o.spec.DPDKDriver, "bound"
	}
	return fmt.Sprintf("%s %s %s %s Right %d", driver, slot(o.slot), o.spec.DPDKResourceName, state, generation)
}

// wrong is the first attachment that does not say what its instance has, or an
// instance that has not what is asked.
func (o *claim) wrong(c *cluster) string {
	last := &v1alpha1.NodeENI{}
	if err := c.client.Get(context.Background(), client.ObjectKey{Name: o.name}, last); err != nil {
		return err.Error()
	}
	if len(last.Status.Attachments) != len(o.nodes) {
		return fmt.Sprintf("%s has %d attachments, want %d", o.name, len(last.Status.Attachments), len(o.nodes))
	}
	want := o.tells(last.Generation)
	for i, a := range last.Status.Attachments {
		m := o.nodes[i]
		if a.NodeID != m.name || a.ENIID != eniOf(m.name, o.slot) || a.InstanceID != "i-"+m.name || a.Status != v1alpha1.Attached {
			return fmt.Sprintf("%s: the attachment of %s has become %+v", o.name, m.name, a)
		}
		if says := toldBy(last, a); says != want {
			return fmt.Sprintf("%s: %s says %q, want %q", o.name, m.name, says, want)
		}
	}
	for _, m := range o.nodes {
		if has := sight(m.kernel, slot(o.slot)); has != o.has() {
			return fmt.Sprintf("%s: %s has %q, want %q", o.name, m.name, has, o.has())
		}
	}
	return ""
}

// settle waits until some objects are right on all their nodes.
func (f *fleet) settle(c *cluster, claims []*claim) {
	f.t.Helper()
	left := slices.Clone(claims)
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		wrong := ""
		left = slices.DeleteFunc(left, func(o *claim) bool {
			w := o.wrong(c)
			wrong = max(wrong, w)
			return w == ""
		})
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatal(wrong)
		}
	}
}
