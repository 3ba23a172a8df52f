package entry

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"

	"eniagent/agent/source"
)

const (
	maxProblems = 100 // a file of garbage shall not fill a log
	maxShown    = 60  // characters of a value in a message
)

// problems collects everything wrong with one file.
type problems []*source.Problem

// add notes a problem with the value n.
func (ps *problems) add(line int, path string, n *yaml.Node, reason string) {
	*ps = append(*ps, &source.Problem{Line: line, Path: path, Value: shown(n), Reason: reason})
}

// err is nil without problems, else all of them in the order of the file, each
// on a line of its own behind the file's name.
func (ps problems) err(path string) error {
	slices.SortStableFunc(ps, func(a, b *source.Problem) int { return cmp.Compare(a.Line, b.Line) })
	var errs []error
	for i, p := range ps {
		if i == maxProblems {
			errs = append(errs, fmt.Errorf("%s: and %d more problems", path, len(ps)-i))
			break
		}
		errs = append(errs, fmt.Errorf("%s: %w", path, p))
	}
	return errors.Join(errs...)
}

// shown is a value as the file has it, on one line and not too long.
func shown(n *yaml.Node) string {
	switch {
	case n == nil:
		return ""
	case n.Kind == yaml.AliasNode:
		return "*" + n.Value
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.ShortTag() == "!!null":
		return "null"
	}
	v, more := n.Value, ""
	if r := []rune(v); len(r) > maxShown {
		v, more = string(r[:maxShown]), "..."
	}
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	if v == "" || n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 || strings.ContainsFunc(v, odd) {
		v = strconv.Quote(v)
	}
	return v + more
}

// nearest is the word that was probably meant, or "".
func nearest(word string, known []string) string {
	best, least := "", 3
	for _, k := range known {
		if strings.EqualFold(word, k) {
			return k
		}
		// Half a word changed is another word.
		if d := distance(word, k); d < least && 2*d < len(k) {
			best, least = k, d
		}
	}
	return best
}

// distance counts the letters to add, drop, replace or swap with their
// neighbour to turn a into b; words whose lengths differ much are just far.
func distance(a, b string) int {
	if n := len(a) - len(b); n > 2 || n < -2 {
		return 3
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
