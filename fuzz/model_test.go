package fuzz_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"eniagent/agent/engine"
	"eniagent/agent/guard"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
	"eniagent/recovery"
)

// life is an agent's engine, its journal and a kernel, and what befalls them. It
// is held against the fewest words that say what must be true.
type life struct {
	witness
	j      *journal.Journal
	e      *engine.Engine
	wanted map[drivers.Target]plan.Goal
	// troubled are the targets at which somebody else's hand, or a fault, may have
	// led to a quarantine.
	troubled map[drivers.Target]bool
	known    map[uint64]journal.OperationState
	theirs   []string // lines of the kernel that recovery must not change
	others   string   // the node when it was booted, for what nobody asks about
	broken   flaw

	boundary int    // counts down to a crash; 0 is none
	died     *death // the crash that happened
	commit   int    // counts down to a commit of unknown outcome; 0 is none
	hurried  bool   // a write may hang: nobody waits long for it
}

// death is the world as a crash leaves it.
type death struct {
	kernel *sim.Kernel
	store  *journal.Memory
}

// flaw is what a broken variant of the engine does wrong.
type flaw string

const (
	noFlaw        flaw = ""
	forgets       flaw = "a restart forgets what was open"
	believes      flaw = "what is half-way is taken for done"
	actsFirst     flaw = "the host is written before the intent"
	looksNot      flaw = "recovery writes without looking"
	otherFunction flaw = "another function is written as well"
)

// modelled are the functions whose life it is.
func modelled() []drivers.Target { return []drivers.Target{port, vf} }

func newLife(base *sim.Kernel, broken flaw) *life {
	l := &life{
		witness:  witness{kernel: base.Clone(), store: journal.NewMemory()},
		wanted:   map[drivers.Target]plan.Goal{},
		troubled: map[drivers.Target]bool{},
		known:    map[uint64]journal.OperationState{},
		others:   base.String(),
		broken:   broken,
	}
	l.open()
	return l
}

// open starts an agent on the world as it is.
func (l *life) open() {
	boot, err := host.BootID(context.Background(), l.kernel)
	if err == nil {
		l.j, err = journal.OpenMemory(context.Background(), l.store, journal.Options{
			BootID: boot, MachineID: thisMachine, FlushAfter: time.Hour, Fault: l.commits,
		})
	}
	if err != nil {
		panic(err) // nothing here fails for want of anything
	}
	l.kernel.Hook = func(p sim.Point) {
		l.sees(p)
		l.pass()
	}
	l.arm()
}

// arm makes the engine; how long it waits for a write depends on the faults.
func (l *life) arm() {
	patience := time.Minute
	if l.hurried {
		patience = 5 * time.Millisecond
	}
	set := all.New(l.kernel)
	l.e = engine.New(engine.Options{
		Journal: l.j, Drivers: set, Host: l.kernel, StepTimeout: patience,
		Guard: guard.New(guard.Options{Host: l.kernel, Specs: set.Specs}),
		Sleep: func(context.Context, time.Duration) error { return nil },
	})
}

// commits is a boundary at each side of a commit, and the commit that fails
// without anybody knowing whether it is there.
func (l *life) commits(string) error {
	l.pass()
	if l.commit > 0 {
		if l.commit--; l.commit == 0 {
			return syscall.EIO
		}
	}
	return nil
}

func (l *life) pass() {
	if l.boundary > 0 {
		if l.boundary--; l.boundary == 0 {
			l.died = &death{l.kernel.Clone(), l.store.Clone()}
		}
	}
}

// restart ends what a crash has ended, and what an agent ends itself when the
// outcome of a commit is unknown.
func (l *life) restart() (restarted bool) {
	switch {
	case l.died != nil:
		l.kernel, l.store = l.died.kernel, l.died.store
	case l.j.Err() == nil:
		return false
	}
	l.crash()
	return true
}

func (l *life) crash() {
	l.j.Abandon()
	l.boundary, l.died, l.commit = 0, nil, 0
	if l.broken == forgets {
		for _, op := range l.j.Operations() {
			l.store.Put(journal.BucketOpen, number(op.ID), nil)
		}
	}
	l.open()
}

func (l *life) goals() plan.Goal {
	g := plan.Goal{}
	for _, want := range l.wanted {
		maps.Copy(g, want)
	}
	return g
}

func keysOf(t drivers.Target) plan.Goal {
	return plan.Goal{{Kind: "driver", Target: t}: "", {Kind: "mtu", Target: t}: "", {Kind: "admin", Target: t}: ""}
}

