package engine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
	"eniagent/recovery"
)

// An ending is how one life of an agent ends that works on an operation: it
// returns the world as the next finds it.
type ending func(w *world, wanted plan.Goal, id uint64) *world

// stopped is asked to stop, and ends between two steps.
func stopped(w *world, wanted plan.Goal, id uint64) *world {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("asked to stop"))
	j, e := w.open()
	e.Resume(ctx, w.env(wanted), id)
	if err := j.Close(); err != nil {
		w.t.Fatal(err)
	}
	return w
}

// killedAt is killed at the first boundary whose label has all the words.
func killedAt(words ...string) ending {
	return func(w *world, wanted plan.Goal, id uint64) *world {
		var at *world
		w.boundary = func(label string) {
			missing := func(word string) bool { return !strings.Contains(label, word) }
			if at == nil && !slices.ContainsFunc(words, missing) {
				at = w.copyAt()
			}
		}
		j, e := w.open()
		e.Resume(context.Background(), w.env(wanted), id)
		w.boundary = nil
		j.Abandon()
		if at == nil {
			w.t.Fatalf("no boundary has %q", words)
		}
		return at
	}
}

// killed is killed before it has done anything.
func killed(w *world, wanted plan.Goal, id uint64) *world {
	return killedAt("journal attempt:after")(w, wanted, id)
}

// killedLater is killed after one step.
func killedLater(w *world, wanted plan.Goal, id uint64) *world {
	return killedAt("host after")(w, wanted, id)
}

// failed ends as stopped does, and takes that for a failure: the broken variant.
func failed(w *world, _ plan.Goal, id uint64) *world {
	j, _ := w.open()
	_, err := j.Attempt(context.Background(), id)
	if err == nil {
		err = j.Ended(id, true, "asked to stop")
	}
	if err = errors.Join(err, j.Close()); err != nil {
		w.t.Fatal(err)
	}
	return w
}

// ended is what becomes of a bind during which agents end so. reverting has them
// end on its way back.
func ended(t *testing.T, reverting bool, ends []ending) (recovery.Judgement, journal.Operation) {
	t.Helper()
	w := newWorld(t)
	draft := w.bindDraft()
	j, e := w.open()
	op := w.begin(j, draft)
	if reverting {
		w.inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL})
		w.inject(sim.Fault{Label: "bind", Path: "igb", Errno: syscall.EAGAIN})
		e.Sleep = func(context.Context, time.Duration) error { return errors.New("asked to stop") }
		e.Resume(context.Background(), w.env(draft.After), op.ID)
		if op, _ = j.Get(op.ID); op.State != journal.Reverting {
			t.Fatalf("it is %s", op.State)
		}
	} else if err := j.Ended(op.ID, false, "asked to stop"); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, end := range ends {
		w = end(w, draft.After, op.ID)
	}
	j, e = w.open()
	defer j.Abandon()
	dry := recovery.Judge(context.Background(), w.env(draft.After), e.Observer(), mustGet(t, j, op.ID))
	judged, _ := e.Resume(context.Background(), w.env(draft.After), op.ID)
	if dry.Decision != judged.Decision || dry.Why != judged.Why {
		t.Errorf("a dry run says %s (%s), recovery %s (%s)", dry.Decision, dry.Why, judged.Decision, judged.Why)
	}
	return judged, mustGet(t, j, op.ID)
}

func mustGet(t *testing.T, j *journal.Journal, id uint64) journal.Operation {
	t.Helper()
	op, ok := j.Get(id)
	if !ok {
		t.Fatalf("no operation %d", id)
	}
	return op
}

// TestAnInterruptionIsNoTry: however often an agent is stopped or killed while it
// works on an operation, that is not counted as a failure of its goal. Only so
// many crashes in a row that leave the host as they found it end it: it may be
// the goal that takes the agent down.
func TestAnInterruptionIsNoTry(t *testing.T) {
	times := func(n int, end ending) []ending { return slices.Repeat([]ending{end}, n) }
	for _, tc := range []struct {
		name    string
		ends    []ending
		crashed bool // it is given up for the crashes
		steps   bool // steps are made meanwhile: the way back has only one
	}{
		{name: "stopped", ends: times(20, stopped)},
		{name: "killed before a write", ends: times(recovery.MaxCrashes-1, killed)},
		{name: "killed before a write, again and again", ends: times(recovery.MaxCrashes, killed), crashed: true},
		{name: "killed after each write", ends: times(2, killedLater), steps: true},
		{name: "killed, but getting on", ends: slices.Concat(times(recovery.MaxCrashes-1, killed), times(1, killedLater), times(recovery.MaxCrashes-1, killed)), steps: true},
		{name: "killed, got on once", ends: slices.Concat(times(recovery.MaxCrashes-1, killed), times(1, killedLater), times(recovery.MaxCrashes, killed)), crashed: true, steps: true},
		{name: "killed and stopped", ends: slices.Concat(times(2, killed), times(6, stopped), times(2, killed))},
	} {
		for _, reverting := range []bool{false, true} {
			if reverting && tc.steps {
				continue
			}
			name := tc.name
			want, gone := journal.Done, journal.Reverted
			if reverting {
				name += ", reverting"
				want, gone = journal.Reverted, journal.Quarantined
			}
			if tc.crashed {
				want = gone
			}
			t.Run(name, func(t *testing.T) {
				j, op := ended(t, reverting, tc.ends)
				if op.State != want || strings.Contains(j.Why, "in 5 tries that a crash") != tc.crashed {
					t.Errorf("decided %s (%s), ended %s: %s; want %s", j.Decision, j.Why, op.State, op.Outcome, want)
				}
			})
		}
	}
	t.Run("the broken variant is noticed", func(t *testing.T) {
		if j, op := ended(t, false, times(3, failed)); op.State != journal.Reverted {
			t.Errorf("stops that are failures: decided %s (%s), ended %s", j.Decision, j.Why, op.State)
		}
	})
}

// panics is a driver whose writes panic.
type panics struct{ drivers.Driver }

func (panics) Apply(context.Context, drivers.Target, drivers.State) error { panic("in a driver") }

// TestAPanicIsAFailure of the goal, though the agent ends with it: three of them
// have it given up.
func TestAPanicIsAFailure(t *testing.T) {
	w := newWorld(t)
	draft := w.bindDraft()
	w.wrong = func(o *engine.Options) { o.Drivers.Drivers["driver"] = panics{o.Drivers.Drivers["driver"]} }
	j, e := w.open()
	op := w.begin(j, draft)
	if err := j.Ended(op.ID, false, "asked to stop"); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		func() {
			defer func() {
				if p := recover(); p != "in a driver" {
					t.Errorf("the panic is %v", p)
				}
			}()
			e.Resume(context.Background(), w.env(draft.After), op.ID)
		}()
		if op = mustGet(t, j, op.ID); op.Failed != n || !strings.Contains(op.LastError, "panic: in a driver") {
			t.Errorf("after %d panics %d tries failed, the last for %q", n, op.Failed, op.LastError)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j, e = w.open()
	}
	defer j.Abandon()
	e.Resume(context.Background(), w.env(draft.After), op.ID)
	if op = mustGet(t, j, op.ID); op.State != journal.Reverted {
		t.Errorf("it is %s: %s", op.State, op.Outcome)
	}
}
