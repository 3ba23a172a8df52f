package host_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

func override(t drivers.Target, value string) host.Call {
	return host.Call{Op: host.OpSysfs, Target: t, Path: host.Attr(string(t), "driver_override"), Value: value + "\n"}
}

// ended is what a pool says of a request that it gave up and that came back.
type ended struct {
	target drivers.Target
	what   string
	err    error
}

type poolRig struct {
	*host.Pool
	dir       string
	fences    host.Fences
	abandoned chan ended
	returned  chan ended
}

func newPool(t testing.TB, dir string, change ...func(*host.PoolOptions)) *poolRig {
	t.Helper()
	r := &poolRig{dir: dir, fences: openFences(t, dir), abandoned: make(chan ended, 100), returned: make(chan ended, 100)}
	o := host.PoolOptions{
		Command: serveCommand(dir), Fences: r.fences,
		// Long, so that a busy machine abandons nothing: the tests end the
		// context of what shall be abandoned.
		WriteTimeout: time.Minute, ReadTimeout: time.Minute,
		OnAbandon: func(t drivers.Target, what string) { r.abandoned <- ended{target: t, what: what} },
		OnReturn:  func(t drivers.Target, what string, err error) { r.returned <- ended{t, what, err} },
	}
	for _, f := range change {
		f(&o)
	}
	p, err := host.NewPool(fakeKernel{dir}, o)
	if err != nil {
		t.Fatal(err)
	}
	r.Pool = p
	t.Cleanup(func() { _ = p.Close() })
	return r
}

