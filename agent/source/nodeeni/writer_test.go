package nodeeni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"eniagent/agent/source"
	"eniagent/agent/source/nodeeni/v1alpha1"
)

// desk is a writer and the API that it writes to.
type desk struct {
	t *testing.T
	w *writer

	mu      sync.Mutex
	o       *object
	version int
	patches [][]operation
	err     error // of the next patches
	prunes  bool  // the API's definition is an older one
	refused []source.Refusal
}

// newDesk has one object with a NodeENI of this node at index 1.
func newDesk(t *testing.T) *desk {
	d := &desk{t: t, version: 1}
	d.w = newWriter(d.patch, nil, here, log.NewNopLogger())
	d.o = read(t, nodeENI("a", ``))
	d.o.Generation = 1
	d.show()
	go d.w.write(t.Context())
	synctest.Wait()
	return d
}

// fail has the next patches fail, and counts those so far.
func (d *desk) fail(err error) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	return len(d.patches)
}

// show lets the writer see the object as the API has it.
func (d *desk) show() {
	d.mu.Lock()
	d.version++
	o := d.o.DeepCopyObject().(*object)
	o.ResourceVersion = fmt.Sprint(d.version)
	d.mu.Unlock()
	o.keep(here)
	d.w.show(picture{objects: []*object{o}, refused: d.refused, generation: fmt.Sprintf("digest-%d", o.Generation)})
	synctest.Wait()
}

// patch is the API's side of one.
func (d *desk) patch(_ context.Context, name string, patch []byte) (*object, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ops []operation
	if err := json.Unmarshal(patch, &ops); err != nil || name != "a" {
		d.t.Errorf("patch %s of %s: %v", patch, name, err)
	}
	d.patches = append(d.patches, ops)
	if d.err != nil {
		return nil, d.err
	}
	b, err := json.Marshal(map[string]any{"status": map[string]any{"attachments": d.applied(ops)}})
	if err != nil {
		d.t.Error(err)
	}
	changed := &object{}
	if err := json.Unmarshal(b, changed); err != nil {
		d.t.Error(err)
	}
	d.o.attachments = changed.attachments
	d.version++
	changed.ResourceVersion = fmt.Sprint(d.version)
	return changed, nil
}

// applied are the attachments after the operations, as the API makes it.
func (d *desk) applied(ops []operation) []map[string]any {
	var all []map[string]any
	for _, a := range d.o.attachments {
		b, _ := json.Marshal(a.ENIAttachment)
		one := map[string]any{}
		if err := json.Unmarshal(b, &one); err != nil {
			d.t.Error(err)
		}
		all = append(all, one)
	}
	for _, op := range ops {
		var index int
		var field string
		if _, err := fmt.Sscanf(strings.ReplaceAll(op.Path, "/", " "), " status attachments %d %s", &index, &field); err != nil {
			d.t.Error(err)
		}
		at := all[index]
		switch op.Op {
		case "test":
			if at[field] != op.Value {
				d.t.Errorf("test of %s: %v, want %v", op.Path, at[field], op.Value)
			}
		case "add":
			if !d.prunes || strings.HasPrefix(field, "dpdk") {
				at[field] = op.Value
			}
		case "remove":
			delete(at, field)
		}
	}
	return all
}

func (d *desk) stands(condition string, settled bool, generation int64, more func(*source.Standing)) {
	s := source.Standing{
		Object: "nodeeni/a/" + eni1, Entry: "mac " + mac1, Target: "0000:00:07.0", Condition: condition, Since: time.Now(),
		State: "up", StateSince: time.Now(), Driver: "ena", Settled: settled, Generation: fmt.Sprintf("digest-%d", generation),
	}
	if more != nil {
		more(&s)
	}
	d.w.Report(source.Report{Generation: s.Generation, Standings: []source.Standing{s}})
	synctest.Wait()
}

