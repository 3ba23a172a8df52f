package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"eniagent/journal"
)

// buildAgent builds the agent as it is shipped: what is killed must be quick
// to start, and free of a race detector's own threads and calls.
func buildAgent(t *testing.T, tags ...string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "agent")
	build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-tags", strings.Join(append(tags, "grpcnotrace"), ","), "-ldflags", "-s -w", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// simulated is a simulated node, and what the agents that lived on it promised.
// Its state is a file that is replaced by a rename under a lock: a kill leaves
// it as it was before a write, or after.
type simulated struct {
	agent    string // the binary
	dir      string // the node and the agent's state are in dir/state
	want     []ask
	promised map[uint64]journal.OperationState // by operation: the last durable state that was logged
	given    int                               // goals that were given up, and tried again by a person
}

// newSimulated is a node that has just booted and has seen no agent.
func newSimulated(t *testing.T, agent string) *simulated {
	t.Helper()
	n := &simulated{agent: agent, dir: t.TempDir(), promised: map[uint64]journal.OperationState{}}
	if err := os.Mkdir(n.state(), 0o700); err != nil {
		t.Fatal(err)
	}
	n.must(t, "sim", "create")
	return n
}

// copy is another node that is like this one. No agent may be running.
func (n *simulated) copy(t *testing.T, dir string) *simulated {
	t.Helper()
	if out, err := exec.Command("cp", "-a", n.state(), filepath.Join(dir, "state")).CombinedOutput(); err != nil {
		t.Fatalf("copy a node: %v\n%s", err, out)
	}
	return &simulated{agent: n.agent, dir: dir, want: n.want, promised: map[uint64]journal.OperationState{}}
}

func (n *simulated) state() string { return filepath.Join(n.dir, "state") }
func (n *simulated) log() string   { return filepath.Join(n.dir, "log") }

func (n *simulated) command(args ...string) *exec.Cmd {
	c := exec.Command(n.agent, append([]string{"--simulate", "--state-dir", n.state()}, args...)...)
	c.Args[0] = "agent"
	c.Env = []string{"LC_ALL=C"}
	return c
}

// run is the exit status of a command, and all it said.
func (n *simulated) run(args ...string) (code int, out string) {
	c := n.command(args...)
	said, err := c.CombinedOutput()
	if c.ProcessState == nil {
		return -1, err.Error()
	}
	return c.ProcessState.ExitCode(), string(said)
}

func (n *simulated) must(t *testing.T, args ...string) string {
	t.Helper()
	code, out := n.run(args...)
	if code != 0 {
		t.Fatalf("%s: %d: %s", strings.Join(args, " "), code, out)
	}
	return out
}

