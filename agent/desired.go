package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/go-kit/log/level"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/journal"
)

// entry is one interface of the desired state in force.
type entry struct {
	source.Interface
	// Kept says that the source no longer has it, and it was not given back: it
	// stays in force. Where the source's word is complete, it is to be given back.
	Kept bool `json:"kept,omitempty"`
	// From is the source that asked it, where desired state comes from another now.
	From string `json:"from,omitempty"`
	// LetGo says that it was released and seen to be back: it is left alone.
	LetGo bool `json:"let_go,omitempty"`
}

func (e entry) String() string { return e.Selector.String() }

// document is what the journal keeps of a source's desired state.
type document struct {
	Entries []entry `json:"entries"`
	// Parts are those that were asked for, of kinds of which an entry may name a
	// part, that no entry names any more and that were not given back yet.
	Parts map[drivers.Key][]string `json:"parts,omitempty"`
}

// restore takes the last good desired state from the journal, so that the node
// is kept right while its source is away.
func (a *Agent) restore() {
	d := InForce(a.c.Journal, a.c.Name)
	doc, err := documentIn(d)
	if err != nil {
		level.Error(a.logger).Log("source", d.Source, "err", err, "msg", "last good desired state is not readable")
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.entries = doc.Entries
	if d.Source == a.c.Name {
		a.source.Generation = d.Generation
	} else {
		level.Warn(a.logger).Log("source", a.c.Name, "was", d.Source, "count", len(doc.Entries),
			"msg", "desired state comes from another source than before: what that one asked stays in force until it is asked anew, or given back")
	}
	handOver(a.entries, d.Source, a.c.Name)
	a.revision++
	a.remembered = a.view.selections(d)
	a.allowed, a.given = a.view.permissions()
}

// handOver makes of entries that were kept for one source those of another, to
// which their absence says nothing.
func handOver(entries []entry, from, to string) {
	for i := range entries {
		e := &entries[i]
		if e.From = cmp.Or(e.From, from); e.From == to {
			e.From = ""
		}
		e.Kept = e.Kept || e.From != ""
	}
}

// take puts a new desired state in force. A source that cannot be read leaves
// the last good one.
func (a *Agent) take(ctx context.Context, u source.Update) {
	a.metrics.update(u)
	if u.Err != nil {
		a.mu.Lock()
		a.source.Error = u.Err.Error()
		a.mu.Unlock()
		level.Warn(a.logger).Log("source", a.c.Name, "object", a.c.Object, "err", u.Err, "msg", "desired state not readable, the last good one stays in force")
		return
	}
	a.mu.Lock()
	old := a.entries
	entries := merge(old, *u.Desired, a.matched())
	if err := canBeKept(entries); err != nil {
		a.source.Error = err.Error()
		a.mu.Unlock()
		level.Warn(a.logger).Log("source", a.c.Name, "object", a.c.Object, "err", err, "msg", "desired state too large, the last good one stays in force")
		return
	}
	a.entries = entries
	a.revision++
	news := !slices.Equal(a.source.Refused, u.Desired.Refused)
	a.source.Generation, a.source.Error, a.source.Refused = u.Desired.Generation, "", u.Desired.Refused
	changed := changedEntries(old, a.entries)
	a.noteAnew(changed)
	count := len(a.entries)
	a.mu.Unlock()
	level.Info(a.logger).Log("source", a.c.Name, "object", a.c.Object, "generation", u.Desired.Generation, "count", count, "msg", "desired state in force")
	if news {
		for _, r := range u.Desired.Refused {
			level.Warn(a.logger).Log("source", a.c.Name, "object", r.Object, "why", r.Reason, "msg", "object refused, what it asked before stays in force")
		}
	}
	a.forgive(ctx, changed)
}

// noteAnew notes entries that ask something else from now on. The caller holds mu.
func (a *Agent) noteAnew(entries []string) {
	for _, e := range entries {
		a.anew[e] = a.revision
		if !slices.Contains(a.order, e) {
			a.order = append(a.order, e)
		}
	}
}

// reportOf is how an entry stands: pending until it was looked at as it is asked now.
// The caller holds mu.
func (a *Agent) reportOf(entry string) InterfaceReport {
	r, ok := a.reports[entry]
	switch {
	case !ok:
		return InterfaceReport{Entry: entry, Condition: Pending, Reason: "not looked at yet"}
	case r.revision < a.anew[entry]:
		r.Condition, r.Reason = Pending, "asked for anew, and not looked at yet"
	}
	return r
}

// canBeKept says why entries could not be kept in the journal. What is not in the
// journal is not acted on.
func canBeKept(entries []entry) error {
	text, err := json.Marshal(document{Entries: entries})
	if err != nil {
		return fmt.Errorf("keep desired state: %w", err)
	}
	if len(text) > journal.MaxDocument {
		return fmt.Errorf("%d entries take %d bytes in the journal, which keeps %d: ask for less", len(entries), len(text), journal.MaxDocument)
	}
	return nil
}

// matched says whether an entry ever stood for a function of this node, as far as
// is known here. The caller holds mu.
func (a *Agent) matched() func(entry) bool {
	known := a.view.matched(a.remembered)
	return func(e entry) bool { return a.reports[e.String()].Target != "" || known(e) }
}

// matched is the part of it that the journal tells.
func (v View) matched(remembered []journal.Selection) func(entry) bool {
	entries, targets := map[string]bool{}, map[drivers.Target]bool{}
	for _, m := range remembered {
		entries[m.Selector] = true
	}
	for _, g := range v.askedBefore() {
		of, _, _ := strings.Cut(g.Entry, " vf ")
		entries[of] = true
	}
	for _, b := range v.Records.Baselines() {
		targets[b.Key.Target] = true
	}
	return func(e entry) bool { return entries[e.String()] || targets[e.Selector.PCI] }
}

// merge is the new desired state plus the entries that it no longer names and
// that were not given back. One that never stood for anything goes: nothing was
// done for it. The others stay in force, because an entry may be missing
// for any reason, and giving an interface back is explicit; only where nothing is
// missing are they to be given back.
func merge(old []entry, next source.Desired, matched func(entry) bool) []entry {
	var all []entry
	for _, i := range next.Interfaces {
		e := entry{Interface: i}
		for _, o := range old {
			e.LetGo = e.LetGo || o.LetGo && reflect.DeepEqual(o.Interface, i)
		}
		all = append(all, e)
	}
	for _, o := range old {
		named := slices.ContainsFunc(next.Interfaces, func(i source.Interface) bool { return i.Selector == o.Selector })
		if named || o.LetGo || !matched(o) {
			continue
		}
		o.Kept = true
		if next.Complete && o.From == "" && !next.Refuses(o.Object) {
			o.Interface = source.Interface{
				Selector: o.Selector, Object: o.Object, State: source.Released, AllowManagementPath: o.AllowManagementPath,
			}
		}
		all = append(all, o)
	}
	return all
}

// changedEntries are the selectors that something else is asked of now.
func changedEntries(old, next []entry) []string {
	var changed []string
	for _, n := range next {
		same := slices.ContainsFunc(old, func(o entry) bool { return reflect.DeepEqual(o.Asks(), n.Asks()) })
		if !same {
			changed = append(changed, n.String())
		}
	}
	return changed
}

// amend changes the entries of a selector, or drops them where change says so.
func (a *Agent) amend(selector string, change func(*entry) (keep bool)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []entry
	for _, e := range a.entries {
		if e.String() != selector || change(&e) {
			all = append(all, e)
		}
	}
	a.entries = all
	a.revision++
}

// forgive ends quarantines and forgets failures of what is asked anew: a
// person changed something, and expects it to be tried.
func (a *Agent) forgive(ctx context.Context, entries []string) {
	if a.readOnly() || len(entries) == 0 {
		return
	}
	var targets []drivers.Target
	a.mu.Lock()
	for _, i := range a.entries {
		if !slices.Contains(entries, i.String()) {
			continue
		}
		targets = append(targets, targetsOf(i, a.remembered)...)
		targets = append(targets, a.view.poolsOf(i)...)
	}
	a.mu.Unlock()
	kept := InForce(a.c.Journal, a.c.Name)
	for _, g := range kept.Goals { // those of its virtual functions
		of, _, vf := strings.Cut(g.Entry, " vf ")
		if vf && slices.Contains(entries, of) {
			targets = append(targets, g.Key.Target)
		}
	}
	concerned := func(t drivers.Target) bool { return slices.Contains(targets, t) }
	a.drifts.askedAnew(concerned, targets...)
	a.breakers.forget(concerned)
	for _, op := range a.c.Journal.Quarantined() {
		if !slices.ContainsFunc(op.Targets(), concerned) {
			continue
		}
		err := a.c.Journal.Finish(op.ID, journal.Superseded, "desired state changed")
		level.Info(a.logger).Log("op", op.ID, "state", journal.Superseded, "err", err, "msg", "quarantine ended by changed desired state")
	}
	_, err := a.c.Journal.ClearFailures(ctx, func(f journal.Failure) bool {
		return slices.ContainsFunc(f.Keys, func(k drivers.Key) bool { return concerned(k.Target) })
	})
	if err != nil {
		level.Warn(a.logger).Log("err", err, "msg", "failures not cleared")
	}
}

// remember keeps in the journal what is in force and what it was resolved to.
func (a *Agent) remember(ctx context.Context, requests []request) error {
	if a.readOnly() {
		return nil
	}
	before := InForce(a.c.Journal, a.c.Name)
	a.mu.Lock()
	d := journal.Desired{Source: a.c.Name, Object: a.c.Object, Generation: a.source.Generation}
	doc := document{Entries: a.entries}
	a.remembered = selections(a.remembered, requests)
	d.Selections = slices.Clone(a.remembered)
	a.mu.Unlock()
	if d.Generation == "" {
		return nil // nothing was ever in force
	}
	d.Goals = goalsOf(requests, before.Goals)
	doc.Parts = a.view.partsLeft(requests, d.Goals)
	var err error
	if d.Document, err = json.Marshal(doc); err != nil {
		return fmt.Errorf("keep desired state: %w", err)
	}
	if err := a.c.Journal.SetDesired(ctx, d); err != nil {
		return fmt.Errorf("keep desired state: %w", err)
	}
	for _, other := range a.c.Journal.Sources() { // what it asked is in this one
		if other.Source == a.c.Name {
			continue
		}
		if err := a.c.Journal.DropDesired(ctx, other.Source); err != nil {
			return fmt.Errorf("forget source %s: %w", other.Source, err)
		}
	}
	if a.c.Journal.RecoveredBoot() != a.c.BootID && a.dutyDone() {
		return a.c.Journal.SetRecoveredBoot(ctx)
	}
	return nil
}

// selections is what each selector stands for, or stood for last.
func selections(old []journal.Selection, requests []request) []journal.Selection {
	var all []journal.Selection
	for _, r := range requests {
		if r.asked.Selector.PCI != "" || r.pool != "" {
			continue
		}
		i := slices.IndexFunc(old, func(s journal.Selection) bool { return s.Selector == r.entry })
		switch {
		case r.target != "" && r.identity != (drivers.Identity{}):
			id := r.identity
			id.Netdev = 0
			if i >= 0 && id.MAC == "" && old[i].Target == r.target {
				id.MAC = old[i].Identity.MAC
			}
			all = append(all, journal.Selection{Selector: r.entry, Target: r.target, Identity: id})
		case i >= 0:
			all = append(all, old[i])
		}
	}
	return withMACs(all, old, requests)
}

// withMACs adds the MAC addresses of functions that are selected otherwise: they
// may be selected so next, when they are on a driver that leaves them no netdev.
func withMACs(all, old []journal.Selection, requests []request) []journal.Selection {
	add := func(s journal.Selection) {
		if !slices.ContainsFunc(all, func(o journal.Selection) bool { return o.Selector == s.Selector }) {
			all = append(all, s)
		}
	}
	for _, r := range requests {
		if r.target == "" || r.pool != "" || r.identity == (drivers.Identity{}) && !r.unread || r.identity.PF != "" {
			continue
		}
		id := r.identity // nothing of one that could not be read
		if id.Netdev = 0; id.MAC != "" {
			add(journal.Selection{Selector: source.Selector{MAC: id.MAC}.String(), Target: r.target, Identity: id})
			continue
		}
		for _, s := range old { // what it was known by, as sure as that was then
			if mac := (source.Selector{MAC: s.Identity.MAC}); s.Target == r.target && s.Selector == mac.String() && s.Identity.Difference(id) == "" {
				add(s)
			}
		}
	}
	return all
}

// goalsOf are all keys that are asked for, each once. What could not be
// resolved just now is asked for as before: only an entry that is resolved, or
// gone, withdraws anything.
func goalsOf(requests []request, before []journal.Goal) []journal.Goal {
	seen := map[drivers.Key]bool{}
	var goals []journal.Goal
	add := func(g journal.Goal) {
		if !seen[g.Key] {
			seen[g.Key] = true
			goals = append(goals, g)
		}
	}
	for _, r := range requests {
		for _, g := range r.first {
			add(g)
		}
		for k, s := range r.goal {
			add(journal.Goal{Key: k, State: s, Entry: r.entry})
		}
	}
	for _, g := range before {
		unresolved := slices.ContainsFunc(requests, func(r request) bool {
			return r.err != nil && r.entry == g.Entry || r.unread && strings.HasPrefix(g.Entry, r.entry+" vf ")
		})
		if unresolved {
			add(g)
		}
	}
	return goals
}

// errNothing is why a pass does nothing before any desired state was read.
var errNothing = errors.New("no desired state was ever read")
