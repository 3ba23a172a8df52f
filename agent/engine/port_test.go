package engine_test

import (
	"context"
	"maps"
	"syscall"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/sriov"
)

const (
	sibling drivers.Target = "0000:01:10.2"
	vlan7   drivers.State  = "id=7 qos=1 protocol=802.1Q"
	vlan100 drivers.State  = "id=100 qos=0 protocol=802.1Q"
	vfMAC   drivers.State  = "52:54:00:00:01:00"
)

// portScenarios are operations on what a physical function keeps for its VFs:
// for one of them among its siblings, and for all when these are made anew.
func portScenarios() []scenario {
	byHand := func(w *world) { w.setPort(sriov.KindVLAN, 0, "id=4000 qos=7 protocol=802.1Q") }
	another := func(w *world) { w.setVFs(0); w.setVFs(5) }
	of := func(t drivers.Target, vlan drivers.State) plan.Goal {
		return plan.Goal{keyOf(sriov.KindVLAN, t): vlan, keyOf(sriov.KindTrust, t): "on"}
	}
	counted := func(w *world, n int) plan.Goal {
		goal := w.vfGoal(n)
		for _, t := range w.vfs(n) {
			maps.Copy(goal, of(t, vlan100))
		}
		if n > 0 {
			goal[keyOf(sriov.KindMAC, vf)] = vfMAC
			goal[keyOf("driver", vf)] = "driver=igbvf override=-"
		}
		return goal
	}
	one := func() plan.Goal {
		goal := of(vf, vlan100)
		goal[keyOf(sriov.KindMAC, vf)], goal[keyOf(sriov.KindSpoofCheck, vf)] = vfMAC, "off"
		return goal
	}
	before := func(w *world) { w.setPort(sriov.KindVLAN, 0, vlan7); w.setPort(sriov.KindMAC, 1, "52:54:00:00:01:01") }
	return []scenario{
		{
			name: "a MAC for which a VF's driver is bound anew, its PF up", foreign: func(w *world) { w.takeAway(vf, "uio_pci_generic") },
			setup: func(w *world) { w.setLink(maker, 1500, true); w.setLink(vf, 1400, true) },
			draft: func(w *world) plan.Draft { return w.coverPorts(one()) },
		},
		{
			name: "a MAC that a VF's netdev does not have, its PF up", foreign: func(w *world) { w.takeAway(vf, "uio_pci_generic") },
			setup: func(w *world) { w.setPort(sriov.KindMAC, 0, vfMAC); w.setLink(maker, 1500, true) },
			draft: func(w *world) plan.Draft { return w.coverPorts(plan.Goal{keyOf(sriov.KindMAC, vf): vfMAC}) },
		},
		{
			// Its driver makes a MAC up each time that it is given none, and tells it.
			name: "a VF with a MAC that its driver refuses, its PF up", foreign: func(w *world) { w.takeAway(vf, "uio_pci_generic") },
			setup: func(w *world) {
				w.setLink(maker, 1500, true)
				w.inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL, Times: -1})
			},
			draft: func(w *world) plan.Draft {
				return w.coverPorts(plan.Goal{keyOf(sriov.KindMAC, vf): vfMAC, keyOf("driver", vf): dpdk.Bound("vfio-pci")})
			},
			fails: true,
		},
		{
			name: "a VF that gets its own MAC back with its driver, its PF up", foreign: func(w *world) { w.takeAway(vf, "uio_pci_generic") },
			setup: func(w *world) {
				w.setLink(maker, 1500, true)
				w.setPort(sriov.KindMAC, 0, vfMAC)
				w.takeAway(vf, "vfio-pci")
			},
			draft: func(w *world) plan.Draft {
				return w.coverPorts(plan.Goal{keyOf(sriov.KindMAC, vf): host.NoMAC, keyOf("driver", vf): dpdk.Bound("igbvf")})
			},
		},
		{
			name: "what a PF keeps for one VF", foreign: byHand,
			setup: before, draft: func(w *world) plan.Draft { return w.coverPorts(one()) },
		},
		{
			name: "what a PF keeps for one VF, with its driver", foreign: byHand,
			setup: before,
			draft: func(w *world) plan.Draft {
				goal := one()
				maps.Copy(goal, driverGoal(vf, "vfio-pci"))
				return w.coverPorts(goal)
			},
		},
		{
			name: "a rate of one VF", foreign: func(w *world) { w.setPort(sriov.KindRate, 0, "min=0 max=9") },
			setup: func(w *world) { w.linked(); w.setPort(sriov.KindRate, 0, "min=0 max=100") },
			draft: func(w *world) plan.Draft {
				return w.coverPorts(plan.Goal{keyOf(sriov.KindRate, vf): "min=0 max=200"})
			},
		},
		{
			name: "more VFs, and what their PF keeps for each", foreign: another,
			setup: before, draft: func(w *world) plan.Draft { return w.coverPorts(counted(w, 4)) },
		},
		{
			name: "VFs away, and all that was kept for them", foreign: another,
			setup: before, draft: func(w *world) plan.Draft { return w.coverPorts(counted(w, 0)) },
		},
		{
			name: "what a PF cannot keep for a VF", foreign: byHand,
			setup: before,
			draft: func(w *world) plan.Draft {
				goal := one()
				goal[keyOf(sriov.KindLinkState, vf)] = "disable"
				return w.coverPorts(goal)
			},
			fails: true,
		},
		{
			name: "VFs made anew, and one with a rate that its PF refuses", foreign: another,
			setup: before,
			draft: func(w *world) plan.Draft {
				goal := counted(w, 3)
				goal[keyOf(sriov.KindRate, sibling)] = "min=5 max=10"
				return w.coverPorts(goal)
			},
			fails: true,
		},
	}
}

// linked sets the PF up, now and whenever the host boots.
func (w *world) linked() {
	w.t.Helper()
	w.setLink(maker, 1500, true)
	if err := w.kernel.Edit(func(c *sim.Config) error {
		for _, d := range c.Devices {
			if d.Address == string(maker) {
				d.Net.Up = true
			}
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
}

// setPort is ip link set PF vf N.
func (w *world) setPort(kind drivers.Kind, n int, to drivers.State) {
	w.t.Helper()
	dev, err := host.NetdevOf(context.Background(), w.kernel, string(maker))
	if err != nil {
		w.t.Fatal(err)
	}
	w.foreign(host.Call{Op: host.Op(kind), Target: vf, Index: dev.Index, Number: n, Value: string(to)})
}

// coverPorts drafts the operation on what is asked of VFs, and, where they are
// made anew, on all that the first two have.
func (w *world) coverPorts(want plan.Goal) plan.Draft {
	w.t.Helper()
	keys := maps.Clone(want)
	for _, k := range []drivers.Kind{"driver", "mtu", "admin"} {
		keys[keyOf(k, vf)] = ""
	}
	if _, counts := want[keyOf(sriov.KindNumVFs, maker)]; counts {
		for _, t := range []drivers.Target{vf, sibling} {
			for _, k := range []drivers.Kind{"driver", "mtu", "admin", sriov.KindMAC, sriov.KindVLAN} {
				keys[keyOf(k, t)] = ""
			}
		}
	}
	d, err := plan.Cover(all.Specs(), plan.Function{Target: maker, Want: want, Observed: w.observe(keys)})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}