// writer is the process id of the child that answers next.
func (r *poolRig) writer(t testing.TB) int {
	t.Helper()
	text, err := r.Read(context.Background(), host.Attr(string(vf2), "driver_override"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func (r *poolRig) must(t testing.TB, c host.Call) {
	t.Helper()
	if err := r.Do(context.Background(), c); err != nil {
		t.Fatal(err)
	}
}

// log is the writes that were made, in order.
func (r *poolRig) log(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", ", ")
}

// hang abandons a write, which goes on until the gate is released.
func (r *poolRig) hang(t *testing.T, target drivers.Target) *gate {
	t.Helper()
	g := newGate(t, r.dir, target)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.Do(ctx, override(target, "hang")) }()
	g.entered()
	cancel()
	if err := <-done; !errors.Is(err, drivers.ErrFenced) || !errors.Is(err, context.Canceled) {
		t.Fatalf("an abandoned write: %v, want ErrFenced", err)
	}
	if a := <-r.abandoned; a.target != target || a.what != "override" {
		t.Fatalf("abandoned %+v", a)
	}
	return g
}

func TestPoolKeepsChild(t *testing.T) {
	r := newPool(t, t.TempDir())
	first := r.writer(t)
	if first == os.Getpid() {
		t.Fatal("a read that blocks was made in this process")
	}
	r.must(t, override(vf0, "vfio-pci"))
	if again := r.writer(t); again != first {
		t.Errorf("child %d, then %d", first, again)
	}
	links, err := r.Links(context.Background())
	if err != nil || len(links) != 1 || links[0].Index != first {
		t.Errorf("links of %v, %v, want of child %d", links, err, first)
	}
	set, err := r.Settings(context.Background(), 7, host.SettingRings)
	if want := (host.Rings{RX: 7, TX: first}); err != nil || set.Rings != want || set.AltNames[0] != "rings" {
		t.Errorf("settings of %+v, %v, want %v", set, err, want)
	}
	if _, err := r.Settings(context.Background(), 0, host.SettingRings); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("settings that there are none of: %v", err)
	}
	if _, err := r.Read(context.Background(), "/nothing/here"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a read in this process: %v", err)
	}
	if got := r.log(t); got != "0000:01:10.0 vfio-pci" {
		t.Errorf("wrote %q", got)
	}
	if held(t, r.fences, vf0) {
		t.Error("a fence is held after its write")
	}
}

func TestPoolAbandonsAndGoesOn(t *testing.T) {
	r := newPool(t, t.TempDir())
	before := r.writer(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events, err := r.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	g := r.hang(t, vf0)
	if fenced, err := r.Fenced(vf0); !fenced || err != nil {
		t.Errorf("fenced %t, %v", fenced, err)
	}
	if !held(t, r.fences, vf0) {
		t.Error("nobody holds the fence")
	}
	if err := r.Do(ctx, override(vf0, "igb")); !errors.Is(err, drivers.ErrFenced) {
		t.Errorf("a second write: %v, want ErrFenced", err)
	}
	if after := r.writer(t); after == before {
		t.Errorf("child %d is still there", after)
	}
	r.must(t, override(vf1, "igb"))
	g.release()
	if e := <-r.returned; e != (ended{vf0, "override", nil}) {
		t.Errorf("came back as %+v", e)
	}
	if e := <-events; e != (host.Event{Target: vf0, What: "unfenced"}) {
		t.Errorf("event %+v", e)
	}
	if fenced, err := r.Fenced(vf0); fenced || err != nil {
		t.Errorf("fenced after all: %v", err)
	}
	r.must(t, override(vf0, "igb"))
	if got := r.log(t); got != "0000:01:10.2 igb, 0000:01:10.0 hang, 0000:01:10.0 igb" {
		t.Errorf("wrote %q", got)
	}
	cancel()
	for range events {
		t.Error("an event after the end")
	}
}

func TestPoolDeadline(t *testing.T) {
	r := newPool(t, t.TempDir(), func(o *host.PoolOptions) { o.WriteTimeout, o.ReadTimeout = 50*time.Millisecond, 50*time.Millisecond })
	g := newGate(t, r.dir, vf0)
	if err := r.Do(context.Background(), override(vf0, "hang")); !errors.Is(err, drivers.ErrFenced) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a write past its deadline: %v, want ErrFenced", err)
	}
	g.entered()
	g.release()
	<-r.returned
	g = newGate(t, r.dir, vf1)
	if _, err := r.Read(context.Background(), host.Attr(string(vf1), "driver_override")); !errors.Is(err, drivers.ErrUnanswered) || errors.Is(err, drivers.ErrFenced) {
		t.Errorf("a read past its deadline: %v, want ErrUnanswered", err)
	}
	if fenced, err := r.Fenced(vf1); fenced || err != nil {
		t.Errorf("a read that hangs is taken for a write (%v)", err)
	}
	if err := r.Do(context.Background(), override(vf1, "igb")); !errors.Is(err, drivers.ErrUnanswered) {
		t.Errorf("a write behind a read that hangs: %v, want ErrUnanswered", err)
	}
	g.entered()
	g.release()
	<-r.returned
}

// TestPoolEndedContext: what nobody waits for any more is not begun.
func TestPoolEndedContext(t *testing.T) {
	r := newPool(t, t.TempDir())
	r.writer(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 20 {
		if err := r.Do(ctx, override(vf0, "igb")); !errors.Is(err, context.Canceled) || errors.Is(err, drivers.ErrFenced) {
			t.Fatalf("%v, want Canceled and nothing fenced", err)
		}
	}
	if got := r.log(t); got != "" {
		t.Errorf("wrote %q", got)
	}
}

func TestPoolChildDies(t *testing.T) {
	r := newPool(t, t.TempDir())
	before := r.writer(t)
	err := r.Do(context.Background(), override(vf0, "die"))
	if err == nil || errors.Is(err, drivers.ErrFenced) {
		t.Errorf("a child that dies: %v", err)
	}
	if after := r.writer(t); after == before {
		t.Error("the same child lives")
	}
	if fenced, err := r.Fenced(vf0); fenced || err != nil {
		t.Errorf("fenced %t, %v", fenced, err)
	}
	r.must(t, override(vf0, "igb"))
}

// TestPoolChildTalksNonsense is one whose answer cannot be read.
func TestPoolChildTalksNonsense(t *testing.T) {
	r := newPool(t, t.TempDir())
	before := r.writer(t)
	if err := r.Do(context.Background(), override(vf0, "garble")); err == nil {
		t.Error("nonsense is an answer")
	}
	if after := r.writer(t); after == before {
		t.Error("a child that talks nonsense is kept")
	}
}

// TestPoolIdleChildKilled is what the OOM killer does: a request that no child
// has got is no reason to fail.
func TestPoolIdleChildKilled(t *testing.T) {
	r := newPool(t, t.TempDir())
	pid := r.writer(t)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// A thread group is a zombie before all its threads have closed their files.
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	r.must(t, override(vf0, "igb"))
	if got := r.log(t); got != "0000:01:10.0 igb" {
		t.Errorf("wrote %q", got)
	}
}

func TestPoolMaxChildren(t *testing.T) {
	r := newPool(t, t.TempDir(), func(o *host.PoolOptions) { o.MaxChildren = 2 })
	g0, g1 := r.hang(t, vf0), r.hang(t, vf1)
	err := r.Do(context.Background(), override(vf2, "igb"))
	if !errors.Is(err, drivers.ErrFenced) || !strings.Contains(err.Error(), "2 writer children hang") {
		t.Errorf("%v, want ErrFenced at once", err)
	}
	g0.release()
	<-r.returned
	r.must(t, override(vf2, "igb"))
	g1.release()
	<-r.returned
}

// TestPoolReadsThatHangLeaveRoomForWrites: they are bounded, and keep no write from
// another target.
func TestPoolReadsThatHangLeaveRoomForWrites(t *testing.T) {
	r := newPool(t, t.TempDir(), func(o *host.PoolOptions) { o.MaxChildren, o.ReadTimeout = 2, 50*time.Millisecond })
	g := newGate(t, r.dir, vf0)
	read := func(target drivers.Target) error {
		_, err := r.Read(context.Background(), host.Attr(string(target), "driver_override"))
		return err
	}
	for _, target := range []drivers.Target{vf0, vf0, vf1} { // the last has no child to hang
		if err := read(target); !errors.Is(err, drivers.ErrUnanswered) || errors.Is(err, drivers.ErrFenced) {
			t.Errorf("a read of %s: %v, want ErrUnanswered", target, err)
		}
	}
	r.must(t, override(vf2, "igb"))
	g.entered()
	g.release()
	<-r.returned
	// On a busy machine a read may be past its deadline before its child runs.
	eventually(t, "a read once the other has come back", func() bool { return read(vf1) == nil })
}

// TestPoolManyAtOnce: children at work are waited for, not taken for hung.
func TestPoolManyAtOnce(t *testing.T) {
	r := newPool(t, t.TempDir(), func(o *host.PoolOptions) { o.MaxChildren = 2 })
	g := newGate(t, r.dir, vf0)
	errs := make(chan error, 20)
	var all sync.WaitGroup
	all.Go(func() { errs <- r.Do(context.Background(), override(vf0, "hang")) })
	g.entered()
	for i := range 8 {
		target := drivers.Target(fmt.Sprintf("0000:02:%02x.0", i))
		all.Go(func() { errs <- r.Do(context.Background(), override(target, "igb")) })
	}
	all.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := r.Do(ctx, override(vf1, "igb")); !errors.Is(err, context.Canceled) {
			t.Errorf("an ended context: %v", err)
		}
	})
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	g.release()
	all.Wait()
	if err := <-errs; err != nil {
		t.Error(err)
	}
}

