package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/drivers/host/sim"
)

func (n *node) ail(address string, a sim.Ailment) {
	n.t.Helper()
	if err := n.kernel.Ail(address, a); err != nil {
		n.t.Fatal(err)
	}
	n.agent.Wake()
}

// TestWhatAilsIsToldAndNotTouched: health is never a reason to rebind.
func TestWhatAilsIsToldAndNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"), named("enp3s0", 9000))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right, name enp3s0=right")
		before := n.kernel.Writes()
		n.ail(portA, sim.Ailment{Dead: true, NoNode: true})
		settled(time.Second)
		n.expect("pci 0000:02:00.0=degraded, name enp3s0=right")
		if r := n.reason(); !strings.HasPrefix(r, "as asked, but ") || !strings.Contains(r, "does not answer") || !strings.Contains(r, "/dev/vfio/10 is not there") {
			t.Errorf("the reason is %q", r)
		}
		if n.metric(`eniagent_unhealthy{reason="dead"}`) != 1 || n.metric(`eniagent_unhealthy{reason="carrier"}`) != 0 {
			t.Error("the metric does not say what ails")
		}
		if err := n.kernel.SetCarrier("enp3s0", false); err != nil {
			t.Fatal(err)
		}
		settled(10 * time.Second)
		n.expect("pci 0000:02:00.0=degraded, name enp3s0=degraded")
		lines := strings.Count(n.log.String(), "\n")
		settled(time.Hour)
		if more := strings.Count(n.log.String(), "\n") - lines; more > 0 {
			t.Errorf("%d lines were logged while nothing changed:\n%s", more, n.log)
		}
		n.ail(portA, sim.Ailment{})
		if err := n.kernel.SetCarrier("enp3s0", true); err != nil {
			t.Fatal(err)
		}
		settled(time.Second)
		n.expect("pci 0000:02:00.0=right, name enp3s0=right")
		if w := n.kernel.Writes() - before; w != 0 {
			t.Errorf("%d writes were made because of how a function is", w)
		}
		if err := n.agent.Ready(); err != nil {
			t.Errorf("health touches readiness: %v", err)
		}
	})
}

// TestHealthOfWhatIsNotAsAskedIsForgotten: it is told of what is as asked.
func TestHealthOfWhatIsNotAsAskedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.ail(portA, sim.Ailment{Dead: true})
		settled(time.Second)
		n.want(pci(portA, "no_such_driver"))
		settled(time.Second)
		n.expect("pci 0000:02:00.0=refused")
		if got := n.metric(`eniagent_unhealthy{reason="dead"}`); got != 0 {
			t.Errorf("%v functions are dead", got)
		}
	})
}
