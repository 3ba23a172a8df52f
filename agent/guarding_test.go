package agent

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
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
	for name, tc := range map[string]struct {
		rule   guard.Rule
		config sim.Config
		ask    source.Interface
		hold   func(*node, *pods) (release func()) // portA, on vfio-pci
	}{
		"management path":  {guard.Management, sim.DefaultNode(), pci(manager, "vfio-pci"), nil},
		"no default route": {guard.NoDefault, noRoute, pci(portA, "vfio-pci"), nil},
		"half a group":     {guard.Group, group, pci(portA, "vfio-pci"), nil},
		"held by a program": {guard.InUse, sim.DefaultNode(), pci(portA, "igb"), func(n *node, _ *pods) func() {
			return n.kernel.Hold(portA)
		}},
		"allocated to a pod": {guard.InUse, sim.DefaultNode(), pci(portA, "igb"), func(_ *node, p *pods) func() {
			return p.give(portA)
		}},
		"the kubelet is silent": {guard.InUse, sim.DefaultNode(), pci(portA, "igb"), func(_ *node, p *pods) func() {
			return p.silence()
		}},
	} {
		for _, lets := range []guard.Rule{"", tc.rule} {
			t.Run(name+" "+string(lets), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n, p := newNode(t, tc.config), &pods{}
					n.start(p.asked)
					defer n.halt()
					if tc.hold != nil {
						n.want(pci(portA, "vfio-pci"))
						settled(5 * time.Second)
						defer tc.hold(n, p)()
					}
					b := blind{n.agent.guard, lets}
					synctest.Wait() // it has started
					n.agent.engine.Guard, n.agent.view.Guard = b, b
					before := n.kernel.Writes()
					n.want(tc.ask)
					settled(time.Minute)
					if wrote := n.kernel.Writes() > before; wrote != (lets == tc.rule) {
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

// pods are what a kubelet says is allocated.
type pods struct {
	mu        sync.Mutex
	allocated map[drivers.Target]string
	err       error
}

func (p *pods) asked(c *Config) {
	c.Allocated = func(context.Context, time.Time) (map[drivers.Target]string, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return maps.Clone(p.allocated), p.err
	}
}

// give allocates a function to a pod, until the pod ends.
func (p *pods) give(t drivers.Target) (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allocated = map[drivers.Target]string{t: "pod media/encoder-0, container dpdk, resource intel.com/vf"}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.allocated, t)
	}
}

// silence keeps the kubelet from answering, until it speaks again.
func (p *pods) silence() (speak func()) {
	set := func(err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.err = err
	}
	set(errors.New("connection refused"))
	return func() { set(nil) }
}

// says wants the first interface to say all of these.
func (n *node) says(want ...string) {
	n.t.Helper()
	reason := n.reason()
	for _, w := range want {
		if !strings.Contains(reason, w) {
			n.t.Errorf("the reason lacks %q: %s", w, reason)
		}
	}
}

// TestAnAllocatedFunctionIsHeldUntilThePodEnds, though no program has it open:
// across a restart, and for an order to release too.
func TestAnAllocatedFunctionIsHeldUntilThePodEnds(t *testing.T) {
	for name, tc := range map[string]struct{ is, want string }{
		"on a userspace driver": {"vfio-pci", "igb"},
		"on a kernel driver":    {"igb", "vfio-pci"}, // its netdev is still the host's
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, p := newNode(t, sim.DefaultNode()), &pods{}
				n.start(p.asked)
				n.want(pci(portA, tc.is))
				settled(5 * time.Second)
				end := p.give(portA)
				n.want(pci(portA, tc.want), pci(portB, "vfio-pci"))
				settled(time.Minute)
				n.expect("pci 0000:02:00.0=held, pci 0000:03:00.0=right")
				n.says("in-use", "allocated to pod media/encoder-0, container dpdk, resource intel.com/vf", "when the pod ends")
				n.halt()
				n.start(p.asked)
				settled(time.Minute)
				n.driver(portA, tc.is)
				end()
				settled(time.Second)
				n.driver(portA, tc.want)
				n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=right")
				n.halt()
			})
		})
	}
}

