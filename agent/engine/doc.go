// Package engine carries out operations. It is the only caller of
// drivers.Driver.Apply in the program, so the write-ahead rule has one place:
// an operation is durable in the journal before its first write, an attempt
// before each try, a revert before the first undo, and an operation is done
// only when the host was observed to be at its goal.
//
// Run begins a new operation; Resume carries on with one that recovery has
// judged. Both drive the host to a goal in the same loop: look, plan, make one
// step, look again, at last at everything.
//
// # Caveats
//
// An operation whose write hangs, or whose host cannot be observed, stays open
// and keeps its targets; Run and Resume return Kept and somebody must come back
// to it. Nothing is ever concluded from a write's success alone.
package engine
