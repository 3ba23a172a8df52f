package agent

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// stopWants is what there is to give back: functions, VFs of the agent's, modules.
func stopWants() []source.Interface {
	return []source.Interface{pci(portA, "vfio-pci"), vfs(3, dpdkVF())}
}

// asWanted says what is not as stopWants has it; "" when all is.
func (n *node) asWanted() string {
	var wrong []string
	for _, t := range []string{portA, vf0, vf1, vf2} {
		if d, err := host.DriverOf(n.t.Context(), n.kernel, t); d != "vfio-pci" {
			wrong = append(wrong, fmt.Sprintf("%s is bound to %q (%v)", t, d, err))
		}
	}
	for _, op := range n.journal.Quarantined() {
		wrong = append(wrong, fmt.Sprintf("operation %d is quarantined: %s", op.ID, op.Outcome))
	}
	for _, c := range n.journal.Controls() {
		if c.Action != orderReleased && c.Action != orderRest {
			continue
		}
		wrong = append(wrong, fmt.Sprintf("order %s of %s is left", c.Action, c.Target))
	}
	return strings.Join(wrong, ", ")
}

// TestAStopGivesAllBack, and the next start configures it again.
func TestAStopGivesAllBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(stopWants()...)
		settled(20 * time.Second)
		if left := n.agent.atStop(t.Context(), source.Release, time.Minute).left; left > 0 {
			t.Errorf("not all was given back\n%s", n.log)
		}
		n.driver(portA, "igb")
		n.driver(vf0, "igbvf")
		n.nothingLeft()
		n.halt()
		n.start(nil)
		n.want(stopWants()...)
		settled(20 * time.Second)
		if wrong := n.asWanted(); wrong != "" {
			t.Errorf("started again: %s\n%s", wrong, n.log)
		}
		n.halt()
	})
}

// TestAPersonsOrderOutlivesAStop, whether it was given before the stop or after it.
func TestAPersonsOrderOutlivesAStop(t *testing.T) {
	for _, before := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, sim.DefaultNode())
			n.start(nil)
			n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
			settled(5 * time.Second)
			person := func() { n.release(Order{Targets: []string{portA}}) }
			if before {
				person()
			}
			n.agent.atStop(t.Context(), source.Release, time.Minute)
			if !before {
				person()
			}
			n.halt()
			n.start(nil)
			n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
			settled(20 * time.Second)
			n.driver(portA, "igb")
			n.driver(portB, "vfio-pci")
			if c, ok := n.journal.Control(orderReleased, portA); !ok || c.Who != "somebody" || ofStop(c) {
				t.Errorf("given before the stop %t: the person's order is %+v", before, c)
			}
			n.halt()
		})
	}
}

// TestAPersonsReleaseOfAllOutlivesAStop: one that waits for a function goes on, with the
// modules.
func TestAPersonsReleaseOfAllOutlivesAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		let := n.kernel.Hold(portA)
		n.release(Order{All: true})
		if n.agent.atStop(t.Context(), source.Release, time.Minute).left == 0 {
			t.Error("a function that a program holds is told to be given back")
		}
		n.halt()
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(time.Minute)
		let()
		settled(2 * time.Minute)
		n.driver(portA, "igb")
		n.nothingLeft()
		n.halt()
	})
}

// TestAStopEndsInTime: of a function that a program holds it says so, and of what there
// was no time for; nothing is begun after it.
func TestAStopEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(stopWants()...)
		settled(20 * time.Second)
		n.kernel.Hook = func(p sim.Point) {
			if p.When == sim.Before {
				time.Sleep(3 * time.Second)
			}
		}
		began := time.Now()
		if n.agent.atStop(t.Context(), source.Release, 8*time.Second).left == 0 {
			t.Error("all is told to be given back")
		}
		n.halt()
		if took := time.Since(began); took > 6*time.Second+2*3*time.Second {
			t.Errorf("it took %s", took)
		}
		if log := n.log.String(); !strings.Contains(log, `msg="not released at the stop"`) || !strings.Contains(log, errStopTime.Error()) {
			t.Errorf("what was not released is not told:\n%s", log)
		}
		n.kernel.Hook = nil
		n.start(nil)
		n.want(stopWants()...)
		settled(20 * time.Second)
		if wrong := n.asWanted(); wrong != "" {
			t.Errorf("started again: %s\n%s", wrong, n.log)
		}
		n.halt()
	})
}

// aStop is what a crash test stops.
type aStop struct {
	flag     string
	wants    []source.Interface
	retained []string // functions that it never touches
}

