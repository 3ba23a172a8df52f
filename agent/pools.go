package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/dpdk"
	"eniagent/journal"
	"eniagent/recovery"
)

// A pool is a request of its own, made of the functions that ask for it: an
// entry of the device plugin's file with those of them that are as asked now.
// So a function is put into its pool by an operation that follows its own, and
// taken out by one that comes first.
//
// That holds by three things, whatever way leads to an operation. What the entry
// shall be is never remembered, but follows from what is observed (publishable).
// While an operation on a pool is carried out none is on what it names, before
// or after (drivers.Spec.Names), and the other way round. And poolRule, which
// each of them is asked by inside of that, refuses a function that an entry of
// ours names, and an entry with a function that is not as asked.
//
// An entry is ours while the journal has a baseline of it: from the intent that
// puts it there until it was seen to be gone.

// poolKey is the key of a target that is an entry of the file.
func poolKey(t drivers.Target) drivers.Key {
	return drivers.Key{Kind: deviceplugin.Kind, Target: t}
}

// withPools adds the pools that are asked for, and those that are ours still.
// They are in a scope when one of their functions is.
func (v View) withPools(requests []request, s scope) []request {
	var pools []request
	of := func(t drivers.Target, name string) *request {
		entry := "pool " + name
		at := slices.IndexFunc(pools, func(p request) bool { return p.target == t && p.entry == entry })
		if at >= 0 {
			return &pools[at]
		}
		p := request{entry: entry, pool: name, target: t}
		p.asked.State = source.Configured
		pools = append(pools, p)
		return &pools[len(pools)-1]
	}
	for _, r := range requests {
		if r.asked.Pool == "" {
			continue
		}
		t, err := drivers.FileEntry(v.PluginFile, r.asked.Pool)
		p := of(t, r.asked.Pool)
		if err != nil {
			p.cannot(Refused, fmt.Errorf("%w: say where the device plugin's file is, with --device-plugin-config", err))
		}
		p.members = append(p.members, r)
		if s.of(r) {
			s.add(t)
		}
	}
	for _, t := range v.ownPools() {
		file, name, _ := t.FileEntry()
		if p := of(t, name); file != v.PluginFile {
			p.entry += " in " + file
			p.cannot(Refused, fmt.Errorf("%w: the agent put it into %s, and now works on %s: to withdraw it, start it once with --device-plugin-config %s",
				drivers.ErrRefused, file, v.PluginFile, file))
		}
	}
	return append(requests, pools...)
}

// ownPools are the entries that the agent made, or was told to take on.
func (v View) ownPools() (own []drivers.Target) {
	for _, b := range v.Records.Baselines() {
		if b.Key.Kind == deviceplugin.Kind {
			own = append(own, b.Key.Target)
		}
	}
	for _, c := range v.Records.Controls() {
		if _, _, entry := c.Target.FileEntry(); entry && c.Action == orderAdopted {
			own = append(own, c.Target)
		}
	}
	slices.Sort(own)
	return slices.Compact(own)
}

// verified says why a function may not be in its pool now; nil when it may.
func (v View) verified(ctx context.Context, r request) error {
	op, open := v.open(r.target)
	switch {
	case r.unread:
		return fmt.Errorf("%w: %w", errUnseen, r.err)
	case r.err != nil:
		return r.err
	case r.released():
		return errors.New("it is given back")
	case open:
		return fmt.Errorf("operation %d is %s on it", op.ID, op.State)
	}
	draft, observed, err := v.examine(ctx, &r)
	driver := observed[drivers.Key{Kind: dpdk.KindDriver, Target: r.target}]
	bound, parseErr := dpdk.Parse(driver.State)
	for _, o := range observed {
		if o.Presence == drivers.Unobservable && !errors.Is(o.Err, drivers.ErrFenced) {
			return fmt.Errorf("%w: %w", errUnseen, orUnknown(o.Err))
		}
	}
	switch {
	case err != nil:
		return err
	case driver.Presence != drivers.Present:
		return fmt.Errorf("its driver is %s: %w", driver, orUnknown(driver.Err))
	case parseErr != nil || bound.Driver == "":
		return errors.New("it has no driver")
	case !draft.Empty() || len(v.firstMissing(ctx, r)) > 0:
		return errors.New("it is not as asked yet")
	case r.later != "":
		return errors.New(r.later)
	}
	return nil
}

