package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

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
	mu      sync.Mutex                  // guards what follows
	asked   func(drivers.Target) string // the driver; "" is that it may be in no pool
	broken  []string
	text    string // of the file
	names   []drivers.Target
	changes int  // of it, by the agent
	early   bool // the source has not spoken since the start
}

func (n *node) rules(asked func(drivers.Target) string) *rules {
	r := &rules{n: n, asked: asked}
	r.text, _ = n.kernel.File(context.Background(), pluginFile)
	r.names = r.named()
	n.kernel.Hook = r.hook
	return r
}

// onVFIO is that every function may be in a pool, on vfio-pci.
func onVFIO(drivers.Target) string { return "vfio-pci" }

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
		defer func() { r.n.boundary("host " + p.String()) }()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case p.Call.Op == host.OpReplace && p.When == sim.After:
		text, _ := r.n.kernel.File(context.Background(), pluginFile)
		if text != r.text {
			r.text = text
			r.changes++
		}
		now := r.named()
		r.unverified("published", slices.DeleteFunc(slices.Clone(now), func(t drivers.Target) bool { return slices.Contains(r.names, t) }))
		r.names = now
	case p.When == sim.Before:
		if r.early && r.n.agent.Ready() == nil { // no moment between two looks is missed
			r.unverified("ready", r.named())
		}
		for _, t := range r.named() {
			pf := p.Label == "numvfs" && strings.HasPrefix(string(t), "0000:01:1")
			if t == p.Call.Target || pf {
				r.note("P1: %s, and the file names %s", p, t)
			}
		}
	}
}

// unverified notes which functions, that the file names, are not as asked.
func (r *rules) unverified(when string, functions []drivers.Target) {
	for _, t := range functions {
		now, err := host.DriverOf(context.Background(), r.n.kernel, string(t))
		if want := r.asked(t); err != nil || want == "" || now != want {
			r.note("P2: %s: the file names %s, which is on %q (%v), not %q", when, t, now, err, want)
		}
	}
}