func TestPoolClose(t *testing.T) {
	children := childCount(t)
	r := newPool(t, t.TempDir())
	pid := r.writer(t)
	g := r.hang(t, vf0)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := r.Do(context.Background(), override(vf1, "igb")); err == nil {
		t.Error("a closed pool writes")
	}
	if s := procState(pid); s == "" || s == "Z" {
		t.Errorf("the child that hangs is %q", s)
	}
	g.release()
	<-r.returned
	if n := childCount(t); n != children {
		t.Errorf("%d children are left, want %d", n, children)
	}
}

// TestPoolLevel makes 1,000 operations: nothing is left over.
func TestPoolLevel(t *testing.T) {
	r := newPool(t, t.TempDir())
	r.must(t, override(vf0, "igb"))
	r.writer(t)
	fds, children := fdCount(t), childCount(t)
	for i := range 1000 {
		switch i % 100 {
		case 99:
			_ = r.Do(context.Background(), override(vf0, "die"))
		case 98:
			_ = r.Do(context.Background(), override(vf0, "EBUSY"))
		case 97:
			g := r.hang(t, vf1)
			g.release()
			<-r.returned
		default:
			r.must(t, override(drivers.Target(fmt.Sprintf("0000:01:%02x.0", i%8)), "igb"))
		}
	}
	r.writer(t) // that a child is kept, as before
	if n := fdCount(t); n != fds {
		t.Errorf("%d files are open, were %d", n, fds)
	}
	if n := childCount(t); n != children {
		t.Errorf("%d children, were %d", n, children)
	}
}

// TestPoolStaleAgent: an agent that was replaced writes nothing more.
func TestPoolStaleAgent(t *testing.T) {
	dir := t.TempDir()
	old := newPool(t, dir)
	old.must(t, override(vf0, "before"))
	fresh := newPool(t, dir)
	if err := old.Do(context.Background(), override(vf0, "stale")); !errors.Is(err, drivers.ErrRefused) {
		t.Errorf("the agent before: %v, want ErrRefused", err)
	}
	fresh.must(t, override(vf0, "after"))
	if got := fresh.log(t); got != "0000:01:10.0 before, 0000:01:10.0 after" {
		t.Errorf("wrote %q", got)
	}
}

