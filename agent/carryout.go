package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// goesAlong says that a VF needs no order of its own when everything is released:
// the agent made it, and its physical function, which comes before it, is ordered
// to be as it was.
func (a *Agent) goesAlong(ctx context.Context, r request, o Order, before []OrderEntry) (OrderEntry, bool) {
	e := OrderEntry{Target: r.target, Condition: Pending, Steps: []StepReport{}}
	own := !r.ordered() && r.entry == r.asked.String()
	id, err := host.Identify(ctx, a.c.Host, r.target)
	if o.named() || r.order != nil || own || err != nil || !a.view.baselines().MadeVF(r.target, id) {
		return e, false
	}
	if e.along = id.PF; !r.ordered() {
		e.Entry = r.entry
	}
	e.Reason = fmt.Sprintf("the agent made it: it goes with %s", e.along)
	return e, slices.ContainsFunc(before, func(pf OrderEntry) bool {
		return pf.Target == e.along && (pf.Ordered || o.Dry && pf.Condition != Refused)
	})
}

// outcomeAlong is how a VF stands that goes with its physical function.
func (a *Agent) outcomeAlong(ctx context.Context, e OrderEntry) OrderEntry {
	id, err := host.Identify(ctx, a.c.Host, e.Target)
	if errors.Is(err, drivers.ErrGone) || err == nil && !a.view.everTouched(id.PF) {
		e.Condition, e.Reason = Released, fmt.Sprintf("the agent made it: it went with %s", e.along)
	}
	return e
}

// carryOut works on functions under orders until each is back, or cannot be
// for now; the orders stand for the rest. All of them are resolved once a round:
// once each would be quadratic in what is released.
func (a *Agent) carryOut(ctx context.Context, left []drivers.Target, patience time.Duration) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("left to the order"))
	defer cancel()
	for len(left) > 0 && ctx.Err() == nil {
		current := a.current(ctx)
		var began []attended
		busy := slices.DeleteFunc(slices.Clone(left), func(t drivers.Target) bool {
			at, again := a.attend(ctx, current, t)
			if at.worked != nil {
				began = append(began, at)
			}
			return at.worked != nil || !again
		})
		left = busy
		for _, at := range began {
			select {
			case <-at.worked:
			case <-ctx.Done():
				return
			}
			if !a.stuck(at.entry) {
				left = append(left, at.target)
			}
		}
		if len(left) == 0 {
			return
		}
		select { // what has just been reported is in the next pass
		case <-time.After(giveBackAgain):
		case <-ctx.Done():
		}
	}
}

// attended is a function that a worker is on.
type attended struct {
	target drivers.Target
	entry  string
	worked chan struct{} // closed when the worker is done; nil where there is none
}

// attend puts a worker on a function under an order; where it cannot, again says
// whether to look soon.
func (a *Agent) attend(ctx context.Context, current []request, t drivers.Target) (at attended, again bool) {
	i := slices.IndexFunc(current, func(r request) bool { return r.target == t })
	if i < 0 || current[i].letGo() {
		return at, false
	}
	r := current[i]
	if _, ok := a.view.paused(t); ok {
		return at, false
	}
	if r.err != nil {
		// Its physical function makes it anew, and it may be its turn then.
		return at, errors.Is(r.err, errMadeFirst) || r.condition == Waiting && r.identity.PF != "" && a.isBusy(r.identity.PF)
	}
	worked := make(chan struct{})
	var began bool
	if op, held := a.holder(t); !held {
		began = a.work(ctx, r.targets(), func() { defer close(worked); a.settle(ctx, r) })
	} else if op.State == journal.Quarantined {
		return at, false
	} else {
		began = a.work(ctx, op.Targets(), func() { defer close(worked); a.resume(ctx, op.ID) })
	}
	if !began {
		return at, true // the loop is at it
	}
	return attended{target: t, entry: r.entry, worked: worked}, true
}

// stuck says that nothing is to be waited for.
func (a *Agent) stuck(entry string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains([]Condition{Refused, Held, Fenced, Failed, Quarantined, Waiting}, a.reports[entry].Condition)
}

// outcome is how a function under an order stands now.
func (a *Agent) outcome(ctx context.Context, e OrderEntry, current []request) OrderEntry {
	i := slices.IndexFunc(current, func(r request) bool { return r.target == e.Target })
	if i < 0 {
		if a.view.gone(ctx, e.Target) && !a.view.everTouched(e.Target) {
			e.Condition, e.Reason = Released, "it is gone, and nothing is to be given back"
		}
		return e
	}
	r := current[i]
	p := a.view.planEntry(ctx, r)
	e.Condition, e.Reason = p.Condition, p.Reason
	a.mu.Lock()
	last, ok := a.reports[r.entry]
	a.mu.Unlock()
	if ok && p.Condition == Pending && last.Reason != "" && last.Condition != Released {
		e.Condition, e.Reason = last.Condition, last.Reason
	}
	if e.Condition == Released && !r.letGo() {
		e.Condition, e.Reason = Pending, "it is back, and the journal does not have that yet"
	}
	return e
}
