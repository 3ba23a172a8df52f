package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"

	"github.com/go-kit/log/level"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/journal"
	"eniagent/recovery"
)

// The ways to resolve an operation.
const (
	Accept = "accept" // the host is taken as it is
	Replay = "replay" // the host is driven to the state after
	Revert = "revert" // the host is driven to the state before
)

// Resolution is what an operator decides about an operation that recovery does
// not decide on: one in quarantine, or one that stays open.
type Resolution struct {
	Operation uint64
	How       string
	Dry       bool
	Who       string
	Why       string
}

// ResolveReport is what agent resolve prints.
type ResolveReport struct {
	DryRun    bool                   `json:"dry_run"`
	Through   string                 `json:"through"` // "agent" or "journal"
	Operation uint64                 `json:"operation"`
	State     journal.OperationState `json:"state"` // of that operation, now
	How       string                 `json:"how"`
	Who       string                 `json:"who"`
	Why       string                 `json:"why"`
	Targets   []drivers.Target       `json:"targets"`
	Keys      []KeyReport            `json:"keys"`
	Steps     []StepReport           `json:"steps"`
	// Next is the operation that carries the decision out; 0 when none is needed.
	Next    uint64 `json:"next,omitempty"`
	Outcome string `json:"outcome,omitempty"`
	Error   string `json:"error,omitempty"`
	// Note says what comes after that, and is easily overlooked.
	Note string `json:"note,omitempty"`
}

// Resolve carries out what an operator decided, or says what that takes.
func (a *Agent) Resolve(ctx context.Context, q Resolution) (ResolveReport, error) {
	op, err := a.resolvable(q)
	if err != nil {
		return ResolveReport{}, err
	}
	draft, report, err := a.view.resolution(ctx, op, q)
	report.Through = "agent"
	if err != nil && !q.Dry {
		level.Warn(a.logger).Log("op", op.ID, "who", q.Who, "why", q.Why, "decision", q.How, "err", err, "msg", "decision not carried out")
	}
	if err != nil || q.Dry {
		return report, err
	}
	if err := a.mayWrite(); err != nil {
		return report, err
	}
	done := make(chan struct{})
	began := a.work(ctx, op.Targets(), func() {
		defer close(done)
		err = a.resolveNow(ctx, op, q, draft, &report)
	})
	if !began {
		return report, fmt.Errorf("operation %d: the agent is at work on it: see agent status", op.ID)
	}
	select {
	case <-done:
	case <-ctx.Done():
		return ResolveReport{}, context.Cause(ctx)
	}
	if now, ok := a.c.Journal.Get(op.ID); ok {
		report.State = now.State
	}
	a.Wake()
	a.shown(ctx, op.Targets()...)
	return report, err
}

// resolvable is the operation, if it is one to be decided on.
func (a *Agent) resolvable(q Resolution) (journal.Operation, error) {
	op, err := a.view.Operation(q.Operation)
	switch {
	case err != nil:
		return op, fmt.Errorf("%w: agent journal list has those there are", err)
	case op.State.Closed():
		return op, fmt.Errorf("operation %d is %s, nothing is left to decide about it", op.ID, op.State)
	}
	return op, a.view.resolvable(op, q.How)
}

// resolvable says what keeps everybody from deciding about an operation now: a
// pause, and a write that still runs.
func (v View) resolvable(op journal.Operation, how string) error {
	if c, ok := v.paused(op.Targets()...); ok && how != Accept {
		return fmt.Errorf("operation %d: %s", op.ID, pausedText(c))
	}
	if v.Host == nil {
		return nil
	}
	for _, t := range op.Targets() {
		if held, err := v.Host.Fenced(t); held && err == nil {
			return fmt.Errorf("operation %d: %w, which would change it behind this decision: end the program that has the device open", op.ID, drivers.ErrFenced)
		}
	}
	return nil
}

// resolution is what a decision takes: a draft from what is observed to the
// state after, or before.
func (v View) resolution(ctx context.Context, op journal.Operation, q Resolution) (plan.Draft, ResolveReport, error) {
	report := ResolveReport{
		DryRun: q.Dry, Operation: op.ID, State: op.State, How: q.How, Who: q.Who, Why: q.Why,
		Targets: op.Targets(), Keys: []KeyReport{}, Steps: []StepReport{},
	}
	observed := plan.Observed{}
	for _, c := range op.Changes {
		o := v.observer().Observe(ctx, c.Key)
		observed[c.Key] = o
		report.Keys = append(report.Keys, KeyReport{
			Key: c.Key, Before: c.Before, After: c.After, Observed: o.String(),
			Class: recovery.Classify(v.Drivers.Specs, &op, c, o), Found: foundThen(op, c.Key),
		})
	}
	wanted := v.env().Wanted(&op)
	var goal plan.Goal
	switch q.How {
	case Accept:
		if wanted == recovery.StillWanted {
			report.Note = "the state after is still desired, and is sought from here: to prevent that, change what is asked, or agent pause or release first"
		}
		return plan.Draft{}, report, nil
	case Replay:
		goal = op.After()
	case Revert:
		goal = op.Before()
		if wanted == recovery.StillWanted {
			report.Note = "the state after is still desired, and is sought again then: to prevent that, change what is asked, or agent release"
		}
	}
	draft, err := v.draftTo(ctx, op, goal, observed)
	if err != nil {
		return draft, report, err
	}
	steps, err := plan.Order(v.Drivers.Specs, observed, draft.After)
	report.Steps = reportSteps(steps)
	if err == nil {
		err = v.precheck(ctx, observed, draft, false)
	}
	return draft, report, err
}

