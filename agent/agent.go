package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"

	"eniagent/agent/engine"
	"eniagent/agent/guard"
	"eniagent/agent/health"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/host"
	"eniagent/journal"
	"eniagent/supervise"
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
	// Own are the node's own addresses, Reach those that must stay reachable.
	Own, Reach []string
	// WithoutDefault allows taking netdevs away while there is no default route.
	WithoutDefault bool
	// Allocated is what guard.Options wants: nil where there is no kubelet.
	Allocated func(ctx context.Context, since time.Time) (map[drivers.Target]string, error)
	// Slim is called once, some time after the start, to give back the memory that only
	// that has needed; may be nil.
	Slim func()
	// PluginFile is the SR-IOV device plugin's configuration, which the host must
	// allow to be written; "" knows of none.
	PluginFile string
	// Plugin restarts the device plugin when its file was changed; nil leaves that
	// to a person, who is told.
	Plugin source.Restarter
	// StepTimeout bounds a step, which may be several reads and a write of the
	// host; the engine's default when zero.
	StepTimeout time.Duration
}

// Agent is the live loop.
type Agent struct {
	c        Config
	logger   log.Logger
	view     View
	engine   *engine.Engine
	guard    *guard.Guard
	metrics  *metrics
	drifts   *drifts
	breakers *breakers
	health   *health.Monitor
	states   *states
	started  time.Time
	agenda   *agenda
	payer    *payer
	modules  chan struct{}         // held by whoever loads modules
	begun    chan struct{}         // closed once a stop may give orders
	turns    chan struct{}         // taken by the loop once all that came before is done
	told     chan struct{}         // has something when the source may be told something new
	duty     func(context.Context) // what is done before anything else

	below   *ward            // whose first panic ends the loop
	workers *supervise.Group // of below, ended before Reconcile returns
	aside   *supervise.Group // of below, not waited for
	slots   chan struct{}
	heard   bool // the source has spoken, or had its time; the loop's own
	// resolved is how the last pass resolved the entries; the loop's own.
	resolved resolution

	mu         sync.Mutex
	source     SourceReport
	entries    []entry // of the desired state in force
	revision   int     // of the entries; each change is another
	edition    edition // of those that were last looked at as a whole
	remembered []journal.Selection
	reports    map[string]InterfaceReport          // by entry
	anew       map[string]int                      // entries that ask something else, by the revision since which they do
	order      []string                            // of entries
	pools      []request                           // that are reported, beside the entries
	unsafe     map[drivers.Target]bool             // pools that named what is not as asked when the agent started, and may still
	dutiful    bool                                // what an earlier boot left in files was dealt with
	busy       map[drivers.Target]bool             // a worker is on it
	missed     map[drivers.Target][]drivers.Target // whose turn came while a worker was on it
	kept       map[uint64]*kept                    // operations that stay open
	unjudged   map[uint64]bool                     // operations found at the start that recovery has not dealt with
	passed     bool                                // a full pass was begun after the start
	allowed    map[drivers.Target]string           // reasons for touching the management path
	given      map[drivers.Target]string           // functions that desired state gives to programs, by the driver
	heartbeat  time.Time
	unkept     error // why desired state is not in the journal
	stopped    bool  // no worker may begin
}

// maxWorkers bounds the functions that are worked on at once.
const maxWorkers = 16

// New makes an Agent. It takes over nothing: the caller closes the journal
// after Reconcile has returned.
func New(c Config) *Agent {
	if c.Logger == nil {
		c.Logger = log.NewNopLogger()
	}
	seen := host.Attentive(c.Host)
	set := all.New(seen)
	e := engine.New(engine.Options{
		Journal: c.Journal, Drivers: set, Host: c.Host, Logger: c.Logger,
		Metrics: engine.NewMetrics(c.Registry), MaxAttempts: c.MaxAttempts, StepTimeout: c.StepTimeout,
	})
	now := time.Now()
	a := &Agent{
		c: c, engine: e, started: now, heartbeat: now,
		logger: log.With(c.Logger, "component", "agent"),
		view: View{
			Records: c.Journal.Records, Drivers: set, Host: seen, BootID: c.BootID, MachineID: c.MachineID,
			NoIOMMU: c.NoIOMMU, MaxAttempts: e.MaxAttempts, PluginFile: c.PluginFile, started: now,
			Allocated: c.Allocated,
		},
		agenda: newAgenda(), begun: make(chan struct{}), turns: make(chan struct{}), modules: make(chan struct{}, 1), told: make(chan struct{}, 1), slots: make(chan struct{}, maxWorkers),
		reports: map[string]InterfaceReport{}, anew: map[string]int{}, busy: map[drivers.Target]bool{}, missed: map[drivers.Target][]drivers.Target{},
		unjudged: map[uint64]bool{}, unsafe: map[drivers.Target]bool{},
		kept:   map[uint64]*kept{},
		source: SourceReport{Source: c.Name, Object: c.Object},
	}
	a.below = newWard("agent/reconcile")
	a.workers, a.aside = a.below.group, a.below.group.Below("aside")
	a.health, a.breakers = health.New(), newBreakers()
	a.drifts, a.states = newDrifts(driftTotal(c.Registry)), newStates(c.Registry, a.logger)
	for _, op := range c.Journal.Operations() {
		a.unjudged[op.ID] = true
	}
	a.guard, a.duty = a.newGuard(), a.outlived
	a.payer = newPayer(a, c.Registry)
	e.Owed = a.payer.tell
	e.Guard, a.view.Guard = poolRule{a.guard, func() View { return a.view }}, a.guard
	a.metrics = newMetrics(c.Registry, a)
	watchMetrics(c.Registry, a)
	return a
}

