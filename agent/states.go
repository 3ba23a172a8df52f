package agent

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"eniagent/agent/plan"
	"eniagent/agent/state"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/link"
	"eniagent/journal"
)

// A condition says how an entry stands against what is asked of it; a state
// says what its interface is, whatever is asked.

// sight is what was seen of a function.
type sight struct {
	observed map[string]string // by kind, for people
	state    state.State       // as the host has it; "" when it was not looked at
}

// sight is what was observed of a function, and whether its link has a carrier.
func (v View) sight(ctx context.Context, t drivers.Target, observed plan.Observed) sight {
	s := sight{observed: describe(t, observed)}
	if len(observed) == 0 {
		return s
	}
	driver := observed[drivers.Key{Kind: dpdk.KindDriver, Target: t}]
	bound, err := dpdk.Parse(driver.State)
	switch {
	case driver.Presence == drivers.Gone:
		s.state = state.Gone
	case driver.Presence != drivers.Present || err != nil:
		s.state = state.Unknown
	case drivers.Userspace(bound.Driver):
		s.state = state.Bound
	case observed[drivers.Key{Kind: link.KindAdmin, Target: t}].Is(link.Up) && v.carrier(ctx, t):
		s.state = state.Up
	default:
		s.state = state.Down
	}
	return s
}

// carrier says whether the link of a function has one; one that is down does
// not say.
func (v View) carrier(ctx context.Context, t drivers.Target) bool {
	if v.Host == nil {
		return false
	}
	n, err := host.NetdevOf(ctx, v.Host, string(t))
	if err != nil || n.Name == "" {
		return false
	}
	text, err := n.Attr(ctx, v.Host, "carrier")
	return err == nil && strings.TrimSpace(text) == "1"
}

// stateOf is the state that follows from how an entry stands and what was seen
// of its function; "" when nothing was.
func (v View) stateOf(r request, t drivers.Target, c Condition, seen sight) state.State {
	op, open := v.open(t)
	switch {
	case open && op.State == journal.Quarantined:
		return state.Quarantined
	case open, c == Changing, c == Fenced:
		return state.Configuring
	case seen.state == state.Gone, isGone(r.err):
		return state.Gone
	case c == Failed:
		return state.Error
	case c == Degraded:
		return state.Degraded
	case r.unread && seen.state == "":
		return state.Unknown
	}
	return seen.state
}

// open is the operation that is not closed and claims the target.
func (v View) open(t drivers.Target) (journal.Operation, bool) {
	id := v.claimed(t)
	return v.Records.Get(id)
}

// states are the states of the entries. Each transition is made here.
type states struct {
	logger  log.Logger
	illegal prometheus.Counter
	anew    []ground

	mu sync.Mutex
	by map[string]*machine
}

// machine is the state of one entry's interface.
type machine struct {
	state       state.State
	since       time.Time
	target      drivers.Target
	incarnation uint64
}

// finding is what is known of an interface when its state is noted.
type finding struct {
	target      drivers.Target // "" is not known
	incarnation uint64         // 0 is not known
	state       state.State    // "" when nothing was seen
	there       bool           // the device is
	// own says that an operation of the agent was begun on the function since.
	own func(since time.Time) bool
}

// ground is why what an interface was says nothing any more: it is unknown,
// before it is anything else.
type ground struct {
	why   string
	holds func(machine, finding) bool
}

func grounds() []ground {
	return []ground{
		{"its entry stands for another function", func(m machine, f finding) bool {
			return m.target != "" && f.target != "" && m.target != f.target
		}},
		{"another device is at its address", func(m machine, f finding) bool {
			return m.incarnation != 0 && f.incarnation != 0 && m.incarnation != f.incarnation
		}},
		{"its device is back", func(m machine, f finding) bool {
			return m.state == state.Gone && f.state != state.Gone && f.there
		}},
		{"its quarantine is over", func(m machine, f finding) bool {
			return m.state == state.Quarantined && f.state != state.Quarantined && f.state != state.Configuring
		}},
		{"another hand changed its driver", func(m machine, f finding) bool {
			crossed := m.state == state.Up && f.state == state.Bound || m.state == state.Bound && f.state == state.Up
			return crossed && !f.own(m.since)
		}},
		{"it was not looked at since an operation on it ended", func(m machine, f finding) bool {
			return m.state == state.Configuring && f.state == ""
		}},
	}
}

