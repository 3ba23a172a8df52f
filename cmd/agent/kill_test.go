package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"eniagent/journal"
)

// TestKill kills the agent as it is shipped, on a node that survives it, and
// holds it to what it said. ENIAGENT_KILLS says how often: up to 100 at random
// moments and at a sample of system calls, above that so often at random
// moments, and at every system call. ENIAGENT_SEED chooses.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the agent and kills it a hundred times")
	}
	t.Parallel()
	kills, seed := setting(t, "ENIAGENT_KILLS", 100), uint64(setting(t, "ENIAGENT_SEED", int(time.Now().UnixNano()%1_000_000)))
	agent := buildAgent(t)
	t.Run("what is lost is noticed", func(t *testing.T) { killsAreJudged(t, agent) })
	moments, sample, operations := kills, 0, uint64(1000)
	if kills <= 100 {
		moments, sample, operations = kills*6/10, (kills+9)/10, 200
	}
	t.Run("at any moment", func(t *testing.T) {
		t.Parallel()
		killAtAnyMoment(t, agent, moments, seed)
	})
	t.Run("at the k-th call", func(t *testing.T) {
		t.Parallel()
		killAtCalls(t, agent, sample, seed)
	})
	t.Run("many operations leave nothing", func(t *testing.T) {
		t.Parallel()
		leavesNothing(t, agent, operations, seed)
	})
}

func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: want a positive number", name, s)
	}
	return n
}

// lifetime is how many kills one node sees. The ring of closed operations is longer
// than what is done in it, so that everything promised must still be there.
const lifetime = 25

func killAtAnyMoment(t *testing.T, agent string, kills int, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	violations, promises, open, reboots, given := 0, 0, 0, 0, 0
	var n *simulated
	var window time.Duration
	for i := range kills {
		if i%lifetime == 0 {
			n = newSimulated(t, agent)
			n.desire(t, anything(r)...)
			if i == 0 {
				window = n.unhurried(t)
			}
		}
		heard, left, problems := n.kill(t, r, window)
		promises, open = promises+heard, open+min(left, 1)
		if r.IntN(8) == 0 {
			n.must(t, "sim", "reboot")
			reboots++
		}
		if i%5 == 4 || i == kills-1 || i%lifetime == lifetime-1 {
			problems = append(problems, n.converge(t)...)
		}
		for _, p := range problems {
			t.Errorf("seed %d, kill %d: %s", seed, i+1, p)
		}
		violations += min(len(problems), 1)
		if i%lifetime == lifetime-1 || i == kills-1 {
			given += n.given
		}
	}
	t.Logf("%d operations were promised, %d kills left one open, %d reboots, %d goals were given up and tried again", promises, open, reboots, given)
	if promises == 0 || open == 0 {
		t.Errorf("no kill met an operation: these kills show nothing")
	}
	t.Logf("evidence: process, simulated node | SIGKILL at random moments (seed %d) | %d | %d", seed, kills, violations)
}

// unhurried is how long an agent takes on this machine, now, until all is as
// asked: kills are to meet it at work.
func (n *simulated) unhurried(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	c := n.start(t)
	n.must(t, "status", "--wait", "60s")
	took := time.Since(began)
	if err := errors.Join(c.Process.Signal(syscall.SIGTERM), c.Wait()); err != nil {
		t.Fatal(err)
	}
	n.hear()
	return max(took, 300*time.Millisecond)
}

// kill starts an agent, changes what is asked of it under its hands, and kills
// it at a moment within the window.
func (n *simulated) kill(t *testing.T, r *rand.Rand, window time.Duration) (promises, open int, problems []string) {
	t.Helper()
	if r.IntN(2) == 0 {
		n.desire(t, anything(r)...)
	}
	c := n.start(t)
	end := time.After(time.Duration(r.Int64N(int64(window))))
	for alive := true; alive; {
		select {
		case <-end:
			alive = false
		case <-time.After(time.Duration(r.Int64N(int64(window / 2)))):
			n.desire(t, anything(r)...)
		}
	}
	_ = c.Process.Kill()
	if err := c.Wait(); c.ProcessState.ExitCode() != -1 {
		said, _ := os.ReadFile(n.log())
		problems = append(problems, fmt.Sprintf("the agent ended by itself: %v\n%s", err, said))
	}
	promises = n.hear()
	broken, open := n.broken()
	return promises, open, append(problems, broken...)
}

// scene is a short life of an agent.
type scene struct {
	name string
	node *simulated // as the agent finds it
	ends *regexp.Regexp
	// place has the node of each run: under one name, as calls are told apart by
	// the names of files, and of the directories above them.
	place string
}

