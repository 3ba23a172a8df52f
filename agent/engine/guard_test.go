package engine_test

import (
	"context"
	"errors"
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

// prechecks is a driver that lets through so many prechecks, and counts them.
type prechecks struct {
	drivers.Driver
	asked, may int
}

func (p *prechecks) Precheck(context.Context, drivers.Target, drivers.State, drivers.State) error {
	p.asked++
	if p.asked > p.may {
		return drivers.ErrRefused
	}
	return nil
}

// TestWhoIsAskedBeforeWriting: the guard and the driver are asked about a goal
// before the intent, and again before the first write at each attempt, because
// what is between takes time; not when nothing is left to write.
func TestWhoIsAskedBeforeWriting(t *testing.T) {
	const always = 100
	for _, tc := range []struct {
		name          string
		fault         sim.Fault
		goals         int // that the guard lets through
		prechecks     int // that the driver lets through
		want          engine.Outcome
		err           error
		asked         gate
		prechecked    int
		writes, tries int // that reached the kernel; attempts in the record
	}{
		{
			name: "once a goal, and before each step", goals: always, prechecks: always, want: engine.Done,
			asked: gate{goals: 2, steps: 3}, prechecked: 2, writes: 3, tries: 1,
		},
		{
			name: "refused by the guard before the intent", prechecks: always, want: engine.Refused, err: drivers.ErrHeld,
			asked: gate{goals: 1}, prechecked: 1,
		},
		{
			name: "refused by the guard after the intent", goals: 1, prechecks: always, want: engine.Kept, err: drivers.ErrHeld,
			asked: gate{goals: 2}, prechecked: 1, tries: 1,
		},
		{
			name: "refused by the driver before the intent", goals: always, want: engine.Refused, err: drivers.ErrRefused,
			prechecked: 1,
		},
		{
			name: "refused by the driver after the intent", goals: always, prechecks: 1, want: engine.Reverted, err: drivers.ErrRefused,
			asked: gate{goals: 2}, prechecked: 2, tries: 2,
		},
		{
			name: "again at a further attempt", fault: sim.Fault{Label: "bind", Errno: syscall.EAGAIN}, goals: always, prechecks: always,
			want: engine.Done, asked: gate{goals: 3, steps: 4}, prechecked: 3, writes: 4, tries: 2,
		},
		{
			name: "not when the write was made all the same", fault: sim.Fault{Label: "bind", When: sim.After, Errno: syscall.EIO},
			goals: always, prechecks: always, want: engine.Done, asked: gate{goals: 2, steps: 3}, prechecked: 2, writes: 3, tries: 2,
		},
		{
			name: "the way back is not prechecked", fault: sim.Fault{Label: "bind", Errno: syscall.EINVAL}, goals: always, prechecks: 2,
			want: engine.Reverted, err: syscall.EINVAL, asked: gate{goals: 3, steps: 5}, prechecked: 2, writes: 5, tries: 2,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			draft := w.bindDraft()
			before := w.kernel.Writes()
			if tc.fault.Label != "" {
				w.inject(tc.fault)
			}
			j, e := w.open()
			defer j.Abandon()
			guard, driver := &gate{may: tc.goals}, &prechecks{Driver: e.Drivers.Drivers["driver"], may: tc.prechecks}
			e.Guard, e.Drivers.Drivers["driver"] = guard, driver
			r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
			if r.Outcome != tc.want || !errors.Is(r.Err, tc.err) {
				t.Errorf("ended %s (%v), want %s (%v)\n%s", r.Outcome, r.Err, tc.want, tc.err, &w.log)
			}
			if guard.goals != tc.asked.goals || guard.steps != tc.asked.steps || driver.asked != tc.prechecked {
				t.Errorf("the guard was asked about %d goals and %d steps, the driver %d times; want %d, %d and %d",
					guard.goals, guard.steps, driver.asked, tc.asked.goals, tc.asked.steps, tc.prechecked)
			}
			op, _ := j.Get(r.Operation)
			if n := w.kernel.Writes() - before; n != tc.writes || op.Attempts != tc.tries {
				t.Errorf("%d writes in %d attempts, want %d in %d", n, op.Attempts, tc.writes, tc.tries)
			}
		})
	}
}

