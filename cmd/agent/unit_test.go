package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// runtimeDeaths are the exit statuses that the Go runtime gives a process by itself: after a
// panic or a signal such as SIGABRT, and when telling of that fails (runtime/panic.go).
func runtimeDeaths() []int { return []int{2, 3, 4, 5} }

// TestTheServiceIsStartedAgainAfterEachCrash: what keeps systemd from starting the agent
// again is one of the agent's own errors, and no status of a process that crashed.
func TestTheServiceIsStartedAgainAfterEachCrash(t *testing.T) {
	unit, err := os.ReadFile("../../deploy/systemd/eniagent.service")
	if err != nil {
		t.Fatal(err)
	}
	if faults := keptDead(string(unit)); len(faults) > 0 {
		t.Error(strings.Join(faults, "\n"))
	}
}

// TestBrokenUnitKeepsACrashedAgentDead: the check above sees such a unit.
func TestBrokenUnitKeepsACrashedAgentDead(t *testing.T) {
	for _, list := range []string{"2 6", "64 SIGABRT", "64 4", "64 17", "64 6", "64 6 8\nSuccessExitStatus=8", ""} {
		if faults := keptDead("Restart=on-failure\nRestartPreventExitStatus=" + list + "\n"); len(faults) == 0 {
			t.Errorf("RestartPreventExitStatus=%s passes", list)
		}
	}
	if faults := keptDead("Restart=on-abnormal\nRestartPreventExitStatus=64\n"); len(faults) == 0 {
		t.Error("a unit that is not started again after status 1 passes")
	}
}

// keptDead is what is wrong with how a unit is started again.
func keptDead(unit string) (faults []string) {
	if !regexp.MustCompile(`(?m)^Restart=(on-failure|always)$`).MatchString(unit) {
		faults = append(faults, "it is not started again after each failure")
	}
	m := regexp.MustCompile(`(?m)^RestartPreventExitStatus=(.*)$`).FindStringSubmatch(unit)
	if m == nil || m[1] == "" {
		return append(faults, "wrong flags have it started again for ever")
	}
	if regexp.MustCompile(`(?m)^SuccessExitStatus=.*\b`+strconv.Itoa(exitLeft)+`\b`).MatchString(unit) || !regexp.MustCompile(`\b`+strconv.Itoa(exitLeft)+`\b`).MatchString(m[1]) {
		faults = append(faults, "a stop that left something is a success, or has it started again")
	}
	own := map[int]bool{exitUsage: true, exitJournal: true, exitLeft: true}
	for status := range strings.FieldsSeq(m[1]) {
		n, err := strconv.Atoi(status)
		if err != nil || !own[n] {
			faults = append(faults, "it stays dead after "+status+", which passes by itself")
		}
	}
	for _, n := range runtimeDeaths() {
		if own[n] {
			faults = append(faults, "exit status "+strconv.Itoa(n)+" is the Go runtime's")
		}
	}
	return faults
}

// TestALogWithoutAReaderEndsNothing: journald was killed, and the pipe of the agent's standard
// error has no reader any more. The agent goes on, and stops in order when it is asked to.
func TestALogWithoutAReaderEndsNothing(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("agent") // this binary
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "state")
	common := []string{"--simulate", "--state-dir", state}
	agent := exec.Command(path, append(common, "run", "--listen", "", "--log-level", "info")...)
	agent.Args[0] = "agent"
	log, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	agent.Stderr = w
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.Process.Kill() }()
	_ = w.Close()
	lines := bufio.NewScanner(log)
	if !lines.Scan() || !strings.Contains(lines.Text(), "agent started") {
		t.Errorf("it begins with %q", lines.Text())
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	// The agent has logged how its interfaces stand by the time they are as desired.
	status := exec.Command(path, append(common, "status", "--wait", patience.String())...)
	status.Args[0] = "agent"
	if out, err := status.CombinedOutput(); err != nil {
		t.Errorf("agent status: %v\n%s", err, out)
	}
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("it ended with %v, and was asked to stop", err)
	}
}
