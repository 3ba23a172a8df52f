package agent

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"eniagent/drivers"
	"eniagent/journal"
	"eniagent/recovery"
)

// ofNewerAgent is a journal in which a newer agent of the same format has
// added a field to every record: an order to release 0000:00:00.1 among them,
// operations 1 and 5 open, 4 in quarantine.
func ofNewerAgent(t *testing.T) View {
	t.Helper()
	f, err := os.Open("../journal/testdata/files/added.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	path := filepath.Join(t.TempDir(), journal.FileName)
	if err := errors.Join(err, f.Close(), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	s, err := journal.OpenReadOnly(path)
	if err != nil {
		t.Fatal(err)
	}
	return View{Records: s.Records}
}

func TestNewerAgentsOrderIsObeyedAsAPause(t *testing.T) {
	v := ofNewerAgent(t)
	c, paused := v.paused("0000:02:00.0", "0000:00:00.1")
	if want := "order control/released@0000:00:00.1"; !paused || !strings.Contains(pausedText(c), want) || !strings.HasSuffix(pausedText(c), "install that agent again") {
		t.Errorf("paused %t: %s", paused, pausedText(c))
	}
	for _, others := range [][]drivers.Target{{}, {"0000:02:00.0"}} {
		if c, paused := v.paused(others...); paused {
			t.Errorf("%v is paused: %s", others, pausedText(c))
		}
	}
}

func TestNewerAgentsOperationsAreLeft(t *testing.T) {
	r := ofNewerAgent(t).Recover(context.Background(), "copy")
	var left []string
	for _, u := range r.Left {
		if !u.Person || !strings.Contains(u.Why, "written by a newer agent") {
			t.Errorf("%+v", u)
		}
		left = append(left, u.Record)
	}
	if got := strings.Join(left, " "); got != "open/1 open/5 quarantine/4" {
		t.Errorf("left: %s", got)
	}
	for _, u := range r.Unreadable {
		if strings.Contains(u, "done/") {
			t.Errorf("what is closed is nothing to recover: %s", u)
		}
	}
}

// What was tried and stays open is left, whatever was decided; what is only
// planned is not, unless it would stay.
func TestLeft(t *testing.T) {
	ctx := context.Background()
	j, err := NoJournal(ctx, "boot")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }()
	op, err := j.Begin(ctx, journal.Operation{
		Changes: []journal.Change{{Key: drivers.Key{Kind: "mtu", Target: "0000:02:00.0"}, Class: drivers.Volatile, Before: "1500", After: "9000"}},
		Reason:  journal.Reason{Source: "file"},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	v := View{Records: j.Records}
	for _, tc := range []struct {
		dry      bool
		decision recovery.Decision
		left     int
		person   bool
	}{
		{true, recovery.Replay, 0, false},
		{true, recovery.Keep, 1, false},
		{true, recovery.Quarantine, 1, true},
		{false, recovery.Replay, 1, false}, // it failed
		{false, recovery.Keep, 1, false},
	} {
		left := v.left(RecoverReport{DryRun: tc.dry, Entries: []RecoverEntry{{Operation: op.ID, Decision: tc.decision, Why: "half-way", Error: "busy"}}})
		if len(left) != tc.left || len(left) > 0 && (left[0].Operation != op.ID || left[0].Person != tc.person || left[0].Why != "busy") {
			t.Errorf("%+v: %+v", tc, left)
		}
	}
}
