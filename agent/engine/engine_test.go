package engine_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
	"eniagent/recovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func (w *world) bindDraft() plan.Draft { return w.cover(port, driverGoal(port, "vfio-pci"), nil) }

// TestActingBeforeTheIntentIsCaught is the broken variant of the write-ahead
// rule: the same check that every crash test runs must see it.
func TestActingBeforeTheIntentIsCaught(t *testing.T) {
	w := newWorld(t)
	draft := w.bindDraft()
	_, e := w.open()
	d, err := e.Drivers.Driver("driver")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Apply(context.Background(), port, "driver=igb override=vfio-pci"); err != nil {
		t.Fatal(err)
	}
	if len(w.broken) == 0 {
		t.Fatal("a write without an intent was not noticed")
	}
	if r := e.Run(context.Background(), draft, journal.Reason{Source: "test"}); r.Outcome != engine.Blocked {
		t.Errorf("a draft of a host that has changed since ended %s, want %s", r.Outcome, engine.Blocked)
	}
}

// credulous is a driver that believes its writes: the broken variant of
// reading back.
type credulous struct {
	drivers.Driver
	said drivers.State
}

func (c *credulous) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	if err := c.Driver.Apply(ctx, t, to); err != nil && !errors.Is(err, drivers.ErrUnverified) {
		return err
	}
	c.said = to
	return nil
}

func (c *credulous) Observe(ctx context.Context, t drivers.Target) drivers.Observation {
	if c.said != "" {
		return drivers.Seen(c.said)
	}
	return c.Driver.Observe(ctx, t)
}

func TestSuccessIsReadBack(t *testing.T) {
	run := func(t *testing.T, wrap func(drivers.Driver) drivers.Driver) (engine.Result, bool) {
		w := newWorld(t)
		w.inject(sim.Fault{Label: "bind", Path: "vfio-pci", Noop: true, Times: -1})
		draft := w.bindDraft()
		_, e := w.open()
		e.Drivers.Drivers["driver"] = wrap(e.Drivers.Drivers["driver"])
		r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
		return r, r.Outcome != engine.Done || w.at(draft.After)
	}
	r, truthful := run(t, func(d drivers.Driver) drivers.Driver { return d })
	if !truthful || r.Outcome != engine.Reverted {
		t.Errorf("a bind that did nothing ended %s (%v), want %s", r.Outcome, r.Err, engine.Reverted)
	}
	if _, truthful := run(t, func(d drivers.Driver) drivers.Driver { return &credulous{Driver: d} }); truthful {
		t.Error("a driver that believes its writes was not noticed")
	}
}

func TestHungWriteKeepsItsTargetOnly(t *testing.T) {
	for _, v := range hungWrite(t, nil) {
		t.Error(v)
	}
}

// TestAnAgentThatIgnoresFencesIsCaught is the broken variant of it.
func TestAnAgentThatIgnoresFencesIsCaught(t *testing.T) {
	if vs := hungWrite(t, func(o *engine.Options) { o.Host = unfenced{o.Host} }); len(vs) == 0 {
		t.Error("not noticed")
	}
}

// unfenced is a host whose fences nobody sees.
type unfenced struct{ host.Host }

func (unfenced) Fenced(drivers.Target) (bool, error) { return false, nil }

