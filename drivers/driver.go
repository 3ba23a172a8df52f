package drivers

import (
	"context"
	"fmt"
	"slices"
)

// Driver reads and writes one kind of attribute.
//
// Observe never writes. It returns ErrHidden-free observations: a hidden key
// is Concealed, a missing target Gone, and what cannot be read Unobservable
// with the reason.
//
// Apply brings the target to the state from any state that Observe can return,
// is idempotent, and may be killed at any instruction. When it returns nil,
// Observe returns the state. The engine asks for one Step at a time, so that
// one call is one write of the host. There is no undo and no verify: they are
// Apply with the state before, and Observe.
//
// A driver may also implement Prechecker or Companion, and Syncer.
type Driver interface {
	Observe(ctx context.Context, t Target) Observation
	Apply(ctx context.Context, t Target, to State) error
}

// Prechecker is a Driver that can refuse a goal before anything is written.
// The error says why and what to do.
type Prechecker interface {
	Precheck(ctx context.Context, t Target, from, to State) error
}

// Beside is another change of the same operation, of a kind that moves the one
// in question.
type Beside struct {
	Key      Key
	From, To State
	Made     int // how many functions the state To makes
}

// BesidePrechecker is a Driver whose limits are moved by other kinds. It is asked
// instead of Precheck, with the changes that will have been made by then: what
// counts is the limit at the goal, and not today's.
type BesidePrechecker interface {
	PrecheckBeside(ctx context.Context, t Target, from, to State, beside []Beside) error
}

// Fitter is a Driver that knows the nearest state to one that it would refuse for
// what other kinds leave. It is asked of a state that nobody asks for, such as the
// one before the agent's first write.
type Fitter interface {
	Fit(ctx context.Context, t Target, to State, beside []Beside) (State, error)
}

// Companion is a Driver whose refusals depend on what becomes of other kinds of
// the same target in the same operation. With is the state that one of them is
// to get; false where it stays as it is. It is asked in the place of Prechecker.
type Companion interface {
	PrecheckWith(ctx context.Context, t Target, from, to State, with func(Kind) (State, bool)) error
}

// Syncer is a Driver of what is in files. Sync makes what is there durable,
// whoever wrote it and whenever; until then a power cut may bring back what was
// there before. The engine syncs the keys of an operation before it closes it
// as done or reverted.
type Syncer interface {
	Sync(ctx context.Context, t Target) error
}

