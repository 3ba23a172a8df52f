package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/guard"
	"eniagent/agent/plan"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

const manager = "0000:00:05.0" // ens5, with the default route

// bonded is a node whose IPv6 default route, in a policy table, leaves by a
// VLAN on a bond of two ports; ens5 has none.
func bonded() sim.Config {
	c := sim.DefaultNode()
	for i := range c.Devices {
		switch d := &c.Devices[i]; d.Address {
		case manager:
			d.Net.Defaults = nil
		case portA, portB:
			d.Net.Master, d.Net.Up = "bond0", true
		}
	}
	c.Links = append(
		c.Links, sim.Netdev{Name: "bond0", Kind: "bond", Up: true},
		sim.Netdev{Name: "bond0.7", Kind: "vlan", Lower: "bond0", Up: true, Defaults: []host.Default{{Family: "IPv6", Table: 100}}},
	)
	return c
}

// TestManagementPathIsNeverCut by any way of asking, and says what it carries.
func TestManagementPathIsNeverCut(t *testing.T) {
	down := false
	asks := map[string]source.Interface{
		"driver":   pci("", "vfio-pci"),
		"mtu":      {State: source.Configured, MTU: 1400},
		"down":     {State: source.Configured, Up: &down},
		"released": {State: source.Released},
	}
	nodes := map[string]struct {
		config  sim.Config
		address string
		carries string
	}{
		"directly":              {sim.DefaultNode(), manager, "IPv4 default route of table 254 on ens5"},
		"as a port of its bond": {bonded(), portA, "IPv6 default route of table 100 on bond0.7"},
	}
	for where, node := range nodes {
		for what, ask := range asks {
			t.Run(where+", "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := newNode(t, node.config)
					n.start(nil)
					defer n.halt()
					ask.Selector = source.Selector{Name: nameOf(node.config, node.address)}
					n.want(ask)
					settled(time.Minute)
					if w := n.kernel.Writes(); w != 0 {
						t.Errorf("%d writes were made\n%s", w, n.log)
					}
					if what == "released" {
						return // it was never touched, so there is nothing to give back
					}
					i := n.agent.Status(t.Context()).Interfaces[0]
					if i.Condition != Refused || !strings.Contains(i.Reason, node.carries) || !strings.Contains(i.Reason, "allowManagementPath") {
						t.Errorf("it is %s: %s", i.Condition, i.Reason)
					}
				})
			})
		}
	}
}

// blind is a guard that lets everything through, but for the rules it keeps.
type blind struct {
	*guard.Guard
	lets guard.Rule
}

func (b blind) pass(err error) error {
	var r *guard.Refusal
	if errors.As(err, &r) && r.Rule == b.lets {
		return nil
	}
	return err
}

func (b blind) MayDrive(ctx context.Context, observed plan.Observed, goal plan.Goal) error {
	return b.pass(b.Guard.MayDrive(ctx, observed, goal))
}

func (b blind) MayStep(ctx context.Context, s drivers.Step) error {
	return b.pass(b.Guard.MayStep(ctx, s))
}

// TestEachRuleIsMissed: with a rule left out, what it forbids is written.
func TestEachRuleIsMissed(t *testing.T) {
	noRoute, group := sim.DefaultNode(), sim.DefaultNode()
	noRoute.Devices[1].Net.Defaults = nil
	for i := range group.Devices {
		if group.Devices[i].Address == portB {
			group.Devices[i].IOMMUGroup = "10"
		}
	}
	for rule, tc := range map[guard.Rule]struct {
		config sim.Config
		ask    source.Interface
		hold   bool
	}{
		guard.Management: {sim.DefaultNode(), pci(manager, "vfio-pci"), false},
		guard.NoDefault:  {noRoute, pci(portA, "vfio-pci"), false},
		guard.Group:      {group, pci(portA, "vfio-pci"), false},
		guard.InUse:      {sim.DefaultNode(), pci(portA, "igb"), true},
	} {
		for _, lets := range []guard.Rule{"", rule} {
			t.Run(string(rule)+" "+string(lets), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := newNode(t, tc.config)
					n.start(nil)
					defer n.halt()
					if tc.hold {
						n.want(pci(portA, "vfio-pci"))
						settled(5 * time.Second)
						defer n.kernel.Hold(portA)()
					}
					b := blind{n.agent.guard, lets}
					n.agent.engine.Guard, n.agent.view.Guard = b, b
					before := n.kernel.Writes()
					n.want(tc.ask)
					settled(time.Minute)
					if wrote := n.kernel.Writes() > before; wrote != (lets == rule) {
						t.Errorf("written: %t\n%s", wrote, n.log)
					}
				})
			})
		}
	}
}

