package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-kit/log/level"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/journal"
	"eniagent/recovery"
)

// Run begins an operation and carries it out. Nothing is written to the host
// unless the intent is durable, and nothing at all when the host is no longer
// as the draft has it. The closings are made with the intent, or not at all.
func (e *Engine) Run(ctx context.Context, d plan.Draft, reason journal.Reason, closings ...journal.Closing) Result {
	r := e.run(ctx, d, reason, closings)
	e.Metrics.ended(r.Outcome)
	return r
}

func (e *Engine) run(stop context.Context, d plan.Draft, reason journal.Reason, closings []journal.Closing) Result {
	ctx := context.WithoutCancel(stop)
	release, err := e.hold(append(targetsOf(d), e.named(bothOf(d))...))
	if err != nil {
		return Result{Outcome: Blocked, Err: err}
	}
	defer release()
	observed := e.Observer().All(ctx, d.Before)
	for key, before := range d.Before {
		if o := observed[key]; !o.Is(before) {
			return Result{Outcome: Blocked, Err: fmt.Errorf("%s is %s, not %s as planned: %w", key, o, before, orChanged(o.Err))}
		}
	}
	if err := e.mayBegin(ctx, observed, d); drivers.Starved(err) || errors.Is(err, errUnobservable) {
		return Result{Outcome: Blocked, Err: err}
	} else if err != nil {
		return Result{Outcome: Refused, Err: err}
	}
	op, err := e.draw(ctx, d, reason)
	if err != nil {
		return Result{Outcome: Blocked, Err: err}
	}
	begun, err := e.Journal.Begin(ctx, op, e.baselines(op, d.Lost), closings...)
	switch {
	case errors.Is(err, journal.ErrClaimed):
		return Result{Outcome: Blocked, Err: err}
	case err != nil:
		return Result{Outcome: Failed, Err: err}
	}
	e.meets(&begun)
	e.transition(&begun, journal.Intent, reason.Entry, nil)
	return e.forward(stop, &begun)
}

// mayBegin asks the drivers and the rules about a goal.
func (e *Engine) mayBegin(ctx context.Context, observed plan.Observed, d plan.Draft) error {
	ctx, n := host.Noting(ctx)
	if err := e.Observer().Precheck(ctx, observed, d.Asked()); err != nil || e.Guard == nil {
		return unasked(n, err)
	}
	return unasked(n, e.Guard.MayDrive(ctx, observed, d.After))
}

// bothOf are the two states of each key.
func bothOf(d plan.Draft) map[drivers.Key][]drivers.State {
	both := map[drivers.Key][]drivers.State{}
	for k, after := range d.After {
		both[k] = []drivers.State{d.Before[k], after}
	}
	return both
}

// targetsOf may say a target more than once.
func targetsOf(d plan.Draft) []drivers.Target {
	var ts []drivers.Target
	for k := range d.After {
		ts = append(ts, k.Target)
	}
	return ts
}

var errChanged = errors.New("the host has changed since")

func orChanged(err error) error {
	if err == nil {
		return errChanged
	}
	return err
}

// draw makes the record of a draft.
func (e *Engine) draw(ctx context.Context, d plan.Draft, reason journal.Reason) (journal.Operation, error) {
	op := journal.Operation{Reason: reason, Identity: map[drivers.Target]drivers.Identity{}}
	for _, key := range slices.SortedFunc(maps.Keys(d.After), drivers.Key.Compare) {
		spec, ok := e.Drivers.Specs.Find(key.Kind)
		if !ok {
			return op, fmt.Errorf("kind %q: %w", key.Kind, drivers.ErrIllegal)
		}
		op.Changes = append(op.Changes, journal.Change{Key: key, Class: spec.Class, Before: d.Before[key], After: d.After[key], Along: d.Along[key]})
	}
	for _, t := range op.Targets() {
		id, err := e.Observer().Identify(ctx, t)
		if err != nil {
			return op, err
		}
		if _, made, _ := e.Drivers.Specs.Maker(t, op.States()); made {
			id.Incarnation = 0 // it changes on the way
		}
		if id != (drivers.Identity{}) {
			op.Identity[t] = id
		}
	}
	return op, nil
}

