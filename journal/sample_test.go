package journal

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// The tests that could go on for ever try some of the cases, other ones in each
// run, and print from which seed. A campaign tries all.

func campaign() bool { return os.Getenv("ENIAGENT_CAMPAIGN") == "1" }

// evidence is a line of the table of what was tried, printed at the end of a
// test: a failure is one violation at the least.
func evidence(t *testing.T, runs int, technique string, args ...any) {
	t.Helper()
	violations := 0
	if t.Failed() {
		violations = 1
	}
	t.Logf("evidence: journal's file | %s | %d | %d", fmt.Sprintf(technique, args...), runs, violations)
}

// seed is that of this run, or JOURNAL_SEED to repeat one.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := rand.Uint64N(1_000_000)
	if again, err := strconv.ParseUint(os.Getenv("JOURNAL_SEED"), 10, 64); err == nil {
		s = again
	}
	t.Logf("some of the cases, from JOURNAL_SEED=%d; all with ENIAGENT_CAMPAIGN=1", s)
	return s
}