// runs is the command line of an agent that works on the node, with its log
// in a file: what is there was said, whenever the agent is killed.
func (n *simulated) runs() (*exec.Cmd, error) {
	log, err := os.OpenFile(n.log(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	c := n.command("run", "--listen", "")
	c.Stderr = log
	return c, nil
}

func (n *simulated) start(t *testing.T) *exec.Cmd {
	t.Helper()
	c, err := n.runs()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_ = c.Stderr.(*os.File).Close()
	t.Cleanup(func() { _ = c.Process.Kill() })
	return c
}

// ask is what the desired state says about one function.
type ask struct {
	pci, driver string // driver is the kernel's, "vfio-pci", or "" when it is released
	mtu         int    // of a kernel's driver
}

// kernelDriver is the functions of the default node that no rule protects, and what drives them at boot.
func kernelDriver(pci string) string {
	if strings.HasPrefix(pci, "0000:01:10.") {
		return "igbvf"
	}
	return "igb"
}

func functions() []string {
	return []string{"0000:01:10.0", "0000:01:10.2", "0000:02:00.0", "0000:03:00.0"}
}

// anything is a random wish for every function.
func anything(r *rand.Rand) (want []ask) {
	for _, pci := range functions() {
		a := ask{pci: pci}
		switch r.IntN(5) {
		case 0, 1:
			a.driver = "vfio-pci"
		case 2, 3:
			a.driver, a.mtu = kernelDriver(pci), anyMTU(r)
		}
		want = append(want, a)
	}
	return want
}

// anyMTU is one that a virtual function may have while its physical one has 1500.
func anyMTU(r *rand.Rand) int { return 1300 + 100*r.IntN(3) }

func (a ask) String() string {
	s := fmt.Sprintf("  - pci: %q\n", a.pci)
	switch {
	case a.driver == "":
		return s + "    state: released\n"
	case a.mtu > 0:
		return s + fmt.Sprintf("    driver: %s\n    up: true\n    mtu: %d\n", a.driver, a.mtu)
	}
	return s + "    driver: " + a.driver + "\n"
}

// desire replaces the file of desired state.
func (n *simulated) desire(t *testing.T, want ...ask) {
	t.Helper()
	var b strings.Builder
	b.WriteString("apiVersion: eniagent/v1alpha1\ninterfaces:\n")
	for _, a := range want {
		b.WriteString(a.String())
	}
	path := filepath.Join(n.state(), "interfaces.yaml")
	if err := os.WriteFile(path+".new", []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	n.want = want
}

var durable = regexp.MustCompile(`(?m) op=(\d+) state=(intent|reverting) .*$`)

// hear notes what the last agent promised: it logs an intent and the turn to a
// revert when they are durable, and before it acts on them.
func (n *simulated) hear() (heard int) {
	said, err := os.ReadFile(n.log())
	if err != nil {
		return 0
	}
	for _, m := range durable.FindAllStringSubmatch(string(said), -1) {
		id, err := strconv.ParseUint(m[1], 10, 64)
		if err == nil {
			n.promised[id] = journal.OperationState(m[2])
			heard++
		}
	}
	return heard
}

// broken says which promises the journal does not hold, and how many operations
// are open. No agent may be running.
func (n *simulated) broken() (problems []string, open int) {
	c := n.command("journal", "list", "-n", "-1", "-o", "json")
	out, err := c.Output()
	var operations []journal.Operation
	if err != nil {
		if len(n.promised) == 0 && !n.hasJournal() {
			return nil, 0
		}
		return []string{fmt.Sprintf("journal list: %v: %s", err, failure(err))}, 0
	}
	if err := json.Unmarshal(out, &operations); err != nil {
		return []string{"journal list: " + err.Error()}, 0
	}
	states := map[uint64]journal.OperationState{}
	for _, op := range operations {
		states[op.ID] = op.State
		if op.State == journal.Intent || op.State == journal.Reverting {
			open++
		}
	}
	for id, promised := range n.promised {
		switch state, there := states[id]; {
		case !there:
			problems = append(problems, fmt.Sprintf("operation %d was logged as durable and is lost", id))
		case promised == journal.Reverting && (state == journal.Intent || state == journal.Done):
			problems = append(problems, fmt.Sprintf("operation %d was turned to a revert and is %s", id, state))
		}
	}
	return problems, open
}

func (n *simulated) hasJournal() bool {
	_, err := os.Lstat(filepath.Join(n.state(), "journal", journal.FileName))
	return err == nil
}

func failure(err error) string {
	if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Output returns it bare
		return string(e.Stderr)
	}
	return ""
}

// converge lets an agent live in peace, and says what it does not bring right.
func (n *simulated) converge(t *testing.T) (problems []string) {
	t.Helper()
	demand := func(args ...string) {
		if code, out := n.run(args...); code != 0 {
			problems = append(problems, fmt.Sprintf("agent %s ended with %d: %s", strings.Join(args, " "), code, out))
		}
	}
	c := n.start(t)
	if code, out := n.run("status", "--wait", "5s"); code != 0 {
		// A goal under which the agent died again and again is given up on
		// purpose, as it may be what kills it. Then a person says to go on.
		if strings.Contains(out, " failed ") {
			n.given++
			demand("retry")
		}
		demand("status", "--wait", "60s")
	}
	demand("plan")
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		problems = append(problems, "the agent ended by itself")
	}
	if err := c.Wait(); err != nil {
		problems = append(problems, fmt.Sprintf("stopped agent: %v", err))
	}
	n.hear()
	demand("recover", "--dry-run")
	demand("journal", "verify")
	demand("plan")
	code, shown := n.run("sim", "show")
	if code != 0 {
		return append(problems, "sim show: "+shown)
	}
	for _, a := range n.want {
		if wrong := a.differs(shown); wrong != "" {
			problems = append(problems, wrong)
		}
	}
	if len(problems) > 0 {
		said, _ := os.ReadFile(n.log())
		problems = append(problems, fmt.Sprintf("asked for %v, the node has\n%sthe agent said\n%s", n.want, shown, said))
	}
	return problems
}

// differs says what of the node is not as asked, without asking the agent.
// What is released is as it was at boot.
func (a ask) differs(shown string) string {
	driver, override, mtu, up := a.driver, "(null)", a.mtu, "true"
	switch driver {
	case "vfio-pci":
		override = `"vfio-pci"`
	case "":
		driver, mtu, up = kernelDriver(a.pci), 1500, "false"
	}
	function := regexp.MustCompile(`(?m)^function ` + a.pci + ` inode=\d+ driver=` + driver + ` override=` + regexp.QuoteMeta(override))
	if !function.MatchString(shown) {
		return fmt.Sprintf("%s is not at driver %s, override %s", a.pci, driver, override)
	}
	link := regexp.MustCompile(fmt.Sprintf(`(?m)^link \S+ index=\d+ mtu=%d up=%s .*bus=%s( |$)`, mtu, up, a.pci))
	if driver != "vfio-pci" && !link.MatchString(shown) {
		return fmt.Sprintf("%s is not at MTU %d, up %s", a.pci, mtu, up)
	}
	return ""
}

// until waits for a condition that nobody tells of.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %s not yet: %s", 2*patience, what)
		}
	}
}
