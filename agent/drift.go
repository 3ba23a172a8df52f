package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"

	"eniagent/agent/engine"
	"eniagent/agent/owner"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/journal"
)

// Drift is a function that was as desired and no longer is, while nothing else
// is asked of it. It is repaired by an operation like any other, whose reason
// is DriftSource, unless its attribute has a known owner, or it was repaired
// too often: two owners never fight for ever.

// DriftSource is the source, in a journal's reasons, of an operation that
// nobody asked for anew.
const DriftSource = "drift"

const (
	// maxRepairs within repairWindow and a further change end the repairs.
	maxRepairs   = 3
	repairWindow = 10 * time.Minute
	// quiet is how long the host must be unchanged before a function is repaired
	// again by itself.
	quiet = 30 * time.Minute
)

// drifts is what is known of each function besides what the journal says.
type drifts struct {
	total *prometheus.CounterVec

	mu sync.Mutex
	by map[drivers.Target]*memory
}

// memory is of one function.
type memory struct {
	incarnation uint64
	goal        plan.Goal // that it was last seen to be right for; nil is unknown
	seen        string    // the state of what is asked about
	since       time.Time // when it was first seen so
	anew        bool      // it was asked for since: what is done next is no repair
	stopped     bool      // until quiet, or asked for anew
	differs     map[drivers.Key]drivers.State
	suspects    []owner.Owner // the likely writers that were seen since somebody asked, each once
}

func newDrifts(total *prometheus.CounterVec) *drifts {
	return &drifts{total: total, by: map[drivers.Target]*memory{}}
}

// of is the memory of a function; a device that is not the one it was has
// none. The caller holds mu.
func (d *drifts) of(t drivers.Target, incarnation uint64) (m *memory, first bool) {
	if m = d.by[t]; m != nil && (m.incarnation == incarnation || m.incarnation == 0) {
		m.incarnation = incarnation
		return m, m.since.IsZero()
	}
	m = &memory{incarnation: incarnation, anew: m != nil && m.anew}
	d.by[t] = m
	return m, true
}

// right notes that a function is as desired.
func (d *drifts) right(r request, observed plan.Observed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, _ := d.of(r.target, r.identity.Incarnation)
	m.see(r.goal, observed)
	m.goal, m.anew, m.differs = maps.Clone(r.goal), false, nil
}

// see notes how the host is, and ends what was stopped once it was quiet.
func (m *memory) see(goal plan.Goal, observed plan.Observed) {
	now := time.Now()
	if m.stopped && now.Sub(m.since) >= quiet {
		m.stopped = false
	}
	var s strings.Builder
	for _, k := range slices.SortedFunc(maps.Keys(goal), drivers.Key.Compare) {
		fmt.Fprintf(&s, "%s=%s\n", k, observed[k])
	}
	if m.seen != s.String() || m.since.IsZero() {
		m.seen, m.since = s.String(), now
	}
}

// askedAnew notes that a person asks for something of the functions now. It
// returns on how many of them nothing was begun any more.
func (d *drifts) askedAnew(asked func(drivers.Target) bool, targets ...drivers.Target) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range targets {
		if d.by[t] == nil {
			d.by[t] = &memory{}
		}
	}
	n := 0
	for t, m := range d.by {
		if asked(t) {
			if m.stopped {
				n++
			}
			m.anew, m.stopped, m.suspects = true, false, nil
		}
	}
	return n
}

// ended notes how an operation on a function ended. Whatever was begun for
// something else than a repair, what the function was right for before says
// nothing any more; the journal does.
func (d *drifts) ended(r request, reason journal.Reason, result engine.Result) {
	if result.Operation == 0 {
		return // none was begun
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m, _ := d.of(r.target, r.identity.Incarnation)
	m.anew = false
	switch {
	case result.Outcome == engine.Done:
		m.goal, m.differs = maps.Clone(r.goal), nil
	case reason.Source != DriftSource:
		m.goal = nil
	}
}

// keep forgets the functions that nothing is asked of any more.
func (d *drifts) keep(requests []request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.by, func(t drivers.Target, _ *memory) bool {
		return !slices.ContainsFunc(requests, func(r request) bool { return r.target == t })
	})
}

// count is how many functions are not as they were.
func (d *drifts) count() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.by {
		if len(m.differs) > 0 {
			n++
		}
	}
	return n
}

// drift is one function that is found to be no longer as desired.
type drift struct {
	keys    []drivers.Key // that differ and did not
	fresh   bool          // some differ in a way they did not before
	repairs int           // that were made before, within the window
	stopped bool
	until   time.Time // when it has been quiet, if it stays so
}

// find compares a function that is not as desired with what it was, and says
// what has drifted. done is the history of the journal, newest first.
func (d *drifts) find(r request, observed plan.Observed, done []journal.Operation) drift {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, first := d.of(r.target, r.identity.Incarnation)
	m.see(r.goal, observed)
	var f drift
	differs := map[drivers.Key]drivers.State{}
	for k, want := range r.goal {
		if observed[k].Is(want) || m.anew || !m.was(k, want, done) {
			continue
		}
		f.keys = append(f.keys, k)
		differs[k] = drivers.State(observed[k].String())
		if differs[k] != m.differs[k] {
			f.fresh = true
			d.total.WithLabelValues(string(k.Kind)).Inc()
		}
	}
	m.differs = differs
	slices.SortFunc(f.keys, drivers.Key.Compare)
	if len(f.keys) > 0 {
		var tooMany bool
		f.repairs, tooMany = repairs(r.target, done, first)
		if tooMany && !m.stopped {
			m.stopped, m.since = true, time.Now() // a clock that was set back makes no busy loop
		}
		f.stopped, f.until = m.stopped, m.since.Add(quiet)
	}
	return f
}

