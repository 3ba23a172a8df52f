package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

func (n *node) release(o Order) OrderReport {
	n.t.Helper()
	o.Who = "somebody"
	r, err := n.agent.Release(n.t.Context(), o)
	if err != nil {
		n.t.Fatalf("release: %v", err)
	}
	return r
}

// TestAnOrderToReleaseOutranksTheSource until that asks anew, across restarts
// and reboots; an entry that is merely away asks for nothing.
func TestAnOrderToReleaseOutranksTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		if r := n.release(Order{Targets: []string{portA}}); len(r.Entries) != 1 || r.Entries[0].Condition != Released || len(r.Entries[0].Steps) != 3 {
			t.Errorf("released: %+v", r)
		}
		n.expect("pci 0000:02:00.0=released, pci 0000:03:00.0=right")
		n.driver(portA, "igb")
		n.want(pci(portB, "vfio-pci")) // as if the file had been cut
		settled(time.Minute)
		n.driver(portA, "igb")
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(time.Minute)
		n.driver(portA, "igb")
		n.halt()
		n.kernel.Reboot()
		n.start(nil)
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=released, pci 0000:03:00.0=right")
		n.driver(portA, "igb")
		again := pci(portA, "vfio-pci")
		again.MTU = 1400 // nonsense with that driver, and something else than before
		n.want(again, pci(portB, "vfio-pci"))
		settled(time.Minute)
		if _, ok := n.journal.Control(orderReleased, portA); ok {
			t.Error("the source asked anew, and the order still stands")
		}
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(time.Minute)
		n.driver(portA, "vfio-pci")
		n.halt()
	})
}

// TestAnOrderIsForOneDevice: another one at the same address is not released.
func TestAnOrderIsForOneDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.release(Order{Targets: []string{portA}})
		n.halt()
		c := sim.DefaultNode()
		for i := range c.Devices {
			if c.Devices[i].Address == portA {
				c.Devices[i].SubsystemDevice = "0xbeef"
			}
		}
		c.Fence = true
		n.kernel = sim.New(c)
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(time.Minute)
		n.driver(portA, "vfio-pci")
		if !strings.Contains(n.log.String(), "another device is at its address now: its subsystem differs") {
			t.Error("nobody said that the order is over")
		}
		n.halt()
	})
}

// TestReleaseOfWhatNoEntryStandsFor: the function is given back all the same,
// by any name.
func TestReleaseOfWhatNoEntryStandsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(named("enp3s0", 9000))
		settled(5 * time.Second)
		for _, name := range []string{"enp3s0", "name enp3s0", "52:54:00:00:00:03", "mac 52:54:00:00:00:03", "03:00.0", "pci 0000:03:00.0"} {
			requests, err := n.agent.orderRequests(t.Context(), Order{Targets: []string{name}}, n.agent.current(t.Context()))
			if err != nil || len(requests) != 1 || requests[0].target != portB {
				t.Errorf("%q is %v, %v", name, requests, err)
			}
		}
		for _, name := range []string{"", "nowhere0", "0000:99:00.0", "lo", "02:00:00:00:00:99"} {
			if r, err := n.agent.Release(t.Context(), Order{Targets: []string{name}}); err == nil {
				t.Errorf("%q was released: %+v", name, r)
			}
		}
		n.release(Order{Targets: []string{portA}}) // never touched
		n.expect("name enp3s0=right, pci 0000:02:00.0=released")
		if r := n.release(Order{Targets: []string{portA}, Cancel: true}); r.Entries[0].Condition != Released {
			t.Errorf("cancelled: %+v", r)
		}
		settled(time.Second)
		n.expect("name enp3s0=right")
		if _, err := n.agent.Release(t.Context(), Order{Targets: []string{portA}, Cancel: true}); err == nil {
			t.Error("what is under no order was cancelled")
		}
	})
}

// TestReleaseAll gives everything back, modules too, unless somebody uses one.
func TestReleaseAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		before := n.kernel.String()
		n.start(nil)
		n.want(pci(portA, "vfio-pci"), pci(portB, "uio_pci_generic"), named("enp1s0", 9000), pci("0000:99:00.0", "vfio-pci"))
		settled(5 * time.Second)
		plan := n.release(Order{All: true, Dry: true})
		if _, ok := n.journal.Control(orderReleased, portA); ok || n.kernel.Writes() == 0 {
			t.Error("a plan gave an order")
		}
		r := n.release(Order{All: true})
		for _, e := range r.Entries {
			if e.Condition != Released {
				t.Errorf("%s is %s: %s", e.Target, e.Condition, e.Reason)
			}
		}
		if len(plan.Entries) != len(r.Entries) || len(r.Entries) != 3+7 {
			t.Errorf("planned %d, gave back %d; want 3 functions and 7 modules", len(plan.Entries), len(r.Entries))
		}
		if got := n.kernel.String(); ignoringNumbers(got) != ignoringNumbers(before) {
			t.Errorf("left behind:\n%s\nwas\n%s", got, before)
		}
		if left := n.journal.Baselines(); len(left) > 0 {
			t.Errorf("baselines are left: %v", left)
		}
		writes := n.kernel.Writes()
		n.release(Order{All: true})
		settled(10 * time.Minute)
		if n.kernel.Writes() != writes {
			t.Error("released twice, written twice")
		}
		n.halt()
	})
}

