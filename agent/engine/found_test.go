package engine_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

// fence is a host with one answer to whether a write still runs.
type fence struct {
	host.Host
	held bool
	err  error
}

func (f fence) Fenced(drivers.Target) (bool, error) { return f.held, f.err }

// TestWhatIsFencedIsNotObserved, nor what no driver reads, and an operation on
// it is not begun.
func TestWhatIsFencedIsNotObserved(t *testing.T) {
	for _, tc := range []struct {
		name string
		key  drivers.Key
		host func(host.Host) host.Host
		want error
	}{
		{"free", keyOf("mtu", port), func(h host.Host) host.Host { return fence{h, false, nil} }, nil},
		{"fenced", keyOf("mtu", port), func(h host.Host) host.Host { return fence{h, true, nil} }, drivers.ErrFenced},
		{"nobody can tell", keyOf("mtu", port), func(h host.Host) host.Host { return fence{h, false, fs.ErrPermission} }, fs.ErrPermission},
		{"no driver", keyOf("firmware", port), func(h host.Host) host.Host { return h }, drivers.ErrIllegal},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.wrong = func(o *engine.Options) { o.Host = tc.host(o.Host) }
			j, e := w.open()
			defer j.Abandon()
			o := e.Observer().Observe(context.Background(), tc.key)
			if !errors.Is(o.Err, tc.want) || (o.Presence == drivers.Unobservable) != (tc.want != nil) {
				t.Errorf("it is %s (%v), want %v", o, o.Err, tc.want)
			}
			draft := plan.Draft{Before: plan.Goal{tc.key: "1500"}, After: plan.Goal{tc.key: "9000"}}
			want := engine.Done
			if tc.want != nil {
				want = engine.Blocked
			}
			if r := e.Run(context.Background(), draft, journal.Reason{Source: "test"}); r.Outcome != want || !errors.Is(r.Err, tc.want) {
				t.Errorf("ended %s (%v), want %s (%v)", r.Outcome, r.Err, want, tc.want)
			}
		})
	}
}

func TestAHostThatHasChangedSinceIsNamed(t *testing.T) {
	w := newWorld(t)
	key := keyOf(kindEntry, poolA)
	draft := plan.Draft{Before: plan.Goal{key: "absent"}, After: plan.Goal{key: "ours"}}
	w.files[poolA] = "theirs"
	j, e := w.open()
	defer j.Abandon()
	const want = "entry@file//etc/pools#a/a is theirs, not absent as planned: the host has changed since"
	r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
	if r.Outcome != engine.Blocked || r.Err == nil || r.Err.Error() != want {
		t.Errorf("ended %s (%v)", r.Outcome, r.Err)
	}
}

// TestTheWorstIsActedOn: of an operation that finds somebody else's hand on one
// key, another key's device being gone says nothing.
func TestTheWorstIsActedOn(t *testing.T) {
	unplug := func(w *world) {
		if err := w.kernel.Unplug(string(port)); err != nil {
			w.t.Error(err)
		}
	}
	theirs := func(w *world) { w.files[poolA] = "theirs" }
	function := func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "vfio-pci"), nil) }
	both := func(w *world) plan.Draft {
		d := function(w)
		d.Before[keyOf(kindEntry, poolA)], d.After[keyOf(kindEntry, poolA)] = "absent", "ours"
		return d
	}
	link := func(w *world) plan.Draft {
		return w.cover(port, plan.Goal{keyOf("mtu", port): "9000", keyOf("admin", port): "up"}, nil)
	}
	for _, tc := range []struct {
		name    string
		draft   func(*world) plan.Draft
		happens []func(*world) // once the intent is durable
		want    engine.Outcome
		err     error
	}{
		{"gone", function, []func(*world){unplug}, engine.Superseded, drivers.ErrGone},
		{"its netdev is gone", link, []func(*world){func(w *world) { w.takeAway(port, "uio_pci_generic") }}, engine.Superseded, drivers.ErrGone},
		{"foreign", both, []func(*world){theirs}, engine.Quarantined, nil},
		{"foreign among what is gone", both, []func(*world){unplug, theirs}, engine.Quarantined, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			draft := tc.draft(w)
			j, e := w.open()
			defer j.Abandon()
			w.boundary = func(label string) {
				if label != "journal begin:after" {
					return
				}
				for _, happens := range tc.happens {
					happens(w)
				}
			}
			r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
			if r.Outcome != tc.want || tc.err != nil && !errors.Is(r.Err, tc.err) || tc.err == nil && errors.Is(r.Err, drivers.ErrGone) {
				t.Errorf("ended %s (%v), want %s (%v)\n%s", r.Outcome, r.Err, tc.want, tc.err, &w.log)
			}
		})
	}
}

