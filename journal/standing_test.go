package journal

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"eniagent/drivers"
)

func TestBaselines(t *testing.T) {
	ctx := context.Background()
	file := drivers.Key{Kind: "pool", Target: "file//etc/pcidp/config.json#intel.com/sriov"}
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		base := func(state string, inc uint64) []Baseline {
			return []Baseline{
				{Key: mtu(1), State: drivers.State(state), Class: drivers.Volatile, Incarnation: inc},
				{Key: file, State: drivers.State(state), Class: drivers.Persistent},
			}
		}
		touch := func(j *Journal, state string, inc uint64) {
			t.Helper()
			o, err := j.Begin(ctx, operation(1, "9000"), base(state, inc))
			ok(t, err)
			finish(t, j, o.ID, Done)
		}
		want := func(j *Journal, volatile, persistent string) {
			t.Helper()
			v, _ := j.Baseline(mtu(1))
			f, _ := j.Baseline(file)
			if string(v.State) != volatile || string(f.State) != persistent {
				t.Fatalf("baselines %q, %q, want %q, %q", v.State, f.State, volatile, persistent)
			}
		}
		seq := j.Manifest().Sequence
		touch(j, "first", 7)
		if j.Manifest().Sequence != seq+1 {
			t.Fatal("baselines are not in the intent's commit")
		}
		touch(j, "second", 7)
		want(j, "first", "first")
		touch(j, "unknown incarnation", 0)
		want(j, "first", "first")
		touch(j, "third", 8)
		want(j, "third", "first")
		j.Abandon()
		j = p.open(t, func(o *Options) { o.BootID = "boot-2" })
		want(j, "", "first") // kept, but not true any more
		if n := len(j.Baselines()); n != 2 {
			t.Fatalf("%d baselines", n)
		}
		finish(t, j, 4, Superseded)
		touch(j, "fourth", 8)
		want(j, "fourth", "first")
		n, err := j.DropBaselines(ctx, func(b Baseline) bool { return b.Class == drivers.Volatile })
		ok(t, err)
		if n != 1 {
			t.Fatalf("dropped %d", n)
		}
		want(j, "", "first")
	})
}

func TestFailures(t *testing.T) {
	ctx := context.Background()
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		until := time.Date(2027, 1, 1, 0, 0, 0, 0, time.FixedZone("x", 3600))
		var fp string
		for range 2 {
			o := begin(t, j, 1, "9000")
			fp = o.Fingerprint()
			ok(t, j.Note(o.ID, "EIO"))
			ok(t, j.Reverting(ctx, o.ID, "EIO", false))
			ok(t, j.End(Closing{ID: o.ID, State: Reverted, Count: CountRevert, Until: until}))
		}
		f, _ := j.Failure(fp)
		if f.Reverts != 2 || f.Panics != 0 || f.LastError != "EIO" || !f.Until.Equal(until) || f.Keys[0] != mtu(1) {
			t.Fatalf("%+v", f)
		}
		o := begin(t, j, 1, "9000")
		j.Abandon()
		j = p.open(t, func(o *Options) { o.BootID = "boot-2" })
		ok(t, j.End(Closing{ID: o.ID, State: Superseded, Count: CountPanic, Until: until}))
		if f, _ := j.Failure(fp); f.Panics != 1 || f.LastBoot != "boot-1" {
			t.Fatalf("%+v", f)
		}
		o = begin(t, j, 1, "9000")
		j.Abandon()
		j = p.open(t, func(o *Options) { o.BootID = "boot-3" })
		ok(t, j.End(Closing{ID: o.ID, State: Superseded, Count: CountPanic}))
		ok(t, j.Flush(ctx))
		if f, _ := j.Failure(fp); f.Panics != 2 || f.LastBoot != "boot-2" || f.Reverts != 2 {
			t.Fatalf("%+v", f)
		}
		j.Abandon()
		j = p.open(t)
		finish(t, j, begin(t, j, 1, "9000").ID, Done) // success clears
		if fs := j.Failures(); len(fs) != 0 {
			t.Fatalf("%+v", fs)
		}
		ok(t, j.End(Closing{ID: begin(t, j, 1, "1").ID, State: Reverted, Count: CountRevert}))
		ok(t, j.End(Closing{ID: begin(t, j, 2, "1").ID, State: Reverted, Count: CountRevert}))
		n, err := j.ClearFailures(ctx, func(f Failure) bool { return f.Keys[0].Target == pci(2) })
		ok(t, err)
		if n != 1 || len(j.Failures()) != 1 {
			t.Fatalf("cleared %d, left %v", n, j.Failures())
		}
	})
}

