package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"eniagent/drivers"
)

// Observed is what was seen of each key.
type Observed map[drivers.Key]drivers.Observation

// Goal is a state for each key.
type Goal map[drivers.Key]drivers.State

// Order is the steps that lead from what is observed to the goal, in the order
// to make them. It is empty when there is nothing to do. A key of the goal
// that was not observed, is gone or cannot be seen is an error that says which.
func Order(specs drivers.Specs, observed Observed, goal Goal) ([]drivers.Step, error) {
	at := map[drivers.Key]drivers.State{}
	for key := range goal {
		o, ok := observed[key]
		switch {
		case !ok:
			return nil, fmt.Errorf("%s: was not observed", key)
		case o.Presence == drivers.Gone:
			return nil, fmt.Errorf("%s: %w", key, drivers.ErrGone)
		case o.Presence == drivers.Unobservable && o.Err != nil:
			return nil, fmt.Errorf("%s: %w", key, o.Err)
		case o.Presence == drivers.Unobservable:
			return nil, fmt.Errorf("%s: %w", key, drivers.ErrUnknown)
		}
		at[key] = o.State
	}
	keys, err := sorted(specs, observed, goal)
	if err != nil {
		return nil, err
	}
	w := walk{specs: specs, at: at, goal: goal}
	for _, key := range keys {
		w.key(key)
	}
	return w.steps, nil
}

// walk is the way to a goal so far.
type walk struct {
	specs drivers.Specs
	at    map[drivers.Key]drivers.State
	goal  Goal
	steps []drivers.Step
}

// key goes the way of one key. What a function makes goes before its own driver
// does, and is made by the driver that it is to have.
func (w *walk) key(key drivers.Key) {
	if w.goal[key] == drivers.Hidden {
		return // the key that hides it is on its own way
	}
	spec, _ := w.specs.Find(key.Kind)
	driver, rebound := w.rebinds(spec, key.Target)
	if rebound && len(spec.Makes(w.at[key])) == 0 {
		w.key(driver)
		rebound = false
	}
	w.renew(key)
	if spec.Settled(w.at[key]) == w.goal[key] {
		return // no write of its own changes what a netdev has instead
	}
	for _, hop := range spec.Hops(w.at[key], w.goal[key]) {
		w.steps = append(w.steps, drivers.Step{Key: key, From: w.at[key], To: hop})
		follow(w.specs, spec, w.at, key, hop)
		if rebound && len(spec.Makes(hop)) == 0 {
			w.key(driver)
			rebound = false
		}
	}
}

// rebinds is the key of a function's driver, where that changes on the way and
// the function makes others.
func (w *walk) rebinds(maker drivers.Spec, t drivers.Target) (drivers.Key, bool) {
	if maker.Makes == nil {
		return drivers.Key{}, false
	}
	for key, to := range w.goal {
		spec, _ := w.specs.Find(key.Kind)
		if key.Target == t && spec.Hides != nil && w.at[key] != to {
			return key, true
		}
	}
	return drivers.Key{}, false
}

// renew takes the netdev of a function away before a state is written that its
// driver takes up only when it is probed (Spec.Probed). The key that hides the
// netdev brings it back on its own way; without one in the goal, nothing does.
func (w *walk) renew(key drivers.Key) {
	if spec, _ := w.specs.Find(key.Kind); !spec.Renews(w.at[key], w.goal[key]) {
		return
	}
	for hider, want := range w.goal {
		spec, _ := w.specs.Find(hider.Kind)
		at := w.at[hider]
		if hider.Target != key.Target || spec.Renew == nil || want == drivers.Hidden || at == drivers.Hidden || spec.Hides(want) || spec.Hides(at) {
			continue
		}
		w.steps = append(w.steps, drivers.Step{Key: hider, From: at, To: spec.Renew(at)})
		follow(w.specs, spec, w.at, hider, spec.Renew(at))
		return
	}
}

