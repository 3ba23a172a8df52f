package engine_test

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"syscall"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/link"
	"eniagent/drivers/sriov"
)

// maker is the function of the simulated node that has two VFs and can have
// seven.
const maker drivers.Target = "0000:01:00.0"

// vfScenarios are operations on all VFs of a function at once.
func vfScenarios() []scenario {
	foreign := func(w *world) { w.setVFs(0); w.setVFs(5) }
	mixed := func(w *world) plan.Goal {
		goal := w.vfGoal(4)
		for i, t := range w.vfs(4) {
			goal[keyOf(dpdk.KindDriver, t)] = dpdk.Bound([]string{"igbvf", "vfio-pci"}[i%2])
		}
		return goal
	}
	return []scenario{
		{
			name: "VFs where there were none", foreign: foreign,
			setup: func(w *world) { w.setVFs(0) },
			draft: func(w *world) plan.Draft { return w.coverVFs(mixed(w)) },
		},
		{
			name: "more VFs than there were, with a link of their own", foreign: foreign,
			setup: func(w *world) { w.setLink(vf, 1400, true) },
			draft: func(w *world) plan.Draft { return w.coverVFs(mixed(w)) },
		},
		{
			name: "fewer VFs, and the rest as it was", foreign: foreign,
			setup: func(w *world) {
				w.setVFs(0)
				w.setVFs(3)
				w.takeAway(vf, "vfio-pci")
				w.setLink("0000:01:10.2", 1400, true)
			},
			draft: func(w *world) plan.Draft { return w.coverVFs(w.vfGoal(2)) },
		},
		{
			name: "VFs away", foreign: foreign,
			setup: func(w *world) { w.takeAway(vf, "vfio-pci") },
			draft: func(w *world) plan.Draft { return w.coverVFs(w.vfGoal(0)) },
		},
		{
			name: "VFs that the kernel does not make", foreign: foreign,
			setup: func(w *world) {
				w.inject(sim.Fault{Label: "numvfs", Nth: 2, Errno: syscall.ENOMEM})
				w.inject(sim.Fault{Label: "numvfs", Nth: 4, Errno: syscall.ENOMEM})
			},
			draft: func(w *world) plan.Draft { return w.coverVFs(mixed(w)) },
		},
		{
			name: "VFs, and the channels that they move", foreign: foreign,
			setup: func(w *world) { w.setChannels("rx=0 tx=0 combined=1") },
			draft: func(w *world) plan.Draft {
				return w.coverVFs(withChannels(w.vfGoal(3), "rx=0 tx=0 combined=1"))
			},
		},
		{
			name: "channels that are to be had only without the VFs that go", foreign: foreign,
			draft: func(w *world) plan.Draft {
				return w.coverVFs(withChannels(w.vfGoal(0), "rx=0 tx=0 combined=4"))
			},
		},
		{
			name: "a VF that its driver refuses", foreign: foreign,
			setup: func(w *world) { w.inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL, Times: -1}) },
			draft: func(w *world) plan.Draft { return w.coverVFs(mixed(w)) },
			fails: true,
		},
	}
}

func withChannels(goal plan.Goal, to drivers.State) plan.Goal {
	goal[keyOf(link.KindChannels, maker)] = to
	return goal
}

func (w *world) setChannels(to drivers.State) {
	w.t.Helper()
	dev, err := host.NetdevOf(context.Background(), w.kernel, string(maker))
	if err != nil {
		w.t.Fatal(err)
	}
	w.foreign(host.Call{Op: host.OpChannels, Target: maker, Index: dev.Index, Value: string(to)})
}

func (w *world) setVFs(n int) {
	w.foreign(host.Call{Op: host.OpSysfs, Target: maker, Path: host.Attr(string(maker), "sriov_numvfs"), Value: strconv.Itoa(n)})
}

func (w *world) vfs(n int) []drivers.Target {
	w.t.Helper()
	all, err := sriov.Addresses(context.Background(), w.kernel, maker, n)
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func (w *world) vfGoal(n int) plan.Goal {
	return plan.Goal{keyOf(sriov.KindNumVFs, maker): sriov.VFs{Autoprobe: true, Addresses: w.vfs(n)}.State()}
}

// coverVFs drafts the operation on the function and all its VFs.
func (w *world) coverVFs(want plan.Goal) plan.Draft {
	w.t.Helper()
	keys := maps.Clone(want)
	for _, t := range slices.Concat([]drivers.Target{maker}, w.vfs(7)) {
		for _, k := range []drivers.Kind{"driver", "mtu", "admin"} {
			keys[keyOf(k, t)] = ""
		}
	}
	d, err := plan.Cover(all.Specs(), plan.Function{Target: maker, Want: want, Observed: w.observe(keys)})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}
