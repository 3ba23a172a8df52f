package nodeeni

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"eniagent/agent/source"
	"eniagent/agent/source/nodeeni/events"
	"eniagent/agent/source/nodeeni/v1alpha1"
	"eniagent/drivers"
)

// room is where news is told.
type room struct {
	t    *testing.T
	n    *news
	kept *stores
	told []string
}

func newRoom(t *testing.T) *room {
	r := &room{t: t, kept: newStores(here)}
	r.starts()
	return r
}

// starts has a new agent begin.
func (r *room) starts() {
	r.n = newNews(here, func(e events.Event) {
		kind := "Normal"
		if e.Warning {
			kind = "Warning"
		}
		r.told = append(r.told, fmt.Sprintf("%s %s/%s %s %s", kind, e.Name, e.UID, e.Reason, strings.TrimPrefix(e.Note, "node "+here+": ")))
	})
	r.n.follow(r.kept)
}

// asks puts an object into the API; its status says this of the interface.
func (r *room) asks(name string, generation int64, said ...metav1.Condition) {
	r.t.Helper()
	o := &object{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Generation: generation}}
	o.attachments = []attachment{{ENIAttachment: v1alpha1.ENIAttachment{NodeID: here, ENIID: eni1, Conditions: said}}}
	if err := r.kept.enis.Update(o); err != nil {
		r.t.Fatal(err)
	}
}

func (r *room) shows(generation string, refused ...source.Refusal) {
	r.n.show(picture{objects: r.kept.enis.snapshot().all, refused: refused, generation: generation})
}

// stands says how the interface of an object does.
func (r *room) stands(generation, name, condition, reason string, more ...func(*source.Standing)) {
	s := source.Standing{
		Object: objectName(name, eni1), Target: "0000:00:07.0", Condition: condition, Reason: reason, Since: time.Now(),
		Driver: "vfio-pci", Settled: condition != "changing" && condition != "pending", Generation: generation,
	}
	for _, m := range more {
		m(&s)
	}
	r.n.Report(source.Report{Generation: generation, Standings: []source.Standing{s}})
}

// expect is what was told since it was asked last.
func (r *room) expect(want ...string) {
	r.t.Helper()
	if got, want := strings.Join(r.told, "\n"), strings.Join(want, "\n"); got != want {
		r.t.Errorf("told %q, want %q", got, want)
	}
	r.told = nil
}

const asAsked = "0000:00:07.0 is as asked, bound to vfio-pci"

// TestNews tells of each thing once, about its object.
func TestNews(t *testing.T) {
	r := newRoom(t)
	r.shows("0")
	r.n.Report(source.Report{Generation: "0"})
	r.asks("a", 1)
	r.shows("1")
	r.stands("1", "a", "changing", "")
	r.expect()
	inPool := func(s *source.Standing) { s.Pool = "intel.com/x" }
	r.stands("1", "a", right, "", func(s *source.Standing) { s.Settled = false })
	r.expect()
	for range 3 {
		r.stands("1", "a", right, "", inPool)
	}
	r.expect("Normal a/uid-a Right " + asAsked + ", in pool intel.com/x")
	r.stands("1", "a", "held", "program 7 uses it", inPool)
	r.stands("1", "a", "changing", "")
	r.stands("1", "a", "paused", "")
	r.stands("1", "a", right, "", inPool)
	r.expect("Normal a/uid-a Held 0000:00:07.0: program 7 uses it", "Normal a/uid-a Right "+asAsked+", in pool intel.com/x")
	for _, condition := range []string{refused, "failed", "quarantined", "degraded", "fenced"} {
		r.stands("1", "a", condition, "why")
		r.expect("Warning a/uid-a " + reasonOf(condition) + " 0000:00:07.0: why")
	}
	r.stands("1", "a", right, "")
	r.asks("a", 2) // another spec, which is as it is
	r.shows("2")
	r.stands("2", "a", right, "")
	r.expect("Normal a/uid-a Right "+asAsked, "Normal a/uid-a Right "+asAsked)
}

