package plan

import (
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
	keys, err := sorted(specs, goal)
	if err != nil {
		return nil, err
	}
	var steps []drivers.Step
	for _, key := range keys {
		spec, _ := specs.Find(key.Kind)
		if goal[key] == drivers.Hidden {
			continue // the key that hides it is on its own way
		}
		for _, hop := range spec.Hops(at[key], goal[key]) {
			steps = append(steps, drivers.Step{Key: key, From: at[key], To: hop})
			follow(specs, spec, at, key, hop)
		}
	}
	return steps, nil
}

// follow notes what a step does to others: the netdev of its function goes, or
// comes back as the kernel makes it, and so do functions that it makes.
func follow(specs drivers.Specs, spec drivers.Spec, at map[drivers.Key]drivers.State, key drivers.Key, to drivers.State) {
	from := at[key]
	at[key] = to
	for other := range at {
		theirs, _ := specs.Find(other.Kind)
		switch {
		case spec.Makes != nil:
			was, is := slices.Contains(spec.Makes(from), other.Target), slices.Contains(spec.Makes(to), other.Target)
			switch {
			case was == is:
			case was, theirs.Netdev: // it has no driver yet, so no netdev
				at[other] = drivers.Hidden
			default:
				at[other] = theirs.Fresh
			}
		case spec.Hides == nil || !theirs.Netdev || other.Target != key.Target:
		case spec.Hides(to):
			at[other] = drivers.Hidden
		case spec.Hides(from):
			at[other] = theirs.Fresh
		}
	}
}

// sorted is the keys of the goal, those that others come after first.
func sorted(specs drivers.Specs, goal Goal) ([]drivers.Key, error) {
	rank := map[drivers.Kind]int{}
	for key := range goal {
		if _, err := rankOf(specs, key.Kind, rank, nil); err != nil {
			return nil, err
		}
	}
	return slices.SortedFunc(maps.Keys(goal), func(a, b drivers.Key) int {
		if d := rank[a.Kind] - rank[b.Kind]; d != 0 {
			return d
		}
		return a.Compare(b)
	}), nil
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
