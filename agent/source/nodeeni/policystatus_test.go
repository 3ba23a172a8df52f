package nodeeni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"eniagent/agent/source"
	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
)

// board is a writer and a policy of an API that it writes to.
type board struct {
	t *testing.T
	w *writer

	mu      sync.Mutex
	parts   map[string]policyv1alpha1.NodeStatus // by node
	version int
	writes  int
	err     error
	uid     types.UID
}

const (
	ofA    = "nodeinterfacepolicy/a/0000:3b:00.0"
	entryA = "pci 0000:3b:00.0"
)

// newBoard has a policy that asks one interface of this node.
func newBoard(t *testing.T) *board {
	b := &board{t: t, version: 1, uid: "u", parts: map[string]policyv1alpha1.NodeStatus{"node-2": {Node: "node-2"}}}
	b.w = newWriter(nil, b.apply, here, log.NewNopLogger())
	b.shows(1, nil)
	go b.w.write(t.Context())
	synctest.Wait()
	return b
}

// shows has the writer see the policy as the API has it, at a generation of which
// this is refused; one of 0 is not about this node.
func (b *board) shows(generation int64, refused []source.Refusal) {
	b.mu.Lock()
	p := &policy{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: b.uid, Generation: generation, ResourceVersion: fmt.Sprint(b.version)}, total: len(b.parts)}
	if part, ok := b.parts[here]; ok {
		p.nodes = []policyv1alpha1.NodeStatus{part}
	}
	b.mu.Unlock()
	asks := map[string][]source.Interface{"a": {{Selector: source.Selector{PCI: "0000:3b:00.0"}, Object: ofA, State: source.Configured}}}
	if generation == 0 {
		asks = nil
	}
	b.w.show(picture{policies: []*policy{p}, asks: asks, refused: refused, generation: fmt.Sprintf("digest-%d", generation)})
	synctest.Wait()
}

// apply is the API's side.
func (b *board) apply(_ context.Context, name string, status []byte) (*policy, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writes++
	if b.err != nil {
		return nil, b.err
	}
	var body struct {
		Metadata metav1.ObjectMeta
		Status   policyv1alpha1.NodeInterfacePolicyStatus
	}
	if err := json.Unmarshal(status, &body); err != nil || name != "a" || body.Metadata.Name != "a" || body.Metadata.UID != b.uid || len(body.Status.Nodes) > 1 {
		b.t.Errorf("applied to %s: %s (%v)", name, status, err)
	}
	delete(b.parts, here)
	for _, n := range body.Status.Nodes {
		if n.Node != here {
			b.t.Errorf("applied the part of %s", n.Node)
		}
		b.parts[here] = n
	}
	b.version++
	return &policy{ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: fmt.Sprint(b.version)}}, nil
}

// stands reports how the interface stands, as looked at with a generation; "" is
// that nothing of it is left.
func (b *board) stands(condition string, settled bool, generation int64, reason string) {
	r := source.Report{Generation: fmt.Sprintf("digest-%d", generation)}
	if condition != "" {
		r.Standings = []source.Standing{
			{Object: "nodeeni/a/x", Entry: "mac " + mac1, Condition: "failed"},
			{Object: ofA, Entry: entryA, Target: "0000:3b:00.0", Condition: condition, Reason: reason, Since: time.Now(), State: "up", Driver: "ice", Settled: settled, Generation: r.Generation},
			{Object: ofA, Entry: entryA + " vf 0", Target: "0000:3b:01.0", Condition: right, Since: time.Now(), State: "bound", Driver: "vfio-pci", Pool: "a/b", Settled: true, Generation: r.Generation},
		}
	}
	b.w.Report(r)
	synctest.Wait()
}

// want compares what the API has of this node, and after how many writes.
func (b *board) want(writes int, want string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	got := "nothing"
	if n, ok := b.parts[here]; ok {
		got = fmt.Sprint(n.ObservedGeneration)
		for _, c := range n.Conditions {
			got += fmt.Sprintf(" %s=%s/%s/%d %s", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message)
		}
		for _, i := range n.Interfaces {
			got += fmt.Sprintf("; %s %s %s %s %s%s", i.Entry, i.PCIAddress, i.State, i.Condition, i.Driver, i.Pool)
		}
	}
	if got != want || b.writes != writes {
		b.t.Errorf("after %d writes, want %d:\n%s\nwant\n%s", b.writes, writes, got, want)
	}
	if _, ok := b.parts["node-2"]; !ok {
		b.t.Error("the other node's part is gone")
	}
}