func nameOf(c sim.Config, address string) string {
	for _, d := range c.Devices {
		if d.Address == address {
			return d.Net.Name
		}
	}
	return ""
}

func TestPhysicalFunctionOfTheManagementVFIsProtected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.DefaultNode()
		for i := range c.Devices {
			switch d := &c.Devices[i]; d.Address {
			case manager:
				d.Net.Defaults = nil
			case "0000:01:10.0":
				d.Net.Up, d.Net.Defaults = true, []host.Default{{Family: "IPv4", Table: 254}}
			}
		}
		n := newNode(t, c)
		n.start(nil)
		defer n.halt()
		down := false
		n.want(source.Interface{Selector: source.Selector{PCI: "0000:01:00.0"}, State: source.Configured, Up: &down, MTU: 1400})
		settled(time.Minute)
		n.expect("pci 0000:01:00.0=refused")
	})
}

// TestManagementPathIsRemembered: the route may be gone when it matters, also
// after a restart and in the next boot.
func TestManagementPathIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, bonded())
		n.start(nil)
		n.want(named("ens5", 1500))
		settled(5 * time.Second)
		n.halt()
		if err := n.kernel.Edit(func(c *sim.Config) error {
			for i := range c.Links {
				c.Links[i].Defaults = nil
			}
			c.Devices[1].Net.Defaults = []host.Default{{Family: "IPv4", Table: 254}} // ens5
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		n.kernel.Reboot()
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(time.Minute)
		n.driver(portA, "igb")
		i := n.agent.Status(t.Context()).Interfaces[0]
		if !strings.Contains(i.Reason, "it has carried") {
			t.Errorf("it is %s: %s", i.Condition, i.Reason)
		}
		n.halt()
	})
}

func TestWithoutADefaultRouteNothingIsUnbound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.DefaultNode()
		c.Devices[1].Net.Defaults = nil
		n := newNode(t, c)
		n.start(nil)
		n.want(pci(portA, "vfio-pci"), named("enp3s0", 9000))
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=held, name enp3s0=right") // an MTU cuts no route that is not there
		n.driver(portA, "igb")
		n.halt()
		n.start(func(c *Config) { c.WithoutDefault = true })
		settled(time.Minute)
		n.driver(portA, "vfio-pci")
		n.halt()
	})
}

func TestTheReasonOnTheEntryAllowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		ask := named("ens5", 9000)
		ask.AllowManagementPath = "jumbo frames on all of this rack"
		n.want(ask)
		settled(5 * time.Second)
		n.expect("name ens5=right")
	})
}

// TestNeverHalfAGroup: two functions share a group; alone neither goes to
// vfio-pci, together both do.
func TestNeverHalfAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.DefaultNode()
		for i := range c.Devices {
			if c.Devices[i].Address == portB {
				c.Devices[i].IOMMUGroup = "10" // portA's
			}
		}
		n := newNode(t, c)
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=refused")
		if reason := n.agent.Status(t.Context()).Interfaces[0].Reason; !strings.Contains(reason, portB) {
			t.Errorf("the reason does not name the other member: %s", reason)
		}
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(10 * time.Minute)
		n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=right")
	})
}
