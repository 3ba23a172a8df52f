package agent

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/link"
	"eniagent/journal"
)

// counted counts how often settings are read.
type counted struct {
	host.Host
	reads *atomic.Int64
}

func (c counted) Settings(ctx context.Context, index int, which host.Setting) (host.Settings, error) {
	c.reads.Add(1)
	return c.Host.Settings(ctx, index, which)
}

// withSettings is an entry that asks for names, rings and channels too.
func withSettings(i source.Interface) source.Interface {
	rx, combined := 1024, 2
	i.AltNames, i.Rings, i.Channels = []string{"lan0"}, &source.Rings{RX: &rx}, &source.Channels{Combined: &combined}
	return i
}

// TestWhoAsksForNoSettingsPaysForNone: they are read only where an entry asks
// for them, or an operation is about to destroy them.
func TestWhoAsksForNoSettingsPaysForNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int64
		n := newNode(t, sim.DefaultNode())
		n.start(func(c *Config) { c.Host = counted{n.kernel, &reads} })
		defer n.halt()
		n.want(named("enp3s0", 9000))
		settled(2 * time.Minute)
		n.expect("name enp3s0=right")
		if got := reads.Load(); got != 0 {
			t.Errorf("settings were read %d times, and nobody asks for any", got)
		}
		n.want(pci(portA, "vfio-pci"), named("enp3s0", 9000))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right, name enp3s0=right")
		if got := reads.Swap(0); got == 0 || got > 20 {
			t.Errorf("settings were read %d times to bind one function, want 1 to 20", got)
		}
		settled(2 * time.Minute)
		if got := reads.Load(); got != 0 {
			t.Errorf("settings were read %d times once it is bound", got)
		}
		n.want(pci(portA, "vfio-pci"), withSettings(named("enp3s0", 9000)))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right, name enp3s0=right")
		if reads.Load() == 0 {
			t.Error("they were never read: the count does not see what it looks for")
		}
	})
}

// line is the line of a netdev in the machine's text.
func (n *node) line(name string) string {
	for l := range strings.Lines(n.kernel.String()) {
		if strings.HasPrefix(l, "link "+name+" ") {
			return l
		}
	}
	return ""
}

func (n *node) has(name string, words ...string) {
	n.t.Helper()
	for _, w := range words {
		if l := n.line(name); !strings.Contains(l, w) {
			n.t.Errorf("%s has no %s: %s\n%s", name, w, l, n.log)
		}
	}
}

// TestSettingsOverARebind: what is asked survives the way to a userspace driver
// and back, though only the device knows what a fresh netdev has, and so does
// what the agent was not asked about.
func TestSettingsOverARebind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		index := 5 // of enp3s0
		if err := n.kernel.Foreign(host.Call{Op: host.OpRings, Index: index, Value: "rx=256 mini=0 jumbo=0 tx=512"}); err != nil {
			t.Fatal(err)
		}
		n.start(nil)
		defer n.halt()
		n.want(withSettings(pci(portB, "igb")))
		settled(5 * time.Second)
		n.expect("pci 0000:03:00.0=right")
		n.has("enp3s0", `alt="lan0"`, `combined=2"`, `rx=1024 mini=0 jumbo=0 tx=512"`)
		n.want(pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		n.expect("pci 0000:03:00.0=right")
		n.want(withSettings(pci(portB, "igb")))
		settled(5 * time.Second)
		n.expect("pci 0000:03:00.0=right")
		n.has("enp3s0", `alt="lan0"`, `combined=2"`, `rx=1024 mini=0 jumbo=0 tx=512"`)
		n.want(releasedPCI(portB))
		settled(5 * time.Second)
		n.expect("pci 0000:03:00.0=released")
		n.has("enp3s0", `combined=4"`, `rx=256 mini=0 jumbo=0 tx=512"`)
		if strings.Contains(n.line("enp3s0"), "alt=") {
			t.Errorf("a name was left: %s", n.line("enp3s0"))
		}
	})
}

