package agent

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"eniagent/agent/source"
	"eniagent/drivers/deviceplugin"
)

const (
	// restartQuiet is how long the last change of the device plugin's file is waited
	// behind: a burst of them is one restart. It is longer than the seconds in
	// which the start of a program is told.
	restartQuiet = 3 * time.Second
	// restartQuietMax is how long, at most, while changes go on, or functions are worked
	// on that may be the next.
	restartQuietMax = 30 * time.Second
	// restartPace is the least time between two restarts of the plugin, across
	// those of the agent.
	restartPace = 30 * time.Second
	// After an error it is tried again; doubled, with jitter.
	restartAgain    = time.Second
	restartAgainMax = time.Minute
)

// byAgent is who the journal has for a restart that nobody had to tell of.
const byAgent = "the agent"

// payer has the device plugin restarted when that is owed. It is a loop of its
// own: nothing else waits for a restart.
type payer struct {
	agent   *Agent
	changed chan struct{} // what is owed may be other than it was
	results *prometheus.CounterVec
	pauses  *backoff.ExponentialBackOff
	quiet   time.Duration
	busy    func() bool                 // more changes may come
	flush   func(context.Context) error // what is closed, and what it owes, to the disk

	// Of what is owed now: the count, when it was first seen to be any, and when
	// it was seen to grow. The clock of the wall may jump. The loop's own.
	number      uint64
	first, last time.Time

	mu     sync.Mutex
	paid   source.Restart // the last
	waits  string         // what for
	err    string         // of the last try
	again  time.Time
	trial  uint64             // what the try under way is for, or the last
	cancel context.CancelFunc // of it
}

func newPayer(a *Agent, reg prometheus.Registerer) *payer {
	p := &payer{
		agent: a, changed: make(chan struct{}, 1), quiet: restartQuiet, busy: a.atWork, flush: a.c.Journal.Flush,
		results: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Name: "eniagent_plugin_restarts_total", Help: "Times that the agent saw to it that the device plugin was restarted, or tried.",
		}, []string{"result"}),
		pauses: &backoff.ExponentialBackOff{
			InitialInterval: restartAgain, RandomizationFactor: 0.2, Multiplier: 2, MaxInterval: restartAgainMax,
		},
	}
	for _, result := range []string{"ok", "error"} {
		p.results.WithLabelValues(result)
	}
	return p
}

// tell has the loop look at what is owed.
func (p *payer) tell() {
	select {
	case p.changed <- struct{}{}:
	default: // it has yet to look
	}
}

// payWhatIsOwed begins to pay, where somebody can.
func (a *Agent) payWhatIsOwed(ctx context.Context) {
	if a.c.Plugin == nil {
		return
	}
	a.workers.Go("plugin restarts", func() { a.payer.run(ctx) })
}

// run pays until ctx ends.
func (p *payer) run(ctx context.Context) {
	next := time.NewTimer(0) // what was owed before the start
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.changed:
		case <-next.C:
		}
		next.Stop()
		if pause := p.turn(ctx); pause > 0 {
			next.Reset(pause)
		}
	}
}

// turn pays what is due, and says when to look again; 0 is when told to.
func (p *payer) turn(ctx context.Context) time.Duration {
	a := p.agent
	owed, open := a.RestartOwed()
	if !open || a.readOnly() {
		p.number, p.first = 0, time.Time{}
		p.pauses.Reset()
		p.stands("", nil, 0)
		return 0
	}
	now := time.Now()
	if p.first.IsZero() {
		p.first = now
	}
	if p.number != owed.Number {
		p.number, p.last = owed.Number, now
	}
	if c, ok := a.view.paused(); ok {
		p.waiting(pausedText(c))
		return 0
	}
	if why, pause := p.early(now); pause > 0 {
		p.waiting(why)
		return pause
	}
	return p.try(ctx, owed)
}

// early says why what is owed is not paid yet, and for how long.
func (p *payer) early(now time.Time) (why string, pause time.Duration) {
	p.mu.Lock()
	failed := p.again.Sub(now)
	p.mu.Unlock()
	if failed > 0 {
		return "the next try", failed
	}
	if wait := p.pace(now); wait > 0 {
		return "some time since its last restart", wait
	}
	more := p.quiet - now.Sub(p.last)
	if more <= 0 && p.busy() {
		more = beat
	}
	return "more changes that may come", min(more, restartQuietMax-now.Sub(p.first))
}

