package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-kit/log/level"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// settle brings one function to what is asked of it.
func (a *Agent) settle(ctx context.Context, r request) {
	if r.pool != "" {
		a.settlePool(ctx, r)
		return
	}
	if _, ok := a.view.paused(r.targets()...); ok {
		a.wakeFor(r.target) // since it was dispatched; the next look says so
		return
	}
	draft, observed, err := a.view.examine(ctx, &r)
	if err == nil {
		err = a.view.precheck(ctx, observed, draft, len(r.first) > 0)
	}
	seen := a.view.sight(ctx, r.target, observed)
	r.unread = err != nil && unseenIn(observed)
	if err != nil {
		a.reportError(ctx, r, observed, err, seen)
		return
	}
	if draft.Empty() && len(a.view.firstMissing(ctx, r)) == 0 {
		a.reportThere(ctx, r, observed, seen)
		return
	}
	if a.readOnly() {
		a.report(r, Pending, "nothing is written: see agent status and agent plan", seen, 0)
		return
	}
	if f, ok := a.engine.Failure(draft); ok && a.tooSoon(r, f, seen) {
		return
	}
	if draft.Empty() {
		if a.settleFirst(ctx, r) {
			a.wakeFor(r.target)
		}
		return
	}
	reason, ok := a.mayChange(ctx, r, observed)
	if !ok || a.heldBack(r, draft, seen) || !a.takeOut(ctx, r, targetsIn(draft), seen) || !a.settleFirst(ctx, r) {
		return
	}
	a.report(r, Changing, "", seen, 0)
	for _, note := range r.notes {
		level.Warn(a.logger).Log("entry", r.entry, "target", r.target, "why", note, "msg", "done all the same")
	}
	result := a.run(ctx, draft, reason)
	a.drifts.ended(r, reason, result)
	a.reportResult(ctx, r, result)
	a.after(result, false, r.target)
	if result.Outcome == engine.Done && r.pf == "" {
		// What its VFs have may be seen otherwise now: one that is up answers them.
		vfs, _ := host.VFsOf(context.WithoutCancel(ctx), a.c.Host, string(r.target)) // else the full pass looks
		a.wakeFor(vfs...)
	}
}

// reportThere reports a function that is as asked.
func (a *Agent) reportThere(ctx context.Context, r request, observed plan.Observed, seen sight) {
	a.drifts.right(r, observed)
	a.forgetLeft(ctx, r)
	switch {
	case r.later != "":
		a.report(r, Pending, r.later, seen, 0)
	case !r.released():
		a.reportRight(ctx, r, observed)
	case !a.vfsAreBack(ctx, r):
		a.report(r, Pending, vfsNotBack, seen, 0)
	default:
		a.letGo(ctx, r)
		a.report(r, Released, r.why(), seen, 0)
	}
}

// reportError reports a function that nothing can be done to now.
func (a *Agent) reportError(ctx context.Context, r request, observed plan.Observed, err error, seen sight) {
	if errors.Is(err, drivers.ErrHidden) || errors.Is(err, drivers.ErrNotReady) {
		if pod := a.view.withPod(ctx, r.target, observed); pod != "" {
			a.report(r, Held, fmt.Sprintf("its netdev is in another network namespace (%s): it is looked at again when the pod has ended", pod), seen, 0)
			a.wakeAt(time.Now().Add(retryPod), r.target)
			return
		}
	}
	a.report(r, conditionOf(err), err.Error(), seen, 0)
	a.noteRefused(ctx, err)
	switch c := conditionOf(err); {
	case errors.Is(err, drivers.ErrFenced) || errors.Is(err, drivers.ErrHeld):
		a.wakeAt(time.Now().Add(retryHeld), r.target)
	case c == Pending: // it could not be looked at
		a.wakeAt(time.Now().Add(retryKept), r.target)
	}
}

// mayChange says for what reason a function that is not as asked may be changed
// now; false when it may not, which is reported.
func (a *Agent) mayChange(ctx context.Context, r request, observed plan.Observed) (journal.Reason, bool) {
	if r.order != nil {
		return journal.Reason{Source: ReleaseSource, Object: r.order.Why, Entry: r.entry}, true
	}
	return a.mayRepair(ctx, r, observed)
}

const vfsNotBack = "its VFs are not all back yet"

// vfsAreBack says that none of the virtual functions of a physical one that is
// released is still to be given back: once that one is left alone, nobody would.
func (a *Agent) vfsAreBack(ctx context.Context, r request) bool {
	if r.pf != "" {
		return true
	}
	touched, err := a.view.givenBack(ctx, r, nil)
	if err != nil || len(touched) == 0 {
		return err == nil
	}
	left, err := a.view.givenBack(ctx, r, a.current(ctx))
	return err == nil && len(left) == 0
}

// letGo forgets the baseline of a function that was observed to be back at it:
// released is left alone from then on, whatever becomes of it.
func (a *Agent) letGo(ctx context.Context, r request) {
	if a.readOnly() || r.letGo() {
		return
	}
	n, err := a.c.Journal.DropBaselines(ctx, func(b journal.Baseline) bool { return slices.Contains(r.targets(), b.Key.Target) })
	if err == nil {
		_, err = a.c.Journal.ClearControl(ctx, orderAdopted, r.target)
	}
	if err != nil {
		level.Warn(a.logger).Log("target", r.target, "err", err, "msg", "baseline of a released function not dropped")
		return
	}
	level.Info(a.logger).Log("target", r.target, "count", n, "msg", "released, left alone from now on")
	a.forgetOpened(ctx, r.target)
	if r.order != nil {
		if err := a.noteLetGo(ctx, *r.order); err != nil {
			level.Warn(a.logger).Log("target", r.target, "err", err, "msg", "not kept that a function was given back")
		}
	} else {
		a.amend(r.entry, func(e *entry) bool {
			e.LetGo = true
			return !e.Kept // it was only kept to be given back
		})
	}
	a.Wake()
}

