package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"eniagent/agent"
)

// serviceManager is the socket that a service manager gives, and what was said
// there.
type serviceManager struct {
	t      *testing.T
	path   string
	socket *net.UnixConn
	unread []string // lines
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	return &serviceManager{t: t, path: path, socket: socket}
}

// until returns all that was said up to the first line that begins so.
func (m *serviceManager) until(prefix string) (said []string) {
	m.t.Helper()
	if err := m.socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		for i, line := range m.unread {
			if strings.HasPrefix(line, prefix) {
				said, m.unread = append(said, m.unread[:i+1]...), m.unread[i+1:]
				return said
			}
		}
		said = append(said, m.unread...)
		n, err := m.socket.Read(buf)
		if err != nil {
			m.t.Fatalf("waiting for %q: %v; was told:\n%s", prefix, err, strings.Join(said, "\n"))
		}
		m.unread = strings.Split(string(buf[:n]), "\n")
	}
}

// agentOn is this binary as the agent, on a simulated node in dir.
func agentOn(t *testing.T, dir string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Args = append([]string{"agent"}, args...)
	cmd.Env = append(os.Environ(), "AGENT_FLAGS=--simulate --state-dir "+dir, "GORACE=atexit_sleep_ms=0")
	cmd.Env = append(cmd.Env, env...)
	cmd.WaitDelay = time.Second
	return cmd
}

// supervised starts an agent as a service manager does.
func (m *serviceManager) supervised(dir string, env ...string) *exec.Cmd {
	m.t.Helper()
	cmd := agentOn(m.t, dir, append(env, "NOTIFY_SOCKET="+m.path), "run", "--listen", "")
	log := &buffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended where the test went well
		_ = cmd.Wait()
		if m.t.Failed() {
			m.t.Logf("the agent's log:\n%s", log)
		}
	})
	return cmd
}

func terminated(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

func TestServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	dir, m := filepath.Join(t.TempDir(), "state"), newServiceManager(t)
	cmd := m.supervised(dir, "WATCHDOG_USEC=200000")
	m.until("READY=1")
	m.until("STATUS=ready; 2 interfaces: 2 right")
	for range 2 {
		m.until("WATCHDOG=1")
	}
	for pid, environ := range children(t, cmd.Process.Pid) {
		for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC"} {
			if bytes.Contains(environ, []byte(name)) {
				t.Errorf("writer child %s has %s in its environment", pid, name)
			}
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.until("STOPPING=1")
	m.until("STATUS=stopping")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// children are the environments of a process's children; there must be some.
func children(t *testing.T, pid int) map[string][]byte {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	environs := map[string][]byte{}
	for _, list := range lists {
		raw, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for child := range strings.FieldsSeq(string(raw)) {
			if environs[child], err = os.ReadFile("/proc/" + child + "/environ"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(environs) == 0 {
		t.Fatal("the agent has no writer child, so this shows nothing")
	}
	return environs
}

// A node must come up with the desired state it had.
func TestStartedWithABrokenSource(t *testing.T) {
	t.Parallel()
	dir, m := filepath.Join(t.TempDir(), "state"), newServiceManager(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "interfaces.yaml"), []byte("interfaces: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := m.supervised(dir)
	said := m.until("READY=1")
	said = append(said, m.until("STATUS=not ready: ")...)
	if strings.Contains(strings.Join(said, "\n"), "WATCHDOG=1") {
		t.Errorf("a watchdog that nobody asked for was fed:\n%s", said)
	}
	terminated(t, cmd)
}

// TestStartedIsRecovered: the start is over when what a killed agent left is
// dealt with, and not before.
func TestStartedIsRecovered(t *testing.T) {
	t.Parallel()
	dir, m := filepath.Join(t.TempDir(), "state"), newServiceManager(t)
	output(t, agentOn(t, dir, nil, "sim", "create"))
	output(t, agentOn(t, dir, nil, "sim", "fault", "bind", "--path", "0000:02:00.0", "--crash"))
	if err := m.supervised(dir).Wait(); err == nil {
		t.Fatal("the agent was not killed at its bind")
	}
	output(t, agentOn(t, dir, nil, "sim", "fault", "bind", "--path", "0000:02:00.0", "--slow", "3s"))
	second := newServiceManager(t)
	cmd := second.supervised(dir)
	second.until("READY=1")
	if show := output(t, agentOn(t, dir, nil, "sim", "show")); !strings.Contains(show, "driver=vfio-pci") {
		t.Errorf("told to be started with the operation half-way:\n%s", show)
	}
	terminated(t, cmd)
}

// TestNobodyListens: a socket that went away costs nothing, and what was not
// heard is said again.
func TestNobodyListens(t *testing.T) {
	m := newServiceManager(t)
	t.Setenv("NOTIFY_SOCKET", m.path+"-gone")
	t.Setenv("WATCHDOG_USEC", "1000")
	t.Setenv("WATCHDOG_PID", "1") // another process's
	n := newNotifier()
	if got := os.Getenv("NOTIFY_SOCKET") + os.Getenv("WATCHDOG_USEC") + os.Getenv("WATCHDOG_PID"); got != "" {
		t.Errorf("left in the environment: %q", got)
	}
	n.tell(agent.Notice{Started: true, Alive: true, Text: "x"})
	n.socket = m.path
	n.tell(agent.Notice{Started: true, Alive: true, Text: "x"})
	n.tell(agent.Notice{Started: true, Alive: true, Text: "x"})
	n.tell(agent.Notice{Stopping: true, Text: "end"})
	n.tell(agent.Notice{Started: true, Text: "late"})
	if err := n.send("that was all"); err != nil {
		t.Fatal(err)
	}
	want := []string{"READY=1", "STATUS=x", "STOPPING=1", "STATUS=end", "that was all"}
	if got := m.until("that was all"); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("told %q, want %q", got, want)
	}
	if newNotifier() != nil {
		t.Error("there is a notifier without a socket")
	}
}

// TestWatchdogIsFedByTheLoop: an agent whose loop has no heartbeat is not said
// to be alive.
func TestWatchdogIsFedByTheLoop(t *testing.T) {
	m := newServiceManager(t)
	n := &notifier{socket: m.path, ping: time.Nanosecond}
	n.tell(agent.Notice{Started: true, Text: "no heartbeat"})
	n.tell(agent.Notice{Started: true, Alive: true, Text: "heartbeat"})
	want := []string{"READY=1", "STATUS=no heartbeat", "STATUS=heartbeat", "WATCHDOG=1"}
	if got := m.until("WATCHDOG=1"); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("told %q, want %q", got, want)
	}
}
