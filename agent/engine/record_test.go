package engine_test

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
	"eniagent/recovery"
)

// TestTheRecordSaysWhy: a person who reads the journal finds why an operation
// ended as it did, and, of one that was undone, why it was and what went wrong
// with that.
func TestTheRecordSaysWhy(t *testing.T) {
	const (
		refused = "operation not permitted"
		passing = "resource temporarily unavailable"
	)
	there := sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EPERM}
	for _, tc := range []struct {
		name    string
		each    int // tries of each goal
		faults  []sim.Fault
		state   journal.OperationState
		undone  int
		tries   int
		outcome []string // what it has in it, in order
		last    []string // why, and of a revert that went wrong why that did
	}{
		{name: "done", each: 3, state: journal.Done, tries: 1, outcome: []string{"at the state after"}, last: []string{""}},
		{
			name: "done after an error", each: 3, faults: []sim.Fault{{Label: "bind", Errno: syscall.EAGAIN}},
			state: journal.Done, tries: 2, outcome: []string{"at the state after"}, last: []string{passing},
		},
		{
			name: "reverted", each: 3, faults: []sim.Fault{there}, state: journal.Reverted, undone: 1, tries: 2,
			outcome: []string{"at the state before: ", refused}, last: []string{refused},
		},
		{
			name: "reverted after errors on the way back", each: 3, faults: []sim.Fault{there, {Label: "bind", Path: "igb", Errno: syscall.EAGAIN, Times: 2}},
			state: journal.Reverted, undone: 1, tries: 4, outcome: []string{"at the state before: ", refused}, last: []string{refused, passing},
		},
		{
			name: "neither there nor back", each: 3, faults: []sim.Fault{there, {Label: "bind", Path: "igb", Errno: syscall.EAGAIN, Times: -1}},
			state: journal.Quarantined, undone: 1, tries: 4, outcome: []string{"revert: ", passing}, last: []string{refused, passing},
		},
		{
			name: "neither there nor back, at the first try", each: 1, faults: []sim.Fault{{Label: "bind", Errno: syscall.EAGAIN, Times: -1}},
			state: journal.Quarantined, undone: 1, tries: 2, outcome: []string{"revert: ", passing}, last: []string{passing, passing},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.attempts = tc.each
			for _, f := range tc.faults {
				w.inject(f)
			}
			j, e := w.open()
			defer j.Abandon()
			r := e.Run(context.Background(), w.bindDraft(), journal.Reason{Source: "test"})
			op, _ := j.Get(r.Operation)
			if op.State != tc.state || op.UndoneAt != tc.undone || op.Attempts != tc.tries || op.Withdrawn {
				t.Errorf("it is %s, undone at attempt %d of %d, withdrawn %t; want %s, %d of %d", op.State, op.UndoneAt, op.Attempts, op.Withdrawn, tc.state, tc.undone, tc.tries)
			}
			if !hasInOrder(op.Outcome, tc.outcome) {
				t.Errorf("its outcome is %q, want %q", op.Outcome, tc.outcome)
			}
			if last := strings.Split(op.LastError, "; and the revert: "); !slices.EqualFunc(last, tc.last, says) {
				t.Errorf("its last error is %q, want %q", last, tc.last)
			}
			if r.Err != nil && !strings.HasSuffix(op.Outcome, r.Err.Error()) || (r.Err == nil) != (tc.state == journal.Done) {
				t.Errorf("the caller is told %v, the journal %q", r.Err, op.Outcome)
			}
		})
	}
}

// says whether a text has another in it, or is empty as it is.
func says(text, part string) bool {
	return strings.Contains(text, part) && (text == "") == (part == "")
}

// hasInOrder says whether a text has some others in it, one after another.
func hasInOrder(text string, parts []string) bool {
	for _, p := range parts {
		_, after, found := strings.Cut(text, p)
		if !found {
			return false
		}
		text = after
	}
	return true
}

