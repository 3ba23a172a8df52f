package agent

import (
	"context"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers/host"
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
		lines := n.logged("")
		settled(time.Hour)
		if more := n.logged("") - lines; more > 0 {
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

// TestAVFFaresAsItsPFDoes: it has no port, no device and no place on the bus of
// its own. What is told stands until the PF is well, and nothing is touched.
func TestAVFFaresAsItsPFDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { ailingPF(t, nil) })
}

// TestBrokenVFsFareAlone: the test above notices an agent that does not look
// at the PF, or at a part of it.
func TestBrokenVFsFareAlone(t *testing.T) {
	for name, v := range map[string]struct {
		sees   string
		breaks func(*Agent)
	}{
		"a PF has no device": {"its device: ", func(a *Agent) { a.c.Host = without{a.c.Host, healthPF + "/config"} }},
		"a PF has no port":   {"its link: ", func(a *Agent) { a.c.Host = without{a.c.Host, "/carrier"} }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				notices(t, v.sees, func(t testing.TB) { ailingPF(t, v.breaks) })
			})
		})
	}
}

// without is a host without the files that end so.
type without struct {
	host.Host
	files string
}

func (w without) Read(ctx context.Context, path string) (string, error) {
	if strings.HasSuffix(path, w.files) {
		return "", fs.ErrNotExist
	}
	return w.Host.Read(ctx, path)
}

func ailingPF(t testing.TB, breaks func(*Agent)) {
	t.Helper()
	n := newNode(t, lax())
	n.breaks = breaks
	n.start(func(c *Config) { c.Interval = 24 * time.Hour })
	defer n.halt()
	up := true
	n.want(
		source.Interface{
			Selector: source.Selector{PCI: healthPF}, State: source.Configured, Up: &up,
			VFs: &source.VFs{Count: 2, Defaults: source.VF{Driver: "vfio-pci"}, Overrides: []source.Override{{Index: 1, VF: source.VF{Driver: "vfio-pci", Port: source.Port{LinkState: "enable"}}}}},
		},
	)
	settled(20 * time.Second)
	const vf0, vf1 = "pci 0000:01:00.0 vf 0", "pci 0000:01:00.0 vf 1" // of no object
	if c := n.conditions(); !strings.Contains(c, vf0+"=right") {
		t.Fatal(c, n.reasons())
	}
	before := n.kernel.Writes()
	for _, tc := range []struct {
		name string
		with func(bad bool)
		says string
		both bool // also one with a link of its own
	}{
		{"its link", func(bad bool) { n.carrier("enp1s0", !bad) }, "enp1s0 has no carrier", false},
		{"its device", func(bad bool) { n.ail(healthPF, sim.Ailment{Dead: bad}) }, healthPF + " does not answer", true},
	} {
		tc.with(true)
		settled(10 * time.Second)
		if r := n.reasons()[" "+vf0]; !strings.HasPrefix(r, "as asked, but its physical function ") || !strings.Contains(r, tc.says) {
			t.Errorf("%s: %s, %q", tc.name, n.conditions(), r)
		}
		if r := n.reasons()[" "+vf1]; strings.Contains(r, tc.says) != tc.both {
			t.Errorf("%s, of one with a link of its own: %q", tc.name, r)
		}
		tc.with(false)
		settled(10 * time.Second)
		if c := n.conditions(); !strings.Contains(c, vf0+"=right") {
			t.Errorf("%s is well again: %s", tc.name, c)
		}
	}
	if w := n.kernel.Writes() - before; w != 0 {
		t.Errorf("%d writes were made because of how a PF is", w)
	}
}

const healthPF = "0000:01:00.0"

// lax is the node with an igb that lets the link of its VFs be set, as most
// drivers do.
func lax() sim.Config {
	c := sim.DefaultNode()
	for i := range c.Modules {
		for j := range c.Modules[i].Drivers {
			if d := &c.Modules[i].Drivers[j]; d.VFs != nil {
				d.VFs = &sim.VFLimits{}
			}
		}
	}
	return c
}
