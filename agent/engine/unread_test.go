package engine_test

import (
	"context"
	"syscall"
	"testing"

	"eniagent/agent/engine"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

// TestAReadThatFailsIsNoFailedTry: whichever read of an operation fails, once or for
// long, nothing is counted against its goal and nothing undone; it goes on when the
// read does.
func TestAReadThatFailsIsNoFailedTry(t *testing.T) {
	for _, times := range []int{1, 4, -1} {
		met := 0
		for nth, over := 1, 0; over < 10; nth++ { // until so many reads are beyond the last
			first := withUnread(t, nth, times)
			if over++; first != engine.Done {
				met, over = met+1, 0
			}
		}
		if met < 20 {
			t.Errorf("only %d reads were met", met)
		}
	}
}

// withUnread runs a bind of which some reads fail, and goes on when they do no
// longer. It returns how it ended at first.
func withUnread(t *testing.T, nth, times int) engine.Outcome {
	t.Helper()
	w := newWorld(t)
	draft := w.bindDraft()
	j, e := w.open()
	defer j.Abandon()
	w.inject(sim.Fault{Label: sim.LabelRead, Nth: nth, Times: times, Errno: syscall.EIO})
	r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
	first := r.Outcome
	if err := w.kernel.ClearFaults(); err != nil {
		t.Fatal(err)
	}
	if first == engine.Blocked { // before anything was begun
		r = e.Run(context.Background(), draft, journal.Reason{Source: "test"})
	}
	for n := 0; r.Outcome == engine.Kept && n < 5; n++ {
		_, r = e.Resume(context.Background(), w.env(draft.After), r.Operation)
	}
	op := mustGet(t, j, r.Operation)
	if op.State != journal.Done || op.Failed != 0 || len(j.Failures()) > 0 {
		t.Errorf("from read %d on %d fail: first %s, then %s (%v), %d failed tries, failures %+v\n%s",
			nth, times, first, op.State, r.Err, op.Failed, j.Failures(), &w.log)
	}
	return first
}
