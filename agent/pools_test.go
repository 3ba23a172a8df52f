package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

const (
	pluginFile = "/etc/pcidp/config.json"
	poolX      = "intel.com/x"
	poolY      = "intel.com/y"
)

// theirs is a configuration of somebody else.
const theirs = `{
	"resourceList": [
		{"resourceName": "theirs", "selectors": {"vendors": ["15b3"]}}
	]
}
`

func withPlugin(c *Config) { c.PluginFile = pluginFile }

func inPool(i source.Interface, pool string) source.Interface {
	i.Pool = pool
	return i
}

// pool is the functions that the file names for a pool, in the order of addresses.
func (n *node) pool(name string) string {
	n.t.Helper()
	text, err := n.kernel.File(context.Background(), pluginFile)
	if err != nil {
		return ""
	}
	d, err := deviceplugin.Parse(text)
	if err != nil {
		return err.Error()
	}
	s, err := d.State(name)
	if err != nil {
		n.t.Fatal(err)
	}
	return fmt.Sprint(deviceplugin.Functions(s))
}

func (n *node) expectPool(name string, functions ...drivers.Target) {
	n.t.Helper()
	if got := n.pool(name); got != fmt.Sprint(functions) {
		n.t.Errorf("pool %s has %s, want %v\n%s", name, got, functions, n.log)
	}
}

func (n *node) poolConditions() string {
	var s []string
	for _, p := range n.agent.Status(n.t.Context()).Pools {
		s = append(s, p.Pool+"="+string(p.Condition))
	}
	return strings.Join(s, ", ")
}

func (n *node) owed() uint64 {
	r, _ := n.agent.RestartOwed()
	return r.Owed
}

// withPools is withNode with the device plugin's file.
func withPools(t *testing.T, fn func(n *node)) {
	t.Helper()
	withNodeOf(t, withPlugin, func(n *node) {
		n.writePlugin(theirs)
		fn(n)
	})
}

func (n *node) writePlugin(text string) {
	n.t.Helper()
	if err := n.kernel.WriteFile(pluginFile, text); err != nil {
		n.t.Fatal(err)
	}
}

// rules notes, while an agent works, where the rules of pools are broken: a
// write on a function that the file names, and a function in the file that is
// not on the driver that is asked for.
type rules struct {
	n       *node
	asked   func(drivers.Target) string // the driver; "" is that it may be in no pool
	broken  []string
	text    string // of the file
	changes int    // of it, by the agent
}

func (n *node) rules(asked func(drivers.Target) string) *rules {
	r := &rules{n: n, asked: asked}
	r.text, _ = n.kernel.File(context.Background(), pluginFile)
	n.kernel.Hook = r.hook
	return r
}

// on is that every function may be in a pool, on that driver.
func on(driver string) func(drivers.Target) string {
	return func(drivers.Target) string { return driver }
}

// named are the functions that the pools of the tests name.
func (r *rules) named() (functions []drivers.Target) {
	text, err := r.n.kernel.File(context.Background(), pluginFile)
	if err != nil {
		return nil
	}
	d, err := deviceplugin.Parse(text)
	if err != nil {
		return nil
	}
	for _, name := range []string{poolX, poolY} {
		if s, err := d.State(name); err == nil {
			functions = append(functions, deviceplugin.Functions(s)...)
		}
	}
	return functions
}

func (r *rules) hook(p sim.Point) {
	if r.n.boundary != nil {
		r.n.boundary("host " + p.String())
	}
	switch {
	case p.Call.Op == host.OpReplace && p.When == sim.After:
		text, _ := r.n.kernel.File(context.Background(), pluginFile)
		if text != r.text {
			r.text = text
			r.changes++
		}
		r.unverified("published")
	case p.When == sim.Before:
		for _, t := range r.named() {
			pf := p.Label == "numvfs" && strings.HasPrefix(string(t), "0000:01:1")
			if t == p.Call.Target || pf {
				r.note("P1: %s, and the file names %s", p, t)
			}
		}
	}
}

// unverified notes what the file names and is not as asked.
func (r *rules) unverified(when string) {
	for _, t := range r.named() {
		now, err := host.DriverOf(context.Background(), r.n.kernel, string(t))
		if want := r.asked(t); err != nil || want == "" || now != want {
			r.note("P2: %s: the file names %s, which is on %q (%v), not %q", when, t, now, err, want)
		}
	}
}

// ready notes what is unverified although the agent said that it is ready.
func (r *rules) ready() {
	if r.n.agent.Ready() == nil {
		r.unverified("ready")
	}
}

func (r *rules) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(r.broken, text) {
		r.broken = append(r.broken, text)
	}
}

func (r *rules) check() {
	r.n.t.Helper()
	for _, b := range r.broken {
		r.n.t.Error(b)
	}
	if len(r.broken) > 0 {
		r.n.t.Log(r.n.log)
	}
}

func TestAPoolFollowsItsFunctions(t *testing.T) {
	withPools(t, func(n *node) {
		r := n.rules(on("vfio-pci"))
		defer r.check()
		n.want(inPool(pci(portA, "vfio-pci"), poolX), inPool(pci(portB, "vfio-pci"), poolX))
		settled(10 * time.Second)
		n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=right")
		n.expectPool(poolX, portA, portB)
		n.expectPools("intel.com/x=right")
		n.expectOwed(r.changes)
		released := pci(portA, "")
		released.State = source.Released
		n.want(released, inPool(pci(portB, "vfio-pci"), poolX))
		settled(10 * time.Second)
		n.expectPool(poolX, portB)
		n.driver(portA, "igb")
		n.want(released, inPool(pci(portB, "vfio-pci"), poolY))
		settled(10 * time.Second)
		n.expectPool(poolX)
		n.expectPool(poolY, portB)
		n.expectPools("intel.com/y=right")
		released2 := pci(portB, "")
		released2.State = source.Released
		n.want(released, released2)
		settled(10 * time.Second)
		n.driver(portB, "igb")
		n.expectPools("")
		n.expectOwed(r.changes)
		if text, _ := n.kernel.File(n.t.Context(), pluginFile); text != theirs {
			n.t.Errorf("the file is left as\n%s", text)
		}
		if own := n.agent.view.ownPools(); len(own) > 0 {
			n.t.Errorf("still ours: %v", own)
		}
	})
}

func (n *node) expectPools(want string) {
	n.t.Helper()
	if got := n.poolConditions(); got != want {
		n.t.Errorf("pools are %q, want %q\n%s", got, want, n.log)
	}
}

func (n *node) expectOwed(want int) {
	n.t.Helper()
	if got := n.owed(); got != uint64(want) {
		n.t.Errorf("%d restarts are owed, want %d\n%s", got, want, n.log)
	}
}