// TestSettingsOfWhatHasNoNetdevYet: found on a userspace driver, what a netdev
// will have is not known; it is asked once the netdev is there.
func TestSettingsOfWhatHasNoNetdevYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.want(withSettings(pci(portA, "")))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right") // the driver that nobody asks for any more went back, and what it was is known
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.want(withSettings(pci(portA, "igb")))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right")
		n.has("enp2s0", `alt="lan0"`, `combined=2"`, `rx=1024 mini=0 jumbo=0 tx=256"`)
		n.halt()
	})
}

// TestTheGoalOfWhatIsUnderWayIsItsOwn: half-way, what is observed would make
// another goal of the same wish, and the operation would be withdrawn.
func TestTheGoalOfWhatIsUnderWayIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(func(c *Config) { c.Observe = true })
		defer n.halt()
		settled(time.Second)
		key := drivers.Key{Kind: link.KindRings, Target: portA}
		after := drivers.State("rx=1024 mini=0 jumbo=0 tx=512")
		if _, err := n.journal.Begin(t.Context(), journal.Operation{
			Reason:  journal.Reason{Source: "test"},
			Changes: []journal.Change{{Key: key, Class: drivers.Volatile, Before: "rx=256 mini=0 jumbo=0 tx=512", After: after}},
		}, nil); err != nil {
			t.Fatal(err)
		}
		r := request{asked: entry{Interface: withSettings(pci(portA, ""))}, target: portA}
		n.agent.view.ask(t.Context(), &r)
		if r.goal[key] != after {
			t.Errorf("the goal is %q, want %q", r.goal[key], after)
		}
		other := 2048
		r.asked.Rings.RX = &other // that is another wish
		n.agent.view.ask(t.Context(), &r)
		if want := drivers.State("rx=2048 mini=0 jumbo=0 tx=256"); r.goal[key] != want {
			t.Errorf("the goal is %q, want %q", r.goal[key], want)
		}
	})
}

// TestTheManagementPathKeepsItsRings: changing them resets the link.
func TestTheManagementPathKeepsItsRings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.DefaultNode()
		for i := range c.Devices {
			if n := c.Devices[i].Net; n != nil && n.Name == "ens5" {
				n.Set = sim.IGB()
			}
		}
		n := newNode(t, c)
		n.start(nil)
		defer n.halt()
		i := withSettings(pci("0000:00:05.0", ""))
		n.want(i)
		settled(5 * time.Second)
		n.expect("pci 0000:00:05.0=refused")
		n.has("ens5", `combined=4"`, `rx=256 mini=0 jumbo=0 tx=256"`)
		i.Rings, i.Channels = nil, nil // a name cuts nothing
		n.want(i)
		settled(5 * time.Second)
		n.expect("pci 0000:00:05.0=right")
		n.has("ens5", `alt="lan0"`, `alt="enp0s5"`)
	})
}

// TestAPartIsAskedOfWhatIsThereNow: another hand gives a name after the entry was
// resolved, and it stays.
func TestAPartIsAskedOfWhatIsThereNow(t *testing.T) {
	withNode(t, func(n *node) {
		asked := entry{Interface: source.Interface{
			Selector: source.Selector{PCI: portA}, State: source.Configured, AltNames: []string{"lan0"},
		}}
		settled(time.Second)
		r := n.agent.view.resolve(n.t.Context(), []entry{asked}, nil)[0]
		dev, err := host.NetdevOf(n.t.Context(), n.kernel, portA)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"cloud0", "lan0"} {
			if err := n.kernel.Foreign(host.Call{Op: host.OpAltName, Target: portA, Index: dev.Index, Value: name, Number: 1}); err != nil {
				t.Fatal(err)
			}
		}
		if draft, _, err := n.agent.view.examine(n.t.Context(), &r); err != nil || !draft.Empty() {
			t.Errorf("it would be changed: %+v (%v)", draft, err)
		}
	})
}
