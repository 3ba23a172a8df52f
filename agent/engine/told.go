package engine

import (
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"eniagent/journal"
	"eniagent/recovery"
)

// teller logs a judgement: before it is carried out, where that writes and may
// not end, and what became of it by the func that it returns. One that is no
// news is not told.
func (e *Engine) teller(j recovery.Judgement, op journal.Operation) func(Outcome) {
	if !e.news(j) {
		return func(Outcome) {}
	}
	e.Metrics.decided(j.Decision)
	logger := log.With(e.Logger,
		"op", op.ID, "state", op.State, "target", names(op.Targets()), "class", j.Class, "epoch", j.Epoch,
		"wanted", j.Wanted, "decision", j.Decision, "why", j.Why)
	if j.Decision == recovery.Replay || j.Decision == recovery.Revert {
		level.Info(logger).Log("msg", "operation is being recovered")
	}
	return func(o Outcome) { level.Info(logger).Log("outcome", o, "msg", recoveredText(o)) }
}

// recoveredText says what became of an operation that was judged.
func recoveredText(o Outcome) string {
	switch o {
	case Done, Reverted, Superseded:
		return "operation recovered"
	case Quarantined:
		return "operation is in quarantine"
	}
	return "operation stays open"
}
