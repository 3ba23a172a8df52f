package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"

	"eniagent/agent/engine"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// Config is what an Agent is made of. All of it is required but where it says
// otherwise.
type Config struct {
	Journal  *journal.Journal
	Host     host.Host
	Source   source.Source
	Name     string // of the source, "file"
	Object   string // what the source reads, a path
	Logger   log.Logger
	Registry prometheus.Registerer // may be nil
	Version  string
	BootID   string
	// MachineID is the host's; "" is unknown.
	MachineID string
	// Observe plans and reports and never writes: not the host, not the journal.
	Observe bool
	// NoIOMMU allows vfio's unsafe mode, which taints the kernel.
	NoIOMMU bool
	// Interval is how often everything is looked at without any event.
	Interval time.Duration
	// MaxAttempts is how often a goal is tried; the engine's default when zero.
	MaxAttempts int
}

// Agent is the live loop.
type Agent struct {
	c       Config
	logger  log.Logger
	view    View
	engine  *engine.Engine
	metrics *metrics
	started time.Time
	wake    chan struct{} // a pass is wanted
	// panicked has the panic of a worker, which ends the loop.
	panicked chan error
	modules  chan struct{} // held by whoever loads modules

	workers sync.WaitGroup
	slots   chan struct{}
	heard   bool  // the source has spoken, or had its time; the loop's own
	unkept  error // why desired state is not in the journal; the loop's own

	mu         sync.Mutex
	source     SourceReport
	interfaces []source.Interface // in force, kept ones included
	kept       map[string]bool    // selectors of entries that are no longer in the source
	remembered []journal.Selection
	reports    map[string]InterfaceReport // by entry
	order      []string                   // of entries
	busy       map[drivers.Target]bool    // a worker is on it
	unjudged   map[uint64]bool            // operations found at the start that recovery has not dealt with
	passed     bool                       // a full pass was begun after the start
	heartbeat  time.Time
	retry      time.Time // when the next pass is due; zero is never
}

// maxWorkers bounds the functions that are worked on at once.
const maxWorkers = 16

// New makes an Agent. It takes over nothing: the caller closes the journal
// after Reconcile has returned.
func New(c Config) *Agent {
	if c.Logger == nil {
		c.Logger = log.NewNopLogger()
	}
	set := all.New(c.Host)
	e := engine.New(engine.Options{
		Journal: c.Journal, Drivers: set, Host: c.Host, Logger: c.Logger,
		Metrics: engine.NewMetrics(c.Registry), MaxAttempts: c.MaxAttempts,
	})
	now := time.Now()
	a := &Agent{
		c: c, engine: e, started: now, heartbeat: now,
		logger: log.With(c.Logger, "component", "agent"),
		view: View{
			Records: c.Journal.Records, Drivers: set, Host: c.Host, BootID: c.BootID, MachineID: c.MachineID,
			NoIOMMU: c.NoIOMMU, MaxAttempts: e.MaxAttempts,
		},
		panicked: make(chan error, 1),
		wake:     make(chan struct{}, 1), modules: make(chan struct{}, 1), slots: make(chan struct{}, maxWorkers),
		kept: map[string]bool{}, reports: map[string]InterfaceReport{}, busy: map[drivers.Target]bool{},
		unjudged: map[uint64]bool{},
		source:   SourceReport{Source: c.Name, Object: c.Object},
	}
	a.metrics = newMetrics(c.Registry, a)
	return a
}

// Wake asks for a pass soon.
func (a *Agent) Wake() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// wakeAt asks for a pass at a time, or sooner.
func (a *Agent) wakeAt(t time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.retry.IsZero() || t.Before(a.retry) {
		a.retry = t
	}
}

// Reconcile recovers, then keeps the host as desired until ctx ends. Steps in
// flight are finished before it returns.
func (a *Agent) Reconcile(ctx context.Context) error {
	defer a.workers.Wait()
	if err := a.newBoot(ctx); err != nil {
		return fmt.Errorf("take over from the last boot: %w", err)
	}
	a.restore()
	for _, op := range a.c.Journal.Operations() {
		a.unjudged[op.ID] = true
	}
	updates, err := a.c.Source.Updates(ctx)
	if err != nil {
		return fmt.Errorf("open source: %w", err)
	}
	events, err := a.c.Host.Watch(ctx)
	if err != nil {
		return fmt.Errorf("watch host: %w", err)
	}
	a.resumeOpen(ctx)
	return a.loop(ctx, updates, events)
}

const (
	beat   = time.Second           // the loop is alive
	settle = 20 * time.Millisecond // events that come together make one pass
	// grace is how long the source has for its first word after a start, before
	// the last good desired state is acted on: it may have changed meanwhile.
	grace = 2 * time.Second
)

func (a *Agent) loop(ctx context.Context, updates <-chan source.Update, events <-chan host.Event) error {
	full, pulse := time.NewTicker(a.c.Interval), time.NewTicker(beat)
	defer full.Stop()
	defer pulse.Stop()
	var soon <-chan time.Time
	patience := time.After(grace)
	for {
		pass := false
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-a.panicked:
			return err
		case u, ok := <-updates:
			if !ok {
				updates = nil
				break
			}
			a.take(ctx, u)
			a.heard, pass = true, true
		case _, ok := <-events:
			if !ok {
				return fmt.Errorf("events of the host ended: %w", context.Cause(ctx))
			}
			if soon == nil {
				soon = time.After(settle)
			}
		case <-a.wake:
			if soon == nil {
				soon = time.After(settle)
			}
		case <-patience:
			a.heard, pass = true, true
		case <-soon:
			soon, pass = nil, true
		case <-full.C:
			pass = true
		case now := <-pulse.C:
			pass = a.due(now)
		}
		a.beat()
		if pass {
			a.pass(ctx)
		}
	}
}

func (a *Agent) beat() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heartbeat = time.Now()
}

// due says whether a retry has come due, and forgets it.
func (a *Agent) due(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.retry.IsZero() || now.Before(a.retry) {
		return false
	}
	a.retry = time.Time{}
	return true
}

// newBoot forgets what died with the last kernel: baselines of volatile kinds,
// and quarantines of operations that changed nothing but those.
func (a *Agent) newBoot(ctx context.Context) error {
	if a.c.Observe {
		return nil
	}
	j := a.c.Journal
	foreign := false
	if recorded, here := j.Machine(); recorded != "" && here != "" && recorded != here {
		foreign = true
		level.Warn(a.logger).Log("msg", "journal comes from another machine, its baselines are dropped")
	}
	n, err := j.DropBaselines(ctx, func(b journal.Baseline) bool {
		return foreign || b.Class == drivers.Volatile && b.BootID != a.c.BootID
	})
	if err != nil {
		return err
	}
	if foreign {
		if err := j.AdoptMachine(ctx); err != nil {
			return err
		}
	}
	if n > 0 {
		level.Info(a.logger).Log("count", n, "msg", "baselines of an earlier boot dropped")
	}
	for _, op := range j.Quarantined() {
		if op.BootID == a.c.BootID || !volatile(op) {
			continue
		}
		if err := j.Finish(op.ID, journal.Superseded, "the machine was booted anew since"); err != nil {
			return err
		}
		level.Info(a.logger).Log("op", op.ID, "state", journal.Superseded, "msg", "quarantine ended by a new boot")
	}
	return nil
}

func volatile(op journal.Operation) bool {
	for _, c := range op.Changes {
		if c.Class != drivers.Volatile {
			return false
		}
	}
	return true
}
