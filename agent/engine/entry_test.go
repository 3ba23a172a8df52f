package engine_test

import (
	"context"
	"fmt"
	"regexp"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
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
