package agent

import (
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"

	"eniagent/agent/engine"
	"eniagent/drivers"
)

// How soon something that could not be done now is looked at again. Events
// usually come first.
const (
	retryFenced  = 500 * time.Millisecond
	retryHeld    = 500 * time.Millisecond
	retryBlocked = 200 * time.Millisecond
	retryStarved = 5 * time.Second // each look takes some of what there is too little of
	// The kubelet tells of no pod that has ended.
	retryPod = 5 * time.Second
	// What stays open for another reason, such as a rule, is looked at ever more
	// seldom; doubled, with jitter.
	retryKept    = 2 * time.Second
	retryKeptMax = 5 * time.Minute
)

// after plans the next look, at the targets alone, by how an operation on them,
// or for them, ended.
func (a *Agent) after(r engine.Result, fenced bool, targets ...drivers.Target) {
	now := time.Now()
	a.noteKept(r)
	if op, ok := a.c.Journal.Get(r.Operation); ok {
		targets = append(targets, op.Targets()...)
	}
	switch {
	case drivers.Starved(r.Err):
		a.wakeAt(now.Add(retryStarved), targets...)
	case errors.Is(r.Err, drivers.ErrHeld):
		a.wakeAt(now.Add(retryHeld), targets...)
	case r.Outcome == engine.Kept && (fenced || errors.Is(r.Err, drivers.ErrFenced)):
		a.wakeAt(now.Add(retryFenced), targets...)
	case r.Outcome == engine.Kept:
		a.wakeAt(now.Add(a.keptPause(r.Operation)), targets...)
	case r.Outcome == engine.Blocked, r.Outcome == engine.Superseded:
		a.wakeAt(now.Add(retryBlocked), targets...)
	case r.Outcome == engine.Failed, r.Outcome == engine.Refused, r.Outcome == engine.Quarantined:
		// Looked at again with its next event, or a full pass.
	default:
		a.wakeFor(targets...)
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
	case drivers.Starved(err):
		return Pending
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
