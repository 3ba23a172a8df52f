package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/oklog/run"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"eniagent/drivers/host"
	"eniagent/journal"
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
// behind them. A signal is a nil error.
func Run(ctx context.Context, o Options, logger log.Logger, journalOptions func(*journal.Options)) (err error) {
	// A Go program that writes to a standard error without a reader dies of SIGPIPE
	// (os/signal), which systemd takes for a clean end. A log that is lost ends nothing.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
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
	j, bootID, machineID, err := o.openJournal(ctx, kernel, reg, logger, journalOptions)
	if err != nil {
		return err
	}
	defer closing(&err, "journal", j.Close)
	pool, err := o.openPool(kernel, logger)
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
		Own: o.NodeAddresses, Reach: o.KeepReachable, WithoutDefault: o.WithoutDefault, Allocated: o.Allocated(),
		PluginFile: o.PluginFile, StepTimeout: 2*o.WriteTimeout + 10*time.Second, Slim: slim,
	})
	level.Info(logger).Log("component", "agent", "version", o.Version, "path", o.StateDir, "source", from.name, "msg", "agent started")
	if o.NoIOMMU {
		level.Warn(logger).Log("component", "agent", "msg", "no-IOMMU mode is allowed: it lets programs reach all memory by DMA, and taints the kernel")
	}
	return o.runGroup(ctx, a, reg, logger)
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
func (o Options) openJournal(ctx context.Context, k host.Kernel, reg prometheus.Registerer, logger log.Logger,
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
		Scan: journal.Reexec("/proc/self/exe", "journal-scan"),
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

// runGroup runs the actors. The first to return, or to panic, ends all.
func (o Options) runGroup(ctx context.Context, a *Agent, reg *prometheus.Registry, logger log.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	servers, err := o.listen(ctx, a, reg, logger)
	if err != nil {
		return err
	}
	var g run.Group
	add := func(name string, execute func() error, interrupt func()) {
		g.Add(func() (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				}
				if err != nil && !errors.Is(err, errSignal) && !errors.Is(err, context.Canceled) {
					level.Error(logger).Log("component", "agent", "actor", name, "err", err, "msg", "actor ended")
					err = fmt.Errorf("%s: %w", name, err)
				}
			}()
			return execute()
		}, func(error) { interrupt() })
	}
	stop := make(chan struct{})
	add("signals", func() error { return o.awaitSignal(stop, logger) }, func() { close(stop) })
	add("reconcile", func() error { return a.Reconcile(ctx) }, func() { cancel(errSignal) })
	if o.Notify != nil {
		add("notify", func() error { return o.announce(ctx, a) }, func() { cancel(errSignal) })
	}
	for _, s := range servers {
		add(s.name, s.serve, s.shutdown)
	}
	if err := g.Run(); !errors.Is(err, errSignal) {
		return err
	}
	level.Info(logger).Log("component", "agent", "msg", "agent stopped, bound functions are left as they are")
	return nil
}

var errSignal = errors.New("asked to stop")

// awaitSignal returns at the first signal. From then on the second, or the end
// of the shutdown timeout, ends the process where it stands: the journal is
// made for that.
func (o Options) awaitSignal(stop <-chan struct{}, logger log.Logger) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	for asked := false; !asked; {
		select {
		case s := <-signals:
			asked = o.stops(s, logger)
		case <-stop:
			signal.Stop(signals)
			return nil
		}
	}
	o.notify(Notice{Stopping: true, Text: "stopping: steps in flight are finished"})
	go func() {
		code, why := 1, "the shutdown timeout ended"
		select {
		case s := <-signals:
			code, why = 130, "second signal: "+s.String()
		case <-time.After(o.ShutdownTimeout):
		}
		level.Error(logger).Log("component", "agent", "why", why, "msg", "stopped at once, open operations are left to recovery")
		os.Exit(code)
	}()
	return errSignal
}

// stops says that a signal asks for a stop. SIGHUP does when a terminal was closed; below
// a service manager it asks to read the configuration again, which is done without it, and
// systemd would take the end that the kernel has for it for a clean one.
func (o Options) stops(s os.Signal, logger log.Logger) bool {
	if s == syscall.SIGHUP && o.Notify != nil {
		level.Info(logger).Log("component", "agent", "signal", s, "msg", "ignored: changes of the desired state are followed without it")
		return false
	}
	level.Info(logger).Log("component", "agent", "signal", s, "msg", "stopping: steps in flight are finished")
	return true
}
