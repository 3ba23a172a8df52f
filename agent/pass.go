package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-kit/log/level"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/journal"
	"eniagent/recovery"
)

// How soon something that could not be done now is looked at again. Events
// usually come first.
const (
	retryFenced  = 500 * time.Millisecond
	retryHeld    = 500 * time.Millisecond
	retryBlocked = 200 * time.Millisecond
	// What stays open for another reason, such as a rule, is looked at ever more
	// seldom; doubled, with jitter.
	retryKept    = 2 * time.Second
	retryKeptMax = 5 * time.Minute
)

// pass looks at everything once: resolve, then a worker for each function that
// none is on. It does not wait for them.
func (a *Agent) pass(ctx context.Context) {
	a.resumeOpen(ctx)
	if !a.heard {
		return
	}
	a.mu.Lock()
	entries, remembered := slices.Clone(a.entries), slices.Clone(a.remembered)
	a.mu.Unlock()
	requests := a.view.resolve(ctx, entries, remembered)
	a.dropYielded(entries, requests)
	a.dropLapsed(ctx, requests)
	err := a.remember(ctx, requests)
	a.mu.Lock()
	news := err != nil && (a.unkept == nil || a.unkept.Error() != err.Error())
	a.unkept, a.passed = err, true
	a.order = a.order[:0]
	for _, r := range requests {
		a.order = append(a.order, r.entry)
	}
	a.mu.Unlock()
	a.drifts.keep(requests)
	a.breakers.keep(requests)
	a.health.Keep(func(t drivers.Target) bool {
		return slices.ContainsFunc(requests, func(r request) bool { return r.target == t })
	})
	if news {
		level.Error(a.logger).Log("err", err, "msg", "desired state is not in the journal, nothing is begun")
	}
	a.notePath(ctx, requests)
	for _, r := range requests {
		if err != nil && r.err == nil {
			// After a crash nobody would know that it was wanted.
			r.cannot(Pending, err)
		}
		a.dispatch(ctx, r)
	}
}

// dropYielded drops the kept entries that are another entry's now.
func (a *Agent) dropYielded(entries []entry, requests []request) {
	for _, e := range entries {
		there := slices.ContainsFunc(requests, func(r request) bool { return r.entry == e.String() })
		if e.Kept && !there {
			a.amend(e.String(), func(e *entry) bool { return !e.Kept })
			level.Info(a.logger).Log("entry", e, "msg", "another entry stands for its function now")
		}
	}
}

// dispatch puts a worker on a function, unless one is on it or an operation
// that is not closed holds it.
func (a *Agent) dispatch(ctx context.Context, r request) {
	if c, ok := a.view.paused(r.target); ok {
		a.report(r, Paused, pausedText(c), nil, 0)
		return
	}
	if r.err != nil {
		a.report(r, r.condition, r.err.Error(), nil, 0)
		return
	}
	if op, ok := a.holder(r.target); ok {
		switch {
		case op.State == journal.Quarantined:
			a.report(r, Quarantined, op.Outcome, nil, op.ID)
		case a.isBusy(r.target):
		case a.fenced(op.Targets()):
			a.report(r, Fenced, "a write still runs in the kernel on it; it ends when the program that holds the device does", nil, op.ID)
		default:
			a.report(r, a.standing(op.ID), op.LastError, nil, op.ID)
		}
		return
	}
	a.work(ctx, []drivers.Target{r.target}, func() { a.settle(ctx, r) })
}

// holder is the operation that is not closed and claims the target.
func (a *Agent) holder(t drivers.Target) (journal.Operation, bool) {
	_, id := a.view.claimed(t)
	return a.c.Journal.Get(id)
}

func (a *Agent) fenced(targets []drivers.Target) bool {
	return slices.ContainsFunc(targets, func(t drivers.Target) bool {
		held, err := a.c.Host.Fenced(t)
		return held && err == nil
	})
}

func (a *Agent) isBusy(t drivers.Target) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.busy[t]
}