// errUnseen is that a function could not be looked at, which says nothing of it.
var errUnseen = errors.New("it could not be looked at")

func orUnknown(err error) error {
	if err == nil {
		return drivers.ErrUnknown
	}
	return err
}

// publishable is what the entry of a pool shall be now: its functions that are
// as asked. later says which are not, and why; "" when all are.
func (v View) publishable(ctx context.Context, r request, may func(context.Context, request) error) (to drivers.State, later string, err error) {
	pool, missing := deviceplugin.Pool{}, []string{}
	for i, m := range r.members {
		if i == 0 {
			pool.Driver = m.asked.Driver
		} else if pool.Driver != m.asked.Driver {
			pool.Driver = "" // not the same of all, or not said
		}
		if m.released() {
			continue // nobody waits for it
		}
		if err := may(ctx, m); err != nil {
			missing = append(missing, fmt.Sprintf("%s (%v)", m.entry, err))
			continue
		}
		pool.Addresses = append(pool.Addresses, string(m.target))
	}
	if n := len(missing); n > 0 {
		more := ""
		if n > maxNamed {
			more = fmt.Sprintf(" and %d more", n-maxNamed)
		}
		later = "not in it yet: " + strings.Join(missing[:min(n, maxNamed)], ", ") + more
	}
	if len(pool.Addresses) == 0 {
		return deviceplugin.Absent, later, nil
	}
	to, err = pool.State()
	return to, later, err
}

// maxNamed is how many functions are named that a pool lacks.
const maxNamed = 3

// examinePool compares the entry of a pool with what it shall be now.
func (v View) examinePool(ctx context.Context, r *request) (plan.Draft, plan.Observed, error) {
	key := poolKey(r.target)
	o := v.observer().Observe(ctx, key)
	observed := plan.Observed{key: o}
	switch {
	case o.Presence != drivers.Present:
		return plan.Draft{}, observed, fmt.Errorf("%w%s", orUnknown(o.Err), v.lastKnown(key))
	case o.State != deviceplugin.Absent && !slices.Contains(v.ownPools(), r.target):
		file, _, _ := r.target.FileEntry()
		return plan.Draft{}, observed, fmt.Errorf("%w: %s has such an entry, and it is not the agent's: take it out of the file, name the pool otherwise, or take it on with agent adopt --pool %s",
			drivers.ErrRefused, file, r.pool)
	}
	in := deviceplugin.Functions(o.State)
	var unseen error
	to, later, err := v.publishable(ctx, *r, func(ctx context.Context, m request) error {
		err := v.verified(ctx, m)
		// A read that failed takes nothing out: the functions may be in use.
		if !r.strict && errors.Is(err, errUnseen) && (slices.Contains(in, m.target) || m.target == "" && len(in) > 0) {
			unseen = fmt.Errorf("%s: %w", m.entry, err)
		}
		return err
	})
	switch {
	case unseen != nil:
		return plan.Draft{}, observed, fmt.Errorf("left as it is: %w", unseen)
	case err != nil:
		return plan.Draft{}, observed, fmt.Errorf("%w: %w", drivers.ErrRefused, err)
	}
	r.goal, r.later = plan.Goal{key: to}, later
	return differing(r.goal, observed), observed, nil
}

// lastKnown is what the agent last brought an entry to, for whoever repairs a
// file that cannot be read.
func (v View) lastKnown(k drivers.Key) string {
	last, ok := v.lastState(k)
	if !ok {
		return ""
	}
	return fmt.Sprintf("; the agent last had there: %s", last)
}

func (v View) lastState(k drivers.Key) (drivers.State, bool) {
	for _, op := range v.Records.History(0) {
		states, covered := op.States()[k]
		switch {
		case !covered:
		case op.State == journal.Done:
			return states[1], true
		case op.State == journal.Reverted:
			return states[0], true
		}
	}
	return "", false
}

