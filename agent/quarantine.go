package agent

import (
	"context"
	"errors"
	"slices"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/journal"
	"eniagent/recovery"
)

// quarantine tells in a report of the operations that a person is to decide on.
func (v View) quarantine(ctx context.Context, r *RecoverReport) {
	r.Quarantined, r.InQuarantine = nil, nil
	for _, op := range v.Records.Quarantined() {
		r.Quarantined = append(r.Quarantined, op.ID)
		r.InQuarantine = append(r.InQuarantine, v.quarantineEntry(ctx, op))
	}
}

func (v View) quarantineEntry(ctx context.Context, op journal.Operation) QuarantineEntry {
	e := QuarantineEntry{
		Operation: op.ID, Targets: op.Targets(), Created: op.Created, Since: op.Updated, Attempts: op.Attempts,
		Reason: op.Reason, Why: op.Outcome,
	}
	for _, f := range recovery.Look(ctx, v.Drivers.Specs, v.observer(), &op) {
		e.Keys = append(e.Keys, KeyReport{
			Key: f.Change.Key, Before: f.Change.Before, After: f.Change.After,
			Observed: f.Observed.String(), Class: f.Class, Found: foundThen(op, f.Change.Key),
		})
	}
	for _, how := range []string{Accept, Replay, Revert} {
		e.Ways = append(e.Ways, v.wayOut(ctx, op, how))
	}
	return e
}

// wayOut is what agent resolve would do. Far from the host it is told from what
// was found when the operation was put in quarantine.
func (v View) wayOut(ctx context.Context, op journal.Operation, how string) WayOut {
	w := WayOut{How: how, Steps: []StepReport{}}
	if err := v.resolvable(op, how); err != nil {
		w.Error = err.Error()
		return w
	}
	if v.Host == nil {
		steps, err := stepsFrom(v.Drivers.Specs, op, how)
		if err != nil {
			w.Error = err.Error()
			return w
		}
		if w.Steps = reportSteps(steps); len(steps) > 0 {
			w.Note = "from what was found then: the host is not here to be looked at"
		}
		return w
	}
	_, report, err := v.resolution(ctx, op, Resolution{Operation: op.ID, How: how, Dry: true})
	w.Note = report.Note
	if err != nil {
		w.Error = err.Error() // nothing is written then
		return w
	}
	w.Steps = report.Steps
	return w
}

var errNotFound = errors.New("what was found was not kept, and the host is not here to be looked at")

// stepsFrom is the way from what was found when an operation was put in
// quarantine.
func stepsFrom(specs drivers.Specs, op journal.Operation, how string) ([]drivers.Step, error) {
	var goal plan.Goal
	switch how {
	case Accept:
		return nil, nil
	case Replay:
		goal = op.After()
	case Revert:
		goal = op.Before()
	}
	observed := plan.Observed{}
	for _, f := range op.Findings {
		observed[f.Key] = recovery.Recorded(f)
	}
	for k := range goal {
		if _, known := observed[k]; !known {
			return nil, errNotFound
		}
	}
	return plan.Order(specs, observed, goal)
}

// foundThen is what the journal kept of a key when its operation was put in
// quarantine; "" when it did not.
func foundThen(op journal.Operation, k drivers.Key) string {
	i := slices.IndexFunc(op.Findings, func(f journal.Finding) bool { return f.Key == k })
	if i < 0 {
		return ""
	}
	return op.Findings[i].Observed
}