// pace is how long to wait because the plugin was restarted lately. What the
// journal has of that may be by a clock that was wrong.
func (p *payer) pace(now time.Time) time.Duration {
	if last := p.lastPaid(); !last.At.IsZero() {
		return restartPace - now.Sub(last.At)
	}
	d, _ := p.agent.c.Journal.Debt(deviceplugin.Restart)
	since := now.Round(0).Sub(d.Done)
	if d.Done.IsZero() || since < 0 {
		return 0
	}
	return restartPace - since
}

// atWork says that functions are worked on.
func (a *Agent) atWork() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.busy) > 0
}

// try has the plugin restarted, and pays what was owed when that began.
func (p *payer) try(ctx context.Context, owed RestartReport) time.Duration {
	a := p.agent
	done, err := p.restart(ctx, owed)
	if d, _ := a.c.Journal.Debt(deviceplugin.Restart); d.Paid >= owed.Number {
		return beat // a person said so meanwhile
	}
	if err == nil {
		_, err = a.c.Journal.Pay(context.WithoutCancel(ctx), deviceplugin.Restart, owed.Number, byAgent)
	}
	switch {
	case ctx.Err() != nil:
		return 0
	case err != nil:
		p.results.WithLabelValues("error").Inc()
		pause := p.pauses.NextBackOff()
		if p.stands("", err, pause) {
			level.Warn(a.logger).Log("err", err, "msg", "device plugin is not restarted, tried again")
		}
		return pause
	}
	p.results.WithLabelValues("ok").Inc()
	p.first = time.Time{}
	p.pauses.Reset()
	p.mu.Lock()
	p.paid = source.Restart{At: time.Now(), Restarted: done}
	p.mu.Unlock()
	a.changed()
	p.stands("", nil, 0)
	level.Info(a.logger).Log("count", owed.Owed, "why", done.How, "msg", "device plugin has read its file")
	if done.Warning != "" {
		level.Warn(a.logger).Log("why", done.Warning, "msg", "device plugin has read its file, and does not work")
	}
	return beat
}

// restart is one try, which ends when a person says that it was done.
func (p *payer) restart(ctx context.Context, owed RestartReport) (source.Restarted, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.mu.Lock()
	p.trial, p.cancel, p.again = owed.Number, cancel, time.Time{}
	p.mu.Unlock()
	if err := p.flush(ctx); err != nil {
		return source.Restarted{}, err
	}
	last := owed.Last
	if last.IsZero() { // an older agent's, who ended before this one began
		last = p.agent.started.UTC()
	}
	return p.agent.c.Plugin.Restart(ctx, source.Owed{Number: owed.Number, Last: last, Why: owed.Why}, p.waiting)
}

// wasPaid ends the try for what was paid.
func (p *payer) wasPaid(number uint64) {
	p.mu.Lock()
	if p.cancel != nil && number >= p.trial {
		p.cancel()
	}
	p.mu.Unlock()
	p.tell()
}

// waiting notes what is waited for.
func (p *payer) waiting(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waits = what
}

// stands notes how it stands, and says whether that is an error not told yet.
func (p *payer) stands(waits string, err error, pause time.Duration) (news bool) {
	text, again := "", time.Time{}
	if err != nil {
		text, again = err.Error(), time.Now().Add(pause)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	news = text != "" && text != p.err
	p.waits, p.err, p.again = waits, text, again
	return news
}

// report adds what the agent does about it to what is owed.
func (p *payer) report(r *RestartReport) {
	if p.agent.c.Plugin == nil || p.agent.readOnly() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r.Automatic, r.Waiting, r.Error, r.Again = true, p.waits, p.err, p.again.UTC().Truncate(time.Second)
	if p.again.IsZero() {
		r.Again = time.Time{}
	}
}

// lastPaid is the last restart that was paid for since the agent started.
func (p *payer) lastPaid() source.Restart {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paid
}