// naming are the pools of ours whose entry names one of some functions. Of a
// file that cannot be read, what it was last brought to counts; where that is
// not known, it may name any.
func (v View) naming(ctx context.Context, functions []drivers.Target) (pools []drivers.Target) {
	for _, t := range v.ownPools() {
		o := v.observer().Observe(ctx, poolKey(t))
		known := true
		if o.Presence != drivers.Present {
			o.State, known = v.lastState(poolKey(t))
		}
		if !known || slices.ContainsFunc(deviceplugin.Functions(o.State), func(f drivers.Target) bool { return slices.Contains(functions, f) }) {
			pools = append(pools, t)
		}
	}
	return pools
}

// recorded is the last good desired state of the journal, resolved now.
func (v View) recorded(ctx context.Context) (requests []request) {
	for _, d := range v.Records.Sources() {
		if doc, err := documentIn(d); err == nil {
			requests = append(requests, v.resolve(ctx, doc.Entries, v.selections(d))...)
		}
	}
	return requests
}

// poolWanted says whether an operation on a pool leads to what its entry shall
// be now; false when it is on none.
func (v View) poolWanted(ctx context.Context, op *journal.Operation) (w recovery.Wanted, ok bool) {
	w = recovery.StillWanted
	var requests []request
	for _, c := range op.Changes {
		if c.Key.Kind != deviceplugin.Kind {
			continue
		}
		if v.Host == nil || len(v.Records.Sources()) == 0 {
			return recovery.Unsure, true
		}
		if !ok {
			requests, ok = v.recorded(ctx), true
		}
		to := deviceplugin.Absent
		if at := slices.IndexFunc(requests, func(r request) bool { return r.target == c.Key.Target }); at >= 0 && requests[at].err == nil {
			var err error
			if to, _, err = v.publishable(ctx, requests[at], v.verified); err != nil {
				w = recovery.Withdrawn
			}
		}
		if to != c.After {
			w = recovery.Withdrawn
		}
	}
	return w, ok
}

// poolRule asks the guard, and then about the pools.
type poolRule struct {
	engine.Guard
	view func() View
}

// MayDrive refuses what would be done to a function that a pool of ours names,
// and a pool with a function that is not as asked.
func (p poolRule) MayDrive(ctx context.Context, observed plan.Observed, goal plan.Goal) error {
	if err := p.Guard.MayDrive(ctx, observed, goal); err != nil {
		return err
	}
	v := p.view()
	functions, published := []drivers.Target{}, []drivers.Target{}
	for k, to := range goal {
		_, function := k.Target.PCIAddress()
		switch {
		case observed[k].Is(to):
		case function:
			functions = append(functions, k.Target)
		case k.Kind == deviceplugin.Kind:
			published = append(published, deviceplugin.Functions(to)...)
		}
	}
	if len(functions) > 0 {
		if pools := v.naming(ctx, functions); len(pools) > 0 {
			return fmt.Errorf("%w: %w: it is taken out of %s first", drivers.ErrRefused, drivers.ErrHeld, poolNames(pools))
		}
	}
	if len(published) == 0 {
		return nil
	}
	requests := v.recorded(ctx)
	for _, t := range published {
		at := slices.IndexFunc(requests, func(r request) bool { return r.target == t })
		if at < 0 {
			return fmt.Errorf("%w: %w: nothing is asked of %s, so that nobody knows whether it may be in a pool", drivers.ErrRefused, drivers.ErrNotReady, t)
		}
		if err := v.verified(ctx, requests[at]); err != nil {
			return fmt.Errorf("%w: %w: %s may not be in a pool now: %w", drivers.ErrRefused, drivers.ErrNotReady, t, err)
		}
	}
	return nil
}

func poolNames(pools []drivers.Target) string {
	var names []string
	for _, t := range pools {
		_, name, _ := t.FileEntry()
		names = append(names, "pool "+name)
	}
	return strings.Join(names, ", ")
}