// Reconcile recovers, then keeps the host as desired until ctx ends. Steps in
// flight are finished before it returns.
func (a *Agent) Reconcile(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer a.stop()
	defer cancel(errEnded) // workers end at their next step, also when this ends by itself
	a.below.end(cancel)
	if err := a.newBoot(ctx); err != nil {
		return ended(ctx, fmt.Errorf("take over from the last boot: %w", err))
	}
	if err := a.startAgain(ctx); err != nil {
		return ended(ctx, fmt.Errorf("end the orders of the last stop: %w", err))
	}
	a.restore()
	close(a.begun)
	a.duty(ctx)
	a.payWhatIsOwed(ctx)
	feeds := a.aside.In(ctx) // what the loop reads ends by itself, after ctx
	updates, err := a.c.Source.Updates(feeds)
	if err != nil {
		return ended(ctx, fmt.Errorf("open source: %w", err))
	}
	if r, ok := a.c.Source.(source.Reporter); ok {
		a.workers.Go("tell", func() { a.tell(ctx, r) })
	}
	events, err := a.c.Host.Watch(feeds)
	if err != nil {
		return ended(ctx, fmt.Errorf("watch host: %w", err))
	}
	a.resumeOpen(ctx, everything())
	return a.loop(ctx, updates, events)
}

// ended is why something failed: that it was asked to stop, if it was.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

var errEnded = errors.New("the reconcile loop has ended")

// stop lets no worker begin any more, and waits for those under way.
func (a *Agent) stop() {
	a.mu.Lock()
	a.stopped = true
	a.mu.Unlock()
	a.workers.Wait()
}

const (
	beat = time.Second // the loop is alive
	// grace is how long the source has for its first word after a start, before
	// the last good desired state is acted on: it may have changed meanwhile.
	grace = 2 * time.Second
)

func (a *Agent) loop(ctx context.Context, updates <-chan source.Update, events <-chan host.Event) error {
	full, pulse, due := time.NewTicker(a.c.Interval), time.NewTicker(beat), time.NewTimer(time.Hour)
	defer full.Stop()
	defer pulse.Stop()
	defer due.Stop()
	patience := time.After(grace)
	for {
		pass := false
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case u, ok := <-updates:
			if !ok {
				updates = nil
				break
			}
			a.take(ctx, u)
			a.heard, pass = true, true
		case e, ok := <-events:
			if !ok {
				return fmt.Errorf("events of the host ended: %w", context.Cause(ctx))
			}
			a.agenda.hear(e)
		case <-a.turns: // for who waits until all before is done
		case <-a.agenda.changed:
			a.arm(due)
		case <-due.C:
			pass = a.lookAtDue(ctx)
			a.arm(due)
		case <-patience:
			a.goOn()
			pass = true
		case <-full.C: // what no event told of
			pass = true
			if a.c.Slim != nil {
				a.c.Slim()
				a.c.Slim = nil
			}
		case <-pulse.C:
			if err := a.c.Journal.Err(); err != nil {
				// Nobody knows what is durable. The next start reads the truth.
				return err
			}
		}
		a.beat()
		if pass {
			a.pass(ctx)
		}
	}
}

// goOn acts on the last good desired state where the source has said nothing since the
// start. What it asks by now may be something else.
func (a *Agent) goOn() {
	if a.heard {
		return
	}
	a.heard = true
	a.mu.Lock()
	defer a.mu.Unlock()
	a.source.Error = "nothing was heard from it since the start: what it asked last holds"
	level.Warn(a.logger).Log("source", a.c.Name, "object", a.c.Object, "msg", a.source.Error)
}

// arm sets a timer to when the next look is due.
func (a *Agent) arm(due *time.Timer) {
	if at, ok := a.agenda.next(); ok {
		due.Reset(time.Until(at))
	}
}

// lookAtDue looks at what is due, or says that it is everything.
func (a *Agent) lookAtDue(ctx context.Context) (pass bool) {
	all, some := a.agenda.due(time.Now())
	if all || len(some) == 0 {
		return all
	}
	a.look(ctx, some)
	return false
}

func (a *Agent) beat() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heartbeat = time.Now()
}

// newBoot forgets what died with the last kernel: the baselines of volatile
// kinds.
func (a *Agent) newBoot(ctx context.Context) error {
	if a.readOnly() {
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
	return nil
}
