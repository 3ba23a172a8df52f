package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/journal"
	"eniagent/recovery"
)

// pass looks at everything once: resolve, then a worker for each function that
// none is on. It does not wait for them.
func (a *Agent) pass(ctx context.Context) {
	a.resumeOpen(ctx, everything())
	if !a.heard {
		return
	}
	a.mu.Lock()
	entries, remembered, of := slices.Clone(a.entries), slices.Clone(a.remembered), a.inForce()
	a.mu.Unlock()
	requests := a.view.resolve(ctx, entries, remembered)
	a.act(ctx, entries, requests, everything(), of)
}

// edition tells one desired state from another.
type edition struct {
	revision   int    // of the entries
	generation string // of what the source said
}

// inForce is the edition of the entries. The caller holds mu.
func (a *Agent) inForce() edition { return edition{a.revision, a.source.Generation} }

// act does what a pass over a scope is for, with all entries resolved.
func (a *Agent) act(ctx context.Context, entries []entry, requests []request, s scope, of edition) {
	a.debugLook(requests, s)
	a.dropYielded(entries, requests)
	requests = a.dropVanished(ctx, requests)
	a.resolved = resolution{requests, of.revision}
	a.dropLapsed(ctx, requests, s)
	err := a.remember(ctx, requests)
	a.mu.Lock()
	news := err != nil && (a.unkept == nil || a.unkept.Error() != err.Error())
	a.unkept, a.passed = err, true
	a.order, a.pools = a.order[:0], a.pools[:0]
	for _, r := range requests {
		if r.pool != "" {
			a.pools = append(a.pools, r)
			continue
		}
		a.order = append(a.order, r.entry)
	}
	maps.DeleteFunc(a.anew, func(entry string, _ int) bool { return !slices.Contains(a.order, entry) })
	if s.all {
		a.edition = of
	}
	a.mu.Unlock()
	a.changed()
	a.drifts.keep(requests)
	a.breakers.keep(requests)
	a.states.keep(requests)
	a.health.Keep(func(t drivers.Target) bool {
		return slices.ContainsFunc(requests, func(r request) bool { return r.target == t })
	})
	if news {
		a.failure(ctx).Log("err", err, "msg", "desired state is not in the journal, nothing is begun")
	}
	a.notePermissions(requests)
	if s.all {
		a.notePath(ctx)
	}
	concerned := slices.DeleteFunc(slices.Clone(requests), func(r request) bool { return !s.of(r) })
	a.again(concerned)
	// Who works on several functions comes first: later it would find one of them
	// taken, at every look.
	slices.SortStableFunc(concerned, func(x, y request) int { return len(y.targets()) - len(x.targets()) })
	for _, r := range concerned {
		if err != nil && r.err == nil {
			// After a crash nobody would know that it was wanted.
			r.cannot(Pending, err)
		}
		r.generation, r.revision = of.generation, of.revision
		a.dispatch(ctx, r)
	}
	a.followRest(ctx, requests)
}