// Spec is what is true of a kind on every machine, so that a journal can be
// judged far from its host. All functions are pure and total: they get states
// that were read from a disk.
type Spec struct {
	Kind  Kind
	Class Class
	// After are the kinds of the same function that are brought to their goal
	// before this one, in both directions.
	After []Kind
	// Netdev says that the state belongs to the function's netdev: it is hidden
	// while a key with Hides has no netdev, and is Fresh when one comes back.
	Netdev bool
	// OfVF says that the state is one that a physical function keeps for a virtual
	// one, whatever that is bound to: it goes with the VF, and is hidden while the
	// physical one has no netdev.
	OfVF bool
	// Hides says that, in this state, the function has no netdev. Only a kind
	// that re-creates the netdev has it.
	Hides func(State) bool
	// Renew is the state, next to one in which the function has a netdev, through
	// which that is made anew. Only a kind with Hides has it.
	Renew func(State) State
	// Probed says that the function's driver takes the state up only when it is
	// probed: the state is written while the function has no netdev, which is made
	// anew for it. It takes a state apart from what the netdev still has instead,
	// "" where that is none; a state with it can be left, and is never a goal. Nil
	// is a state that is in force at once.
	Probed func(State) (bare, instead State)
	// Gives are the kinds of a netdev that is made anew whose state follows from
	// this one then, and is not what it was.
	Gives func(State) []Kind
	// Makes are the targets that exist by a state of this kind, and by none
	// without it: the virtual functions of a physical one. Going from one to
	// another makes all of them anew.
	Makes func(State) []Target
	// Meets says whether a state that was seen is one that a goal asks for. A goal
	// may leave open what only the device decides, such as the addresses of VFs
	// that are still to be made. Nil means that the two are equal.
	Meets func(goal, seen State) bool
	// Names are the targets that a state of this kind hands to others, such as
	// the functions of a pool. While an operation has it in a state before or
	// after, none is carried out on them.
	Names func(State) []Target
	// Moves are the kinds of the same function whose states a write of this kind
	// may change besides: making VFs takes channels from their physical function.
	// An operation that writes this kind also has what is asked of those, so that
	// it ends only once they were observed after its last write; a value of theirs
	// that such a write left is the operation's own.
	Moves []Kind
	// Owes is what others must do after a change of a state of this kind before
	// it is in force; "" is nothing. The journal keeps it as a debt.
	Owes string
	// Cuts says that going from one state to the other can cut the traffic of
	// the function's netdev.
	Cuts func(from, to State) bool
	// Taken says that, in this state, a program has the function. Found so at
	// the first touch, it was another hand's doing, and nobody knows what was
	// before it.
	Taken func(State) bool
	// Fresh is the value the kernel gives a netdev that has just come up, or a
	// target that was just made; Default where it depends on the device.
	Fresh State
	// WhenAsked says that the kind is observed only of a function of which it is
	// asked for, or that is about to lose it: reading it takes rtnl, which a node
	// that does not use it shall not pay for.
	WhenAsked bool
	// Restored says that nobody asks for the kind: it is put back to what it was
	// where the new netdev lets it, and nothing else waits for that.
	Restored bool
	// Legal is the allow-list: what may be written, to what, checked when the
	// write is made and not when the intent was.
	Legal func(Target, State) error
	// Route is the way from one state to another, without from and with to;
	// each hop is one write. Nil means one hop.
	Route func(from, to State) []State
	// Lands says whether a write on the way to a state may leave another one than
	// it should, because the device rounds. Nil means never.
	Lands func(from, to, x State) bool
}

// Met says whether a state that was seen is one that a goal asks for.
func (s Spec) Met(goal, seen State) bool {
	return goal == seen || s.Meets != nil && s.Meets(goal, seen)
}

// Hops is the way from one state to another; empty when they are equal.
func (s Spec) Hops(from, to State) []State {
	if from == to {
		return nil
	}
	if s.Route == nil {
		return []State{to}
	}
	return s.Route(from, to)
}

// Between says whether x is a state that a write on the way between the two
// (in either direction) leaves behind.
func (s Spec) Between(before, after, x State) bool {
	return s.Lands != nil && s.Lands(before, after, x) || slices.Contains(s.Hops(before, after), x) || slices.Contains(s.Hops(after, before), x)
}

// Specs is the ordered list of the kinds there are.
type Specs []Spec

// Find is the spec of a kind.
func (ss Specs) Find(k Kind) (Spec, bool) {
	i := slices.IndexFunc(ss, func(s Spec) bool { return s.Kind == k })
	if i < 0 {
		return Spec{}, false
	}
	return ss[i], true
}

// Legal is the allow-list over all kinds: an unknown kind, a malformed target
// and a value that the kind does not know are all ErrIllegal.
func (ss Specs) Legal(k Key, to State) error {
	s, ok := ss.Find(k.Kind)
	switch {
	case !ok:
		return fmt.Errorf("kind %q: %w", k.Kind, ErrIllegal)
	case !k.Target.Valid():
		return fmt.Errorf("target %q: %w", k.Target, ErrIllegal)
	case to == Hidden && s.Netdev:
		return nil
	}
	return s.Legal(k.Target, to)
}

// Set is the drivers of one machine, by kind.
type Set struct {
	Specs   Specs
	Drivers map[Kind]Driver
}

// Driver is the driver of a kind, or ErrIllegal.
func (s Set) Driver(k Kind) (Driver, error) {
	d, ok := s.Drivers[k]
	if !ok {
		return nil, fmt.Errorf("kind %q: %w", k, ErrIllegal)
	}
	return d, nil
}
