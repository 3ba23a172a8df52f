package engine_test

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/journal"
)

// shot is the world at one boundary.
type shot struct {
	label string
	world *world
}

// shots runs fn on the world and keeps a copy of it at every boundary.
func shots(w *world, fn func()) []shot {
	var all []shot
	w.boundary = func(label string) { all = append(all, shot{fmt.Sprintf("%d %s", len(all), label), w.copyAt()}) }
	fn()
	w.boundary = nil
	return all
}

// fate is what became of the world after a crash, besides the crash itself.
type fate struct {
	reboot    bool
	withdrawn bool
}

func (f fate) String() string {
	return strings.Join([]string{
		map[bool]string{false: "same boot", true: "reboot"}[f.reboot],
		map[bool]string{false: "still wanted", true: "withdrawn"}[f.withdrawn],
	}, ", ")
}

func fates() []fate {
	return []fate{{}, {withdrawn: true}, {reboot: true}, {reboot: true, withdrawn: true}}
}

// TestEveryCrashPointRecovers crashes each operation at every boundary before
// and after each commit and each host write, recovers each copy, crashes that
// recovery at every one of its boundaries, and recovers those copies too.
func TestEveryCrashPointRecovers(t *testing.T) {
	points := 0
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			for _, f := range fates() {
				points += crashScenario(t, s, f)
			}
		})
	}
	t.Logf("%d crash points recovered", points)
}

func crashScenario(t *testing.T, s scenario, f fate) (points int) {
	w := newWorld(t)
	if s.setup != nil {
		s.setup(w)
	}
	draft := s.draft(w)
	if draft.Empty() {
		t.Fatal("the scenario asks for nothing")
	}
	wanted := plan.Goal{}
	if !f.withdrawn {
		maps.Copy(wanted, draft.After)
	}
	crashes := shots(w, func() {
		j, e := w.open()
		r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
		if want := map[bool]engine.Outcome{false: engine.Done, true: engine.Reverted}[s.fails]; r.Outcome != want {
			t.Fatalf("without a crash it ends %s (%v), want %s\n%s", r.Outcome, r.Err, want, &w.log)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
	w.mustBeExplained("no crash", draft, f, false)
	for _, c := range crashes {
		points++
		points += crashAgain(t, c, draft, wanted, f)
	}
	return points
}

// crashAgain recovers a copy, and copies of it from inside that recovery.
func crashAgain(t *testing.T, c shot, draft plan.Draft, wanted plan.Goal, f fate) (points int) {
	t.Helper()
	where := f.String() + ", crash at " + c.label
	if f.reboot {
		c.world.kernel.Reboot()
		c.world.written = c.world.kernel.Writes()
	}
	recovering := shots(c.world, func() { c.world.recover(wanted) })
	c.world.mustBeExplained(where, draft, f, true)
	for _, again := range recovering {
		points++
		again.world.written = again.world.kernel.Writes()
		again.world.recover(wanted)
		again.world.mustBeExplained(where+", then at "+again.label, draft, f, true)
		if got, want := dump(again.world), dump(c.world); got != want {
			t.Errorf("%s, then at %s: the end is not that of an uncrashed recovery:\n%s\nwant\n%s", where, again.label, got, want)
		}
	}
	return points
}

// mustBeExplained are the invariants at the end of a recovery: nothing is
// open, the host is at Before or at After as a whole (after a reboot: as the
// kernel made it), nothing was written without an intent, and recovering once
// more writes nothing.
func (w *world) mustBeExplained(where string, d plan.Draft, f fate, crashed bool) {
	w.t.Helper()
	for _, b := range w.broken {
		w.t.Errorf("%s: write-ahead rule: %s", where, b)
	}
	open, quarantined := w.operations()
	if len(open)+len(quarantined) > 0 {
		w.t.Errorf("%s: left open %v, in quarantine %v\n%s", where, open, quarantined, &w.log)
	}
	if crashed && f.reboot {
		if n := w.kernel.Writes(); n != w.written {
			w.t.Errorf("%s: recovery wrote to a new kernel %d times", where, n-w.written)
		}
		return
	}
	if !w.at(d.Before) && !w.at(d.After) {
		w.t.Errorf("%s: the host is neither at before nor at after: %v\n%s", where, w.observe(d.After), &w.log)
	}
	before, writes := dump(w), w.kernel.Writes()
	w.recover(nil)
	if dump(w) != before || w.kernel.Writes() != writes {
		w.t.Errorf("%s: recovering once more changes the host", where)
	}
}

// dump is the state of the host without what changes at every rebind by
// design: inodes, indexes, the random MAC of a VF, and the counters of faults.
func dump(w *world) string { return madeAnew.ReplaceAllString(w.kernel.String(), "") }

var madeAnew = regexp.MustCompile(`(?m) (inode|index|mac)=\S+|^fault .*\n`)