// ignoringNumbers is a dump without inodes and indexes, which only ever grow.
func ignoringNumbers(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		words := slices.DeleteFunc(strings.Fields(line), func(w string) bool {
			return strings.HasPrefix(w, "index=") || strings.HasPrefix(w, "inode=")
		})
		lines = append(lines, strings.Join(words, " "))
	}
	return strings.Join(lines, "\n")
}

// TestPauseLeavesTheHostAlone: one function, then the node, while another hand
// changes it; and what was begun before is finished before a pause is reported.
func TestPauseLeavesTheHostAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		pause := func(targets ...string) {
			t.Helper()
			r, err := n.agent.Pause(t.Context(), Order{Targets: targets, Who: "somebody", Why: "a look"})
			if err != nil || r.Entries[0].Condition != Paused {
				t.Fatalf("pause: %+v, %v", r, err)
			}
		}
		pause(portA)
		n.unbind(portA)
		n.unbind(portB)
		settled(10 * time.Minute)
		n.driver(portA, "")
		n.driver(portB, "vfio-pci")
		n.expect("pci 0000:02:00.0=paused, pci 0000:03:00.0=right")
		i := n.agent.Status(t.Context()).Interfaces[0]
		if !strings.Contains(i.Reason, "by somebody since 20") || !strings.Contains(i.Reason, ": a look; to go on: agent resume 0000:02:00.0") {
			t.Errorf("the reason is %q", i.Reason)
		}
		pause()
		n.halt()
		writes := n.kernel.Writes()
		n.start(nil)
		n.want(pci(portA, "igb"), pci(portB, "igb"))
		settled(10 * time.Minute)
		if got := n.kernel.Writes(); got != writes {
			t.Errorf("%d writes on a paused node", got-writes)
		}
		if err := n.agent.Ready(); err != nil {
			t.Errorf("a paused node is not ready: %v", err)
		}
		for _, targets := range [][]string{nil, {portA}} {
			if _, err := n.agent.Resume(t.Context(), Order{Targets: targets}); err != nil {
				t.Error(err)
			}
			settled(time.Minute)
		}
		n.driver(portA, "igb")
		n.driver(portB, "igb")
		if _, err := n.agent.Resume(t.Context(), Order{}); err == nil {
			t.Error("what is not paused was resumed")
		}
		n.halt()
	})
}

// TestObservingTakesNoOrders, because nothing may be written.
func TestObservingTakesNoOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(func(c *Config) { c.Observe = true })
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		o := Order{Targets: []string{portA}, Who: "x", Why: "y"}
		for name, fn := range map[string]func(context.Context, Order) (OrderReport, error){
			"release": n.agent.Release, "pause": n.agent.Pause, "resume": n.agent.Resume,
		} {
			if _, err := fn(t.Context(), o); !errors.Is(err, errReadOnly) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestAdoptedHoldsInEveryBoot: another tool binds the function at each boot, and
// a person has said once what to give it back to.
func TestAdoptedHoldsInEveryBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.DefaultNode()
		for i := range c.Devices {
			if c.Devices[i].Address == portA {
				c.Devices[i].Override = "vfio-pci"
			}
		}
		for i := range c.Modules {
			c.Modules[i].Boot = true
		}
		n := newNode(t, c)
		n.driver(portA, "vfio-pci")
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		if r := n.release(Order{Targets: []string{portA}}); r.Entries[0].Condition != Refused || r.Entries[0].Ordered {
			t.Errorf("nobody knows what it was: %+v", r)
		}
		report, err := n.agent.adopt(t.Context(), Adoption{Who: "somebody"})
		if err != nil || len(report.Functions) != 1 || report.Functions[0].Baseline != "igb" || report.Functions[0].Verdict != verdictEqual {
			t.Fatalf("adopted: %+v, %v", report, err)
		}
		if n.kernel.Writes() != 0 {
			t.Error("adopting wrote to the host")
		}
		n.halt()
		n.kernel.Reboot()
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		if r := n.release(Order{Targets: []string{portA}}); r.Entries[0].Condition != Released {
			t.Errorf("released: %+v", r)
		}
		n.driver(portA, "igb")
		n.halt()
	})
}

