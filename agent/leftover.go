package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-kit/log/level"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/module"
	"eniagent/drivers/sriov"
	"eniagent/journal"
)

// A leftover is what an entry asked for once and no longer does, though the entry
// is still there. An entry may be missing because its file was cut off; a field
// that is missing from an entry was taken out by somebody, so it is given back.
//
// What was asked before are the goals in the journal: they change in the commit
// that puts the new desired state in force, so that an edit is seen also by an
// agent that was not running when it was made. A leftover stays among the goals,
// with the state before as its goal, until that was observed; then its baseline
// is dropped, and it is nobody's.

// askedBefore are the goals that were in force last, by key.
func (v View) askedBefore() map[drivers.Key]journal.Goal {
	before := map[drivers.Key]journal.Goal{}
	for _, d := range v.Records.Sources() {
		for _, g := range d.Goals {
			before[g.Key] = g
		}
	}
	return before
}

// recalling is the view with what was asked before looked up once for many.
func (v View) recalling() View {
	c := v
	c.before, c.namedBefore = v.askedBefore(), v.recallNamed()
	return c
}

// askBack adds to what is asked of a function what is to be given back of it.
func (v View) askBack(ctx context.Context, r *request) {
	before := v.before
	if before == nil {
		before = v.askedBefore()
	}
	if r.err != nil || v.absentVF(ctx, r) {
		return
	}
	kinds := v.functionKinds()
	// The driver comes first: on it depends whether there is a netdev.
	slices.SortStableFunc(kinds, func(a, b drivers.Kind) int {
		return map[bool]int{true: -1}[a == dpdk.KindDriver] - map[bool]int{true: -1}[b == dpdk.KindDriver]
	})
	for _, kind := range kinds {
		key := drivers.Key{Kind: kind, Target: r.target}
		was, asked := before[key]
		_, still := r.goal[key]
		if spec, _ := v.Drivers.Specs.Find(kind); spec.Restored {
			continue // a release asked for it, and no entry ever does
		}
		if asked && !still && was.State != drivers.Hidden && !r.names(kind) && !v.hiddenNow(ctx, r, key) {
			v.askBackKey(ctx, r, was)
		}
	}
}

// askBackKey asks for what a key was before it was asked for.
func (v View) askBackKey(ctx context.Context, r *request, was journal.Goal) {
	key := was.Key
	to, known := v.wayBack(ctx, r, key)
	now := v.observer().Observe(ctx, key)
	_, baseline := v.baseline(key, r.identity)
	switch {
	case known && now.Is(to) && was.State == to && !baseline:
		// It is back, and was seen to be.
	case known:
		r.goal[key] = v.fitting(ctx, r, key, to)
		if r.goal[key] == to {
			r.left = append(r.left, key)
			break
		}
		// The rest of it comes when what leaves no room for it goes.
		r.notes = append(r.notes, fmt.Sprintf("%s are no longer asked for: %s until its VFs go, %s then", key.Kind, r.goal[key], to))
	case now.Presence == drivers.Present && (baseline || v.madeByAgent(r)):
		// Nothing is known to give it back to. It stays as it was asked, and is told.
		r.goal[key] = was.State
		r.later = fmt.Sprintf("%s is no longer asked for and stays %s: nobody knows what it was before; ask for it by name", key.Kind, now)
		if key.Kind == dpdk.KindDriver {
			r.later = fmt.Sprintf("its driver is no longer asked for and stays: %s", sayBaseline(r.target))
		}
	}
}

// fitting is the nearest state to one before that the VFs leave which are asked
// for: nobody asks for that state, so that it must not keep what is asked from being had.
func (v View) fitting(ctx context.Context, r *request, key drivers.Key, to drivers.State) drivers.State {
	spec, _ := v.Drivers.Specs.Find(sriov.KindNumVFs)
	if r.asked.VFs == nil || r.asked.VFs.Count == 0 || !slices.Contains(spec.Moves, key.Kind) {
		return to
	}
	d, err := v.Drivers.Driver(key.Kind)
	f, ok := d.(drivers.Fitter)
	if err != nil || !ok {
		return to
	}
	fits, err := f.Fit(ctx, key.Target, to, []drivers.Beside{{Key: drivers.Key{Kind: sriov.KindNumVFs, Target: r.target}, Made: r.asked.VFs.Count}})
	if err != nil {
		return to // what can be had is said when it is refused
	}
	return fits
}

