package engine_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/journal"
)

// Flags of the crash tests; make crash sets them.
//
//nolint:gochecknoglobals // flags of the test binary
var (
	replay    = flag.String("replay", "", "run only this crash, as a failure prints it")
	crashSeed = flag.Uint64("crash-seed", 1, "which crashes are tried where not all are")
	seconds   = flag.Int("seconds", 16, "crash a recovery at one in so many boundaries; 1 is all")
	thirds    = flag.Int("thirds", 40, "crash one in so many recoveries of a recovery a third time, at each boundary; 1 is all")
	onDisk    = flag.Int("disk", 16, "crash one in so many boundaries on a journal's file; 1 is all")
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
	foreign   bool
}

func (f fate) String() string {
	words := []string{
		map[bool]string{false: "same boot", true: "reboot"}[f.reboot],
		map[bool]string{false: "still wanted", true: "withdrawn"}[f.withdrawn],
	}
	if f.foreign {
		words = append(words, "foreign hand")
	}
	return strings.Join(words, ", ")
}

func fates() (all []fate) {
	for _, reboot := range []bool{false, true} {
		for _, withdrawn := range []bool{false, true} {
			for _, foreign := range []bool{false, true} {
				all = append(all, fate{reboot, withdrawn, foreign})
			}
		}
	}
	return all
}

// campaign crashes operations and gathers what it finds.
type campaign struct {
	t       testing.TB
	firsts  int // crash at one in so many boundaries; 0 is all
	seconds int
	thirds  int
	rng     *rand.Rand
	replay  []string
	// every, where it is not zero, runs on a journal's file instead of in
	// memory, and crashes one in so many boundaries.
	every int
	// breaks makes a broken variant of a world that was just made or copied.
	breaks func(*world)

	points     [3]int // crashes of an operation, of its recovery, of the recovery of that
	violations []string
}

const pathSeparator = " > "

// shortShare is one in how many crashes -short tries: other ones with another
// seed. What breaks a variant is looked for at all of them.
const shortShare = 8

// start is the first boundary of a run that takes one in so many, in order.
func (c *campaign) start() int {
	if c.firsts == 0 {
		return 0
	}
	return c.rng.IntN(c.firsts)
}

// left says that a boundary is not for this run.
func (c *campaign) left() bool {
	return c.firsts > 0 && c.breaks == nil && c.rng.IntN(c.firsts) != 0
}

func newCampaign(t testing.TB) *campaign {
	c := &campaign{t: t, seconds: *seconds, thirds: *thirds, rng: rand.New(rand.NewPCG(*crashSeed, 0))}
	if testing.Short() && *replay == "" {
		c.firsts, c.seconds, c.thirds = shortShare, c.seconds*shortShare, c.thirds*shortShare
	}
	if *replay != "" {
		c.replay, c.seconds, c.thirds, *onDisk = strings.Split(*replay, pathSeparator), 1, 1, 1
	}
	return c
}

// skips says whether a replay is about another crash than this one.
func (c *campaign) skips(path ...string) bool {
	n := min(len(path), len(c.replay))
	return !slices.Equal(path[:n], c.replay[:n])
}

// violated notes what must not be, and how to see it again.
func (c *campaign) violated(invariant, path, format string, args ...any) {
	c.violations = append(c.violations, fmt.Sprintf("%s: %s\n\tmake crash REPLAY='%s'", invariant, fmt.Sprintf(format, args...), path))
}

// report fails the test for the first violations; the rest is mostly the same.
func (c *campaign) report() {
	c.t.Helper()
	for _, v := range c.violations[:min(len(c.violations), 5)] {
		c.t.Error(v)
	}
	if n := len(c.violations); n > 5 {
		c.t.Errorf("and %d more", n-5)
	}
	switch {
	case c.points[0] > 0:
	case c.replay != nil:
		c.t.Log("the replay is of another test")
	default:
		c.t.Error("no crash was tried")
	}
}

// TestEveryCrashPointRecovers crashes each operation at every boundary before
// and after each commit and each host write, recovers each copy, crashes that
// recovery at every one of its boundaries, recovers those copies too, and some
// of them a third time.
func TestEveryCrashPointRecovers(t *testing.T) {
	c := newCampaign(t)
	for _, s := range scenarios() {
		c.crash(s)
	}
	c.report()
	t.Logf("evidence: in process | crash at 1 in %d boundaries, at 1 in %d of its recovery, and 1 in %d (seed %d) of those once more | %d + %d + %d | %d",
		max(c.firsts, 1), c.seconds, c.thirds, *crashSeed, c.points[0], c.points[1], c.points[2], len(c.violations))
}

// TestEveryCrashPointRecoversOnDisk is the single crashes on a journal's file.
func TestEveryCrashPointRecoversOnDisk(t *testing.T) {
	c := newCampaign(t)
	c.every = *onDisk * max(c.firsts, 1)
	for _, s := range scenarios() {
		c.crash(s, fate{}, fate{reboot: true})
	}
	c.report()
	t.Logf("evidence: in process, bbolt on a disk | crash at 1 in %d boundaries (seed %d) | %d | %d", c.every, *crashSeed, c.points[0], len(c.violations))
}