// draftTo drafts an operation from what is observed to a goal of another one.
// It adds to observed what the draft covers besides.
func (v View) draftTo(ctx context.Context, op journal.Operation, goal plan.Goal, observed plan.Observed) (plan.Draft, error) {
	d := plan.Draft{Before: plan.Goal{}, After: plan.Goal{}, Along: map[drivers.Key]bool{}, Lost: plan.Goal{}}
	for _, t := range op.Targets() {
		r := request{target: t, goal: maps.Clone(goal)}
		maps.DeleteFunc(r.goal, func(k drivers.Key, _ drivers.State) bool { return k.Target != t })
		var err error
		if r.identity, err = host.Identify(ctx, v.Host, t); err != nil {
			return d, fmt.Errorf("%w: only --accept is left", err)
		}
		if field := op.Identity[t].Difference(r.identity); field != "" {
			return d, fmt.Errorf("%s is another device than operation %d was about (%s differs): only --accept is left", t, op.ID, field)
		}
		part := differing(r.goal, observed)
		if _, pci := t.PCIAddress(); pci {
			var seen plan.Observed
			if part, seen, err = v.examine(ctx, &r); err != nil {
				return d, err
			}
			maps.Copy(observed, seen)
		}
		maps.Copy(d.Before, part.Before)
		maps.Copy(d.After, part.After)
		maps.Copy(d.Along, part.Along)
		maps.Copy(d.Lost, part.Lost)
	}
	for _, c := range op.Changes {
		if _, in := d.After[c.Key]; in && c.Along {
			d.Along[c.Key] = true
		}
	}
	return d, nil
}

// differing is the draft of the keys that are not at a goal, each for itself.
func differing(goal plan.Goal, observed plan.Observed) plan.Draft {
	d := plan.Draft{Before: plan.Goal{}, After: plan.Goal{}}
	for k, s := range goal {
		if !observed[k].Is(s) {
			d.Before[k], d.After[k] = observed[k].State, s
		}
	}
	return d
}

// resolveNow closes the operation as resolved, in one commit with the intent of
// the one that carries the decision out. Where that is refused, the operation
// stays in quarantine.
func (a *Agent) resolveNow(ctx context.Context, op journal.Operation, q Resolution, draft plan.Draft, report *ResolveReport) error {
	if op.State.Open() {
		found := recovery.Look(ctx, a.view.Drivers.Specs, a.view.observer(), &op)
		if err := a.c.Journal.QuarantineFound(ctx, op.ID, fmt.Sprintf("taken from recovery by %s: %s", q.Who, q.Why), recovery.Record(found)); err != nil {
			return err
		}
	}
	targets := op.Targets()
	concerned := func(t drivers.Target) bool { return slices.Contains(targets, t) }
	a.drifts.askedAnew(concerned, targets...)
	if _, err := a.c.Journal.ClearFailures(ctx, func(f journal.Failure) bool {
		return slices.ContainsFunc(f.Keys, func(k drivers.Key) bool { return concerned(k.Target) })
	}); err != nil {
		return err
	}
	level.Warn(a.logger).Log("op", op.ID, "who", q.Who, "why", q.Why, "decision", q.How, "msg", "operation resolved by an operator")
	if draft.Empty() {
		report.Outcome = string(engine.Done)
		return a.c.Journal.Resolve(ctx, op.ID, q.How, q.Who, q.Why)
	}
	result := a.engine.Run(ctx, draft,
		journal.Reason{Source: OperatorSource, Object: q.Why, Entry: op.Reason.Entry},
		journal.Closing{ID: op.ID, State: journal.Resolved, Outcome: fmt.Sprintf("%s, by %s: %s", q.How, q.Who, q.Why)})
	report.Next, report.Outcome = result.Operation, string(result.Outcome)
	if result.Err != nil {
		report.Error = result.Err.Error()
	}
	a.after(result, false)
	return nil
}

// Query is the decision as the parameters of a request on the control socket.
func (q Resolution) Query() url.Values {
	return url.Values{"how": {q.How}, "dry": {strconv.FormatBool(q.Dry)}, "who": {q.Who}, "why": {q.Why}}
}

func resolutionOf(id string, q url.Values) (Resolution, error) {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return Resolution{}, fmt.Errorf("operation number: %w", err)
	}
	r := Resolution{Operation: n, How: q.Get("how"), Dry: q.Get("dry") == "true", Who: q.Get("who"), Why: q.Get("why")}
	if r.How != Accept && r.How != Replay && r.How != Revert {
		return r, errors.New("how: want accept, replay or revert")
	}
	return r, nil
}
