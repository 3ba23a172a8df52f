package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/oklog/run"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"eniagent/drivers/host"
	"eniagent/journal"
	"eniagent/supervise"
)

// NewLogger is the log to w in the format and from the level of the options.
func (o Options) NewLogger(w io.Writer) log.Logger {
	w = log.NewSyncWriter(w)
	logger := log.NewLogfmtLogger(w)
	if o.LogFormat == "json" {
		logger = log.NewJSONLogger(w)
	}
	allowed := map[string]level.Option{
		"debug": level.AllowDebug(), "info": level.AllowInfo(), "warn": level.AllowWarn(), "error": level.AllowError(),
	}[o.LogLevel]
	return level.NewFilter(log.With(logger, "ts", log.DefaultTimestampUTC), allowed)
}

// Run is `agent run`: it opens the host, the journal and the source, runs the
// actors until a signal or the first of them ends, and closes everything
// behind them. A signal is a nil error, or ErrNotGivenBack.
func Run(ctx context.Context, o Options, logger log.Logger, journalOptions func(*journal.Options)) (err error) {
	supervise.Own("agent")
	g := group{Options: o, logger: logger, ending: newEnding(o, logger), writers: newWard("agent/writers"), storage: newWard("agent/journal")}
	defer g.ending.over()
	kernel, closeKernel, err := o.OpenKernel()
	if err != nil {
		return err
	}
	defer closing(&err, "simulated node", closeKernel)
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	j, bootID, machineID, err := o.openJournal(ctx, kernel, g.storage.group, reg, logger, journalOptions)
	if err != nil {
		return err
	}
	defer closing(&err, "journal", j.Close)
	pool, err := o.openPool(kernel, g.writers.group, logger)
	if err != nil {
		return err
	}
	defer closing(&err, "writer children", pool.Close)
	from, err := o.openSource(logger)
	if err != nil {
		return err
	}
	a := New(Config{
		Journal: j, Host: pool, Source: from.source, Name: from.name, Object: from.object, Plugin: from.plugin,
		Logger: logger, Registry: reg, Version: o.Version, BootID: bootID, MachineID: machineID,
		Observe: o.Observe, NoIOMMU: o.NoIOMMU, Interval: o.Interval,
		Own: o.NodeAddresses, Reach: o.KeepReachable, WithoutDefault: o.WithoutDefault, Allocated: o.Allocated(pool),
		PluginFile: o.PluginFile, StepTimeout: 2*o.WriteTimeout + 10*time.Second, Slim: slim,
	})
	level.Info(logger).Log("component", "agent", "version", o.Version, "path", o.StateDir, "source", from.name, "msg", "agent started")
	if o.NoIOMMU {
		level.Warn(logger).Log("component", "agent", "msg", "no-IOMMU mode is allowed: it lets programs reach all memory by DMA, and taints the kernel")
	}
	return g.run(ctx, a, reg)
}

// slim gives back the memory that only the start has needed. From then on little
// is made, and garbage collected early costs little.
func slim() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	debug.FreeOSMemory()
	_ = host.ForgetStart() // it costs memory, and nothing else
}

func closing(err *error, what string, fn func() error) {
	if e := fn(); e != nil {
		*err = errors.Join(*err, fmt.Errorf("close %s: %w", what, e))
	}
}

// openJournal opens the journal, which also makes this the only agent here.
func (o Options) openJournal(ctx context.Context, k host.Kernel, owner *supervise.Group, reg prometheus.Registerer, logger log.Logger,
	more func(*journal.Options),
) (j *journal.Journal, bootID, machineID string, err error) {
	if bootID, err = host.BootID(ctx, k); err != nil {
		return nil, "", "", err
	}
	machineID = host.MachineID(ctx, k)
	commits := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "eniagent_journal_commit_duration_seconds", Help: "How long a commit of the journal took.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8),
	}, []string{"result"})
	commits.WithLabelValues("ok")
	commits.WithLabelValues("error")
	if reg != nil {
		reg.MustRegister(commits)
	}
	jo := journal.Options{
		Dir: o.JournalDir(), Version: o.Version, BootID: bootID, MachineID: machineID, LockTimeout: o.LockTimeout,
		Owner: owner, Scan: journal.Reexec("/proc/self/exe", "journal-scan"),
		OnCommit: func(d time.Duration, err error) {
			result := "ok"
			if err != nil {
				result = "error"
				level.Error(logger).Log("component", "journal", "err", err, "msg", "commit failed")
			}
			commits.WithLabelValues(result).Observe(d.Seconds())
		},
	}
	if more != nil {
		more(&jo)
	}
	if j, err = journal.Open(ctx, jo); err != nil {
		return nil, "", "", err
	}
	for _, w := range j.Warnings() {
		level.Warn(logger).Log("component", "journal", "why", w, "msg", "journal warns")
	}
	return j, bootID, machineID, nil
}

// group is what the process runs: a few actors, each with its goroutines below it.
type group struct {
	Options
	logger  log.Logger
	ending  *ending
	writers *ward // of the writer children
	storage *ward // of the journal
}

// run runs the actors. The first to return, or to panic, or below which a goroutine
// panics, ends all.
func (g *group) run(ctx context.Context, a *Agent, reg *prometheus.Registry) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	servers, err := g.listen(ctx, a, reg, g.logger)
	if err != nil {
		return err
	}
	var actors run.Group
	add := func(name string, execute func() error, interrupt func()) {
		actors.Add(func() error {
			err := supervise.Contain("agent/"+name, execute)
			if err != nil && !errors.Is(err, errSignal) && !errors.Is(err, context.Canceled) {
				level.Error(g.logger).Log("component", "agent", "actor", name, "err", err, "msg", "actor ended")
				err = fmt.Errorf("%s: %w", name, err)
			}
			return err
		}, func(error) { interrupt() })
	}
	stop := func() { cancel(errSignal) }
	var end stopEnd
	g.ending.back = func() { end = a.atStop(ctx, g.OnStop, g.ShutdownTimeout) }
	add("signals", g.ending.await, g.ending.begin)
	add("reconcile", func() error { return a.Reconcile(ctx) }, stop)
	add("writers", func() error { return g.writers.run(ctx) }, stop)
	add("journal", func() error { return g.storage.run(ctx) }, stop)
	if g.Notify != nil {
		add("notify", func() error { return g.announce(ctx, a) }, stop)
	}
	for _, s := range servers {
		add(s.name, s.serve, s.shutdown)
	}
	if err := actors.Run(); !errors.Is(err, errSignal) {
		return err
	}
	return end.tell(log.With(g.logger, "component", "agent"))
}