// follow notes what a step does to others: the netdev of its function goes, or
// comes back as the kernel makes it, and so do functions that it makes.
func follow(specs drivers.Specs, spec drivers.Spec, at map[drivers.Key]drivers.State, key drivers.Key, to drivers.State) {
	from := at[key]
	at[key] = to
	if spec.Makes == nil && (spec.Hides == nil || !spec.Hides(to) && !spec.Hides(from)) {
		return
	}
	was, is := targets(spec, from), targets(spec, to)
	for other := range at {
		theirs, _ := specs.Find(other.Kind)
		switch {
		case spec.Makes != nil && was[other.Target] == is[other.Target]:
		case spec.Makes != nil && (was[other.Target] || theirs.Netdev): // it has no driver yet, so no netdev
			at[other] = drivers.Hidden
		case spec.Makes != nil:
			at[other] = theirs.Fresh
		case !theirs.Netdev || other.Target != key.Target:
		case spec.Hides(to):
			at[other] = drivers.Hidden
		default:
			at[other] = theirs.Fresh
		}
	}
}

// targets are the functions that a state makes.
func targets(spec drivers.Spec, s drivers.State) map[drivers.Target]bool {
	made := map[drivers.Target]bool{}
	if spec.Makes != nil {
		for _, t := range spec.Makes(s) {
			made[t] = true
		}
	}
	return made
}

// sorted is the keys of the goal, those that others come after first.
func sorted(specs drivers.Specs, observed Observed, goal Goal) ([]drivers.Key, error) {
	rank := map[drivers.Kind]int{}
	for key := range goal {
		if _, err := rankOf(specs, key.Kind, rank, nil); err != nil {
			return nil, err
		}
	}
	turn := turns(specs, observed, goal)
	return slices.SortedFunc(maps.Keys(goal), func(a, b drivers.Key) int {
		return cmp.Or(turn[a]-turn[b], rank[a.Kind]-rank[b.Kind], a.Compare(b))
	}), nil
}

// turns puts the keys of functions that another one makes after all of that
// one's own, and whatever comes after such a function's keys with them: a
// virtual function gets its MAC, for one, only from a physical one whose link is
// up (igb_main.c, igb_vf_reset_msg). A link that goes down does so last.
func turns(specs drivers.Specs, observed Observed, goal Goal) map[drivers.Key]int {
	made, maker := map[drivers.Target]bool{}, map[drivers.Target]bool{}
	for key, want := range goal {
		spec, _ := specs.Find(key.Kind)
		if spec.Makes == nil {
			continue
		}
		maker[key.Target] = true
		for _, t := range slices.Concat(spec.Makes(observed[key].State), spec.Makes(want)) {
			made[t] = true
		}
	}
	turn := map[drivers.Key]int{}
	if len(maker) == 0 {
		return turn
	}
	for key, want := range goal {
		spec, _ := specs.Find(key.Kind)
		_, function := key.Target.PCIAddress()
		switch {
		case made[key.Target], !function && len(spec.After) > 0:
			turn[key] = 1
		case maker[key.Target] && spec.Netdev && spec.Cuts != nil && spec.Cuts(want, want):
			turn[key] = 2
		}
	}
	return turn
}

// rankOf is how many kinds must come before a kind, at the longest.
func rankOf(specs drivers.Specs, kind drivers.Kind, rank map[drivers.Kind]int, path []drivers.Kind) (int, error) {
	if r, ok := rank[kind]; ok {
		return r, nil
	}
	if slices.Contains(path, kind) {
		return 0, fmt.Errorf("kinds come after each other in a circle: %v", append(path, kind))
	}
	spec, ok := specs.Find(kind)
	if !ok {
		return 0, fmt.Errorf("kind %q: %w", kind, drivers.ErrIllegal)
	}
	highest := 0
	for _, before := range spec.After {
		r, err := rankOf(specs, before, rank, append(slices.Clone(path), kind))
		if err != nil {
			return 0, err
		}
		highest = max(highest, r+1)
	}
	rank[kind] = highest
	return highest, nil
}
