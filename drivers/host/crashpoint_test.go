//go:build crashpoint

package host_test

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"eniagent/drivers/host"
)

// TestCrashPoint dies at the second passing of the point it names, and at no
// other point. Run with -tags crashpoint.
func TestCrashPoint(t *testing.T) {
	if os.Getenv("ENIAGENT_CRASH") != "" {
		host.CrashPoint("bind:before")
		host.CrashPoint("unbind:before")
		host.CrashPoint("bind:after")
		if os.Getenv("PASSINGS") == "2" {
			host.CrashPoint("bind:before")
		}
		os.Exit(3)
	}
	for passings, want := range map[string]syscall.WaitStatus{"1": 3 << 8, "2": syscall.WaitStatus(syscall.SIGKILL)} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashPoint$")
		cmd.Env = append(os.Environ(), "ENIAGENT_CRASH=bind:before:2", "PASSINGS="+passings, quickEnd)
		var exit *exec.ExitError
		if err := cmd.Run(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus) != want {
			t.Errorf("%s passings: %v, want status %d", passings, err, want)
		}
	}
}