func TestPrecheck(t *testing.T) {
	w := newWorld(t)
	key, mtu := keyOf("driver", port), keyOf("mtu", port)
	refuses := func(o *engine.Observer) { o.Drivers.Drivers["driver"] = &prechecks{} }
	for _, tc := range []struct {
		name string
		goal plan.Goal
		with func(*engine.Observer)
		want error
	}{
		{"a driver refuses", driverGoal(port, "vfio-pci"), refuses, drivers.ErrRefused},
		{"not what is so already", plan.Goal{key: "driver=igb override=-"}, refuses, nil},
		{"not what another key hides", plan.Goal{key: drivers.Hidden}, refuses, nil},
		{"not a driver that asks nothing", plan.Goal{mtu: "9000"}, func(*engine.Observer) {}, nil},
		{"no driver", plan.Goal{keyOf("firmware", port): "b"}, func(*engine.Observer) {}, drivers.ErrIllegal},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := engine.Observer{Drivers: w.drivers(), Host: w.kernel}
			observed := o.All(context.Background(), tc.goal)
			tc.with(&o)
			if err := o.Precheck(context.Background(), observed, tc.goal); !errors.Is(err, tc.want) {
				t.Errorf("it says %v, want %v", err, tc.want)
			}
		})
	}
}

// nameless is a host whose devices can be told from others only so many times.
type nameless struct {
	host.Host
	left *int
}

func (n nameless) Inode(ctx context.Context, path string) (uint64, error) {
	if *n.left--; *n.left < 0 {
		return 0, syscall.EIO
	}
	return n.Host.Inode(ctx, path)
}

// TestADeviceThatCannotBeToldIsNotWritten: without its identity nobody could say
// later that it is another one. The operation that was begun stays open.
func TestADeviceThatCannotBeToldIsNotWritten(t *testing.T) {
	for _, tc := range []struct {
		name string
		left int
		want engine.Outcome
		open int
	}{
		{"before the intent", 0, engine.Blocked, 0},
		{"after the intent", 1, engine.Kept, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			draft := w.bindDraft()
			left := tc.left
			w.wrong = func(o *engine.Options) { o.Host = nameless{o.Host, &left} }
			before := w.kernel.Writes()
			j, e := w.open()
			defer j.Abandon()
			r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
			if r.Outcome != tc.want || !errors.Is(r.Err, syscall.EIO) {
				t.Errorf("ended %s (%v), want %s\n%s", r.Outcome, r.Err, tc.want, &w.log)
			}
			if n := w.kernel.Writes() - before; n != 0 || len(j.Operations()) != tc.open {
				t.Errorf("%d writes, %d open operations", n, len(j.Operations()))
			}
		})
	}
}

// TestAGoalThatCannotBeOrderedIsNotDone: no steps because there is no order is
// not no steps because there is nothing to do.
func TestAGoalThatCannotBeOrderedIsNotDone(t *testing.T) {
	w := newWorld(t)
	draft := w.bindDraft()
	w.wrong = func(o *engine.Options) {
		for i := range o.Drivers.Specs {
			if o.Drivers.Specs[i].Kind == "driver" {
				o.Drivers.Specs[i].After = []drivers.Kind{kindEntry} // which comes after it
			}
		}
	}
	j, e := w.open()
	defer j.Abandon()
	before := w.kernel.Writes()
	if r := e.Run(context.Background(), draft, journal.Reason{Source: "test"}); r.Outcome != engine.Quarantined || r.Err == nil {
		t.Errorf("ended %s (%v)", r.Outcome, r.Err)
	}
	if n := w.kernel.Writes() - before; n != 0 {
		t.Errorf("%d writes", n)
	}
}

// TestAnIllegalStateIsNotTriedAgain: a record may ask for what no draft would.
func TestAnIllegalStateIsNotTriedAgain(t *testing.T) {
	for _, change := range []journal.Change{
		{Key: keyOf("mtu", port), Class: drivers.Volatile, Before: "1500", After: "9000; reboot"}, // the driver says so
		{Key: keyOf(kindEntry, poolA), Class: drivers.Persistent, Before: "absent", After: "NO NAME"},
	} {
		w := newWorld(t)
		j, e := w.open()
		defer j.Abandon()
		op, err := j.Begin(context.Background(), journal.Operation{Changes: []journal.Change{change}, Reason: journal.Reason{Source: "forged"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		judged, r := e.Resume(context.Background(), w.env(plan.Goal{change.Key: change.After}), op.ID)
		if judged.Decision != recovery.Replay || r.Outcome != engine.Reverted || !errors.Is(r.Err, drivers.ErrIllegal) {
			t.Errorf("%s: decided %s, ended %s (%v)", change.Key, judged.Decision, r.Outcome, r.Err)
		}
		if op, _ = j.Get(op.ID); op.Attempts != 3 || len(w.files) > 0 { // begun, replayed, undone
			t.Errorf("%s: %d attempts, and the files hold %v", change.Key, op.Attempts, w.files)
		}
	}
}
