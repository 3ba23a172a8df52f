package drivertest

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// Sample is a change of one key on one machine.
type Sample struct {
	Name   string            // "" is "AFTER"
	Config func() sim.Config // nil is sim.DefaultNode
	// Prepare brings the machine to Before; nil where it boots so.
	Prepare func(testing.TB, *sim.Kernel)
	Target  drivers.Target
	Before  drivers.State
	After   drivers.State
	// Renewed are the words of Kernel.String that a round trip may change,
	// because the kernel makes what they tell of anew: "index", "mac".
	Renewed []string
}

func (s Sample) kernel(t testing.TB) *sim.Kernel {
	t.Helper()
	config := sim.DefaultNode
	if s.Config != nil {
		config = s.Config
	}
	k := sim.New(config())
	if s.Prepare != nil {
		s.Prepare(t, k)
	}
	return k
}

// dump is the state of a machine without what a round trip may change.
func (s Sample) dump(k *sim.Kernel) string {
	text := k.String()
	for _, word := range s.Renewed {
		text = regexp.MustCompile(`\b`+word+`=\S+`).ReplaceAllString(text, word+"=*")
	}
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// MustDo is a write of a test's own, not counted as the agent's.
func MustDo(t testing.TB, k *sim.Kernel, calls ...host.Call) {
	t.Helper()
	for _, c := range calls {
		if err := k.Foreign(c); err != nil {
			t.Fatalf("prepare: %v", err)
		}
	}
}

// MustApply brings keys to states through their drivers.
func MustApply(t testing.TB, set drivers.Set, k drivers.Kind, target drivers.Target, to ...drivers.State) {
	t.Helper()
	d, err := set.Driver(k)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range to {
		if err := d.Apply(context.Background(), target, s); err != nil {
			t.Fatalf("prepare %s@%s to %s: %v", k, target, s, err)
		}
	}
}
