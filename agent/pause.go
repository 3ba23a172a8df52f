package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-kit/log/level"

	"eniagent/drivers"
	"eniagent/journal"
)

// Pause orders that nothing is begun, replayed or reverted on a target, or on
// the whole node. What is under way is finished first.
func (a *Agent) Pause(ctx context.Context, o Order) (OrderReport, error) {
	report := OrderReport{Action: "pause", DryRun: o.Dry, Through: "agent", Who: o.Who, Why: o.Why, Entries: []OrderEntry{}}
	targets, err := a.pauseTargets(ctx, o)
	if err != nil {
		return report, err
	}
	for _, t := range targets {
		report.Entries = append(report.Entries, OrderEntry{Target: t, Condition: Paused, Steps: []StepReport{}, Ordered: !o.Dry})
	}
	if o.Dry {
		return report, nil
	}
	for _, t := range targets {
		if err := a.c.Journal.SetControl(ctx, journal.Control{Action: orderPaused, Target: t, Who: o.Who, Why: o.Why}); err != nil {
			return report, err
		}
		level.Warn(a.logger).Log("target", t, "who", o.Who, "why", o.Why, "msg", "paused")
	}
	a.Wake()
	for i, e := range report.Entries {
		if !a.idle(ctx, e.Target) {
			report.Entries[i].Condition, report.Entries[i].Reason = Changing, "an operation under way is finished first"
		}
	}
	a.shownOrders(ctx, targets)
	return report, nil
}

// Resume ends such an order.
func (a *Agent) Resume(ctx context.Context, o Order) (OrderReport, error) {
	report := OrderReport{Action: "resume", DryRun: o.Dry, Through: "agent", Who: o.Who, Why: o.Why, Entries: []OrderEntry{}}
	targets, err := a.pauseTargets(ctx, o)
	if err != nil {
		return report, err
	}
	for _, t := range targets {
		c, ok := a.c.Journal.Control(orderPaused, t)
		if !ok {
			return report, a.notPaused(t)
		}
		report.Entries = append(report.Entries, OrderEntry{Target: t, Condition: Pending, Reason: "was paused " + orderText(c), Steps: []StepReport{}})
		if o.Dry {
			continue
		}
		if _, err := a.c.Journal.ClearControl(ctx, orderPaused, t); err != nil {
			return report, err
		}
		level.Warn(a.logger).Log("target", t, "who", o.Who, "msg", "no longer paused")
	}
	a.Wake()
	if !o.Dry {
		a.shownOrders(ctx, targets)
	}
	return report, nil
}

// notPaused says why there is nothing to resume, and what there is instead.
func (a *Agent) notPaused(t drivers.Target) error {
	if c, ok := a.view.paused(t); ok {
		return fmt.Errorf("%s has no pause of its own: %s", t, pausedText(c))
	}
	what := "the whole node is not paused"
	if t != "" {
		what = string(t) + " is not paused"
	}
	for _, c := range a.c.Journal.Controls() {
		if c.Action == orderPaused {
			return fmt.Errorf("%s, but %s is: agent resume %s", what, c.Target, c.Target)
		}
	}
	return fmt.Errorf("%s, and nothing else is", what)
}

// pauseTargets are what a pause is about; "" is the whole node.
func (a *Agent) pauseTargets(ctx context.Context, o Order) ([]drivers.Target, error) {
	if !o.Dry {
		if err := a.mayWrite(); err != nil {
			return nil, err
		}
	}
	if len(o.Targets) == 0 {
		return []drivers.Target{""}, nil
	}
	current := a.current(ctx)
	var targets []drivers.Target
	for _, name := range o.Targets {
		// Its device may be gone by now.
		if _, ok := a.c.Journal.Control(orderPaused, drivers.Target(name)); ok {
			targets = append(targets, drivers.Target(name))
			continue
		}
		t, err := a.view.named(ctx, name, current)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	slices.Sort(targets)
	return slices.Compact(targets), nil
}

// idle waits a while for the worker that was on the target when it was paused;
// false when it is still on it.
func (a *Agent) idle(ctx context.Context, t drivers.Target) bool {
	over := time.After(giveBack)
	for {
		a.mu.Lock()
		busy := a.busy[t] || t == "" && len(a.busy) > 0
		a.mu.Unlock()
		if !busy {
			return true
		}
		select {
		case <-time.After(giveBackAgain):
		case <-over:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
