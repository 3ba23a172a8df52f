package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-kit/log/level"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/journal"
	"eniagent/recovery"
)

// drive brings the host to the goal of an operation, which is its After or its
// Before: observe, plan, one step, observe again, until there is no step left.
// That last observation is the verification.
//
// stop ends it between two steps only: what a step has done is still observed.
func (e *Engine) drive(stop context.Context, op *journal.Operation, goal plan.Goal) error {
	ctx, checked := context.WithoutCancel(stop), false
	for n, most := 0, 16+8*len(op.Changes); n < most; n++ {
		observed, err := e.observe(ctx, op)
		if err != nil {
			return err
		}
		steps, err := plan.Order(e.Drivers.Specs, observed, goal)
		if err != nil {
			return err
		}
		if len(steps) == 0 {
			return nil
		}
		if stop.Err() != nil {
			return fmt.Errorf("%w: %w", errInterrupted, context.Cause(stop))
		}
		if !checked {
			most += 2 * len(steps) // a list may have many hops
			if err := e.mayDrive(ctx, op, observed, goal); err != nil {
				return err
			}
			checked = true
		}
		if err := e.step(ctx, op, steps[0]); err != nil {
			return err
		}
	}
	return fmt.Errorf("the host does not settle: %w", drivers.ErrUnverified)
}

// observe reads all keys of an operation. One that nothing explains is foreign:
// hands off, even in the middle.
func (e *Engine) observe(ctx context.Context, op *journal.Operation) (plan.Observed, error) {
	seen := make(plan.Observed, len(op.Changes))
	var worst error
	for _, c := range op.Changes {
		o := e.Observer().Observe(ctx, c.Key)
		seen[c.Key] = o
		class := recovery.Classify(e.Drivers.Specs, op, c, o)
		e.found(op, c.Key, class)
		switch class {
		case recovery.Unobservable:
			return nil, fmt.Errorf("%s: %w: %w", c.Key, errUnobservable, o.Err)
		case recovery.Foreign:
			worst = fmt.Errorf("%s is %s: %w", c.Key, o, errForeign)
		case recovery.Gone:
			if worst == nil {
				worst = fmt.Errorf("%s: %w", c.Key, drivers.ErrGone)
			}
		}
	}
	if worst != nil {
		return nil, worst
	}
	return seen, e.sameDevice(ctx, op)
}

// sameDevice refuses to go on with another device at the same address.
func (e *Engine) sameDevice(ctx context.Context, op *journal.Operation) error {
	for t, recorded := range op.Identity {
		now, err := e.Observer().Identify(ctx, t)
		if err != nil {
			return err
		}
		if field := recorded.Difference(now); field != "" {
			return fmt.Errorf("%s is another device than it was (%s differs): %w", t, field, drivers.ErrGone)
		}
	}
	return nil
}

// mayDrive asks the guard and the prechecks once, before the first write.
func (e *Engine) mayDrive(ctx context.Context, op *journal.Operation, observed plan.Observed, goal plan.Goal) error {
	if e.Guard != nil {
		if err := e.Guard.MayDrive(ctx, observed, goal); err != nil {
			return fmt.Errorf("%w: %w", errGuarded, err)
		}
	}
	if op.State == journal.Reverting {
		return nil // going back is not refused for what going forward would be
	}
	return e.Observer().Precheck(ctx, observed, goal)
}

// step makes one write. It is not cut short when the agent is asked to stop:
// what has been begun is finished, or abandoned by the host at its deadline.
func (e *Engine) step(ctx context.Context, op *journal.Operation, s drivers.Step) error {
	d, err := e.Drivers.Driver(s.Key.Kind)
	if err == nil {
		err = e.Drivers.Specs.Legal(s.Key, s.To)
	}
	if err != nil {
		return err
	}
	if e.Guard != nil {
		if err := e.Guard.MayStep(ctx, s); err != nil {
			return fmt.Errorf("%w: %w", errGuarded, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.StepTimeout)
	defer cancel()
	began := time.Now()
	err = d.Apply(ctx, s.Key.Target, s.To)
	elapsed := time.Since(began)
	e.Metrics.step(s.Key.Kind, elapsed, err)
	fields := []any{
		"op", op.ID, "kind", s.Key.Kind, "target", s.Key.Target, "before", s.From, "after", s.To,
		"attempt", op.Attempts, "elapsed", elapsed.Round(time.Microsecond),
	}
	if err != nil {
		level.Warn(e.Logger).Log(append(fields, "err", err, "msg", "step not made")...)
		return err
	}
	e.wrotes(op, s.Key)
	level.Info(e.Logger).Log(append(fields, "msg", "step made")...)
	return nil
}

// isGone says that what the operation was about is no more.
func isGone(err error) bool { return errors.Is(err, drivers.ErrGone) }