func (c *campaign) world() *world {
	w := newWorld(c.t)
	if c.every > 0 {
		w.dir = c.t.TempDir()
		if err := os.Chmod(w.dir, 0o700); err != nil {
			c.t.Fatal(err)
		}
	}
	return w
}

// crash runs a scenario with every fate, or with those given.
func (c *campaign) crash(s scenario, only ...fate) {
	if len(only) == 0 {
		only = fates()
	}
	for _, f := range only {
		if f.foreign && s.foreign == nil || c.skips(s.name, f.String()) {
			continue
		}
		c.crashOnce(s, f)
	}
}

func (c *campaign) crashOnce(s scenario, f fate) {
	w := c.world()
	if s.setup != nil {
		s.setup(w)
	}
	draft := s.draft(w)
	if draft.Empty() {
		c.t.Fatal("the scenario asks for nothing")
	}
	wanted := plan.Goal{}
	if !f.withdrawn {
		maps.Copy(wanted, draft.After)
	}
	x := &crashed{campaign: c, scenario: s, fate: f, draft: draft, wanted: wanted}
	w.breaks(c.breaks)
	crashes := shots(w, func() {
		j, e := w.open()
		r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
		if want := map[bool]engine.Outcome{false: engine.Done, true: engine.Reverted}[s.fails]; r.Outcome != want && c.breaks == nil {
			c.t.Fatalf("%s: without a crash it ends %s (%v), want %s\n%s", s.name, r.Outcome, r.Err, want, &w.log)
		}
		if err := j.Close(); err != nil && c.breaks == nil {
			c.t.Fatal(err)
		}
	})
	if c.breaks == nil {
		x.explained(w, "no crash")
	}
	x.asWritten(w, "no crash")
	for _, shot := range crashes {
		if c.every > 0 && c.rng.IntN(c.every) != 0 || c.every == 0 && c.left() || c.skips(s.name, f.String(), shot.label) {
			continue
		}
		x.first(shot)
	}
}

// crashed is one scenario with one fate.
type crashed struct {
	*campaign
	scenario scenario
	fate     fate
	draft    plan.Draft
	wanted   plan.Goal
}

func (x *crashed) path(labels ...string) string {
	return strings.Join(append([]string{x.scenario.name, x.fate.String()}, labels...), pathSeparator)
}

// first lets a crashed world have its fate, recovers it, and crashes that.
func (x *crashed) first(s shot) {
	w := s.world
	w.breaks(x.breaks)
	x.points[0]++
	open, _ := w.operations()
	if x.fate.reboot {
		w.reboot()
		x.durable(w, s.label)
	}
	if x.fate.foreign {
		x.scenario.foreign(w)
		x.handsOff(w, open, s.label)
		return
	}
	recovering := shots(w, func() { w.recover(x.wanted) })
	x.explained(w, s.label)
	end := dump(w)
	if x.every > 0 {
		return
	}
	for _, again := range recovering {
		if x.rng.IntN(x.seconds) == 0 && !x.skips(x.scenario.name, x.fate.String(), s.label, again.label) {
			x.second(again, s.label, end)
		}
	}
	x.converges(w, s.label)
}

// durable: where an operation is closed, the files are as it says, whatever a
// power cut took.
func (x *crashed) durable(w *world, label string) {
	for _, op := range w.closed() {
		goal := plan.Goal(nil)
		switch op.State {
		case journal.Done:
			goal = op.After()
		case journal.Reverted:
			goal = op.Before()
		}
		if !w.at(persistent(goal)) {
			x.violated("I17", x.path(label), "operation %d is %s, and after a power cut the files are not: %v", op.ID, op.State, w.observe(persistent(goal)))
		}
	}
}

// second recovers a world that crashed while it was recovered: it ends as if
// it had not.
func (x *crashed) second(s shot, first, end string) {
	x.points[1]++
	w := s.world
	w.breaks(x.breaks)
	w.written = w.writes()
	var third []shot
	if x.rng.IntN(x.thirds) == 0 {
		third = shots(w, func() { w.recover(x.wanted) })
	} else {
		w.recover(x.wanted)
	}
	x.explained(w, first, s.label)
	x.sameEnd(w, end, first, s.label)
	for _, again := range third {
		if x.skips(x.scenario.name, x.fate.String(), first, s.label, again.label) {
			continue
		}
		x.points[2]++
		w := again.world
		w.breaks(x.breaks)
		w.written = w.writes()
		w.recover(x.wanted)
		x.explained(w, first, s.label, again.label)
		x.sameEnd(w, end, first, s.label, again.label)
	}
}

func (x *crashed) sameEnd(w *world, end string, labels ...string) {
	if got := dump(w); got != end {
		x.violated("I3", x.path(labels...), "the end is not that of an uncrashed recovery:\n%s\nwant\n%s", got, end)
	}
}