// settlePool brings the entry of a pool to what it shall be now.
func (a *Agent) settlePool(ctx context.Context, r request) {
	if _, ok := a.view.paused(r.target); ok {
		a.wakeFor(r.target)
		return
	}
	draft, observed, err := a.view.examine(ctx, &r)
	if o := observed[poolKey(r.target)]; o.Is(deviceplugin.Absent) || err == nil && len(left(draft, r.target)) == 0 {
		a.isSafe(r.target) // by whoever's hand
	}
	if err == nil {
		err = a.view.precheck(ctx, observed, draft, false)
	}
	seen := sight{observed: describe(r.target, observed)}
	switch {
	case err != nil:
		a.report(r, conditionOf(err), err.Error(), seen, 0)
		if conditionOf(err) == Pending {
			a.wakeAt(time.Now().Add(retryKept), r.target)
		}
		return
	case draft.Empty():
		a.poolRight(ctx, r, observed, seen)
		return
	case a.readOnly():
		a.report(r, Pending, "nothing is written: see agent status and agent plan", seen, 0)
		return
	}
	if f, ok := a.engine.Failure(draft); ok && a.tooSoon(r, f, seen) {
		return
	}
	reason, ok := a.mayChange(ctx, r, observed)
	if !ok || a.heldBack(r, draft, seen) {
		return
	}
	a.report(r, Changing, "", seen, 0)
	result := a.run(ctx, draft, reason)
	a.drifts.ended(r, reason, result)
	a.after(result, false, append(left(draft, r.target), r.target)...)
	switch {
	case result.Outcome == engine.Done:
		a.poolDone(context.WithoutCancel(ctx), r)
	case result.Outcome == engine.Refused && errors.Is(result.Err, drivers.ErrNotReady):
		a.report(r, Pending, result.Err.Error(), seen, 0) // one has changed meanwhile
		a.wakeAt(time.Now().Add(retryBlocked), r.target)
	default:
		a.reportResult(ctx, r, result)
	}
}

// poolDone reports a pool whose entry was just written. Another of its functions
// may be as asked by now, and is for the next look.
func (a *Agent) poolDone(ctx context.Context, r request) {
	draft, observed, err := a.view.examine(ctx, &r)
	seen := sight{observed: describe(r.target, observed)}
	switch {
	case err != nil:
		a.report(r, conditionOf(err), err.Error(), seen, 0)
	case !draft.Empty():
		a.report(r, Pending, "its functions have changed meanwhile", seen, 0)
	default:
		a.poolRight(ctx, r, observed, seen)
	}
}

// left are the functions that a draft takes out of a pool: something waits for
// it, and goes on.
func left(d plan.Draft, pool drivers.Target) []drivers.Target {
	key := poolKey(pool)
	stay := deviceplugin.Functions(d.After[key])
	return slices.DeleteFunc(deviceplugin.Functions(d.Before[key]), func(t drivers.Target) bool { return slices.Contains(stay, t) })
}

// poolRight reports a pool whose entry is what it shall be now. One that is not
// there is not ours any more.
func (a *Agent) poolRight(ctx context.Context, r request, observed plan.Observed, seen sight) {
	a.drifts.right(r, observed)
	a.isSafe(r.target)
	switch {
	case r.goal[poolKey(r.target)] == deviceplugin.Absent && r.later == "":
		a.report(r, Released, "", seen, 0)
	case r.later != "":
		a.report(r, Pending, r.later, seen, 0)
	default:
		a.report(r, Right, "", seen, 0)
	}
	if r.goal[poolKey(r.target)] == deviceplugin.Absent {
		a.disown(ctx, r)
	}
}

// disown forgets an entry of ours that was seen to be gone.
func (a *Agent) disown(ctx context.Context, r request) {
	if a.readOnly() || !slices.Contains(a.view.ownPools(), r.target) {
		return
	}
	_, err := a.c.Journal.DropBaselines(ctx, func(b journal.Baseline) bool { return b.Key == poolKey(r.target) })
	if err == nil {
		_, err = a.c.Journal.ClearControl(ctx, orderAdopted, r.target)
	}
	level.Info(a.logger).Log("target", r.target, "err", err, "msg", "pool is withdrawn")
	if len(r.members) == 0 {
		a.Wake() // there is nothing more of it
	}
}

// takeOut takes functions out of the pools that name them, before anything is
// done to them; false when that is still to come.
func (a *Agent) takeOut(ctx context.Context, r request, functions []drivers.Target, seen sight) bool {
	pools := a.view.naming(ctx, functions)
	if len(pools) == 0 {
		return true
	}
	for _, p := range a.current(ctx) {
		if p.pool != "" && p.err == nil && slices.Contains(pools, p.target) {
			a.beside(p.target, func() { a.settlePool(ctx, p) })
		}
	}
	if pools = a.view.naming(ctx, functions); len(pools) == 0 {
		return true
	}
	a.report(r, Pending, "it is taken out of "+poolNames(pools)+" first", seen, 0)
	a.wakeAt(time.Now().Add(retryHeld), append(pools, r.target)...)
	return false
}

