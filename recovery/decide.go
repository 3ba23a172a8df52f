package recovery

import (
	"fmt"

	"eniagent/journal"
)

// Decision is what becomes of an open operation.
type Decision string

// The decisions. Only Replay and Revert write the host.
const (
	Replay     Decision = "replay"     // drive the host to After
	Revert     Decision = "revert"     // drive the host to Before
	Done       Decision = "done"       // close: the host is at After
	Reverted   Decision = "reverted"   // close: the host is at Before
	Supersede  Decision = "supersede"  // close: what it was about is no more
	Quarantine Decision = "quarantine" // hands off, a person decides
	Keep       Decision = "keep"       // stays open, its targets blocked, tried again
)

// Decisions are all of them, for metrics and tests.
func Decisions() []Decision {
	return []Decision{Replay, Revert, Done, Reverted, Supersede, Quarantine, Keep}
}

// Writes says whether the decision writes the host.
func (d Decision) Writes() bool { return d == Replay || d == Revert }

// Epoch is how an operation's kernel relates to this one.
type Epoch string

// The epochs.
const (
	SameBoot     Epoch = "same boot"
	NewBoot      Epoch = "new boot"      // or, for volatile keys, a new incarnation of the device
	OtherMachine Epoch = "other machine" // a cloned disk
)

// Wanted says whether the operation's goal is still the latest desired state
// that is known here.
type Wanted string

// The answers. Unknown is no reason to undo anything.
const (
	StillWanted Wanted = "wanted"
	Withdrawn   Wanted = "withdrawn"
	Unsure      Wanted = "unknown"
)

// Case is everything a decision depends on.
type Case struct {
	State      journal.OperationState
	Class      Class
	Epoch      Epoch
	Persistent bool // the keys that the epoch leaves to judge are persistent
	Wanted     Wanted
	// Absent says that Before was absence, so that what is gone is at Before.
	Absent bool
	// Ready says that every key this operation depends on is at its After; only
	// asked of persistent keys in a new boot.
	Ready bool
	// Exhausted says that the present goal failed as often as it may.
	Exhausted bool
	// Crashed says that it is given up for the crashes while it was tried.
	Crashed bool
}

// MaxCrashes is how many tries of a goal may end in a crash of the agent or the
// machine, or in a write that hangs, with the host left as it was each time,
// before the goal is given up. It is more than the failures a goal may have: an
// agent is mostly ended from outside, and that says nothing about the goal.
const MaxCrashes = 5

// usedUp is why no further try is made; "" when one may be.
func (c Case) usedUp() string {
	switch {
	case c.Exhausted:
		return "the attempts are used up"
	case c.Crashed:
		return fmt.Sprintf("it got no further in %d tries that a crash or a hung write ended", MaxCrashes)
	}
	return ""
}

// Decide is the table in the package comment. It is total: whatever the case,
// there is a decision, and where it is not certain, nothing is written.
func Decide(c Case) (Decision, string) {
	if !c.State.Open() {
		return Keep, fmt.Sprintf("an operation in state %q is not open", c.State)
	}
	if c.Epoch != SameBoot && !c.Persistent {
		return Supersede, fmt.Sprintf("%s: what it changed died with the old kernel or device", c.Epoch)
	}
	switch c.Epoch {
	case SameBoot, NewBoot:
	case OtherMachine:
		return Quarantine, "the journal comes from another machine"
	default:
		return Keep, fmt.Sprintf("%q is no epoch", c.Epoch)
	}
	switch c.Class {
	case Before, After, Between:
	case Unobservable:
		return Keep, "the host cannot be observed there now"
	case Foreign:
		return Quarantine, "the host is in a state that this operation does not explain"
	case Gone:
		if !c.Persistent {
			return Supersede, "the device is gone"
		}
		if !c.Absent {
			return Quarantine, "what it was to change is gone"
		}
		c.Class = Before
	default:
		return Keep, fmt.Sprintf("%q is no class of an operation", c.Class)
	}
	if c.State == journal.Reverting {
		return decideReverting(c)
	}
	return decideIntent(c)
}

func decideReverting(c Case) (Decision, string) {
	switch {
	case c.Class == Before:
		return Reverted, "the host is back at the state before"
	case c.Exhausted:
		return Quarantine, "reverting failed too often"
	case c.Crashed:
		return Quarantine, "reverting is not to be had: " + c.usedUp()
	}
	return Revert, "a revert, once begun, goes on"
}

func decideIntent(c Case) (Decision, string) {
	switch {
	case c.Class == After:
		return Done, "the host is at the state after"
	case c.Class == Before && c.Wanted == Withdrawn:
		return Reverted, "nothing was written and nobody wants it any more"
	case c.Class == Before && c.usedUp() != "":
		return Reverted, "nothing is written and " + c.usedUp()
	case c.Wanted == Withdrawn:
		return Revert, "half-way, and nobody wants it any more"
	case c.usedUp() != "":
		return Revert, "half-way, and " + c.usedUp()
	case c.Epoch == NewBoot && !c.Ready && c.Class == Between:
		return Revert, "half-way, and what it depends on is not there in this boot"
	case c.Class == Before:
		return Replay, "nothing was written and it is still wanted"
	}
	return Replay, "half-way, and still wanted"
}
