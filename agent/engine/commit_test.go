package engine_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/journal"
)

// disk is how the journal's disk fails at one commit.
type disk struct {
	name string
	// before and after are the errors on the two sides of the write.
	before, after error
	// sticky is the error of every later commit as well.
	sticky bool
	// lost says that the write is gone at the next start, though it was made.
	lost bool
}

func disks() []disk {
	return []disk{
		{name: "not written", before: syscall.EIO},
		{name: "written, reported failed", after: syscall.EIO},
		{name: "written, reported failed, lost", after: syscall.EIO, lost: true},
		{name: "never works again", before: syscall.EIO, sticky: true},
		{name: "no room once", before: syscall.ENOSPC},
		{name: "no room any more", before: syscall.ENOSPC, sticky: true},
		{name: "written, reported well, lost", lost: true},
	}
}

// TestEveryUnknownCommit lets each commit of each operation fail in each way.
// After an error nothing more is written to the host; a restarted agent
// recovers from whatever is there.
func TestEveryUnknownCommit(t *testing.T) {
	c := newCampaign(t)
	for _, s := range scenarios() {
		for _, d := range disks() {
			n := c.start()
			for c.failing(s, d, n) {
				n += max(c.firsts, 1)
			}
		}
	}
	c.report()
	t.Logf("evidence: in process | unknown commits: each commit failing in each of %d ways, then both boots, wanted and withdrawn | %d | %d",
		len(disks()), c.points[0], len(c.violations))
}

// failing runs a scenario whose n-th commit fails; false when there is none.
func (c *campaign) failing(s scenario, d disk, n int) bool {
	w := c.world()
	if s.setup != nil {
		s.setup(w)
	}
	draft := s.draft(w)
	f := &failure{disk: d, world: w, at: n, lost: w.store}
	w.fail = f.fail
	crashes := shots(w, func() {
		j, e := w.open()
		e.Run(context.Background(), draft, journal.Reason{Source: "test"})
		j.Abandon()
	})
	if f.commits <= n {
		return false
	}
	if f.failed && w.kernel.Writes() != f.writes {
		c.violated("I6", s.name, "the host was written %d times after commit %d was %s\n%s", w.kernel.Writes()-f.writes, n, d.name, &w.log)
	}
	ends := []shot{{"the end", w}}
	if d.lost && d.after == nil {
		ends = losing(crashes, n)
	}
	for _, end := range ends {
		for _, fate := range fates() {
			if fate.foreign {
				continue
			}
			again := end.world.copyAt()
			if d.lost && d.after != nil {
				again.lost(f.lost)
			}
			c.recovered(again, s, fate, draft, fmt.Sprintf("commit %d %s", n, d.name), end.label)
		}
	}
	return true
}

// failure is a disk that fails at one commit of a world.
type failure struct {
	disk
	world *world
	at    int // the commit

	commits, writes int
	failed          bool
	lost            *journal.Memory // the store before that commit
}

func (f *failure) fail(point string) error {
	before := strings.HasSuffix(point, ":before")
	if before {
		f.commits++
	}
	n, err := f.commits-1, f.after
	if n != f.at && (!f.sticky || n < f.at) {
		return nil
	}
	if before {
		f.lost, err = f.world.earlier, f.before
	}
	if err != nil && !f.failed {
		f.failed, f.writes = true, f.world.kernel.Writes()
	}
	return err
}

// losing are the crashes between the n-th commit and the next, with a disk that
// had not kept it.
func losing(crashes []shot, n int) (all []shot) {
	commits := 0
	for _, s := range crashes {
		if strings.Contains(s.label, "journal ") && strings.HasSuffix(s.label, ":before") {
			commits++
		}
		if commits == n+1 && !strings.Contains(s.label, "journal ") {
			s.world.lost(s.world.earlier)
			all = append(all, s)
		}
	}
	return all
}

// lost makes the store an earlier one: what came later was never durable.
func (w *world) lost(earlier *journal.Memory) {
	w.store = earlier.Clone()
	clear(w.undone)
}

func (c *campaign) recovered(w *world, s scenario, f fate, draft plan.Draft, labels ...string) {
	wanted := plan.Goal{}
	if !f.withdrawn {
		maps.Copy(wanted, draft.After)
	}
	if c.skips(append([]string{s.name, f.String()}, labels...)...) {
		return
	}
	x := &crashed{campaign: c, scenario: s, fate: f, draft: draft, wanted: wanted}
	c.points[0]++
	if f.reboot {
		w.reboot()
	}
	w.written = w.writes()
	w.recover(wanted)
	x.asWritten(w, labels...)
	if open, quarantined := w.operations(); len(open)+len(quarantined) > 0 {
		x.violated("I2", x.path(labels...), "left open %v, in quarantine %v\n%s", open, quarantined, &w.log)
	}
	x.converges(w, strings.Join(labels, pathSeparator))
}

// TestEveryStopPoint asks the agent to stop at each boundary: the step in
// flight is finished or marked, and the next agent goes on.
func TestEveryStopPoint(t *testing.T) {
	c, tried := newCampaign(t), 0
	for _, s := range scenarios() {
		for n := c.start(); c.stopped(s, n); n += max(c.firsts, 1) {
			tried++
		}
	}
	c.report()
	t.Logf("evidence: in process | orderly stop (SIGTERM) at each boundary | %d | %d", tried, len(c.violations))
}

func (c *campaign) stopped(s scenario, n int) bool {
	w := c.world()
	if s.setup != nil {
		s.setup(w)
	}
	draft := s.draft(w)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	passed := 0
	w.boundary = func(string) {
		if passed == n {
			cancel()
		}
		passed++
	}
	j, e := w.open()
	r := e.Run(ctx, draft, journal.Reason{Source: "test"})
	if err := j.Close(); err != nil {
		c.t.Fatal(err)
	}
	w.boundary = nil
	if passed <= n {
		return false
	}
	at := fmt.Sprintf("stop at %d", n)
	if open, _ := w.operations(); len(open) > 0 != (r.Outcome == engine.Kept) {
		c.violated("stop", s.name, "%s: it ended %s (%v) and left %d open", at, r.Outcome, r.Err, len(open))
	}
	for _, f := range fates() {
		if !f.foreign {
			c.recovered(w.copyAt(), s, f, draft, at)
		}
	}
	return true
}
