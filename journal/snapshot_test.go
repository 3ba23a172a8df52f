package journal

import (
	"testing"
)

// TestASnapshotInMemoryIsTheJournal: what is read there is what is in the file,
// also what a newer agent wrote, and what is written there stays there.
func TestASnapshotInMemoryIsTheJournal(t *testing.T) {
	p := filePlace(t)
	j := p.open(t)
	begin(t, j, 1, "1")
	op := begin(t, j, 2, "2")
	ok(t, j.Quarantine(t.Context(), op.ID, "foreign"))
	ok(t, j.Close())
	before := fingerprint(t, p.path())
	s, err := OpenReadOnly(p.path())
	ok(t, err)
	m, err := s.Memory()
	ok(t, err)
	copied, err := OpenMemory(t.Context(), m, Options{BootID: "b"})
	ok(t, err)
	if _, degraded := copied.Degraded(); degraded || len(copied.Operations()) != 1 || len(copied.Quarantined()) != 1 {
		t.Errorf("the copy has %v and %v, degraded %v", copied.Operations(), copied.Quarantined(), degraded)
	}
	next := begin(t, copied, 3, "3")
	if next.ID != op.ID+1 {
		t.Errorf("the next operation is %d, want %d", next.ID, op.ID+1)
	}
	ok(t, copied.Close())
	if after := fingerprint(t, p.path()); after != before {
		t.Errorf("%s became %s", before, after)
	}
}
