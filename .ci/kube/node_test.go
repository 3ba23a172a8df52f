package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"eniagent/drivers/dpdk"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

// binary is the agent as it is shipped, for all tests.
//
//nolint:gochecknoglobals // see above
var binary struct {
	once sync.Once
	path string
	err  error
}

// program builds the agent, once.
func program() (string, error) {
	binary.once.Do(func() {
		dir, err := os.MkdirTemp("", "eniagent-kube-")
		if err != nil {
			binary.err = err
			return
		}
		binary.path = filepath.Join(dir, "agent")
		build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", binary.path, "./cmd/agent")
		build.Dir = root
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			binary.err = fmt.Errorf("build the agent: %w\n%s", err, out)
		}
	})
	return binary.path, binary.err
}

// node is an instance of the cluster with the agent as it is shipped. The instance
// is a file and outlives the agent.
type node struct {
	t     testing.TB
	name  string
	dir   string
	path  string // of the agent
	cloud *cloud
	line  *line
	agent *exec.Cmd
	flags []string // more of its agent's
}

func newNode(t *testing.T, c *cluster, name string, enis int) *node {
	t.Helper()
	path, err := program()
	must(t, err)
	n := &node{t: t, name: name, dir: t.TempDir(), path: path, cloud: newCloud(t, name, enis)}
	must(t, os.Mkdir(n.state(), 0o700))
	must(t, sim.Create(filepath.Join(n.state(), "sim.json"), instanceOf(name, enis)))
	n.reach(c.env.KubeConfig)
	t.Cleanup(func() {
		n.kill()
		if t.Failed() {
			t.Logf("node %s\n%s\nits agent\n%s", name, n.must("sim", "show"), n.log())
		}
	})
	return n
}

var serverLine = regexp.MustCompile(`(?m)^(\s+server:) https://(\S+)$`)

// reach has the agent reach the API with a kubeconfig, over a line of its own.
func (n *node) reach(kubeconfig []byte) {
	n.t.Helper()
	m := serverLine.FindSubmatch(kubeconfig)
	if m == nil {
		n.t.Fatalf("a kubeconfig without a server:\n%s", kubeconfig)
	}
	if n.line == nil {
		n.line = newWire(n.t, strings.TrimSuffix(string(m[2]), "/"))
	}
	kubeconfig = serverLine.ReplaceAll(kubeconfig, []byte("$1 https://"+n.line.listener.Addr().String()))
	if err := os.WriteFile(filepath.Join(n.dir, "kubeconfig"), kubeconfig, 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) state() string { return filepath.Join(n.dir, "state") }

func (n *node) log() string {
	b, _ := os.ReadFile(filepath.Join(n.dir, "log"))
	return string(b)
}

func (n *node) command(args ...string) *exec.Cmd {
	c := exec.Command(n.path, append([]string{"--simulate", "--state-dir", n.state()}, args...)...)
	c.Env = []string{"LC_ALL=C"}
	return c
}

// must runs a command of the agent, and gives what it prints.
func (n *node) must(args ...string) string {
	n.t.Helper()
	c := n.command(args...)
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		n.t.Fatalf("agent %s: %v\n%s%s", strings.Join(args, " "), err, out, said.Bytes())
	}
	return string(out)
}

// start starts the agent, and does not wait for anything.
func (n *node) start() {
	n.t.Helper()
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	n.agent = n.command(append([]string{
		"run", "--listen", "", "--source", "kubernetes", "--kubeconfig", filepath.Join(n.dir, "kubeconfig"), "--node-name", n.name, "--metadata", n.cloud.URL,
	}, n.flags...)...)
	n.agent.Stderr = log
	if err := n.agent.Start(); err != nil {
		n.t.Fatal(err)
	}
}

// kill ends the agent as nothing can prevent.
func (n *node) kill() {
	if n.agent == nil {
		return
	}
	_ = n.agent.Process.Kill()
	_ = n.agent.Wait()
	n.agent = nil
}

// stop ends it as an update of its pod does, once it is there to be told.
func (n *node) stop() {
	n.t.Helper()
	n.answers()
	err := errors.Join(n.agent.Process.Signal(syscall.SIGTERM), n.agent.Wait())
	n.agent = nil
	if err != nil {
		n.t.Fatalf("stop the agent: %v", err)
	}
}

// answers waits until the agent does: while it starts it holds the journal, and a command
// is told so.
func (n *node) answers() {
	n.t.Helper()
	await(n.t, n.name+" has an agent", "true", func() string {
		conn, err := net.Dial("unix", filepath.Join(n.state(), "agent.sock"))
		if err == nil {
			_ = conn.Close()
		}
		return fmt.Sprint(err == nil)
	})
}

// change changes the instance itself.
func (n *node) change(fn func(*sim.File) error) {
	n.t.Helper()
	f, err := sim.Open(filepath.Join(n.state(), "sim.json"))
	if err == nil {
		err = errors.Join(fn(f), f.Close())
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// unplug takes an ENI off the instance, as its detachment does.
func (n *node) unplug(i int) {
	n.t.Helper()
	n.cloud.set(macOf(n.name, i), "")
	n.change(func(f *sim.File) error { return f.Unplug(slot(i)) })
}

// sees is what an ENI is on the instance.
func (n *node) sees(i int) (s string) {
	n.t.Helper()
	n.change(func(f *sim.File) error {
		s = sight(f, slot(i))
		return nil
	})
	return s
}

// has waits until an ENI is something on the instance.
func (n *node) has(i int, want string) {
	n.t.Helper()
	await(n.t, n.name+" has at "+slot(i), want, func() string { return n.sees(i) })
}

// stands waits until the agent says how what an object asks of an ENI stands.
func (n *node) stands(object, want string) {
	n.t.Helper()
	await(n.t, n.name+" says of "+object, want, func() string {
		var s struct {
			Interfaces []struct{ Object, Condition string }
		}
		out, err := n.command("status", "-o", "json").Output()
		if json.Unmarshal(out, &s) != nil {
			return fmt.Sprint(err)
		}
		for _, i := range s.Interfaces {
			if i.Object == object {
				return i.Condition
			}
		}
		return ""
	})
}

// operations are those of the journal, closed ones included.
func (n *node) operations() (all []journal.Operation) {
	n.t.Helper()
	if n.agent != nil {
		n.answers()
	}
	if err := json.Unmarshal([]byte(n.must("journal", "list", "-n", "-1", "-o", "json")), &all); err != nil {
		n.t.Fatal(err)
	}
	return all
}

// binds are how often the journal has an ENI bound to a driver, and done; and
// fails when anything is open.
func (n *node) binds(i int) map[string]int {
	n.t.Helper()
	count := map[string]int{}
	for _, op := range n.operations() {
		if op.State == journal.Intent || op.State == journal.Reverting || op.State == journal.Quarantined {
			n.t.Errorf("%s: operation %d is %s: %s", n.name, op.ID, op.State, op.LastError)
		}
		for _, c := range op.Changes {
			if bound, err := dpdk.Parse(c.After); string(c.Key.Target) == slot(i) && c.Key.Kind == dpdk.KindDriver && op.State == journal.Done && err == nil {
				count[bound.Driver]++
			}
		}
	}
	return count
}

// objects are what asks something of the node, as its agent says.
func (n *node) objects() string {
	n.t.Helper()
	var s struct{ Interfaces []struct{ Object string } }
	out, err := n.command("status", "-o", "json").Output()
	if json.Unmarshal(out, &s) != nil {
		return fmt.Sprint(err)
	}
	var all []string
	for _, i := range s.Interfaces {
		all = append(all, i.Object)
	}
	return fmt.Sprint(all)
}
