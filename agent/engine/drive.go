package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// drive brings the host to the goal of an operation, which is its After or its
// Before: look, plan, one step, look again, until there is no step left. The
// last look is at everything, and is the verification.
//
// stop ends it between two steps only: what a step has done is still looked at.
func (e *Engine) drive(stop context.Context, op *journal.Operation, goal plan.Goal) error {
	ctx, checked := context.WithoutCancel(stop), false
	goal = maps.Clone(goal)
	s := sight{seen: plan.Observed{}}
	if err := e.look(ctx, op, everything, &s); err != nil {
		return err
	}
	for n, most := 0, 16+8*len(op.Changes); n < most; n++ {
		steps, err := e.next(ctx, op, goal, &s)
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
			if err := e.mayDrive(ctx, op, s.seen, goal); err != nil {
				return err
			}
			checked = true
		}
		if err := e.step(ctx, op, steps[0]); err != nil {
			if !e.spares(op, steps[0].Key, err) {
				return err
			}
			delete(goal, steps[0].Key)
		}
		s.fresh = nil
		if err := e.look(ctx, op, e.touched(op, steps[0].Key), &s); err != nil {
			return err
		}
	}
	return fmt.Errorf("the host does not settle: %w", drivers.ErrUnverified)
}

// sight is what was seen of an operation's keys, and of which targets since the
// last step. To look at all of them after each step would be quadratic: a
// function may make a hundred others.
type sight struct {
	seen  plan.Observed
	fresh map[drivers.Target]bool
}

// everything is all the targets of an operation.
const everything drivers.Target = ""

// next are the steps that are left, the first of them on a target that was
// looked at since the last one; none says that everything was, and is right.
func (e *Engine) next(ctx context.Context, op *journal.Operation, goal plan.Goal, s *sight) ([]drivers.Step, error) {
	for {
		steps, err := plan.Order(e.Drivers.Specs, s.seen, goal)
		if err != nil {
			return nil, err
		}
		at := everything
		if len(steps) > 0 {
			at = steps[0].Key.Target
		}
		if s.fresh[everything] || s.fresh[at] {
			return steps, nil
		}
		if err := e.look(ctx, op, at, s); err != nil {
			return nil, err
		}
	}
}

// touched is what a step may have changed: its own target, or everything where
// others come and go with that.
func (e *Engine) touched(op *journal.Operation, k drivers.Key) drivers.Target {
	for _, c := range op.Changes {
		if spec, _ := e.Drivers.Specs.Find(c.Key.Kind); spec.Makes != nil && c.Key.Target == k.Target {
			return everything
		}
	}
	return k.Target
}

// look reads the keys of a target of an operation. One that nothing explains is
// foreign: hands off, even in the middle.
func (e *Engine) look(ctx context.Context, op *journal.Operation, at drivers.Target, s *sight) error {
	var worst error
	for _, c := range op.Changes {
		if at != everything && c.Key.Target != at {
			continue
		}
		o := e.Observer().Observe(ctx, c.Key)
		s.seen[c.Key] = o
		class := recovery.Classify(e.Drivers.Specs, op, c, o)
		e.found(op, c.Key, class)
		switch class {
		case recovery.Unobservable:
			return fmt.Errorf("%s: %w: %w", c.Key, errUnobservable, o.Err)
		case recovery.Foreign:
			worst = fmt.Errorf("%s is %s: %w", c.Key, o, errForeign)
		case recovery.Gone:
			if worst == nil {
				worst = fmt.Errorf("%s: %w", c.Key, drivers.ErrGone)
			}
		}
	}
	if worst != nil {
		return worst
	}
	if s.fresh == nil {
		s.fresh = map[drivers.Target]bool{}
	}
	s.fresh[at] = true
	return e.sameDevice(ctx, op, at)
}

// sameDevice refuses to go on with another device at the same address.
func (e *Engine) sameDevice(ctx context.Context, op *journal.Operation, at drivers.Target) error {
	for t, recorded := range op.Identity {
		if at != everything && t != at {
			continue
		}
		now, err := e.Observer().Identify(ctx, t)
		switch {
		case isGone(err):
			return err
		case err != nil:
			return fmt.Errorf("%s: %w: %w", t, errUnobservable, err)
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
	ctx, n := host.Noting(ctx)
	return unasked(n, e.Observer().Precheck(ctx, observed, asked(op, goal)))
}

// asked is a goal without the keys that nobody asks for.
func asked(op *journal.Operation, goal plan.Goal) plan.Goal {
	goal = maps.Clone(goal)
	for _, c := range op.Changes {
		if c.Along {
			delete(goal, c.Key)
		}
	}
	return goal
}

// spares says that what went wrong with a key is no failure of the operation:
// nobody asks for it, and its new netdev or VF does not take what the old one
// had. The rest is worth more than that.
func (e *Engine) spares(op *journal.Operation, k drivers.Key, err error) bool {
	i := slices.IndexFunc(op.Changes, func(c journal.Change) bool { return c.Key == k })
	if i < 0 || !op.Changes[i].Along || keeps(err) || isGone(err) {
		return false
	}
	lasting := permanent(err) || errors.Is(err, fs.ErrExist) || errors.Is(err, drivers.ErrUnverified)
	if !lasting && op.Tries() < e.MaxAttempts {
		return false
	}
	level.Warn(e.Logger).Log("op", op.ID, "kind", k.Kind, "target", k.Target, "before", op.Changes[i].Before, "err", err, "msg", "not restored")
	return true
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
		err := e.Guard.MayStep(ctx, s)
		if errors.Is(err, drivers.ErrBarred) && op.State != journal.Reverting {
			return err // it stays so: what was done is undone
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errGuarded, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.StepTimeout)
	defer cancel()
	began := time.Now()
	ctx, n := host.Noting(ctx)
	err = unread(n, d.Apply(ctx, s.Key.Target, s.To))
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
