package journal

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// The tests that could go on for ever try some of the cases, other ones in each
// run, and print from which seed. A campaign tries all.

func campaign() bool { return os.Getenv("ENIAGENT_CAMPAIGN") == "1" }

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