func (l *life) at(goal plan.Goal) bool {
	for k, o := range l.e.Observer().All(context.Background(), goal) {
		if !o.Is(goal[k]) {
			return false
		}
	}
	return true
}

// work does what a pass does for one function: plan, begin, drive.
func (l *life) work(t drivers.Target) error {
	baseline := plan.Goal{}
	for k := range keysOf(t) {
		if b, ok := l.j.Baseline(k); ok {
			baseline[k] = b.State
		}
	}
	d, err := plan.Cover(all.Specs(), plan.Function{Target: t, Want: l.wanted[t], Observed: l.e.Observer().All(context.Background(), keysOf(t)), Baseline: baseline})
	if err != nil || d.Empty() {
		return nil //nolint:nilerr // fenced, or hidden: the next pass sees more
	}
	l.misbehave(t)
	r := l.e.Run(context.Background(), d, journal.Reason{Source: "model"})
	switch {
	case l.restart():
	case r.Outcome == engine.Done && !l.at(d.After):
		return fmt.Errorf("operation %d is done, and the host is not at After %v", r.Operation, d.After)
	case r.Outcome == engine.Reverted && !l.at(d.Before):
		return fmt.Errorf("operation %d is reverted, and the host is not at Before %v", r.Operation, d.Before)
	case r.Outcome == engine.Refused:
		return fmt.Errorf("refused: %w", r.Err)
	}
	return nil
}

// misbehave is what some broken variants do on the way.
func (l *life) misbehave(t drivers.Target) {
	call := host.Call{Op: host.OpSysfs, Target: t, Path: host.Attr(string(t), "driver_override"), Value: "\n"}
	switch l.broken {
	case actsFirst:
		_ = l.kernel.Do(context.Background(), call)
	case otherFunction:
		call.Target, call.Path = pf, host.Attr(string(pf), "driver_override")
		call.Value = "vfio-pci\n"
		_ = l.kernel.Foreign(call)
	}
}

// recover does what a restarted agent does first.
func (l *life) recover() {
	ctx := context.Background()
	boot, err := host.BootID(ctx, l.kernel)
	if err != nil {
		return // a read that a fault spoilt
	}
	env := recovery.Env{Specs: all.Specs(), BootID: boot, MachineID: thisMachine, MaxAttempts: 3, Wanted: recovery.WantedBy(l.goals())}
	for _, op := range l.j.Quarantined() {
		if why, over := recovery.Over(ctx, env, l.e.Observer(), &op); over {
			_ = l.j.Finish(op.ID, journal.Superseded, why)
		}
	}
	for _, op := range l.j.Operations() {
		l.foreign(op)
		switch l.broken {
		case believes:
			_ = l.j.Finish(op.ID, journal.Done, "")
			continue
		case looksNot:
			for _, k := range op.Keys() {
				d, _ := l.e.Drivers.Driver(k.Kind)
				soon, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
				_ = d.Apply(soon, k.Target, op.After()[k])
				cancel()
			}
		}
		if l.e.Resume(ctx, env, op.ID); l.restart() {
			return
		}
	}
}

// foreign notes, for the next check, functions that another hand gave a driver
// which the operation does not name: recovery must leave them as they are.
func (l *life) foreign(op journal.Operation) {
	for _, c := range op.Changes {
		o := l.e.Observer().Observe(context.Background(), c.Key)
		if c.Key.Kind == "driver" && o.Presence == drivers.Present && !explained(c, o.State) && op.BootID == l.j.Manifest().BootID {
			l.theirs = append(l.theirs, lineOf(l.kernel, c.Key.Target))
		}
	}
}

func lineOf(k *sim.Kernel, t drivers.Target) string {
	for line := range strings.Lines(k.String()) {
		if strings.HasPrefix(line, "function "+string(t)+" ") {
			return line
		}
	}
	return ""
}

// check is what holds between any two moments.
func (l *life) check() error {
	now := map[uint64]journal.OperationState{}
	for _, ops := range [][]journal.Operation{l.j.Operations(), l.j.Quarantined(), l.j.History(0)} {
		for _, op := range ops {
			now[op.ID] = op.State
			if op.State == journal.Quarantined && !slices.ContainsFunc(op.Targets(), func(t drivers.Target) bool { return l.troubled[t] }) {
				return fmt.Errorf("operation %d is in quarantine, and nobody else was at %v: %s", op.ID, op.Targets(), op.Outcome)
			}
		}
	}
	for id, was := range l.known {
		is, ok := now[id]
		switch {
		case !ok:
			return fmt.Errorf("operation %d (%s) is lost", id, was)
		case was == journal.Reverting && (is == journal.Intent || is == journal.Done):
			return fmt.Errorf("operation %d was reverting and is %s", id, is)
		}
	}
	l.known = now
	for _, line := range l.theirs {
		if !strings.Contains(l.kernel.String(), line) {
			return fmt.Errorf("recovery overruled another hand: it was\n%s%s", line, l.kernel)
		}
	}
	l.theirs = nil
	if d, degraded := l.j.Degraded(); degraded {
		return fmt.Errorf("the journal is damaged: %+v", d)
	}
	return errors.Join(errors.Join(l.wrong...), untouched(l.others, l.kernel.String(), modelled()))
}