// TestWhatIsKeptOfWhatWasFound: with the intent go the identity of what has one,
// and the baselines of what can be restored.
func TestWhatIsKeptOfWhatWasFound(t *testing.T) {
	for _, tc := range []struct {
		name      string
		setup     func(*world)
		draft     func(*world) plan.Draft
		identity  []drivers.Target
		baselines map[string]drivers.State // by kind
		unknown   []string                 // kinds
	}{
		{
			"of the kernel's own",
			func(*world) {},
			(*world).bindDraft,
			[]drivers.Target{port},
			map[string]drivers.State{"driver": "driver=igb override=-", "mtu": "1500", "admin": "down"},
			nil,
		},
		{
			"of another program's, whose netdev is hidden",
			func(w *world) { w.rebind("uio_pci_generic") },
			func(w *world) plan.Draft {
				return w.cover(port, driverGoal(port, "igb"), plan.Goal{keyOf("mtu", port): "9000", keyOf("admin", port): "up"})
			},
			[]drivers.Target{port},
			map[string]drivers.State{"driver": "driver=uio_pci_generic override=uio_pci_generic"},
			[]string{"driver"},
		},
		{
			"of an entry of a file",
			func(*world) {},
			func(*world) plan.Draft {
				return plan.Draft{Before: plan.Goal{keyOf(kindEntry, poolA): "absent"}, After: plan.Goal{keyOf(kindEntry, poolA): "ours"}}
			},
			nil,
			map[string]drivers.State{"entry": "absent"},
			nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			tc.setup(w)
			j, e := w.open()
			defer j.Abandon()
			r := e.Run(context.Background(), tc.draft(w), journal.Reason{Source: "test"})
			op, _ := j.Get(r.Operation)
			identity := slices.Sorted(maps.Keys(op.Identity))
			for target, id := range op.Identity {
				now, err := e.Observer().Identify(context.Background(), target)
				if field := id.Difference(now); err != nil || field != "" || id.Incarnation == 0 || id.Vendor == "" {
					t.Errorf("%s is kept as %+v and is %+v (%v)", target, id, now, err)
				}
			}
			found, unknown := baselinesOf(t, j, op)
			if r.Outcome != engine.Done || !slices.Equal(identity, tc.identity) || !slices.Equal(unknown, tc.unknown) {
				t.Errorf("ended %s (%v), with the identity of %v, %v unknown; want %v and %v", r.Outcome, r.Err, identity, unknown, tc.identity, tc.unknown)
			}
			if d := cmp.Diff(tc.baselines, found); d != "" {
				t.Error(d)
			}
		})
	}
}

// baselinesOf are the states that the journal keeps for the devices of an
// operation, by kind, and which of them are not known to be true.
func baselinesOf(t *testing.T, j *journal.Journal, op journal.Operation) (states map[string]drivers.State, unknown []string) {
	t.Helper()
	states = map[string]drivers.State{}
	for _, b := range j.Baselines() {
		states[string(b.Key.Kind)] = b.State
		if b.Unknown {
			unknown = append(unknown, string(b.Key.Kind))
		}
		if b.Incarnation != op.Identity[b.Key.Target].Incarnation {
			t.Errorf("%s is of incarnation %d, want %d", b.Key, b.Incarnation, op.Identity[b.Key.Target].Incarnation)
		}
	}
	return states, unknown
}

// TestDefaults: what is not said is three tries of a goal with a pause between
// them that grows, by the clock, and no words.
func TestDefaults(t *testing.T) {
	run := func(t *testing.T, ctx context.Context) (engine.Result, time.Duration, journal.Operation, journal.Failure) {
		w := newWorld(t)
		w.inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EAGAIN, Times: -1})
		draft := w.bindDraft()
		j, _ := w.open()
		defer j.Abandon()
		e := engine.New(engine.Options{Journal: j, Drivers: w.drivers(), Host: w.kernel})
		began := time.Now()
		r := e.Run(ctx, draft, journal.Reason{Source: "test"})
		op, _ := j.Get(r.Operation)
		f, _ := e.Failure(draft)
		return r, time.Since(began), op, f
	}
	synctest.Test(t, func(t *testing.T) {
		r, took, op, f := run(t, t.Context())
		const pauses = 400*time.Millisecond + 800*time.Millisecond
		if r.Outcome != engine.Reverted || op.Attempts != 4 || took < pauses*8/10 || took > pauses*12/10 {
			t.Errorf("ended %s (%v) after %d attempts and %s", r.Outcome, r.Err, op.Attempts, took)
		}
		if until := time.Until(f.Until); until != 5*time.Second {
			t.Errorf("it may be tried again after %s", until)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if r, took, op, _ := run(t, ctx); r.Outcome != engine.Kept || op.Attempts != 1 || took != 100*time.Millisecond {
			t.Errorf("asked to stop in a pause it ended %s (%v) after %d attempts and %s", r.Outcome, r.Err, op.Attempts, took)
		}
	})
}
