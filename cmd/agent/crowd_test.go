package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestLocalClientsCostLittle: connections that ask for metrics, again and again, and take
// nothing of what they are answered, cost an agent some megabytes in all, whatever they are,
// and its probes are answered meanwhile.
func TestLocalClientsCostLittle(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	const clients, budget = 1500, 64 << 10 // KiB
	limit := syscall.Rlimit{Cur: 4096, Max: 4096}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Logf("as many descriptors as there are: %v", err)
	}
	n := newSimulated(t, buildAgent(t))
	n.desire(t, ask{pci: "0000:02:00.0", driver: "vfio-pci"})
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // for its port
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	group := memoryGroup(t)
	agent := n.live(t, []string{"--listen", address})
	if group != "" {
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(agent.c.Process.Pid)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	healthy := func() bool {
		resp, err := http.Get("http://" + address + "/healthz") //nolint:noctx,gosec // an agent of this test
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode == http.StatusOK
	}
	agent.until("it is healthy", healthy)
	before := peak(t, agent.c.Process.Pid)
	for range 3 {
		crowd(t, address, clients/3)
		if !healthy() {
			t.Error("not healthy beside them")
		}
	}
	if agent.over() {
		t.Fatalf("the agent has ended:\n%s", agent.log)
	}
	after := peak(t, agent.c.Process.Pid)
	t.Logf("%d KiB before, %d KiB at most", before, after)
	if after-before > budget {
		t.Errorf("they cost %d KiB, more than %d", after-before, budget)
	}
	if group != "" {
		counted(t, group, 2*budget)
	}
}

// crowd holds connections that ask for much and take nothing, until the test ends.
func crowd(t *testing.T, address string, n int) {
	t.Helper()
	request := strings.Repeat("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 20)
	for range n {
		c, err := (&net.Dialer{Control: smallBuffer}).DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = io.WriteString(c, request) // it may be closed already
	}
}

// counted is a bound on what a control group has had, with what the kernel keeps for sockets.
func counted(t *testing.T, group string, most int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(group, "memory.max_usage_in_bytes"))
	if err != nil {
		t.Fatal(err)
	}
	used, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || used>>10 > most {
		t.Errorf("the kernel has counted %d KiB, %v", used>>10, err)
	}
	t.Logf("%d KiB with the kernel's buffers", used>>10)
}

// smallBuffer has a client take little of an answer before it reads.
func smallBuffer(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 2048) })
}

// peak is the most memory that a process has had at once, in KiB.
func peak(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no VmHWM in\n%s", b)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// memoryGroup is a control group of its own, with version 1 of the memory controller; ""
// where that is not to be had, and the process's own memory is all that is counted.
func memoryGroup(t *testing.T) string {
	t.Helper()
	dir := fmt.Sprintf("/sys/fs/cgroup/memory/eniagent-test-%d", os.Getpid())
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // a control group
		t.Logf("what the kernel keeps for the sockets is not counted: %v", err)
		return ""
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Log(err)
		}
	})
	return dir
}