// TestAnOperationThatIsKeptSaysWhy: the cause that it has already is worth more
// than that it waits, but for a rule, which a person can do something about.
func TestAnOperationThatIsKeptSaysWhy(t *testing.T) {
	w := newWorld(t)
	draft := w.bindDraft()
	j, e := w.open()
	defer j.Abandon()
	last := func(id uint64) string {
		op, _ := j.Get(id)
		return op.LastError
	}
	paused := func(why string) recovery.Env {
		env := w.env(draft.After)
		env.Paused = func(*journal.Operation) string { return why }
		return env
	}
	e.Guard = late{"driver=- override=vfio-pci"}
	r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
	halfway := last(r.Operation)
	if !strings.HasPrefix(halfway, "held back: ") {
		t.Fatalf("its last error is %q", halfway)
	}
	if _, r := e.Resume(context.Background(), paused("a pause"), r.Operation); r.Outcome != engine.Kept || last(r.Operation) != halfway || r.Err.Error() != "a pause" {
		t.Errorf("ended %s (%v), last error %q", r.Outcome, r.Err, last(r.Operation))
	}
	e.Guard = &gate{}
	if _, r = e.Resume(context.Background(), w.env(draft.After), r.Operation); last(r.Operation) != r.Err.Error() || last(r.Operation) == halfway {
		t.Errorf("ended %s (%v), last error %q", r.Outcome, r.Err, last(r.Operation))
	}
	// One that has no cause yet.
	fresh, err := j.Begin(context.Background(), entryOperation(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if e.Resume(context.Background(), paused("a pause"), fresh.ID); last(fresh.ID) != "a pause" {
		t.Errorf("its last error is %q", last(fresh.ID))
	}
}

// entryOperation is an operation on an entry of a file.
func entryOperation() journal.Operation {
	return journal.Operation{
		Changes: []journal.Change{{Key: keyOf(kindEntry, poolA), Class: drivers.Persistent, Before: "absent", After: "ours"}},
		Reason:  journal.Reason{Source: "test"},
	}
}

// TestOnlyAFailureIsATry: an attempt that a crash ended is none of those that the
// goal has.
func TestOnlyAFailureIsATry(t *testing.T) {
	w := newWorld(t)
	w.attempts = 2
	w.inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EAGAIN, Times: -1})
	draft := w.bindDraft()
	j, e := w.open()
	defer j.Abandon()
	op := w.begin(j, draft)
	_, r := e.Resume(context.Background(), w.env(draft.After), op.ID)
	if op, _ = j.Get(op.ID); r.Outcome != engine.Reverted || op.UndoneAt != 3 || op.Attempts != 4 {
		t.Errorf("ended %s (%v), undone at attempt %d of %d", r.Outcome, r.Err, op.UndoneAt, op.Attempts)
	}
}

// TestWhatCountsAgainstAGoal: that it failed, or that the boot ended while it
// was tried, and not that nobody wants it any more or that its device went.
func TestWhatCountsAgainstAGoal(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	other := func(e *recovery.Env) { e.BootID = "00000000-0000-0000-0000-000000000001" }
	exhausted := func(e *recovery.Env) { e.MaxAttempts = 0 }
	bound := func(w *world) { w.rebind("vfio-pci") }
	stopped := func(w *world) {
		if err := w.journal.Ended(1, false, "asked to stop"); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name     string
		unwanted bool
		with     func(*recovery.Env)
		host     func(*world)
		want     engine.Outcome
		counted  journal.Failure
	}{
		{name: "the attempts are used up", with: exhausted, want: engine.Reverted, counted: journal.Failure{Reverts: 1, Until: now.Add(5 * time.Second)}},
		{name: "nobody wants it", unwanted: true, want: engine.Reverted},
		{name: "the boot ended", with: other, want: engine.Superseded, counted: journal.Failure{Panics: 1}},
		{name: "the boot ended, and the try before it", with: other, host: stopped, want: engine.Superseded},
		{name: "the boot ended, and it is at its goal", with: other, host: bound, want: engine.Superseded},
		{name: "the device is another", host: (*world).replug, want: engine.Superseded},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.wrong = func(o *engine.Options) { o.Now = func() time.Time { return now } }
			draft := w.bindDraft()
			j, e := w.open()
			defer j.Abandon()
			op := w.begin(j, draft)
			if tc.host != nil {
				tc.host(w)
			}
			goal := plan.Goal{}
			if !tc.unwanted {
				goal = draft.After
			}
			env := w.env(goal)
			if tc.with != nil {
				tc.with(&env)
			}
			if judged, r := e.Resume(context.Background(), env, op.ID); r.Outcome != tc.want {
				t.Errorf("decided %s (%s), ended %s (%v), want %s", judged.Decision, judged.Why, r.Outcome, r.Err, tc.want)
			}
			f, _ := e.Failure(draft)
			if f.Reverts != tc.counted.Reverts || f.Panics != tc.counted.Panics || !f.Until.Equal(tc.counted.Until) {
				t.Errorf("the journal counts %d reverts, %d panics, until %s; want %+v", f.Reverts, f.Panics, f.Until, tc.counted)
			}
		})
	}
}

