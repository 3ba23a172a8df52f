package agent

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/sriov"
)

// TestVFsOfSomebodyElseAreNotReplaced without a reason, which says what they have;
// with one, what stays is as it was, and release restores the rest.
func TestVFsOfSomebodyElseAreNotReplaced(t *testing.T) {
	for _, count := range []int{0, 1, 4} {
		synctest.Test(t, func(t *testing.T) { vfsOfOthers(t, count, nil) })
	}
}

// TestBrokenReplacersAreCaught breaks one thing at a time.
func TestBrokenReplacersAreCaught(t *testing.T) {
	for _, v := range []struct {
		name, sees string
		breaks     func(*Agent)
	}{
		{"what others set is not seen", "want it refused with", func(a *Agent) {
			believe(a, sriov.KindVLAN, noVLAN)
			believe(a, sriov.KindTrust, "off")
		}},
		{"what goes with a VF is not put back", "to stay", func(a *Agent) {
			specs := slices.Clone(a.view.Drivers.Specs)
			for i := range specs {
				specs[i].OfVF = false
			}
			a.view.Drivers.Specs, a.engine.Drivers.Specs = specs, specs
		}},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				notices(t, v.sees, func(t testing.TB) { vfsOfOthers(t, 4, v.breaks) })
			})
		})
	}
}

// vfsOfOthers asks for another number of VFs than there are, of which somebody
// else has configured one.
func vfsOfOthers(t testing.TB, count int, breaks func(*Agent)) {
	t.Helper()
	n := newNode(t, sim.DefaultNode())
	n.breaks = breaks
	n.start(nil)
	defer n.halt()
	n.byHand(host.OpVFVLAN, 1, "id=7 qos=1 protocol=802.1Q")
	n.byHand(host.OpVFTrust, 1, "on")
	before := n.keptFor()
	asked := vfs(count, source.VF{})
	if labels := n.written(func() { n.want(asked); settled(time.Minute) }); len(labels) > 0 {
		t.Errorf("count %d: written: %v", count, labels)
	}
	r := n.agent.Status(t.Context()).Interfaces[0]
	for _, s := range []string{"vfs.count", "VF 1, 0000:01:10.2, has vf.vlan id=7 qos=1 protocol=802.1Q, vf.trust on", "vfs.replaceVFs"} {
		if r.Condition != Refused || !strings.Contains(r.Reason, s) || strings.Contains(r.Reason, "VF 0") {
			t.Errorf("count %d: %s, %q: want it refused with %q", count, r.Condition, r.Reason, s)
		}
	}
	asked = vfs(count, source.VF{})
	asked.VFs.ReplaceVFs = "the new layout"
	n.want(asked)
	settled(time.Minute)
	got := n.keptFor()
	if len(got) != count || !slices.Equal(got[:min(count, 2)], before[:min(count, 2)]) {
		t.Errorf("count %d: kept %v, want %v to stay", count, got, before)
	}
	n.want(releasedMaker())
	settled(time.Minute)
	if got := n.keptFor(); !slices.Equal(got, before) {
		t.Errorf("count %d: released: %v, want %v\n%s", count, got, before, n.log)
	}
}

// TestVFsOfTheAgentAreReplaced: what it made, or set itself, needs no reason.
func TestVFsOfTheAgentAreReplaced(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(vfs(3, source.VF{Driver: "vfio-pci", Port: vlan(100)}))
		settled(time.Minute)
		n.want(vfs(5, source.VF{}))
		settled(time.Minute)
		n.expect("pci 0000:01:00.0=right, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=right, pci 0000:01:00.0 vf 2=right, pci 0000:01:00.0 vf 3=right, pci 0000:01:00.0 vf 4=right")
	})
}

// TestWhatANewNetdevDoesNotTakeIsNoFailure: nobody asked for it, and the rest is
// worth more than that.
func TestWhatANewNetdevDoesNotTakeIsNoFailure(t *testing.T) {
	withNode(t, func(n *node) {
		dev, err := host.NetdevOf(t.Context(), n.kernel, vf0)
		if err != nil {
			t.Fatal(err)
		}
		rings := host.Rings{RX: 512, TX: 512}
		if err := n.kernel.Foreign(host.Call{Op: host.OpRings, Target: vf0, Index: dev.Index, Value: rings.String()}); err != nil {
			t.Fatal(err)
		}
		if err := n.kernel.Inject(sim.Fault{Label: string(host.OpRings), Errno: syscall.EINVAL, Times: 3}); err != nil {
			t.Fatal(err)
		}
		n.want(vfs(3, source.VF{}))
		settled(time.Minute)
		n.expect("pci 0000:01:00.0=right, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=right, pci 0000:01:00.0 vf 2=right")
		if !strings.Contains(n.log.String(), `msg="not restored"`) {
			t.Errorf("nothing says that the rings were lost\n%s", n.log)
		}
		for range 3 { // what the fault is still there for
			n.release(Order{All: true})
			settled(time.Minute)
		}
		n.has("enp1s0v0", `rx=512 mini=0 jumbo=0 tx=512"`)
	})
}
