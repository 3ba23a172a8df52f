package recovery

import (
	"context"

	"eniagent/drivers"
	"eniagent/journal"
)

// Look observes and classifies every key of an operation, whatever its boot.
func Look(ctx context.Context, specs drivers.Specs, h Host, op *journal.Operation) []Finding {
	j := Judgement{Operation: *op}
	j.find(ctx, Env{Specs: specs}, h, op.Changes, nil)
	return j.Findings
}

// Record is findings as the journal keeps them with a quarantined operation.
func Record(found []Finding) []journal.Finding {
	var kept []journal.Finding
	for _, f := range found {
		kept = append(kept, journal.Finding{Key: f.Change.Key, Observed: f.Observed.String(), Class: string(f.Class)})
	}
	return kept
}

// Recorded is what the journal kept of an observation: Seen of a state, or the
// word for why there was none.
func Recorded(f journal.Finding) drivers.Observation {
	for _, p := range []drivers.Presence{drivers.Concealed, drivers.Gone, drivers.Unobservable} {
		if f.Observed != p.String() {
			continue
		}
		o := drivers.Observation{Presence: p}
		switch p {
		case drivers.Concealed:
			o.State = drivers.Hidden
		case drivers.Unobservable:
			o.Err = drivers.ErrUnknown
		}
		return o
	}
	return drivers.Seen(drivers.State(f.Observed))
}