// TestAPodThatOutlivesARebootGetsItsFunctionBack: its allocation stands, and it
// waits for the driver that the reboot took. A function that was never given to
// a program before is not taken for it.
func TestAPodThatOutlivesARebootGetsItsFunctionBack(t *testing.T) {
	for name, tc := range map[string]struct{ before, after string }{
		"given before the reboot": {"vfio-pci", "right"},
		"not given before":        {"igb", "held"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, p := newNode(t, sim.DefaultNode()), &pods{}
				n.start(p.asked)
				n.want(pci(portA, tc.before))
				settled(5 * time.Second)
				n.expect("pci 0000:02:00.0=right")
				n.halt()
				p.give(portA)
				n.kernel.Reboot()
				n.start(p.asked)
				n.want(pci(portA, "vfio-pci"))
				settled(5 * time.Second)
				n.expect("pci 0000:02:00.0=" + tc.after)
				// Bound in this boot, it is the pod's.
				n.want(pci(portA, "igb"))
				settled(5 * time.Second)
				n.driver(portA, map[string]string{"right": "vfio-pci", "held": "igb"}[tc.after])
				n.halt()
			})
		})
	}
}

func TestAnOrderToReleaseWaitsForThePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, p := newNode(t, sim.DefaultNode()), &pods{}
		n.start(p.asked)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		end := p.give(portA)
		r, err := n.agent.Release(t.Context(), Order{Targets: []string{portA}, Why: "test"})
		if err != nil || r.Entries[0].Condition != Held || !strings.Contains(r.Entries[0].Reason, "pod media/encoder-0") {
			t.Errorf("released: %+v, %v", r.Entries, err)
		}
		n.driver(portA, "vfio-pci")
		end()
		settled(time.Second)
		n.driver(portA, "igb")
		n.expect("pci 0000:02:00.0=released")
	})
}

// TestWhileTheKubeletIsSilentNothingIsUnbound, and all else goes on.
func TestWhileTheKubeletIsSilentNothingIsUnbound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, p := newNode(t, sim.DefaultNode()), &pods{}
		speak := p.silence()
		n.start(p.asked)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"), named("enp3s0", 9000))
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=held, name enp3s0=right")
		n.says("in-use", "the kubelet does not say", "connection refused", `--pod-resources ""`)
		n.driver(portA, "igb")
		if err := errors.Join(n.agent.Ready(), n.agent.Healthy()); err != nil {
			t.Errorf("a silent kubelet keeps the agent from being ready: %v", err)
		}
		// One that no driver has is taken from nobody.
		n.unbind(portA)
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		n.want(pci(portA, "igb"), named("enp3s0", 9000))
		settled(time.Minute)
		n.driver(portA, "vfio-pci")
		speak()
		settled(time.Second)
		n.driver(portA, "igb")
	})
}

// TestWhatIsNoNetworkInterfaceIsRefused: a host bridge here, on other nodes the
// disk with its root.
func TestWhatIsNoNetworkInterfaceIsRefused(t *testing.T) {
	withNode(t, func(n *node) {
		const bridge = "0000:00:1c.0"
		writes := n.written(func() {
			n.complete(pci(bridge, "vfio-pci"), pci("0000:00:00.0", "vfio-pci"))
			settled(time.Minute)
		})
		if len(writes) > 0 {
			n.t.Errorf("written: %v", writes)
		}
		n.expect("pci 0000:00:1c.0=refused, pci 0000:00:00.0=refused")
		if s := n.agent.Status(n.t.Context()); !strings.Contains(s.Interfaces[0].Reason, "no network interface but of class 0x060400") {
			n.t.Errorf("refused for %q", s.Interfaces[0].Reason)
		}
	})
}