func scenes(t *testing.T, agent string) []scene {
	t.Helper()
	const pci = "0000:01:10.0"
	right, released := regexp.MustCompile(` target=`+pci+` state=right `), regexp.MustCompile(` target=`+pci+` state=released `)
	bound, kernels, back := ask{pci: pci, driver: "vfio-pci"}, ask{pci: pci, driver: "igbvf", mtu: 1400}, ask{pci: pci}

	first := newSimulated(t, agent)
	first.desire(t, kernels)

	bind := newSimulated(t, agent)
	other := ask{pci: "0000:02:00.0", driver: "vfio-pci"} // so that the modules are there
	bind.desire(t, other, kernels)
	bind.unhurried(t)
	release := bind.copy(t, t.TempDir())
	bind.desire(t, other, bound)

	release.desire(t, other, bound)
	release.unhurried(t)
	half := release.copy(t, t.TempDir())
	release.desire(t, other, back)

	// Half-way back to the kernel's driver, when the power of the program fails.
	half.desire(t, other, kernels)
	half.must(t, "sim", "fault", "unbind", "--path", pci, "--when", "after", "--crash")
	_ = half.start(t).Wait()
	if _, open := half.broken(); open != 1 {
		t.Fatalf("%d operations are half-way, want 1", open)
	}
	return []scene{
		{"first start", first, right, t.TempDir()},
		{"bind", bind, right, t.TempDir()},
		{"release", release, released, t.TempDir()},
		{"recovery", half, right, t.TempDir()},
	}
}

// perform plays a scene on a copy of its node, with the kill before its k-th
// call, or with none. The tracer still runs while the agent's children do.
func (s scene) perform(t *testing.T, dir string, k int, whole bool) (n *simulated, l life, tracer *exec.Cmd) {
	t.Helper()
	n = s.node.copy(t, dir)
	c, err := n.runs()
	if err != nil {
		t.Fatal(err)
	}
	tracer = exec.Command(os.Args[0], append([]string{strconv.Itoa(k), strconv.FormatBool(whole), c.Path}, c.Args[1:]...)...)
	tracer.Args[0], tracer.Stderr = "tracer", c.Stderr
	tracer.Env = append(c.Env, "GORACE=atexit_sleep_ms=0")
	in, ierr := tracer.StdinPipe()
	out, oerr := tracer.StdoutPipe()
	if err := errors.Join(ierr, oerr, tracer.Start(), c.Stderr.(*os.File).Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tracer.Process.Kill() })
	ended := make(chan error, 1)
	go func() { ended <- json.NewDecoder(out).Decode(&l) }()
	over := false
	until(t, s.name+" ends", func() bool {
		if said, err := os.ReadFile(n.log()); err == nil && s.ends.Match(said) {
			_ = in.Close()
		}
		select {
		case err = <-ended:
			over = true
		default:
		}
		return over
	})
	_ = in.Close()
	if strings.Contains(l.Error, syscall.EPERM.Error()) && os.Getenv("ENIAGENT_REQUIRE_VM") != "1" {
		t.Skip("SKIPPED: ptrace is not permitted here: no kills at system calls")
	}
	if err != nil || l.Error != "" {
		t.Fatal(err, l.Error)
	}
	return n, l, tracer
}

// tally is what came of the kills of a scene.
type tally struct {
	kills, violations int
	seen, killed      map[call]bool
}

// try kills once, and lets the next agent meet what the dead one left, while
// its children may still be there.
func (s scene) try(t *testing.T, k int, whole bool, sum *tally) (injured bool) {
	t.Helper()
	dir := filepath.Join(s.place, "place")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	n, l, tracer := s.perform(t, dir, k, whole)
	heard := n.hear()
	problems, _ := n.broken()
	problems = append(problems, n.converge(t)...)
	if err := tracer.Wait(); err != nil {
		problems = append(problems, fmt.Sprintf("tracer: %v", err))
	}
	for _, c := range l.Calls {
		sum.seen[c] = true
	}
	at := "uninjured"
	switch {
	case l.Died:
		at = "before " + string(l.Calls[k-1])
		sum.kills++
		sum.killed[l.Calls[k-1]] = true
	case l.How.ExitStatus() != 0:
		problems = append(problems, fmt.Sprintf("ended with %#x", int(l.How)))
	}
	for _, p := range problems {
		t.Errorf("%s, call %d, children killed: %t, %s, %d promises: %s", s.name, k, whole, at, heard, p)
	}
	sum.violations += min(len(problems), 1)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	return l.Died
}

