package agent

import (
	"maps"
	"sync"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

const (
	settle = 20 * time.Millisecond // events that come together make one look
	// pace is how far apart the looks are that a steady stream of events on one
	// function makes.
	pace = 200 * time.Millisecond
)

// reach is how far from its target a matter reaches.
type reach int

const (
	itself reach = iota // a retry
	near                // its netdev: what hangs on it, too
	far                 // it came, went or changed hands: what hangs on it, and what a rule refused
)

// matter is something to be looked at.
type matter struct {
	target drivers.Target // a function or a module
	driver string         // whoever asks for this driver
	reach  reach
}

// agenda is what is to be looked at, and when. Whatever is asked for again
// before its time is looked at once.
type agenda struct {
	changed chan struct{} // the next time may be another now

	mu    sync.Mutex
	all   time.Time // everything; zero is never
	at    map[matter]time.Time
	news  map[matter]bool      // of these, an event told
	heard map[matter]time.Time // looked at for an event lately
}

func newAgenda() *agenda {
	return &agenda{changed: make(chan struct{}, 1), at: map[matter]time.Time{}, news: map[matter]bool{}, heard: map[matter]time.Time{}}
}

// everything asks for a look at everything at a time, or sooner.
func (g *agenda) everything(at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all.IsZero() || at.Before(g.all) {
		g.all = at
		g.tell()
	}
}

// add asks for a look at a time, or sooner.
func (g *agenda) add(m matter, at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if was, ok := g.at[m]; !ok || at.Before(was) {
		g.at[m] = at
		g.tell()
	}
}

// event asks for a look because of an event: soon after the first of a burst,
// and at the pace of a stream.
func (g *agenda) event(m matter) {
	at := time.Now().Add(settle)
	g.mu.Lock()
	g.news[m] = true
	if last, ok := g.heard[m]; ok && at.Before(last.Add(pace)) {
		at = last.Add(pace)
	}
	g.mu.Unlock()
	g.add(m, at)
}

// tell says that the next time may be another. The caller holds mu.
func (g *agenda) tell() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// next is when the next look is due; false when none is.
func (g *agenda) next() (at time.Time, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at = g.all
	for _, t := range g.at {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	return at, !at.IsZero()
}

// due takes what is due, everything or some matters.
func (g *agenda) due(now time.Time) (all bool, some []matter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.all.IsZero() && !now.Before(g.all) {
		all, g.all = true, time.Time{}
	}
	maps.DeleteFunc(g.heard, func(_ matter, t time.Time) bool { return now.Sub(t) > pace })
	for m, t := range g.at {
		if now.Before(t) {
			continue
		}
		some = append(some, m)
		delete(g.at, m)
		if g.news[m] {
			g.heard[m] = now
			delete(g.news, m)
		}
	}
	return all, some
}

// hear puts an event on the agenda. One that names nothing concerns nobody,
// unless it stands for others.
func (g *agenda) hear(e host.Event) {
	_, pci := e.Target.PCIAddress()
	switch {
	case e.What == host.EventLost:
		g.everything(time.Now().Add(settle))
	case e.Driver != "":
		g.event(matter{driver: e.Driver})
	case e.Target == "":
	case pci && e.What == host.EventLink:
		g.event(matter{target: e.Target, reach: near})
	case pci:
		g.event(matter{target: e.Target, reach: far})
	default:
		g.event(matter{target: e.Target})
	}
}

// Wake asks for a pass over everything soon.
func (a *Agent) Wake() {
	a.agenda.everything(time.Now().Add(settle))
	a.payer.tell() // it may have been forbidden so far
}

// wakeFor asks for a look at targets soon.
func (a *Agent) wakeFor(targets ...drivers.Target) {
	a.wakeAt(time.Now().Add(settle), targets...)
}

// wakeAt asks for a look at targets, and at nothing else, at a time or sooner.
func (a *Agent) wakeAt(at time.Time, targets ...drivers.Target) {
	at = time.Now().Add(time.Until(at)) // by the clock that nobody sets
	for _, t := range targets {
		if t != "" {
			a.agenda.add(matter{target: t}, at)
		}
	}
}
