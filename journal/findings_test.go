package journal

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestWhatWasFoundIsKeptWithAQuarantine, through a restart and its end, and where
// it has no room the quarantine goes without.
func TestWhatWasFoundIsKeptWithAQuarantine(t *testing.T) {
	p := filePlace(t)
	j := p.open(t)
	op := begin(t, j, 1, "1")
	found := []Finding{{Key: op.Changes[0].Key, Observed: "driver=- override=other", Class: "foreign"}}
	ok(t, j.QuarantineFound(context.Background(), op.ID, "foreign", found))
	big := begin(t, j, 2, "2")
	much := slices.Repeat([]Finding{{Key: big.Changes[0].Key, Observed: strings.Repeat("x", maxState), Class: "foreign"}}, maxOperation/maxState)
	ok(t, j.QuarantineFound(context.Background(), big.ID, "foreign", much))
	ok(t, j.Close())
	j = p.open(t)
	kept, _ := j.Get(op.ID)
	if diff := cmp.Diff(found, kept.Findings); diff != "" {
		t.Errorf("kept:\n%s", diff)
	}
	if kept, _ := j.Get(big.ID); kept.State != Quarantined || kept.Findings != nil {
		t.Errorf("without room: %s with %d findings", kept.State, len(kept.Findings))
	}
	ok(t, j.Resolve(context.Background(), op.ID, "accept", "root", "mine"))
	if kept, _ := j.Get(op.ID); !cmp.Equal(found, kept.Findings) {
		t.Errorf("once resolved: %+v", kept.Findings)
	}
	if next := begin(t, j, 1, "again"); next.Findings != nil {
		t.Errorf("a new operation has findings: %+v", next.Findings)
	}
	ok(t, j.Close())
}