// handsOff is what a recovery may do with what another tool has made of the
// host: nothing.
func (x *crashed) handsOff(w *world, open []journal.Operation, label string) {
	before, writes := w.kernel.String()+fmt.Sprint(w.files), w.kernel.Writes()
	w.recover(x.wanted)
	if now := w.kernel.String() + fmt.Sprint(w.files); now != before || w.kernel.Writes() != writes {
		x.violated("I4", x.path(label), "what another tool did was overwritten:\n%s", &w.log)
	}
	left, q := w.operations()
	if len(left) > 0 || !x.fate.reboot && len(q) != len(open) {
		x.violated("I4", x.path(label), "%d were open, now %v are open and %v in quarantine", len(open), left, q)
	}
}

// explained are the invariants at the end of a recovery: nothing is open, the
// host is at Before or at After as a whole (of what died with the kernel, as
// the kernel made it), nothing was written without an intent, and recovering
// once more writes nothing.
func (x *crashed) explained(w *world, labels ...string) {
	path := x.path(labels...)
	x.asWritten(w, labels...)
	open, quarantined := w.operations()
	if len(open)+len(quarantined) > 0 {
		x.violated("I2", path, "left open %v, in quarantine %v\n%s", open, quarantined, &w.log)
	}
	before, after := x.draft.Before, x.draft.After
	if x.fate.reboot && labels[0] != "no crash" {
		if n := w.writes(); n != w.written {
			x.violated("I5", path, "recovery wrote to a new kernel %d times\n%s", n-w.written, &w.log)
		}
		before, after = persistent(before), persistent(after)
	}
	if !w.at(before) && !w.at(after) {
		x.violated("I2", path, "the host is neither at before nor at after: %v\n%s", w.observe(after), &w.log)
	}
	x.owed(w, path)
	state, writes, commits := dump(w), w.kernel.Writes(), 0
	w.boundary = func(label string) {
		if strings.HasPrefix(label, "journal") {
			commits++
		}
	}
	w.recover(nil)
	w.boundary = nil
	if dump(w) != state || w.kernel.Writes() != writes || commits != 0 {
		x.violated("I3", path, "recovering once more changes the host, or makes %d commits", commits)
	}
}

// owed: for each operation that changed the device plugin's file, whoever it was
// that closed it, its restart is owed, once; for none that did not. Where one was
// found to be undone already, nobody can say.
func (x *crashed) owed(w *world, path string) {
	if !slices.ContainsFunc(slices.Collect(maps.Keys(x.draft.After)), func(k drivers.Key) bool { return k.Kind == deviceplugin.Kind }) {
		return
	}
	changed, uncertain := 0, 0
	for _, op := range w.closed() {
		for _, c := range op.Changes {
			if c.Key.Kind != deviceplugin.Kind {
				continue
			}
			if op.State == journal.Done {
				changed++
			} else if w.edited > 0 || w.met[op.ID] {
				uncertain++
			}
			break
		}
	}
	if owed := int(w.debt().Owed); owed < changed || owed > changed+uncertain {
		x.violated("I18", path, "%d changes of the file are owed, %d to %d were made\n%s", owed, changed, changed+uncertain, &w.log)
	}
}

// asWritten are the rules that were broken while the host was written.
func (x *crashed) asWritten(w *world, labels ...string) {
	for _, b := range w.broken {
		x.violated("while writing", x.path(labels...), "%s", b)
	}
	w.broken = nil
}

func persistent(g plan.Goal) plan.Goal {
	only := plan.Goal{}
	for k, s := range g {
		if spec, _ := specs().Find(k.Kind); spec.Class == drivers.Persistent {
			only[k] = s
		}
	}
	return only
}

// converges: from wherever recovery ended, one operation brings the host to
// what is wanted.
func (x *crashed) converges(w *world, label string) {
	if x.fate.withdrawn || x.scenario.fails || w.at(x.draft.After) {
		return
	}
	draft := x.scenario.draft(w)
	for k, o := range w.observe(draft.Before) {
		draft.Before[k] = o.State
	}
	if draft.Empty() {
		return
	}
	j, e := w.open()
	defer j.Abandon()
	if r := e.Run(context.Background(), draft, journal.Reason{Source: "test"}); r.Outcome != engine.Done || !w.at(draft.After) {
		x.violated("I16", x.path(label), "reconciliation after it ends %s (%v)\n%s", r.Outcome, r.Err, &w.log)
	}
}

// dump is the state of the host without what changes at every rebind by
// design: inodes, indexes, the random MAC of a VF, and the counters of faults.
func dump(w *world) string {
	return madeAnew.ReplaceAllString(w.kernel.String(), "") + fmt.Sprint(w.files)
}

var madeAnew = regexp.MustCompile(`(?m) (inode|index|mac)=\S+| vf[0-9]+\.mac="fe:[0-9a-f:]+"|^fault .*\n`)