// says is the attachment of this node as the API has it.
func (d *desk) says() string {
	a := d.o.attachments[1]
	text := fmt.Sprintf("bound=%t driver=%s state=%s", a.DPDKBound, a.DPDKDriver, a.State)
	for _, c := range a.Conditions {
		text += fmt.Sprintf(" %s=%s/%s/%d %s", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message)
	}
	return strings.TrimSpace(text)
}

// now is what it says while the writer may write.
func (d *desk) now() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.says()
}

func (d *desk) want(patches int, says string) {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.patches) != patches || d.says() != says {
		d.t.Errorf("%d patches, %q; want %d, %q", len(d.patches), d.says(), patches, says)
	}
	if o := d.o.attachments[0]; o.NodeID != "node-2" || o.State != "" || o.Conditions != nil {
		d.t.Errorf("the other node's attachment was changed: %+v", o)
	}
}

const rightOn1 = "bound=false driver= state=up Ready=True/Right/1"

// TestOneChangeIsOneWrite although an interface is several things on the way.
func TestOneChangeIsOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.want(0, "bound=false driver= state=")
		d.stands("pending", false, 1, nil)
		d.stands("changing", false, 1, nil)
		d.stands(right, true, 1, nil)
		d.want(1, rightOn1)
		d.show()
		d.stands(right, true, 1, nil)
		time.Sleep(time.Minute)
		d.want(1, rightOn1)
		d.stands("changing", false, 1, func(s *source.Standing) { s.State = "configuring" })
		d.stands(right, true, 1, func(s *source.Standing) { s.State, s.Driver, s.Userspace = "bound", "vfio-pci", true })
		d.want(2, "bound=true driver=vfio-pci state=bound Ready=True/Right/1")
		d.show()
		d.stands("pending", false, 1, func(s *source.Standing) { s.Reason = "no room" })
		time.Sleep(transient + time.Millisecond)
		synctest.Wait()
		d.want(3, "bound=false driver= state=up Ready=False/Pending/1 no room")
	})
}

// TestAGenerationIsObservedOnceItWasLookedAt and not when it was read.
func TestAGenerationIsObservedOnceItWasLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.stands(right, true, 1, nil)
		d.show()
		d.o.Generation = 2
		d.show()
		time.Sleep(time.Minute)
		synctest.Wait()
		d.want(1, rightOn1)
		d.stands("held", true, 1, func(s *source.Standing) { s.Reason = "a program has it" })
		d.want(2, "bound=false driver= state=up Ready=False/Held/1 a program has it")
		d.show()
		d.stands(right, true, 2, nil)
		d.want(3, "bound=false driver= state=up Ready=True/Right/2")
	})
}

// TestAnObjectMadeAnew, as one watch may tell it, was not observed under the
// generations of the one before.
func TestAnObjectMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.o.Generation = 7
		d.show()
		d.stands(right, true, 7, nil)
		d.show()
		d.want(1, "bound=false driver= state=up Ready=True/Right/7")
		d.mu.Lock()
		d.o = read(t, nodeENI("a", ``))
		d.o.UID, d.o.Generation = "another", 1
		d.mu.Unlock()
		d.show()
		time.Sleep(time.Minute)
		synctest.Wait()
		d.want(2, "bound=false driver= state=up Ready=True/Right/0")
		d.show()
		d.stands(right, true, 1, nil)
		d.want(3, rightOn1)
	})
}

// TestWhatWasGivenBackIsNotBound: nothing of it is left, nor is it said.
func TestWhatWasGivenBackIsNotBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.stands(right, true, 1, func(s *source.Standing) { bound(s); s.Pool = "a/b" })
		d.show()
		d.o.Generation, d.o.DeletionTimestamp = 2, &metav1.Time{Time: time.Now()}
		d.show()
		d.w.Report(source.Report{Generation: "digest-2"})
		synctest.Wait()
		d.want(2, "bound=false driver= state= Ready=False/Released/2 nothing of it is left on the node")
		if a := d.o.attachments[1]; a.DPDKResourceName != "" || a.DPDKPCIAddress != "" || a.PCIAddress != "" || a.Driver != "" {
			t.Errorf("it still says %+v", a)
		}
	})
}

