package engine_test

import (
	"context"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/link"
)

// settingScenarios are operations on the kinds whose fresh value only the device
// knows: several of them at once, after the netdev was made anew, and where the
// device does not do as it is told.
func settingScenarios() []scenario {
	const rings = drivers.State("rx=1024 mini=0 jumbo=0 tx=256")
	asked := func(w *world) plan.Goal {
		features := stateOf(w, link.KindFeatures)
		return plan.Goal{
			keyOf(link.KindAltNames, port): "[lan0 lan1]",
			keyOf(link.KindChannels, port): "rx=0 tx=0 combined=2",
			keyOf(link.KindRings, port):    rings,
			keyOf(link.KindFeatures, port): link.WithFeatures(features, map[string]bool{"rx-gro": false, "tx-tcp-segmentation": false}),
			keyOf(link.KindAdmin, port):    link.Up,
		}
	}
	return []scenario{
		{
			name: "settings of a link", foreign: func(w *world) { w.setRings(port, "rx=4096 mini=0 jumbo=0 tx=4096") },
			draft: func(w *world) plan.Draft { return w.cover(port, asked(w), nil) },
		},
		{
			name: "settings of a link, changed and taken away", foreign: func(w *world) { w.setRings(port, "rx=4096 mini=0 jumbo=0 tx=4096") },
			setup: func(w *world) { w.setAltName(port, "old0"); w.setRings(port, "rx=512 mini=0 jumbo=0 tx=512") },
			draft: func(w *world) plan.Draft {
				return w.cover(port, plan.Goal{keyOf(link.KindAltNames, port): "[lan0]", keyOf(link.KindRings, port): rings}, nil)
			},
		},
		{
			name: "a bind of a link with settings", foreign: func(w *world) { w.takeAway(port, "uio_pci_generic") },
			setup: func(w *world) { w.setAltName(port, "lan0"); w.setRings(port, rings) },
			draft: func(w *world) plan.Draft {
				return w.cover(port, driverGoal(port, "vfio-pci"), plan.Goal{keyOf(link.KindAltNames, port): "[]", keyOf(link.KindRings, port): rings})
			},
		},
		{
			name: "back to the driver of the kernel, settings asked", foreign: func(w *world) { w.takeAway(port, "uio_pci_generic") },
			setup: func(w *world) { w.rebind(port, "igb", "vfio-pci") },
			draft: func(w *world) plan.Draft {
				want := plan.Goal{
					keyOf(dpdk.KindDriver, port): dpdk.Bound("igb"), keyOf(link.KindRings, port): rings,
					keyOf(link.KindChannels, port): "rx=0 tx=0 combined=2", keyOf(link.KindAltNames, port): "[lan0]",
				}
				return w.cover(port, want, nil)
			},
		},
		{
			name: "rings that the driver rounds", foreign: func(w *world) { w.setRings(port, "rx=4096 mini=0 jumbo=0 tx=256") },
			draft: func(w *world) plan.Draft {
				return w.cover(port, plan.Goal{keyOf(link.KindRings, port): "rx=1001 mini=0 jumbo=0 tx=256"}, nil)
			},
			fails: true,
		},
	}
}

// stateOf is the state of a kind of port now.
func stateOf(w *world, kind drivers.Kind) drivers.State {
	k := keyOf(kind, port)
	return w.observe(plan.Goal{k: ""})[k].State
}

func (w *world) indexOf(t drivers.Target) int {
	w.t.Helper()
	dev, err := host.NetdevOf(context.Background(), w.kernel, string(t))
	if err != nil {
		w.t.Fatal(err)
	}
	return dev.Index
}

func (w *world) setRings(t drivers.Target, to drivers.State) {
	w.t.Helper()
	w.foreign(host.Call{Op: host.OpRings, Target: t, Index: w.indexOf(t), Value: string(to)})
}

func (w *world) setAltName(t drivers.Target, name string) {
	w.t.Helper()
	w.foreign(host.Call{Op: host.OpAltName, Target: t, Index: w.indexOf(t), Number: 1, Value: name})
}
