package agent

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"eniagent/supervise"
)

var errSignal = errors.New("asked to stop")

// ending is how the process ends: the signals that ask for it, and a deadline for an end
// that has begun, whatever began it. A panic may have left a lock behind that the rest of
// the process waits for.
type ending struct {
	o       Options
	logger  log.Logger
	signals chan os.Signal
	asked   atomic.Bool // by a signal
	back    func()      // gives the functions back once a stop is asked for; may be nil
	stop    func()      // the actor that waits for a signal
	stopped <-chan struct{}
	owner   *supervise.Group
	once    sync.Once
	done    chan struct{}
}

func newEnding(o Options, logger log.Logger) *ending {
	stopped, stop := context.WithCancel(context.Background())
	e := &ending{
		o: o, logger: log.With(logger, "component", "agent"), signals: make(chan os.Signal, 2), stop: stop, stopped: stopped.Done(),
		done: make(chan struct{}),
	}
	e.owner = supervise.New("agent/ending", func(err error) {
		level.Error(e.logger).Log("err", err, "msg", "stopped at once")
		os.Exit(1)
	})
	// A Go program that writes to a standard error without a reader dies of SIGPIPE
	// (os/signal), which systemd takes for a clean end. A log that is lost ends nothing.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	if o.Notify != nil {
		signal.Notify(e.signals, syscall.SIGHUP)
	}
	return e
}

// await returns at the first signal that asks for a stop, or when the group ends.
func (e *ending) await() error {
	signal.Notify(e.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	for {
		select {
		case s := <-e.signals:
			if !e.asks(s) {
				continue
			}
			level.Info(e.logger).Log("signal", s, "msg", "stopping: steps in flight are finished")
			e.asked.Store(true)
			e.o.notify(Notice{Stopping: true, Text: "stopping: steps in flight are finished"})
			if e.back != nil {
				e.begin() // it is part of what the shutdown timeout bounds
				e.back()
			}
			return errSignal
		case <-e.stopped:
			return nil
		}
	}
}

// asks says that a signal asks for a stop. SIGHUP does when a terminal was closed; below
// a service manager it asks to read the configuration again, which is done without it, and
// systemd would take the end that the kernel has for it for a clean one.
func (e *ending) asks(s os.Signal) bool {
	if s != syscall.SIGHUP || e.o.Notify == nil {
		return true
	}
	level.Info(e.logger).Log("signal", s, "msg", "ignored: changes of the desired state are followed without it")
	return false
}

// begin has one more signal, or the end of the shutdown timeout, end the process where it
// stands: the journal is made for that.
func (e *ending) begin() {
	e.stop()
	e.once.Do(func() { e.owner.Go("deadline", e.wait) })
}

func (e *ending) wait() {
	late := time.NewTimer(e.o.ShutdownTimeout)
	defer late.Stop()
	code, why := 1, "the shutdown timeout ended"
	for ended := false; !ended; {
		select {
		case s := <-e.signals:
			if ended = e.asks(s); ended && e.asked.Load() {
				code, why = 130, "second signal: "+s.String()
			} else if ended {
				code, why = 130, "signal: "+s.String()
			}
		case <-late.C:
			ended = true
		case <-e.done:
			return
		}
	}
	level.Error(e.logger).Log("why", why, "msg", "stopped at once, open operations are left to recovery")
	os.Exit(code)
}

// over says that the process has ended what it ran.
func (e *ending) over() {
	signal.Stop(e.signals)
	close(e.done)
}

// ward has goroutines that run beside an actor's own: the first panic of one ends it.
type ward struct {
	group  *supervise.Group
	broken context.Context // whose cause is the panic
	ends   atomic.Pointer[context.CancelCauseFunc]
}

func newWard(path string) *ward {
	broken, fail := context.WithCancelCause(context.Background())
	w := &ward{broken: broken}
	w.group = supervise.New(path, func(err error) {
		fail(err)
		if cancel := w.ends.Load(); cancel != nil {
			(*cancel)(err)
		}
	})
	return w
}

// end has a panic cancel an actor's context. No goroutine waits for it: it might be the
// one that panics.
func (w *ward) end(cancel context.CancelCauseFunc) {
	w.ends.Store(&cancel)
	if w.broken.Err() != nil {
		cancel(context.Cause(w.broken))
	}
}

// run is an actor that does nothing but wait for that.
func (w *ward) run(ctx context.Context) error {
	select {
	case <-w.broken.Done():
		return context.Cause(w.broken)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
