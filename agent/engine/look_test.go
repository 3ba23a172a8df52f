package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

// counted is a driver that counts how often it is asked.
type counted struct {
	drivers.Driver
	looks *int
}

func (c counted) Observe(ctx context.Context, t drivers.Target) drivers.Observation {
	*c.looks++
	return c.Driver.Observe(ctx, t)
}

// onVFIO drafts so many VFs, all on vfio-pci.
func (w *world) onVFIO(n int) plan.Draft {
	goal := w.vfGoal(n)
	for _, t := range w.vfs(n) {
		goal[keyOf(dpdk.KindDriver, t)] = dpdk.Bound("vfio-pci")
	}
	return w.coverVFs(goal)
}

// TestWhatIsReadGrowsWithTheOperation, and not with its square: three times the
// VFs are three times the reads.
func TestWhatIsReadGrowsWithTheOperation(t *testing.T) {
	reads := func(vfs int) (looks int) {
		w := newWorld(t)
		w.setVFs(0)
		draft := w.onVFIO(vfs)
		j, e := w.open()
		defer j.Abandon()
		for kind, d := range e.Drivers.Drivers {
			e.Drivers.Drivers[kind] = counted{d, &looks}
		}
		if r := e.Run(t.Context(), draft, journal.Reason{Source: "test"}); r.Outcome != engine.Done {
			t.Fatalf("%d VFs ended %s: %v", vfs, r.Outcome, r.Err)
		}
		return looks
	}
	two, six := reads(2), reads(6)
	t.Logf("%d reads for 2 VFs, %d for 6", two, six)
	if six > 4*two {
		t.Errorf("%d reads for 2 VFs, and %d for 6", two, six)
	}
}

// TestAnotherHandBehindTheStepsIsSeen: it changes a VF whose steps are done,
// while those of the next are made.
func TestAnotherHandBehindTheStepsIsSeen(t *testing.T) {
	w := newWorld(t)
	w.setVFs(0)
	draft := w.onVFIO(2)
	j, e := w.open()
	defer j.Abandon()
	first, second := w.vfs(2)[0], w.vfs(2)[1]
	w.kernel.Hook = func(p sim.Point) {
		if p.Label != "bind" || p.When != sim.After || !strings.Contains(p.Call.Value, string(second)) {
			return
		}
		w.kernel.Hook = nil
		for path, value := range map[string]string{"driver_override": "\n", "driver/unbind": string(first)} {
			if err := w.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: first, Path: host.Attr(string(first), path), Value: value}); err != nil {
				t.Error(err)
			}
		}
	}
	r := e.Run(t.Context(), draft, journal.Reason{Source: "test"})
	if r.Outcome == engine.Done && !w.at(draft.After) {
		t.Errorf("it ended %s (%v), and the host is not as asked", r.Outcome, errors.Unwrap(r.Err))
	}
	if w.kernel.Hook != nil {
		t.Error("no other hand was there")
	}
}