// settle takes all troubles away and lets the agent work: then nothing is open,
// and the host is as desired.
func (l *life) settle() error {
	l.hurried, l.boundary, l.commit = false, 0, 0
	if err := l.kernel.ClearFaults(); err != nil {
		return err
	}
	l.kernel.Thaw()
	l.arm()
	for range 4 {
		l.recover()
		if err := l.check(); err != nil {
			return err
		}
		for _, op := range l.j.Quarantined() {
			if err := l.j.Resolve(context.Background(), op.ID, "accept", "model", ""); err != nil {
				return err
			}
		}
		for _, t := range modelled() {
			if err := l.work(t); err != nil {
				return err
			}
		}
	}
	if open := append(l.j.Operations(), l.j.Quarantined()...); len(open) > 0 {
		return fmt.Errorf("nothing stands in the way, and these are not closed: %+v", open)
	}
	for t, want := range l.wanted {
		if !l.at(want) {
			return fmt.Errorf("nothing stands in the way, and %s is not as desired: %v, but\n%s", t, want, l.kernel)
		}
	}
	clear(l.troubled)
	return l.check()
}

// desires are what may be asked of a function.
func desires(t drivers.Target) []plan.Goal {
	natural, mtus := "igb", []int{1500, 9000}
	if t == vf {
		natural, mtus = "igbvf", []int{1500, 1400}
	}
	driver, mtu, admin := drivers.Key{Kind: "driver", Target: t}, drivers.Key{Kind: "mtu", Target: t}, drivers.Key{Kind: "admin", Target: t}
	all := []plan.Goal{{driver: dpdk.Bound("vfio-pci")}, {driver: dpdk.Bound("uio_pci_generic")}, {driver: dpdk.Bound(natural)}}
	for _, n := range mtus {
		for _, up := range []drivers.State{"up", "down"} {
			all = append(all, plan.Goal{driver: dpdk.Bound(natural), mtu: drivers.State(fmt.Sprint(n)), admin: up})
		}
	}
	return all
}

// foreignHand is what other tools do to a function.
func (l *life) foreignHand(t drivers.Target, what int) {
	l.troubled[t] = true
	write := func(path, value string) {
		_ = l.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: t, Path: path, Value: value})
	}
	driver, err := host.DriverOf(context.Background(), l.kernel, string(t))
	if err != nil {
		return
	}
	switch what {
	case 0:
		write(host.Attr(string(t), "driver_override"), "uio_pci_generic\n")
	case 1:
		write(host.PCIDrivers+driver+"/unbind", string(t))
	case 2:
		write(host.Attr(string(t), "driver_override"), "uio_pci_generic\n")
		write(host.PCIDrivers+driver+"/unbind", string(t))
		write(host.PCIDrivers+"uio_pci_generic/bind", string(t))
	case 3:
		if dev, err := host.NetdevOf(context.Background(), l.kernel, string(t)); err == nil && dev.Name != "" {
			_ = l.kernel.Foreign(host.Call{Op: host.OpMTU, Target: t, Index: dev.Index, Number: 1300})
		}
	}
}

// fault makes something go wrong for the agent.
func (l *life) fault(t *rapid.T, f sim.Fault) {
	for _, target := range modelled() {
		l.troubled[target] = true
	}
	if err := l.kernel.Inject(f); err != nil {
		t.Fatal(err)
	}
}