// beside runs fn as the worker on another target than the caller's, if none is
// on it.
func (a *Agent) beside(t drivers.Target, fn func()) {
	a.mu.Lock()
	there := a.stopped || a.busy[t]
	if !there {
		a.busy[t] = true
	}
	a.mu.Unlock()
	if there {
		return
	}
	defer a.free([]drivers.Target{t})
	if op, held := a.holder(t); held && op.State.Open() {
		return // recovery is at it
	}
	fn()
}

// unverified are the pools of ours that name a function that is not as asked, or
// cannot be looked at, and what their entries would be brought to.
func (v View) unverified(ctx context.Context, requests []request) (entries []PlanEntry) {
	for _, r := range requests {
		if r.pool == "" || r.err != nil {
			continue
		}
		op, open := v.open(r.target)
		if open && op.State == journal.Quarantined {
			continue // hands off
		}
		r.strict = true
		draft, observed, err := v.examine(ctx, &r)
		if _, paused := v.paused(r.target); paused || err != nil || len(left(draft, r.target)) == 0 {
			continue
		}
		key := poolKey(r.target)
		entries = append(entries, PlanEntry{
			Entry: r.entry, Target: r.target, Condition: Pending, Reason: cmp.Or(r.later, "nothing asks for it"),
			Steps: []StepReport{{Kind: key.Kind, Target: key.Target, From: observed[key].State, To: draft.After[key]}},
		})
	}
	return entries
}

// outlived withdraws what a pool of ours names and is not as asked: a file
// survives a reboot, and its devices do not. Until that is done, nothing else
// is, and the agent is not ready. In a new boot the plugin may have read the
// file before its devices were as asked, so that its restart is owed, unless the
// withdrawal owes it already.
func (a *Agent) outlived(ctx context.Context) {
	if a.readOnly() || len(a.view.ownPools()) == 0 {
		a.mu.Lock()
		a.dutiful = true
		a.mu.Unlock()
		return
	}
	before, _ := a.c.Journal.Debt(deviceplugin.Restart)
	published := false
	for _, r := range a.current(ctx) {
		if r.pool == "" || r.err != nil {
			continue
		}
		if _, paused := a.view.paused(r.target); paused {
			continue
		}
		if op, held := a.holder(r.target); held && op.State.Open() {
			a.resume(ctx, op.ID)
		}
		was := a.view.observer().Observe(ctx, poolKey(r.target))
		published = published || was.Presence != drivers.Present || was.State != deviceplugin.Absent
		a.withdraw(ctx, r)
	}
	after, _ := a.c.Journal.Debt(deviceplugin.Restart)
	var err error
	if a.c.Journal.RecoveredBoot() != a.c.BootID && published && after.Owed == before.Owed {
		err = a.c.Journal.Owe(ctx, deviceplugin.Restart, "the machine was booted: the plugin may have started before its functions were as asked", a.c.BootID)
	}
	if err != nil {
		level.Error(a.logger).Log("err", err, "msg", "not kept that the device plugin must be restarted")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dutiful = err == nil
}

// withdraw takes out of one pool what is not as asked, and notes where that
// could not be done yet.
func (a *Agent) withdraw(ctx context.Context, r request) {
	for _, e := range a.view.unverified(ctx, []request{r}) {
		s := e.Steps[0]
		a.mu.Lock()
		a.unsafe[r.target] = true
		a.mu.Unlock()
		// Where recovery has left an operation open on it, this one is not begun.
		result := a.engine.Run(ctx, draftOf(s.key(), s.From, s.To), a.reason(r.entry))
		level.Warn(a.logger).Log("entry", r.entry, "op", result.Operation, "outcome", result.Outcome, "err", result.Err, "why", e.Reason,
			"msg", "pool names what is not as asked, withdrawn")
		a.after(result, false, r.target)
		if result.Outcome == engine.Done || result.Outcome == engine.Quarantined {
			a.isSafe(r.target)
		}
	}
}

// isSafe notes that a pool names nothing that is not as asked.
func (a *Agent) isSafe(pool drivers.Target) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.unsafe, pool)
}

