package engine_test

import (
	"context"
	"slices"
	"strconv"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/sriov"
)

// latePF is the function of the simulated node that tells the addresses of its VFs
// only while it has some.
const latePF drivers.Target = "0000:03:00.0"

func lateVFs() []drivers.Target {
	return []drivers.Target{"0000:03:10.0", "0000:03:10.2", "0000:03:10.4"}
}

// madeLate is what a journal would say of these.
func madeLate(t drivers.Target) (drivers.Target, bool) { return latePF, slices.Contains(lateVFs(), t) }

func (w *world) setLate(file string, n int) {
	w.foreign(host.Call{Op: host.OpSysfs, Target: latePF, Path: host.Attr(string(latePF), file), Value: strconv.Itoa(n)})
}

func (w *world) coverLate(want plan.Goal) plan.Draft {
	w.t.Helper()
	keys := plan.Goal{keyOf(sriov.KindNumVFs, latePF): ""}
	for k := range want {
		keys[k] = ""
		if k.Target != latePF {
			keys[keyOf("mtu", k.Target)], keys[keyOf("admin", k.Target)] = "", ""
		}
	}
	d, err := plan.Cover(all.Specs(), plan.Function{Target: latePF, Want: want, Observed: w.observe(keys)})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// lateScenarios are operations on a function whose VFs have no known addresses
// before they are made: made, configured, and taken away again.
func lateScenarios() []scenario {
	foreign := func(w *world) { w.setLate("sriov_numvfs", 0); w.setLate("sriov_numvfs", 3) }
	numvfs := keyOf(sriov.KindNumVFs, latePF)
	return []scenario{
		{
			name: "VFs whose addresses are not known yet", foreign: foreign,
			draft: func(w *world) plan.Draft { return w.coverLate(plan.Goal{numvfs: sriov.VFs{Count: 2}.State()}) },
		},
		{
			name: "VFs that were left without drivers when they were made", foreign: func(w *world) {
				if _, err := host.DriverOf(context.Background(), w.kernel, string(lateVFs()[0])); err != nil {
					w.setLate("sriov_numvfs", 3) // after a reboot
				}
				w.takeAway(lateVFs()[0], "uio_pci_generic")
			},
			setup: func(w *world) { w.setLate("sriov_drivers_autoprobe", 0); w.setLate("sriov_numvfs", 2) },
			draft: func(w *world) plan.Draft {
				if _, err := host.DriverOf(context.Background(), w.kernel, string(lateVFs()[0])); err != nil {
					return w.coverLate(plan.Goal{numvfs: sriov.VFs{Count: 2}.State()}) // after a reboot it begins again
				}
				return w.coverLate(plan.Goal{
					numvfs:                               sriov.VFs{Autoprobe: true, Addresses: lateVFs()[:2]}.State(),
					keyOf(dpdk.KindDriver, lateVFs()[0]): dpdk.Bound("vfio-pci"), keyOf(dpdk.KindDriver, lateVFs()[1]): dpdk.Bound("igbvf"),
				})
			},
		},
		{
			name: "VFs away whose addresses go with them", foreign: foreign,
			setup: func(w *world) { w.setLate("sriov_numvfs", 2); w.takeAway(lateVFs()[0], "vfio-pci") },
			draft: func(w *world) plan.Draft {
				return w.coverLate(plan.Goal{
					numvfs:                               sriov.VFs{Autoprobe: true}.State(),
					keyOf(dpdk.KindDriver, lateVFs()[0]): drivers.Hidden, keyOf(dpdk.KindDriver, lateVFs()[1]): drivers.Hidden,
				})
			},
		},
	}
}
