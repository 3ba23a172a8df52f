package agent

import (
	"strings"
	"testing"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host/sim"
)

// TestWhatAPodHasStaysPublished: a function of the kernel is its pod's, whatever
// the pod does with its netdev. It is judged again when the pod has ended.
func TestWhatAPodHasStaysPublished(t *testing.T) {
	p := &pods{}
	withNodeOf(t, func(c *Config) { withPlugin(c); p.asked(c) }, func(n *node) {
		n.writePlugin(theirs)
		up := true
		n.want(vfs(2, source.VF{Driver: "igbvf", Up: &up, MTU: 1400, Pool: poolX}))
		settled(30 * time.Second)
		n.expectPool(poolX, vf0, vf1)
		end, owed := p.give(vf0), n.owed()
		n.moved("enp1s0v0", "pod")
		settled(time.Minute)
		n.expectPool(poolX, vf0, vf1)
		n.expectPools("intel.com/x=right")
		if all := n.conditions(); n.owed() != owed || !strings.Contains(all, "vf 0=held") || !strings.Contains(all, "vf 1=right") {
			n.t.Errorf("%d restarts are owed, %s\n%s", n.owed()-owed, all, n.log)
		}
		if p := n.agent.Plan(n.t.Context()); strings.Contains(planned(p), poolX) {
			n.t.Errorf("plan says %s", planned(p))
		}
		end()
		settled(10 * time.Second)
		n.expectPool(poolX, vf1)
		n.moved("enp1s0v0", "")
		settled(time.Minute)
		n.expectPool(poolX, vf0, vf1)
		if all := n.conditions(); strings.Count(all, "=right") != 3 {
			n.t.Errorf("stands as %s\n%s", all, n.log)
		}
	})
}

// TestASilentKubeletLeavesAPool: what is not as asked may be a pod's.
func TestASilentKubeletLeavesAPool(t *testing.T) {
	p := &pods{}
	withNodeOf(t, func(c *Config) { withPlugin(c); p.asked(c) }, func(n *node) {
		n.writePlugin(theirs)
		up := true
		n.want(vfs(1, source.VF{Driver: "igbvf", Up: &up, Pool: poolX}))
		settled(30 * time.Second)
		speak := p.silence()
		n.moved("enp1s0v0", "pod")
		settled(time.Minute)
		n.expectPool(poolX, vf0)
		speak()
		settled(10 * time.Second)
		n.expectPool(poolX)
	})
}

// TestAReleasedFunctionLeavesItsPool although a pod has it: no other pod shall.
func TestAReleasedFunctionLeavesItsPool(t *testing.T) {
	p := &pods{}
	withNodeOf(t, func(c *Config) { withPlugin(c); p.asked(c) }, func(n *node) {
		n.writePlugin(theirs)
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(30 * time.Second)
		end := p.give(portA)
		n.want(releasedPCI(portA))
		settled(time.Minute)
		n.expectPool(poolX)
		n.driver(portA, "vfio-pci")
		end()
		settled(time.Minute)
		n.driver(portA, "igb")
	})
}

// moved takes a netdev into another network namespace, "" brings it back.
func (n *node) moved(name, to string) {
	n.t.Helper()
	if err := n.kernel.AddLink(sim.Netdev{Name: name, Netns: to}); err != nil {
		n.t.Fatal(err)
	}
}

// planned are the targets of the steps of a plan.
func planned(p PlanReport) string {
	var all []drivers.Target
	for _, e := range p.Entries {
		for _, s := range e.Steps {
			all = append(all, s.Target)
		}
	}
	return strings.Join(stringsOf(all), " ")
}

func stringsOf(targets []drivers.Target) (all []string) {
	for _, t := range targets {
		all = append(all, string(t))
	}
	return all
}
