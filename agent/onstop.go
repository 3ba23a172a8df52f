package agent

import (
	"context"
	"errors"
	"time"

	"github.com/go-kit/log/level"

	"eniagent/journal"
)

// What a stop does with the functions (--on-stop).
const (
	// Retain leaves them as they are.
	Retain = "retain"
	// GiveBack releases all of them, as agent release --all does, until the next start.
	GiveBack = "release"
)

const (
	byStop     = "the agent"
	stopReason = "it was stopped (--on-stop=release); its next start ends this"
)

var errStopTime = errors.New("the stop has no more time for it")

// ofStop says that an order holds only until the agent starts again. An agent that does
// not know the fact takes it for a person's order: the function stays released until
// agent release --cancel.
func ofStop(c journal.Control) bool { return c.Facts[factStop] != "" }

// facts are those of an order for the node.
func (o Order) facts() map[string]string {
	if !o.stop {
		return nil
	}
	return map[string]string{factStop: "true"}
}

// patience is how long an order is worked on before the rest is left to it. A stop has a
// bound of its own.
func (o Order) patience() time.Duration {
	if o.stop {
		return time.Hour
	}
	return giveBack
}

// stands says that an order adds nothing to one in the journal. A person's order
// replaces one of a stop, which would end with the next start; never the reverse.
func (o Order) stands(c *journal.Control) bool { return c != nil && (o.stop || !ofStop(*c)) }

// giveAllBack releases everything and says whether all of it is back. It takes at most
// three quarters of the shutdown timeout: what is left of that is for the steps in flight
// then. Its orders are in the journal before the host is touched, so a start finds what
// there was no time for, and recovers operations that are open as it does any.
func (a *Agent) giveAllBack(ctx context.Context, shutdown time.Duration) bool {
	ctx, cancel := context.WithTimeoutCause(ctx, shutdown*3/4, errStopTime)
	defer cancel()
	select {
	case <-a.begun: // else the start would end these orders
	case <-ctx.Done():
		level.Error(a.logger).Log("err", context.Cause(ctx), "msg", "nothing was released at the stop: the agent had not started")
		return false
	}
	report, err := a.Release(ctx, Order{All: true, Who: byStop, Why: stopReason, stop: true})
	all := err == nil
	if err != nil {
		level.Error(a.logger).Log("err", err, "msg", "not all was released at the stop")
	}
	late := ctx.Err() != nil
	for _, e := range report.Entries {
		if e.Condition == Released {
			continue
		}
		all = false
		if late {
			e.Reason = context.Cause(ctx).Error() // reads fail since, and say nothing
		}
		level.Warn(a.logger).Log("target", e.Target, "entry", e.Entry, "state", e.Condition, "why", e.Reason, "msg", "not released at the stop")
	}
	return all
}

// startAgain ends the orders of the last stop, before anything acts on them: what the
// desired state asks holds again. A crash within it leaves the rest to the next start.
func (a *Agent) startAgain(ctx context.Context) error {
	if a.readOnly() {
		return nil
	}
	for _, c := range a.c.Journal.Controls() {
		if !ofStop(c) {
			continue
		}
		if _, err := a.c.Journal.ClearControl(ctx, c.Action, c.Target); err != nil {
			return err
		}
		level.Info(a.logger).Log("target", c.Target, "msg", "order of the last stop is over: what is desired holds again")
	}
	return nil
}
