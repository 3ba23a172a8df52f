package agent

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

// every crashes an agent at one in so many boundaries.
//
//nolint:gochecknoglobals // a flag of the test binary
var every = flag.Int("pool-crashes", 6, "crash an agent with pools at one in so many boundaries; 1 is all")

// poolCrashes are what was found by crashing an agent at each boundary of what
// it does to pools and their functions.
type poolCrashes struct {
	t      *testing.T
	breaks func(*node, *Agent)
	sees   string // ends it when it is found
	points int
	found  []string
}

// image is a node as a crash leaves it.
type image struct {
	label   string
	kernel  *sim.Kernel
	store   *journal.Memory
	changes int // of the file, by the agent
	step    int // that was asked for last
}

// poolSteps are desired states, one after the other: made, changed, given back.
func poolSteps() [][]source.Interface {
	released := pci(portA, "")
	released.State = source.Released
	return [][]source.Interface{
		{inPool(pci(portA, "vfio-pci"), poolX), pooledVFs(2)},
		{inPool(pci(portA, "uio_pci_generic"), poolY), pooledVFs(3)},
		{released, vfs(1, dpdkVF())},
	}
}

// run goes through the steps without a crash, and keeps the node at each
// boundary.
func (c *poolCrashes) run() (images []image) {
	n := newNode(c.t, sim.DefaultNode())
	n.writePlugin(theirs)
	step := 0
	r := n.rules(c.asks(n))
	n.boundary = func(label string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		images = append(images, image{label, n.kernel.Clone(), n.store.Clone(), r.edits(), step})
	}
	n.fault = func(point string) error {
		n.boundary("journal " + point)
		return nil
	}
	c.start(n)
	for at, want := range poolSteps() {
		step = at
		n.want(want...)
		settled(20 * time.Second)
	}
	c.note("no crash", r)
	n.boundary = nil
	n.halt()
	return images
}

// asks is the driver that the desired state in force asks for, which the last
// one of the journal is.
func (c *poolCrashes) asks(n *node) func(drivers.Target) string {
	return func(t drivers.Target) string {
		for _, d := range n.journal.Sources() {
			for _, g := range d.Goals {
				if g.Key.Kind == dpdk.KindDriver && g.Key.Target == t {
					b, _ := dpdk.Parse(g.State)
					return b.Driver
				}
			}
		}
		return ""
	}
}

func (c *poolCrashes) start(n *node) {
	n.breaks = nil
	if c.breaks != nil {
		n.breaks = func(a *Agent) { c.breaks(n, a) }
	}
	n.start(withPlugin)
}

// after starts an agent on what a crash left, and holds it against the rules
// from its first moment.
func (c *poolCrashes) after(i image, reboot bool) {
	c.points++
	label := i.label
	n := &node{t: c.t, kernel: i.kernel.Clone(), store: i.store.Clone()}
	r := n.rules(c.asks(n))
	made := i.changes
	if reboot {
		label += ", reboot"
		before := r.text
		n.kernel.Reboot()
		if r.text, _ = n.kernel.File(c.t.Context(), pluginFile); r.text != before {
			made-- // it was not durable, and nobody starts with it
		}
		r.names = r.named()
	}
	r.early = true
	c.start(n)
	for range 300 { // the source is away at first
		time.Sleep(10 * time.Millisecond)
		r.ready()
	}
	r.mu.Lock()
	r.early = false
	r.mu.Unlock()
	n.want(poolSteps()[i.step]...)
	for range 200 {
		time.Sleep(50 * time.Millisecond)
		r.ready()
	}
	settled(20 * time.Second)
	r.mu.Lock()
	made += r.edits()
	r.mu.Unlock()
	n.halt()
	c.note(label, r)
	d, _ := n.journal.Debt(deviceplugin.Restart)
	more := 0
	if reboot {
		more = 1
	}
	if int(d.Owed) < made || int(d.Owed) > made+more {
		c.found = append(c.found, fmt.Sprintf("%s: P4: %d are owed for %d changes", label, d.Owed, made))
	}
	if n.breaks == nil && n.poolsAre() != poolsAfter()[i.step] {
		c.found = append(c.found, label+": P5: in the end the pools are "+n.poolsAre()+"\n"+n.log.String())
	}
}

// edits is how often the agent changed the file. The caller holds mu.
func (r *rules) edits() int { return r.changes }

