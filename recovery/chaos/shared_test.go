//go:build linux

package chaos

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// requireVar makes a missing part a failure: CI must not pass because it tested nothing.
const requireVar = "ENIAGENT_REQUIRE_VM"

// shared is the one machine that the tests of this package use in turn: a boot costs more than most tests.
type shared struct {
	once sync.Once
	vm   *VM
	err  error
}

// They outlive every test, so they cannot be locals of one.
//
//nolint:gochecknoglobals // see above
var machineOfAll, machineWithSystemd shared

func TestMain(m *testing.M) {
	code := m.Run()
	for _, vm := range []*VM{machineOfAll.vm, machineWithSystemd.vm} {
		if vm == nil {
			continue
		}
		if err := vm.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// crashing is the agent with crash points compiled in, in the guest.
const crashing = "/bin/agent-crash"

// sharedConfig is what the shared machine is. Port 2 is free.
func sharedConfig(t *testing.T) Config {
	t.Helper()
	agent, crash := built(t)
	files := program(t, "ip")
	files[crashing] = crash
	return Config{NICs: 2, FreePorts: 1, Log: consoleLog(), Agent: agent, Files: files}
}

// sourceDir is where the machine with systemd has the part of this repository that an installation is made from.
const sourceDir = "/opt/eniagent"

// systemdConfig is what the machine with systemd is. Port 2 is free.
func systemdConfig(t *testing.T) Config {
	t.Helper()
	agent, crash := built(t)
	files := map[string]string{crashing: crash, sourceDir + "/bin/agent": agent}
	deploy, err := filepath.Glob("../../deploy/systemd/*")
	must(t, err)
	for _, file := range deploy {
		files[sourceDir+"/deploy/systemd/"+filepath.Base(file)] = file
	}
	return Config{
		NICs: 2, FreePorts: 1, Systemd: true, Log: consoleLog(), Agent: agent, Files: files,
		Memory: 2048, HugePages: 256,
	}
}

// built are the agent as it is shipped, and with crash points.
func built(t *testing.T) (agent, crash string) {
	t.Helper()
	dir := t.TempDir()
	agent, crash = filepath.Join(dir, "agent"), filepath.Join(dir, "agent-crash")
	must(t, Build(t.Context(), "eniagent/cmd/agent", agent))
	must(t, Build(t.Context(), "eniagent/cmd/agent", crash, "-tags=crashpoint"))
	return agent, crash
}

// program is a program of this machine and the libraries it is linked to.
func program(t *testing.T, name string) map[string]string {
	t.Helper()
	files, err := Program(t.Context(), name)
	must(t, err)
	return files
}

func consoleLog() io.Writer {
	if testing.Verbose() {
		return os.Stderr
	}
	return io.Discard
}

// requireVM skips, or fails where a VM is required, when there cannot be one.
func requireVM(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("not in short mode: boots a VM")
	}
	if _, err := Find(); err != nil {
		if os.Getenv(requireVar) == "1" {
			t.Fatalf("%s=1, but: %v", requireVar, err)
		}
		t.Skipf("NOT TESTED ON A REAL KERNEL: %v", err)
	}
}

// sharedVM gives the shared machine, running: a test may have left it off. Tests that use it must not be parallel.
func sharedVM(t *testing.T) *VM {
	t.Helper()
	return machineOfAll.running(t, sharedConfig)
}

// sharedSystemdVM is sharedVM for the machine whose PID 1 is systemd. What a test leaves in its root is found there
// by the next, after a boot too; a test therefore leaves nothing.
func sharedSystemdVM(t *testing.T) *VM {
	t.Helper()
	// An idle machine is emulated too. Tests run by the names of their files, so nobody needs the other any more.
	if vm := machineOfAll.vm; vm != nil && vm.Running() {
		must(t, vm.PowerCut())
	}
	return machineWithSystemd.running(t, systemdConfig)
}

func (s *shared) running(t *testing.T, config func(*testing.T) Config) *VM {
	t.Helper()
	requireVM(t)
	s.once.Do(func() { s.vm, s.err = Start(t.Context(), config(t)) })
	switch {
	case s.err != nil:
		t.Fatal(s.err)
	case s.vm == nil:
		t.Fatal("the machine did not come up for an earlier test")
	}
	if !s.vm.Running() {
		must(t, s.vm.Boot(t.Context()))
	}
	return s.vm
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mustRun runs a program that has to succeed.
func mustRun(t *testing.T, vm *VM, args ...string) string {
	t.Helper()
	res, err := vm.Run(t.Context(), Command(args...))
	must(t, err)
	if !res.OK() {
		t.Fatalf("%v: %v", args, res)
	}
	return string(res.Stdout)
}

// mustNICs gives the PFs.
func mustNICs(t *testing.T, vm *VM) []NIC {
	t.Helper()
	nics, err := vm.NICs(t.Context())
	must(t, err)
	return nics
}

func wantIs(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}
