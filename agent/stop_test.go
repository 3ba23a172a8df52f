package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/drivers/host/sim"
)

// stopAt stops an agent with pools and VFs to make at a boundary, the n-th commit
// or write, and returns what it logged; false when there are not so many.
func stopAt(t *testing.T, at int) (text string, reached bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		seen := 0
		pass := serially(func(string) {
			if seen++; seen == at {
				reached = true
				n.stop(errSignal)
			}
		})
		n.fault = func(point string) error { pass(point); return nil }
		n.kernel.Hook = func(p sim.Point) { pass(p.Label) }
		n.writePlugin(theirs)
		n.start(withPlugin)
		n.want(inPool(pci(portA, "vfio-pci"), poolX), vfs(3, dpdkVF()))
		settled(20 * time.Second)
		n.halt()
		text = n.log.String()
	})
	return text, reached
}

// TestAStopIsNoError: whatever is under way when the agent is asked to stop,
// nothing is logged as an error.
func TestAStopIsNoError(t *testing.T) {
	n := 0
	for reached := true; reached; n++ {
		var text string
		if text, reached = stopAt(t, n+1); strings.Contains(text, "level=error") {
			t.Fatalf("stopped at boundary %d:\n%s", n+1, text)
		}
	}
	t.Logf("stopped at %d boundaries", n-1)
	if n < 20 {
		t.Errorf("there were only %d boundaries", n-1)
	}
}