// TestResolvedByAnOperator: what a person decided is recovered as decided, when
// the agent dies half-way through it, though the source asks otherwise.
func TestResolvedByAnOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		id := n.quarantined()
		r, err := n.agent.Resolve(t.Context(), Resolution{Operation: id, How: Revert, Who: "somebody", Why: "mine"})
		if err != nil || r.Outcome != "done" || r.State != journal.Resolved || r.Note == "" || r.Next == 0 {
			t.Errorf("resolved: %+v, %v", r, err)
		}
		op, _ := n.journal.Get(r.Next)
		if op.Reason.Source != OperatorSource || n.agent.view.env().Wanted(&op) != "wanted" {
			t.Errorf("the operation is %+v", op)
		}
		if _, err := n.agent.Resolve(t.Context(), Resolution{Operation: id, How: Accept}); err == nil {
			t.Error("resolved twice")
		}
		settled(time.Minute)
		n.driver(portA, "igb") // still asked for
		n.halt()
	})
}

// quarantined makes an operation on port A that nobody can explain.
func (n *node) quarantined() uint64 {
	n.t.Helper()
	var once atomic.Bool
	n.kernel.Hook = func(p sim.Point) {
		if p.When == sim.Before && p.Call.Label() == "bind" && once.CompareAndSwap(false, true) {
			if err := n.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: portA, Path: host.Attr(portA, "driver_override"), Value: "uio_pci_generic"}); err != nil {
				n.t.Error(err)
			}
		}
	}
	n.want(pci(portA, "igb"))
	settled(5 * time.Second)
	ops := n.journal.Quarantined()
	if len(ops) != 1 {
		n.t.Fatalf("%d operations in quarantine\n%s", len(ops), n.log)
	}
	return ops[0].ID
}

func TestLapsedWantsSomethingElseToBeAsked(t *testing.T) {
	n := newNode(t, sim.DefaultNode())
	v := View{Host: n.kernel}
	asked := func(i source.Interface) []request {
		return []request{{asked: entry{Interface: i}, target: portA}, {asked: entry{Interface: pci(portB, "igb")}, target: portB}}
	}
	given := journal.Control{Action: orderReleased, Target: portA, Facts: map[string]string{
		factEntries: digestsOf(asked(pci(portA, "vfio-pci")), portA),
	}}
	kept := pci(portA, "vfio-pci")
	for _, tc := range []struct {
		name     string
		requests []request
		want     bool
	}{
		{"the same", asked(kept), false},
		{"nothing", nil, false},
		{"another driver", asked(pci(portA, "igb")), true},
		{"under another name", asked(source.Interface{Selector: source.Selector{Name: "enp2s0"}, State: source.Configured, Driver: "vfio-pci"}), true},
	} {
		if got := v.lapsed(t.Context(), given, tc.requests) != ""; got != tc.want {
			t.Errorf("%s: lapsed is %t", tc.name, got)
		}
	}
	given.Facts[factIdentity] = `{"vendor":"0xffff"}`
	if v.lapsed(t.Context(), given, nil) == "" {
		t.Error("an order for another device holds")
	}
	if _, ok := (View{Host: n.kernel, Records: emptyRecords(t)}).adopted(t.Context(), portA); ok {
		t.Error("adopted, though nobody did")
	}
	if dpdk.Bound("igb") != drivers.State("driver=igb override=-") {
		t.Error("a kernel driver's state has an override")
	}
}

func emptyRecords(t *testing.T) *journal.Records {
	t.Helper()
	j, err := NoJournal(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j.Records
}

// TestAnOrderForWhatTwoEntriesAsk is carried out once, and then nothing is done.
func TestAnOrderForWhatTwoEntriesAsk(t *testing.T) {
	withNode(t, func(n *node) {
		n.complete(byMAC())
		settled(5 * time.Second)
		n.complete(byMAC(), pci(portA, "igb"))
		settled(5 * time.Second)
		n.release(Order{Targets: []string{portA}})
		settled(5 * time.Second)
		n.driver(portA, "igb")
		n.expect("mac 52:54:00:00:00:02=released, pci 0000:02:00.0=waiting")
		n.isLeftAlone()
	})
}

// TestAnEntryThatWasThereAsksNothingAnew when its name leads to a function that
// is under an order: the release itself may have brought that name back.
func TestAnEntryThatWasThereAsksNothingAnew(t *testing.T) {
	name := func(s string) source.Interface {
		return source.Interface{Selector: source.Selector{Name: s}, State: source.Configured, MTU: 2000}
	}
	for _, o := range []Order{{All: true}, {Targets: []string{portA}}} {
		t.Run("its name comes back", func(t *testing.T) {
			withNode(t, func(n *node) {
				n.want(source.Interface{Selector: source.Selector{MAC: "52:54:00:00:00:02"}, State: source.Configured, Driver: "vfio-pci"})
				settled(20 * time.Second)
				n.want(name("enp2s0"))
				settled(20 * time.Second)
				n.release(o)
				settled(20 * time.Second)
				n.has("enp2s0", "mtu=1500")
				if o.All {
					n.nothingLeft()
				}
				n.want(source.Interface{Selector: source.Selector{Name: "enp2s0"}, State: source.Configured, MTU: 3000})
				settled(20 * time.Second)
				n.has("enp2s0", "mtu=3000")
			})
		})
	}
}
