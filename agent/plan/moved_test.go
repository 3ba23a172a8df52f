package plan_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
)

// TestCoverTakesWhatIsMoved: what is asked, and is so, is in an operation that
// may move it, and is only taken along where nobody asks for it; nothing is where
// nothing moves.
func TestCoverTakesWhatIsMoved(t *testing.T) {
	const four, two = drivers.State("rx=0 tx=0 combined=4"), drivers.State("rx=0 tx=0 combined=2")
	bare := func(channels drivers.State) plan.Observed {
		return plan.Observed{
			key("numvfs"): drivers.Seen(vfs()), key("driver"): drivers.Seen(igb), key("channels"): drivers.Seen(channels), key("mtu"): drivers.Seen("1500"),
		}
	}
	for name, tc := range map[string]struct {
		from, want plan.Goal
		to         plan.Goal // want, when nil
		seen       plan.Observed
		along      map[drivers.Key]bool
	}{
		"right, and moved":   {want: plan.Goal{key("numvfs"): vfs(first), key("channels"): two}, seen: bare(two), from: plan.Goal{key("numvfs"): vfs(), key("channels"): two}},
		"another, and moved": {want: plan.Goal{key("numvfs"): vfs(first), key("channels"): two}, seen: bare(four), from: plan.Goal{key("numvfs"): vfs(), key("channels"): four}},
		"nobody asks for them": {
			want: plan.Goal{key("numvfs"): vfs(first)}, seen: bare(four), from: plan.Goal{key("numvfs"): vfs(), key("channels"): four},
			to: plan.Goal{key("numvfs"): vfs(first), key("channels"): four}, along: map[drivers.Key]bool{key("channels"): true},
		},
	} {
		d, err := plan.Cover(all.Specs(), plan.Function{Target: nic, Want: tc.want, Observed: tc.seen})
		if err != nil {
			t.Fatal(err)
		}
		to := tc.to
		if to == nil {
			to = tc.want
		}
		if diff := cmp.Diff(plan.Draft{Before: tc.from, After: to, Along: tc.along}, d); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	d, err := plan.Cover(all.Specs(), plan.Function{Target: nic, Want: plan.Goal{key("numvfs"): vfs(), key("channels"): four}, Observed: bare(four)})
	if err != nil || !d.Empty() {
		t.Errorf("nothing is to be done, and the draft is %v (%v)", d, err)
	}
}