// TestPoolStaleWriter is a child that was between its fence and its write when
// its agent was replaced: the new agent sees the fence.
func TestPoolStaleWriter(t *testing.T) {
	dir := t.TempDir()
	old := newPool(t, dir)
	g := newGate(t, dir, vf0)
	done := make(chan error, 1)
	go func() { done <- old.Do(context.Background(), override(vf0, "hang")) }()
	g.entered()
	fresh := newPool(t, dir)
	if fenced, err := fresh.Fenced(vf0); !fenced || err != nil {
		t.Errorf("the new agent finds it free (%v)", err)
	}
	if err := fresh.Do(context.Background(), override(vf0, "fresh")); !errors.Is(err, drivers.ErrFenced) {
		t.Errorf("the new agent: %v, want ErrFenced", err)
	}
	g.release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if fenced, err := fresh.Fenced(vf0); fenced || err != nil {
		t.Errorf("fenced after all: %v", err)
	}
	fresh.must(t, override(vf0, "fresh"))
}

// TestAgentKilled is SIGKILL of an agent whose child hangs in the kernel.
func TestAgentKilled(t *testing.T) {
	testAgentEnds(t, func(agent *os.Process) error { return agent.Kill() })
}

// TestSignalToGroup is ^C in a terminal, and what a supervisor sends: it ends
// the agent and not a write inside the kernel.
func TestSignalToGroup(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(s.String(), func(t *testing.T) {
			testAgentEnds(t, func(agent *os.Process) error { return syscall.Kill(-agent.Pid, s) })
		})
	}
}

func testAgentEnds(t *testing.T, end func(*os.Process) error) {
	dir := t.TempDir()
	g := newGate(t, dir, vf0)
	agent, _ := start(t, &syscall.SysProcAttr{Setpgid: true}, "agent", dir)
	g.entered()
	lock, err := os.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatalf("the journal is not locked: %v", err)
	}
	if err := end(agent.Process); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait()
	if s := agent.ProcessState; s.ExitCode() != signalled && s.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the agent ended by itself: %s", s)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("the journal is still locked: %v", err)
	}
	r := newPool(t, dir)
	if fenced, err := r.Fenced(vf0); !fenced || err != nil {
		t.Errorf("the child's target is free (%v)", err)
	}
	r.must(t, override(vf1, "igb"))
	g.release()
	eventually(t, "the fence is free", func() bool { return !held(t, r.fences, vf0) })
	r.must(t, override(vf0, "igb"))
	if got := r.log(t); got != "0000:01:10.2 igb, 0000:01:10.0 hang, 0000:01:10.0 igb" {
		t.Errorf("wrote %q", got)
	}
}

// TestWriterIgnoresSignals is a signal to a writer child itself.
func TestWriterIgnoresSignals(t *testing.T) {
	r := newPool(t, t.TempDir())
	pid := r.writer(t)
	g := newGate(t, r.dir, vf0)
	done := make(chan error, 1)
	go func() { done <- r.Do(context.Background(), override(vf0, "hang")) }()
	g.entered()
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if err := unix.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
	}
	g.release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPoolErrors(t *testing.T) {
	r := newPool(t, t.TempDir())
	for name, want := range namedErrors() {
		err := r.Do(context.Background(), override(vf0, name))
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "write it") {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if err := r.Do(context.Background(), host.Call{Op: "rm", Target: vf0}); !errors.Is(err, drivers.ErrIllegal) {
		t.Errorf("an operation that there is not: %v", err)
	}
}

func TestPoolWithoutCommand(t *testing.T) {
	for _, command := range [][]string{nil, {"/nothing/here"}} {
		r := newPool(t, t.TempDir(), func(o *host.PoolOptions) { o.Command = command })
		fds := fdCount(t)
		if err := r.Do(context.Background(), override(vf0, "igb")); err == nil {
			t.Errorf("%q writes", command)
		}
		if n := fdCount(t); n != fds {
			t.Errorf("%q: %d files are open, were %d", command, n, fds)
		}
	}
}

// TestPoolShrinks to one child once nothing is asked: each is a process with
// memory of its own.
func TestPoolShrinks(t *testing.T) {
	before := childCount(t)
	r := newPool(t, t.TempDir(), func(o *host.PoolOptions) { o.Quiet = 10 * time.Millisecond })
	gates := []*gate{newGate(t, r.dir, vf0), newGate(t, r.dir, vf1)}
	errs := make(chan error, 2)
	for _, target := range []drivers.Target{vf0, vf1} {
		go func() { errs <- r.Do(context.Background(), override(target, "hang")) }()
	}
	for _, g := range gates {
		g.entered()
	}
	if n := childCount(t) - before; n != 2 {
		t.Errorf("%d children at two writes", n)
	}
	for _, g := range gates {
		g.release()
	}
	for range gates {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	eventually(t, "one child is left", func() bool { return childCount(t)-before == 1 })
	if err := r.Do(context.Background(), override(vf0, "igb")); err != nil {
		t.Error(err)
	}
}