// drop has the controller renew what it wrote, which knows nothing of some fields.
func (d *desk) drop() {
	d.mu.Lock()
	a := &d.o.attachments[1]
	a.Conditions, a.State, a.StateSince, a.Driver, a.PCIAddress = nil, "", nil, "", ""
	d.mu.Unlock()
	d.show()
}

func bound(s *source.Standing) { s.State, s.Driver, s.Userspace = "bound", "vfio-pci", true }

const boundOn1 = "bound=true driver=vfio-pci state=bound Ready=True/Right/1"

// TestWhatTheControllerDropsComesBack once, and not at the same moment on all
// nodes.
func TestWhatTheControllerDropsComesBack(t *testing.T) {
	for _, stands := range []struct {
		more                   func(*source.Standing)
		whole, dropped, refuse string
	}{
		{nil, rightOn1, "bound=false driver= state=", ""},
		{bound, boundOn1, "bound=true driver=vfio-pci state=", ""},
		{bound, "bound=true driver=vfio-pci state=bound Ready=False/Refused/1 spec.mtu: -1", "bound=true driver=vfio-pci state=", "spec.mtu: -1"},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t)
			if stands.refuse != "" {
				d.refused = []source.Refusal{{Object: "nodeeni/a", Reason: stands.refuse}}
				d.show()
				d.show() // what it wrote of that
				d.patches = nil
			}
			d.stands(right, true, 1, stands.more)
			d.want(1, stands.whole)
			said := d.o.attachments[1].Conditions[0]
			time.Sleep(restoreStood)
			for range 3 {
				d.drop()
			}
			time.Sleep(restoreSoonest - time.Millisecond)
			synctest.Wait()
			d.want(1, stands.dropped)
			time.Sleep(restoreLatest)
			synctest.Wait()
			d.want(2, stands.whole)
			if again := d.o.attachments[1].Conditions[0]; again != said {
				t.Errorf("it came back as %+v, and was %+v", again, said)
			}
		})
	}
}

// TestAControllerThatDropsItAtOnce each time: the two do not write for ever, and
// what is new is told without delay.
func TestAControllerThatDropsItAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.stands(right, true, 1, nil)
		restored := func(during time.Duration) (n int) {
			for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(time.Second) {
				if synctest.Wait(); d.now() != "bound=false driver= state=" {
					n++
					d.drop()
				}
			}
			return n
		}
		if first, then := restored(time.Hour), restored(10*time.Hour); first > 20 || then < 30 || then > 300 {
			t.Errorf("restored %d times in an hour, and %d in the next ten", first, then)
		}
		d.stands(right, true, 1, bound)
		if says := d.now(); says != boundOn1 {
			t.Errorf("what is new is not told: %s", says)
		}
		d.show()
		time.Sleep(restoreStood)
		d.drop() // once
		time.Sleep(restoreLatest)
		synctest.Wait()
		if says := d.now(); says != boundOn1 {
			t.Errorf("it does not come back soon: %s", says)
		}
	})
}

// TestManyNodesTakeTheirTime to restore what one writer dropped of all.
func TestManyNodesTakeTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, late := paper{}, 0
		for range 1000 {
			p.drops = 0
			if p.dropped(1000); p.spread > restoreLatest {
				late++
			}
		}
		if late < 800 || late > 970 {
			t.Errorf("of a thousand nodes %d restore later than after %s", late, restoreLatest)
		}
	})
}

// TestNothingIsWrittenTwice because what was written has not been seen yet.
func TestNothingIsWrittenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.stands(right, true, 1, nil)
		d.w.tell()
		time.Sleep(time.Minute)
		synctest.Wait()
		d.want(1, rightOn1)
	})
}