// work runs fn in a worker that is the only one on the targets; false when
// there is one already.
func (a *Agent) work(ctx context.Context, targets []drivers.Target, fn func()) bool {
	a.mu.Lock()
	if at := slices.IndexFunc(targets, func(t drivers.Target) bool { return a.busy[t] }); a.stopped || at >= 0 {
		if at >= 0 {
			a.missed[targets[at]] = true // looked at again when the worker is done
		}
		a.mu.Unlock()
		return false
	}
	for _, t := range targets {
		a.busy[t] = true
	}
	defer a.mu.Unlock() // a worker is counted before a stop can wait for all
	a.workers.Go(func() {
		defer a.free(targets)
		defer a.caught()
		select {
		case a.slots <- struct{}{}:
			defer func() { <-a.slots }()
			fn()
		case <-ctx.Done():
		}
	})
	return true
}

// caught turns the panic of a worker into the end of the reconcile actor, so
// that the journal is closed as for any other end.
func (a *Agent) caught() {
	p := recover()
	if p == nil {
		return
	}
	select {
	case a.panicked <- fmt.Errorf("worker panic: %v\n%s", p, debug.Stack()):
	default: // one is enough to end
	}
}

func (a *Agent) free(targets []drivers.Target) {
	a.mu.Lock()
	defer a.mu.Unlock()
	again := false
	for _, t := range targets {
		delete(a.busy, t)
		again = again || a.missed[t]
		delete(a.missed, t)
	}
	if again {
		a.Wake()
	}
}

// resumeOpen puts a worker on each open operation that none is on: recovery,
// at the start and for whatever stayed open since. A quarantine ends with the
// boot or the device that it was about.
func (a *Agent) resumeOpen(ctx context.Context) {
	if a.readOnly() {
		a.mu.Lock()
		clear(a.unjudged)
		a.mu.Unlock()
		return
	}
	for _, op := range a.c.Journal.Operations() {
		if _, ok := a.view.paused(op.Targets()...); ok {
			a.judged(op.ID)
			continue
		}
		a.work(ctx, op.Targets(), func() { a.resume(ctx, op.ID) })
	}
	for _, op := range a.c.Journal.Quarantined() {
		if _, ok := a.view.paused(op.Targets()...); ok {
			continue
		}
		why, over := recovery.Over(ctx, a.view.env(), a.view.observer(), &op)
		if !over {
			continue
		}
		err := a.c.Journal.Finish(op.ID, journal.Superseded, why)
		level.Info(a.logger).Log("op", op.ID, "state", journal.Superseded, "why", why, "err", err, "msg", "quarantine ended")
	}
}

// readOnly says that nothing may be written: observing was asked for, or the
// journal was damaged and nobody has taken that on.
func (a *Agent) readOnly() bool {
	_, degraded := a.c.Journal.Degraded()
	return a.c.Observe || degraded
}

// resume judges one open operation and carries the decision out.
func (a *Agent) resume(ctx context.Context, id uint64) {
	j, r := a.engine.Resume(ctx, a.view.env(), id)
	a.judged(id)
	a.after(r, j.Fenced)
}

// judged notes that recovery has dealt with an operation found at the start.
func (a *Agent) judged(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.unjudged, id)
}

// after plans the next look by how an operation ended.
func (a *Agent) after(r engine.Result, fenced bool) {
	now := time.Now()
	a.noteKept(r)
	switch {
	case errors.Is(r.Err, drivers.ErrHeld):
		a.wakeAt(now.Add(retryHeld))
	case r.Outcome == engine.Kept && (fenced || errors.Is(r.Err, drivers.ErrFenced)):
		a.wakeAt(now.Add(retryFenced))
	case r.Outcome == engine.Kept:
		a.wakeAt(now.Add(a.keptPause(r.Operation)))
	case r.Outcome == engine.Blocked:
		a.wakeAt(now.Add(retryBlocked))
	case r.Outcome == engine.Failed, r.Outcome == engine.Refused, r.Outcome == engine.Quarantined:
		// Looked at again with the next event or full pass.
	default:
		a.Wake()
	}
}

