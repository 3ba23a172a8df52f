package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/go-kit/log/level"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/journal"
)

// document is what the journal keeps of a source's desired state.
type document struct {
	Interfaces []source.Interface `json:"interfaces"`
	Kept       []string           `json:"kept,omitempty"`
}

// restore takes the last good desired state from the journal, so that the node
// is kept right while its source is away.
func (a *Agent) restore() {
	d, ok := a.c.Journal.Desired(a.c.Name)
	if !ok {
		return
	}
	doc, err := interfacesIn(d)
	if err != nil {
		level.Error(a.logger).Log("source", d.Source, "err", err, "msg", "last good desired state is not readable")
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.interfaces, a.source.Generation = doc.Interfaces, d.Generation
	for _, k := range doc.Kept {
		a.kept[k] = true
	}
	a.remembered = a.view.selections(d)
}

// take puts a new desired state in force. A source that cannot be read leaves
// the last good one.
func (a *Agent) take(ctx context.Context, u source.Update) {
	a.metrics.sourceError(u.Err)
	if u.Err != nil {
		a.mu.Lock()
		a.source.Error = u.Err.Error()
		a.mu.Unlock()
		level.Warn(a.logger).Log("source", a.c.Name, "object", a.c.Object, "err", u.Err, "msg", "desired state not readable, the last good one stays in force")
		return
	}
	a.mu.Lock()
	old := a.interfaces
	a.interfaces, a.kept = merge(old, u.Desired.Interfaces)
	a.source.Generation, a.source.Error = u.Desired.Generation, ""
	changed := changedEntries(old, a.interfaces)
	count := len(a.interfaces)
	a.mu.Unlock()
	level.Info(a.logger).Log("source", a.c.Name, "object", a.c.Object, "generation", u.Desired.Generation, "count", count, "msg", "desired state in force")
	a.forgive(ctx, changed)
}

// merge is the new desired state plus the entries that it no longer names and
// never released: they stay in force, because an entry may be missing for any
// reason, and giving an interface back is explicit.
func merge(old, next []source.Interface) (all []source.Interface, kept map[string]bool) {
	all, kept = slices.Clone(next), map[string]bool{}
	for _, o := range old {
		named := slices.ContainsFunc(next, func(i source.Interface) bool { return i.Selector == o.Selector })
		if !named && o.State != source.Released {
			all = append(all, o)
			kept[o.Selector.String()] = true
		}
	}
	return all, kept
}

// changedEntries are the selectors that something else is asked of now.
func changedEntries(old, next []source.Interface) []string {
	var changed []string
	for _, n := range next {
		same := slices.ContainsFunc(old, func(o source.Interface) bool { return reflect.DeepEqual(o, n) })
		if !same {
			changed = append(changed, n.Selector.String())
		}
	}
	return changed
}

// forgive ends quarantines and forgets failures of what is asked anew: a
// person changed something, and expects it to be tried.
func (a *Agent) forgive(ctx context.Context, entries []string) {
	if a.c.Observe || len(entries) == 0 {
		return
	}
	var targets []drivers.Target
	a.mu.Lock()
	for _, i := range a.interfaces {
		if !slices.Contains(entries, i.Selector.String()) {
			continue
		}
		if i.Selector.PCI != "" {
			targets = append(targets, i.Selector.PCI)
		}
		for _, s := range a.remembered {
			if s.Selector == i.Selector.String() {
				targets = append(targets, s.Target)
			}
		}
	}
	a.mu.Unlock()
	concerned := func(t drivers.Target) bool { return slices.Contains(targets, t) }
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
	if a.c.Observe {
		return nil
	}
	a.mu.Lock()
	d := journal.Desired{Source: a.c.Name, Object: a.c.Object, Generation: a.source.Generation}
	doc := document{Interfaces: a.interfaces}
	for k := range a.kept {
		doc.Kept = append(doc.Kept, k)
	}
	slices.Sort(doc.Kept)
	a.remembered = selections(a.remembered, requests)
	d.Selections = slices.Clone(a.remembered)
	a.mu.Unlock()
	if d.Generation == "" {
		return nil // nothing was ever in force
	}
	var err error
	if d.Document, err = json.Marshal(doc); err != nil {
		return fmt.Errorf("keep desired state: %w", err)
	}
	d.Goals = goalsOf(requests)
	if err := a.c.Journal.SetDesired(ctx, d); err != nil {
		return fmt.Errorf("keep desired state: %w", err)
	}
	if a.c.Journal.RecoveredBoot() != a.c.BootID {
		return a.c.Journal.SetRecoveredBoot(ctx)
	}
	return nil
}

// selections is what each selector stands for, or stood for last.
func selections(old []journal.Selection, requests []request) []journal.Selection {
	var all []journal.Selection
	for _, r := range requests {
		if r.asked.Selector.PCI != "" {
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
	return all
}

// goalsOf are all keys that are asked for, each once.
func goalsOf(requests []request) []journal.Goal {
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
	return goals
}

// errNothing is why a pass does nothing before any desired state was read.
var errNothing = errors.New("no desired state was ever read")