// TestAnOlderDefinition of the resource drops the fields that it does not know.
func TestAnOlderDefinition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.prunes = true
		d.stands(right, true, 1, bound)
		d.show()
		time.Sleep(time.Hour)
		synctest.Wait()
		d.want(1, "bound=true driver=vfio-pci state=")
		d.stands(right, true, 1, nil)
		d.want(2, "bound=false driver= state=")
	})
}

// TestAFailedWriteIsTriedAgain with pauses, until it is taken or something else
// is to be said.
func TestAFailedWriteIsTriedAgain(t *testing.T) {
	for _, err := range []error{
		errors.New("connection refused"),
		apierrors.NewForbidden(v1alpha1.GroupVersion().WithResource(v1alpha1.Resource).GroupResource(), "a", errors.New("no")),
		&apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid, Message: "testing value failed"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t)
			d.fail(err)
			d.stands(right, true, 1, nil)
			time.Sleep(time.Hour)
			synctest.Wait()
			tries := d.fail(nil)
			if tries < 40 || tries > 120 {
				t.Errorf("%v: %d tries in an hour", err, tries)
			}
			time.Sleep(2 * rewriteMax)
			synctest.Wait()
			d.want(tries+1, rightOn1)
		})
	}
}

// TestOneResourceMayNotBeWritten, or one object of it: the others are.
func TestOneResourceMayNotBeWritten(t *testing.T) {
	forbidden := apierrors.NewForbidden(v1alpha1.GroupVersion().WithResource(v1alpha1.Resource).GroupResource(), "a", errors.New("no"))
	for name, tc := range map[string]struct {
		enis, policies func(name string) error
		want           string
	}{
		"NodeENIs":       {enis: func(string) error { return forbidden }, want: "nodeinterfacepolicy/a"},
		"policies":       {policies: func(string) error { return forbidden }, want: "nodeeni/a nodeeni/b"},
		"the first":      {enis: func(name string) error { return map[string]error{"a": forbidden}[name] }, want: "nodeeni/b nodeinterfacepolicy/a"},
		"the last":       {enis: func(name string) error { return map[string]error{"b": forbidden}[name] }, want: "nodeeni/a nodeinterfacepolicy/a"},
		"nothing at all": {enis: func(string) error { return forbidden }, policies: func(string) error { return forbidden }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				written, tries := map[string]bool{}, 0
				answer := func(resource, name string, by func(string) error) error {
					tries++
					if by != nil && by(name) != nil {
						return by(name)
					}
					written[resource+"/"+name] = true
					return nil
				}
				w := newWriter(func(_ context.Context, name string, _ []byte) (*object, error) {
					return &object{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "9"}}, answer("nodeeni", name, tc.enis)
				}, func(_ context.Context, name string, _ []byte) (*policy, error) {
					return &policy{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "9"}}, answer("nodeinterfacepolicy", name, tc.policies)
				}, here, log.NewNopLogger())
				p := picture{generation: "1", policies: []*policy{{ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "1"}}}}
				p.asks = map[string][]source.Interface{"a": {{Selector: source.Selector{PCI: "0000:3b:00.0"}, Object: ofA}}}
				r := source.Report{Generation: "1", Standings: []source.Standing{{Object: ofA, Target: "0000:3b:00.0", Condition: right, Settled: true, Generation: "1"}}}
				for _, name := range []string{"a", "b"} {
					o := read(t, nodeENI(name, ``))
					o.ResourceVersion = "1"
					o.keep(here)
					p.objects = append(p.objects, o)
					r.Standings = append(r.Standings, source.Standing{Object: objectName(name, eni1), Condition: right, Settled: true, Generation: "1", State: "up"})
				}
				w.show(p)
				w.Report(r)
				go w.write(t.Context())
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if got := strings.Join(slices.Sorted(maps.Keys(written)), " "); got != tc.want {
					t.Errorf("written are %q, want %q", got, tc.want)
				}
				if tries > 20 {
					t.Errorf("%d tries", tries)
				}
			})
		})
	}
}

