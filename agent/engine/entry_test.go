package engine_test

import (
	"context"
	"fmt"
	"regexp"
	"syscall"
	"testing"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// kindEntry is an entry of a file on the world's disk: the persistent kind of
// these tests, registered here and nowhere else. Its writes are atomic, as a
// rename is.
const kindEntry drivers.Kind = "entry"

var entryState = regexp.MustCompile(`^(absent|[a-z]{1,8})$`)

func entrySpec() drivers.Spec {
	return drivers.Spec{
		Kind: kindEntry, Class: drivers.Persistent, After: []drivers.Kind{dpdk.KindDriver},
		Legal: func(t drivers.Target, to drivers.State) error {
			if _, _, ok := t.FileEntry(); !ok || !entryState.MatchString(string(to)) {
				return fmt.Errorf("entry %q of %q: %w", to, t, drivers.ErrIllegal)
			}
			return nil
		},
	}
}

type entry struct{ w *world }

func (e entry) Observe(_ context.Context, t drivers.Target) drivers.Observation {
	if s, ok := e.w.files[t]; ok {
		return drivers.Seen(s)
	}
	return drivers.Seen("absent")
}

func (e entry) Apply(_ context.Context, t drivers.Target, to drivers.State) error {
	e.w.checkIntent("entry", t)
	e.w.pass("entry:before")
	if to == "absent" {
		delete(e.w.files, t)
	} else {
		e.w.files[t] = to
	}
	e.w.pass("entry:after")
	return nil
}

const (
	poolA drivers.Target = "file//etc/pools#a/a"
	poolB drivers.Target = "file//etc/pools#a/b"
)

// entryScenarios are operations with persistent keys: alone, several, and in
// one operation with the function that they depend on.
func entryScenarios() []scenario {
	foreign := func(w *world) { w.files[poolA] = "theirs" }
	return []scenario{
		{name: "an entry of a file", foreign: foreign, draft: func(*world) plan.Draft {
			return plan.Draft{Before: plan.Goal{keyOf(kindEntry, poolA): "absent"}, After: plan.Goal{keyOf(kindEntry, poolA): "ours"}}
		}},
		{
			name: "two entries, one of them withdrawn", foreign: foreign,
			setup: func(w *world) { w.files[poolB] = "old" },
			draft: func(*world) plan.Draft {
				return plan.Draft{
					Before: plan.Goal{keyOf(kindEntry, poolA): "absent", keyOf(kindEntry, poolB): "old"},
					After:  plan.Goal{keyOf(kindEntry, poolA): "ours", keyOf(kindEntry, poolB): "absent"},
				}
			},
		},
		{
			name: "a function and the entry that publishes it", foreign: foreign,
			draft: func(w *world) plan.Draft {
				d := w.cover(port, driverGoal(port, "vfio-pci"), nil)
				d.Before[keyOf(kindEntry, poolA)], d.After[keyOf(kindEntry, poolA)] = "absent", "ours"
				return d
			},
		},
	}
}

// poolFile is the device plugin's configuration, with a pool of somebody else.
const (
	poolFile  = "/etc/pcidp/config.json"
	theirPool = `{ "resourceList": [
	{ "resourceName": "theirs", "selectors": { "vendors": ["8086"] } }
] }
`
)

func poolTarget(name string) drivers.Target {
	return drivers.Target("file/" + poolFile + "#intel.com/" + name)
}

func poolKey(name string) drivers.Key { return keyOf(deviceplugin.Kind, poolTarget(name)) }

func poolOf(t testing.TB, addresses ...string) drivers.State {
	t.Helper()
	state, err := deviceplugin.Pool{Addresses: addresses, Driver: "vfio-pci"}.State()
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// writePools is another program that writes the file: theirs, and the pool
// "ours" with these functions.
func (w *world) writePools(addresses ...string) {
	w.t.Helper()
	d, err := deviceplugin.Parse(theirPool)
	if err != nil {
		w.t.Fatal(err)
	}
	to := deviceplugin.Absent
	if len(addresses) > 0 {
		to = poolOf(w.t, addresses...)
	}
	text, err := d.With("intel.com/ours", to)
	if err == nil {
		err = w.kernel.WriteFile(poolFile, text)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// poolScenarios are operations on the device plugin's configuration.
func poolScenarios() []scenario {
	foreign := func(w *world) { w.writePools("0000:00:1f.6") }
	publish := func(w *world) plan.Draft {
		return plan.Draft{Before: plan.Goal{poolKey("ours"): "absent"}, After: plan.Goal{poolKey("ours"): poolOf(w.t, string(vf))}}
	}
	full := func(w *world) {
		w.writePools()
		w.inject(sim.Fault{Label: "replace", Errno: syscall.EFBIG, Times: -1})
	}
	return []scenario{
		{name: "a pool", foreign: foreign, setup: func(w *world) { w.writePools() }, draft: publish},
		{name: "a pool in a file that is not there", foreign: foreign, draft: publish},
		{
			name: "two pools, one of them withdrawn", foreign: foreign,
			setup: func(w *world) { w.writePools(string(port)) },
			draft: func(w *world) plan.Draft {
				return plan.Draft{
					Before: plan.Goal{poolKey("ours"): poolOf(w.t, string(port)), poolKey("more"): "absent"},
					After:  plan.Goal{poolKey("ours"): "absent", poolKey("more"): poolOf(w.t, string(vf))},
				}
			},
		},
		{
			name: "a function and the pool that publishes it", foreign: foreign, setup: func(w *world) { w.writePools() },
			draft: func(w *world) plan.Draft {
				d := w.cover(port, driverGoal(port, "vfio-pci"), nil)
				d.Before[poolKey("ours")], d.After[poolKey("ours")] = "absent", poolOf(w.t, string(port))
				return d
			},
		},
		{name: "a pool that the file system does not take", foreign: foreign, setup: full, draft: publish, fails: true},
	}
}

// takeAway gives a function to another driver, as another tool would.
func (w *world) takeAway(t drivers.Target, driver string) {
	w.t.Helper()
	address := string(t)
	write := func(path, value string) error {
		return w.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: t, Path: path, Value: value})
	}
	now, err := host.DriverOf(context.Background(), w.kernel, address)
	if err == nil {
		err = write(host.Attr(address, "driver_override"), driver+"\n")
	}
	if err == nil && now != "" {
		err = write(host.PCIDrivers+now+"/unbind", address)
	}
	if err == nil {
		err = write(host.PCIDrivers+driver+"/bind", address)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}
