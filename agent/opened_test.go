package agent

import (
	"strings"
	"testing"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// upOf asks for the link of a NIC, which is down when the node boots.
func upOf(address drivers.Target) source.Interface {
	on := true
	return source.Interface{Selector: source.Selector{PCI: address}, State: source.Configured, Up: &on}
}

// advertised is a router advertisement on portA's network.
func (n *node) advertised() {
	n.t.Helper()
	if err := n.kernel.AddRoute(sim.Route{To: "::/0", Metric: 1024, Dev: []string{"enp2s0"}}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) linkUp(name string) bool {
	n.t.Helper()
	links, err := n.kernel.Links(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, l := range links {
		if l.Name == name {
			return l.Up
		}
	}
	n.t.Fatalf("no link %s", name)
	return false
}

// TestWhatTheAgentOpenedIsGivenBack: a link that it set up itself, and that a
// router has made a default route since, goes down again when nothing asks for it
// any more; also by an agent that starts with the route in place.
func TestWhatTheAgentOpenedIsGivenBack(t *testing.T) {
	for name, restart := range map[string]bool{"": false, "after a restart": true} {
		for how, giveBack := range map[string]func(*node){
			"an entry":  func(n *node) { n.want(source.Interface{Selector: source.Selector{PCI: portA}, State: source.Released}) },
			"an object": func(n *node) { n.complete() },
			"an order": func(n *node) {
				if _, err := n.agent.Release(n.t.Context(), Order{Targets: []string{portA}}); err != nil {
					n.t.Error(err)
				}
			},
		} {
			t.Run(how+" "+name, func(t *testing.T) {
				withNode(t, func(n *node) { n.opensAndGivesBack(restart, giveBack) })
			})
		}
	}
}

func (n *node) opensAndGivesBack(restart bool, giveBack func(*node)) {
	n.t.Helper()
	n.complete(upOf(portA))
	settled(5 * time.Second)
	n.expect("pci 0000:02:00.0=right")
	n.advertised()
	settled(10 * time.Minute) // a full pass has seen it
	if c, known := n.agent.c.Journal.Control(onPath, portA); !known || c.Facts[factOrigin] != originAgent {
		n.t.Errorf("remembered is %+v", c)
	}
	if restart {
		n.halt()
		n.start(nil)
		settled(time.Minute)
	}
	// What it opened is kept from all else.
	n.complete(pci(portA, "vfio-pci"))
	settled(time.Minute)
	n.expect("pci 0000:02:00.0=refused")
	n.complete(upOf(portA))
	settled(time.Minute)
	giveBack(n)
	settled(10 * time.Minute)
	if n.linkUp("enp2s0") {
		n.t.Errorf("it is still up\n%s", n.log)
	}
	if c, known := n.agent.c.Journal.Control(onPath, portA); known {
		n.t.Errorf("it is still remembered: %+v", c)
	}
}

// TestWhatWasAPathBeforeIsKept: one that carried a default route before the agent
// set its link up, in an earlier boot, and one that is the only way since; what
// the refusal says gives them back.
func TestWhatWasAPathBeforeIsKept(t *testing.T) {
	for name, before := range map[string]func(*node){
		"a path of an earlier boot": func(n *node) {
			n.rewire(func(c *sim.Config) {
				net := netOf(c, portA)
				net.Up, net.Defaults = true, []host.Default{{Family: "IPv6", Table: 254}}
			})
			n.kernel.Reboot()
			n.start(nil)
			n.want(pci(portB, "igb"))
			settled(time.Minute)
			n.halt()
			n.rewire(func(c *sim.Config) { netOf(c, portA).Up, netOf(c, portA).Defaults = false, nil })
			n.kernel.Reboot()
		},
		"the only way": func(n *node) {
			n.rewire(func(c *sim.Config) { netOf(c, manager).Defaults = nil })
			n.kernel.Reboot()
		},
	} {
		t.Run(name, func(t *testing.T) {
			withNode(t, func(n *node) {
				n.halt()
				before(n)
				n.start(nil)
				n.complete(upOf(portA))
				settled(time.Minute)
				n.expect("pci 0000:02:00.0=right")
				n.advertised()
				settled(10 * time.Minute)
				n.complete()
				settled(10 * time.Minute)
				n.expect("pci 0000:02:00.0=refused")
				n.says("agent release 0000:02:00.0 --allow-management-path REASON")
				r, err := n.agent.Release(n.t.Context(), Order{Targets: []string{portA}})
				if err != nil || r.Entries[0].Condition != Refused || !n.linkUp("enp2s0") {
					n.t.Errorf("released without a reason: %+v, %v", r.Entries, err)
				}
				r, err = n.agent.Release(n.t.Context(), Order{Targets: []string{portA}, Allowed: "its rack is gone"})
				if err != nil || r.Entries[0].Condition != Released || n.linkUp("enp2s0") {
					n.t.Errorf("not released with a reason: %+v, %v\n%s", r.Entries, err, n.log)
				}
			})
		})
	}
}

func (n *node) rewire(change func(*sim.Config)) {
	n.t.Helper()
	if err := n.kernel.Edit(func(c *sim.Config) error {
		change(c)
		return nil
	}); err != nil {
		n.t.Fatal(err)
	}
}

func netOf(c *sim.Config, address string) *sim.Netdev {
	for i := range c.Devices {
		if strings.EqualFold(c.Devices[i].Address, address) {
			return c.Devices[i].Net
		}
	}
	return nil
}
