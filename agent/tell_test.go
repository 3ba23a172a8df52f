package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers/host/sim"
)

// listener is a source that is told how what it asks stands.
type listener struct {
	fakeSource

	mu   sync.Mutex
	told []source.Report
}

func (l *listener) Report(r source.Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, r)
}

// last is what it was told last, and said what it was told since that.
func (l *listener) last() (r source.Report, said []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r = range l.told {
		for _, s := range r.Standings {
			said = append(said, fmt.Sprintf("%s %s %s %s of %.4s settled=%t", s.Object, s.Condition, s.State, s.Driver, s.Generation, s.Settled))
		}
	}
	l.told = nil
	return r, slices.Compact(said)
}

func (n *node) listens() *listener {
	l := &listener{}
	n.start(func(c *Config) {
		l.fakeSource = c.Source.(fakeSource)
		c.Source = l
	})
	return l
}

func TestTheSourceIsToldHowItStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		l := n.listens()
		asked := ofObject("nodeeni/a", pci(portA, "vfio-pci"))
		n.complete(asked)
		settled(5 * time.Second)
		bound := generation([]source.Interface{asked})
		r, said := l.last()
		end := fmt.Sprintf("nodeeni/a right bound vfio-pci of %.4s settled=true", bound)
		if len(said) == 0 || said[len(said)-1] != end || r.Generation != bound {
			t.Fatalf("told %q of %s; want %q in the end", said, r.Generation, end)
		}
		for _, s := range said[:len(said)-1] {
			if strings.Contains(s, "settled=true") {
				t.Errorf("told %q on the way", s)
			}
		}
		s := r.Standings[0]
		if s.Target != portA || s.Entry != "pci "+portA || s.Since.IsZero() || s.StateSince.IsZero() || !s.Userspace {
			t.Errorf("told %+v", s)
		}
		settled(time.Hour) // nothing changes
		if _, said := l.last(); len(said) > 0 {
			t.Errorf("told %q, though nothing changed", said)
		}
		n.complete()
		settled(5 * time.Second)
		if r, said = l.last(); len(r.Standings) > 0 || r.Generation != generation(nil) || len(said) == 0 {
			t.Errorf("told %q, in the end %+v", said, r)
		}
		n.halt()
	})
}

// TestAGenerationIsToldOnceItWasLookedAt, one interface at a time: one that a
// write hangs on was not.
func TestAGenerationIsToldOnceItWasLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		l := n.listens()
		was := []source.Interface{ofObject("a", pci(portA, "vfio-pci")), ofObject("b", pci(portB, "vfio-pci"))}
		n.complete(was...)
		settled(5 * time.Second)
		_, err := n.agent.Pause(context.Background(), Order{Targets: []string{portB}, Why: "by hand"})
		if err != nil {
			t.Fatal(err)
		}
		n.source.updates <- source.Update{Err: errors.New("away")}
		settled(time.Minute)
		r, _ := l.last()
		if r.Generation != generation(was) {
			t.Errorf("of %s", r.Generation)
		}
		next := []source.Interface{ofObject("a", pci(portA, "igb")), ofObject("b", pci(portB, "igb"))}
		n.complete(next...)
		settled(time.Minute)
		r, _ = l.last()
		for i, want := range []string{"right", "paused"} {
			if s := r.Standings[i]; s.Condition != want || s.Generation != generation(next) {
				t.Errorf("told %+v, want %s of %s", s, want, generation(next))
			}
		}
		n.halt()
	})
}

// TestWhatIsGoneIsBoundToNothing: what was seen of it last is no longer so.
func TestWhatIsGoneIsBoundToNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		l := n.listens()
		n.complete(ofObject("a", pci(portA, "vfio-pci")), ofObject("b", source.Interface{Selector: source.Selector{MAC: "52:54:00:00:00:03"}, State: source.Configured, Driver: "vfio-pci"}))
		settled(5 * time.Second)
		for _, port := range []string{portA, portB} {
			if err := n.kernel.Unplug(port); err != nil {
				t.Fatal(err)
			}
		}
		settled(time.Minute)
		r, _ := l.last()
		for _, s := range r.Standings {
			if s.State != "gone" || s.Driver != "" || s.Userspace {
				t.Errorf("told %+v", s)
			}
		}
		for _, i := range n.agent.Status(t.Context()).Interfaces {
			if len(i.Observed) > 0 {
				t.Errorf("%s is gone, and observed as %v", i.Entry, i.Observed)
			}
		}
		n.halt()
	})
}

// TestAPoolIsPartOfSettled: an interface that shall be in one is about to be.
func TestAPoolIsPartOfSettled(t *testing.T) {
	r := InterfaceReport{Condition: Right, pool: poolX}
	if standingOf(r, "").Settled || !standingOf(r, poolX).Settled {
		t.Error("settled outside of its pool, or not inside")
	}
	r.Condition = Held
	if standingOf(r, poolX).Settled || !standingOf(r, "").Settled {
		t.Error("settled while it is to be taken out, or not after")
	}
}

// TestAnotherSourceTakesNothingBack that the one before has asked.
func TestAnotherSourceTakesNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		n.halt()
		kubernetes := func(c *Config) { c.Name, c.Object = "kubernetes", "nodeenis" }
		for range 2 {
			n.start(kubernetes)
			settled(time.Minute) // it has not spoken
			n.complete(ofObject("nodeeni/b", pci(portB, "vfio-pci")))
			settled(time.Minute)
			n.driver(portA, "vfio-pci")
			n.expect("pci 0000:03:00.0=right, pci 0000:02:00.0=right")
			s := n.agent.Status(t.Context())
			if of := s.Interfaces[1]; of.From != "file" || !of.Kept || s.Interfaces[0].From != "" {
				t.Errorf("kept %+v", s.Interfaces)
			}
			if all := n.journal.Sources(); len(all) != 1 || all[0].Source != "kubernetes" {
				t.Errorf("the journal has the desired state of %+v", all)
			}
			n.halt()
		}
		// Back again, what the file no longer names stays, as ever with a file; and so
		// does what the other asked.
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(time.Minute)
		n.driver(portB, "vfio-pci")
		n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=right")
		if s := n.agent.Status(t.Context()); s.Interfaces[0].Kept || s.Interfaces[1].From != "kubernetes" {
			t.Errorf("kept %+v", s.Interfaces)
		}
		n.release(Order{Targets: []string{portB}, Why: "not needed"})
		settled(time.Minute)
		n.driver(portB, "igb")
		n.halt()
	})
}

// TestTheJournalSaysWhichObjectAsked and not only the source.
func TestTheJournalSaysWhichObjectAsked(t *testing.T) {
	withNode(t, func(n *node) {
		n.complete(ofObject("nodeeni/a", pci(portA, "vfio-pci")), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		got := map[string]string{}
		for _, op := range n.journal.History(0) {
			if op.Reason.Entry == "pci "+portA || op.Reason.Entry == "pci "+portB {
				got[op.Reason.Entry] = op.Reason.Object
			}
		}
		if got["pci "+portA] != "nodeeni/a" || got["pci "+portB] != "/x.yaml" {
			t.Errorf("asked by %v", got)
		}
	})
}
