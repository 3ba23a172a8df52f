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
		features, err := link.WithFeatures(stateOf(w, link.KindFeatures), map[string]bool{"rx-gro": false, "tx-tcp-segmentation": false})
		if err != nil {
			panic(err)
		}
		return plan.Goal{
			keyOf(link.KindAltNames, port): "[lan0 lan1]",
			keyOf(link.KindChannels, port): "rx=0 tx=0 combined=2",
			keyOf(link.KindRings, port):    rings,
			keyOf(link.KindFeatures, port): features,
			keyOf(link.KindAdmin, port):    link.Up,
		}
	}
	return []scenario{
		{
			name: "settings of a link", foreign: func(w *world) { w.setRings("rx=4096 mini=0 jumbo=0 tx=4096") },
			draft: func(w *world) plan.Draft { return w.cover(port, asked(w), nil) },
		},
		{
			name: "settings of a link, changed and taken away", foreign: func(w *world) { w.setRings("rx=4096 mini=0 jumbo=0 tx=4096") },
			setup: func(w *world) { w.setAltName("old0"); w.setRings("rx=512 mini=0 jumbo=0 tx=512") },
			draft: func(w *world) plan.Draft {
				return w.cover(port, plan.Goal{keyOf(link.KindAltNames, port): "[lan0]", keyOf(link.KindRings, port): rings}, nil)
			},
		},
		{
			name: "a bind of a link with settings", foreign: func(w *world) { w.takeAway(port, "uio_pci_generic") },
			setup: func(w *world) { w.setAltName("lan0"); w.setRings(rings) },
			draft: func(w *world) plan.Draft {
				return w.cover(port, driverGoal(port, "vfio-pci"), plan.Goal{keyOf(link.KindAltNames, port): "[]", keyOf(link.KindRings, port): rings})
			},
		},
		{
			name: "back to the driver of the kernel, settings asked", foreign: func(w *world) { w.takeAway(port, "uio_pci_generic") },
			setup: func(w *world) { w.takeAway(port, "vfio-pci") },
			draft: func(w *world) plan.Draft {
				want := plan.Goal{
					keyOf(dpdk.KindDriver, port): dpdk.Bound("igb"), keyOf(link.KindRings, port): rings,
					keyOf(link.KindChannels, port): "rx=0 tx=0 combined=2", keyOf(link.KindAltNames, port): "[lan0]",
				}
				return w.cover(port, want, nil)
			},
		},
		{
			name: "rings that the driver rounds", foreign: func(w *world) { w.setRings("rx=4096 mini=0 jumbo=0 tx=256") },
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

// set writes a setting of port as another tool would.
func (w *world) set(c host.Call) {
	w.t.Helper()
	dev, err := host.NetdevOf(context.Background(), w.kernel, string(port))
	if err != nil {
		w.t.Fatal(err)
	}
	c.Target, c.Index = port, dev.Index
	w.foreign(c)
}

func (w *world) setRings(to drivers.State) {
	w.set(host.Call{Op: host.OpRings, Value: string(to)})
}

func (w *world) setAltName(name string) {
	w.set(host.Call{Op: host.OpAltName, Number: 1, Value: name})
}