// ready notes what is unverified although the agent said that it is ready.
func (r *rules) ready() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n.agent.Ready() == nil {
		r.unverified("ready", r.named())
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
		r := n.rules(onVFIO)
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

func pooledVFs(count int, overrides ...source.Override) source.Interface {
	return vfs(count, source.VF{Driver: "vfio-pci", Pool: poolX}, overrides...)
}

// TestPoolsOfVFs: they are published once made, and withdrawn before their
// number changes, which makes all of them anew.
func TestPoolsOfVFs(t *testing.T) {
	withPools(t, func(n *node) {
		r := n.rules(onVFIO)
		defer r.check()
		n.want(pooledVFs(4, source.Override{Index: 1, VF: source.VF{Driver: "igbvf", Pool: source.NoPool}}))
		settled(10 * time.Second)
		n.expectPool(poolX, vf0, vf2, vf3)
		n.expectPools("intel.com/x=right")
		n.want(pooledVFs(2))
		settled(10 * time.Second)
		n.virtual(vf0, vf1)
		n.expectPool(poolX, vf0, vf1)
		n.want(vfs(2, dpdkVF(), source.Override{Index: 1, VF: source.VF{Pool: poolY}}))
		settled(10 * time.Second)
		n.expectPool(poolX)
		n.expectPool(poolY, vf1)
		released := pci(maker, "")
		released.State = source.Released
		n.want(released)
		settled(10 * time.Second)
		n.expect("pci 0000:01:00.0=released")
		n.expectPool(poolY)
		n.expectPools("")
		n.expectOwed(r.changes)
	})
}

// TestAFunctionThatIsNotAsAskedIsInNoPool: unbound by another hand it is taken
// out, and put back when it is right again.
func TestAFunctionThatIsNotAsAskedIsInNoPool(t *testing.T) {
	withPools(t, func(n *node) {
		r := n.rules(onVFIO)
		defer r.check()
		n.want(inPool(pci(portA, "vfio-pci"), poolX), inPool(pci(portB, "vfio-pci"), poolX))
		settled(10 * time.Second)
		before := r.changes
		n.unbind(portA)
		settled(10 * time.Second)
		n.expectPool(poolX, portA, portB)
		if n.driver(portA, "vfio-pci"); r.changes != before+2 {
			n.t.Errorf("%d changes of the file, want 2\n%s", r.changes-before, n.log)
		}
		// Bound to nothing that the kernel lets it have, it stays out.
		if err := n.kernel.Inject(sim.Fault{Label: "bind", Path: portA, Errno: syscall.EINVAL, Times: -1}); err != nil {
			n.t.Fatal(err)
		}
		n.unbind(portA)
		settled(time.Minute)
		n.expectPool(poolX, portB)
		n.expectPools("intel.com/x=pending")
	})
}

// TestAnEntryOfAnotherHandIsRefused, whatever it says, and nothing is written to
// the file.
func TestAnEntryOfAnotherHandIsRefused(t *testing.T) {
	withPools(t, func(n *node) {
		for _, entry := range []string{
			`{"resourceName":"x","resourcePrefix":"intel.com","selectors":[{"drivers":["vfio-pci"],"pciAddresses":["0000:02:00.0"]}]}`,
			`{"resourceName":"x","selectors":{"vendors":["8086"]}}`,
			`{"resourceName":"z","selectors":{"pciAddresses":["0000:02:00.0"]}}`,
		} {
			text := `{"resourceList":[` + entry + `]}`
			n.writePlugin(text)
			n.want(inPool(pci(portA, "vfio-pci"), poolX))
			settled(40 * time.Second)
			n.expect("pci 0000:02:00.0=right")
			n.expectPools("intel.com/x=refused")
			if now, _ := n.kernel.File(n.t.Context(), pluginFile); now != text {
				n.t.Errorf("the file is\n%s", now)
			}
		}
		n.expectOwed(0)
		n.writePlugin(theirs) // whoever it was takes it out
		settled(40 * time.Second)
		n.expectPools("intel.com/x=right")
		n.expectPool(poolX, portA)
	})
}

// TestAnotherHandOnOurEntry is drift: repaired, and after three times left.
func TestAnotherHandOnOurEntry(t *testing.T) {
	withPools(t, func(n *node) {
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		for range 3 {
			n.writePlugin(theirs)
			settled(40 * time.Second)
			n.expectPool(poolX, portA)
		}
		n.writePlugin(theirs)
		settled(40 * time.Second)
		n.expectPools("intel.com/x=degraded")
		if got := n.pool(poolX); got != "[]" {
			n.t.Errorf("repaired for ever: %s\n%s", got, n.log)
		}
	})
}

// TestATornFileIsKept: the condition says so, with what the agent last had
// there, and nothing is done to a function that the file named.
func TestATornFileIsKept(t *testing.T) {
	withPools(t, func(n *node) {
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		whole, _ := n.kernel.File(n.t.Context(), pluginFile)
		torn := whole[:len(whole)/2]
		n.writePlugin(torn)
		released := pci(portA, "")
		released.State = source.Released
		n.want(released)
		settled(time.Minute)
		n.driver(portA, "vfio-pci")
		s := n.agent.Status(n.t.Context())
		if len(s.Pools) != 1 || s.Pools[0].Condition != Pending || !strings.Contains(s.Pools[0].Reason, `"pciAddresses":["0000:02:00.0"]`) || !strings.Contains(s.Pools[0].Reason, "line 6") {
			n.t.Errorf("pools are %+v", s.Pools)
		}
		if now, _ := n.kernel.File(n.t.Context(), pluginFile); now != torn {
			n.t.Errorf("the file is\n%s", now)
		}
		n.writePlugin(whole)
		settled(time.Minute)
		n.driver(portA, "igb")
		n.expectPool(poolX)
	})
}

// TestWithoutPoolsTheFileIsNotRead, not even looked for.
func TestWithoutPoolsTheFileIsNotRead(t *testing.T) {
	withNodeOf(t, withPlugin, func(n *node) {
		if err := n.kernel.Inject(sim.Fault{Label: "read", Path: pluginFile, Errno: syscall.EIO, Times: -1}); err != nil {
			n.t.Fatal(err)
		}
		n.want(pci(portA, "vfio-pci"))
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=right")
		if strings.Contains(n.log.String(), pluginFile) {
			n.t.Error(n.log)
		}
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(time.Minute)
		n.expectPools("intel.com/x=pending")
	})
}

// TestARebootWithdrawsBeforeAnythingElse: the file survived, the binding did
// not. Before the agent is ready, the pool is withdrawn; then all comes back.
func TestARebootWithdrawsBeforeAnythingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.writePlugin(theirs)
		n.start(withPlugin)
		want := []source.Interface{inPool(pci(portA, "vfio-pci"), poolX), pooledVFs(4)}
		want[1].VFs.Defaults.Pool = poolY
		n.want(want...)
		settled(10 * time.Second)
		n.expectPool(poolX, portA)
		n.expectPool(poolY, vf0, vf1, vf2, vf3)
		owed, _ := n.agent.RestartOwed()
		if _, err := n.agent.PluginRestarted(t.Context(), owed.Number, "test"); err != nil {
			t.Fatal(err)
		}
		n.expectOwed(0)
		n.halt()
		n.kernel.Reboot()
		r := n.rules(onVFIO)
		n.start(withPlugin)
		settled(10 * time.Millisecond)
		n.expectPool(poolX)
		n.expectPool(poolY)
		if err := n.agent.Ready(); err == nil {
			t.Error("ready before the source has spoken")
		}
		n.driver(portA, "igb")
		for range 400 {
			time.Sleep(10 * time.Millisecond)
			r.ready()
		}
		settled(10 * time.Second) // the source stays away, the journal knows
		n.expectPool(poolX, portA)
		n.expectPool(poolY, vf0, vf1, vf2, vf3)
		r.check()
		n.expectOwed(r.changes)
		n.halt()
		// Another start in the same boot owes nothing.
		n.start(withPlugin)
		settled(10 * time.Second)
		n.expectOwed(r.changes)
		n.halt()
	})
}

