package journal

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"eniagent/drivers"
)

func TestStates(t *testing.T) {
	all := []OperationState{Intent, Reverting, Done, Reverted, Superseded, Quarantined, Resolved}
	legal := map[OperationState]string{
		Intent:      "reverting done reverted superseded quarantined",
		Reverting:   "reverted superseded quarantined",
		Quarantined: "superseded resolved",
	}
	for _, from := range all {
		for _, to := range all {
			want := false
			for _, s := range []OperationState{Intent, Reverting, Done, Reverted, Superseded, Quarantined, Resolved} {
				want = want || (s == to && containsWord(legal[from], string(s)))
			}
			if from.Legal(to) != want {
				t.Errorf("%s to %s: %v, want %v", from, to, from.Legal(to), want)
			}
		}
		if from.Open() == from.Closed() && from != Quarantined {
			t.Errorf("%s is neither open nor closed, or both", from)
		}
	}
}

func containsWord(words, w string) bool {
	for _, s := range splitWords(words) {
		if s == w {
			return true
		}
	}
	return false
}

// drive brings a new operation into a state.
func drive(t *testing.T, j *Journal, n int, s OperationState) uint64 {
	t.Helper()
	ctx := context.Background()
	id := begin(t, j, n, "9000").ID
	switch s {
	case Intent:
	case Reverting:
		ok(t, j.Reverting(ctx, id, "no", false))
	case Quarantined:
		ok(t, j.Quarantine(ctx, id, "foreign"))
	case Resolved:
		ok(t, j.Quarantine(ctx, id, "foreign"))
		ok(t, j.Resolve(ctx, id, "accepted", "me", "fine"))
	default:
		finish(t, j, id, s)
	}
	return id
}

func TestEveryVerbInEveryState(t *testing.T) {
	ctx := context.Background()
	verbs := map[string]func(j *Journal, id uint64) error{
		"attempt":    func(j *Journal, id uint64) error { _, err := j.Attempt(ctx, id); return err },
		"note":       func(j *Journal, id uint64) error { return j.Note(id, "x") },
		"reverting":  func(j *Journal, id uint64) error { return j.Reverting(ctx, id, "x", false) },
		"done":       func(j *Journal, id uint64) error { return j.Finish(id, Done, "") },
		"reverted":   func(j *Journal, id uint64) error { return j.Finish(id, Reverted, "") },
		"superseded": func(j *Journal, id uint64) error { return j.Finish(id, Superseded, "") },
		"quarantine": func(j *Journal, id uint64) error { return j.Quarantine(ctx, id, "x") },
		"resolve":    func(j *Journal, id uint64) error { return j.Resolve(ctx, id, "x", "y", "z") },
		"resolved":   func(j *Journal, id uint64) error { return j.Finish(id, Resolved, "") },
		"intent":     func(j *Journal, id uint64) error { return j.Finish(id, Intent, "") },
	}
	legal := map[OperationState]string{
		Intent:      "attempt note reverting done reverted superseded quarantine",
		Reverting:   "attempt note reverting reverted superseded quarantine",
		Quarantined: "superseded resolve",
	}
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		n := 0
		for _, s := range []OperationState{Intent, Reverting, Done, Reverted, Superseded, Quarantined, Resolved} {
			for name, verb := range verbs {
				n++
				id := drive(t, j, n, s)
				before, _ := j.Get(id)
				err := verb(j, id)
				if containsWord(legal[s], name) {
					ok(t, err)
					continue
				}
				wantErr(t, err, ErrTransition)
				after, _ := j.Get(id)
				if d := cmp.Diff(before, after); d != "" {
					t.Fatalf("%s of %s changed it: %s", name, s, d)
				}
			}
		}
		wantErr(t, verbs["attempt"](j, 1<<40), ErrUnknown)
		// All of it is the same on disk.
		mem := snapshotOf(j)
		ok(t, j.Close())
		if d := cmp.Diff(mem, snapshotOf(p.open(t))); d != "" {
			t.Fatalf("disk differs from memory: %s", d)
		}
	})
}

// snapshotOf is all that can be asked of a journal.
func snapshotOf(v View) map[string]any {
	d, isDegraded := v.Degraded()
	return map[string]any{
		"open": v.Operations(), "quarantined": v.Quarantined(), "history": v.History(0),
		"failures": v.Failures(), "baselines": v.Baselines(), "sources": v.Sources(),
		"controls": v.Controls(), "meta": v.Meta(), "degraded": fmt.Sprint(d, isDegraded),
	}
}

