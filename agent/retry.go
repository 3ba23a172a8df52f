package agent

import (
	"context"
	"fmt"
	"slices"

	"eniagent/drivers"
	"eniagent/journal"
)

// Retry forgets failures, so that what was given up is tried again: all of
// them, or those of what a person calls name (a PCI address, a network device,
// a MAC, an entry of the desired state, a pool) and of what it needs first,
// such as a module. It returns how many it forgot. A name that nothing answers
// to is an error.
func (a *Agent) Retry(ctx context.Context, name string) (int, error) {
	asked := func(drivers.Target) bool { return true }
	if name != "" {
		targets, err := a.retried(ctx, name)
		if err != nil {
			return 0, fmt.Errorf("retry %s: %w", name, err)
		}
		asked = func(t drivers.Target) bool { return slices.Contains(targets, t) }
	}
	n, err := a.c.Journal.ClearFailures(ctx, func(f journal.Failure) bool {
		return slices.ContainsFunc(f.Keys, func(k drivers.Key) bool { return asked(k.Target) })
	})
	if err == nil {
		n += a.drifts.askedAnew(asked) + a.breakers.forget(asked)
	}
	a.Wake()
	return n, err
}

// retried are the targets that a person means: a function and what it needs
// first. What the journal has failures of may be named although its device is
// gone by now.
func (a *Agent) retried(ctx context.Context, name string) ([]drivers.Target, error) {
	current := a.current(ctx)
	t, err := a.view.named(ctx, name, current)
	if err != nil {
		t = drivers.Target(name)
		if address, bad := drivers.PCI(name); bad == nil {
			t = address
		}
		if !slices.ContainsFunc(a.c.Journal.Failures(), func(f journal.Failure) bool {
			return slices.ContainsFunc(f.Keys, func(k drivers.Key) bool { return k.Target == t })
		}) {
			return nil, err
		}
	}
	targets := []drivers.Target{t}
	for _, r := range current {
		if r.target != t {
			continue
		}
		for _, g := range r.first {
			targets = append(targets, g.Key.Target)
		}
	}
	return targets, nil
}