// poolReport is how a pool stands.
func poolReport(r request, i InterfaceReport) PoolReport {
	file, name, _ := r.target.FileEntry()
	return PoolReport{
		Pool: cmp.Or(name, r.pool), File: file, Condition: i.Condition, Reason: i.Reason, Since: i.Since, Operation: i.Operation,
		Functions: append([]drivers.Target{}, deviceplugin.Functions(drivers.State(i.Observed[string(deviceplugin.Kind)]))...),
	}
}

// planPool is what would be done for a pool: what is not as asked is withdrawn,
// then all that can be had is published.
func (v View) planPool(ctx context.Context, r request, e PlanEntry) PlanEntry {
	draft, observed, err := v.examine(ctx, &r)
	if err != nil {
		e.Condition, e.Reason = conditionOf(err), err.Error()
		return e
	}
	key := poolKey(r.target)
	from, to := observed[key].State, r.goal[key]
	if len(left(draft, r.target)) > 0 {
		e.Steps = append(e.Steps, StepReport{Kind: key.Kind, Target: key.Target, From: from, To: to})
		from = to
	}
	to, later, err := v.publishable(ctx, r, func(ctx context.Context, m request) error {
		if errors.Is(m.err, errMadeFirst) {
			return nil
		}
		if p := v.planEntry(ctx, m); p.Condition != Right && len(p.Steps) == 0 {
			return errors.New(cmp.Or(p.Reason, string(p.Condition)))
		}
		return nil
	})
	if err == nil {
		err = v.precheck(ctx, observed, draftOf(key, observed[key].State, to), false)
	}
	if err != nil {
		e.Condition, e.Reason, e.Steps = conditionOf(err), err.Error(), []StepReport{}
		return e
	}
	if from != to {
		e.Steps = append(e.Steps, StepReport{Kind: key.Kind, Target: key.Target, From: from, To: to})
	}
	switch {
	case len(e.Steps) > 0, later != "":
		e.Condition, e.Reason = Pending, later
	case to == deviceplugin.Absent:
		e.Condition = Released
	}
	return e
}

// RestartReport is what the device plugin is owed.
type RestartReport struct {
	Owed uint64 `json:"owed"` // changes since its last restart that is known of
	// Number is what to say when it was restarted: what came to be owed since then
	// has a higher one.
	Number uint64    `json:"number"`
	Why    string    `json:"why,omitempty"`
	Since  time.Time `json:"since,omitzero"`
}

// RestartOwed is what the journal says is owed to the device plugin; false when
// nothing is.
func (v View) RestartOwed() (RestartReport, bool) {
	d, _ := v.Records.Debt(deviceplugin.Restart)
	return RestartReport{Owed: d.Open(), Number: d.Owed, Why: d.Why, Since: d.Since}, d.Open() > 0
}

// RestartOwed is the view's.
func (a *Agent) RestartOwed() (RestartReport, bool) { return a.view.RestartOwed() }

// PluginRestarted notes that the device plugin was restarted after the change
// of that number; what came later is owed still, and returned.
func (a *Agent) PluginRestarted(ctx context.Context, number uint64, who string) (RestartReport, error) {
	if a.readOnly() {
		return RestartReport{}, errReadOnly
	}
	if _, err := a.c.Journal.Pay(ctx, deviceplugin.Restart, number, who); err != nil {
		return RestartReport{}, err
	}
	r, _ := a.RestartOwed()
	level.Info(a.logger).Log("who", who, "count", r.Owed, "msg", "device plugin was restarted")
	return r, nil
}

// dutyDone says that what an earlier boot left in files was dealt with.
func (a *Agent) dutyDone() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dutiful && len(a.unsafe) == 0
}

// poolsOf are the pools that an entry names.
func (v View) poolsOf(e entry) (pools []drivers.Target) {
	names := []string{e.Pool}
	if e.VFs != nil {
		for i := range e.VFs.Count {
			names = append(names, e.VFs.Of(i).Pool)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if t, err := drivers.FileEntry(v.PluginFile, name); err == nil {
			pools = append(pools, t)
		}
	}
	return pools
}