func TestBegin(t *testing.T) {
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		in := operation(1, "9000")
		in.Changes = append(in.Changes, Change{Key: drivers.Key{Kind: "admin", Target: pci(1)}, Class: drivers.Volatile, Before: "down", After: "up"})
		o, err := j.Begin(context.Background(), in, nil)
		ok(t, err)
		if o.ID != 1 || o.State != Intent || o.Attempts != 1 || o.BootID != "boot-1" || o.MachineID != "m-1" ||
			o.Agent != "v1.2.3" || o.Created.IsZero() || o.Changes[0].Key.Kind != "admin" {
			t.Fatalf("intent %+v", o)
		}
		if in.Changes[0].Key.Kind != "mtu" {
			t.Fatal("begin sorted the caller's slice")
		}
		// What is handed out is a copy.
		o.Changes[0].After = "x"
		o.Identity[pci(1)] = drivers.Identity{}
		got, _ := j.Get(1)
		if got.Changes[0].After != "up" || got.Identity[pci(1)].Vendor == "" {
			t.Fatalf("caller changed the journal: %+v", got)
		}
		j.Abandon()
		wantOpen(t, p.open(t), 1)
	})
}

func TestBeginRefuses(t *testing.T) {
	j := memoryPlace().open(t)
	bad := map[string]func(*Operation){
		"no changes":  func(o *Operation) { o.Changes = nil },
		"twice":       func(o *Operation) { o.Changes = append(o.Changes, o.Changes[0]) },
		"kind":        func(o *Operation) { o.Changes[0].Key.Kind = "MTU!" },
		"target":      func(o *Operation) { o.Changes[0].Key.Target = "eth0" },
		"class":       func(o *Operation) { o.Changes[0].Class = "" },
		"utf8":        func(o *Operation) { o.Changes[0].After = "\xff" },
		"state size":  func(o *Operation) { o.Changes[0].After = drivers.State(make([]byte, maxState+1)) },
		"no source":   func(o *Operation) { o.Reason.Source = "" },
		"identity":    func(o *Operation) { o.Identity["eth0"] = drivers.Identity{} },
		"record size": func(o *Operation) { *o = wide(10, string(make([]byte, maxState))) },
	}
	for name, spoil := range bad {
		o := operation(1, "9000")
		spoil(&o)
		_, err := j.Begin(context.Background(), o, nil)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		wantErr(t, err, ErrInvalid)
	}
	wantOpen(t, j)
	if m := j.Manifest(); m.Sequence != 1 {
		t.Errorf("refusals committed: sequence %d", m.Sequence)
	}
}

func wide(n int, state string) Operation {
	o := operation(0, state)
	o.Changes = nil
	for i := range n {
		o.Changes = append(o.Changes, Change{Key: mtu(i), Class: drivers.Volatile, Before: drivers.State(state), After: drivers.State(state)})
	}
	return o
}

// A physical function with all its virtual ones fits one operation.
func TestWidestOperationFits(t *testing.T) {
	j := memoryPlace().open(t)
	o := operation(0, "9000")
	o.Changes, o.Identity = nil, map[drivers.Target]drivers.Identity{}
	for i := range 257 {
		for _, k := range []drivers.Kind{"driver", "vf.mac", "vf.vlan", "vf.trust", "mtu", "admin"} {
			o.Changes = append(o.Changes, Change{Key: drivers.Key{Kind: k, Target: pci(i)}, Class: drivers.Volatile, Before: "00:00:00:00:00:00", After: "driver:vfio-pci"})
		}
		o.Identity[pci(i)] = drivers.Identity{Vendor: "0x8086", Device: "0x10ca", Subsystem: "0x8086:0xa03c", MAC: "02:00:00:00:00:01", Incarnation: 123456, Netdev: 300, PF: pci(0), PFIncarnation: 12345}
	}
	_, err := j.Begin(context.Background(), o, nil)
	ok(t, err)
}

func TestClaims(t *testing.T) {
	ctx := context.Background()
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		a := begin(t, j, 1, "9000")
		_, err := j.Begin(ctx, operation(1, "1400"), nil)
		wantErr(t, err, ErrClaimed, "operation 1", string(pci(1)), "open")
		both := wide(3, "1") // targets 0, 1, 2
		_, err = j.Begin(ctx, both, nil)
		wantErr(t, err, ErrClaimed)
		begin(t, j, 0, "1") // the refused one claimed nothing
		finish(t, j, a.ID, Done)
		b := begin(t, j, 1, "1400") // free at once
		ok(t, j.Quarantine(ctx, b.ID, "foreign"))
		_, err = j.Begin(ctx, operation(1, "1400"), nil)
		wantErr(t, err, ErrClaimed, "quarantined", "quarantine")
		ok(t, j.Close())
		j = p.open(t)
		_, err = j.Begin(ctx, operation(1, "1400"), nil)
		wantErr(t, err, ErrClaimed, "quarantined")
		// A changed goal takes over a quarantined one in one commit.
		seq := j.Manifest().Sequence
		_, err = j.Begin(ctx, operation(1, "1400"), nil, Closing{ID: b.ID, State: Superseded, Outcome: "goal changed"})
		ok(t, err)
		if m := j.Manifest(); m.Sequence != seq+1 {
			t.Fatalf("%d commits, want 1", m.Sequence-seq)
		}
		if o, _ := j.Get(b.ID); o.State != Superseded || o.Outcome != "goal changed" {
			t.Fatalf("%+v", o)
		}
	})
}

