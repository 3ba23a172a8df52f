package agent

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers/host/sim"
)

// askedWhileReadsAreSlow has one function right at one driver, and another desired state
// that the agent begins to look at; first is the generation of the one before.
func askedWhileReadsAreSlow(t *testing.T) (n *node, first string) {
	t.Helper()
	n = newNode(t, sim.DefaultNode())
	n.start(nil)
	n.want(pci(portA, "vfio-pci"))
	settled(5 * time.Second)
	n.expect("pci 0000:02:00.0=right")
	if err := n.kernel.Inject(sim.Fault{Label: sim.LabelRead, Times: -1, Slow: 20 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	first = n.agent.Status(t.Context()).Source.Generation
	n.want(pci(portA, "igb"), pci(portB, "vfio-pci"))
	return n, first
}

// TestNothingIsRightAsItWasAskedBefore: from the moment on that a desired state is in
// force, no entry that it changes is told right before it is so, however slow the host is.
func TestNothingIsRightAsItWasAskedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, first := askedWhileReadsAreSlow(t)
		for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			s := n.agent.Status(t.Context())
			right := len(s.Interfaces) > 0
			for _, i := range s.Interfaces {
				right = right && i.Condition == Right
			}
			if s.Source.Generation != first && right {
				break
			}
			if time.Since(began) > 5*time.Minute {
				t.Fatalf("never right\n%s", n.log)
			}
		}
		n.driver(portA, "igb")
		n.driver(portB, "vfio-pci")
		n.halt()
	})
}

// TestBrokenStatusIsStale: the same, of an agent whose reports hold whatever is asked.
func TestBrokenStatusIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, first := askedWhileReadsAreSlow(t)
		for n.agent.Status(t.Context()).Source.Generation == first {
			time.Sleep(time.Millisecond)
		}
		n.agent.mu.Lock()
		clear(n.agent.anew)
		n.agent.mu.Unlock()
		s := n.agent.Status(t.Context())
		if !slices.ContainsFunc(s.Interfaces, func(i InterfaceReport) bool { return i.Target == portA && i.Condition == Right }) {
			t.Errorf("it is not told right although it was: the test above shows nothing: %+v", s.Interfaces)
		}
		n.halt()
	})
}

// TestASourceThatSaysNothingIsTold: what was asked last holds after a start, and nobody is
// told that this is what is asked now.
func TestASourceThatSaysNothingIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.halt()
		n.start(nil)
		n.unbind(portA)
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		if s := n.agent.Status(t.Context()); !s.Ready || !strings.Contains(s.Source.Error, "nothing was heard") {
			t.Errorf("the source said nothing yet: ready %t, error %q", s.Ready, s.Source.Error)
		}
		if n.logged("nothing was heard") != 1 {
			t.Errorf("not logged once\n%s", n.log)
		}
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		if s := n.agent.Status(t.Context()); s.Source.Error != "" {
			t.Errorf("the source has spoken: %q", s.Source.Error)
		}
		n.source.updates <- source.Update{Desired: &source.Desired{Source: "file", Object: "/x.yaml", Generation: "empty"}}
		settled(5 * time.Second)
		n.halt()
	})
}

// readWhenAsked is a source of which no change is told until somebody asks.
type readWhenAsked struct {
	fakeSource
	says source.Update
}

func (s readWhenAsked) Refresh(ctx context.Context) error {
	if s.says.Desired == nil {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	s.updates <- s.says
	for len(s.updates) > 0 {
		time.Sleep(time.Millisecond)
	}
	return nil
}

// TestAFreshStatusIsOfWhatIsAskedNow: who edits the file and asks at once is answered of
// what it says now, or told that this was not read.
func TestAFreshStatusIsOfWhatIsAskedNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		now := source.Desired{Source: "file", Object: "/x.yaml", Generation: "2", Interfaces: []source.Interface{pci(portB, "vfio-pci")}}
		n.start(func(c *Config) { c.Source = readWhenAsked{c.Source.(fakeSource), source.Update{Desired: &now}} })
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		if s := n.agent.Status(t.Context()); s.Source.Generation == "2" || s.Interfaces[0].Condition != Right {
			t.Fatalf("%+v", s)
		}
		s := n.agent.FreshStatus(t.Context(), time.Second)
		if s.Source.Generation != "2" || !s.Ready || !slices.ContainsFunc(s.Interfaces, func(i InterfaceReport) bool { return i.Target != portA && i.Condition != Right }) {
			t.Errorf("%+v", s)
		}
		settled(5 * time.Second)
		n.driver(portB, "vfio-pci")
		n.halt()

		n.start(func(c *Config) { c.Source = readWhenAsked{fakeSource: c.Source.(fakeSource)} })
		settled(5 * time.Second)
		if s := n.agent.FreshStatus(t.Context(), time.Second); s.Ready || s.NotReady != errBehind.Error() {
			t.Errorf("of a source that does not answer: %t %q", s.Ready, s.NotReady)
		}
		n.halt()
	})
}
