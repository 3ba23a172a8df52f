package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/sriov"
	"eniagent/journal"
)

// What a stop does with a function its entry says (onStop), else the flag --on-stop.
// What is to be released is given back as by agent release, until the next start.

const (
	byStop     = "the agent"
	stopReason = "it was stopped, and gives this back on a stop; its next start ends this"
)

// ErrNotGivenBack is that a stop left what it was to give back.
var ErrNotGivenBack = errors.New("stopped, and not everything was given back: the log says what is left; the next start configures it as desired")

var (
	errStopTime   = errors.New("the stop has no more time for it")
	errNotStarted = errors.New("the agent had not started")
)

// ofStop says that an order holds only until the agent starts again. An agent that does
// not know the fact takes it for a person's order: the function stays released until
// agent release --cancel.
func ofStop(c journal.Control) bool { return c.Facts[factStop] != "" }

// stopScope is what a stop gives back.
type stopScope struct {
	targets []drivers.Target
	held    []OrderEntry // that were to be given back, and are not for another's sake
	all     bool         // nothing is retained: what the functions needed goes as well
}

// named says that an order is about certain functions, which a person named.
func (o Order) named() bool { return !o.All && o.stop == nil }

// facts are those of an order for the node.
func (o Order) facts() map[string]string {
	if o.stop == nil {
		return nil
	}
	return map[string]string{factStop: "true"}
}

// patience is how long an order is worked on before the rest is left to it. A stop has a
// bound of its own.
func (o Order) patience() time.Duration {
	if o.stop != nil {
		return time.Hour
	}
	return giveBack
}

// stands says that an order adds nothing to one in the journal. A person's order
// replaces one of a stop, which would end with the next start; never the reverse.
func (o Order) stands(c *journal.Control) bool { return c != nil && (o.stop != nil || !ofStop(*c)) }

// stopEnd is how a stop ended.
type stopEnd struct {
	asked bool // something was to be given back
	all   bool // and nothing was to be retained
	left  int  // how much of that was not given back
}

// tell says how a stop ended; an error is that it left something.
func (s stopEnd) tell(logger log.Logger) error {
	switch {
	case s.left > 0:
		level.Error(logger).Log("count", s.left, "msg", "agent stopped, not everything was given back")
		return ErrNotGivenBack
	case !s.asked:
		level.Info(logger).Log("msg", "agent stopped, bound functions are left as they are")
	case s.all:
		level.Info(logger).Log("msg", "agent stopped, everything was given back")
	default:
		level.Info(logger).Log("msg", "agent stopped, all that is not retained was given back")
	}
	return nil
}

// atStop gives back what a stop is to. It takes at most three quarters of the shutdown
// timeout: what is left of that is for the steps in flight then. Its orders are in the
// journal before the host is touched, so a start finds what there was no time for, and
// recovers operations that are open as it does any.
func (a *Agent) atStop(ctx context.Context, flag string, shutdown time.Duration) stopEnd {
	if !a.givesBackAtStop(flag) {
		return stopEnd{}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, shutdown*3/4, errStopTime)
	defer cancel()
	select {
	case <-a.begun: // else the start would end these orders
	case <-ctx.Done():
		return a.leave(a.changedFor(flag), errNotStarted)
	}
	if a.readOnly() {
		return a.leave(a.changedFor(flag), errReadOnly)
	}
	current := a.current(ctx)
	scope := a.stopScope(ctx, flag, current)
	o := Order{All: scope.all, Who: byStop, Why: stopReason, stop: &scope}
	report, err := a.release(ctx, o, OrderReport{}, current)
	left := slices.DeleteFunc(report.Entries, func(e OrderEntry) bool { return e.Condition == Released })
	if err != nil {
		level.Error(a.logger).Log("err", err, "msg", "not all was released at the stop")
		for _, t := range scope.targets {
			if !slices.ContainsFunc(report.Entries, func(e OrderEntry) bool { return e.Target == t }) {
				left = append(left, OrderEntry{Target: t, Condition: Pending, Reason: err.Error()})
			}
		}
	}
	var late error
	if ctx.Err() != nil {
		late = context.Cause(ctx) // reads fail since, and say nothing
	}
	s := a.leave(append(left, scope.held...), late)
	s.all = scope.all
	return s
}

// leave tells what a stop leaves; why is the reason for all of it, or nil.
func (a *Agent) leave(left []OrderEntry, why error) stopEnd {
	for _, e := range left {
		if why != nil {
			e.Reason = why.Error()
		}
		level.Warn(a.logger).Log("target", e.Target, "entry", e.Entry, "state", e.Condition, "why", e.Reason, "msg", "not released at the stop")
	}
	return stopEnd{asked: true, left: len(left)}
}

// givesBackAtStop says that a stop may have something to give back.
func (a *Agent) givesBackAtStop(flag string) bool {
	a.mu.Lock()
	entries := slices.Clone(a.entries)
	a.mu.Unlock()
	if len(entries) == 0 { // they may not be restored yet; what cannot be read is not either
		doc, _ := documentIn(InForce(a.c.Journal, a.c.Name))
		entries = doc.Entries
	}
	return flag == source.Release || slices.ContainsFunc(entries, func(e entry) bool { return e.OnStop == source.Release })
}

