package engine

import (
	"slices"

	"github.com/go-kit/log/level"

	"eniagent/drivers"
	"eniagent/journal"
	"eniagent/recovery"
)

// What a kind owes is owed for an operation that wrote, whatever became of it
// then; and where nobody can say whether it did, it is owed as well.

// named are the targets that states name: while an operation has them, none is
// carried out on those.
func (e *Engine) named(states map[drivers.Key][]drivers.State) (targets []drivers.Target) {
	for k, all := range states {
		spec, _ := e.Drivers.Specs.Find(k.Kind)
		for _, s := range all {
			if spec.Names != nil {
				targets = append(targets, spec.Names(s)...)
			}
		}
	}
	return targets
}

// meets notes an operation that this engine knows from now on. One that another
// was reverting may have been written.
func (e *Engine) meets(op *journal.Operation) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, known := e.wrote[op.ID]; !known {
		e.wrote[op.ID] = op.State == journal.Reverting
	}
}

// wrotes notes that a write was made, if the kind owes something for it.
func (e *Engine) wrotes(op *journal.Operation, k drivers.Key) {
	if spec, _ := e.Drivers.Specs.Find(k.Kind); spec.Owes == "" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wrote[op.ID] = true
}

// found notes what an observation tells: a state that is not the one before was
// written, unless there is none to tell of.
func (e *Engine) found(op *journal.Operation, k drivers.Key, class recovery.Class) {
	switch class {
	case recovery.Before, recovery.Unchanged, recovery.Gone, recovery.Unobservable:
	default:
		e.wrotes(op, k)
	}
}

// owes is what others must do because of an operation that is closed now; ""
// is nothing.
func (e *Engine) owes(op *journal.Operation) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	wrote := e.wrote[op.ID]
	at := slices.IndexFunc(op.Changes, func(c journal.Change) bool {
		spec, _ := e.Drivers.Specs.Find(c.Key.Kind)
		return spec.Owes != ""
	})
	if !wrote || at < 0 {
		return ""
	}
	spec, _ := e.Drivers.Specs.Find(op.Changes[at].Key.Kind)
	return spec.Owes
}

// closed notes that the journal has an operation as closed, with what it owes.
func (e *Engine) closed(op *journal.Operation, owes string) {
	e.mu.Lock()
	delete(e.wrote, op.ID)
	e.mu.Unlock()
	if owes == "" {
		return
	}
	level.Warn(e.Logger).Log("op", op.ID, "target", names(op.Targets()), "why", owes, "msg", "owed for what was changed")
	if e.Owed != nil {
		e.Owed()
	}
}
