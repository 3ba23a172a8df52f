package main

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"eniagent/agent"
)

// served is a command line whose agent is a handler, and what it says on standard
// error, line by line.
func served(t *testing.T, h http.HandlerFunc) (*cli, chan string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "socket") // short enough for one
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	said := make(lines, 10)
	c := &cli{streams: streams{os.Stdin, said, said}, options: agent.DefaultOptions()}
	c.options.StateDir = dir
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return c, said
}

type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// TestASilentAgentIsSaidToBe: one that answers nothing is waited for, and whoever
// asked is told meanwhile how to look without it.
func TestASilentAgentIsSaidToBe(t *testing.T) {
	t.Parallel()
	told := make(chan struct{})
	c, said := served(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			<-r.Context().Done() // until who asked has given up
			return
		}
		<-told
		_, _ = w.Write([]byte("{}"))
	})
	answered := make(chan error)
	go func() { answered <- c.ask(t.Context(), "GET", "/status", &struct{}{}) }()
	if line := <-said; !strings.Contains(line, "answers nothing") || !strings.Contains(line, "agent recover --dry-run --journal") {
		t.Errorf("it said %q", line)
	}
	close(told)
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// TestAnAgentAtWorkIsNotSaidToHang: it is asked whether it answers at all.
func TestAnAgentAtWorkIsNotSaidToHang(t *testing.T) {
	t.Parallel()
	probed := make(chan struct{}, 1)
	c, said := served(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			probed <- struct{}{}
			http.NotFound(w, r) // as an agent that has no such page
			return
		}
		<-probed
		_, _ = w.Write([]byte("{}"))
	})
	if err := c.ask(t.Context(), "GET", "/status", &struct{}{}); err != nil {
		t.Error(err)
	}
	if len(said) > 0 {
		t.Errorf("it said %q", <-said)
	}
}

// TestStopped tells a process that is stopped from one that sleeps.
func TestStopped(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	pid := int32(cmd.Process.Pid)
	if stopped(pid) || stopped(0) {
		t.Error("a process that sleeps, or nobody, is said to be stopped")
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("wait for it to stop: %v, %v", status, err)
	}
	if !stopped(pid) {
		t.Error("a process that is stopped is not said to be")
	}
}