const (
	vf0A   = "; pci 0000:3b:00.0 vf 0 0000:3b:01.0 bound right vfio-pcia/b"
	rightA = "1 Ready=True/Right/1 ; pci 0000:3b:00.0 0000:3b:00.0 up right ice" + vf0A
)

// TestOneChangeOfAPolicyIsOneWrite, and what is so stays unwritten.
func TestOneChangeOfAPolicyIsOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		b.want(0, "nothing") // nobody has looked
		b.stands("pending", false, 1, "")
		b.stands("changing", false, 1, "")
		b.stands(right, true, 1, "")
		b.want(1, rightA)
		b.shows(1, nil)
		b.stands(right, true, 1, "")
		time.Sleep(time.Hour)
		synctest.Wait()
		b.shows(1, nil)
		b.want(1, rightA)
		b.stands("held", true, 1, "a program has it")
		b.want(2, "1 Ready=False/Held/1 pci 0000:3b:00.0: a program has it; pci 0000:3b:00.0 0000:3b:00.0 up held ice"+vf0A)
		b.shows(1, nil)
		b.shows(2, nil) // not looked at yet
		time.Sleep(time.Minute)
		synctest.Wait()
		b.want(2, "1 Ready=False/Held/1 pci 0000:3b:00.0: a program has it; pci 0000:3b:00.0 0000:3b:00.0 up held ice"+vf0A)
		b.stands(right, true, 2, "")
		b.want(3, "2 Ready=True/Right/2 ; pci 0000:3b:00.0 0000:3b:00.0 up right ice"+vf0A)
	})
}

// TestWhatIsGivenBackLeavesNothing, once the node has looked and nothing is left.
func TestWhatIsGivenBackLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t)
		b.stands(right, true, 1, "")
		b.shows(1, nil)
		b.shows(0, nil) // it is about other nodes
		time.Sleep(transient)
		synctest.Wait()
		const back = "1 Ready=False/Released/1 not asked of this node any more: it is being given back"
		b.want(2, back+"; pci 0000:3b:00.0 0000:3b:00.0 up right ice"+vf0A)
		b.shows(0, nil)
		b.stands("held", true, 0, "a program has it")
		b.want(3, back+"; pci 0000:3b:00.0 0000:3b:00.0 up held ice"+vf0A)
		b.shows(0, nil)
		b.stands("", true, 1, "") // looked at with what was asked before
		b.want(3, back+"; pci 0000:3b:00.0 0000:3b:00.0 up held ice"+vf0A)
		b.stands("", true, 0, "")
		b.want(4, "nothing")
		b.shows(0, nil)
		time.Sleep(time.Hour)
		synctest.Wait()
		b.want(4, "nothing")
	})
}

// TestANewAgentLeavesWhatTheOldOneSaid, until it has looked itself.
func TestANewAgentLeavesWhatTheOldOneSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t)
		b.stands(right, true, 1, "")
		b.w = newWriter(nil, b.apply, here, log.NewNopLogger())
		b.shows(1, nil)
		go b.w.write(t.Context())
		time.Sleep(time.Hour)
		synctest.Wait()
		b.want(1, rightA)
		was := b.parts[here].Conditions[0].LastTransitionTime
		b.stands("right", true, 1, "")
		if now := b.parts[here].Conditions[0].LastTransitionTime; !now.Equal(&was) {
			t.Errorf("it is right since %s, and was since %s", now, was)
		}
	})
}

// TestAPolicyMadeAnew, as one watch may tell it, was not observed under the
// generations of the one before.
func TestAPolicyMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t)
		b.shows(7, nil)
		b.stands(right, true, 7, "")
		b.shows(7, nil)
		b.mu.Lock()
		b.uid = "v"
		delete(b.parts, here)
		b.mu.Unlock()
		b.shows(1, nil)
		b.stands(right, true, 1, "")
		time.Sleep(transient)
		synctest.Wait()
		b.want(2, rightA)
	})
}