// was says whether a key was at the state that is wanted: this agent saw it, or
// the last operation on it brought it there. A repair that was given up leaves
// it as it was before.
func (m *memory) was(k drivers.Key, want drivers.State, done []journal.Operation) bool {
	if m.goal != nil {
		return m.goal[k] == want
	}
	for _, op := range done {
		after, covered := op.After()[k]
		switch {
		case !covered:
		case op.State == journal.Done:
			return after == want
		case op.Reason.Source != DriftSource:
			return false
		}
	}
	return false
}

// repairs is how many repairs of a target were made within the window, since
// somebody last asked for anything on it, and whether that is too many. Where
// nobody knows what the host did since the last of them, it counts as now.
func repairs(t drivers.Target, done []journal.Operation, unknown bool) (n int, tooMany bool) {
	now := time.Now()
	for _, op := range done {
		if !slices.Contains(op.Targets(), t) {
			continue
		}
		if op.Reason.Source != DriftSource {
			break
		}
		if unknown {
			now, unknown = op.Created, false
		}
		if !within(op.Created, now, repairWindow) {
			break
		}
		n++
	}
	return n, n >= maxRepairs
}

// suspect adds the likely writers that are seen now to those that were. A
// program that changes a function and ends is not there at each look, and what
// is reported must not change with it.
func (d *drifts) suspect(r request, seen []owner.Owner) []owner.Owner {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, _ := d.of(r.target, r.identity.Incarnation)
	for _, o := range seen {
		if !slices.ContainsFunc(m.suspects, func(s owner.Owner) bool { return s.Name == o.Name }) {
			m.suspects = append(m.suspects, o)
		}
	}
	return slices.Clone(m.suspects)
}

// history is what was done to a function in this boot, in this life of it,
// newest first.
func (a *Agent) history(r request) []journal.Operation {
	return slices.DeleteFunc(a.c.Journal.History(0), func(op journal.Operation) bool {
		was, here := op.Identity[r.target].Incarnation, r.identity.Incarnation
		return op.BootID != a.c.BootID || was != 0 && here != 0 && was != here
	})
}

// mayRepair says for what reason a function that is not as desired may be
// changed now; false when it has drifted and is left as it is, which it reports.
func (a *Agent) mayRepair(ctx context.Context, r request, observed plan.Observed) (journal.Reason, bool) {
	reason := a.reason(r)
	f := a.drifts.find(r, a.settled(observed), a.history(r))
	if len(f.keys) == 0 {
		return reason, true
	}
	reason.Source = DriftSource
	var owners []owner.Owner
	for _, k := range f.keys {
		owners = append(owners, owner.Of(ctx, a.c.Host, k, r.goal[k])...)
	}
	slices.SortStableFunc(owners, func(x, y owner.Owner) int {
		switch {
		case x.Known == y.Known:
			return 0
		case x.Known:
			return -1
		}
		return 1
	})
	known := len(owners) > 0 && owners[0].Known
	if !known {
		owners = a.drifts.suspect(r, owners)
	}
	if !known && !f.stopped {
		if f.fresh {
			level.Warn(a.logger).Log("entry", r.entry, "target", r.target, "count", f.repairs,
				"why", kinds(f.keys)+" changed by another hand", "msg", "drift, repaired")
		}
		return reason, true
	}
	a.health.Forget(r.target)
	a.report(r, Degraded, f.why(r.target, owners), a.view.sight(ctx, r.target, observed), 0)
	if !known {
		a.wakeAt(f.until, r.target)
	}
	return reason, false
}

// driftText begins what is said of drift that is not repaired.
const driftText = "drift: "

// settled is what was observed without what netdevs have instead: that a driver
// was not probed since is no other hand's doing.
func (a *Agent) settled(observed plan.Observed) plan.Observed {
	all := maps.Clone(observed)
	for k, o := range all {
		if spec, _ := a.view.Drivers.Specs.Find(k.Kind); o.Presence == drivers.Present {
			o.State = spec.Settled(o.State)
			all[k] = o
		}
	}
	return all
}

// why is for people: what happened, who it probably was, and how it goes on.
// It names nothing that changes with each look.
func (f drift) why(t drivers.Target, owners []owner.Owner) string {
	what := driftText + kinds(f.keys) + " changed by another hand"
	who := "no other writer was found: look for a program or a person that sets it"
	if len(owners) > 0 {
		who = fmt.Sprintf("the likely other writer is %s: %s", owners[0], owners[0].Remedy)
	}
	if !f.stopped {
		return fmt.Sprintf("%s and left as it is, because it has an owner: %s; or agent retry %s, to set it once more", what, who, t)
	}
	return fmt.Sprintf("%s after %d repairs within %s, left as it is now: %s; repaired again when something else is asked, by agent retry %s, or after %s without a change",
		what, maxRepairs, round(repairWindow), who, t, round(quiet))
}

// round is a whole number of minutes for people.
func round(d time.Duration) string { return fmt.Sprintf("%d minutes", d/time.Minute) }

// kinds names the kinds of keys, each once.
func kinds(keys []drivers.Key) string {
	var names []string
	for _, k := range keys {
		names = append(names, string(k.Kind))
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}
