package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/drivers/host/sim"
)

// TestDebugSaysWhatIsLookedAt, also while nothing changes.
func TestDebugSaysWhatIsLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.ask(pci(portA, "vfio-pci"))
		settled(2 * time.Minute)
		for _, want := range []string{
			`level=debug component=agent count=1 of=1 msg="full pass"`,
			`level=debug component=agent entry="pci 0000:02:00.0" target=0000:02:00.0 state=right observed="admin: hidden`,
			`msg="looked at, as before"`,
		} {
			if !strings.Contains(n.log.String(), want) {
				t.Errorf("it does not say %s:\n%s", want, n.log)
			}
		}
		n.halt()
	})
}