// wayBack is the state that a key is given back to.
func (v View) wayBack(ctx context.Context, r *request, key drivers.Key) (drivers.State, bool) {
	b, ok := v.baseline(key, r.identity)
	if ok && b.Unknown && key.Kind == dpdk.KindDriver {
		return v.adopted(ctx, r.target)
	}
	if ok && v.restorable(b) {
		return b.State, true
	}
	if !v.baselines().Made(key, r.identity) {
		return "", false // it was never changed
	}
	// Nothing was before it: it is what the kernel makes of it.
	if key.Kind == dpdk.KindDriver {
		names, err := module.ByVF(ctx, v.Host, r.identity.PF)
		if err != nil || len(names) != 1 {
			return "", false
		}
		return dpdk.Bound(names[0]), true
	}
	if spec, _ := v.Drivers.Specs.Find(key.Kind); spec.Fresh != "" && spec.Fresh != drivers.Default {
		return spec.Fresh, true
	}
	return sriov.Unset(key.Kind)
}

// madeByAgent says that a function is a virtual one that was not there before
// the agent changed the number of them.
func (v View) madeByAgent(r *request) bool {
	return v.baselines().MadeVF(r.target, r.identity)
}

// names says that the entry asks for a kind, also where it has no goal of it yet.
func (r *request) names(kind drivers.Kind) bool {
	return kind == sriov.KindNumVFs && r.asked.VFs != nil ||
		slices.ContainsFunc(parts(r.asked.Interface), func(p part) bool { return p.kind == kind })
}

// hiddenNow says that a key is of a netdev that the function does not have, or
// will not have.
func (v View) hiddenNow(ctx context.Context, r *request, key drivers.Key) bool {
	spec, _ := v.Drivers.Specs.Find(key.Kind)
	if !spec.Netdev {
		return false
	}
	driver := drivers.Key{Kind: dpdk.KindDriver, Target: r.target}
	hides, _ := v.Drivers.Specs.Find(driver.Kind)
	at, asked := r.goal[driver]
	if !asked {
		at = v.observer().Observe(ctx, driver).State
	}
	return hides.Hides(at)
}

// forgetLeft drops the baselines of what was given back and observed to be so.
func (a *Agent) forgetLeft(ctx context.Context, r request) {
	if a.readOnly() || len(r.left) == 0 {
		return
	}
	left := slices.Clone(r.left)
	if !a.vfsAreBack(ctx, r) { // which is told by the baseline of their number
		left = slices.DeleteFunc(left, func(k drivers.Key) bool { return k.Kind == sriov.KindNumVFs })
	}
	n, err := a.c.Journal.DropBaselines(ctx, func(b journal.Baseline) bool { return slices.Contains(left, b.Key) })
	switch {
	case err != nil:
		level.Warn(a.logger).Log("target", r.target, "err", err, "msg", "baseline of what is no longer asked for not dropped")
	case n > 0:
		level.Info(a.logger).Log("entry", r.entry, "target", r.target, "count", n, "msg", "no longer asked for, given back")
		a.wakeFor(r.target)
	}
}

// leftVFs are requests to give back the virtual functions of a physical one
// whose entry asked for them, and no longer names any.
func (v View) leftVFs(ctx context.Context, r *request, requests []request) []request {
	if r.asked.VFs != nil || r.err != nil || r.asked.State == source.Released {
		return nil
	}
	entries := map[string]bool{}
	for _, g := range v.before {
		entries[g.Entry] = true
	}
	_, number := v.before[drivers.Key{Kind: sriov.KindNumVFs, Target: r.target}]
	if !number && !slices.ContainsFunc(slices.Collect(maps.Keys(entries)), func(e string) bool { return strings.HasPrefix(e, r.entry+" vf ") }) {
		return nil
	}
	vfs, err := v.givenBack(ctx, *r, requests)
	if err != nil {
		r.unreadable(err)
	}
	return slices.DeleteFunc(vfs, func(vf request) bool { return !number && !entries[vf.entry] })
}
