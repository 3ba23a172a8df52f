package agent

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// A look is a pass over some functions: what a full pass does, for those alone.
// It starts from how the last pass resolved the entries, and is as good as a
// full pass because
//
//   - an entry is resolved anew when what it stood for, or could stand for now,
//     is in the scope: its function, the one its selector is remembered for, one
//     whose netdev answers to it; or when it is unsure, such as ambiguous;
//   - what an entry stood for and stands for both come into the scope, with all
//     entries of theirs, until none is added. So two entries for one function,
//     entries that yield and orders that outrank see all that they compare;
//   - what else compares all entries (what the journal remembers, who is given
//     to programs) reads no host, and is done for all of them each time;
//   - desired state that changed, or an order that was given, makes a full pass.
//
// What no event tells of is left to the full pass of --interval.

// scope is what a pass is about.
type scope struct {
	all     bool
	targets map[drivers.Target]bool
	entries map[string]bool // that are resolved anew
}

// everything is the scope of a full pass.
func everything() scope { return scope{all: true} }

func (s scope) has(t drivers.Target) bool { return s.all || s.targets[t] }

func (s scope) of(r request) bool { return s.all || s.targets[r.target] || s.entries[r.entry] }

func (s scope) operation(op journal.Operation) bool { return slices.ContainsFunc(op.Targets(), s.has) }

// add puts a target into the scope, and says whether it is new there.
func (s scope) add(t drivers.Target) bool {
	if t == "" || s.has(t) {
		return false
	}
	s.targets[t] = true
	return true
}

// resolution is how the last pass resolved the entries; the loop's own.
type resolution struct {
	requests []request
	revision int // of the entries; none when the zero value
}

// look looks at what is due.
func (a *Agent) look(ctx context.Context, due []matter) {
	a.mu.Lock()
	entries, remembered, of := slices.Clone(a.entries), slices.Clone(a.remembered), a.inForce()
	a.mu.Unlock()
	if !a.heard || a.resolved.revision != of.revision {
		a.pass(ctx)
		return
	}
	s := a.scopeOf(ctx, due)
	a.resumeOpen(ctx, s)
	requests := a.view.resolveAgain(ctx, a.resolved.requests, entries, remembered, s)
	a.act(ctx, entries, requests, s, of)
}

// scopeOf is what due matters concern.
func (a *Agent) scopeOf(ctx context.Context, due []matter) scope {
	s := scope{targets: map[drivers.Target]bool{}, entries: map[string]bool{}}
	standing := a.conditions()
	for _, m := range due {
		s.add(m.target)
		for _, r := range a.resolved.requests {
			if m.concerns(r, standing[r.entry]) {
				s.add(r.target)
			}
		}
		if pf := a.pfOf(ctx, m); pf != "" && (m.reach == far || !settledAs(standing[a.entryOf(pf)])) {
			s.add(pf)
		}
	}
	return s
}

// conditions is how the entries stand.
func (a *Agent) conditions() map[string]Condition {
	a.mu.Lock()
	defer a.mu.Unlock()
	standing := map[string]Condition{}
	for entry, r := range a.reports {
		standing[entry] = r.Condition
	}
	return standing
}

// settledAs says that nothing is to be done for an entry.
func settledAs(c Condition) bool { return c == Right || c == Released }

// concerns says whether a matter of another target concerns an entry, too.
func (m matter) concerns(r request, c Condition) bool {
	if m.driver != "" {
		return r.asked.Driver == m.driver
	}
	if name, ok := m.target.ModuleName(); ok {
		return r.hangsOn(m.target, name)
	}
	switch m.reach {
	case itself:
		return false
	case near:
		// A VF that is right may fare badly now: its link is that of the PF.
		return r.identity.PF == m.target && c != Released
	}
	// What a rule refused may hang on any function: the rest of an IOMMU group,
	// the members of a bond.
	return r.identity.PF == m.target || c == Refused
}

// hangsOn says whether the driver that is asked for needs a module.
func (r request) hangsOn(t drivers.Target, name string) bool {
	if r.asked.Driver == "" {
		return false
	}
	own, err := drivers.Module(r.asked.Driver)
	return err == nil && own == t || r.asked.Driver == "vfio-pci" && name == vfioBackend ||
		slices.ContainsFunc(r.first, func(g journal.Goal) bool { return g.Key.Target == t })
}

// pfOf is the PF of the function of a matter that may concern it; "" when
// there is none that anything is asked of.
func (a *Agent) pfOf(ctx context.Context, m matter) drivers.Target {
	if m.reach == itself {
		return ""
	}
	pf := drivers.Target("")
	if i := slices.IndexFunc(a.resolved.requests, func(r request) bool { return r.target == m.target }); i >= 0 {
		pf = a.resolved.requests[i].identity.PF
	} else if m.reach == far {
		if link, err := a.c.Host.Readlink(ctx, host.Attr(string(m.target), "physfn")); err == nil {
			pf = drivers.Target(path.Base(link))
		}
	}
	if a.entryOf(pf) == "" {
		return ""
	}
	return pf
}

