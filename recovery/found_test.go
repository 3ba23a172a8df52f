package recovery

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"eniagent/drivers"
	"eniagent/journal"
)

// TestARecordedFindingIsWhatWasObserved: a plan from it is the plan that the host
// would have given.
func TestARecordedFindingIsWhatWasObserved(t *testing.T) {
	k := drivers.Key{Kind: "driver", Target: "0000:02:00.0"}
	for _, o := range []drivers.Observation{
		drivers.Seen("driver=- override=other"),
		drivers.Seen(drivers.Hidden),
		{Presence: drivers.Gone},
		{Presence: drivers.Unobservable, Err: errors.New("EIO")},
	} {
		kept := Record([]Finding{{Change: journal.Change{Key: k}, Observed: o, Class: Foreign}})
		if len(kept) != 1 || kept[0].Key != k || kept[0].Class != string(Foreign) {
			t.Fatalf("%v is kept as %+v", o, kept)
		}
		got := Recorded(kept[0])
		if diff := cmp.Diff(o, got, cmpopts.IgnoreFields(drivers.Observation{}, "Err")); diff != "" {
			t.Errorf("%v came back as\n%s", o, diff)
		}
		if (got.Err != nil) != (o.Presence == drivers.Unobservable) {
			t.Errorf("%v came back with the error %v", o, got.Err)
		}
	}
}
