package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/go-kit/log/level"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/journal"
)

// settlePool brings the entry of a pool to what it shall be now.
func (a *Agent) settlePool(ctx context.Context, r request) {
	if _, ok := a.view.paused(r.target); ok {
		a.wakeFor(r.target)
		return
	}
	draft, observed, err := a.view.examine(ctx, &r)
	if o := observed[poolKey(r.target)]; o.Is(deviceplugin.Absent) || err == nil && len(left(draft, r.target)) == 0 {
		a.isSafe(r.target) // by whoever's hand
	}
	if err == nil {
		err = a.view.precheck(ctx, observed, draft, false)
	}
	seen := sight{observed: describe(r.target, observed)}
	switch {
	case err != nil:
		a.report(r, conditionOf(err), err.Error(), seen, 0)
		if conditionOf(err) == Pending {
			a.wakeAt(time.Now().Add(retryKept), r.target)
		}
		return
	case draft.Empty():
		a.poolRight(ctx, r, observed, seen)
		return
	case a.readOnly():
		a.report(r, Pending, "nothing is written: see agent status and agent plan", seen, 0)
		return
	}
	if f, ok := a.engine.Failure(draft); ok && a.tooSoon(r, f, seen) {
		return
	}
	reason, ok := a.mayChange(ctx, r, observed)
	if !ok || a.heldBack(r, draft, seen) {
		return
	}
	a.report(r, Changing, "", seen, 0)
	result := a.run(ctx, draft, reason)
	a.drifts.ended(r, reason, result)
	a.after(result, false, append(left(draft, r.target), r.target)...)
	switch {
	case result.Outcome == engine.Done:
		a.poolDone(context.WithoutCancel(ctx), r)
	case result.Outcome == engine.Refused && errors.Is(result.Err, drivers.ErrNotReady):
		a.report(r, Pending, result.Err.Error(), seen, 0) // one has changed meanwhile
		a.wakeAt(time.Now().Add(retryBlocked), r.target)
	default:
		a.reportResult(ctx, r, result)
	}
}

// poolDone reports a pool whose entry was just written. Another of its functions
// may be as asked by now, and is for the next look.
func (a *Agent) poolDone(ctx context.Context, r request) {
	draft, observed, err := a.view.examine(ctx, &r)
	seen := sight{observed: describe(r.target, observed)}
	switch {
	case err != nil:
		a.report(r, conditionOf(err), err.Error(), seen, 0)
	case !draft.Empty():
		a.report(r, Pending, "its functions have changed meanwhile", seen, 0)
	default:
		a.poolRight(ctx, r, observed, seen)
	}
}

// left are the functions that a draft takes out of a pool: something waits for
// it, and goes on.
func left(d plan.Draft, pool drivers.Target) []drivers.Target {
	key := poolKey(pool)
	stay := deviceplugin.Functions(d.After[key])
	return slices.DeleteFunc(deviceplugin.Functions(d.Before[key]), func(t drivers.Target) bool { return slices.Contains(stay, t) })
}

// poolRight reports a pool whose entry is what it shall be now. One that is not
// there is not ours any more.
func (a *Agent) poolRight(ctx context.Context, r request, observed plan.Observed, seen sight) {
	a.drifts.right(r, observed)
	a.isSafe(r.target)
	switch {
	case r.goal[poolKey(r.target)] == deviceplugin.Absent && r.later == "":
		a.report(r, Released, "", seen, 0)
	case r.later != "":
		a.report(r, Pending, r.later, seen, 0)
	case r.obstacle != "":
		a.report(r, Degraded, r.obstacle, seen, 0)
	default:
		a.report(r, Right, "", seen, 0)
	}
	if r.withPods {
		a.wakeAt(time.Now().Add(retryPod), r.target)
	}
	if r.goal[poolKey(r.target)] == deviceplugin.Absent {
		a.disown(ctx, r)
	}
}

// disown forgets an entry of ours that was seen to be gone.
func (a *Agent) disown(ctx context.Context, r request) {
	if a.readOnly() || !slices.Contains(a.view.ownPools(), r.target) {
		return
	}
	_, err := a.c.Journal.DropBaselines(ctx, func(b journal.Baseline) bool { return b.Key == poolKey(r.target) })
	if err == nil {
		_, err = a.c.Journal.ClearControl(ctx, orderAdopted, r.target)
	}
	level.Info(a.logger).Log("target", r.target, "err", err, "msg", "pool is withdrawn")
	if len(r.members) == 0 {
		a.Wake() // there is nothing more of it
	}
}

// takeOut takes functions out of the pools that name them, before anything is
// done to them; false when that is still to come.
func (a *Agent) takeOut(ctx context.Context, r request, functions []drivers.Target, seen sight) bool {
	pools := a.view.naming(ctx, functions)
	if len(pools) == 0 {
		return true
	}
	for _, p := range a.current(ctx) {
		if p.pool != "" && p.err == nil && slices.Contains(pools, p.target) {
			a.beside(p.target, func() { a.settlePool(ctx, p) })
		}
	}
	if pools = a.view.naming(ctx, functions); len(pools) == 0 {
		return true
	}
	a.report(r, Pending, "it is taken out of "+poolNames(pools)+" first", seen, 0)
	a.wakeAt(time.Now().Add(retryHeld), append(pools, r.target)...)
	return false
}

// beside runs fn as the worker on another target than the caller's, if none is
// on it.
func (a *Agent) beside(t drivers.Target, fn func()) {
	a.mu.Lock()
	there := a.stopped || a.busy[t]
	if !there {
		a.busy[t] = true
	}
	a.mu.Unlock()
	if there {
		return
	}
	defer a.free([]drivers.Target{t})
	if op, held := a.holder(t); held && op.State.Open() {
		return // recovery is at it
	}
	fn()
}
