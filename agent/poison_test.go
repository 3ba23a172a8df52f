package agent

import (
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/engine"
	"eniagent/drivers/host/sim"
)

// poisoned is a node on which so many boots ended while the port was bound.
func poisoned(t *testing.T, boots int) *node {
	n := newNode(t, sim.DefaultNode())
	for range boots {
		if err := n.kernel.Inject(sim.Fault{Label: "bind", Path: "vfio-pci", Hang: true}); err != nil {
			t.Fatal(err)
		}
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(10 * time.Second)
		n.halt()
		n.kernel.Reboot() // as a kernel that panics
	}
	n.start(nil)
	settled(10 * time.Second)
	return n
}

// TestPoisonIsPutOffAndShown: a goal during which three boots ended in a row is
// not tried at once in the fourth, and says why, and when it is.
func TestPoisonIsPutOffAndShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poisoned(t, engine.MaxPanics)
		defer n.halt()
		n.expect("pci 0000:02:00.0=pending")
		n.driver(portA, "igb")
		for _, want := range []string{"3 boots in a row ended while it was tried", "tried again at 2000-01-01T", "agent retry " + portA} {
			if r := n.reason(); !strings.Contains(r, want) {
				t.Errorf("the reason does not say %q: %s", want, r)
			}
		}
		lines := n.logged("")
		settled(5 * time.Minute)
		if more := n.logged("") - lines; more > 0 {
			t.Errorf("%d lines were logged while it waits", more)
		}
		settled(6 * time.Minute) // its time has come
		n.expect("pci 0000:02:00.0=right")
		if left := n.journal.Failures(); len(left) > 0 {
			t.Errorf("a success leaves %+v", left)
		}
	})
}

func TestTwoBootsAreNoPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poisoned(t, engine.MaxPanics-1)
		defer n.halt()
		n.expect("pci 0000:02:00.0=right")
	})
}

func TestRetryClearsPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poisoned(t, engine.MaxPanics)
		defer n.halt()
		if cleared, err := n.agent.Retry(t.Context(), portA); err != nil || cleared != 1 {
			t.Errorf("cleared %d, %v", cleared, err)
		}
		settled(10 * time.Second)
		n.expect("pci 0000:02:00.0=right")
	})
}

// TestWhatIsPutOffWithoutPoisonSaysWhy: what is put off for another cause does not
// speak of boots.
func TestWhatIsPutOffWithoutPoisonSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		if err := n.kernel.Inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL, Times: -1}); err != nil {
			t.Fatal(err)
		}
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(2 * time.Second)
		n.expect("pci 0000:02:00.0=pending")
		if r := n.reason(); strings.Contains(r, "boots") || !strings.Contains(r, "tried again at") {
			t.Errorf("the reason is %q", r)
		}
	})
}
