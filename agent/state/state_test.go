package state_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"eniagent/agent/state"
)

// TestTable holds the function against the table of the package comment, each
// pair of it.
func TestTable(t *testing.T) {
	text, err := os.ReadFile("state.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(l string) bool { return !strings.HasPrefix(l, "//\t") })
	told := map[state.State]bool{}
	for _, line := range lines {
		from, rest, ok := strings.Cut(strings.TrimPrefix(line, "//\t"), " to: ")
		if !ok {
			t.Fatalf("line %q", line)
		}
		s, follow := state.State(strings.TrimSpace(from)), strings.Fields(rest)
		told[s] = true
		for _, to := range state.States() {
			if legal := to == s || slices.Contains(follow, string(to)); state.Legal(s, to) != legal {
				t.Errorf("%s -> %s: the table says %t, and Legal %t", s, to, legal, state.Legal(s, to))
			}
		}
	}
	for _, s := range state.States() {
		if !told[s] {
			t.Errorf("the table does not have %s", s)
		}
	}
}

// TestEveryStateIsReachedAndLeft: none is a dead end, or out of reach.
func TestEveryStateIsReachedAndLeft(t *testing.T) {
	for _, s := range state.States() {
		if !state.Legal(state.Unknown, s) || !state.Legal(s, state.Unknown) {
			t.Errorf("%s is not reached from unknown, or not left for it", s)
		}
	}
}