// A closing of a begin that is refused did not happen.
func TestBeginIsAllOrNothing(t *testing.T) {
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		a, b := begin(t, j, 1, "9000"), begin(t, j, 2, "9000")
		before := snapshotOf(j)
		_, err := j.Begin(context.Background(), operation(2, "1400"), []Baseline{{Key: mtu(9), Class: drivers.Volatile}},
			Closing{ID: a.ID, State: Done, Count: CountRevert})
		wantErr(t, err, ErrClaimed)
		if d := cmp.Diff(before, snapshotOf(j)); d != "" {
			t.Fatal(d)
		}
		_, err = j.Begin(context.Background(), operation(1, "1400"), nil)
		wantErr(t, err, ErrClaimed)
		wantOpen(t, j, a.ID, b.ID)
	})
}

func TestLazyCompletion(t *testing.T) {
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		a := begin(t, j, 1, "9000")
		finish(t, j, a.ID, Done)
		wantOpen(t, j)
		j.Abandon() // a crash before the flush keeps it open
		j = p.open(t)
		wantOpen(t, j, a.ID)
		finish(t, j, a.ID, Done)
		seq := j.Manifest().Sequence
		b := begin(t, j, 1, "1400") // the completion rides in this commit
		if m := j.Manifest(); m.Sequence != seq+1 {
			t.Fatalf("%d commits, want 1", m.Sequence-seq)
		}
		j.Abandon()
		j = p.open(t)
		wantOpen(t, j, b.ID)
		if o, _ := j.Get(a.ID); o.State != Done {
			t.Fatalf("%+v", o)
		}
		finish(t, j, b.ID, Done)
		ok(t, j.Close()) // and a close flushes
		wantOpen(t, p.open(t))
	})
}

func TestAttemptsAndReverting(t *testing.T) {
	ctx := context.Background()
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		a := begin(t, j, 1, "9000")
		ok(t, j.Note(a.ID, "EBUSY"))
		got, err := j.Attempt(ctx, a.ID)
		ok(t, err)
		if got.Attempts != 2 || got.LastError != "EBUSY" || got.TriedIn != "" {
			t.Fatalf("%+v", got)
		}
		j.Abandon()
		j = p.open(t, func(o *Options) { o.BootID = "boot-2" })
		got, err = j.Attempt(ctx, a.ID)
		ok(t, err)
		if got.Attempts != 3 || got.BootID != "boot-1" || got.LastBoot() != "boot-2" {
			t.Fatalf("%+v", got)
		}
		ok(t, j.Reverting(ctx, a.ID, "gave up", false))
		seq := j.Manifest().Sequence
		ok(t, j.Reverting(ctx, a.ID, "gave up", false))
		if j.Manifest().Sequence != seq {
			t.Fatal("reverting twice committed twice")
		}
		j.Abandon()
		j = p.open(t)
		if o, _ := j.Get(a.ID); o.State != Reverting || o.LastError != "gave up" {
			t.Fatalf("%+v", o)
		}
		wantErr(t, j.Finish(a.ID, Done, ""), ErrTransition)
	})
}

func TestRing(t *testing.T) {
	eachStore(t, func(t *testing.T, p *place) {
		limit := func(o *Options) { o.Limits.Done = 5 }
		j := p.open(t, limit)
		held := begin(t, j, 100, "1")
		for i := range 12 {
			finish(t, j, begin(t, j, i, "9000").ID, Done)
		}
		finish(t, j, held.ID, Done) // an old number, but the newest to close
		check := func(j *Journal) {
			t.Helper()
			var ids []uint64
			for _, o := range j.History(0) {
				ids = append(ids, o.ID)
			}
			if fmt.Sprint(ids) != "[1 13 12 11 10]" {
				t.Fatalf("history %v", ids)
			}
			if h := j.History(2); len(h) != 2 || h[0].ID != 1 {
				t.Fatalf("history of 2: %v", h)
			}
			if _, ok := j.Get(2); ok {
				t.Fatal("a pruned operation is still there")
			}
		}
		check(j)
		ok(t, j.Close())
		check(p.open(t, limit))
	})
}
