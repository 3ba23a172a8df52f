//go:build !crashpoint

package host_test

import (
	"testing"

	"eniagent/drivers/host"
)

// TestNoCrashPoint: the shipped binary dies of no variable.
func TestNoCrashPoint(t *testing.T) {
	t.Setenv("ENIAGENT_CRASH", "bind:before:1")
	host.CrashPoint("bind:before")
}