// actions are what may befall an agent.
func (l *life) actions() map[string]func(*rapid.T) {
	target := func(t *rapid.T) drivers.Target { return rapid.SampledFrom(modelled()).Draw(t, "target") }
	label := rapid.SampledFrom([]string{"override", "unbind", "bind", "mtu", "admin"})
	ok := func(t *rapid.T, err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(t *rapid.T) {
		function := target(t)
		l.wanted[function] = rapid.SampledFrom(desires(function)).Draw(t, "goal")
	}
	work := func(t *rapid.T) {
		l.boundary = rapid.IntRange(0, 24).Draw(t, "crash at")
		ok(t, l.work(target(t)))
		l.boundary = 0
	}
	return map[string]func(*rapid.T){
		"":     func(t *rapid.T) { ok(t, l.check()) },
		"want": want,
		"change": func(t *rapid.T) {
			want(t)
			work(t)
		},
		"work":      work,
		"work more": work,
		"recover": func(t *rapid.T) {
			l.boundary = rapid.IntRange(0, 24).Draw(t, "crash at")
			l.recover()
			l.boundary = 0
			ok(t, l.check())
		},
		"crash": func(*rapid.T) { l.crash() },
		"reboot": func(*rapid.T) {
			l.kernel.Reboot()
			l.others = l.kernel.String()
			l.crash()
		},
		"commit unknown": func(t *rapid.T) { l.commit = rapid.IntRange(1, 8).Draw(t, "boundary") },
		"foreign":        func(t *rapid.T) { l.foreignHand(target(t), rapid.IntRange(0, 3).Draw(t, "what")) },
		"error": func(t *rapid.T) {
			when := rapid.SampledFrom([]sim.When{sim.Before, sim.After}).Draw(t, "when")
			errno := rapid.SampledFrom([]syscall.Errno{syscall.EBUSY, syscall.EIO, syscall.EINVAL}).Draw(t, "errno")
			l.fault(t, sim.Fault{Label: label.Draw(t, "label"), Times: rapid.IntRange(1, 4).Draw(t, "times"), Errno: errno, When: when})
		},
		"lie": func(t *rapid.T) { l.fault(t, sim.Fault{Label: label.Draw(t, "label"), Noop: true}) },
		"fence": func(t *rapid.T) {
			l.fault(t, sim.Fault{Label: label.Draw(t, "label"), Hang: true})
			l.hurried = true
			l.arm()
		},
		"unfence": func(*rapid.T) { l.kernel.Thaw() },
		"settle":  func(t *rapid.T) { ok(t, l.settle()) },
	}
}

// live runs one random life.
func live(t *rapid.T, base *sim.Kernel, broken flaw) {
	l := newLife(base, broken)
	defer func() { l.j.Abandon() }()
	for _, function := range modelled() {
		l.wanted[function] = rapid.SampledFrom(desires(function)).Draw(t, "goal")
	}
	t.Repeat(l.actions())
	if err := l.settle(); err != nil {
		t.Fatal(err)
	}
}

// atLeast raises the number of rapid's checks, unless the command line says one.
func atLeast(t *testing.T, checks string) {
	t.Helper()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		must(t, flag.Set("rapid.checks", checks))
	}
}

// TestModel: through crashes, reboots, other hands, errors, hung writes and
// commits of unknown outcome, no operation is lost, nothing is written that no
// durable operation names, and once the troubles are over the host is as desired
// and nothing is open.
func TestModel(t *testing.T) {
	atLeast(t, "200")
	base := node(t)
	rapid.Check(t, func(t *rapid.T) { live(t, base, noFlaw) })
}

// asked is a test that is meant to fail.
type asked struct {
	testing.TB
	failed bool
}

func (a *asked) Errorf(string, ...any) { a.failed = true }
func (a *asked) Error(...any)          { a.failed = true }
func (a *asked) Fail()                 { a.failed = true }
func (a *asked) Failed() bool          { return a.failed }
func (a *asked) Logf(string, ...any)   {}
func (a *asked) Log(...any)            {}
func (a *asked) FailNow()              { a.failed = true; runtime.Goexit() }
func (a *asked) Fatalf(string, ...any) { a.FailNow() }
func (a *asked) Fatal(...any)          { a.FailNow() }

// TestBrokenLivesAreCaught holds the model against agents that are wrong in one
// place each.
func TestBrokenLivesAreCaught(t *testing.T) {
	// The same lives each time, and enough of them: the first that finds it ends it.
	for name, value := range map[string]string{
		"rapid.checks": "4000", "rapid.seed": "1", "rapid.shrinktime": "0s", "rapid.nofailfile": "true",
	} {
		old := flag.Lookup(name).Value.String()
		must(t, flag.Set(name, value))
		t.Cleanup(func() { must(t, flag.Set(name, old)) })
	}
	base := node(t)
	for _, f := range []flaw{forgets, believes, actsFirst, looksNot, otherFunction} {
		t.Run(string(f), func(t *testing.T) {
			a, over := &asked{TB: t}, make(chan struct{})
			go func() {
				defer close(over)
				rapid.Check(a, func(t *rapid.T) { live(t, base, f) })
			}()
			<-over
			if !a.failed {
				t.Error("no life finds it")
			}
		})
	}
}