// TestABootOwesARestart even where the functions are as asked when the agent
// starts: the plugin may have come before them.
func TestABootOwesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.writePlugin(theirs)
		n.start(withPlugin)
		n.want(inPool(pci(portA, ""), poolX))
		settled(10 * time.Second)
		n.expectPool(poolX, portA)
		n.expectOwed(1)
		n.halt()
		n.kernel.Reboot()
		for range 2 { // once a boot
			n.start(withPlugin)
			settled(10 * time.Second)
			n.expectPool(poolX, portA)
			n.expectOwed(2)
			n.halt()
		}
	})
}

// TestPayingIsUpToANumber: what came to be owed meanwhile is owed still.
func TestPayingIsUpToANumber(t *testing.T) {
	withPools(t, func(n *node) {
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		first, _ := n.agent.RestartOwed()
		n.want(inPool(pci(portA, "vfio-pci"), poolX), inPool(pci(portB, "vfio-pci"), poolX))
		settled(10 * time.Second)
		if left, err := n.agent.PluginRestarted(n.t.Context(), first.Number, "test"); err != nil || left.Owed != 1 {
			n.t.Errorf("%+v, %v", left, err)
		}
		if _, err := n.agent.PluginRestarted(n.t.Context(), first.Number+7, "test"); err == nil {
			n.t.Error("paid what is not owed")
		}
		if got := n.metric("eniagent_plugin_restart_owed"); got != 1 {
			n.t.Errorf("the metric says %v", got)
		}
		if left, err := n.agent.PluginRestarted(n.t.Context(), first.Number+1, "test"); err != nil || left.Owed != 0 {
			n.t.Errorf("%+v, %v", left, err)
		}
		if s := n.agent.Status(n.t.Context()); s.PluginRestart != nil {
			n.t.Errorf("%+v", s.PluginRestart)
		}
	})
}

// TestAFileThatCannotBeWrittenOwesNothing, and the function waits for it.
func TestAFileThatCannotBeWrittenOwesNothing(t *testing.T) {
	withPools(t, func(n *node) {
		if err := n.kernel.Inject(sim.Fault{Label: "replace", Errno: syscall.ENOSPC, Times: -1}); err != nil {
			n.t.Fatal(err)
		}
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=right")
		n.expectPool(poolX)
		n.expectOwed(0)
		if got := n.poolConditions(); got == "intel.com/x=right" {
			n.t.Error(got)
		}
	})
}

// TestAPoolInAnotherFile is remembered, and says how it is withdrawn.
func TestAPoolInAnotherFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.writePlugin(theirs)
		n.start(withPlugin)
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		n.halt()
		n.start(func(c *Config) { c.PluginFile = "/srv/other.json" })
		defer n.halt()
		settled(10 * time.Second)
		s := n.agent.Status(t.Context())
		if len(s.Pools) != 2 || s.Pools[1].Condition != Refused || !strings.Contains(s.Pools[1].Reason, "--device-plugin-config "+pluginFile) {
			t.Errorf("pools are %+v", s.Pools)
		}
		// And its function is not torn from it.
		released := pci(portA, "")
		released.State = source.Released
		n.want(released)
		settled(10 * time.Second)
		n.driver(portA, "vfio-pci")
	})
}

