package agent

import (
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host/sim"
)

// grouped is the demo node with functions in one IOMMU group.
func grouped(addresses ...string) sim.Config {
	c := sim.DefaultNode()
	groupTogether(c, addresses...)
	return c
}

func groupTogether(c sim.Config, addresses ...string) {
	for i := range c.Devices {
		for _, a := range addresses {
			if c.Devices[i].Address == a {
				c.Devices[i].IOMMUGroup = "10"
			}
		}
	}
}

func onNode(t *testing.T, c sim.Config, fn func(*node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, c)
		n.start(nil)
		defer n.halt()
		fn(n)
	})
}

// TestAGroupThatCannotGoAsOneStays: one of it carries the default route, is
// allocated to a pod, or is paused; neither is bound, in whatever order they are
// asked for, and a plan says so.
func TestAGroupThatCannotGoAsOneStays(t *testing.T) {
	for name, tc := range map[string]struct {
		other string
		stop  func(*node)
		want  string
	}{
		"the default route": {manager, func(*node) {}, "it carries the IPv4 default route"},
		"paused": {portB, func(n *node) {
			if _, err := n.agent.Pause(n.t.Context(), Order{Targets: []string{portB}}); err != nil {
				n.t.Fatal(err)
			}
		}, "is paused"},
	} {
		for _, order := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				onNode(t, grouped(portA, tc.other), func(n *node) {
					tc.stop(n)
					asked := []source.Interface{pci(portA, "vfio-pci"), pci(tc.other, "vfio-pci")}
					if order {
						asked[0], asked[1] = asked[1], asked[0]
					}
					n.staysAsItIs(tc.want, asked...)
				})
			})
		}
	}
}

// staysAsItIs wants nothing planned and nothing written of what is asked, for a
// reason.
func (n *node) staysAsItIs(want string, asked ...source.Interface) {
	n.t.Helper()
	p := n.agent.view.PlanFor(n.t.Context(), source.Desired{Source: "file", Object: "/x.yaml", Generation: "g", Interfaces: asked})
	for _, e := range p.Entries {
		if len(e.Steps) > 0 {
			n.t.Errorf("a plan has steps for %s: %+v", e.Entry, e.Steps)
		}
	}
	writes := n.kernel.Writes()
	n.want(asked...)
	settled(10 * time.Minute)
	if n.kernel.Writes() != writes {
		n.t.Errorf("something was written\n%s", n.log)
	}
	n.tells(want)
}

// tells wants a text among the conditions and reasons of all interfaces.
func (n *node) tells(want string) {
	n.t.Helper()
	reasons := ""
	for _, i := range n.agent.Status(n.t.Context()).Interfaces {
		reasons += string(i.Condition) + " " + i.Reason + "\n"
	}
	if !strings.Contains(reasons, want) {
		n.t.Errorf("want %q in\n%s", want, reasons)
	}
}

// TestAGroupGoesAsOne: planned and run alike, as one operation.
func TestAGroupGoesAsOne(t *testing.T) {
	onNode(t, grouped(portA, portB), func(n *node) {
		asked := []source.Interface{pci(portA, "vfio-pci"), pci(portB, "vfio-pci")}
		p := n.agent.view.PlanFor(n.t.Context(), source.Desired{Source: "file", Object: "/x.yaml", Generation: "g", Interfaces: asked})
		planned := map[drivers.Target]bool{}
		for _, e := range p.Entries {
			for _, s := range e.Steps {
				planned[s.Target] = true
			}
		}
		if !planned[portA] || !planned[portB] {
			n.t.Errorf("planned is %+v", p.Entries)
		}
		n.want(asked...)
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=right")
		both := 0
		for _, op := range n.journal.History(0) {
			if len(op.Targets()) == 2 {
				both++
			}
		}
		if both != 1 {
			n.t.Errorf("%d operations were on both\n%s", both, n.log)
		}
		// Each goes back by itself.
		n.want(pci(portA, "igb"), pci(portB, "vfio-pci"))
		settled(time.Minute)
		n.driver(portA, "igb")
		n.driver(portB, "vfio-pci")
		// No program can open the one that stays, and it says so.
		n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=degraded")
		n.tells("0000:02:00.0, which is in its IOMMU group, is on igb")
		n.want(asked...)
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=right")
	})
}

// TestAProgramByAnotherDriverKeepsAGroup from vfio-pci as the kernel does: the
// function is not bound, in whatever order they are asked for.
func TestAProgramByAnotherDriverKeepsAGroup(t *testing.T) {
	for _, order := range []bool{false, true} {
		onNode(t, grouped(portA, portB), func(n *node) {
			asked := []source.Interface{pci(portA, "vfio-pci"), pci(portB, "uio_pci_generic")}
			if order {
				asked[0], asked[1] = asked[1], asked[0]
			}
			p := n.agent.view.PlanFor(n.t.Context(), source.Desired{Source: "file", Object: "/x.yaml", Generation: "g", Interfaces: asked})
			for _, e := range p.Entries {
				for _, s := range e.Steps {
					if s.Target == portA {
						n.t.Errorf("planned is %+v", s)
					}
				}
			}
			n.want(asked...)
			settled(10 * time.Minute)
			n.driver(portA, "igb")
			n.driver(portB, "uio_pci_generic")
			n.tells("0000:03:00.0 is in the same IOMMU group")
		})
	}
}

// TestHalfAGroupIsUndone: the second function cannot be bound, so the first is
// given back.
func TestHalfAGroupIsUndone(t *testing.T) {
	onNode(t, grouped(portA, portB), func(n *node) {
		if err := n.kernel.Inject(sim.Fault{Label: "override", Path: portB, Times: -1, Errno: syscall.EIO}); err != nil {
			n.t.Fatal(err)
		}
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(time.Hour)
		n.driver(portA, "igb")
		n.driver(portB, "igb")
	})
}

// TestVFsWithoutACSAreNotMade for vfio-pci: they would share the group of their
// PF. Where that is only seen once they are there, they are undone.
func TestVFsWithoutACSAreNotMade(t *testing.T) {
	const port = "0000:00:1c.1"
	vfs := []string{"0000:02:10.0", "0000:02:10.2"}
	for name, tc := range map[string]struct {
		group  []string
		writes bool
	}{
		"known by the port":        {append([]string{portA, port}, vfs...), false},
		"seen when they are there": {append([]string{portA}, vfs...), true},
	} {
		t.Run(name, func(t *testing.T) {
			c := sim.DefaultNode()
			groupTogether(c, tc.group...)
			onNode(t, c, func(n *node) {
				writes := n.kernel.Writes()
				asked := pci(portA, "")
				asked.VFs = &source.VFs{Count: 2, Defaults: source.VF{Driver: "vfio-pci"}}
				n.want(asked)
				settled(time.Hour)
				if wrote := n.kernel.Writes() > writes; wrote != tc.writes {
					n.t.Errorf("written: %t\n%s", wrote, n.log)
				}
				if text, err := n.kernel.Read(n.t.Context(), "/sys/bus/pci/devices/"+portA+"/sriov_numvfs"); err != nil || text != "0" {
					n.t.Errorf("it has %s VFs (%v)\n%s", text, err, n.log)
				}
				n.says("IOMMU group")
			})
		})
	}
}
