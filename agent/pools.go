package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
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
// errUnseen is that a read failed, which says nothing of it.
func (v View) verified(ctx context.Context, r request) error {
	ctx, n := host.Noting(ctx)
	err := v.asAsked(ctx, r)
	if unread := n.Failed(); err != nil && unread != nil && !errors.Is(err, errUnseen) {
		return fmt.Errorf("%w: %w", errUnseen, unread)
	}
	return err
}

func (v View) asAsked(ctx context.Context, r request) error {
	op, open := v.open(r.target)
	switch {
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

// mayBeIn says why a function may not be in a pool that has these now; nil when
// it may, and errStays when it stays in all the same. One that another entry stands
// for, too, is neither put in nor taken out.
func (v View) mayBeIn(ctx context.Context, in []drivers.Target, r request) error {
	there := slices.Contains(in, r.target)
	if r.alone != nil && there {
		r = *r.alone
	}
	err := v.verified(ctx, r)
	if err == nil || !there || v.freshBoot() {
		return err
	}
	if errors.Is(err, errUnseen) {
		return fmt.Errorf("%w: %w", errStays, err)
	}
	if pod := v.podOf(ctx, r.target); pod != "" {
		return fmt.Errorf("%w: %w: %s", errStays, errOfAPod, pod)
	}
	return err
}

// freshBoot says that nothing was seen in this boot yet: what was published may
// have outlived its devices, so that what cannot be seen may not stay.
func (v View) freshBoot() bool { return v.Records.Meta().RecoveredBoot != v.BootID }

var (
	// errStays is that a function which is in a pool stays there although it is not
	// seen to be as asked.
	errStays = errors.New("it stays in the pool")
	// errOfAPod is that it was allocated to a pod, whose it is until it has ended:
	// a pod may take the netdev away, and a network plugin set what it likes.
	errOfAPod = errors.New("it is the pod's that it is allocated to")
)

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
	pool, missing, unseen := deviceplugin.Pool{}, []string{}, []string{}
	for i, m := range r.members {
		if i == 0 {
			pool.Driver = m.asked.Driver
		} else if pool.Driver != m.asked.Driver {
			pool.Driver = "" // not the same of all, or not said
		}
		if m.released() {
			continue // nobody waits for it
		}
		err, why := may(ctx, m), ""
		if err != nil {
			why = fmt.Sprintf("%s (%v)", m.entry, err)
		}
		switch {
		case errors.Is(err, errUnseen) && errors.Is(err, errStays):
			unseen = append(unseen, why)
		case err != nil && !errors.Is(err, errStays):
			missing = append(missing, why)
			continue
		}
		pool.Addresses = append(pool.Addresses, string(m.target))
	}
	later = strings.Join(slices.Concat(some("not in it yet: ", missing), some("left as it was: ", unseen)), "; ")
	if len(pool.Addresses) == 0 {
		return deviceplugin.Absent, later, nil
	}
	to, err = pool.State()
	return to, later, err
}

// some names the first of some functions; none is nothing.
func some(what string, functions []string) []string {
	n := len(functions)
	switch {
	case n == 0:
		return nil
	case n > maxNamed:
		functions = append(functions[:maxNamed:maxNamed], fmt.Sprintf("and %d more", n-maxNamed))
	}
	return []string{what + strings.Join(functions, ", ")}
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
		err := v.mayBeIn(ctx, in, m)
		switch {
		case errors.Is(err, errUnseen) && m.target == "" && len(in) > 0 && !v.freshBoot():
			unseen = fmt.Errorf("%s: %w", m.entry, err) // any of those in it may be its function
		case errors.Is(err, errOfAPod):
			r.withPods = true
		}
		return err
	})
	switch {
	case unseen != nil:
		return plan.Draft{}, observed, fmt.Errorf("left as it is: %w", unseen)
	case err != nil:
		return plan.Draft{}, observed, fmt.Errorf("%w: %w", drivers.ErrRefused, err)
	}
	r.goal, r.later, r.obstacle = plan.Goal{key: to}, later, v.obstacle(ctx, r.target, to)
	return differing(r.goal, observed), observed, nil
}

// obstacle says why the plugin does not hand out a pool although its entry is
// right: what others have in the file. "" is that nothing is known to keep it.
func (v View) obstacle(ctx context.Context, pool drivers.Target, to drivers.State) string {
	if to == deviceplugin.Absent {
		return ""
	}
	why, err := deviceplugin.Obstacle(ctx, v.Host, pool)
	if err != nil {
		return fmt.Sprintf("it is not known whether the plugin hands it out: %v", err)
	}
	return why
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
		to, unseen := deviceplugin.Absent, false
		if at := slices.IndexFunc(requests, func(r request) bool { return r.target == c.Key.Target }); at >= 0 && requests[at].err == nil {
			to, unseen = v.poolFrom(ctx, requests[at], deviceplugin.Functions(c.Before))
		}
		switch {
		case unseen:
			return recovery.Unsure, true
		case to != c.After:
			w = recovery.Withdrawn
		}
	}
	return w, ok
}

// poolFrom is what the entry of a pool that has these functions shall be now; ""
// is that it cannot be. unseen says that it hangs on what could not be looked at.
func (v View) poolFrom(ctx context.Context, r request, in []drivers.Target) (to drivers.State, unseen bool) {
	to, _, err := v.publishable(ctx, r, func(ctx context.Context, m request) error {
		err := v.mayBeIn(ctx, in, m)
		unseen = unseen || errors.Is(err, errUnseen) && !errors.Is(err, errStays)
		return err
	})
	if err != nil {
		to = ""
	}
	return to, unseen
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
	functions, published, in := []drivers.Target{}, []drivers.Target{}, []drivers.Target{}
	for k, to := range goal {
		_, function := k.Target.PCIAddress()
		switch {
		case observed[k].Is(to):
		case function:
			functions = append(functions, k.Target)
		case k.Kind == deviceplugin.Kind:
			published = append(published, deviceplugin.Functions(to)...)
			in = append(in, deviceplugin.Functions(observed[k].State)...)
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
		err := errors.New("nothing is asked of it")
		for _, r := range requests {
			if r.target == t {
				err = v.mayBeIn(ctx, in, r)
			}
			if err == nil || errors.Is(err, errStays) {
				err = nil
				break
			}
		}
		if err != nil {
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
		in := v.mayBeIn(ctx, deviceplugin.Functions(from), m)
		if m.alone != nil && in == nil || errors.Is(in, errStays) {
			return in
		}
		if p := v.planEntry(ctx, m); p.Condition != Right && len(p.Steps) == 0 && in != nil {
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
	case r.obstacle != "":
		e.Condition, e.Reason = Degraded, r.obstacle
	}
	return e
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
