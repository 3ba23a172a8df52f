package agent

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eniagent/agent/plan"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

// repairs are the operations of the journal that nobody asked for anew.
func (n *node) repairs() (ops []journal.Operation) {
	for _, op := range n.journal.History(0) {
		if op.Reason.Source == DriftSource {
			ops = append(ops, op)
		}
	}
	return ops
}

// fight lets another hand take the port off its driver, so many times.
func (n *node) fight(times int, pause time.Duration) {
	for range times {
		n.unbind(portA)
		settled(pause)
	}
}

// stopped is a node whose agent has repaired the port three times and was
// changed again.
func stopped(t *testing.T) *node {
	n := newNode(t, sim.DefaultNode())
	n.start(nil)
	n.want(pci(portA, "vfio-pci"))
	settled(5 * time.Second)
	n.fight(4, time.Minute)
	n.expect("pci 0000:02:00.0=degraded")
	n.driver(portA, "")
	return n
}

// edit changes the files of the host.
func (n *node) edit(change func(files map[string]string)) {
	n.t.Helper()
	err := n.kernel.Edit(func(c *sim.Config) error {
		change(c.Files)
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

// metric is the value of one series, NaN-free: what is not there fails.
func (n *node) metric(series string) float64 {
	n.t.Helper()
	families, err := n.agent.c.Registry.(prometheus.Gatherer).Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+strconv.Quote(l.GetValue()))
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			if name == series {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	n.t.Fatalf("no series %s", series)
	return 0
}

// reason is why the first entry stands as it does.
func (n *node) reason() string {
	return n.agent.Status(n.t.Context()).Interfaces[0].Reason
}

func TestDriftIsRepairedByAnOperationThatSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"), named("enp3s0", 9000))
		settled(5 * time.Second)
		if r := n.repairs(); len(r) > 0 {
			t.Errorf("what was asked for is called a repair: %+v", r[0].Reason)
		}
		n.unbind(portA)
		settled(time.Second)
		n.driver(portA, "vfio-pci")
		n.expect("pci 0000:02:00.0=right, name enp3s0=right")
		r := n.repairs()
		if len(r) != 1 || r[0].Reason.Entry != "pci "+portA || r[0].State != journal.Done {
			t.Errorf("repairs: %+v", r)
		}
		if got := n.metric(`eniagent_drift_total{kind="driver"}`); got != 1 {
			t.Errorf("drift of drivers is counted as %v", got)
		}
		if got := n.metric("eniagent_drift_targets"); got != 0 {
			t.Errorf("%v functions drift after the repair", got)
		}
	})
}

func TestThreeRepairsInTenMinutesThenItIsLeftAndCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := stopped(t)
		if len(n.repairs()) != maxRepairs {
			t.Errorf("%d repairs, want %d", len(n.repairs()), maxRepairs)
		}
		if r := n.reason(); !strings.Contains(r, "driver changed by another hand after 3 repairs") || !strings.Contains(r, "agent retry "+portA) {
			t.Errorf("the reason is %q", r)
		}
		// The other hand goes on: no write, and no flood of the log.
		before, lines := n.kernel.Writes(), n.logged("")
		override := host.Call{Op: host.OpSysfs, Target: portA, Path: host.Attr(portA, "driver_override")}
		for i := range 200 {
			override.Value = []string{"igb", "vfio-pci"}[i%2]
			if err := n.kernel.Foreign(override); err != nil {
				t.Fatal(err)
			}
			n.agent.Wake()
			settled(10 * time.Second)
		}
		if w := n.kernel.Writes() - before; w != 0 {
			t.Errorf("%d writes while two fight", w)
		}
		if more := n.logged("") - lines; more > 2 {
			t.Errorf("%d lines were logged while nothing was done:\n%s", more, n.log)
		}
		if got := n.metric("eniagent_drift_targets"); got != 1 {
			t.Errorf("%v functions are said to drift", got)
		}
		n.halt()
		n.start(nil) // across a restart
		settled(20 * time.Minute)
		n.expect("pci 0000:02:00.0=degraded")
		if len(n.repairs()) != maxRepairs {
			t.Errorf("a restart made %d more repairs", len(n.repairs())-maxRepairs)
		}
		n.halt()
	})
}

func TestDriftIsRepairedAgainAfterQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := stopped(t)
		defer n.halt()
		settled(quiet - 2*time.Minute)
		n.expect("pci 0000:02:00.0=degraded")
		settled(2 * time.Minute)
		n.expect("pci 0000:02:00.0=right")
		n.fight(2, time.Minute)
		n.expect("pci 0000:02:00.0=right")
		n.fight(1, time.Minute) // the three repairs since are within the window
		n.expect("pci 0000:02:00.0=degraded")
	})
}

// TestSlowDriftIsRepairedForEver: it is three within the window, not three.
func TestSlowDriftIsRepairedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.fight(12, 6*time.Minute)
		n.expect("pci 0000:02:00.0=right")
		if len(n.repairs()) != 12 {
			t.Errorf("%d repairs, want 12", len(n.repairs()))
		}
	})
}

