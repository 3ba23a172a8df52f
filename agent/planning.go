package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/agent/source/file"
	"eniagent/drivers"
	"eniagent/journal"
)

// Plan is what would be done now.
func (a *Agent) Plan(ctx context.Context) PlanReport {
	a.mu.Lock()
	entries, remembered, src := slices.Clone(a.entries), slices.Clone(a.remembered), a.source
	a.mu.Unlock()
	p := a.view.Plan(ctx, a.view.resolve(ctx, entries, remembered), src)
	a.leftAlone(p)
	return p
}

// PlanOf is what would be done if the file of the desired state now said data.
// Object is the file's path.
func (a *Agent) PlanOf(ctx context.Context, object string, data []byte) (PlanReport, error) {
	desired, err := file.Parse(object, data)
	if err != nil {
		return PlanReport{}, err
	}
	return a.view.PlanFor(ctx, *desired), nil
}

// leftAlone takes out of a plan what this agent does not do for a reason that
// only it knows: it repaired it too often.
func (a *Agent) leftAlone(p PlanReport) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range p.Entries {
		e := &p.Entries[i]
		r, told := a.reports[e.Entry]
		if told && len(e.Steps) > 0 && r.Condition == Degraded && strings.HasPrefix(r.Reason, driftText) {
			e.Condition, e.Reason, e.Steps = r.Condition, r.Reason, []StepReport{}
		}
	}
}

// Plan is what would be done for each entry of the desired state. What several
// of them need first, such as a module, is shown with the first that is not
// prevented.
func (v View) Plan(ctx context.Context, requests []request, src SourceReport) PlanReport {
	p := PlanReport{Source: src, Entries: []PlanEntry{}}
	planned := map[drivers.Key]bool{}
	for _, r := range requests {
		e := v.planEntry(ctx, r)
		n := len(e.Steps)
		e.Steps = slices.DeleteFunc(e.Steps, func(s StepReport) bool { return planned[s.key()] })
		if n > 0 && len(e.Steps) == 0 {
			e.Reason = cmp.Or(e.Reason, "what it needs is shown with an entry above")
		}
		for _, g := range r.first {
			planned[g.Key] = planned[g.Key] || slices.ContainsFunc(e.Steps, func(s StepReport) bool { return s.key() == g.Key })
		}
		p.Entries = append(p.Entries, e)
	}
	return p
}

// planEntry is what would be done for one entry: nothing, with the reason, where
// something prevents it.
func (v View) planEntry(ctx context.Context, r request) PlanEntry {
	e, drafts := v.planUncounted(ctx, r)
	for _, d := range drafts {
		f, failed := v.Records.Failure(engine.Fingerprint(d))
		switch {
		case !failed || len(e.Steps) == 0:
		case f.Reverts >= engine.MaxReverts:
			e.Condition, e.Reason, e.Steps = Failed, givenUp(f), []StepReport{}
		default:
			now := time.Now()
			if until := putOffUntil(f, cmp.Or(v.started, now), now); !until.IsZero() {
				e.Reason = putOff(r.target, f, until)
			}
		}
	}
	return e
}

// planUncounted is planEntry, whatever failures are counted against its goals,
// which are returned as drafts.
func (v View) planUncounted(ctx context.Context, r request) (PlanEntry, []plan.Draft) {
	e := PlanEntry{Entry: r.entry, Target: r.target, Condition: Right, Steps: []StepReport{}}
	if v.prevented(ctx, r, &e) {
		return e, nil
	}
	if r.pool != "" {
		if e = v.planPool(ctx, r, e); len(e.Steps) == 0 {
			return e, nil
		}
		last := e.Steps[len(e.Steps)-1]
		return e, []plan.Draft{draftOf(last.key(), e.Steps[0].From, last.To)}
	}
	draft, observed, err := v.examine(ctx, &r)
	if err != nil {
		e.Condition, e.Reason = conditionOf(err), err.Error()
		return e, nil
	}
	first := v.firstMissing(ctx, r)
	if err := v.precheck(ctx, observed, draft, len(first) > 0); err != nil {
		e.Condition, e.Reason = conditionOf(err), err.Error()
		return e, nil
	}
	var drafts []plan.Draft
	for _, g := range first {
		from := drivers.State(v.observer().Observe(ctx, g.Key).String())
		e.Steps = append(e.Steps, StepReport{Kind: g.Key.Kind, Target: g.Key.Target, From: from, To: g.State})
		drafts = append(drafts, draftOf(g.Key, from, g.State))
	}
	steps, err := plan.Order(v.Drivers.Specs, observed, draft.After)
	if err != nil {
		e.Condition, e.Reason, e.Steps = conditionOf(err), err.Error(), []StepReport{}
		return e, nil
	}
	e.Steps = append(e.Steps, reportSteps(v.foreseen(r, draft, steps))...)
	switch {
	case len(e.Steps) > 0:
		e.Condition, e.Reason = Pending, strings.Join(r.planNotes(), "; ")
	case r.released():
		e.Condition, e.Reason = Released, r.why()
	case r.later != "":
		e.Condition, e.Reason = Pending, r.later
	}
	return e, append(drafts, draft)
}

// prevented says whether nothing is begun for a request, whatever the host is
// like, and says why in e: a pause, its own error, or an operation that is not
// closed and claims what it is about or needs first.
func (v View) prevented(ctx context.Context, r request, e *PlanEntry) bool {
	if c, ok := v.paused(r.targets()...); ok {
		e.Condition, e.Reason = Paused, pausedText(c)
		return true
	}
	if r.err != nil {
		e.Condition, e.Reason = r.condition, r.err.Error()
		return true
	}
	targets := r.targets()
	for _, g := range v.firstMissing(ctx, r) {
		targets = append(targets, g.Key.Target)
	}
	for _, t := range targets {
		op, held := v.open(t)
		if !held {
			continue
		}
		on := "it"
		if t != r.target {
			on = string(t)
		}
		e.Condition, e.Reason = Changing, fmt.Sprintf("operation %d is open on %s: see agent recover --dry-run", op.ID, on)
		if op.State == journal.Quarantined {
			e.Condition, e.Reason = Quarantined, fmt.Sprintf("operation %d on %s: %s: see agent recover --dry-run", op.ID, t, op.Outcome)
		}
		return true
	}
	return false
}

// givenUp says why a goal is not tried any more.
func givenUp(f journal.Failure) string {
	return fmt.Sprintf("reverted %d times, last for: %s; change what is asked, or clear it with agent retry", f.Reverts, cmp.Or(f.LastError, "unknown"))
}