// touched says which functions on vfio-pci a stop touched that it was to retain.
func (s aStop) touched(n *node) (wrong string) {
	for _, t := range s.retained {
		if d, err := host.DriverOf(n.t.Context(), n.kernel, t); d != "vfio-pci" {
			wrong += fmt.Sprintf("%s is retained, and bound to %q (%v)", t, d, err)
		}
	}
	return wrong
}

// crashes stops an agent, and crashes it at one in every boundaries of that. It returns
// what the stop and the next starts left wrong.
func (s aStop) crashes(t *testing.T, every int, breaks func(*Agent)) (points int, found []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		var mu sync.Mutex // several workers give back at once
		var images []image
		stopping := false
		keep := func(label string) {
			mu.Lock()
			defer mu.Unlock()
			if stopping {
				images = append(images, image{label: label, kernel: n.kernel.Clone(), store: n.store.Clone()})
			}
		}
		n.fault = func(point string) error { keep("journal " + point); return nil }
		n.start(nil)
		n.want(s.wants...)
		settled(20 * time.Second)
		n.kernel.Hook = func(p sim.Point) { keep("host " + p.String()) }
		mu.Lock()
		stopping = true
		mu.Unlock()
		n.agent.atStop(t.Context(), s.flag, time.Minute)
		n.halt()
		mu.Lock()
		stopping = false
		mu.Unlock()
		n.kernel.Hook, n.fault = nil, nil
		for at, i := range images {
			if at%every != 0 {
				continue
			}
			points++
			n := &node{t: t, kernel: i.kernel, store: i.store, breaks: breaks}
			wrong := s.touched(n)
			n.start(nil)
			n.want(s.wants...)
			settled(time.Minute)
			if wrong += n.asWanted(); wrong != "" {
				found = append(found, fmt.Sprintf("boundary %d, %s: %s", at, i.label, wrong))
			}
			n.halt()
		}
	})
	return points, found
}

// stops are one that gives back all, and those that leave what entries retain.
func stops() map[string]aStop {
	var all, mixed []source.Interface
	for _, i := range append(stopWants(), pci(portB, "vfio-pci")) {
		all = append(all, i)
		if i.OnStop = source.Release; i.Selector.PCI == portB {
			i.OnStop = source.Retain
		}
		mixed = append(mixed, i)
	}
	return map[string]aStop{
		"a stop that gives back":               {flag: source.Release, wants: stopWants()},
		"one that gives back what entries say": {flag: source.Retain, wants: mixed, retained: []string{portB}},
		"one that retains what an entry says":  {flag: source.Release, wants: append(all[:2:2], mixed[2]), retained: []string{portB}},
	}
}

// TestAStopThroughCrashes: wherever the agent is killed while a stop gives back, the next
// start ends as desired, with nothing in quarantine and no order left; what is retained
// is never touched.
func TestAStopThroughCrashes(t *testing.T) {
	every := 8
	if testing.Short() {
		every = 24
	}
	for name, s := range stops() {
		points, found := s.crashes(t, every, nil)
		for _, f := range found[:min(len(found), 5)] {
			t.Errorf("%s: %s", name, f)
		}
		if points < 3 {
			t.Errorf("%s: there were only %d crashes", name, points)
		}
		t.Logf("evidence: in process | crash at 1 in %d boundaries of %s | %d | %d", every, name, points, len(found))
	}
}

// TestBrokenStartKeepsTheOrdersOfAStop: a start that takes them for a person's is found.
func TestBrokenStartKeepsTheOrdersOfAStop(t *testing.T) {
	for name, s := range stops() {
		_, found := s.crashes(t, 24, func(a *Agent) {
			for _, c := range a.c.Journal.Controls() {
				c.Facts = map[string]string{factEntries: c.Facts[factEntries], factIdentity: c.Facts[factIdentity]}
				if err := a.c.Journal.SetControl(t.Context(), c); err != nil {
					t.Error(err)
				}
			}
		})
		if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, "order "+orderReleased) }) {
			t.Errorf("%s: not found: %v", name, found)
		}
	}
}

// TestBrokenStopIgnoresEntries: one that goes by its flag alone is found.
func TestBrokenStopIgnoresEntries(t *testing.T) {
	wants := append(stopWants(), pci(portB, "vfio-pci"))
	_, found := aStop{flag: source.Release, wants: wants, retained: []string{portB}}.crashes(t, 24, nil)
	if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, portB+" is retained") }) {
		t.Errorf("not found: %v", found)
	}
}
