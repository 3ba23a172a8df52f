package agent

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host/sim"
)

// TestStatusAgreesWithACommandThatHasReturned: whoever pauses, resumes or
// resolves and asks then is not told what was before it.
func TestStatusAgreesWithACommandThatHasReturned(t *testing.T) {
	for _, targets := range [][]string{{portA}, nil} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, sim.DefaultNode())
			n.start(nil)
			defer n.halt()
			n.want(pci(portA, "vfio-pci"))
			settled(5 * time.Second)
			if _, err := n.agent.Pause(t.Context(), Order{Targets: targets, Who: "root", Why: "bench"}); err != nil {
				t.Fatal(err)
			}
			n.expect("pci 0000:02:00.0=paused")
			if _, err := n.agent.Resume(t.Context(), Order{Targets: targets, Who: "root"}); err != nil {
				t.Fatal(err)
			}
			if got := n.conditions(); strings.Contains(got, "paused") {
				t.Errorf("after resume: %s", got)
			}
		})
	}
}

func TestStatusAgreesWithAResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		id := n.quarantined()
		if _, err := n.agent.Resolve(t.Context(), Resolution{Operation: id, How: Accept, Who: "root", Why: "mine"}); err != nil {
			t.Fatal(err)
		}
		if got := n.conditions(); strings.Contains(got, "quarantined") {
			t.Errorf("after resolve: %s", got)
		}
	})
}

// TestRetryTakesWhatAPersonCallsAFunction: the name of its netdev, its MAC, its
// entry, its address, also a short one; and refuses what nothing answers to.
func TestRetryTakesWhatAPersonCallsAFunction(t *testing.T) {
	for _, name := range []string{portA, "02:00.0", "pci 0000:02:00.0", "enp2s0", "52:54:00:00:00:02", "name enp2s0", ""} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, sim.DefaultNode())
				n.fails(portA)
				defer n.halt()
				if _, err := n.agent.Retry(t.Context(), "enp99s0"); err == nil || !strings.Contains(err.Error(), "enp99s0") {
					t.Errorf("a name that nothing answers to: %v", err)
				}
				if cleared, err := n.agent.Retry(t.Context(), portB); err != nil || cleared != 0 {
					t.Errorf("another function: cleared %d, %v", cleared, err)
				}
				if cleared, err := n.agent.Retry(t.Context(), name); err != nil || cleared != 1 {
					t.Errorf("cleared %d, %v", cleared, err)
				}
			})
		})
	}
}

// fails starts an agent whose bind of a function has failed for good.
func (n *node) fails(address string) {
	n.t.Helper()
	if err := n.kernel.Inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: 22, Times: -1}); err != nil {
		n.t.Fatal(err)
	}
	n.start(nil)
	n.want(pci(address, "vfio-pci"))
	settled(30 * time.Minute)
	if !slices.ContainsFunc(n.journal.Failures()[0].Keys, func(k drivers.Key) bool {
		return k.Target == drivers.Target(address) && k.Kind == dpdk.KindDriver
	}) {
		n.t.Fatalf("no failure of %s: %+v", address, n.journal.Failures())
	}
}
