// Package on switches one mutant on: the code that a test run of mutants is
// compiled from asks it at each place that can be wrong.
package on

import (
	"os"
	"strconv"
)

var mutant, _ = strconv.Atoi(os.Getenv("ENIAGENT_MUTANT")) //nolint:gochecknoglobals // read once, at each start

// This says whether the mutant is the one that is on; 0 is none.
func This(n int) bool { return n == mutant }

// Lost is the error, or nothing where the mutant is on.
func Lost(n int, err error) error {
	if This(n) {
		return nil
	}
	return err
}
