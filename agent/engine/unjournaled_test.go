package engine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
	"eniagent/recovery"
)

// TestTheJournalsErrorIsTheResult: whatever record is not taken, the caller is
// told, nothing more is written, and the operation stays open.
func TestTheJournalsErrorIsTheResult(t *testing.T) {
	never := func(errno syscall.Errno) sim.Fault { return sim.Fault{Label: "bind", Errno: errno, Times: -1} }
	for _, tc := range []struct {
		commit string
		fault  sim.Fault
		writes int
		open   []journal.OperationState
	}{
		{"begin", sim.Fault{}, 0, nil},
		{"attempt", never(syscall.EAGAIN), 3, []journal.OperationState{journal.Intent}},
		{"reverting", never(syscall.EINVAL), 3, []journal.OperationState{journal.Intent}},
		{"finish", sim.Fault{Label: "bind", Errno: syscall.EINVAL}, 5, []journal.OperationState{journal.Reverting}},
		{"quarantine", never(syscall.EINVAL), 7, []journal.OperationState{journal.Reverting}},
	} {
		t.Run(tc.commit, func(t *testing.T) {
			w := newWorld(t)
			draft := w.bindDraft()
			if tc.fault.Label != "" {
				w.inject(tc.fault)
			}
			w.fail = func(point string) error {
				if strings.Contains(point, tc.commit) {
					return syscall.EIO
				}
				return nil
			}
			before := w.kernel.Writes()
			j, e := w.open()
			defer j.Abandon()
			r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
			if r.Outcome != engine.Failed || !errors.Is(r.Err, journal.ErrIndeterminate) || (r.Operation == 0) != (tc.open == nil) {
				t.Errorf("operation %d ended %s (%v)\n%s", r.Operation, r.Outcome, r.Err, &w.log)
			}
			if n := w.kernel.Writes() - before; n != tc.writes {
				t.Errorf("%d writes, want %d", n, tc.writes)
			}
			open := w.states()
			if !slices.Equal(open, tc.open) {
				t.Errorf("the store has operations that are %s, want %s", open, tc.open)
			}
		})
	}
}

// states are where the operations in the store stand that are open.
func (w *world) states() (all []journal.OperationState) {
	for _, op := range w.durable() {
		all = append(all, op.State)
	}
	return all
}

// TestAJournalThatIsClosedMeanwhile takes no completion.
func TestAJournalThatIsClosedMeanwhile(t *testing.T) {
	w := newWorld(t)
	draft := w.bindDraft()
	j, e := w.open()
	hook := w.kernel.Hook
	w.kernel.Hook = func(p sim.Point) {
		hook(p)
		if p.Label == "bind" && p.When == sim.After {
			j.Abandon()
		}
	}
	if r := e.Run(context.Background(), draft, journal.Reason{Source: "test"}); r.Outcome != engine.Failed || !errors.Is(r.Err, journal.ErrClosed) {
		t.Errorf("ended %s (%v)", r.Outcome, r.Err)
	}
}

// TestResumeWithoutAJournal: what is decided is neither done nor said to be.
func TestResumeWithoutAJournal(t *testing.T) {
	for _, tc := range []struct {
		want recovery.Decision
		host func(*world)
		with func(*recovery.Env)
	}{
		{want: recovery.Replay},
		{want: recovery.Revert, host: (*world).override, with: withdrawn},
		{want: recovery.Done, host: func(w *world) { w.rebind("vfio-pci") }},
		{want: recovery.Reverted, with: withdrawn},
		{want: recovery.Supersede, with: func(e *recovery.Env) { e.BootID = "another" }},
		{want: recovery.Quarantine, host: func(w *world) { w.takeAway(port, "uio_pci_generic") }},
		{want: recovery.Keep, with: func(e *recovery.Env) { e.Paused = func(*journal.Operation) string { return "a pause" } }},
	} {
		t.Run(string(tc.want), func(t *testing.T) {
			w := newWorld(t)
			draft := w.bindDraft()
			j, e := w.open()
			op := w.begin(j, draft)
			if tc.host != nil {
				tc.host(w)
			}
			w.lie = tc.with
			env := w.env(draft.After)
			j.Abandon()
			before := w.kernel.Writes()
			judged, r := e.Resume(context.Background(), env, op.ID)
			kept := tc.want == recovery.Keep // which needs no record; that there is none is in the log
			if judged.Decision != tc.want || r.Operation != op.ID || (r.Outcome == engine.Kept) != kept ||
				(r.Outcome == engine.Failed) == kept || errors.Is(r.Err, journal.ErrClosed) == kept {
				t.Errorf("decided %s (%s), operation %d ended %s (%v); want %s", judged.Decision, judged.Why, r.Operation, r.Outcome, r.Err, tc.want)
			}
			if n := w.kernel.Writes() - before; n != 0 {
				t.Errorf("%d writes", n)
			}
			if said := strings.Contains(w.log.String(), `msg="last error not kept"`); said != kept {
				t.Errorf("the log says:\n%s", &w.log)
			}
		})
	}
}

func withdrawn(e *recovery.Env) { e.Wanted = recovery.WantedBy(plan.Goal{}) }

// override makes the first write of a bind.
func (w *world) override() {
	w.foreign(host.Call{Op: host.OpSysfs, Target: port, Path: host.Attr(string(port), "driver_override"), Value: "vfio-pci\n"})
}

// begin is the intent of a draft, and nothing more.
func (w *world) begin(j *journal.Journal, d plan.Draft) journal.Operation {
	w.t.Helper()
	op := journal.Operation{Reason: journal.Reason{Source: "test"}, Identity: map[drivers.Target]drivers.Identity{}}
	for key, after := range d.After {
		if id, err := host.Identify(context.Background(), w.kernel, key.Target); err == nil {
			op.Identity[key.Target] = id
		}
		spec, _ := specs().Find(key.Kind)
		op.Changes = append(op.Changes, journal.Change{Key: key, Class: spec.Class, Before: d.Before[key], After: after})
	}
	op, err := j.Begin(context.Background(), op, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return op
}

// TestACompletionCostsNoCommit, but one that is counted must last.
func TestACompletionCostsNoCommit(t *testing.T) {
	for _, tc := range []struct {
		fault sim.Fault
		want  string
	}{
		{sim.Fault{}, "begin"},
		{sim.Fault{Label: "bind", Errno: syscall.EINVAL}, "begin ended+reverting finish"},
	} {
		w := newWorld(t)
		draft := w.bindDraft()
		if tc.fault.Label != "" {
			w.inject(tc.fault)
		}
		var commits []string
		w.fail = func(point string) error {
			if label, found := strings.CutSuffix(point, ":before"); found {
				commits = append(commits, label)
			}
			return nil
		}
		j, e := w.open()
		e.Run(context.Background(), draft, journal.Reason{Source: "test"})
		j.Abandon()
		if got := strings.Join(commits, " "); got != tc.want {
			t.Errorf("commits are %q, want %q", got, tc.want)
		}
	}
}