// killAtCalls kills at a sample of the calls of each scene; at every one, with
// the children and without, when sample is 0. Threads take turns as they like,
// so two runs need not have the same k-th call: what is exhausted is k, and the
// log says which calls were seen and never killed at.
func killAtCalls(t *testing.T, agent string, sample int, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 2))
	kills, violations := 0, 0
	for _, s := range scenes(t, agent) {
		sum := &tally{seen: map[call]bool{}, killed: map[call]bool{}}
		_, l, tracer := s.perform(t, t.TempDir(), 0, false)
		if err := tracer.Wait(); err != nil || l.How.ExitStatus() != 0 || len(l.Calls) == 0 {
			t.Fatalf("%s, uninjured: %#x, %d calls, %v", s.name, int(l.How), len(l.Calls), err)
		}
		if sample > 0 {
			s.some(t, r, sample, len(l.Calls), sum)
		} else {
			s.all(t, sum)
		}
		sum.report(t, s.name, sample == 0)
		kills, violations = kills+sum.kills, violations+sum.violations
	}
	t.Logf("evidence: process, simulated node | SIGKILL at the k-th system call | %d | %d", kills, violations)
}

// some kills so often, at one call of each stretch of the run.
func (s scene) some(t *testing.T, r *rand.Rand, sample, calls int, sum *tally) {
	t.Helper()
	for i := 0; sum.kills < sample && i < 3*sample; i++ { // a run may be shorter than the first
		s.try(t, 1+(i%sample*calls+r.IntN(calls))/sample, r.IntN(2) == 0, sum)
	}
}

// all kills at every call, until several runs in a row had none left to kill at.
func (s scene) all(t *testing.T, sum *tally) {
	t.Helper()
	for uninjured, k := 0, 1; uninjured < 6; k++ {
		for _, children := range []bool{false, true} {
			if uninjured++; s.try(t, k, children, sum) {
				uninjured = 0
			}
		}
	}
}

func (sum *tally) report(t *testing.T, name string, all bool) {
	t.Helper()
	var never []string
	for c := range sum.seen {
		if !sum.killed[c] {
			never = append(never, string(c))
		}
	}
	slices.Sort(never)
	t.Logf("%s: %d kills, at %d of %d different calls", name, sum.kills, len(sum.killed), len(sum.seen))
	if all && len(never) > 0 {
		t.Logf("%s: seen and never killed at: %s", name, strings.Join(never, ", "))
	}
	if sum.kills == 0 {
		t.Errorf("%s: no kill met the agent", name)
	}
}

// killsAreJudged: what these tests look for, they see.
func killsAreJudged(t *testing.T, agent string) {
	n := newSimulated(t, agent)
	bound, kernels := ask{pci: "0000:02:00.0", driver: "vfio-pci"}, ask{pci: "0000:02:00.0", driver: "igb", mtu: 1400}
	n.desire(t, bound)
	n.unhurried(t)
	if problems, open := n.broken(); len(problems) != 0 || open != 0 || len(n.promised) == 0 {
		t.Fatalf("nothing happened, and %d open, of %d: %v", open, len(n.promised), problems)
	}
	if said := bound.differs(n.must(t, "sim", "show")); said != "" {
		t.Errorf("bound, and judged as %s", said)
	}
	for _, a := range []ask{kernels, {pci: "0000:02:00.0"}} {
		if a.differs(n.must(t, "sim", "show")) == "" {
			t.Errorf("%v is judged right while the function is bound to vfio-pci", a)
		}
	}

	// A journal that forgot the last commits, and a revert that was forgotten.
	journals, earlier := filepath.Join(n.state(), "journal"), filepath.Join(t.TempDir(), "journal")
	if out, err := exec.Command("cp", "-a", journals, earlier).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n.desire(t, kernels)
	n.unhurried(t)
	last := n.last()
	if err := errors.Join(os.RemoveAll(journals), os.Rename(earlier, journals)); err != nil {
		t.Fatal(err)
	}
	problems, _ := n.broken()
	if want := fmt.Sprintf("operation %d was logged as durable and is lost", last); !slices.Contains(problems, want) {
		t.Errorf("%v, want %q", problems, want)
	}
	delete(n.promised, last)
	n.promised[1] = journal.Reverting
	if problems, _ := n.broken(); !slices.Contains(problems, "operation 1 was turned to a revert and is done") {
		t.Errorf("%v", problems)
	}
}

// An agent that is killed while it is asked answers no more than one that is
// not there: what it leaves is then read.
func TestAgentEndsWhileItIsAsked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096)) // else the end is a reset
			_ = c.Close()
		}
	}()
	if _, _, said := command(t, "journal", "list", "--simulate", "--state-dir", dir); !strings.Contains(said, "has one run with this --state-dir?") {
		t.Errorf("said %q", said)
	}
	_ = l.Close()
	<-asked
}
