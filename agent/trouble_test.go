package agent

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

func releasedPCI(address string) source.Interface {
	return source.Interface{Selector: source.Selector{PCI: drivers.Target(address)}, State: source.Released}
}

// TestAFailedReadWithdrawsNothing: an entry that cannot be resolved just now is
// still wanted, and its half-way operation is replayed, not reverted.
func TestAFailedReadWithdrawsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		byName := source.Interface{Selector: source.Selector{Name: "enp2s0"}, State: source.Configured, Driver: "vfio-pci"}
		if err := n.kernel.Inject(sim.Fault{Label: "unbind", Path: portA, When: sim.After, Hang: true}); err != nil {
			t.Fatal(err)
		}
		n.want(byName)
		settled(time.Minute)
		if err := n.kernel.Inject(sim.Fault{Label: sim.LabelLinks, Errno: syscall.EINTR, Times: 3}); err != nil {
			t.Fatal(err)
		}
		n.agent.Wake()
		settled(time.Second)
		n.agent.Wake()
		settled(time.Second)
		n.kernel.Thaw()
		settled(time.Minute)
		n.driver(portA, "vfio-pci")
		for _, op := range n.journal.History(0) {
			if op.State == journal.Reverted {
				t.Errorf("operation %d was reverted: %s", op.ID, op.Outcome)
			}
		}
		n.halt()
	})
}

// TestAReleaseInFlightOutlivesItsEntry: the entry may go from the file before
// the function is back; it is given back all the same.
func TestAReleaseInFlightOutlivesItsEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		n.hang("unbind")
		n.want(releasedPCI(portA), pci(portB, "vfio-pci"))
		settled(time.Minute)
		if s := n.conditions(); !strings.Contains(s, "0000:02:00.0=fenced") {
			t.Errorf("a held function is %s", s)
		}
		n.want(pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		n.kernel.Thaw()
		settled(time.Minute)
		n.driver(portA, "igb")
		n.expect("pci 0000:03:00.0=right") // and nobody speaks of it any more
		n.halt()
	})
}

// TestReleasedIsNotSaidOfAFunctionStillTaken: without its baseline nobody
// knows what it was, and that is said.
func TestReleasedIsNotSaidOfAFunctionStillTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		if _, err := n.journal.DropBaselines(t.Context(), func(journal.Baseline) bool { return true }); err != nil {
			t.Fatal(err)
		}
		n.want(releasedPCI(portA))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=refused")
		n.halt()
	})
}

// TestASelectorMayChange: the same function under another selector is not two.
func TestASelectorMayChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(named("enp3s0", 9000))
		settled(5 * time.Second)
		byAddress := named("enp3s0", 9000)
		byAddress.Selector = source.Selector{PCI: portB}
		n.want(byAddress)
		settled(5 * time.Second)
		n.expect("pci 0000:03:00.0=right")
		n.halt()
	})
}

// TestAStopFinishesTheStep: what was written is observed before the end, so
// that the operation is done and not left for recovery.
func TestAStopFinishesTheStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		if err := n.kernel.Inject(sim.Fault{Label: "bind", Path: portA, Slow: 2 * time.Second}); err != nil {
			t.Fatal(err)
		}
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(time.Second)
		n.halt()
		n.driver(portA, "vfio-pci")
		j, err := journal.OpenMemory(t.Context(), n.store, journal.Options{BootID: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if open := j.Operations(); len(open) > 0 {
			t.Errorf("left open: %v\n%s", open, n.log)
		}
		j.Abandon()
	})
}

// TestAQuarantineEndsWithItsDevice: another device at the address is not what
// the quarantine was about.
func TestAQuarantineEndsWithItsDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.DefaultNode()
		n := newNode(t, c)
		if err := n.kernel.Inject(sim.Fault{Label: "bind", Path: portA, Errno: syscall.EINVAL, Times: 10}); err != nil {
			t.Fatal(err)
		}
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=quarantined")
		if err := n.kernel.ClearFaults(); err != nil {
			t.Fatal(err)
		}
		if err := n.kernel.Unplug(portA); err != nil {
			t.Fatal(err)
		}
		settled(time.Second)
		for _, d := range c.Devices {
			if d.Address == portA {
				if err := n.kernel.Plug(d); err != nil {
					t.Fatal(err)
				}
			}
		}
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=right")
		n.halt()
	})
}

// TestAJournalThatFailsEndsTheLoop: a commit of unknown outcome stops all
// writing, and the next start reads the truth.
func TestAJournalThatFailsEndsTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		fail := false
		n.fault = func(string) error {
			if fail {
				return syscall.EIO
			}
			return nil
		}
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		fail = true
		writes := n.kernel.Writes()
		n.want(pci(portA, "igb"))
		err := <-n.ended
		if !errors.Is(err, journal.ErrIndeterminate) {
			t.Errorf("reconcile ended with %v", err)
		}
		if n.kernel.Writes() != writes {
			t.Error("the host was written although the journal failed")
		}
		n.stop(errSignal)
		n.journal.Abandon()
	})
}

// TestAVFIsNotTakenForDead: its vendor and device read as all ones, always.
func TestAVFIsNotTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(pci("0000:01:10.0", "vfio-pci"))
		settled(time.Minute)
		n.expect("pci 0000:01:10.0=right")
	})
}

// TestReleaseToNoDriver: a function that had no driver has none again. What its
// link was like on the driver that the agent gave it is nothing to go back to.
func TestReleaseToNoDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.unbind(portA)
		n.start(nil)
		defer n.halt()
		bound := pci(portA, "igb")
		n.want(bound)
		settled(5 * time.Second)
		bound.MTU = 4000
		n.want(bound)
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right")
		n.want(releasedPCI(portA))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=released")
		n.driver(portA, "")
	})
}
