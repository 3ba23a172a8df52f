package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// onStop is an entry with what a stop does.
func onStop(i source.Interface, what string) source.Interface {
	i.OnStop = what
	return i
}

// bound is which functions are on vfio-pci.
func (n *node) bound() (bound []string) {
	for _, t := range []string{portA, portB, vf0, vf1, vf2} {
		if d, _ := host.DriverOf(n.t.Context(), n.kernel, t); d == "vfio-pci" {
			bound = append(bound, t)
		}
	}
	return bound
}

// TestAStopDoesWhatEachEntrySays, and the flag where one says nothing; the next start has
// all as desired.
func TestAStopDoesWhatEachEntrySays(t *testing.T) {
	const (
		retain, release = source.Retain, source.Release
		goes            = "VF 0000:01:10.4 would go with it, which pci 0000:01:10.4 retains: it stays, with the VFs of its entry; say one onStop for both"
	)
	a, b, own := pci(portA, "vfio-pci"), pci(portB, "vfio-pci"), pci(vf2, "vfio-pci")
	jumbo := pci(maker, "")
	jumbo.MTU = 9000
	made, bare := vfs(3, dpdkVF()), vfs(3, source.VF{})
	vfsOf := []string{vf0, vf1, vf2}
	for _, tc := range []struct {
		name, flag string
		wants      []source.Interface
		bound      []string // after the stop
		vfs        int
		all        bool
		left       string // what is told of what is left; "" is nothing
	}{
		{"retain, and nobody says otherwise", retain, []source.Interface{a, onStop(b, retain)}, []string{portA, portB}, 2, false, ""},
		{"retain, one is released", retain, []source.Interface{onStop(a, release), b}, []string{portB}, 2, false, ""},
		{"retain, all are released", retain, []source.Interface{onStop(a, release), onStop(made, release)}, nil, 2, true, ""},
		{"release, one is retained", release, []source.Interface{a, onStop(b, retain)}, []string{portB}, 2, false, ""},
		{"release, all are retained", release, []source.Interface{onStop(a, retain), onStop(b, retain)}, []string{portA, portB}, 2, false, ""},
		{"VFs go with their PF", retain, []source.Interface{a, onStop(made, release)}, []string{portA}, 2, false, ""},
		{"VFs stay with their PF", release, []source.Interface{a, onStop(made, retain)}, vfsOf, 3, false, ""},
		{"a VF of a PF that stays", release, []source.Interface{onStop(bare, retain), own}, nil, 3, false, ""},
		{"a VF that goes, with its PF", retain, []source.Interface{onStop(bare, release), onStop(own, release), b}, []string{portB}, 2, false, ""},
		{"a VF that stays, of a PF that is to go", release, []source.Interface{bare, onStop(own, retain), a}, []string{vf2}, 3, false, goes},
		{"the same, by the flag", retain, []source.Interface{onStop(bare, release), own, onStop(a, release)}, []string{vf2}, 3, false, goes},
		{"a VF that stays, of a PF whose VFs stay", release, []source.Interface{jumbo, onStop(pci(vf0, "vfio-pci"), retain)}, []string{vf0}, 2, false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, sim.DefaultNode())
				n.start(nil)
				n.want(tc.wants...)
				settled(20 * time.Second)
				before := n.bound()
				end := n.agent.atStop(t.Context(), tc.flag, time.Minute)
				n.expectBound(tc.bound)
				if all, err := host.VFsOf(t.Context(), n.kernel, maker); err != nil || len(all) != tc.vfs {
					t.Errorf("VFs are %v (%v), want %d\n%s", all, err, tc.vfs, n.log)
				}
				if (end.left > 0) != (tc.left != "") || end.all != tc.all || !strings.Contains(n.log.String(), tc.left) {
					t.Errorf("it ends as %+v\n%s", end, n.log)
				}
				if tc.all {
					n.nothingLeft()
				}
				n.halt()
				n.start(nil)
				n.want(tc.wants...)
				settled(20 * time.Second)
				n.expectBound(before)
				n.noOrders()
				n.halt()
			})
		})
	}
}

func (n *node) expectBound(want []string) {
	n.t.Helper()
	if got := n.bound(); !slices.Equal(got, want) {
		n.t.Errorf("on vfio-pci are %v, want %v\n%s", got, want, n.log)
	}
}

func (n *node) noOrders() {
	n.t.Helper()
	for _, c := range n.journal.Controls() {
		if c.Action == orderReleased || c.Action == orderRest {
			n.t.Errorf("order %s of %s is left", c.Action, c.Target)
		}
	}
}

