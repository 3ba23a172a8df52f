package engine_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/journal"
)

// poor is a driver that lacks something, so often.
type poor struct {
	drivers.Driver
	err   error
	times int
}

func (p *poor) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	if p.times--; p.times >= 0 {
		return &drivers.Error{Key: keyOf("driver", t), Do: "bind", Err: p.err}
	}
	return p.Driver.Apply(ctx, t, to)
}

// starve lets a bind lack something ten times, and returns how often it was left
// open, and what became of it.
func starve(t *testing.T, lack error) (kept int, op journal.Operation, failures []journal.Failure) {
	t.Helper()
	w := newWorld(t)
	draft := w.bindDraft()
	j, e := w.open()
	defer j.Abandon()
	e.Drivers.Drivers["driver"] = &poor{Driver: e.Drivers.Drivers["driver"], err: lack, times: 10}
	r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
	for ; r.Outcome == engine.Kept && kept < 20; kept++ {
		_, r = e.Resume(context.Background(), w.env(draft.After), r.Operation)
	}
	return kept, mustGet(t, j, r.Operation), j.Failures()
}

// TestTheAgentsOwnMeansAreNoFailure: what the agent lacks for itself is waited
// for, however long, and nothing is counted against the goal or undone.
func TestTheAgentsOwnMeansAreNoFailure(t *testing.T) {
	for name, lack := range map[string]error{
		"no process":         fmt.Errorf("start writer child: %w: %w", drivers.ErrStarved, syscall.EAGAIN),
		"no memory for one":  fmt.Errorf("start writer child: %w: %w", drivers.ErrStarved, syscall.ENOMEM),
		"no inode":           fmt.Errorf("open fence: %w: %s", drivers.ErrStarved, syscall.ENOSPC.Error()),
		"no descriptor":      fmt.Errorf("open: %w", syscall.EMFILE),
		"none in the system": fmt.Errorf("open: %w", syscall.ENFILE),
	} {
		kept, op, failures := starve(t, lack)
		if kept != 10 || op.State != journal.Done || op.Failed != 0 || len(failures) > 0 {
			t.Errorf("%s: left open %d times, then %s (%s), %d failed tries, failures %+v", name, kept, op.State, op.Outcome, op.Failed, failures)
		}
	}
	// The broken variant: an errno that a device may answer with.
	for _, answer := range []error{syscall.ENOSPC, syscall.ENOMEM, syscall.EAGAIN} {
		if kept, op, failures := starve(t, answer); kept != 0 || op.State != journal.Quarantined && len(failures) == 0 {
			t.Errorf("%v as the answer of a device: left open %d times, then %s (%s), failures %+v", answer, kept, op.State, op.Outcome, failures)
		}
	}
}

// TestWhatCannotBeAskedIsNotRefused: a rule or a precheck that lacks something
// has not spoken.
func TestWhatCannotBeAskedIsNotRefused(t *testing.T) {
	w := newWorld(t)
	j, e := w.open()
	defer j.Abandon()
	e.Guard = unaskable{}
	r := e.Run(context.Background(), w.bindDraft(), journal.Reason{Source: "test"})
	if r.Outcome != engine.Blocked || !errors.Is(r.Err, syscall.EMFILE) || r.Operation != 0 {
		t.Errorf("ended %s (%v)", r.Outcome, r.Err)
	}
}

// unaskable is a guard that cannot read what it must know.
type unaskable struct{}

func (unaskable) MayDrive(context.Context, plan.Observed, plan.Goal) error {
	return fmt.Errorf("%w: routes: %w", drivers.ErrRefused, syscall.EMFILE)
}
func (unaskable) MayStep(context.Context, drivers.Step) error { return nil }
