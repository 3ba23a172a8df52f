package walk

import (
	"fmt"
	"slices"
	"strings"
)

// Compare compares two traces of the same walks, the real kernel's and the
// simulated one's. Of each walk it has the first difference only: what comes
// after it follows from it. Steps is how many steps it has compared.
func Compare(machine, simulated []Line) (steps int, found []Difference) {
	walks, simulations := byWalk(machine), byWalk(simulated)
	for _, name := range names(machine, simulated) {
		one, other := walks[name], simulations[name]
		for i := range max(len(one), len(other)) {
			r, s := at(one, i), at(other, i)
			if r.Step > 0 {
				steps++
			}
			if r.Call != s.Call || r.Outcome != s.Outcome || !slices.Equal(r.Changed, s.Changed) {
				found = append(found, Difference{Real: r, Simulated: s, Before: one[:min(i, len(one))]})
				break
			}
		}
	}
	return steps, found
}

func at(lines []Line, i int) Line {
	if i < len(lines) {
		return lines[i]
	}
	return Line{Call: "(nothing)"}
}

func byWalk(lines []Line) map[string][]Line {
	walks := map[string][]Line{}
	for _, l := range lines {
		walks[l.Walk] = append(walks[l.Walk], l)
	}
	return walks
}

// names are the walks of both, in their order.
func names(traces ...[]Line) []string {
	var list []string
	seen := map[string]bool{}
	for _, t := range traces {
		for _, l := range t {
			if !seen[l.Walk] {
				list, seen[l.Walk] = append(list, l.Walk), true
			}
		}
	}
	return list
}

// Difference is the first step of a walk in which two machines differ, and
// what led there.
type Difference struct {
	Real, Simulated Line
	Before          []Line
}

// String tells it as a person would have to repeat it.
func (d Difference) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, step %d\n", max(d.Real.Walk, d.Simulated.Walk), max(d.Real.Step, d.Simulated.Step))
	for _, l := range d.Before {
		fmt.Fprintf(&b, "    %2d  %s: %s\n", l.Step, l.Call, l.Outcome)
	}
	b.WriteString(d.Real.against("real", d.Simulated))
	b.WriteString(d.Simulated.against("simulated", d.Real))
	return b.String()
}

// against is the line and what the other has not seen change.
func (l Line) against(whose string, other Line) string {
	s := fmt.Sprintf("  %s: %s: %s\n", whose, l.Call, l.Outcome)
	for _, c := range l.Changed {
		if !slices.Contains(other.Changed, c) {
			s += "      " + c + "\n"
		}
	}
	return s
}