// TestARefusedPolicySaysWhy: all of it, and one interface of it.
func TestARefusedPolicySaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t)
		b.stands(right, true, 1, "")
		b.shows(1, nil)
		b.shows(2, []source.Refusal{{Object: "nodeinterfacepolicy/a", Reason: "spec.interfaces[0].mtu: 7"}})
		b.stands(right, true, 2, "")
		b.want(2, "2 Ready=False/Refused/2 spec.interfaces[0].mtu: 7; pci 0000:3b:00.0 0000:3b:00.0 up refused ice"+vf0A)
		b.shows(2, nil)
		b.stands(right, true, 2, "")
		b.shows(3, []source.Refusal{{Object: ofA, Reason: "is asked for by a and b: keep one"}})
		b.stands("", true, 3, "")
		b.want(4, "3 Ready=False/Refused/3 pci 0000:3b:00.0: is asked for by a and b: keep one; pci 0000:3b:00.0   refused ")
	})
}

// TestAPartThatSomebodyRemoves comes back, later each time, and one that could not
// be written is written when it can.
func TestAPartThatSomebodyRemovesComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t)
		b.err = errors.New("away")
		b.stands(right, true, 1, "")
		time.Sleep(time.Hour)
		synctest.Wait()
		b.mu.Lock()
		tries := b.writes
		b.err, b.writes = nil, 0
		b.mu.Unlock()
		if tries < 40 || tries > 120 {
			t.Errorf("%d tries in an hour", tries)
		}
		time.Sleep(2 * rewriteMax)
		synctest.Wait()
		b.want(1, rightA)
		b.mu.Lock()
		delete(b.parts, here)
		b.mu.Unlock()
		b.shows(1, nil)
		time.Sleep(restoreSoonest - time.Millisecond)
		synctest.Wait()
		b.want(1, "nothing")
		time.Sleep(restoreLatest)
		synctest.Wait()
		b.want(2, rightA)
	})
}

// TestAPolicyOfManyNodesFitsIntoOneObject, whatever they have.
func TestAPolicyOfManyNodesFitsIntoOneObject(t *testing.T) {
	const nodes, etcd = 500, 3 << 19
	p := &policy{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "u", Generation: 1}, total: nodes}
	a := account{picture: picture{policies: []*policy{p}, asks: map[string][]source.Interface{"a": {}}, generation: "digest"}}
	a.note(a.picture)
	a.report.Generation = "digest"
	for vf := range 64 {
		a.report.Standings = append(a.report.Standings, source.Standing{
			Object: ofA, Entry: fmt.Sprintf("%s vf %d", entryA, vf), Target: "0000:3b:01.0", Condition: "held", Reason: strings.Repeat("why ", 16),
			Since: time.Now(), State: "bound", Driver: "vfio-pci", Pool: "intel.com/sriov", Settled: true, Generation: "digest",
		})
	}
	part, _, known := a.part(p, nil, here)
	b, err := json.Marshal(part)
	// Who wrote what takes as much again.
	if size := 2 * nodes * len(b); err != nil || !known || len(part.Interfaces) == 0 || size > etcd {
		t.Errorf("%d bytes with %d interfaces each (%v)", size, len(part.Interfaces), err)
	}
}

func TestThePartOfManyInterfacesHasAnEnd(t *testing.T) {
	var all []policyv1alpha1.InterfaceStatus
	for i := range 300 {
		all = append(all, policyv1alpha1.InterfaceStatus{Entry: fmt.Sprintf("pci x vf %d", i), Condition: right})
	}
	all[299].Condition = "failed"
	all[150].Entry = "pci y"
	got := bounded(all, maxInterfaces)
	if len(got) != maxInterfaces || got[0].Condition != "failed" || got[1].Entry != "pci y" || got[2].Entry != "pci x vf 0" {
		t.Errorf("%d, beginning with %v", len(got), got[:3])
	}
	for nodes, want := range map[int]int{0: 128, 1: 128, 8: 128, 9: 64, 64: 16, 65: 8, 500: 2, 1000: 1, 5000: 1} {
		if got := share(nodes); got != want {
			t.Errorf("each of %d nodes tells of %d, want %d", nodes, got, want)
		}
	}
	if n := manager(strings.Repeat("x", 253)); len(n) > 128 || manager("a") != "eniagent-a" {
		t.Errorf("manager %s", n)
	}
	if r := cut(strings.Repeat("ä", 200)); len(r) > 256 || !strings.HasSuffix(r, "...") {
		t.Error(r)
	}
}