// hungWrite hangs an unbind, starts another agent meanwhile, and lets it go.
func hungWrite(t *testing.T, wrong func(*engine.Options)) (violations []string) {
	synctest.Test(t, func(t *testing.T) {
		violated := func(format string, args ...any) { violations = append(violations, fmt.Sprintf(format, args...)) }
		w := newWorld(t)
		w.wrong = wrong
		w.rebind("vfio-pci")
		release := w.kernel.Hold(string(port))
		back := w.cover(port, driverGoal(port, "igb"), plan.Goal{keyOf("mtu", port): "9000", keyOf("admin", port): "up"})
		j, e := w.open()
		r := e.Run(t.Context(), back, journal.Reason{Source: "test"})
		if r.Outcome != engine.Kept || !errors.Is(r.Err, drivers.ErrFenced) {
			violated("unbinding a held function ended %s (%v), want %s", r.Outcome, r.Err, engine.Kept)
		}
		if r := e.Run(t.Context(), w.cover(vf, driverGoal(vf, "vfio-pci"), nil), journal.Reason{Source: "test"}); r.Outcome != engine.Done {
			violated("another function meanwhile ended %s (%v)", r.Outcome, r.Err)
		}
		// A new agent on the same kernel: fenced is not observed, the write-ahead
		// record stays.
		j.Abandon()
		j, e = w.open()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // reading it hangs as well
		defer cancel()
		judged := recovery.Judge(ctx, w.env(back.After), e.Observer(), j.Operations()[0])
		if judged.Decision != recovery.Keep || !judged.Fenced {
			violated("fenced operation was judged %s (%s)", judged.Decision, judged.Why)
			release()
		}
		if _, r := e.Resume(t.Context(), w.env(back.After), r.Operation); r.Outcome != engine.Kept {
			violated("fenced operation ended %s (%v)", r.Outcome, r.Err)
		}
		release()
		synctest.Wait()
		if _, r = e.Resume(t.Context(), w.env(back.After), r.Operation); r.Outcome != engine.Done {
			violated("after the holder's end it is %s (%v)\n%s", r.Outcome, r.Err, &w.log)
		}
		if !w.at(back.After) {
			violated("the host is at %v", w.observe(back.After))
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return violations
}

func TestOutcomes(t *testing.T) {
	tests := []struct {
		name   string
		fault  sim.Fault
		guard  engine.Guard
		before func(*world)
		want   engine.Outcome
		tries  int // of the operation in the journal; 0 when none was begun
	}{
		{name: "done", want: engine.Done, tries: 1},
		{name: "a passing error is tried again", fault: sim.Fault{Label: "bind", Errno: syscall.EAGAIN, Times: 2}, want: engine.Done, tries: 3},
		{name: "an error that does not pass is reverted", fault: sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EAGAIN, Times: -1}, want: engine.Reverted, tries: 4},
		{name: "an error that cannot pass is reverted at once", fault: sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL, Times: -1}, want: engine.Reverted, tries: 2},
		{name: "an error after the write was made is no error", fault: sim.Fault{Label: "bind", When: sim.After, Errno: syscall.EIO}, want: engine.Done, tries: 2},
		{name: "a revert that fails too is for a person", fault: sim.Fault{Label: "bind", Errno: syscall.EINVAL, Times: -1}, want: engine.Quarantined, tries: 4},
		{name: "the guard refuses", guard: refusing{}, want: engine.Refused},
		{
			name: "a precheck refuses", want: engine.Refused,
			before: func(w *world) { w.foreign(host.Call{Op: host.OpUnload, Target: "module/vfio_pci", Value: "vfio_pci"}) },
		},
		{
			name: "the host has changed since", want: engine.Blocked,
			before: func(w *world) { w.setLink(port, 4000, true) },
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			draft := w.bindDraft()
			if tc.before != nil {
				tc.before(w)
			}
			if tc.fault.Label != "" {
				w.inject(tc.fault)
			}
			j, e := w.open()
			e.Guard = tc.guard
			r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
			if r.Outcome != tc.want || (r.Err == nil) != (tc.want == engine.Done) {
				t.Errorf("ended %s (%v), want %s\n%s", r.Outcome, r.Err, tc.want, &w.log)
			}
			op, _ := j.Get(r.Operation)
			if op.Attempts != tc.tries {
				t.Errorf("tried %d times, want %d", op.Attempts, tc.tries)
			}
			if len(w.broken) > 0 {
				t.Error(w.broken)
			}
			if err := j.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// refusing is a guard that refuses everything.
type refusing struct{}

func (refusing) MayDrive(context.Context, plan.Observed, plan.Goal) error { return drivers.ErrRefused }
func (refusing) MayStep(context.Context, drivers.Step) error              { return nil }

// late is a guard that refuses one step.
type late struct{ to drivers.State }

func (late) MayDrive(context.Context, plan.Observed, plan.Goal) error { return nil }

func (l late) MayStep(_ context.Context, s drivers.Step) error {
	if s.To == l.to {
		return drivers.ErrHeld
	}
	return nil
}

// TestTheGuardIsAskedBeforeEachStep: what is taken into use half-way is not
// taken away; the operation stays open and goes on when the guard lets it.
func TestTheGuardIsAskedBeforeEachStep(t *testing.T) {
	w := newWorld(t)
	draft := w.bindDraft()
	j, e := w.open()
	e.Guard = late{"driver=- override=vfio-pci"}
	r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
	if r.Outcome != engine.Kept || !errors.Is(r.Err, drivers.ErrHeld) || w.kernel.Writes() != 1 {
		t.Errorf("ended %s (%v) after %d writes, want it kept after the override", r.Outcome, r.Err, w.kernel.Writes())
	}
	e.Guard = nil
	if _, r = e.Resume(context.Background(), w.env(draft.After), r.Operation); r.Outcome != engine.Done {
		t.Errorf("ended %s (%v)", r.Outcome, r.Err)
	}
	j.Abandon()
}

// TestWaitingForAGuardIsNoAttempt: an operation may wait for hours for a
// program to end. That costs no commits, and takes nothing from the tries that
// its goal has.
func TestWaitingForAGuardIsNoAttempt(t *testing.T) {
	for _, state := range []journal.OperationState{journal.Intent, journal.Reverting} {
		w := newWorld(t)
		draft := w.bindDraft()
		j, e := w.open()
		e.Guard = late{"driver=- override=vfio-pci"}
		r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
		goal := draft.After
		if state == journal.Reverting {
			if err := j.Reverting(context.Background(), r.Operation, "test", true); err != nil {
				t.Fatal(err)
			}
			goal = draft.Before
		}
		before, _ := j.Get(r.Operation)
		e.Guard = refusing{}
		for range 10 {
			judged, r := e.Resume(context.Background(), w.env(goal), r.Operation)
			if judged.Decision != recovery.Keep || !errors.Is(judged.Guarded, drivers.ErrRefused) ||
				r.Outcome != engine.Kept || !errors.Is(r.Err, drivers.ErrRefused) {
				t.Fatalf("%s: decided %s (%s), ended %s (%v)", state, judged.Decision, judged.Why, r.Outcome, r.Err)
			}
		}
		after, _ := j.Get(r.Operation)
		if after.Attempts != before.Attempts || !strings.Contains(after.LastError, "not allowed now") && !strings.Contains(after.LastError, "held back") {
			t.Errorf("%s: %d attempts after waiting, %d before; last error %q", state, after.Attempts, before.Attempts, after.LastError)
		}
		e.Guard = nil
		want := map[journal.OperationState]engine.Outcome{journal.Intent: engine.Done, journal.Reverting: engine.Reverted}[state]
		if _, r = e.Resume(context.Background(), w.env(goal), r.Operation); r.Outcome != want {
			t.Errorf("%s: ended %s (%v), want %s", state, r.Outcome, r.Err, want)
		}
		j.Abandon()
	}
}

func TestFunctionThatVanishesSupersedes(t *testing.T) {
	w := newWorld(t)
	draft := w.bindDraft()
	j, e := w.open()
	hook := w.kernel.Hook
	w.kernel.Hook = func(p sim.Point) {
		hook(p)
		if p.Label == "unbind" && p.When == sim.After {
			if err := w.kernel.Unplug(string(port)); err != nil {
				t.Error(err)
			}
		}
	}
	r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
	if r.Outcome != engine.Superseded {
		t.Errorf("ended %s (%v), want %s", r.Outcome, r.Err, engine.Superseded)
	}
	j.Abandon()
}

func TestFailuresAreCountedAndCleared(t *testing.T) {
	w := newWorld(t)
	w.inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL, Times: 3})
	j, e := w.open()
	for n := 1; n <= 3; n++ {
		draft := w.bindDraft()
		e.Run(context.Background(), draft, journal.Reason{Source: "test"})
		f, ok := e.Failure(draft)
		if !ok || f.Reverts != n || !f.Until.After(time.Now()) || f.LastError == "" {
			t.Fatalf("after %d reverts the journal counts %+v", n, f)
		}
	}
	draft := w.bindDraft()
	if r := e.Run(context.Background(), draft, journal.Reason{Source: "test"}); r.Outcome != engine.Done {
		t.Fatalf("ended %s (%v)", r.Outcome, r.Err)
	}
	if f, ok := e.Failure(draft); ok {
		t.Errorf("a success did not clear %+v", f)
	}
	j.Abandon()
}

// TestPoisonIsCountedAcrossBoots: three boots in a row that end while a goal
// is tried put it off; two do not.
func TestPoisonIsCountedAcrossBoots(t *testing.T) {
	w := newWorld(t)
	for n := 1; n <= 3; n++ {
		if n > 1 {
			w.t.Logf("boot %d", n)
			for _, m := range []string{"vfio", "irqbypass", "vfio_pci_core", "vfio_pci"} {
				w.load(m)
			}
		}
		draft := w.bindDraft()
		crashed := false
		var at *world
		w.boundary = func(label string) {
			if strings.Contains(label, "before") && strings.Contains(label, "bind") && strings.HasPrefix(label, "host") && !strings.Contains(label, "unbind") && !crashed {
				crashed, at = true, w.copyAt()
			}
		}
		j, e := w.open()
		e.Run(context.Background(), draft, journal.Reason{Source: "test"})
		j.Abandon()
		w = at
		w.kernel.Reboot()
		w.recover(plan.Goal(draft.After))
		j, e = w.open()
		f, ok := e.Failure(draft)
		if !ok || f.Panics != n || f.Until.IsZero() == (n == 3) {
			t.Fatalf("after %d boots: %+v", n, f)
		}
		j.Abandon()
	}
}

// TestAGoalThatTakesTheAgentDownIsCountedOut: a bind that kills the agent each
// time is given up after the bound, in one boot, by restarts alone.
func TestAGoalThatTakesTheAgentDownIsCountedOut(t *testing.T) {
	w := newWorld(t)
	begun := 0
	for range 1 + engine.MaxReverts*(recovery.MaxCrashes+1) {
		draft := w.bindDraft()
		crashed := w.crashAtBind()
		j, e := w.open()
		for _, op := range j.Operations() {
			e.Resume(context.Background(), w.env(driverGoal(port, "vfio-pci")), op.ID)
		}
		f, _ := e.Failure(draft)
		if f.Reverts >= engine.MaxReverts {
			t.Logf("given up after %d operations", begun)
			j.Abandon()
			return
		}
		if *crashed == nil && len(j.Operations()) == 0 && !draft.Empty() {
			begun++
			e.Run(context.Background(), draft, journal.Reason{Source: "test"})
		}
		j.Abandon()
		w.boundary = nil
		if *crashed != nil {
			w = *crashed
		}
	}
	t.Errorf("%d operations were begun and it is still tried", begun)
}

// crashAtBind copies the world at the next bind to vfio-pci, where the agent
// is then gone.
func (w *world) crashAtBind() **world {
	var at *world
	halfway := plan.Goal{keyOf("driver", port): "driver=- override=vfio-pci"}
	w.boundary = func(label string) {
		if at == nil && strings.HasPrefix(label, "host before") && strings.HasSuffix(label, " bind") && w.at(halfway) {
			at = w.copyAt()
		}
	}
	return &at
}

// TestOneOperationATarget runs two operations on one target, and a resume of
// the first from outside, at once.
func TestOneOperationATarget(t *testing.T) {
	w := newWorld(t)
	draft := w.bindDraft()
	j, e := w.open()
	hook := w.kernel.Hook
	tried := false
	w.kernel.Hook = func(p sim.Point) {
		hook(p)
		if tried {
			return
		}
		tried = true
		if r := e.Run(context.Background(), draft, journal.Reason{Source: "test"}); r.Outcome != engine.Blocked {
			t.Errorf("a second operation on the target ended %s", r.Outcome)
		}
		if _, r := e.Resume(context.Background(), w.env(nil), j.Operations()[0].ID); r.Outcome != engine.Blocked {
			t.Errorf("resuming an operation that is being carried out ended %s", r.Outcome)
		}
	}
	if r := e.Run(context.Background(), draft, journal.Reason{Source: "test"}); r.Outcome != engine.Done || !tried {
		t.Errorf("ended %s (%v)", r.Outcome, r.Err)
	}
	j.Abandon()
}

// TestWhatIsNotSyncedStaysOpen: an operation whose file cannot be made durable
// is not done, and is when it can be.
func TestWhatIsNotSyncedStaysOpen(t *testing.T) {
	w := newWorld(t)
	w.inject(sim.Fault{Label: "sync", Errno: syscall.EIO, Times: 2})
	draft := plan.Draft{Before: plan.Goal{poolKey("ours"): "absent"}, After: plan.Goal{poolKey("ours"): poolOf(t, string(vf))}}
	j, e := w.open()
	defer j.Abandon()
	r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
	if op, _ := j.Get(r.Operation); r.Outcome != engine.Kept || !errors.Is(r.Err, syscall.EIO) || op.State != journal.Intent {
		t.Fatalf("ended %s (%v), the operation is %s", r.Outcome, r.Err, op.State)
	}
	for _, want := range []engine.Outcome{engine.Kept, engine.Done} {
		judged, again := e.Resume(context.Background(), w.env(draft.After), r.Operation)
		if again.Outcome != want || judged.Decision != recovery.Done {
			t.Errorf("resumed: %s (%v), decided %s, want %s", again.Outcome, again.Err, judged.Decision, want)
		}
	}
	if n := w.kernel.Writes(); n != 4 {
		t.Errorf("%d writes, want one replacement and three syncs", n)
	}
	w.kernel.Reboot()
	if !w.at(draft.After) {
		t.Error("what is done did not survive a power cut")
	}
}

// TestForgedRecordWritesNothingElsewhere: a record with a valid checksum is
// still only believed as far as the allow-list goes.
func TestForgedRecordWritesNothingElsewhere(t *testing.T) {
	w := newWorld(t)
	j, e := w.open()
	defer j.Abandon()
	for _, c := range []journal.Change{
		{Key: keyOf("driver", port), Class: drivers.Volatile, Before: "driver=igb override=-", After: "driver=../../evil override=../../evil"},
		{Key: keyOf("mtu", port), Class: drivers.Volatile, Before: "1500", After: "9000; rm -rf /"},
		{Key: keyOf("noiommu", "param/kernel/panic"), Class: drivers.Volatile, Before: "off", After: "on"},
		{Key: keyOf("pool", "file//etc/passwd#a/b"), Class: drivers.Persistent, Before: "absent", After: "{}"},
		{Key: poolKey("ours"), Class: drivers.Persistent, Before: "absent", After: `{},{"resourceName":"evil"}`},
		{Key: keyOf("firmware", port), Class: drivers.Volatile, Before: "a", After: "b"},
	} {
		op, err := j.Begin(context.Background(), journal.Operation{Changes: []journal.Change{c}, Reason: journal.Reason{Source: "forged"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		e.Resume(context.Background(), w.env(nil), op.ID)
		if _, err := w.kernel.File(context.Background(), poolFile); w.writes() != 0 || !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s to %q was written", c.Key, c.After)
		}
		if op, _ = j.Get(op.ID); op.State.Open() {
			if err := j.Finish(op.ID, journal.Superseded, "test"); err != nil {
				t.Fatal(err)
			}
		} else if op.State == journal.Quarantined {
			if err := j.Resolve(context.Background(), op.ID, "accept", "test", "test"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// callsOf are the calls of a method with that name.
func callsOf(file *ast.File, fset *token.FileSet, method string) []string {
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if s, ok := call.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == method {
			found = append(found, fset.Position(call.Pos()).String())
		}
		return true
	})
	return found
}

func imports(file *ast.File, path string) bool {
	return slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == strconv.Quote(path) })
}

// TestOnlyTheEngineWritesTheHost: Apply is called by the engine alone, and the
// host's Do by drivers and the host itself.
func TestOnlyTheEngineWritesTheHost(t *testing.T) {
	allowed := map[string][]string{
		"Apply": {"agent/engine"},
		"Do":    {"drivers/deviceplugin", "drivers/dpdk", "drivers/link", "drivers/module", "drivers/sriov", "drivers/host", "drivers/host/sim", "cmd/agent"},
	}
	seen := map[string]int{}
	eachFile(t, func(dir string, fset *token.FileSet, file *ast.File) {
		for method, dirs := range allowed {
			if method == "Do" && dir != "drivers/host" && !imports(file, "eniagent/drivers/host") {
				continue // it can make no host.Call: it is another Do, such as HTTP's
			}
			calls := callsOf(file, fset, method)
			seen[method] += len(calls)
			if len(calls) > 0 && !slices.Contains(dirs, dir) {
				t.Errorf("%s is called in %v: only %v may", method, calls, dirs)
			}
		}
	})
	if seen["Apply"] != 1 || seen["Do"] == 0 {
		t.Errorf("found %v calls: the check does not see what it looks for", seen)
	}
	// The broken variant: a write from elsewhere.
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "elsewhere.go", "package p\nfunc f() { d.Apply(ctx, t, s) }", 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(callsOf(file, fset, "Apply")) != 1 {
		t.Error("a call from elsewhere is not seen")
	}
}

// eachFile parses the product's files; the drivers' own tests are no part of it.
func eachFile(t *testing.T, fn func(dir string, fset *token.FileSet, file *ast.File)) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || strings.HasPrefix(rel, "drivers/drivertest") {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, 0)
		if err == nil {
			fn(filepath.ToSlash(filepath.Dir(rel)), fset, file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