// entryOf is the entry that stands for a function; "" when none does.
func (a *Agent) entryOf(t drivers.Target) string {
	i := slices.IndexFunc(a.resolved.requests, func(r request) bool { return t != "" && r.target == t })
	if i < 0 {
		return ""
	}
	return a.resolved.requests[i].entry
}

// resolveAgain is resolve for what a scope concerns; the rest stays as it was
// resolved last. It widens the scope by what turns out to be concerned.
func (v View) resolveAgain(ctx context.Context, last []request, entries []entry, remembered []journal.Selection, s scope) []request {
	family(last, s)
	v.joinedTo(ctx, last, s)
	were := map[string]request{}
	for _, r := range last {
		if !r.ordered() {
			were[r.entry] = r
		}
	}
	f := finder{view: v, remembered: remembered}
	f.see(ctx, entries, s)
	found := map[string]request{}
	for grown := true; grown; {
		grown = false
		for _, e := range entries {
			was, known := were[e.String()]
			if _, done := found[e.String()]; done || known && !f.concerned(e, was, s) {
				continue
			}
			r := f.find(ctx, e)
			found[r.entry], s.entries[r.entry] = r, true
			grown = s.add(was.target) || grown
			grown = s.add(r.target) || grown
		}
	}
	requests := make([]request, 0, len(last))
	for _, e := range entries {
		r, anew := found[e.String()]
		if !anew {
			r = were[e.String()]
		}
		requests = append(requests, r)
	}
	for _, r := range last {
		if r.ordered() && !s.has(r.target) {
			requests = append(requests, r)
		}
	}
	return v.recalling().complete(ctx, requests, last, s)
}

// finder finds the functions of entries, and lists the netdevs no more than
// once for it.
type finder struct {
	view       View
	remembered []journal.Selection
	listed     bool
	links      []host.Link
	err        error
	nearby     []host.Link // of the functions that the scope began with
}

func (f *finder) list(ctx context.Context) ([]host.Link, error) {
	if !f.listed {
		f.links, f.err = f.view.Host.Links(ctx)
		f.listed = true
	}
	return f.links, f.err
}

// see finds the netdevs of the functions in a scope, where an entry could stand
// for one.
func (f *finder) see(ctx context.Context, entries []entry, s scope) {
	if !slices.ContainsFunc(entries, func(e entry) bool { return e.Selector.PCI == "" }) {
		return
	}
	indexes := map[int]bool{}
	functions := false
	for t := range s.targets {
		if address, ok := t.PCIAddress(); ok {
			functions = true
			if dev, err := host.NetdevOf(ctx, f.view.Host, address); err == nil && dev.Name != "" {
				indexes[dev.Index] = true
			}
		}
	}
	if !functions {
		return
	}
	links, _ := f.list(ctx) // said of the entries that need them
	for _, l := range links {
		if indexes[l.Index] || s.has(drivers.Target(l.Bus)) {
			f.nearby = append(f.nearby, l)
		}
	}
}

// concerned says whether an entry may stand for something else now.
func (f *finder) concerned(e entry, was request, s scope) bool {
	switch {
	case was.target != "" && s.has(was.target):
		return true
	case e.Selector.PCI != "":
		return s.has(e.Selector.PCI)
	case was.target == "" && !errors.Is(was.err, errNobody):
		return true
	}
	return slices.ContainsFunc(f.nearby, func(l host.Link) bool { return matches(e.Selector, l) }) ||
		slices.ContainsFunc(f.remembered, func(m journal.Selection) bool { return m.Selector == e.String() && s.has(m.Target) })
}

// find finds the function that an entry stands for; while that cannot be read, it
// is the one that it stood for last.
func (f *finder) find(ctx context.Context, e entry) request {
	r := request{asked: e, entry: e.String()}
	ctx, n := host.Noting(ctx)
	var links []host.Link
	var unread, err error
	if e.Selector.PCI == "" {
		links, unread = f.list(ctx)
	}
	if unread == nil {
		r.target, err = f.view.find(ctx, e.Selector, links, f.remembered)
		unread = n.Failed()
	} else {
		unread = fmt.Errorf("list network devices: %w", unread)
	}
	switch {
	case unread != nil:
		r.target = f.last(e)
		r.unreadable(unread)
	case err != nil:
		r.cannot(Waiting, err)
	}
	return r
}

// last is the function that an entry stood for last; "" when it never stood for
// one.
func (f *finder) last(e entry) drivers.Target {
	if e.Selector.PCI != "" {
		return e.Selector.PCI
	}
	if i := slices.IndexFunc(f.remembered, func(m journal.Selection) bool { return m.Selector == e.String() }); i >= 0 {
		return f.remembered[i].Target
	}
	return ""
}

// again plans another look at what could not be read.
func (a *Agent) again(requests []request) {
	at := time.Now().Add(retryKept)
	for _, r := range requests {
		switch {
		case !r.unread:
		case r.target == "":
			a.agenda.everything(at)
		default:
			a.wakeAt(at, r.target)
		}
	}
}
