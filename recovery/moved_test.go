package recovery

import (
	"slices"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/journal"
)

// TestClassifyWhatAWriteMoves: what a write of the operation moves on the same
// function is its own doing; the same value is another hand's where nothing of
// the operation moves it.
func TestClassifyWhatAWriteMoves(t *testing.T) {
	const (
		vf   drivers.Target = "0000:02:10.0"
		four drivers.State  = "rx=0 tx=0 combined=4"
		two  drivers.State  = "rx=0 tx=0 combined=2"
		mac  drivers.State  = "52:54:00:00:00:07"
		own  drivers.State  = "fe:00:00:00:00:07" // which the VF's driver made up
		no   drivers.State  = "00:00:00:00:00:00"
		made drivers.State  = "autoprobe=1 vfs=0000:02:10.0"
		away drivers.State  = "autoprobe=1 vfs=-"
	)
	still := specsWithout(t)
	change := func(t drivers.Target, kind drivers.Kind, before, after drivers.State) journal.Change {
		return journal.Change{Key: drivers.Key{Kind: kind, Target: t}, Class: drivers.Volatile, Before: before, After: after}
	}
	for _, tc := range []struct {
		name  string
		is    drivers.State
		about journal.Change
		by    journal.Change
		want  Class
		still Class // as long as nothing is said to move
	}{
		{"VFs take channels", two, change(nic, "channels", four, four), change(nic, "numvfs", away, made), Fresh, Foreign},
		{"VFs that go give them back", four, change(nic, "channels", two, two), change(nic, "numvfs", made, away), Fresh, Foreign},
		{"not moved yet", four, change(nic, "channels", four, four), change(nic, "numvfs", away, made), Unchanged, Unchanged},
		{"the VFs stay", two, change(nic, "channels", four, four), change(nic, "numvfs", made, made), Foreign, Foreign},
		{"of another function", two, change(nic, "channels", four, four), change("0000:03:00.0", "numvfs", away, made), Foreign, Foreign},
		{"a VF's driver makes a MAC up", own, change(vf, "vf.mac", no, mac), change(vf, "driver", "driver=igbvf override=-", vfio), Fresh, Foreign},
		{"no driver was changed", own, change(vf, "vf.mac", no, mac), change(vf, "vf.trust", "off", "on"), Foreign, Foreign},
	} {
		op := &journal.Operation{State: journal.Intent, Changes: []journal.Change{tc.about, tc.by}}
		if got := Classify(all.Specs(), op, tc.about, drivers.Seen(tc.is)); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
		if got := Classify(still, op, tc.about, drivers.Seen(tc.is)); got != tc.still {
			t.Errorf("%s, with nothing that moves: %s, want %s", tc.name, got, tc.still)
		}
	}
}

// specsWithout are the kinds as if none moved another.
func specsWithout(t *testing.T) drivers.Specs {
	t.Helper()
	specs := slices.Clone(all.Specs())
	moves := 0
	for i := range specs {
		moves += len(specs[i].Moves)
		specs[i].Moves = nil
	}
	if moves == 0 {
		t.Fatal("no kind moves another")
	}
	return specs
}
