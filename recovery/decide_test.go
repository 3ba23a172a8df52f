package recovery

import (
	"fmt"
	"strings"
	"testing"

	"eniagent/journal"
)

// TestDecideTable is the table of the package comment, row by row.
func TestDecideTable(t *testing.T) {
	intent, reverting := journal.Intent, journal.Reverting
	tests := []struct {
		name string
		c    Case
		want Decision
	}{
		{"before, wanted", Case{State: intent, Class: Before, Wanted: StillWanted}, Replay},
		{"before, unknown", Case{State: intent, Class: Before, Wanted: Unsure}, Replay},
		{"before, withdrawn", Case{State: intent, Class: Before, Wanted: Withdrawn}, Reverted},
		{"before, attempts used up", Case{State: intent, Class: Before, Wanted: StillWanted, Exhausted: true}, Reverted},
		{"before, reverting", Case{State: reverting, Class: Before, Wanted: StillWanted}, Reverted},
		{"between, wanted", Case{State: intent, Class: Between, Wanted: StillWanted}, Replay},
		{"between, unknown", Case{State: intent, Class: Between, Wanted: Unsure}, Replay},
		{"between, withdrawn", Case{State: intent, Class: Between, Wanted: Withdrawn}, Revert},
		{"between, attempts used up", Case{State: intent, Class: Between, Wanted: StillWanted, Exhausted: true}, Revert},
		{"between, reverting", Case{State: reverting, Class: Between, Wanted: StillWanted}, Revert},
		{"between, reverting, used up", Case{State: reverting, Class: Between, Exhausted: true}, Quarantine},
		{"after", Case{State: intent, Class: After, Wanted: StillWanted}, Done},
		{"after, withdrawn", Case{State: intent, Class: After, Wanted: Withdrawn}, Done},
		{"after, reverting", Case{State: reverting, Class: After, Wanted: StillWanted}, Revert},
		{"foreign", Case{State: intent, Class: Foreign, Wanted: StillWanted}, Quarantine},
		{"foreign, reverting", Case{State: reverting, Class: Foreign}, Quarantine},
		{"gone", Case{State: intent, Class: Gone}, Supersede},
		{"unobservable", Case{State: intent, Class: Unobservable}, Keep},
		{"new boot, persistent, before", Case{State: intent, Class: Before, Epoch: NewBoot, Persistent: true, Wanted: StillWanted}, Replay},
		{"new boot, persistent, between, ready", Case{State: intent, Class: Between, Epoch: NewBoot, Persistent: true, Wanted: StillWanted, Ready: true}, Replay},
		{"new boot, persistent, between, not ready", Case{State: intent, Class: Between, Epoch: NewBoot, Persistent: true, Wanted: StillWanted}, Revert},
		{"new boot, persistent, after", Case{State: intent, Class: After, Epoch: NewBoot, Persistent: true}, Done},
		{"new boot, persistent, foreign", Case{State: intent, Class: Foreign, Epoch: NewBoot, Persistent: true}, Quarantine},
		{"new boot, persistent, gone, was absent", Case{State: intent, Class: Gone, Epoch: NewBoot, Persistent: true, Absent: true, Wanted: Withdrawn}, Reverted},
		{"new boot, persistent, gone, was there", Case{State: intent, Class: Gone, Epoch: NewBoot, Persistent: true}, Quarantine},
		{"new boot, persistent, unobservable", Case{State: intent, Class: Unobservable, Epoch: NewBoot, Persistent: true}, Keep},
		{"other machine, persistent", Case{State: intent, Class: Before, Epoch: OtherMachine, Persistent: true, Wanted: StillWanted}, Quarantine},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if tc.c.Epoch == "" {
				tc.c.Epoch = SameBoot
			}
			if got, why := Decide(tc.c); got != tc.want || why == "" {
				t.Errorf("Decide(%+v) = %s (%s), want %s", tc.c, got, why, tc.want)
			}
			// An engineer in an incident believes it.
			if _, why := Decide(tc.c); tc.c.Class == Before && strings.Contains(why, "half-way") || tc.c.Class == Between && strings.Contains(why, "nothing") {
				t.Errorf("Decide(%+v) says %q", tc.c, why)
			}
		})
	}
}

// eachCase is every case there is.
func eachCase(fn func(Case)) {
	for _, state := range []journal.OperationState{journal.Intent, journal.Reverting, journal.Done, journal.Quarantined, "nonsense"} {
		for _, class := range []Class{Before, After, Between, Foreign, Gone, Unobservable} {
			for _, epoch := range []Epoch{SameBoot, NewBoot, OtherMachine} {
				for _, wanted := range []Wanted{StillWanted, Withdrawn, Unsure} {
					for bits := range 32 {
						fn(Case{
							State: state, Class: class, Epoch: epoch, Wanted: wanted, Persistent: bits&8 != 0,
							Absent: bits&1 != 0, Ready: bits&2 != 0, Exhausted: bits&4 != 0, Crashed: bits&16 != 0,
						})
					}
				}
			}
		}
	}
}