// TestReleaseWithdrawsFirst, by an order, and for everything.
func TestReleaseWithdrawsFirst(t *testing.T) {
	withPools(t, func(n *node) {
		r := n.rules(onVFIO)
		defer r.check()
		n.want(inPool(pci(portA, "vfio-pci"), poolX), inPool(pci(portB, "vfio-pci"), poolX))
		settled(10 * time.Second)
		if _, err := n.agent.Release(n.t.Context(), Order{Targets: []string{"pool " + poolX}, Who: "test"}); err == nil {
			n.t.Error("a pool was released")
		}
		if _, err := n.agent.Release(n.t.Context(), Order{Targets: []string{portA}, Who: "test"}); err != nil {
			n.t.Fatal(err)
		}
		n.driver(portA, "igb")
		n.expectPool(poolX, portB)
		report, err := n.agent.Release(n.t.Context(), Order{All: true, Who: "test"})
		if err != nil {
			n.t.Fatal(err)
		}
		n.driver(portB, "igb")
		n.expectPool(poolX)
		for _, e := range report.Entries {
			if e.Condition != Released {
				n.t.Errorf("%+v", e)
			}
		}
		if len(n.agent.view.ownPools()) > 0 {
			n.t.Error("a pool is left")
		}
	})
}

// TestAPlanShowsPools: what is published when its function is bound, in the
// order in which it is done.
func TestAPlanShowsPools(t *testing.T) {
	withPools(t, func(n *node) {
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		n.agent.c.Observe = true
		n.want(inPool(pci(portA, "uio_pci_generic"), poolX))
		settled(10 * time.Second)
		var steps []string
		for _, e := range n.agent.Plan(n.t.Context()).Entries {
			for _, s := range e.Steps {
				if s.Kind == deviceplugin.Kind {
					steps = append(steps, string(s.From)+" -> "+string(s.To))
				}
			}
		}
		const entry = `{"selectors":[{"drivers":["%s"],"pciAddresses":["0000:02:00.0"]}]}`
		want := []string{fmt.Sprintf(entry, "vfio-pci") + " -> absent", "absent -> " + fmt.Sprintf(entry, "uio_pci_generic")}
		if diff := cmp.Diff(want, steps); diff != "" {
			n.t.Error(diff)
		}
		n.agent.c.Observe = false
	})
}

// TestAHeldFunctionLeavesItsPool: what it is asked for now it cannot have yet,
// and no other pod shall get it meanwhile.
func TestAHeldFunctionLeavesItsPool(t *testing.T) {
	withPools(t, func(n *node) {
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		release := n.kernel.Hold(portA)
		n.want(inPool(pci(portA, "uio_pci_generic"), poolX))
		settled(10 * time.Second)
		n.expect("pci 0000:02:00.0=held")
		n.driver(portA, "vfio-pci")
		n.expectPool(poolX)
		release()
		settled(time.Minute)
		n.driver(portA, "uio_pci_generic")
		n.expectPool(poolX, portA)
	})
}

// TestAPoolInQuarantine: another hand wrote the entry in the middle of an
// operation on it. What was done is owed, and a person decides.
func TestAPoolInQuarantine(t *testing.T) {
	withPools(t, func(n *node) {
		n.kernel.Hook = func(p sim.Point) {
			if p.Call.Op == host.OpReplace && p.When == sim.Before {
				n.writePlugin(`{"resourceList":[{"resourceName":"x","resourcePrefix":"intel.com","selectors":{"vendors":["15b3"]}}]}`)
			}
		}
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		n.kernel.Hook = nil
		n.expectPools("intel.com/x=quarantined")
		n.expect("pci 0000:02:00.0=right")
		n.expectOwed(1) // nobody can say that it is not
		op := n.journal.Quarantined()[0]
		if _, err := n.agent.Resolve(n.t.Context(), Resolution{Operation: op.ID, How: Replay, Who: "test"}); err != nil {
			n.t.Fatal(err)
		}
		settled(10 * time.Second)
		n.expectPools("intel.com/x=right")
		n.expectPool(poolX, portA)
		n.expectOwed(2)
	})
}

// TestObservingWithdrawsNothing, and says what it would.
func TestObservingWithdrawsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.writePlugin(theirs)
		n.start(withPlugin)
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		n.halt()
		n.kernel.Reboot()
		n.start(func(c *Config) { withPlugin(c); c.Observe = true })
		defer n.halt()
		settled(10 * time.Second)
		n.expectPool(poolX, portA)
		r := n.agent.Recover(t.Context(), true)
		if len(r.Pools) != 1 || r.Pools[0].Steps[0].To != deviceplugin.Absent {
			t.Errorf("%+v", r.Pools)
		}
	})
}