// TestWhatIsRefusedSaysWhy, and what is on the host stays told.
func TestWhatIsRefusedSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.stands(right, true, 1, nil)
		d.o.Generation = 2
		o := d.o.DeepCopyObject().(*object)
		o.ResourceVersion = "9"
		o.keep(here)
		d.w.show(picture{objects: []*object{o}, generation: "digest-2", refused: []source.Refusal{{Object: "nodeeni/a", Reason: "spec.mtu: -1"}}})
		synctest.Wait()
		d.want(2, "bound=false driver= state=up Ready=False/Refused/2 spec.mtu: -1")
	})
}

// TestGivenBackIsSaid of an object that waits to go.
func TestGivenBackIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.stands(right, true, 1, func(s *source.Standing) { s.State, s.Driver, s.Userspace = "bound", "vfio-pci", true })
		now := metav1.Now()
		d.o.DeletionTimestamp, d.o.Generation = &now, 2
		d.show()
		d.stands(released, true, 2, nil)
		d.want(2, "bound=false driver= state=up Ready=False/Released/2")
		d.show()
		d.w.Report(source.Report{Generation: "digest-2"})
		synctest.Wait()
		d.want(3, "bound=false driver= state= Ready=False/Released/2 nothing of it is left on the node")
	})
}

func TestMessagesHaveAnEnd(t *testing.T) {
	var all []metav1.Condition
	setCondition(&all, metav1.Condition{Type: "Ready", Message: strings.Repeat("ä", maxMessage)})
	if m := all[0].Message; len(m) > maxMessage || !strings.HasSuffix(m, "...") || slices.Contains([]rune(m), '�') {
		t.Errorf("%d bytes, ending in %q", len(m), m[len(m)-8:])
	}
}

// TestAnAPIThatWasSetBack to an older state never shows what was written: it is
// written again.
func TestAnAPIThatWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.version = 100
		d.stands(right, true, 1, nil)
		d.want(1, rightOn1)
		d.mu.Lock()
		a := &d.o.attachments[1]
		a.Conditions, a.State, a.StateSince, a.Driver, a.PCIAddress = nil, "", nil, "", ""
		d.version = 50
		d.mu.Unlock()
		d.show()
		time.Sleep(seenWithin + restoreLatest + time.Second)
		synctest.Wait()
		d.want(2, rightOn1)
	})
}

// TestAnAgentThatStartsKnowsNoBetter since when something is so than the API does,
// and writes nothing where all is as it was.
func TestAnAgentThatStartsKnowsNoBetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.stands(right, true, 1, nil)
		d.show()
		since := d.o.attachments[1].StateSince.Time
		time.Sleep(time.Hour)
		next := &desk{t: t, version: d.version, o: d.o}
		next.w = newWriter(next.patch, nil, here, log.NewNopLogger())
		next.show()
		go next.w.write(t.Context())
		next.stands(right, true, 1, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		next.want(0, rightOn1)
		next.stands("held", true, 1, func(s *source.Standing) { s.State = "down" })
		next.want(1, "bound=false driver= state=down Ready=False/Held/1")
		if now := next.o.attachments[1].StateSince.Time; !now.After(since) {
			t.Errorf("since %s, was since %s", now, since)
		}
	})
}

// TestTheNewsOfManyNodesIsSpread: they all write into one object.
func TestTheNewsOfManyNodesIsSpread(t *testing.T) {
	w := newWriter(nil, nil, here, log.NewNopLogger())
	latest := func(parts int) (most time.Duration) {
		for range 200 {
			p := &paper{pauses: pauses()}
			at := w.due(p, draft{kind: nodePolicies(), total: parts, settled: true})
			most = max(most, at.Sub(p.noticed))
		}
		return most
	}
	if few, many := latest(promptParts), latest(520); few > time.Millisecond || many < 3*time.Second || many > 5*time.Second {
		t.Errorf("%d nodes write within %s, 520 within %s", promptParts, few, many)
	}
}
