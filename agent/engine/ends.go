package engine

import (
	"fmt"
	"strings"

	"github.com/go-kit/log/level"

	"eniagent/journal"
)

// How a try ends is kept with its operation, because only some ends count:
//
//   - an error of the goal's own is a failed try, of which a goal has
//     Options.MaxAttempts, and so is a panic;
//   - that the agent was asked to stop, that the host could not be read, or that
//     a rule forbids to go on, says nothing about the goal: the try is spared;
//   - a try whose end nobody recorded is a crash: the agent was killed, the machine
//     went down, or a write hung. It may be a goal that does so each time, so
//     recovery.MaxCrashes of them in a row end it too, but only those that leave
//     the host as they found it.

// failed counts the present try against the goal.
func (e *Engine) failed(op *journal.Operation, last error) {
	op.Failed++
	e.ended(op, true, last)
}

// spared says that the end of the present try says nothing about the goal.
func (e *Engine) spared(op *journal.Operation, last error) {
	op.Spared++
	e.ended(op, false, last)
}

// dies counts a try that ends in a panic, which it lets pass.
func (e *Engine) dies(op *journal.Operation) {
	if p := recover(); p != nil {
		e.ended(op, true, fmt.Errorf("panic: %v", p))
		panic(p)
	}
}

// ended keeps how the present try ended. Should the journal not take it, the try
// is one whose end nobody knows.
func (e *Engine) ended(op *journal.Operation, failed bool, last error) {
	if err := e.Journal.Ended(op.ID, failed, lastError(op, last)); err != nil {
		level.Warn(e.Logger).Log("op", op.ID, "err", err, "msg", "end of a try not kept")
	}
}

// stays leaves an operation open, to be judged again later.
func (e *Engine) stays(op *journal.Operation, err error) Result {
	level.Warn(e.Logger).Log("op", op.ID, "state", op.State, "target", names(op.Targets()), "err", err, "msg", "operation stays open")
	return Result{Operation: op.ID, Outcome: Kept, Err: err}
}

// note keeps the last error with the operation. It is for people: the journal
// not taking it changes nothing.
func (e *Engine) note(op *journal.Operation, last error) {
	if err := e.Journal.Note(op.ID, lastError(op, last)); err != nil {
		level.Warn(e.Logger).Log("op", op.ID, "err", err, "msg", "last error not kept")
	}
}

// lastError is what is kept as the last error of an operation.
func lastError(op *journal.Operation, last error) string {
	if op.State != journal.Reverting {
		return last.Error()
	}
	// Why it is reverted is what a person needs first.
	return rootOf(op) + andThen + last.Error()
}

// rootOf is why an operation is reverted, which is what a person needs first; ""
// where it is not.
func rootOf(op *journal.Operation) string {
	if op.State != journal.Reverting {
		return ""
	}
	root, _, _ := strings.Cut(op.LastError, andThen)
	return root
}

// andThen joins the cause of a revert and what went wrong with the revert.
const andThen = "; and the revert: "
