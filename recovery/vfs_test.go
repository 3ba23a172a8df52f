package recovery

import (
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/sriov"
	"eniagent/journal"
)

const vf drivers.Target = "0000:02:10.0"

// makes is an operation that changes the VFs of nic; driver is of the one at vf.
func makes(was, is []drivers.Target, before, after drivers.State) *journal.Operation {
	state := func(all []drivers.Target) drivers.State {
		return sriov.VFs{Autoprobe: true, Addresses: all}.State()
	}
	return &journal.Operation{
		ID: 7, State: journal.Intent, BootID: "boot", Attempts: 1,
		Changes: []journal.Change{
			{Key: drivers.Key{Kind: "driver", Target: vf}, Class: drivers.Volatile, Before: before, After: after},
			{Key: drivers.Key{Kind: "numvfs", Target: "0000:03:00.0"}, Class: drivers.Volatile, Before: state(nil), After: state([]drivers.Target{"0000:03:10.0"})},
			{Key: key("numvfs"), Class: drivers.Volatile, Before: state(was), After: state(is)},
		},
	}
}

// TestAHiddenVFIsWhatItsMakerIs, whatever becomes of another PF's.
func TestAHiddenVFIsWhatItsMakerIs(t *testing.T) {
	for name, tc := range map[string]struct {
		op           *journal.Operation
		other, maker Class
		want         Class
	}{
		"made, not yet":         {makes(nil, []drivers.Target{vf}, drivers.Hidden, vfio), Before, Before, Before},
		"made, and gone again":  {makes(nil, []drivers.Target{vf}, drivers.Hidden, vfio), After, After, Between},
		"removed":               {makes([]drivers.Target{vf}, nil, vfio, drivers.Hidden), After, After, After},
		"removed, not to be":    {makes([]drivers.Target{vf}, nil, vfio, drivers.Hidden), Before, Before, Between},
		"removed, another's is": {makes([]drivers.Target{vf}, nil, vfio, drivers.Hidden), Before, After, Between},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Whole(all.Specs(), tc.op, []Class{Hidden, tc.other, tc.maker}); got != tc.want {
				t.Errorf("it is %s, want %s", got, tc.want)
			}
		})
	}
	op := makes([]drivers.Target{vf}, nil, vfio, drivers.Hidden)
	if got := unhide(all.Specs(), op, op.Changes[0], []Class{Hidden, After, Before}); got != Between {
		t.Errorf("a VF counts as %s by another PF's change, want %s", got, Between)
	}
	if got := unhide(all.Specs(), op, op.Changes[0], []Class{Hidden, Before, After}); got != After {
		t.Errorf("a VF counts as %s once its maker is at its after, want %s", got, After)
	}
}

// TestAVFOnItsWay: a VF made anew comes from no driver, to either end.
func TestAVFOnItsWay(t *testing.T) {
	for state, want := range map[drivers.State]Class{
		vfio:                         After,
		"driver=igbvf override=-":    Before,
		none:                         Between, // as the kernel makes it
		noneVF:                       Between,
		"driver=- override=igbvf":    Foreign,
		"driver=ixgbevf override=-":  Foreign,
		"driver=igbvf override=none": Foreign,
	} {
		op := makes([]drivers.Target{vf}, []drivers.Target{vf, "0000:02:10.2"}, "driver=igbvf override=-", vfio)
		if got := Classify(all.Specs(), op, op.Changes[0], drivers.Seen(state)); got != want && !(want == Between && got == Fresh) {
			t.Errorf("to vfio-pci, %s is %s, want %s", state, got, want)
		}
	}
	op := makes([]drivers.Target{vf}, []drivers.Target{vf, "0000:02:10.2"}, vfio, "driver=igbvf override=-")
	if got := Classify(all.Specs(), op, op.Changes[0], drivers.Seen(noneVF)); got != Between {
		t.Errorf("on the way back to vfio-pci it is %s, want %s", got, Between)
	}
}

// TestWhatWasAbsent is what a file that is gone is judged by.
func TestWhatWasAbsent(t *testing.T) {
	was := func(states ...drivers.State) (changes []journal.Change) {
		for _, s := range states {
			changes = append(changes, journal.Change{Before: s, After: "{}"})
		}
		return changes
	}
	for _, tc := range []struct {
		changes []journal.Change
		want    bool
	}{
		{was(Absent), true}, {was(Absent, Absent), true}, {was("{}"), false}, {was(Absent, "{}"), false}, {was("{}", Absent), false},
	} {
		if got := allAbsent(tc.changes); got != tc.want {
			t.Errorf("%v: %t", tc.changes, got)
		}
	}
}