// TestNewsOfWhatIsRefusedAndGivenBack.
func TestNewsOfWhatIsRefusedAndGivenBack(t *testing.T) {
	r := newRoom(t)
	r.asks("a", 1)
	r.shows("1", source.Refusal{Object: objectName("a", ""), Reason: "not known yet"})
	r.shows("2", source.Refusal{Object: objectName("a", ""), Reason: "spec.mtu: -1"})
	for range 2 {
		r.n.Report(source.Report{Generation: "2"})
	}
	r.expect("Warning a/uid-a Refused spec.mtu: -1")
	r.shows("3")
	r.stands("3", "a", "changing", "")
	r.stands("3", "a", right, "")
	r.expect("Normal a/uid-a Right " + asAsked)
	// What an object asked before stays in force while it is refused.
	r.shows("4", source.Refusal{Object: objectName("a", ""), Reason: "spec.mtu: -2"})
	r.n.Report(source.Report{Generation: "4", Standings: r.n.report.Standings})
	r.expect("Warning a/uid-a Refused spec.mtu: -2")
	r.shows("away", source.Refusal{Object: family, Reason: "the API is away"})
	r.n.Report(source.Report{Generation: "away", Standings: r.n.report.Standings})
	r.expect()
	r.asks("a", 2)
	r.shows("5")
	r.stands("5", "a", right, "")
	r.expect("Normal a/uid-a Right " + asAsked)
	// It is deleted, and gone from the API before its interface is given back.
	o := &object{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	if err := r.kept.enis.Delete(o); err != nil {
		t.Fatal(err)
	}
	r.shows("6")
	r.n.Report(source.Report{Generation: "5"})
	r.expect()
	r.stands("6", "a", "changing", "")
	r.n.Report(source.Report{Generation: "6"})
	r.n.Report(source.Report{Generation: "6"})
	r.expect("Normal a/uid-a Released given back: nothing of it is left on the node")
	if len(r.n.tales) != 0 {
		t.Errorf("%+v is kept", r.n.tales)
	}
}

// TestAnAgentThatStartsRepeatsNothing.
func TestAnAgentThatStartsRepeatsNothing(t *testing.T) {
	said := metav1.Condition{Type: v1alpha1.ConditionReady, Reason: "Failed", Message: "why"}
	r := newRoom(t)
	r.asks("a", 1)
	r.shows("1")
	r.stands("1", "a", right, "", func(s *source.Standing) { s.Settled = false })
	r.stands("1", "a", right, "")
	r.expect()
	r.stands("1", "a", "failed", "why")
	r.expect("Warning a/uid-a Failed 0000:00:07.0: why")
	r.starts()
	r.asks("a", 1, said)
	r.shows("1")
	r.stands("1", "a", "failed", "why")
	r.expect()
	r.stands("1", "a", "failed", "another")
	r.expect("Warning a/uid-a Failed 0000:00:07.0: another")
	r.starts()
	r.shows("1", source.Refusal{Object: objectName("a", ""), Reason: "bad"})
	r.n.Report(source.Report{Generation: "1"})
	r.expect("Warning a/uid-a Refused bad")
	r.starts()
	said.Reason, said.Message = "Refused", "bad"
	r.asks("a", 1, said)
	r.shows("1", source.Refusal{Object: objectName("a", ""), Reason: "bad"})
	r.n.Report(source.Report{Generation: "1"})
	r.expect()
}

// TestNewsOfPolicies are about these.
func TestNewsOfPolicies(t *testing.T) {
	r := newRoom(t)
	r.shows("0")
	p := &policy{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "uid-p", Generation: 1}}
	if err := r.kept.policies.Update(p); err != nil {
		t.Fatal(err)
	}
	r.shows("1")
	pci := drivers.Target("0000:00:07.0")
	r.stands("1", "", right, "", func(s *source.Standing) { s.Object = policyName("p", &source.Selector{PCI: pci}) })
	r.expect("Normal p/uid-p Right " + asAsked)
}

// TestNewsOfThePlugin go to the objects that have a pool, once.
func TestNewsOfThePlugin(t *testing.T) {
	r := newRoom(t)
	r.asks("a", 1)
	r.asks("b", 1)
	r.shows("1")
	report := source.Report{Generation: "1", Standings: []source.Standing{
		{Object: objectName("a", eni1), Condition: right, Settled: true, Pool: "intel.com/x", Generation: "1"},
		{Object: objectName("a", eni2), Condition: right, Settled: true, Pool: "intel.com/x", Generation: "1"},
		{Object: objectName("b", eni1), Condition: right, Settled: true, Generation: "1"},
	}}
	r.n.Report(report)
	report.Plugin = source.Restart{At: time.Now(), Restarted: source.Restarted{How: "it was restarted"}}
	r.n.Report(report)
	r.n.Report(report)
	r.expect("Normal a/uid-a PluginRestarted the device plugin has read its file: it was restarted")
	report.Plugin = source.Restart{At: time.Now(), Restarted: source.Restarted{How: "it was restarted", Warning: "not ready"}}
	r.n.Report(report)
	r.expect("Normal a/uid-a PluginRestarted the device plugin has read its file: it was restarted",
		"Warning a/uid-a PluginNotReady the device plugin does not work: not ready")
}
