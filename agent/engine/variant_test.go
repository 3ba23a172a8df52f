package engine_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"eniagent/agent/engine"
	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/dpdk"
	"eniagent/journal"
	"eniagent/recovery"
)

// TestBrokenVariantsAreCaught breaks one thing at a time, and wants the crash
// tests to see it.
func TestBrokenVariantsAreCaught(t *testing.T) {
	loses := func(label string) func(*world) { return func(w *world) { w.loses = label } }
	for _, v := range []struct {
		name     string
		scenario string
		fate     fate
		sees     string // the invariant
		breaks   func(*world)
	}{
		{"act before the intent is durable", "bind", fate{}, "I1", loses("begin")},
		{"an attempt is not durable", "a bind that the driver refuses", fate{}, "I8", loses("reverting")},
		{"a completion is lost each time", "bind", fate{}, "I2", loses("finish")},
		{"a quarantine is not kept", "bind", fate{foreign: true}, "I4", loses("quarantine")},
		{"done without having looked", "a bind that says it worked and did not", fate{}, "I2", func(w *world) {
			w.wrong = func(o *engine.Options) {
				o.Drivers.Drivers["driver"] = &credulous{Driver: o.Drivers.Drivers["driver"]}
			}
		}},
		{"another boot is taken for the same", "no-IOMMU", fate{reboot: true}, "I5", func(w *world) {
			w.lie = func(e *recovery.Env) { e.BootID = w.durableBoot(e.BootID) }
		}},
		{"a revert goes forward again", "a bind that the driver refuses", fate{}, "I9", func(w *world) {
			w.forward()
		}},
		{"done before it is durable", "a pool", fate{reboot: true}, "I17", func(w *world) {
			w.wrong = func(o *engine.Options) {
				o.Drivers.Drivers["pool"] = struct{ drivers.Driver }{o.Drivers.Drivers["pool"]} // which syncs nothing
			}
		}},
		{"a debt is forgotten", "a pool", fate{}, "I18", func(w *world) {
			w.wrong = func(o *engine.Options) { owesNothing(o) }
		}},
		{"a debt is a commit of its own", "a pool", fate{}, "I18", func(w *world) {
			w.wrong = func(o *engine.Options) {
				owesNothing(o)
				o.Logger = &owesLater{o.Journal}
			}
		}},
		{"what was not written is owed", "a pool that the file system does not take", fate{}, "I18", func(w *world) {
			w.wrong = func(o *engine.Options) {
				owesNothing(o)
				o.Logger = &owesLater{o.Journal}
			}
		}},
		{"what a write moves besides is another hand's", "VFs, and the channels that they move", fate{}, "I16", func(w *world) {
			w.wrong = func(o *engine.Options) { movesNothing(o.Drivers.Specs) }
			w.lie = func(e *recovery.Env) { movesNothing(e.Specs) }
		}},
		{"what another tool made is taken for half-way", "bind", fate{foreign: true}, "I4", explainsAll},
	} {
		t.Run(v.name, func(t *testing.T) {
			c := newCampaign(t)
			c.breaks, c.seconds, c.thirds = v.breaks, *seconds, *thirds // also with -short
			for _, s := range scenarios() {
				if s.name == v.scenario {
					c.crash(s, v.fate)
				}
			}
			for _, found := range c.violations {
				if strings.Contains(found, v.sees) {
					return
				}
			}
			t.Errorf("not noticed by %s in %d crashes; found was %q", v.sees, c.points[0], c.violations)
		})
	}
}

// movesNothing knows of no write that changes more than its own key.
func movesNothing(specs drivers.Specs) {
	for i := range specs {
		specs[i].Moves = nil
	}
}

// owesNothing knows of no debt.
func owesNothing(o *engine.Options) {
	for i := range o.Drivers.Specs {
		o.Drivers.Specs[i].Owes = ""
	}
}

// owesLater makes it owed once an operation is closed, as the log tells.
type owesLater struct{ journal *journal.Journal }

func (l *owesLater) Log(fields ...any) error {
	if !slices.Contains(fields, any("operation done")) && !slices.Contains(fields, any("operation reverted")) {
		return nil
	}
	if err := l.journal.Flush(context.Background()); err != nil {
		return err
	}
	return l.journal.Owe(context.Background(), deviceplugin.Restart, "later", "")
}

// explainsAll takes what another tool made of a function for a state on the way.
func explainsAll(w *world) {
	change := func(specs drivers.Specs) {
		for i := range specs {
			if specs[i].Kind != dpdk.KindDriver {
				continue
			}
			route := specs[i].Route
			specs[i].Route = func(from, to drivers.State) []drivers.State {
				return append([]drivers.State{dpdk.Bound("uio_pci_generic")}, route(from, to)...)
			}
		}
	}
	w.wrong = func(o *engine.Options) { change(o.Drivers.Specs) }
	w.lie = func(e *recovery.Env) { change(e.Specs) }
}

// durableBoot is the boot of an open operation, or else the one given.
func (w *world) durableBoot(id string) string {
	for _, op := range w.durable() {
		return op.BootID
	}
	return id
}

// forward turns the reverting operations of the store into ones that go on.
func (w *world) forward() {
	j, err := journal.OpenMemory(context.Background(), w.store.Clone(), journal.Options{BootID: "x"})
	if err != nil {
		w.t.Fatal(err)
	}
	defer j.Abandon()
	fresh := journal.NewMemory()
	f, err := journal.OpenMemory(context.Background(), fresh, journal.Options{BootID: w.durableBoot("x"), MachineID: "m"})
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Abandon()
	again := false
	for _, op := range j.Operations() {
		again = again || op.State == journal.Reverting
		if _, err := f.Begin(context.Background(), journal.Operation{Reason: op.Reason, Changes: op.Changes, Identity: op.Identity}, nil); err != nil {
			w.t.Fatal(err)
		}
	}
	if again {
		w.store.Become(fresh)
	}
}
