package agent

import (
	"time"

	"eniagent/journal"
)

// Times in the journal are of the wall clock, which may be set back, by an hour or
// by years: a node without a battery begins in 1970 at each boot, until it hears
// the time. So no time of a record is waited for as such; it says how long a pause
// was, and how much of it is over by now at most. What a record says of the future
// was written before the clock was set back.

// putOffUntil is when a goal may be tried again that failed before, by a clock
// that nobody sets; zero when it may be now. began is when this process began to
// wait: where the clock was set back nobody knows how much of the pause is over,
// and all of it is waited for from there.
func putOffUntil(f journal.Failure, began, now time.Time) time.Time {
	if f.Until.IsZero() {
		return time.Time{}
	}
	at := now.Add(f.Until.Sub(now))
	if f.Updated.After(now) {
		at = began.Add(max(f.Until.Sub(f.Updated), 0))
	} else if longest := f.Updated.Add(longestPause); f.Until.After(longest) {
		at = now.Add(longest.Sub(now))
	}
	if !at.After(now) {
		return time.Time{}
	}
	return at
}

// longestPause is more than the engine ever puts a goal off.
const longestPause = 25 * time.Hour

// within says that something of a record was less than a window ago. What was
// later than now was before the clock was set back: it says nothing of what
// happens now.
func within(at, now time.Time, window time.Duration) bool {
	age := now.Sub(at)
	return age >= 0 && age <= window
}