// kept is an operation that stays open: why, and how long it is left alone.
type kept struct {
	condition Condition
	pauses    *backoff.ExponentialBackOff
}

// noteKept notes an operation that stays open, and forgets one that does not.
func (a *Agent) noteKept(r engine.Result) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.Outcome != engine.Kept {
		delete(a.kept, r.Operation)
		return
	}
	k := a.kept[r.Operation]
	if k == nil {
		k = &kept{pauses: &backoff.ExponentialBackOff{
			InitialInterval: retryKept, RandomizationFactor: breakerJitter, Multiplier: 2, MaxInterval: retryKeptMax,
		}}
		a.kept[r.Operation] = k
	}
	k.condition = keptAs(r.Err)
}

// keptAs is the condition of a function whose operation stays open for a reason.
func keptAs(err error) Condition {
	switch {
	case errors.Is(err, drivers.ErrFenced):
		return Fenced
	case errors.Is(err, drivers.ErrHeld):
		return Held
	case errors.Is(err, drivers.ErrRefused):
		return Refused
	}
	return Changing
}

// standing is the condition of a function whose operation stays open.
func (a *Agent) standing(id uint64) Condition {
	a.mu.Lock()
	defer a.mu.Unlock()
	if k := a.kept[id]; k != nil {
		return k.condition
	}
	return Changing
}

// keptPause is how long an operation that stays open is left alone now.
func (a *Agent) keptPause(id uint64) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.kept[id].pauses.NextBackOff()
}

// settle brings one function to what is asked of it.
func (a *Agent) settle(ctx context.Context, r request) {
	if _, ok := a.view.paused(r.target); ok {
		a.Wake() // since it was dispatched; the next pass says so
		return
	}
	draft, observed, err := a.view.examine(ctx, r)
	if err == nil {
		err = a.view.precheck(ctx, observed, draft, len(r.first) > 0)
	}
	seen := describe(observed)
	if err != nil {
		a.report(r, conditionOf(err), err.Error(), seen, 0)
		if errors.Is(err, drivers.ErrFenced) || errors.Is(err, drivers.ErrHeld) {
			a.wakeAt(time.Now().Add(retryHeld))
		}
		return
	}
	if draft.Empty() {
		a.drifts.right(r, observed)
		if !r.released() {
			a.reportRight(ctx, r, observed)
			return
		}
		a.letGo(ctx, r)
		a.report(r, Released, r.why(), seen, 0)
		return
	}
	if a.readOnly() {
		a.report(r, Pending, "nothing is written: see agent status and agent plan", seen, 0)
		return
	}
	if f, ok := a.engine.Failure(draft); ok && a.tooSoon(r, f, seen) {
		return
	}
	reason, ok := a.mayChange(ctx, r, observed)
	if !ok || a.heldBack(r, draft, seen) || !a.settleFirst(ctx, r) {
		return
	}
	a.report(r, Changing, "", seen, 0)
	result := a.run(ctx, draft, reason)
	a.drifts.ended(r, reason, result)
	a.reportResult(ctx, r, result)
	a.after(result, false)
}

// mayChange says for what reason a function that is not as asked may be changed
// now; false when it may not, which is reported.
func (a *Agent) mayChange(ctx context.Context, r request, observed plan.Observed) (journal.Reason, bool) {
	if r.order != nil {
		return journal.Reason{Source: ReleaseSource, Object: r.order.Why, Entry: r.entry}, true
	}
	return a.mayRepair(ctx, r, observed)
}