// Failure is what is counted against the goal of a draft.
func (e *Engine) Failure(d plan.Draft) (journal.Failure, bool) {
	return e.Journal.Failure(Fingerprint(d))
}

// Fingerprint names the goal of a draft, as journal.Operation.Fingerprint does.
func Fingerprint(d plan.Draft) string {
	var op journal.Operation
	for _, key := range slices.SortedFunc(maps.Keys(d.After), drivers.Key.Compare) {
		op.Changes = append(op.Changes, journal.Change{Key: key, After: d.After[key], Along: d.Along[key]})
	}
	return op.Fingerprint()
}

// forward drives an open operation to its After, again and again up to the
// bound, and back to its Before when that is not to be had.
func (e *Engine) forward(ctx context.Context, op *journal.Operation) Result {
	defer e.dies(op)
	for {
		err := e.drive(ctx, op, op.After())
		switch {
		case err == nil:
			return e.conclude(ctx, op, journal.Done, "the host was observed at the state after", nil)
		case keeps(err), isGone(err), errors.Is(err, errForeign):
			return e.settle(ctx, op, err)
		}
		e.failed(op, err)
		if permanent(err) || op.Failed >= e.MaxAttempts {
			return e.giveUp(ctx, op, err, false)
		}
		if r, ok := e.again(ctx, op); !ok {
			return r
		}
	}
}

// giveUp makes the revert durable, then reverts.
func (e *Engine) giveUp(ctx context.Context, op *journal.Operation, cause error, withdrawn bool) Result {
	if err := e.Journal.Reverting(context.WithoutCancel(ctx), op.ID, cause.Error(), withdrawn); err != nil {
		return e.unjournaled(op, err)
	}
	op.State, op.UndoneAt, op.LastError, op.Withdrawn = journal.Reverting, op.Attempts, cause.Error(), withdrawn
	op.Attempts, op.Failed, op.Spared = op.Attempts+1, 0, 0
	e.transition(op, journal.Reverting, "", cause)
	return e.backward(ctx, op, cause)
}

// backward drives a reverting operation to its Before.
func (e *Engine) backward(ctx context.Context, op *journal.Operation, cause error) Result {
	defer e.dies(op)
	for {
		err := e.drive(ctx, op, op.Before())
		switch {
		case err == nil:
			return e.conclude(ctx, op, journal.Reverted, "the host was observed at the state before", cause)
		case keeps(err), isGone(err), errors.Is(err, errForeign):
			return e.settle(ctx, op, err)
		}
		e.failed(op, err)
		if op.Failed >= e.MaxAttempts {
			return e.quarantine(ctx, op, fmt.Errorf("revert: %w", err))
		}
		if r, ok := e.again(ctx, op); !ok {
			return r
		}
	}
}

// again makes a further attempt durable, after a pause.
func (e *Engine) again(ctx context.Context, op *journal.Operation) (Result, bool) {
	if err := e.Sleep(ctx, e.Backoff(op.Attempts)); err != nil {
		return e.stays(op, fmt.Errorf("%w: %w", errInterrupted, err)), false
	}
	next, err := e.Journal.Attempt(context.WithoutCancel(ctx), op.ID)
	if err != nil {
		return e.unjournaled(op, err), false
	}
	*op = next
	return Result{}, true
}

// settle ends a drive that could not go on, by why it could not.
func (e *Engine) settle(ctx context.Context, op *journal.Operation, err error) Result {
	switch {
	case keeps(err):
		if errors.Is(err, drivers.ErrFenced) {
			e.note(op, err) // how the write ends, nobody knows yet
		} else {
			e.spared(op, err)
		}
		return e.stays(op, err)
	case isGone(err):
		return e.finish(op, journal.Superseded, "its device is gone", err)
	}
	return e.quarantine(ctx, op, err)
}