func TestDesired(t *testing.T) {
	ctx := context.Background()
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		d := Desired{
			Source: "file", Object: "/etc/a", Generation: "1", Document: json.RawMessage(`{ "b": [1, 2],  "a": "<x>" }`),
			Goals:      []Goal{{Key: mtu(2), State: "9000", Entry: "b"}, {Key: mtu(1), State: "9000", Entry: "a"}},
			Selections: []Selection{{Selector: "name eth1", Target: pci(1), Identity: drivers.Identity{MAC: "02:00:00:00:00:01"}}},
		}
		seq := j.Manifest().Sequence
		ok(t, j.SetDesired(ctx, d))
		ok(t, j.SetDesired(ctx, d))
		if n := j.Manifest().Sequence - seq; n != 1 {
			t.Fatalf("%d commits, want 1", n)
		}
		d.Generation = "2"
		ok(t, j.SetDesired(ctx, d))
		if n := j.Manifest().Sequence - seq; n != 2 {
			t.Fatalf("%d commits, want 2", n)
		}
		j.Abandon()
		j = p.open(t)
		got, _ := j.Desired("file")
		if got.Generation != "2" || string(got.Document) != `{"b":[1,2],"a":"<x>"}` || got.Goals[0].Key != mtu(1) || got.Selections[0].Target != pci(1) {
			t.Fatalf("%+v", got)
		}
		wantErr(t, j.SetDesired(ctx, Desired{Source: "x", Document: json.RawMessage("{")}), ErrInvalid)
		ok(t, j.SetDesired(ctx, Desired{Source: "other"}))
		if len(j.Sources()) != 2 {
			t.Fatal(j.Sources())
		}
		ok(t, j.DropDesired(ctx, "file"))
		if _, found := j.Desired("file"); found {
			t.Fatal("still there")
		}
	})
}

func TestControl(t *testing.T) {
	ctx := context.Background()
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		c := Control{Action: "released", Target: pci(1), Who: "me", Why: "maintenance", Facts: map[string]string{"generation": "4"}}
		seq := j.Manifest().Sequence
		ok(t, j.SetControl(ctx, c))
		ok(t, j.SetControl(ctx, c))
		ok(t, j.SetControl(ctx, Control{Action: "paused"}))
		if n := j.Manifest().Sequence - seq; n != 2 {
			t.Fatalf("%d commits, want 2", n)
		}
		j.Abandon()
		j = p.open(t)
		got, _ := j.Control("released", pci(1))
		if got.Why != "maintenance" || got.Facts["generation"] != "4" || len(j.Controls()) != 2 {
			t.Fatalf("%+v", got)
		}
		found, err := j.ClearControl(ctx, "released", pci(1))
		ok(t, err)
		again, err := j.ClearControl(ctx, "released", pci(1))
		ok(t, err)
		if !found || again {
			t.Fatalf("found %v, again %v", found, again)
		}
		wantErr(t, j.SetControl(ctx, Control{Action: "Bad!"}), ErrInvalid)
	})
}

func TestMachineAndBoot(t *testing.T) {
	ctx := context.Background()
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		ok(t, j.SetRecoveredBoot(ctx))
		seq := j.Manifest().Sequence
		ok(t, j.SetRecoveredBoot(ctx))
		ok(t, j.AdoptMachine(ctx))
		if j.Manifest().Sequence != seq {
			t.Fatal("nothing new was committed")
		}
		ok(t, j.Close())
		j = p.open(t, func(o *Options) { o.MachineID, o.BootID = "m-2", "boot-2" })
		if was, is := j.Machine(); was != "m-1" || is != "m-2" || j.RecoveredBoot() != "boot-1" {
			t.Fatal(was, is, j.RecoveredBoot())
		}
		ok(t, j.AdoptMachine(ctx))
		if was, _ := j.Machine(); was != "m-2" {
			t.Fatal(was)
		}
	})
}

func TestBounds(t *testing.T) {
	ctx := context.Background()
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t, func(o *Options) {
			o.Limits = Limits{Open: 3, Quarantined: 1, Baselines: 2, Failures: 2, Sources: 1, Controls: 1}
		})
		for i := range 3 {
			begin(t, j, i, "1")
		}
		_, err := j.Begin(ctx, operation(9, "1"), nil)
		wantErr(t, err, ErrFull)
		ok(t, j.Quarantine(ctx, 1, "x"))
		wantErr(t, j.Quarantine(ctx, 2, "x"), ErrFull)
		if o, _ := j.Get(2); o.State != Intent {
			t.Fatalf("%+v", o)
		}
		ok(t, j.SetDesired(ctx, Desired{Source: "a"}))
		wantErr(t, j.SetDesired(ctx, Desired{Source: "b"}), ErrFull)
		ok(t, j.SetControl(ctx, Control{Action: "a"}))
		wantErr(t, j.SetControl(ctx, Control{Action: "b"}), ErrFull)
		finish(t, j, 2, Done)
		finish(t, j, 3, Done)
		for i := range 5 { // the failure that is oldest makes room
			ok(t, j.End(Closing{ID: begin(t, j, 20+i, "1").ID, State: Reverted, Count: CountRevert}))
		}
		if n := len(j.Failures()); n != 2 {
			t.Fatalf("%d failures", n)
		}
	})
}

// The file does not grow with the number of operations: all its room is taken
// early on.
func TestFileIsBounded(t *testing.T) {
	t.Parallel()
	n := 5000
	if campaign() {
		n = 100_000
	}
	p := filePlace(t)
	p.dir = filepath.Join(memoryDir(t), "journal") // syncs are not what is tested here
	j := p.open(t, func(o *Options) { o.Limits.Done = 200 })
	var early int64
	for i := range n {
		finish(t, j, begin(t, j, i%50, "9000").ID, Done)
		if i == n/4 {
			early = j.Size()
		}
	}
	if size := j.Size(); size != early || size > 2<<20 {
		t.Fatalf("file of %d bytes after %d operations, %d after a quarter of them", size, n, early)
	}
	evidence(t, n, "operations in a file that stays at %d bytes", j.Size())
}