// letGo forgets the baseline of a function that was observed to be back at it:
// released is left alone from then on, whatever becomes of it.
func (a *Agent) letGo(ctx context.Context, r request) {
	if a.readOnly() || r.letGo() {
		return
	}
	n, err := a.c.Journal.DropBaselines(ctx, func(b journal.Baseline) bool { return b.Key.Target == r.target })
	if err == nil {
		_, err = a.c.Journal.ClearControl(ctx, orderAdopted, r.target)
	}
	if err != nil {
		level.Warn(a.logger).Log("target", r.target, "err", err, "msg", "baseline of a released function not dropped")
		return
	}
	level.Info(a.logger).Log("target", r.target, "count", n, "msg", "released, left alone from now on")
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
func (a *Agent) tooSoon(r request, f journal.Failure, seen map[string]string) bool {
	switch {
	case f.Reverts >= engine.MaxReverts:
		a.report(r, Failed, fmt.Sprintf("reverted %d times, last for: %s; change what is asked, or clear it with agent retry", f.Reverts, f.LastError), seen, 0)
		return true
	case time.Now().Before(f.Until):
		a.report(r, Pending, putOff(r.target, f), seen, 0)
		a.wakeAt(f.Until)
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
		a.report(r, Pending, "its modules are being loaded", nil, 0)
		a.wakeAt(time.Now().Add(retryBlocked))
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
		a.report(r, conditionOf(err), err.Error(), nil, 0)
		return false
	}
	draft := draftOf(g.Key, o.State, g.State)
	if f, ok := a.engine.Failure(draft); ok && a.tooSoon(r, f, nil) || a.heldBack(r, draft, nil) {
		return false
	}
	result := a.run(ctx, draft, a.reason(r.entry))
	if result.Outcome == engine.Done {
		return true
	}
	a.reportResult(ctx, r, result)
	a.after(result, false)
	return false
}

func (a *Agent) reason(entry string) journal.Reason {
	a.mu.Lock()
	defer a.mu.Unlock()
	return journal.Reason{Source: a.c.Name, Object: a.c.Object, Generation: a.source.Generation, Entry: entry}
}

// reportResult says how the function stands after an operation.
func (a *Agent) reportResult(ctx context.Context, r request, result engine.Result) {
	_, observed, _ := a.view.examine(context.WithoutCancel(ctx), r)
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
	if condition == Right && r.released() {
		condition = Released
	}
	reason := ""
	if result.Err != nil {
		reason = result.Err.Error()
	}
	open := uint64(0)
	if condition != Right && condition != Released {
		open = result.Operation
	}
	a.report(r, condition, reason, describe(observed), open)
}

// describe is what was observed, by kind, for people.
func describe(observed map[drivers.Key]drivers.Observation) map[string]string {
	m := map[string]string{}
	for k, o := range observed {
		m[string(k.Kind)] = o.String()
	}
	return m
}

// report notes how an entry stands. A change of condition is one line in the
// log.
func (a *Agent) report(r request, c Condition, reason string, observed map[string]string, op uint64) {
	if c != Right && c != Degraded {
		a.health.Forget(r.target) // what it was like says nothing once it is as asked again
	}
	next := InterfaceReport{
		Entry: r.entry, Target: r.target, Condition: c, Reason: reason, Observed: observed, Operation: op,
		Kept: r.asked.Kept, Want: map[string]string{}, Since: time.Now().UTC().Truncate(time.Second),
	}
	for k, s := range r.goal {
		next.Want[string(k.Kind)] = string(s)
	}
	a.mu.Lock()
	last, known := a.reports[r.entry]
	if known && last.Condition == c {
		next.Since = last.Since
	}
	if next.Observed == nil {
		next.Observed = last.Observed
	}
	a.reports[r.entry] = next
	a.mu.Unlock()
	if known && last.Condition == c && strings.TrimSpace(last.Reason) == strings.TrimSpace(reason) {
		return
	}
	fields := []any{"entry", r.entry, "target", r.target, "state", c, "msg", "interface is " + string(c)}
	if reason != "" {
		fields = append(fields, "why", reason)
	}
	if op != 0 {
		fields = append(fields, "op", op)
	}
	if c == Refused || c == Failed || c == Quarantined || c == Fenced || c == Degraded {
		level.Warn(a.logger).Log(fields...)
		return
	}
	level.Info(a.logger).Log(fields...)
}