// stopScope is what a stop gives back of all that the agent touched or is asked to.
func (a *Agent) stopScope(ctx context.Context, flag string, current []request) stopScope {
	fates := a.fates(flag, current)
	s := stopScope{held: a.holdForVFs(ctx, fates, current)}
	touched := a.view.touched(ctx, current, false)
	slices.Sort(touched)
	touched = slices.Compact(touched)
	for _, t := range touched {
		fate, said := fates[t]
		if !said {
			fate = flag
			if id, err := host.Identify(ctx, a.c.Host, t); err == nil {
				fate = cmp.Or(fates[id.PF], flag)
			}
		}
		if fate == source.Release {
			s.targets = append(s.targets, t)
		}
	}
	s.all = len(s.held) == 0 && len(s.targets) == len(touched) && (len(touched) > 0 || flag == source.Release)
	return s
}

// fates are what a stop does with the functions that entries stand for. Where several
// stand for one, it is retained if one of them retains it.
func (a *Agent) fates(flag string, current []request) map[drivers.Target]string {
	a.mu.Lock()
	remembered := slices.Clone(a.remembered)
	a.mu.Unlock()
	fates := map[drivers.Target]string{}
	for _, r := range current {
		if r.pool != "" || r.ordered() {
			continue
		}
		targets := []drivers.Target{r.target}
		if r.target == "" { // nothing answers to it now
			targets = targetsOf(r.asked, remembered)
		}
		for _, t := range targets {
			if fate := cmp.Or(r.asked.OnStop, flag); fates[t] == "" || fate == source.Retain {
				fates[t] = fate
			}
		}
	}
	return fates
}

// holdForVFs retains, with the VFs that its entry asks for, a physical function that
// would be given back and take a VF with it which an entry of its own retains.
func (a *Agent) holdForVFs(ctx context.Context, fates map[drivers.Target]string, current []request) (held []OrderEntry) {
	for _, vf := range current {
		if vf.target == "" || vf.pool != "" || vf.released() || vf.entry != vf.asked.String() || fates[vf.target] != source.Retain {
			continue
		}
		id, err := host.Identify(ctx, a.c.Host, vf.target)
		pf := cmp.Or(id.PF, vf.pf)
		if errors.Is(err, drivers.ErrGone) || pf == "" || fates[pf] != source.Release || !a.view.takesVFs(ctx, pf) {
			continue
		}
		fates[pf] = source.Retain
		e := OrderEntry{Target: pf, Condition: Held, Reason: fmt.Sprintf(
			"VF %s would go with it, which %s retains: it stays, with the VFs of its entry; say one onStop for both", vf.target, vf.named())}
		for _, r := range current {
			switch {
			case r.target == pf && r.pool == "":
				e.Entry = r.entry
			case r.pf == pf && r.entry != r.asked.String():
				fates[r.target] = source.Retain
			}
		}
		held = append(held, e)
	}
	return held
}

// takesVFs says that giving a physical function back makes its VFs anew, or fewer.
func (v View) takesVFs(ctx context.Context, pf drivers.Target) bool {
	return slices.ContainsFunc([]drivers.Kind{sriov.KindNumVFs, dpdk.KindDriver}, func(kind drivers.Kind) bool {
		key := drivers.Key{Kind: kind, Target: pf}
		b, ok := v.baseline(key, drivers.Identity{})
		return ok && !b.Unknown && !v.observer().Observe(ctx, key).Is(b.State)
	})
}

// changedFor are the functions that the agent changed in this boot and that a stop is to
// give back, as far as the journal tells.
func (a *Agent) changedFor(flag string) (changed []OrderEntry) {
	d := InForce(a.c.Journal, a.c.Name)
	doc, _ := documentIn(d) // what cannot be read says nothing of a stop
	fates := map[drivers.Target]string{}
	for _, e := range doc.Entries {
		for _, g := range d.Goals { // virtual functions have no entry of their own
			if of, _, vf := strings.Cut(g.Entry, " vf "); vf && of == e.String() {
				fates[g.Key.Target] = e.OnStop
			}
		}
	}
	for _, e := range doc.Entries {
		for _, t := range targetsOf(e, d.Selections) {
			fates[t] = e.OnStop
		}
	}
	for _, b := range a.c.Journal.Baselines() {
		t := b.Key.Target
		_, pci := t.PCIAddress()
		_, valid := a.c.Journal.Baseline(b.Key)
		told := slices.ContainsFunc(changed, func(e OrderEntry) bool { return e.Target == t })
		if pci && valid && !told && cmp.Or(fates[t], flag) == source.Release {
			changed = append(changed, OrderEntry{Target: t, Condition: Pending})
		}
	}
	return changed
}

// startAgain ends the orders of the last stop, before anything acts on them: what the
// desired state asks holds again. A crash within it leaves the rest to the next start.
func (a *Agent) startAgain(ctx context.Context) error {
	if a.readOnly() {
		return nil
	}
	for _, c := range a.c.Journal.Controls() {
		if !ofStop(c) {
			continue
		}
		if _, err := a.c.Journal.ClearControl(ctx, c.Action, c.Target); err != nil {
			return err
		}
		level.Info(a.logger).Log("target", c.Target, "msg", "order of the last stop is over: what is desired holds again")
	}
	return nil
}