// failure is the log for what went wrong. Of what does because the agent is asked to
// stop, nothing is wrong.
func (a *Agent) failure(ctx context.Context) log.Logger {
	if ctx.Err() != nil {
		return level.Info(a.logger)
	}
	return level.Error(a.logger)
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

// dropVanished drops the entries that were only kept to be given back and whose
// function is gone: what was done to it went with it.
func (a *Agent) dropVanished(ctx context.Context, requests []request) []request {
	return slices.DeleteFunc(requests, func(r request) bool {
		if !r.asked.Kept || r.asked.State != source.Released || !a.vanished(ctx, r) {
			return false
		}
		a.amend(r.entry, func(e *entry) bool { return !e.Kept || e.State != source.Released })
		level.Info(a.logger).Log("entry", r.entry, "object", r.asked.Object, "msg", "no longer asked for, and its function is gone: nothing is to be given back")
		return true
	})
}

// vanished says that nothing answers to an entry, and that what it stood for
// last is not there either.
func (a *Agent) vanished(ctx context.Context, r request) bool {
	if !errors.Is(r.err, errNobody) {
		return false
	}
	a.mu.Lock()
	i := slices.IndexFunc(a.remembered, func(m journal.Selection) bool { return m.Selector == r.entry })
	var was journal.Selection
	if i >= 0 {
		was = a.remembered[i]
	}
	a.mu.Unlock()
	if i < 0 {
		return true
	}
	now, err := host.Identify(ctx, a.c.Host, was.Target)
	return errors.Is(err, drivers.ErrGone) || err == nil && was.Identity.Difference(now) != ""
}

// dispatch puts a worker on a function, unless one is on it or an operation
// that is not closed holds it.
func (a *Agent) dispatch(ctx context.Context, r request) {
	if c, ok := a.view.paused(r.targets()...); ok {
		a.report(r, Paused, pausedText(c), sight{}, 0)
		a.glance(ctx, r)
		return
	}
	if r.err != nil {
		a.report(r, r.condition, r.err.Error(), sight{}, 0)
		a.glance(ctx, r)
		return
	}
	if op, ok := a.holder(r.target); ok {
		switch {
		case op.State == journal.Quarantined:
			a.report(r, Quarantined, op.Outcome, sight{}, op.ID)
		case a.isBusy(r.target):
		case a.fenced(op.Targets()):
			a.report(r, Fenced, "a write still runs in the kernel on it; it ends when the program that holds the device does", sight{}, op.ID)
		default:
			a.report(r, a.standing(op.ID), op.LastError, sight{}, op.ID)
		}
		return
	}
	a.work(ctx, r.targets(), func() { a.settle(ctx, r) })
}

// holder is the operation that is not closed and claims the target.
func (a *Agent) holder(t drivers.Target) (journal.Operation, bool) {
	return a.view.open(t)
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
// there is one already, after which they are looked at again.
func (a *Agent) work(ctx context.Context, targets []drivers.Target, fn func()) bool {
	return a.employ(ctx, targets, true, fn)
}

func (a *Agent) employ(ctx context.Context, targets []drivers.Target, again bool, fn func()) bool {
	a.mu.Lock()
	if at := slices.IndexFunc(targets, func(t drivers.Target) bool { return a.busy[t] }); a.stopped || at >= 0 {
		if at >= 0 && again && !slices.Contains(a.missed[targets[at]], targets[0]) {
			a.missed[targets[at]] = append(a.missed[targets[at]], targets[0]) // looked at again when the worker is done
		}
		a.mu.Unlock()
		return false
	}
	for _, t := range targets {
		a.busy[t] = true
	}
	defer a.mu.Unlock() // a worker is counted before a stop can wait for all
	a.workers.Go("worker "+string(targets[0]), func() {
		select {
		case a.slots <- struct{}{}:
			fn()
			<-a.slots
		case <-ctx.Done():
		}
		a.free(targets) // not behind a panic, which may hold the lock
	})
	return true
}

func (a *Agent) free(targets []drivers.Target) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range targets {
		delete(a.busy, t)
		a.wakeFor(a.missed[t]...)
		delete(a.missed, t)
	}
}

// resumeOpen puts a worker on each open operation of a scope that none is on: recovery,
// at the start and for whatever stayed open since. A quarantine ends with the
// boot or the device that it was about.
func (a *Agent) resumeOpen(ctx context.Context, s scope) {
	if a.readOnly() {
		a.mu.Lock()
		clear(a.unjudged)
		a.mu.Unlock()
		return
	}
	for _, op := range a.c.Journal.Operations() {
		if !s.all && !s.operation(op) {
			continue
		}
		if _, ok := a.view.paused(op.Targets()...); ok {
			a.judged(op.ID)
			continue
		}
		a.work(ctx, op.Targets(), func() { a.resume(ctx, op.ID) })
	}
	for _, op := range a.c.Journal.Quarantined() {
		if _, ok := a.view.paused(op.Targets()...); ok || !s.all && !s.operation(op) {
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
func (a *Agent) readOnly() bool { return a.mayWrite() != nil }

// mayWrite says why nothing may be written, and what to do about it.
func (a *Agent) mayWrite() error {
	d, degraded := a.c.Journal.Degraded()
	switch {
	case degraded:
		return fmt.Errorf("%w: %w", errReadOnly, &DamagedError{lossText(d)})
	case a.c.Observe:
		return fmt.Errorf("%w: the agent only observes (--observe): start it without, then ask again", errReadOnly)
	}
	return nil
}

// resume judges one open operation and carries the decision out.
func (a *Agent) resume(ctx context.Context, id uint64) {
	j, r := a.engine.Resume(ctx, a.view.env(), id)
	a.judged(id)
	a.after(r, j.Fenced, j.Operation.Targets()...)
}

// judged notes that recovery has dealt with an operation found at the start.
func (a *Agent) judged(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.unjudged, id)
}

// describe is what was observed of a function, by kind, for people.
func describe(t drivers.Target, observed map[drivers.Key]drivers.Observation) map[string]string {
	m := map[string]string{}
	for k, o := range observed {
		if k.Target == t {
			m[string(k.Kind)] = o.String()
		}
	}
	return m
}

// isGone says that an error is that there is nothing that could be observed.
func isGone(err error) bool { return errors.Is(err, errNobody) || errors.Is(err, drivers.ErrGone) }

// report notes how an entry stands. A change of condition is one line in the
// log.
func (a *Agent) report(r request, c Condition, reason string, seen sight, op uint64) {
	if c != Right && c != Degraded && !r.unread {
		a.health.Forget(r.target) // what it was like says nothing once it is as asked again
	}
	next := InterfaceReport{
		Entry: r.entry, Target: r.target, Condition: c, Reason: reason, Observed: seen.observed, Operation: op,
		Kept: r.asked.Kept, From: r.asked.From, Object: r.asked.Object, Want: map[string]string{}, Since: time.Now().UTC().Truncate(time.Second),
		pool: r.asked.Pool, generation: r.generation, revision: r.revision,
	}
	for k, s := range r.goal {
		if k.Target == r.target {
			next.Want[string(k.Kind)] = string(s)
		}
	}
	a.mu.Lock()
	last, known := a.reports[r.entry]
	if known && last.Condition == c {
		next.Since = last.Since
	}
	if next.Observed == nil && !isGone(r.err) {
		next.Observed = last.Observed
	}
	if next.generation == "" {
		next.generation, next.revision = last.generation, last.revision
	}
	a.reports[r.entry] = next
	a.mu.Unlock()
	if r.pool == "" {
		a.noteState(r, c, seen)
	}
	a.changed()
	if known && last.Condition == c && strings.TrimSpace(last.Reason) == strings.TrimSpace(reason) {
		level.Debug(a.logger).Log("entry", r.entry, "target", r.target, "state", c, "observed", observedText(next.Observed), "why", reason, "msg", "looked at, as before")
		return
	}
	what := "interface is "
	if r.pool != "" {
		what = "pool is "
	}
	fields := []any{"entry", r.entry, "target", r.target, "state", c, "msg", what + string(c)}
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