// replug takes the port out and puts it in again.
func (w *world) replug() {
	w.t.Helper()
	if err := w.kernel.Unplug(string(port)); err != nil {
		w.t.Fatal(err)
	}
	for _, d := range sim.DefaultNode().Devices {
		if d.Address != string(port) {
			continue
		}
		if err := w.kernel.Plug(d); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestAWithdrawnRevertIsNoFailure: half-way, and nobody wants it any more.
func TestAWithdrawnRevertIsNoFailure(t *testing.T) {
	w := newWorld(t)
	draft := w.bindDraft()
	j, e := w.open()
	defer j.Abandon()
	e.Guard = late{"driver=- override=vfio-pci"}
	r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
	e.Guard = nil
	_, r = e.Resume(context.Background(), w.env(plan.Goal{}), r.Operation)
	op, _ := j.Get(r.Operation)
	if r.Outcome != engine.Reverted || !op.Withdrawn || op.UndoneAt != 1 || !w.at(draft.Before) {
		t.Errorf("ended %s (%v): %+v", r.Outcome, r.Err, op)
	}
	if f, ok := e.Failure(draft); ok {
		t.Errorf("it is counted: %+v", f)
	}
}

// TestThePauseBeforeAGoalIsTriedAgainGrows: with each revert of it, and with each
// boot that ended while it was tried, from the third in a row.
func TestThePauseBeforeAGoalIsTriedAgainGrows(t *testing.T) {
	for _, tc := range []struct {
		name string
		ends func(*world) // what becomes of the world while the goal is tried
		with func(*recovery.Env)
		want []time.Duration // 0 is none
	}{
		{
			"reverts", func(*world) {}, func(e *recovery.Env) { e.MaxAttempts = 0 },
			[]time.Duration{5 * time.Second, 20 * time.Second, 80 * time.Second, 320 * time.Second, 10 * time.Minute, 10 * time.Minute},
		},
		{
			"boots", (*world).reboot, func(*recovery.Env) {},
			[]time.Duration{0, 0, 10 * time.Minute, 20 * time.Minute, 40 * time.Minute},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			w.wrong = func(o *engine.Options) { o.Now = func() time.Time { return now } }
			var got []time.Duration
			for range tc.want {
				j, _ := w.open()
				draft := w.bindDraft()
				op := w.begin(j, draft)
				j.Abandon()
				tc.ends(w)
				j, e := w.open()
				env := w.env(draft.After)
				tc.with(&env)
				e.Resume(context.Background(), env, op.ID)
				pause := time.Duration(0)
				if f, _ := e.Failure(draft); !f.Until.IsZero() {
					pause = f.Until.Sub(now)
				}
				got = append(got, pause)
				j.Abandon() // what is counted must last
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestEachTransitionIsInTheLogOnce, with what it is about, and as a warning
// where something went wrong.
func TestEachTransitionIsInTheLogOnce(t *testing.T) {
	there := sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL}
	never := sim.Fault{Label: "bind", Errno: syscall.EINVAL, Times: -1}
	const about = ` component=engine op=1 state=`
	for _, tc := range []struct {
		name  string
		fault sim.Fault
		guard engine.Guard // of an operation that is resumed in another boot
		want  []string     // lines, as far as their error
	}{
		{"done", sim.Fault{}, nil, []string{
			"level=info" + about + `intent target=0000:02:00.0 msg="operation intent" why="pci 0000:02:00.0"`,
			"level=info" + about + `done target=0000:02:00.0 msg="operation done" why="the host was observed at the state after"`,
		}},
		{"reverted", there, nil, []string{
			"level=info" + about + `intent target=0000:02:00.0 msg="operation intent" why="pci 0000:02:00.0"`,
			"level=warn" + about + `reverting target=0000:02:00.0 msg="operation reverting" err=`,
			"level=info" + about + `reverted target=0000:02:00.0 msg="operation reverted" why="the host was observed at the state before" err=`,
		}},
		{"superseded", sim.Fault{}, &gate{may: 1}, []string{
			"level=info" + about + `intent target=0000:02:00.0 msg="operation intent" why="pci 0000:02:00.0"`,
			"level=warn" + about + `intent target=0000:02:00.0 err=`,
			"level=info" + about + `superseded target=0000:02:00.0 msg="operation superseded" why="the machine was booted anew since"`,
			"level=info" + about + `intent target=0000:02:00.0 class=before epoch="new boot" wanted=unknown decision=supersede why="the machine was booted anew since" outcome=superseded msg="operation recovered"`,
		}},
		{"quarantined", never, nil, []string{
			"level=info" + about + `intent target=0000:02:00.0 msg="operation intent" why="pci 0000:02:00.0"`,
			"level=warn" + about + `reverting target=0000:02:00.0 msg="operation reverting" err=`,
			"level=warn" + about + `quarantined target=0000:02:00.0 msg="operation quarantined" err=`,
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			if tc.fault.Label != "" {
				w.inject(tc.fault)
			}
			j, e := w.open()
			defer j.Abandon()
			e.Guard = tc.guard
			r := e.Run(context.Background(), w.bindDraft(), journal.Reason{Source: "test", Entry: "pci 0000:02:00.0"})
			if tc.guard != nil {
				env := w.env(nil)
				env.BootID = "another"
				e.Resume(context.Background(), env, r.Operation)
			}
			got := w.transitions()
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// transitions are the lines of the log about operations, as far as their error.
func (w *world) transitions() (lines []string) {
	for line := range strings.Lines(w.log.String()) {
		if !strings.Contains(line, `msg="operation `) {
			continue
		}
		line = strings.TrimSuffix(line, "\n")
		if before, _, found := strings.Cut(line, "err="); found {
			line = before + "err="
		}
		lines = append(lines, line)
	}
	return lines
}