// end closes an operation. Its durability may lag, but not where a failure is
// counted: a goal that takes the agent down each time must still be counted out.
func (e *Engine) end(c journal.Closing) error {
	if err := e.Journal.End(c); err != nil || c.Count == journal.CountNothing {
		return err
	}
	return e.Journal.Flush(context.Background())
}

// retryAt is when a goal that was just reverted may be tried again: the pause
// grows, and after MaxReverts the goal is left alone.
func (e *Engine) retryAt(op *journal.Operation) time.Time {
	f, _ := e.Journal.Failure(op.Fingerprint())
	return e.Now().Add(min(5*time.Second<<min(2*f.Reverts, 10), 10*time.Minute))
}

// poisonedUntil is when a goal that was being tried when the boot ended may be
// tried again: two mains failures in a row must not disable a NIC, three may
// be a driver that panics the kernel.
func (e *Engine) poisonedUntil(op *journal.Operation) time.Time {
	f, _ := e.Journal.Failure(op.Fingerprint())
	if f.Panics+1 < MaxPanics {
		return time.Time{}
	}
	return e.Now().Add(min(10*time.Minute<<min(f.Panics+1-MaxPanics, 10), 24*time.Hour))
}

// conclude closes an operation whose goal was observed, once what is in files
// is as durable as the record that says so. What was observed may be the work
// of an agent that was killed before it synced, so it is synced here whoever
// wrote it. Where that fails the operation stays open, and is concluded later.
func (e *Engine) conclude(ctx context.Context, op *journal.Operation, state journal.OperationState, why string, cause error) Result {
	if err := e.sync(ctx, op); err != nil {
		return e.settle(ctx, op, fmt.Errorf("%w: %w", errUnsynced, err))
	}
	return e.finish(op, state, why, cause)
}

