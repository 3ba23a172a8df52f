package recovery

import (
	"eniagent/drivers"
	"eniagent/journal"
)

// Class is what an observation makes of a key, or of a whole operation.
type Class string

// The classes of a key. An operation takes the worst of its keys, and is one
// of before, after, between, foreign, gone, unobservable.
const (
	Before       Class = "before"
	After        Class = "after"
	Between      Class = "between"      // a state that a write on the way leaves
	Fresh        Class = "fresh"        // the kernel's own, after an earlier step made the netdev anew, or moved it
	Hidden       Class = "hidden"       // another key of the operation hides it
	Foreign      Class = "foreign"      // somebody else's hand
	Gone         Class = "gone"         // its device is not there
	Unobservable Class = "unobservable" // reading failed, or a write still runs
	Unchanged    Class = "unchanged"    // at Before and at After, which are equal
)

// Classify judges one key of an operation by what was observed of it.
func Classify(specs drivers.Specs, op *journal.Operation, c journal.Change, o drivers.Observation) Class {
	spec, known := specs.Find(c.Key.Kind)
	if !known {
		return Unobservable // a kind of a newer agent
	}
	_, made, makes := specs.Maker(c.Key.Target, op.States())
	remakes := spec.Netdev && (made || remakesNetdev(specs, op, c.Key.Target))
	switch o.Presence {
	case drivers.Present:
	case drivers.Gone:
		return Gone
	case drivers.Concealed:
		if remakes || makes {
			return Hidden
		}
		return Gone // the netdev, or the VF, is its device, and went by another hand
	default:
		return Unobservable
	}
	if spec.Netdev && !remakes && knownNetdev(op, c.Key.Target) && otherNetdev(op, c.Key.Target, o) {
		return Gone
	}
	switch {
	case o.State == c.Before && c.Before == c.After:
		return Unchanged
	case spec.Met(c.After, o.State):
		return After
	case o.State == c.Before:
		return Before
	case remakes && otherNetdev(op, c.Key.Target, o):
		return Fresh
	case made && !spec.Netdev && (spec.Fresh == drivers.Default || spec.Fresh == o.State):
		return Fresh
	case made && (spec.Between(spec.Fresh, c.After, o.State) || spec.Between(spec.Fresh, c.Before, o.State)):
		return Between
	case spec.Between(c.Before, c.After, o.State):
		return Between
	case spec.Renew != nil && o.State == spec.Renew(c.Before) && specs.Renews(c.Key.Target, op.States()):
		return Between // its netdev is being made anew
	case specs.Moved(c.Key, op.States()):
		return Fresh // a write of this operation moved it, and it is still to be brought to its goal
	}
	return Foreign
}

// remakesNetdev says whether a key of the operation takes the netdev of the
// target away, or brings it back.
func remakesNetdev(specs drivers.Specs, op *journal.Operation, t drivers.Target) bool {
	for _, c := range op.Changes {
		if spec, ok := specs.Find(c.Key.Kind); ok && spec.Hides != nil && c.Key.Target == t {
			return true
		}
	}
	return false
}

// otherNetdev says that the state was read from another netdev than the one
// there was when the operation began.
func otherNetdev(op *journal.Operation, t drivers.Target, o drivers.Observation) bool {
	recorded := op.Identity[t].Netdev
	return o.Netdev != 0 && o.Netdev != recorded
}

// knownNetdev says whether the operation knows which netdev it began with.
func knownNetdev(op *journal.Operation, t drivers.Target) bool { return op.Identity[t].Netdev != 0 }

// rank orders the classes from best to worst.
func rank(c Class) int {
	switch c {
	case Before, After, Unchanged:
		return 0
	case Between, Fresh, Hidden:
		return 1
	case Gone:
		return 2
	case Foreign:
		return 3
	default:
		return 4
	}
}

// Whole is the class of an operation, from those of its keys (in the order of
// its changes).
func Whole(specs drivers.Specs, op *journal.Operation, classes []Class) Class {
	whole := Unchanged
	for i, class := range classes {
		if class == Hidden {
			class = unhide(specs, op, op.Changes[i], classes)
		}
		whole = worse(whole, class)
	}
	if whole == Unchanged {
		return After
	}
	return whole
}

func worse(a, b Class) Class {
	switch {
	case b == Fresh || b == Hidden:
		b = Between
	}
	switch {
	case a == Unchanged:
		return b
	case b == Unchanged || a == b:
		return a
	case rank(a) == 0 && rank(b) == 0:
		return Between // mixed
	case rank(b) > rank(a):
		return b
	}
	return a
}

// unhide says what a hidden key counts as: what its hider is, where the state
// in question is to be hidden; else between.
func unhide(specs drivers.Specs, op *journal.Operation, c journal.Change, classes []Class) Class {
	if c.Before == drivers.Hidden && c.After == drivers.Hidden {
		return Unchanged
	}
	maker, _, makes := specs.Maker(c.Key.Target, op.States())
	for i, other := range op.Changes {
		spec, ok := specs.Find(other.Key.Kind)
		hides := spec.Hides != nil && other.Key.Target == c.Key.Target
		if !ok || !hides && !(makes && other.Key == maker) {
			continue
		}
		switch {
		case classes[i] == After && c.After == drivers.Hidden:
			return After
		case classes[i] == Before && c.Before == drivers.Hidden:
			return Before
		}
	}
	return Between
}