// TestAPausedPoolIsLeft, and goes on where it was.
func TestAPausedPoolIsLeft(t *testing.T) {
	withPools(t, func(n *node) {
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		pool := Order{Targets: []string{"pool " + poolX}, Who: "test", Why: "looking"}
		if _, err := n.agent.Pause(n.t.Context(), pool); err != nil {
			n.t.Fatal(err)
		}
		n.want(pci(portA, "uio_pci_generic"))
		settled(10 * time.Second)
		n.expectPools("intel.com/x=paused")
		n.expectPool(poolX, portA)
		n.driver(portA, "vfio-pci") // which the file still names
		if _, err := n.agent.Resume(n.t.Context(), pool); err != nil {
			n.t.Fatal(err)
		}
		settled(10 * time.Second)
		n.expectPool(poolX)
		n.driver(portA, "uio_pci_generic")
	})
}

// TestAFailedReadWithdrawsNoPool: it says nothing of the functions, which pods
// may have.
func TestAFailedReadWithdrawsNoPool(t *testing.T) {
	for name, tc := range map[string]struct {
		asked source.Interface
		fault sim.Fault
	}{
		"of a function": {pci(portA, "vfio-pci"), sim.Fault{Label: sim.LabelRead, Path: host.Attr(portA, "driver_override"), Errno: syscall.EIO, Times: 1}},
		"of all links": {
			source.Interface{Selector: source.Selector{Name: "enp2s0"}, State: source.Configured},
			sim.Fault{Label: sim.LabelLinks, Errno: syscall.EINTR, Times: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			withPools(t, func(n *node) {
				n.want(inPool(tc.asked, poolX))
				settled(10 * time.Second)
				n.expectPool(poolX, portA)
				before := n.owed()
				if err := n.kernel.Inject(tc.fault); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					n.agent.Wake()
					settled(500 * time.Millisecond)
					n.expectPool(poolX, portA)
				}
				if owed := n.owed(); owed != before {
					t.Errorf("%d restarts are owed, and were %d", owed, before)
				}
			})
		})
	}
}

// TestABootOwesOneRestart, however often its agent starts.
func TestABootOwesOneRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.writePlugin(theirs)
		n.start(withPlugin)
		n.want(inPool(pci(portA, ""), poolX))
		settled(10 * time.Second)
		o, _ := n.agent.RestartOwed()
		if _, err := n.agent.PluginRestarted(t.Context(), o.Number, "test"); err != nil {
			t.Fatal(err)
		}
		n.halt()
		n.kernel.Reboot()
		for range 4 {
			n.start(withPlugin)
			settled(500 * time.Millisecond)
			if owed := n.owed(); owed != 1 {
				t.Errorf("%d restarts are owed", owed)
			}
			n.halt()
		}
	})
}

// TestWhatRecoverCouldNotWithdrawIsSaid.
func TestWhatRecoverCouldNotWithdrawIsSaid(t *testing.T) {
	withPools(t, func(n *node) {
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		for _, label := range []string{"replace", "bind"} {
			if err := n.kernel.Inject(sim.Fault{Label: label, Errno: syscall.EROFS, Times: -1}); err != nil {
				t.Fatal(err)
			}
		}
		n.unbind(portA)
		settled(time.Minute)
		if r := n.agent.Recover(n.t.Context(), false); len(r.Pools) != 1 || !slices.Equal(r.PoolsLeft, []string{"pool " + poolX}) {
			t.Errorf("to withdraw %v, left %v", r.Pools, r.PoolsLeft)
		}
	})
}

// TestATornFileOfAnAdoptedPoolIsKept: no operation ever said what is in it, so
// it may name any function.
func TestATornFileOfAnAdoptedPoolIsKept(t *testing.T) {
	withPools(t, func(n *node) {
		whole := `{"resourceList": [{"resourcePrefix": "intel.com", "resourceName": "x", "selectors": [{"drivers": ["vfio-pci"], "pciAddresses": ["0000:02:00.0"]}]}]}`
		n.writePlugin(whole)
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		if _, err := n.agent.adopt(n.t.Context(), Adoption{Pools: []string{poolX}, Who: "test", Why: "test"}); err != nil {
			n.t.Fatal(err)
		}
		n.halt()
		n.start(withPlugin)
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		n.expectPools("intel.com/x=right")
		n.writePlugin(whole[:len(whole)/2])
		released := pci(portA, "")
		released.State = source.Released
		n.want(released)
		settled(time.Minute)
		n.driver(portA, "vfio-pci")
		n.writePlugin(whole)
		settled(time.Minute)
		n.driver(portA, "igb")
		n.expectPool(poolX)
	})
}
