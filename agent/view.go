package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"eniagent/agent/engine"
	"eniagent/agent/guard"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/journal"
	"eniagent/recovery"
)

// View is what can be known without writing: the records of a journal and a
// host to observe. The live agent and the offline commands look through the
// same one, so that a dry run is the real run without its last step.
type View struct {
	Records     *journal.Records
	Drivers     drivers.Set
	Host        host.Host // host.Attentive, that of the drivers too; nil on another machine: all is unknown
	BootID      string
	MachineID   string
	NoIOMMU     bool
	Guard       engine.Guard  // nil asks nobody
	Rules       guard.Options // that Guard was made with
	MaxAttempts int
	PluginFile  string // the device plugin's configuration
	// Allocated is what guard.Options wants: nil where there is no kubelet.
	Allocated func(ctx context.Context, since time.Time) (map[drivers.Target]string, error)
	started   time.Time // when the agent was; zero while none runs
	// before are the goals that were in force last; nil is not looked up yet.
	before map[drivers.Key]journal.Goal
	// namedBefore are the parts that were asked for by what was in force last, by
	// key; nil is not looked up yet.
	namedBefore func() map[drivers.Key][]string
}

// observer is the reading half of the host, or of no host at all.
func (v View) observer() recovery.Host {
	if v.Host == nil {
		return nowhere{}
	}
	return v.engineObserver()
}

func (v View) engineObserver() engine.Observer {
	return engine.Observer{Drivers: v.Drivers, Host: v.Host, Made: engine.Made(v.Drivers.Specs, v.Records, v.BootID)}
}

// nowhere is the host that a copy of a journal was taken from: elsewhere.
type nowhere struct{}

func (nowhere) Observe(context.Context, drivers.Key) drivers.Observation {
	return drivers.Observation{Presence: drivers.Unobservable, Err: drivers.ErrUnknown}
}

func (nowhere) Identify(context.Context, drivers.Target) (drivers.Identity, error) {
	return drivers.Identity{}, drivers.ErrUnknown
}

func (nowhere) Fenced(drivers.Target) (bool, error) { return false, nil }

// env is what recovery judges by.
func (v View) env() recovery.Env {
	wanted := recovery.WantedBy(v.goals())
	return recovery.Env{
		Specs: v.Drivers.Specs, BootID: v.BootID, MachineID: v.MachineID, MaxAttempts: v.MaxAttempts,
		Wanted: func(op *journal.Operation) recovery.Wanted {
			if op.Reason.Source == OperatorSource {
				return recovery.StillWanted // a person decided so, whatever is desired otherwise
			}
			if w, ok := v.poolWanted(context.Background(), op); ok {
				return w
			}
			if v.givesBack(op) {
				return recovery.StillWanted
			}
			return wanted(op)
		},
		Paused: func(op *journal.Operation) string {
			if c, ok := v.paused(op.Targets()...); ok {
				return pausedText(c)
			}
			return ""
		},
		MayDrive: engine.Asked(v.Guard),
	}
}

// goals are the last known desired states by key; nil when none are known.
func (v View) goals() map[drivers.Key]drivers.State {
	sources := v.Records.Sources()
	if len(sources) == 0 {
		return nil
	}
	goals := map[drivers.Key]drivers.State{}
	for _, d := range sources {
		for _, g := range d.Goals {
			goals[g.Key] = g.State
		}
	}
	for _, c := range v.Records.Controls() {
		if c.Action == orderReleased {
			v.releaseGoals(c, goals)
		}
	}
	return goals
}

// releaseGoals puts what an order to release asks in the place of what is
// desired: it may have been given after that was kept.
func (v View) releaseGoals(c journal.Control, goals map[drivers.Key]drivers.State) {
	for _, kind := range v.functionKinds() {
		key := drivers.Key{Kind: kind, Target: c.Target}
		delete(goals, key)
		if b, ok := v.baseline(key, drivers.Identity{}); ok && v.restorable(b) {
			goals[key] = b.State
		}
	}
}

// givesBack says that an operation was begun for orders to release that stand,
// and that what it leads to is what was before. What the agent had made has no
// such thing, so that nothing else says that it is wanted.
func (v View) givesBack(op *journal.Operation) bool {
	if op.Reason.Source != ReleaseSource {
		return false
	}
	ordered := false
	for _, c := range op.Changes {
		_, is := v.Records.Control(orderReleased, c.Key.Target)
		ordered = ordered || is
		b, ok := v.baseline(c.Key, drivers.Identity{})
		if ok && v.restorable(b) && b.State != c.After && !c.Along {
			return false
		}
	}
	return ordered
}

// Judge judges every open operation, in the order of their numbers.
func (v View) Judge(ctx context.Context) []recovery.Judgement {
	var js []recovery.Judgement
	for _, op := range v.Records.Operations() {
		js = append(js, recovery.Judge(ctx, v.env(), v.observer(), op))
	}
	return js
}