// TestAStopLeavesThePoolsOfWhatIsRetained, and takes what is released out of its own.
func TestAStopLeavesThePoolsOfWhatIsRetained(t *testing.T) {
	withPools(t, func(n *node) {
		n.want(onStop(inPool(pci(portA, "vfio-pci"), poolX), source.Release), inPool(pci(portB, "vfio-pci"), poolX),
			onStop(vfs(2, source.VF{Driver: "vfio-pci", Pool: poolY}), source.Release))
		settled(20 * time.Second)
		n.expectPool(poolX, portA, portB)
		n.expectPool(poolY, vf0, vf1)
		if end := n.agent.atStop(n.t.Context(), source.Retain, time.Minute); end.left > 0 || end.all {
			t.Errorf("it ends as %+v\n%s", end, n.log)
		}
		n.expectPool(poolX, portB)
		n.expectPool(poolY)
		own := n.agent.view.ownPools()
		if want := []drivers.Target{mustEntry(t, poolX)}; !slices.Equal(own, want) {
			t.Errorf("pools of the agent are %v, want %v\n%s", own, want, n.log)
		}
	})
}

func mustEntry(t *testing.T, pool string) drivers.Target {
	t.Helper()
	e, err := drivers.FileEntry(pluginFile, pool)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestAStopRetainsWhatCannotBeFoundNow: the entry still says it of the function that it
// stood for.
func TestAStopRetainsWhatCannotBeFoundNow(t *testing.T) {
	withNode(t, func(n *node) {
		asked := onStop(pci("", "vfio-pci"), source.Retain)
		asked.Selector.Name = nameOf(sim.DefaultNode(), portA)
		n.want(asked, pci(portB, "vfio-pci"))
		settled(20 * time.Second)
		n.driver(portA, "vfio-pci")
		current := n.agent.current(n.t.Context())
		for i := range current {
			if current[i].target == portA {
				current[i].target = ""
				current[i].cannot(Waiting, errNobody)
			}
		}
		if s := n.agent.stopScope(n.t.Context(), source.Release, current); fmt.Sprint(s.targets) != "["+portB+"]" || s.all {
			t.Errorf("a stop gives back %+v", s)
		}
	})
}

// TestAnEditOfOnStopAsksNothingAnew: neither of what a person released nor of what is in
// quarantine.
func TestAnEditOfOnStopAsksNothingAnew(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.release(Order{Targets: []string{portA}})
		n.want(onStop(pci(portA, "vfio-pci"), source.Release))
		settled(20 * time.Second)
		n.driver(portA, "igb")
		if e := entriesOf(n); len(e) != 1 || e[0].OnStop != source.Release {
			t.Errorf("entries are %+v", e)
		}
		was, now := []entry{{Interface: pci(portA, "vfio-pci")}}, []entry{{Interface: onStop(pci(portA, "vfio-pci"), source.Retain)}}
		if changed := changedEntries(was, now); len(changed) > 0 {
			t.Errorf("asked anew: %v", changed)
		}
	})
}

// TestAStopBeforeTheStart, and one of an agent that only observes, tell what the journal
// says they leave. Where nothing is to be given back, nothing is waited for.
func TestAStopBeforeTheStart(t *testing.T) {
	for _, tc := range []struct {
		flag, a string // a is what the entries of portA and of the VFs say
		left    []string
	}{
		{source.Retain, "", nil},
		{source.Retain, source.Release, []string{portA}},
		{source.Release, "", []string{portA, portB}},
		{source.Release, source.Retain, []string{portB}},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, sim.DefaultNode())
			n.start(nil)
			n.want(onStop(pci(portA, "vfio-pci"), tc.a), pci(portB, "vfio-pci"))
			settled(20 * time.Second)
			n.halt()
			n.start(func(c *Config) { c.Observe = true })
			settled(time.Second)
			n.leaves(tc.flag, "nothing may be written", tc.left)
			n.agent.begun = make(chan struct{})
			n.leaves(tc.flag, "the agent had not started", tc.left)
			n.halt()
		})
	}
}

// leaves stops an agent that gives nothing back, and says why, and what it leaves.
func (n *node) leaves(flag, why string, left []string) {
	n.t.Helper()
	began := time.Now()
	if end := n.agent.atStop(n.t.Context(), flag, time.Minute); end.left != len(left) || end.asked != (len(left) > 0) {
		n.t.Errorf("%s: it ends as %+v, want %v left", flag, end, left)
	}
	if took := time.Since(began); took > 0 && len(left) == 0 {
		n.t.Errorf("%s: it waited %s for nothing", flag, took)
	}
	for _, t := range left {
		if n.logged("target="+t+" entry= state=pending why=\""+why) != 1 {
			n.t.Errorf("%s: %s is not told\n%s", flag, t, n.log)
		}
	}
}