// tooSoon says whether a goal that failed before is to be left alone now.
func (a *Agent) tooSoon(r request, f journal.Failure, seen sight) bool {
	until := putOffUntil(f, a.started, time.Now())
	switch {
	case f.Reverts >= engine.MaxReverts:
		a.report(r, Failed, givenUp(f), seen, 0)
		return true
	case !until.IsZero():
		a.report(r, Pending, putOff(r.target, f, until), seen, 0)
		a.wakeAt(until, r.target)
		return true
	}
	return false
}

// settleFirst reaches what the function's own goal needs: modules, no-IOMMU.
// One worker does it at a time; the others find it done.
func (a *Agent) settleFirst(ctx context.Context, r request) bool {
	if len(a.view.firstMissing(ctx, r)) == 0 {
		return true
	}
	select {
	case a.modules <- struct{}{}:
		defer func() { <-a.modules }()
	default: // waiting would take a worker from those that need no module
		a.report(r, Pending, "its modules are being loaded", sight{}, 0)
		a.wakeAt(time.Now().Add(retryBlocked), r.target)
		return false
	}
	for _, g := range a.view.firstMissing(ctx, r) {
		if !a.settleOne(ctx, r, g) {
			return false
		}
	}
	return true
}

// settleOne reaches one of those goals by an operation of its own.
func (a *Agent) settleOne(ctx context.Context, r request, g journal.Goal) bool {
	o := a.view.observer().Observe(ctx, g.Key)
	switch {
	case o.Is(g.State):
		return true
	case o.Presence != drivers.Present:
		err := o.Err
		if err == nil {
			err = fmt.Errorf("%s is %s: %w", g.Key, o, drivers.ErrUnsupported)
		}
		a.report(r, conditionOf(err), err.Error(), sight{}, 0)
		return false
	}
	if last, n := a.reached(g); n >= maxRepairs {
		a.report(r, Degraded, fmt.Sprintf("%s was brought to %s %d times within %s, and another hand changes it back: look for who does; tried again when it has been left alone for %s",
			g.Key, g.State, n, round(repairWindow), round(repairWindow)), sight{}, 0)
		a.wakeAt(last.Add(repairWindow), r.target)
		return false
	}
	draft := draftOf(g.Key, o.State, g.State)
	if f, ok := a.engine.Failure(draft); ok && a.tooSoon(r, f, sight{}) || a.heldBack(r, draft, sight{}) {
		return false
	}
	result := a.run(ctx, draft, a.reason(r))
	if result.Outcome == engine.Done {
		return true
	}
	a.reportResult(ctx, r, result)
	a.after(result, false, r.target)
	return false
}

// reached is how often a goal was reached in this boot within the window, and
// when last.
func (a *Agent) reached(g journal.Goal) (last time.Time, n int) {
	for _, op := range a.c.Journal.History(0) {
		if op.State != journal.Done || op.BootID != a.c.BootID || op.After()[g.Key] != g.State || !within(op.Created, time.Now(), repairWindow) {
			continue
		}
		if n++; op.Created.After(last) {
			last = op.Created
		}
	}
	return last, n
}

// reason is why something is done for an entry: what asks it, as precisely as
// its source tells.
func (a *Agent) reason(r request) journal.Reason {
	a.mu.Lock()
	defer a.mu.Unlock()
	return journal.Reason{
		Source: a.c.Name, Object: cmp.Or(r.asked.Object, a.c.Object), Generation: a.source.Generation, Entry: r.entry,
	}
}

// reportResult says how the function stands after an operation.
func (a *Agent) reportResult(ctx context.Context, r request, result engine.Result) {
	ctx = context.WithoutCancel(ctx)
	rest, observed, err := a.view.examine(ctx, &r)
	condition := map[engine.Outcome]Condition{
		engine.Done: Right, engine.Reverted: Pending, engine.Superseded: Waiting, engine.Quarantined: Quarantined,
		engine.Kept: keptAs(result.Err), engine.Refused: Refused, engine.Blocked: Pending, engine.Failed: Pending,
	}[result.Outcome]
	switch {
	case errors.Is(result.Err, drivers.ErrFenced):
		condition = Fenced
	case errors.Is(result.Err, drivers.ErrHeld):
		condition = Held
	}
	reason := ""
	switch {
	case condition == Right && r.released() && r.later != "":
		condition, reason = Pending, r.later
	case condition == Right && r.released() && (err != nil || !rest.Empty()):
		condition, reason = Pending, "not all of it is back yet"
	case condition == Right && r.released() && !a.vfsAreBack(ctx, r):
		condition, reason = Pending, vfsNotBack
	case condition == Right && r.released():
		a.letGo(ctx, r) // first: who reads that it is released may change it at once
		condition, reason = Released, r.why()
	case condition == Right && r.later != "":
		condition, reason = Pending, r.later
	case condition == Right && err == nil && !rest.Empty():
		// The operation ended at its goal, and something has moved since.
		condition, reason = Pending, "not all of it is as asked now"
		a.wakeFor(r.target)
	}
	if result.Err != nil {
		reason = result.Err.Error()
	}
	open := uint64(0)
	if condition != Right && condition != Released && result.Outcome != engine.Done {
		open = result.Operation
	}
	a.report(r, condition, reason, a.view.sight(ctx, r.target, observed), open)
}
