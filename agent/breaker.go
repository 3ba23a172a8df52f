package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sony/gobreaker/v2"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/journal"
)

// What an operation does to the host is counted in the journal, which decides
// across restarts when its goal is tried again (journal.Failure). A breaker is
// for what never gets that far: operations that are not begun, or not closed,
// again and again. There is one for each kind and target, while it fails.

const (
	// breakerTrips is how many failures in a row open a breaker.
	breakerTrips = 5
	// The first pause of an open breaker, and the longest; doubled, with jitter.
	breakerPause    = 5 * time.Second
	breakerPauseMax = 5 * time.Minute
	breakerJitter   = 0.2
	maxBreakers     = 1024
)

type breakers struct {
	mu sync.Mutex
	by map[drivers.Key]*breaker
}

// breaker is of one kind and target that fails.
type breaker struct {
	circuit *gobreaker.CircuitBreaker[engine.Result]
	pauses  *backoff.ExponentialBackOff
	until   time.Time // zero while it is closed
	last    engine.Result
}

func newBreakers() *breakers { return &breakers{by: map[drivers.Key]*breaker{}} }

// circuit is one that opens after so many failures in a row.
func circuit(pause time.Duration, trips uint32) *gobreaker.CircuitBreaker[engine.Result] {
	return gobreaker.NewCircuitBreaker[engine.Result](gobreaker.Settings{
		Timeout:     pause,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= trips },
	})
}

// of is the breaker of a key. The caller holds mu.
func (b *breakers) of(k drivers.Key) *breaker {
	if br, ok := b.by[k]; ok {
		return br
	}
	if len(b.by) >= maxBreakers {
		oldest := k
		for other, br := range b.by {
			if oldest == k || br.until.Before(b.by[oldest].until) {
				oldest = other
			}
		}
		delete(b.by, oldest)
	}
	br := &breaker{
		circuit: circuit(breakerPause, breakerTrips),
		pauses: &backoff.ExponentialBackOff{
			InitialInterval: breakerPause, RandomizationFactor: breakerJitter, Multiplier: 2, MaxInterval: breakerPauseMax,
		},
	}
	b.by[k] = br
	return br
}

// run tries through the breaker of a key.
func (b *breakers) run(k drivers.Key, try func() engine.Result) engine.Result {
	b.mu.Lock()
	br := b.of(k)
	through := br.circuit
	b.mu.Unlock()
	tried := false
	r, err := through.Execute(func() (engine.Result, error) {
		tried = true
		r := try()
		return r, unrecorded(r)
	})
	if !tried {
		return engine.Result{Outcome: engine.Blocked, Err: err}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.by[k] != br: // it was forgotten meanwhile
	case err == nil:
		delete(b.by, k)
	case through.State() == gobreaker.StateOpen:
		// Its pause is its own for good: the next, longer one needs another circuit.
		pause := br.pauses.NextBackOff()
		br.circuit, br.until, br.last = circuit(pause, 1), time.Now().Add(pause+time.Millisecond), r
		_, _ = br.circuit.Execute(func() (engine.Result, error) { return r, err }) // opens it
	}
	return r
}

// unrecorded is why an operation was not carried out, where the journal does
// not count it and the cause does not end by itself.
func unrecorded(r engine.Result) error {
	switch r.Outcome {
	case engine.Blocked, engine.Refused, engine.Failed, engine.Kept:
	default:
		return nil
	}
	if drivers.Starved(r.Err) {
		return nil
	}
	for _, passing := range []error{drivers.ErrFenced, drivers.ErrUnanswered, drivers.ErrHeld, drivers.ErrNotReady, engine.ErrBusy, syscall.EBUSY, context.Canceled, errSignal} {
		if errors.Is(r.Err, passing) {
			return nil
		}
	}
	if r.Err == nil {
		return fmt.Errorf("operation is %s", r.Outcome)
	}
	return r.Err
}

// held is until when a key is held back, and for what; false when it is not.
func (b *breakers) held(k drivers.Key) (time.Time, engine.Result, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	br, ok := b.by[k]
	if !ok || !time.Now().Before(br.until) {
		return time.Time{}, engine.Result{}, false
	}
	return br.until, br.last, true
}

// forget closes the breakers of targets, and returns how many held them back.
func (b *breakers) forget(concerned func(drivers.Target) bool) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.by, func(k drivers.Key, br *breaker) bool {
		gone := concerned(k.Target)
		if gone && !br.until.IsZero() {
			n++
		}
		return gone
	})
	return n
}

// keep forgets the functions that nothing is asked of any more.
func (b *breakers) keep(requests []request) {
	b.forget(func(t drivers.Target) bool {
		_, function := t.PCIAddress()
		return function && !slices.ContainsFunc(requests, func(r request) bool { return r.target == t })
	})
}

// count is how many breakers are in a state.
func (b *breakers) count(s gobreaker.State) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, br := range b.by {
		if br.circuit.State() == s {
			n++
		}
	}
	return n
}

// leading is the key that a draft is held back by: of the kind that all others
// of its function hang on, if that changes, else the first.
func leading(specs drivers.Specs, d plan.Draft) drivers.Key {
	keys := slices.SortedFunc(maps.Keys(d.After), drivers.Key.Compare)
	for _, k := range keys {
		if spec, ok := specs.Find(k.Kind); ok && spec.Hides != nil {
			return k
		}
	}
	return keys[0]
}

// heldBack says whether a draft is not to be tried now, and reports it.
func (a *Agent) heldBack(r request, d plan.Draft, seen sight) bool {
	key := leading(a.view.Drivers.Specs, d)
	until, last, held := a.breakers.held(key)
	if !held {
		return false
	}
	condition := Pending
	if last.Outcome == engine.Refused {
		condition = Refused
	}
	a.report(r, condition, fmt.Sprintf("held back until %s, because it keeps being %s: %v; or agent retry %s",
		until.UTC().Format(time.RFC3339), last.Outcome, last.Err, key.Target), seen, last.Operation)
	a.wakeAt(until, r.target)
	return true
}

// run begins an operation and carries it out, unless it is held back.
func (a *Agent) run(ctx context.Context, d plan.Draft, reason journal.Reason) engine.Result {
	return a.breakers.run(leading(a.view.Drivers.Specs, d), func() engine.Result {
		a.states.begin(targetsIn(d))
		return a.engine.Run(ctx, d, reason)
	})
}

// putOff says why a goal is not tried now, and when it is.
func putOff(t drivers.Target, f journal.Failure, until time.Time) string {
	when := "tried again at " + until.UTC().Format(time.RFC3339)
	if f.Panics < engine.MaxPanics {
		return when + ": " + f.LastError
	}
	why := fmt.Sprintf("%d boots in a row ended while it was tried, %s, or after agent retry %s", f.Panics, when, t)
	if f.LastError != "" {
		why += ": " + f.LastError
	}
	return why
}
