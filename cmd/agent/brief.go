package main

import (
	"fmt"
	"slices"
	"strings"
)

// briefWords is how many words are left of a long list of which nothing changes.
const briefWords = 2

// brief is states of one key, side by side in a table. Of long lists, such as
// those of features, they have what differs between them; agent journal show and
// -o json have all.
func brief(states ...string) []string {
	var long [][]string
	for _, s := range states {
		if words := strings.Fields(s); len(words) > shortList {
			long = append(long, words)
		}
	}
	cells := make([]string, 0, len(states))
	for _, s := range states {
		words := strings.Fields(s)
		if len(words) <= shortList {
			cells = append(cells, s)
			continue
		}
		said := slices.DeleteFunc(slices.Clone(words), func(w string) bool {
			return !slices.ContainsFunc(long, func(other []string) bool { return !slices.Contains(other, w) })
		})
		if len(said) == 0 {
			said = words[:briefWords]
		}
		said = said[:min(len(said), shortList)]
		cells = append(cells, fmt.Sprintf("%s ... %d in all", strings.Join(said, " "), len(words)))
	}
	return cells
}
