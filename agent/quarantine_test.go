package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// TestAQuarantineIsExplained: what was found is kept and stays what it was, what
// is there now is told beside it, and each way out says what it would write.
func TestAQuarantineIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.ask(pci(portA, "vfio-pci"))
		id := n.quarantined()
		if err := n.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: portA, Path: host.Attr(portA, "driver_override"), Value: "later"}); err != nil {
			t.Fatal(err)
		}
		r := n.agent.Recover(t.Context(), true)
		if len(r.InQuarantine) != 1 || r.InQuarantine[0].Operation != id || r.InQuarantine[0].Since.IsZero() || r.InQuarantine[0].Why == "" {
			t.Fatalf("told: %+v", r.InQuarantine)
		}
		e := r.InQuarantine[0]
		n.explained(e)
		// A way out that would be refused says so and lists no writes.
		release := n.kernel.Hold(portA)
		n.order(Order{Targets: []string{portA}, Why: "bench"}, n.agent.Pause)
		e = n.agent.Recover(t.Context(), true).InQuarantine[0]
		if w := e.Ways[1]; len(w.Steps) > 0 || !strings.Contains(w.Error, "bench") {
			t.Errorf("while it is paused: %+v", w)
		}
		release()
	})
}

// explained checks what is told of an operation after another override was
// written, and then another one.
func (n *node) explained(e QuarantineEntry) {
	n.t.Helper()
	for _, k := range e.Keys {
		if k.Key == (drivers.Key{Kind: dpdk.KindDriver, Target: portA}) &&
			(!strings.Contains(k.Found, "override=uio_pci_generic") || !strings.Contains(k.Observed, "override=later")) {
			n.t.Errorf("found %q, now %q", k.Found, k.Observed)
		}
		if k.Found == "" {
			n.t.Errorf("%s: what was found was not kept", k.Key)
		}
	}
	for i, how := range []string{Accept, Replay, Revert} {
		w := e.Ways[i]
		if w.How != how || w.Error != "" || len(w.Steps) == 0 != (how == Accept) {
			n.t.Errorf("way out %d: %+v", i, w)
		}
	}
}

// TestWhatIsKeptOpenIsNotSaidToBeRecovered in the log.
func TestWhatIsKeptOpenIsNotSaidToBeRecovered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.ask(pci(portA, "vfio-pci"))
		n.hang("unbind")
		n.want(pci(portA, "igb"))
		settled(2 * time.Minute)
		n.halt()
		n.start(nil)
		settled(time.Minute)
		if said := n.log.String(); strings.Contains(said, `"operation recovered"`) || !strings.Contains(said, `msg="operation stays open"`) {
			t.Errorf("while a write runs it says:\n%s", said)
		}
		n.kernel.Thaw()
		settled(time.Minute)
		if said := n.log.String(); !strings.Contains(said, `msg="operation is being recovered"`) || !strings.Contains(said, `outcome=done msg="operation recovered"`) {
			t.Errorf("once it has ended it says:\n%s", said)
		}
		n.halt()
	})
}
