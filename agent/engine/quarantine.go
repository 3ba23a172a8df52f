package engine

import (
	"context"
	"fmt"

	"eniagent/journal"
	"eniagent/recovery"
)

// quarantine takes hands off an operation, and keeps what the host is like now.
func (e *Engine) quarantine(ctx context.Context, op *journal.Operation, cause error) Result {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.StepTimeout)
	defer cancel()
	return e.quarantineFound(ctx, op, cause, recovery.Look(ctx, e.Drivers.Specs, e.Observer(), op))
}

// quarantineFound takes hands off an operation, and keeps what was found.
func (e *Engine) quarantineFound(ctx context.Context, op *journal.Operation, cause error, found []recovery.Finding) Result {
	if root := rootOf(op); root != "" {
		cause = fmt.Errorf("%s%s%w", root, andThen, cause)
	}
	owes := e.owes(op)
	if err := e.Journal.QuarantineFound(context.WithoutCancel(ctx), op.ID, cause.Error(), recovery.Record(found), owes); err != nil {
		return e.unjournaled(op, err)
	}
	e.closed(op, owes)
	e.transition(op, journal.Quarantined, "", cause)
	return Result{Operation: op.ID, Outcome: Quarantined, Err: cause}
}