// decider is Decide, or a broken variant of it.
type decider func(Case) (Decision, string)

// rules are what must hold for every case, by name.
func rules() map[string]func(Case, Decision) bool {
	return map[string]func(Case, Decision) bool{
		"never writes where the host is not explained": func(c Case, d Decision) bool {
			return !d.Writes() || c.Class != Foreign && c.Class != Unobservable
		},
		"never writes volatile keys of another boot or machine": func(c Case, d Decision) bool {
			return !d.Writes() || c.Epoch == SameBoot || c.Persistent
		},
		"never writes after a disk was cloned": func(c Case, d Decision) bool {
			return !d.Writes() || c.Epoch != OtherMachine
		},
		"a revert is one-way": func(c Case, d Decision) bool {
			return c.State != journal.Reverting || d != Replay && d != Done
		},
		"done only where the host was seen at After": func(c Case, d Decision) bool {
			return d != Done || c.Class == After
		},
		"reverted only where the host was seen at Before": func(c Case, d Decision) bool {
			return d != Reverted || c.Class == Before || c.Class == Gone && c.Absent
		},
		"unobservable stays open in the same boot": func(c Case, d Decision) bool {
			return c.Class != Unobservable || c.Epoch != SameBoot || d == Keep
		},
		"attempts are bounded": func(c Case, d Decision) bool {
			return !c.Exhausted && !c.Crashed || d != Replay && (c.State != journal.Reverting || d != Revert)
		},
		"what is closed stays as it is": func(c Case, d Decision) bool {
			return c.State.Open() || d == Keep
		},
		"what nobody wants is not replayed": func(c Case, d Decision) bool {
			return c.Wanted != Withdrawn || d != Replay
		},
	}
}

func brokenRules(decide decider) []string {
	broken := map[string]bool{}
	eachCase(func(c Case) {
		d, _ := decide(c)
		for name, holds := range rules() {
			if !holds(c, d) {
				broken[name] = true
			}
		}
	})
	var names []string
	for n := range broken {
		names = append(names, n)
	}
	return names
}

func TestDecideKeepsItsRulesInEveryCase(t *testing.T) {
	n := 0
	eachCase(func(c Case) {
		n++
		first, why := Decide(c)
		if again, _ := Decide(c); again != first || why == "" {
			t.Fatalf("Decide(%+v) is not a function with a reason", c)
		}
	})
	if broken := brokenRules(Decide); len(broken) > 0 {
		t.Errorf("broken over %d cases: %q", n, broken)
	}
}

// TestBrokenDecisionsAreCaught holds the rules against tables that are wrong
// in one place each.
func TestBrokenDecisionsAreCaught(t *testing.T) {
	variants := map[string]decider{
		"foreign overwritten": func(c Case) (Decision, string) {
			if c.Class == Foreign {
				c.Class = Between
			}
			return Decide(c)
		},
		"revert on another boot": func(c Case) (Decision, string) {
			if c.State == journal.Intent && c.Epoch == NewBoot && c.Class == Between {
				return Revert, "broken"
			}
			return Decide(c)
		},
		"revert not one-way": func(c Case) (Decision, string) {
			if c.State == journal.Reverting {
				c.State = journal.Intent
			}
			return Decide(c)
		},
		"done before observed": func(c Case) (Decision, string) {
			if c.Class == Between {
				return Done, "broken"
			}
			return Decide(c)
		},
		"attempts without bound": func(c Case) (Decision, string) {
			c.Exhausted = false
			return Decide(c)
		},
		"crashes without bound": func(c Case) (Decision, string) {
			c.Crashed = false
			return Decide(c)
		},
		"fenced concluded on": func(c Case) (Decision, string) {
			if c.Class == Unobservable {
				c.Class = Between
			}
			return Decide(c)
		},
		"cloned disk believed": func(c Case) (Decision, string) {
			if c.Epoch == OtherMachine {
				c.Epoch = SameBoot
			}
			return Decide(c)
		},
	}
	for name, decide := range variants {
		t.Run(name, func(t *testing.T) {
			if len(brokenRules(decide)) == 0 {
				t.Error("no rule is broken: the suite would not notice")
			}
		})
	}
}

func ExampleDecide() {
	fmt.Println(Decide(Case{State: journal.Intent, Class: Between, Epoch: SameBoot, Wanted: Withdrawn}))
	// Output: revert half-way, and nobody wants it any more
}