// sync makes durable what the operation's keys show now.
func (e *Engine) sync(ctx context.Context, op *journal.Operation) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.StepTimeout)
	defer cancel()
	for _, c := range op.Changes {
		d, err := e.Drivers.Driver(c.Key.Kind)
		if err != nil {
			return err
		}
		if s, ok := d.(drivers.Syncer); ok {
			if err := s.Sync(ctx, c.Key.Target); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish closes an operation. Its durability may lag: until then a crash finds
// it open, observes it at its goal, and closes it again.
func (e *Engine) finish(op *journal.Operation, state journal.OperationState, why string, cause error) Result {
	end := journal.Closing{ID: op.ID, State: state, Outcome: why, Owes: e.owes(op)}
	if cause != nil {
		end.Outcome = why + ": " + cause.Error()
	}
	if state == journal.Reverted && !op.Withdrawn {
		end.Count, end.Until = journal.CountRevert, e.retryAt(op)
	}
	if err := e.end(end); err != nil {
		return e.unjournaled(op, err)
	}
	e.closed(op, end.Owes)
	e.transition(op, state, why, cause)
	outcome := map[journal.OperationState]Outcome{
		journal.Done: Done, journal.Reverted: Reverted, journal.Superseded: Superseded,
	}[state]
	return Result{Operation: op.ID, Outcome: outcome, Err: cause}
}

// unjournaled ends a call whose journal does not take the next record: the
// host is left as it is, and the operation open.
func (e *Engine) unjournaled(op *journal.Operation, err error) Result {
	level.Error(e.Logger).Log("op", op.ID, "target", names(op.Targets()), "err", err, "msg", "journal does not take the record, host left as it is")
	return Result{Operation: op.ID, Outcome: Failed, Err: err}
}

// Resume judges an open operation and carries the decision out. The judgement
// is returned with what became of it; it is empty when another call is at work
// on the operation, or has closed it.
func (e *Engine) Resume(ctx context.Context, env recovery.Env, id uint64) (recovery.Judgement, Result) {
	j, r := e.judged(ctx, env, id)
	e.Metrics.ended(r.Outcome)
	return j, r
}

func (e *Engine) judged(stop context.Context, env recovery.Env, id uint64) (recovery.Judgement, Result) {
	ctx := context.WithoutCancel(stop)
	blocked := func(err error) (recovery.Judgement, Result) {
		return recovery.Judgement{}, Result{Operation: id, Outcome: Blocked, Err: err}
	}
	op, ok := e.Journal.Get(id)
	if !ok {
		return blocked(fmt.Errorf("operation %d: %w", id, journal.ErrUnknown))
	}
	release, err := e.hold(append(op.Targets(), e.named(op.States())...))
	if err != nil {
		return blocked(err)
	}
	defer release()
	if op, _ = e.Journal.Get(id); !op.State.Open() {
		return blocked(fmt.Errorf("operation %d is %s", id, op.State))
	}
	env.MayDrive = Asked(e.Guard)
	e.meets(&op)
	j := recovery.Judge(ctx, env, e.Observer(), op)
	for _, f := range j.Findings {
		e.found(&op, f.Change.Key, f.Class)
	}
	tell := e.teller(j, op)
	r := e.resume(stop, j, &op)
	tell(r.Outcome)
	return j, r
}

// news says whether a judgement differs from the last one of that operation: a
// fenced operation is looked at every moment, and kept each time.
func (e *Engine) news(j recovery.Judgement) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if j.Decision != recovery.Keep {
		delete(e.said, j.Operation.ID)
		return true
	}
	before := e.said[j.Operation.ID]
	e.said[j.Operation.ID] = j.Why
	return before != j.Why
}

func (e *Engine) resume(ctx context.Context, j recovery.Judgement, op *journal.Operation) Result {
	switch j.Decision {
	case recovery.Done:
		return e.conclude(ctx, op, journal.Done, j.Why, nil)
	case recovery.Reverted:
		op.Withdrawn = op.Withdrawn || op.State == journal.Intent && j.Wanted == recovery.Withdrawn
		return e.conclude(ctx, op, journal.Reverted, j.Why, nil)
	case recovery.Supersede:
		return e.supersede(op, j)
	case recovery.Quarantine:
		return e.quarantineFound(ctx, op, errors.New(j.Why), j.Findings)
	case recovery.Keep:
		return e.keep(op, j)
	case recovery.Revert:
		if op.State == journal.Intent {
			return e.giveUp(ctx, op, errors.New(j.Why), j.Wanted == recovery.Withdrawn)
		}
	}
	next, err := e.Journal.AttemptFrom(context.WithoutCancel(ctx), op.ID, j.Found)
	if err != nil {
		return e.unjournaled(op, err)
	}
	op = &next
	if j.Decision == recovery.Revert {
		return e.backward(ctx, op, errors.New(op.LastError))
	}
	return e.forward(ctx, op)
}

// keep leaves an operation open, and notes why with it.
func (e *Engine) keep(op *journal.Operation, j recovery.Judgement) Result {
	err := errors.New(j.Why)
	if j.Guarded != nil {
		err = fmt.Errorf("%w: %w", errGuarded, j.Guarded)
	}
	if op.LastError == "" || j.Guarded != nil { // else the root cause is worth more
		e.note(op, err)
	}
	return Result{Operation: op.ID, Outcome: Kept, Err: err}
}

// supersede closes an operation of an earlier kernel. That the boot ended
// while it was tried, and its goal was not seen, counts against its goal: a
// bind that panics the kernel must not be tried at every boot. A boot that ended
// after the try had, as when a node is shut down, says nothing.
func (e *Engine) supersede(op *journal.Operation, j recovery.Judgement) Result {
	end := journal.Closing{ID: op.ID, State: journal.Superseded, Outcome: j.Why, Owes: e.owes(op)}
	if j.Epoch == recovery.NewBoot && j.BootChanged && j.Class != recovery.After && op.Crashes() > 0 {
		end.Count, end.Until = journal.CountPanic, e.poisonedUntil(op)
	}
	if err := e.end(end); err != nil {
		return e.unjournaled(op, err)
	}
	e.closed(op, end.Owes)
	e.transition(op, journal.Superseded, j.Why, nil)
	return Result{Operation: op.ID, Outcome: Superseded}
}
