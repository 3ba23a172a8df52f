package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"eniagent/drivers"
	"eniagent/journal"
)

// shownWithin bounds how long a command waits for the loop to take in what it
// decided. The decision stands whether it was seen in time or not.
const shownWithin = 5 * time.Second

// shown waits until what agent status tells of targets agrees with the orders
// and operations in the journal, so that whoever gave a command and asks then
// is not told what was before it. No targets are the whole node.
func (a *Agent) shown(ctx context.Context, targets ...drivers.Target) {
	over := time.NewTimer(shownWithin)
	defer over.Stop()
	for a.behind(targets) {
		select {
		case <-time.After(giveBackAgain):
		case <-over.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// shownOrders is shown for the targets of orders, of which "" is the whole node.
func (a *Agent) shownOrders(ctx context.Context, targets []drivers.Target) {
	if slices.Contains(targets, "") {
		targets = nil
	}
	a.shown(ctx, targets...)
}

// behind says whether a report tells of a pause or a quarantine that is over, or
// not yet of a pause. While a worker still is on the target, no pause is told.
func (a *Agent) behind(targets []drivers.Target) bool {
	a.mu.Lock()
	var told []InterfaceReport
	busy := maps.Clone(a.busy)
	for _, r := range a.reports {
		if r.Target != "" && (len(targets) == 0 || slices.Contains(targets, r.Target)) {
			told = append(told, r)
		}
	}
	a.mu.Unlock()
	return slices.ContainsFunc(told, func(r InterfaceReport) bool {
		_, paused := a.view.paused(r.Target)
		op, held := a.holder(r.Target)
		switch r.Condition {
		case Paused:
			return !paused
		case Quarantined:
			return paused || !held || op.State != journal.Quarantined
		}
		return paused && !busy[r.Target]
	})
}