func (c *poolCrashes) note(label string, r *rules) {
	for _, b := range r.broken {
		c.found = append(c.found, label+": "+b)
	}
}

// poolsAre is what the file has of both pools.
func (n *node) poolsAre() string { return n.pool(poolX) + " " + n.pool(poolY) }

// poolsAfter is what it has in the end, after each of the steps.
func poolsAfter() []string {
	list := func(functions ...string) string { return "[" + strings.Join(functions, " ") + "]" }
	return []string{list(vf0, vf1, portA) + " []", list(vf0, vf1, vf2) + " " + list(portA), "[] []"}
}

func (c *poolCrashes) seen() bool {
	return c.sees != "" && slices.ContainsFunc(c.found, func(f string) bool { return strings.Contains(f, c.sees) })
}

func (c *poolCrashes) all(every int) {
	synctest.Test(c.t, func(t *testing.T) {
		c.t = t
		for at, i := range c.run() {
			if at%every == 0 && !c.seen() {
				c.after(i, false)
				c.after(i, true)
			}
		}
	})
}

// TestPoolsThroughCrashes: the file never names a function that is not as asked
// once the agent is ready, a function that it names is not touched, and each
// change is owed, wherever the agent or the power ends.
func TestPoolsThroughCrashes(t *testing.T) {
	c := &poolCrashes{t: t}
	share := *every
	if testing.Short() {
		share *= 8
	}
	c.all(share)
	for _, f := range c.found[:min(len(c.found), 5)] {
		t.Error(f)
	}
	if c.points == 0 || len(c.found) > 5 {
		t.Errorf("%d found in %d crashes", len(c.found), c.points)
	}
	t.Logf("evidence: in process | crash of an agent with pools at 1 in %d boundaries, and a reboot there | %d | %d", share, c.points, len(c.found))
}

// believes is a driver that says what is asked, and does not look.
type believes struct {
	drivers.Driver
	says drivers.State
}

func (b believes) Observe(context.Context, drivers.Target) drivers.Observation {
	return drivers.Seen(b.says)
}

// believe makes what an agent knows of a kind, but for its engine, one state.
func believe(a *Agent, kind drivers.Kind, says drivers.State) {
	a.view.Drivers.Drivers = maps.Clone(a.view.Drivers.Drivers)
	a.view.Drivers.Drivers[kind] = believes{a.view.Drivers.Drivers[kind], says}
}

// owesLater makes it owed in a commit of its own, once an operation is done.
type owesLater struct{ n *node }

func (l owesLater) Log(fields ...any) error {
	text := slices.ContainsFunc(fields, func(f any) bool { s, ok := f.(string); return ok && strings.Contains(s, pluginFile) })
	if !text || !slices.Contains(fields, any("operation done")) {
		return nil
	}
	if err := l.n.journal.Flush(context.Background()); err != nil {
		return err
	}
	return l.n.journal.Owe(context.Background(), deviceplugin.Restart, "later", "")
}

// TestBrokenPoolsAreCaught breaks one thing at a time.
func TestBrokenPoolsAreCaught(t *testing.T) {
	owesNothing := func(a *Agent) {
		specs := slices.Clone(a.engine.Drivers.Specs)
		for i := range specs {
			specs[i].Owes = ""
		}
		a.engine.Drivers.Specs = specs
	}
	for _, v := range []struct {
		name, sees string
		breaks     func(*node, *Agent)
	}{
		{"published before it is verified", "P2: published", func(_ *node, a *Agent) {
			believe(a, dpdk.KindDriver, dpdk.Bound("vfio-pci"))
		}},
		{"not withdrawn before a function is touched", "P1", func(_ *node, a *Agent) {
			believe(a, deviceplugin.Kind, deviceplugin.Absent)
		}},
		{"nothing is withdrawn in a new boot", "P2: ready", func(_ *node, a *Agent) { a.duty = func(context.Context) {} }},
		{"a debt is forgotten", "P4", func(_ *node, a *Agent) { owesNothing(a) }},
		{"a debt is a commit of its own", "P4", func(n *node, a *Agent) {
			owesNothing(a)
			a.engine.Logger = owesLater{n}
		}},
	} {
		t.Run(v.name, func(t *testing.T) {
			c := &poolCrashes{t: t, breaks: v.breaks, sees: v.sees}
			c.all(1)
			if !c.seen() {
				t.Errorf("not noticed by %s in %d crashes; found was %q", v.sees, c.points, c.found)
			}
		})
	}
}