// Recover is the report of a dry run.
func (v View) Recover(ctx context.Context, through string) RecoverReport {
	r := RecoverReport{DryRun: true, Through: through, BootID: v.BootID, Entries: []RecoverEntry{}}
	for _, j := range v.Judge(ctx) {
		r.Entries = append(r.Entries, v.recoverEntry(j))
	}
	v.quarantine(ctx, &r)
	for _, u := range v.Records.Unreadable() {
		if u.Bucket != journal.BucketDone { // of those, nothing is to be recovered
			r.Unreadable = append(r.Unreadable, u.Err.Error())
		}
	}
	r.Left = v.left(r)
	if v.Host != nil && len(v.ownPools()) > 0 {
		r.Pools = v.unverified(ctx, v.recorded(ctx))
	}
	return r
}

// left is what recovery leaves over, or, where it is only planned, would.
func (v View) left(r RecoverReport) []Unfinished {
	told := map[uint64]RecoverEntry{}
	for _, e := range r.Entries {
		told[e.Operation] = e
	}
	var all []Unfinished
	for _, op := range v.Records.Operations() {
		e := told[op.ID]
		toQuarantine := e.Decision == recovery.Quarantine
		if r.DryRun && e.Decision != recovery.Keep && !toQuarantine {
			continue
		}
		all = append(all, Unfinished{Operation: op.ID, Why: cmp.Or(e.Error, e.Why), Person: toQuarantine})
	}
	for _, op := range v.Records.Quarantined() {
		all = append(all, Unfinished{Operation: op.ID, Why: "in quarantine, " + op.Outcome + ": see agent resolve --help", Person: true})
	}
	for _, u := range v.Records.Unreadable() {
		if u.Bucket == journal.BucketOpen || u.Bucket == journal.BucketQuarantine {
			all = append(all, Unfinished{Record: u.Key, Why: u.Err.Error(), Person: true})
		}
	}
	return all
}

// recoverEntry says of one judgement what would be done, step by step.
func (v View) recoverEntry(j recovery.Judgement) RecoverEntry {
	op := j.Operation
	e := RecoverEntry{
		Operation: op.ID, State: op.State, Targets: op.Targets(), Created: op.Created, Attempts: op.Attempts,
		Reason: op.Reason, Epoch: j.Epoch, Class: j.Class, Wanted: j.Wanted, Decision: j.Decision, Why: j.Why,
		Steps: []StepReport{}, LastError: op.LastError,
	}
	observed := plan.Observed{}
	for _, f := range j.Findings {
		observed[f.Change.Key] = f.Observed
		e.Keys = append(e.Keys, KeyReport{
			Key: f.Change.Key, Before: f.Change.Before, After: f.Change.After,
			Observed: f.Observed.String(), Class: f.Class,
		})
	}
	if j.Goal != nil {
		steps, err := plan.Order(v.Drivers.Specs, observed, j.Goal)
		if err != nil {
			e.Error = err.Error()
		}
		e.Steps = reportSteps(steps)
	}
	return e
}

// examine compares what is asked of one function with what is observed, and
// drafts the operation that would bring it there. Where an entry asks for a part
// of a state, the request gets the goal that follows from this observation.
func (v View) examine(ctx context.Context, r *request) (plan.Draft, plan.Observed, error) {
	if r.pool != "" {
		return v.examinePool(ctx, r)
	}
	observed := plan.Observed{}
	for k := range v.keysOf(*r) {
		observed[k] = v.observer().Observe(ctx, k)
	}
	if err := v.renew(r, observed); err != nil {
		return plan.Draft{}, observed, err
	}
	f := plan.Function{Target: r.target, Want: r.goal, Observed: observed}
	for _, k := range plan.Loses(v.Drivers.Specs, f) {
		if o := v.observer().Observe(ctx, k); !errors.Is(o.Err, drivers.ErrUnsupported) { // else there is nothing to lose
			observed[k] = o
		}
	}
	v.returns(r, &f)
	d, err := plan.Cover(v.Drivers.Specs, f)
	if err == nil {
		v.leaveImpossible(ctx, observed, &d)
		err = v.mayReplace(r, observed, d)
	}
	return d, observed, err
}

// leaveImpossible leaves out of a draft the settings that it would take along and
// that the device cannot have beside what is asked: with VFs it has fewer channels.
func (v View) leaveImpossible(ctx context.Context, observed plan.Observed, d *plan.Draft) {
	if v.Host == nil {
		return
	}
	asked := d.Asked()
	for key := range maps.Clone(d.Along) {
		if observed[key].Presence != drivers.Present || d.After[key] == drivers.Hidden {
			continue
		}
		goal := maps.Clone(asked)
		goal[key] = d.After[key]
		if v.refuses(ctx, observed, goal) && !v.refuses(ctx, observed, asked) {
			d.Leave(key)
		}
	}
}

