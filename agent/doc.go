// Package agent is the live loop: it takes desired state from a source, plans,
// and lets the engine carry the plan out, one operation a function at a time.
//
// The data's way: source -> latest-wins channel -> resolve -> plan -> engine
// (intent, step, verify, done) -> status. At its start, and whenever an
// operation was left open, recovery judges first.
//
// Run builds an oklog/run group of actors: signals, the reconcile loop, at whose
// head recovery stands, the writer children, the journal, the service manager's
// notices, HTTP and the control socket. Every other goroutine is below one of
// them, started through package supervise: the source, the host's events, the
// workers, tell and the plugin's restarts below the loop. A panic of any is its
// actor's error, which ends the group. Interrupts only cancel; the journal is
// closed after all actors have returned. What holds that up, say a lock that a
// panic left held, is ended by the shutdown timeout (ending.go).
//
// Everything that commands and HTTP print is a struct in report.go. Its JSON
// is add-only.
//
// # Log keys
//
// The domain keys are a closed list: op, state, kind, target, before, after,
// from, to, attempt, elapsed, class, epoch, wanted, decision, why, outcome, entry, source,
// object, generation, signal, actor, addr, path, who, count, err, msg. op is only
// ever the number of an operation in the journal.
//
// # Caveats
//
// The loop itself never waits for the host. Each function is looked at and
// worked on in its own goroutine, so a write that hangs holds up one function
// and nothing else.
package agent