// TestFightThatWasLongAgoIsOver: three repairs that held say nothing about a
// change much later.
func TestFightThatWasLongAgoIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.fight(3, time.Minute)
		settled(time.Hour)
		n.fight(1, time.Minute)
		n.expect("pci 0000:02:00.0=right")
	})
}

func TestWhatEndsAStop(t *testing.T) {
	for name, end := range map[string]func(*node){
		"retry": func(n *node) {
			if cleared, err := n.agent.Retry(n.t.Context(), portA); err != nil || cleared != 1 {
				n.t.Errorf("cleared %d, %v", cleared, err)
			}
		},
		"something else is asked": func(n *node) { n.want(pci(portA, "uio_pci_generic")) },
		"a new boot": func(n *node) {
			n.halt()
			n.kernel.Reboot()
			n.start(nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := stopped(t)
				end(n)
				settled(10 * time.Second)
				n.expect("pci 0000:02:00.0=right")
				if newest := n.journal.History(1)[0]; newest.Reason.Source != "file" {
					t.Errorf("what a person asked for is called %s", newest.Reason.Source)
				}
				n.fight(3, time.Second) // the count begins anew
				n.expect("pci 0000:02:00.0=right")
				n.fight(1, time.Second)
				n.expect("pci 0000:02:00.0=degraded")
				n.halt()
			})
		})
	}
}

func TestRetryOfAnotherTargetDoesNotEndAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := stopped(t)
		defer n.halt()
		if cleared, err := n.agent.Retry(t.Context(), portB); err != nil || cleared != 0 {
			t.Errorf("cleared %d, %v", cleared, err)
		}
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=degraded")
	})
}

func TestDriftOfAKnownOwnersIsReportedOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		file := "/etc/driverctl.d/pci-" + portA
		n.edit(func(files map[string]string) { files[file] = "igb" })
		before := n.kernel.Writes()
		n.unbind(portA)
		settled(2 * time.Hour)
		n.expect("pci 0000:02:00.0=degraded, pci 0000:03:00.0=right")
		n.driver(portA, "")
		if w := n.kernel.Writes() - before; w != 0 {
			t.Errorf("%d writes of what driverctl owns", w)
		}
		for _, want := range []string{"driverctl", file, "rm " + file, "agent retry " + portA} {
			if r := n.reason(); !strings.Contains(r, want) {
				t.Errorf("the reason does not say %q: %s", want, r)
			}
		}
		// A person decides: once. Then it is drift again.
		if _, err := n.agent.Retry(t.Context(), portA); err != nil {
			t.Fatal(err)
		}
		settled(time.Second)
		n.driver(portA, "vfio-pci")
		n.unbind(portA)
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=degraded, pci 0000:03:00.0=right")
		// The owner goes: it is repaired.
		n.edit(func(files map[string]string) { delete(files, file) })
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=right")
	})
}

func TestLikelyOwnerIsNamedWhenStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.edit(func(files map[string]string) {
			files["/etc/udev/rules.d/80-nic.rules"] = `ATTR{device}=="0x10c9", ATTR{driver_override}="igb"`
		})
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.fight(4, time.Second)
		n.expect("pci 0000:02:00.0=degraded")
		if r := n.reason(); !strings.Contains(r, "the likely other writer is udev (a rule in /etc/udev/rules.d/80-nic.rules") {
			t.Errorf("the reason names nobody: %s", r)
		}
	})
}

// TestDriftOfALinkNamesNetworkManager: the owner is of the attribute.
// TestAWriterThatHasEndedIsStillNamed: it is there only while it writes.
func TestAWriterThatHasEndedIsStillNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.edit(func(files map[string]string) { files["/proc/77/cmdline"] = "driverctl\x00unset-override\x00" + portA })
		n.fight(1, time.Minute)
		n.edit(func(files map[string]string) { delete(files, "/proc/77/cmdline") })
		n.fight(3, time.Minute)
		n.expect("pci 0000:02:00.0=degraded")
		said := n.reason()
		if !strings.Contains(said, `driverctl (process 77 runs "driverctl unset-override 0000:02:00.0")`) {
			t.Errorf("the reason does not name it: %s", said)
		}
		settled(2 * time.Minute)
		if again := n.reason(); again != said {
			t.Errorf("the reason changed by itself: %s", again)
		}
		if _, err := n.agent.Retry(t.Context(), portA); err != nil {
			t.Fatal(err)
		}
		settled(5 * time.Second)
		n.fight(4, time.Minute)
		if said := n.reason(); !strings.Contains(said, "no other writer was found") {
			t.Errorf("the reason names one that was not seen since: %s", said)
		}
		n.halt()
	})
}

func TestDriftOfALinkNamesNetworkManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		dev, err := host.NetdevOf(t.Context(), n.kernel, portB)
		if err != nil {
			t.Fatal(err)
		}
		n.edit(func(files map[string]string) {
			files["/run/NetworkManager/devices/"+strconv.Itoa(dev.Index)] = "[device]\nmanaged=true"
		})
		n.start(nil)
		defer n.halt()
		n.want(named("enp3s0", 9000))
		settled(5 * time.Second)
		n.expect("name enp3s0=right") // what is asked is done, whoever owns it
		if err := n.kernel.Foreign(host.Call{Op: host.OpMTU, Target: drivers.Target(portB), Index: dev.Index, Number: 1500}); err != nil {
			t.Fatal(err)
		}
		settled(time.Minute)
		n.expect("name enp3s0=degraded")
		if r := n.reason(); !strings.Contains(r, "mtu changed by another hand") || !strings.Contains(r, "NetworkManager") {
			t.Errorf("the reason is %q", r)
		}
	})
}

func TestWhatIsAskedAnewIsNoDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		for range 6 {
			n.want(pci(portA, "vfio-pci"))
			settled(5 * time.Second)
			n.want(pci(portA, "igb"))
			settled(5 * time.Second)
		}
		if r := n.repairs(); len(r) > 0 {
			t.Errorf("%d operations that were asked for are called repairs", len(r))
		}
		n.halt()
		// Asked anew while the agent was away.
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right")
		if r := n.repairs(); len(r) > 0 {
			t.Error("what was asked for across a restart is called a repair")
		}
		n.halt()
	})
}

// TestDriftWhileTheAgentWasAway is known from the journal; a new boot is none.
func TestDriftWhileTheAgentWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.halt()
		n.unbind(portA)
		n.start(nil)
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right")
		if r := n.repairs(); len(r) != 1 {
			t.Errorf("%d repairs, want 1", len(r))
		}
		n.halt()
		n.kernel.Reboot()
		n.start(nil)
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right")
		if r := n.repairs(); len(r) != 1 {
			t.Error("a new boot is called drift")
		}
		n.halt()
	})
}

// TestObserverRepairsNoDrift and reports none: it never saw to it.
func TestObserverRepairsNoDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.halt()
		n.start(func(c *Config) { c.Observe = true })
		defer n.halt()
		n.fight(1, time.Hour)
		n.expect("pci 0000:02:00.0=pending")
	})
}

// TestMemoryOfDriftIsBounded by what is asked for.
func TestMemoryOfDriftIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		released := pci(portA, "")
		released.State = source.Released
		n.want(released)
		settled(5 * time.Second)
		n.want()
		settled(5 * time.Second)
		n.agent.drifts.mu.Lock()
		defer n.agent.drifts.mu.Unlock()
		if kept := len(n.agent.drifts.by); kept > len(n.agent.entries) {
			t.Errorf("%d functions are remembered, of %d entries", kept, len(n.agent.entries))
		}
	})
}

// TestWas: what a key was is what this agent saw, else what was last done to it.
func TestWas(t *testing.T) {
	k := drivers.Key{Kind: "driver", Target: portA}
	op := func(source string, state journal.OperationState, after drivers.State) journal.Operation {
		return journal.Operation{State: state, Reason: journal.Reason{Source: source}, Changes: []journal.Change{{Key: k, After: after}}}
	}
	other := journal.Operation{State: journal.Done, Changes: []journal.Change{{Key: drivers.Key{Kind: "mtu", Target: portA}, After: "want"}}}
	for name, tc := range map[string]struct {
		goal plan.Goal
		done []journal.Operation
		want bool
	}{
		"nothing is known":             {},
		"seen right":                   {goal: plan.Goal{k: "want"}, want: true},
		"seen right for something":     {goal: plan.Goal{k: "else"}, done: []journal.Operation{op("file", journal.Done, "want")}},
		"done":                         {done: []journal.Operation{other, op("file", journal.Done, "want")}, want: true},
		"done, then something else":    {done: []journal.Operation{op("file", journal.Done, "else"), op("file", journal.Done, "want")}},
		"done, then given up":          {done: []journal.Operation{op("file", journal.Reverted, "want"), op("file", journal.Done, "want")}},
		"a repair of it was given up":  {done: []journal.Operation{op(DriftSource, journal.Reverted, "want"), op("file", journal.Done, "want")}, want: true},
		"never done, its repair given": {done: []journal.Operation{op(DriftSource, journal.Reverted, "want")}},
	} {
		if got := (&memory{goal: tc.goal}).was(k, "want", tc.done); got != tc.want {
			t.Errorf("%s: was is %t", name, got)
		}
	}
}

// TestHistoryOfAnotherBootIsNone: inodes of sysfs may be the same again.
func TestHistoryOfAnotherBootIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := stopped(t)
		n.halt()
		n.kernel.Reboot()
		n.start(func(c *Config) { c.Observe = true })
		defer n.halt()
		settled(5 * time.Second)
		unknown := request{target: portA} // no incarnation to tell them by
		if h := n.agent.history(unknown); len(h) > 0 {
			t.Errorf("%d operations of an earlier boot count", len(h))
		}
	})
}