func (v View) refuses(ctx context.Context, observed plan.Observed, goal plan.Goal) bool {
	return errors.Is(v.engineObserver().Precheck(ctx, observed, goal), drivers.ErrRefused)
}

// returns adds what is remembered of the keys that a request is about.
func (v View) returns(r *request, f *plan.Function) {
	f.Baseline = plan.Goal{}
	for k := range f.Observed {
		if b, ok := v.baseline(k, r.identityOf(k.Target)); ok && v.restorable(b) {
			f.Baseline[k] = b.State
		}
	}
}

// restorable says whether a baseline is something to go back to: it is known, and
// no word for that there was nothing to set.
func (v View) restorable(b journal.Baseline) bool {
	spec, _ := v.Drivers.Specs.Find(b.Key.Kind)
	return !b.Unknown && (!spec.WhenAsked || spec.Legal(b.Key.Target, b.State) == nil)
}

// functionKinds are the kinds that a PCI function has.
func (v View) functionKinds() []drivers.Kind {
	var kinds []drivers.Kind
	for _, s := range v.Drivers.Specs {
		if s.Netdev || s.OfVF || s.Makes != nil || s.Kind == dpdk.KindDriver {
			kinds = append(kinds, s.Kind)
		}
	}
	return kinds
}

// concerns says whether a key is to be observed for a request: a kind that costs
// something only where it is asked for.
func (v View) concerns(r request, k drivers.Key) bool {
	spec, _ := v.Drivers.Specs.Find(k.Kind)
	_, asked := r.goal[k]
	return asked || !spec.WhenAsked
}

// firstMissing are the goals that must be reached before the function's own.
func (v View) firstMissing(ctx context.Context, r request) []journal.Goal {
	return slices.DeleteFunc(slices.Clone(r.first), func(g journal.Goal) bool {
		return v.observer().Observe(ctx, g.Key).Is(g.State)
	})
}

// foreseen are the steps that a draft takes as far as anybody can tell. Whether
// what is only restored has to be written is seen when the device is there anew.
func (v View) foreseen(r request, d plan.Draft, steps []drivers.Step) []drivers.Step {
	return slices.DeleteFunc(steps, func(s drivers.Step) bool {
		spec, _ := v.Drivers.Specs.Find(s.Key.Kind)
		return s.From == drivers.Default && (d.Along[s.Key] || spec.WhenAsked && r.released())
	})
}

// precheck is whether a draft would be refused. What only waits for something
// that is to come first does not count.
func (v View) precheck(ctx context.Context, observed plan.Observed, d plan.Draft, first bool) error {
	if v.Host == nil {
		return nil
	}
	if v.Guard != nil {
		if err := v.Guard.MayDrive(ctx, observed, d.After); err != nil {
			return err
		}
	}
	err := v.engineObserver().Precheck(ctx, observed, d.Asked())
	if first && errors.Is(err, drivers.ErrNotReady) {
		return nil
	}
	return err
}

// claimed is the operation that is not closed and holds the target; 0 is none.
func (v View) claimed(t drivers.Target) uint64 {
	for _, op := range slices.Concat(v.Records.Operations(), v.Records.Quarantined()) {
		if slices.Contains(op.Targets(), t) {
			return op.ID
		}
	}
	return 0
}

// conditionOf is the condition that an error leaves an interface in.
func conditionOf(err error) Condition {
	switch {
	case drivers.Starved(err):
		return Pending
	case errors.Is(err, drivers.ErrFenced):
		return Fenced
	case errors.Is(err, drivers.ErrGone):
		return Waiting
	case errors.Is(err, drivers.ErrHeld):
		return Held
	case errors.Is(err, drivers.ErrRefused), errors.Is(err, drivers.ErrUnsupported),
		errors.Is(err, drivers.ErrIllegal), errors.Is(err, drivers.ErrHidden):
		return Refused
	}
	return Pending
}

// draftOf is the draft of one key.
func draftOf(k drivers.Key, before, after drivers.State) plan.Draft {
	return plan.Draft{Before: plan.Goal{k: before}, After: plan.Goal{k: after}}
}

// Operations are those that are not closed, then the last n closed ones.
func (v View) Operations(n int) []journal.Operation {
	ops := slices.Concat(v.Records.Operations(), v.Records.Quarantined())
	if n != 0 {
		ops = append(ops, v.Records.History(n)...)
	}
	return slices.Clip(ops)
}

// Operation is one operation, wherever it stands.
func (v View) Operation(id uint64) (journal.Operation, error) {
	op, ok := v.Records.Get(id)
	if !ok {
		return op, fmt.Errorf("operation %d: %w", id, journal.ErrUnknown)
	}
	return op, nil
}
