package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestALostWriteIsNoOlderJournal puts pages of earlier commits into a journal,
// as a disk leaves them that lost a write it had confirmed. Every page is sound;
// the journal must not come out as one of earlier days.
func TestALostWriteIsNoOlderJournal(t *testing.T) {
	p := filePlace(t)
	j := p.open(t)
	var commits [][]byte
	keep := func() {
		data, err := os.ReadFile(filepath.Join(p.dir, FileName))
		ok(t, err)
		commits = append(commits, data)
	}
	for n := range 12 {
		o := begin(t, j, n, "9000")
		keep()
		if n%3 == 0 {
			finish(t, j, o.ID, Done)
		}
	}
	ok(t, j.Close())
	tried, noticed := 0, 0
	for n := range commits {
		for older := range n {
			a, b := lostWrites(t, commits, n, older)
			tried, noticed = tried+a, noticed+b
		}
	}
	if noticed == 0 {
		t.Errorf("nothing was damaged by any of %d pages", tried)
	}
}

// lostWrites puts each page of an older commit into a newer one.
func lostWrites(t *testing.T, commits [][]byte, newer, older int) (tried, noticed int) {
	path := filepath.Join(t.TempDir(), FileName)
	read := func(data []byte) (*Snapshot, error) {
		ok(t, os.WriteFile(path, data, 0o600))
		return OpenReadOnly(path)
	}
	whole, err := read(commits[newer])
	ok(t, err)
	want := fmt.Sprint(whole.Manifest().Sequence, whole.Operations(), whole.History(0))
	for at := 2 * pageSize; at+pageSize <= min(len(commits[newer]), len(commits[older])); at += pageSize {
		page := commits[older][at : at+pageSize]
		if bytes.Equal(page, commits[newer][at:at+pageSize]) {
			continue
		}
		mixed := bytes.Clone(commits[newer])
		copy(mixed[at:], page)
		s, err := read(mixed)
		tried++
		switch {
		case errors.Is(err, ErrCorrupt):
			noticed++
		case err != nil:
			t.Fatal(err)
		case fmt.Sprint(s.Manifest().Sequence, s.Operations(), s.History(0)) != want:
			t.Errorf("page %d of commit %d as commit %d had it: opened as sequence %d, want %d",
				at/pageSize, newer, older, s.Manifest().Sequence, whole.Manifest().Sequence)
		}
	}
	return tried, noticed
}