func newStates(reg prometheus.Registerer, logger log.Logger) *states {
	return &states{
		logger: logger, anew: grounds(), by: map[string]*machine{},
		illegal: promauto.With(reg).NewCounter(prometheus.CounterOpts{
			Name: "eniagent_illegal_transitions_total", Help: "Transitions of an interface that its state machine forbids: each is a bug of the agent.",
		}),
	}
}

// of is the machine of an entry. The caller holds mu.
func (s *states) of(entry string) *machine {
	m := s.by[entry]
	if m == nil {
		m = &machine{state: state.Unknown, since: time.Now()}
		s.by[entry] = m
	}
	return m
}

// note brings an entry's state to what was found.
func (s *states) note(entry string, f finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.of(entry)
	for _, g := range s.anew {
		if g.holds(*m, f) {
			s.step(entry, m, state.Unknown, g.why)
		}
	}
	if f.target != "" {
		m.target = f.target
	}
	if f.incarnation != 0 {
		m.incarnation = f.incarnation
	}
	if f.state != "" {
		s.step(entry, m, f.state, "")
	}
}

// step makes one transition. One that is not legal is a bug, and goes by
// unknown, which is true of it.
func (s *states) step(entry string, m *machine, to state.State, why string) {
	if m.state == to {
		return
	}
	if !state.Legal(m.state, to) {
		s.illegal.Inc()
		level.Error(s.logger).Log("entry", entry, "target", m.target, "from", m.state, "to", to, "msg", "illegal transition of an interface, this is a bug of the agent")
		s.step(entry, m, state.Unknown, "")
	}
	fields := []any{"entry", entry, "target", m.target, "from", m.state, "to", to, "msg", "interface state"}
	if why != "" {
		fields = append(fields, "why", why)
	}
	level.Info(s.logger).Log(fields...)
	m.state, m.since = to, time.Now()
}

// keep forgets the entries that there are no more.
func (s *states) keep(requests []request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for entry := range s.by {
		if !slices.ContainsFunc(requests, func(r request) bool { return r.entry == entry }) {
			delete(s.by, entry)
		}
	}
}

// get is the state of an entry, and since when.
func (s *states) get(entry string) (state.State, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.by[entry]
	if !ok {
		return state.Unknown, time.Time{}
	}
	return m.state, m.since
}

// begin notes that an operation begins on targets.
func (s *states) begin(targets []drivers.Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for entry, m := range s.by {
		if slices.Contains(targets, m.target) && state.Legal(m.state, state.Configuring) {
			s.step(entry, m, state.Configuring, "")
		}
	}
}

// noteState notes the state of an entry that stands so.
func (a *Agent) noteState(r request, c Condition, seen sight) {
	t := r.target
	if t == "" { // it may not answer to its selector while it is worked on
		a.states.mu.Lock()
		t = a.states.of(r.entry).target
		a.states.mu.Unlock()
	}
	a.states.note(r.entry, finding{
		target: r.target, incarnation: r.identity.Incarnation, there: r.identity.Incarnation != 0,
		state: a.view.stateOf(r, t, c, seen),
		own: func(since time.Time) bool {
			return slices.ContainsFunc(a.c.Journal.History(0), func(op journal.Operation) bool {
				return time.Since(op.Created) < time.Since(since) && slices.Contains(op.Targets(), t)
			})
		},
	})
}

// glance looks at a function that nothing is done to now, for the state of all
// entries that stand for it. One that is worked on is seen by who does.
func (a *Agent) glance(ctx context.Context, r request) {
	if r.identity.Incarnation == 0 {
		return
	}
	all := slices.DeleteFunc(slices.Clone(a.resolved.requests), func(o request) bool { return o.target != r.target })
	a.employ(ctx, []drivers.Target{r.target}, false, func() {
		for _, r := range all {
			_, observed, _ := a.view.examine(ctx, &r)
			a.noteSeen(r, a.view.sight(ctx, r.target, observed))
		}
	})
}

// noteSeen adds to the report of an entry what was seen of its function since.
func (a *Agent) noteSeen(r request, seen sight) {
	a.mu.Lock()
	report, ok := a.reports[r.entry]
	if ok {
		report.Observed = seen.observed
		a.reports[r.entry] = report
	}
	a.mu.Unlock()
	if ok {
		a.noteState(r, report.Condition, seen)
		a.changed()
	}
}

// targetsIn are the targets that a draft changes.
func targetsIn(d plan.Draft) (targets []drivers.Target) {
	for k := range d.After {
		targets = append(targets, k.Target)
	}
	return targets
}
