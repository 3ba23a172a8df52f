package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// Guard refuses what would do harm: cut the management path, take a device
// from a program. It is asked before a goal is driven to, and directly before
// each step on the way, whatever for: a new operation, a replay, a revert.
type Guard interface {
	MayDrive(ctx context.Context, observed plan.Observed, goal plan.Goal) error
	MayStep(ctx context.Context, s drivers.Step) error
}

// Asked is a guard as recovery asks it; nil for none.
func Asked(g Guard) func(context.Context, map[drivers.Key]drivers.Observation, map[drivers.Key]drivers.State) error {
	if g == nil {
		return nil
	}
	return func(ctx context.Context, observed map[drivers.Key]drivers.Observation, goal map[drivers.Key]drivers.State) error {
		return g.MayDrive(ctx, observed, goal)
	}
}

// Options are what an Engine works with.
type Options struct {
	Journal *journal.Journal
	Drivers drivers.Set
	Host    host.Host
	Logger  log.Logger
	Metrics *Metrics
	Guard   Guard // may be nil
	// Owed is told when something came to be owed for what was changed; may be nil.
	Owed func()
	// MaxAttempts is how often a goal is tried before it is given up; 3 when zero.
	MaxAttempts int
	// StepTimeout bounds one step; 30 s when zero. A write has its own, shorter
	// deadline in the host.
	StepTimeout time.Duration
	// Backoff is the pause before a further attempt; 200 ms, doubled, with some
	// jitter, when nil.
	Backoff func(attempt int) time.Duration
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// Sleep waits; it is a field so that tests need not.
	Sleep func(ctx context.Context, d time.Duration) error
}

// MaxReverts is how often a goal may be reverted before it is left alone until
// desired state changes or an operator clears it. MaxPanics is how many boots
// in a row may end while it is tried before it is put off.
const (
	MaxReverts = 3
	MaxPanics  = 3
)

// Engine carries out operations. Its methods may be called at once for
// different targets; for one target the journal lets only one through.
type Engine struct {
	Options

	mu   sync.Mutex
	held map[drivers.Target]bool // an operation on it is being carried out
	said map[uint64]string       // of operations that are kept: the last judgement
	// wrote has the operations of kinds that owe something, and whether a write
	// of theirs was made, or may have been before this engine knew of it.
	wrote map[uint64]bool
}

// New makes an Engine.
func New(o Options) *Engine {
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 3
	}
	if o.StepTimeout == 0 {
		o.StepTimeout = 30 * time.Second
	}
	if o.Backoff == nil {
		o.Backoff = pause
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	o.Logger = log.With(o.Logger, "component", "engine")
	return &Engine{Options: o, held: map[drivers.Target]bool{}, said: map[uint64]string{}, wrote: map[uint64]bool{}}
}

// pause is doubled with each attempt, and never quite the same for two that
// failed together.
func pause(attempt int) time.Duration {
	d := 200 * time.Millisecond << min(attempt, 6)
	b := backoff.ExponentialBackOff{InitialInterval: d, RandomizationFactor: 0.2, Multiplier: 1, MaxInterval: d}
	return b.NextBackOff()
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Outcome is how a call of Run or Resume ended.
type Outcome string

// The outcomes. Done, Reverted, Superseded and Quarantined are states of the
// operation in the journal; with the others there is none, or it stays open.
const (
	Done        Outcome = "done"
	Reverted    Outcome = "reverted"
	Superseded  Outcome = "superseded"
	Quarantined Outcome = "quarantined"
	Kept        Outcome = "kept"    // stays open: fenced, held, unobservable or interrupted
	Refused     Outcome = "refused" // not begun: a rule or a precheck forbids it
	Blocked     Outcome = "blocked" // not begun: fenced, claimed, or the host changed since it was planned
	Failed      Outcome = "failed"  // not begun, or not closed: the journal does not take it
)

// Outcomes are all of them, for metrics.
func Outcomes() []Outcome {
	return []Outcome{Done, Reverted, Superseded, Quarantined, Kept, Refused, Blocked, Failed}
}

// Result is what became of an operation.
type Result struct {
	Operation uint64 // 0 when none was begun
	Outcome   Outcome
	Err       error // why it is not Done
}

// errForeign is returned by drive when the host is in a state that the
// operation does not explain.
var errForeign = errors.New("somebody else changed the host")

// errInterrupted is returned by drive when the agent is asked to stop.
var errInterrupted = errors.New("interrupted between two steps")

// permanent says that trying again can only fail the same way.
func permanent(err error) bool {
	for _, e := range permanentErrors() {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// keeps says that nothing can be concluded now, so that the operation stays
// open as it is.
func keeps(err error) bool {
	return errors.Is(err, drivers.ErrFenced) || errors.Is(err, drivers.ErrUnanswered) || errors.Is(err, errInterrupted) ||
		errors.Is(err, errUnobservable) || errors.Is(err, errGuarded) || errors.Is(err, errUnsynced) || drivers.Starved(err)
}

// unread says of what went wrong whether it is no more than a read that failed:
// that tells nothing of the goal, and is charged to nobody. One that can only fail
// again is left to those who may revert.
func unread(n *host.Noted, err error) error {
	if err == nil || permanent(err) || !n.Caused(err) {
		return err
	}
	return fmt.Errorf("%w: %w", errUnobservable, err)
}

// unasked says of a refusal whether it may come of a read that failed: to a rule,
// one looks like a no.
func unasked(n *host.Noted, err error) error {
	if failed := n.Failed(); err != nil && failed != nil && !permanent(failed) {
		return fmt.Errorf("%w: %w: %w", errUnobservable, failed, err)
	}
	return err
}

// hold makes the caller the only one that works on the targets, or says who
// cannot be had. The journal claims targets across restarts; this claims them
// between goroutines, from before an operation is begun or judged until after
// it is closed.
func (e *Engine) hold(targets []drivers.Target) (release func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range targets {
		if e.held[t] {
			return nil, fmt.Errorf("%s: %w", t, ErrBusy)
		}
	}
	for _, t := range targets {
		e.held[t] = true
	}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, t := range targets {
			delete(e.held, t)
		}
	}, nil
}

// ErrBusy is returned when another operation is being carried out on a target.
var ErrBusy = errors.New("another operation is being carried out on it")

// names is the targets for the log.
func names(targets []drivers.Target) string {
	var s []string
	for _, t := range targets {
		s = append(s, string(t))
	}
	return strings.Join(s, " ")
}

func (e *Engine) transition(op *journal.Operation, state journal.OperationState, why string, err error) {
	lvl := level.Info
	if state == journal.Quarantined || state == journal.Reverting {
		lvl = level.Warn
	}
	fields := []any{"op", op.ID, "state", state, "target", names(op.Targets()), "msg", "operation " + string(state)}
	if why != "" {
		fields = append(fields, "why", why)
	}
	if err != nil {
		fields = append(fields, "err", err)
	}
	lvl(e.Logger).Log(fields...)
}
