package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"eniagent/drivers"
	specs "eniagent/drivers/all"
)

// print writes v as JSON, or lets table write it for people.
func (c *cli) print(v any, table func(io.Writer)) error {
	if c.output == "json" {
		e := json.NewEncoder(c.out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			return stream(fmt.Errorf("print: %w", err))
		}
		return nil
	}
	var b strings.Builder
	table(&b)
	if _, err := io.WriteString(c.out, b.String()); err != nil {
		return stream(fmt.Errorf("print: %w", err))
	}
	return nil
}

// columns aligns rows of cells.
func columns(w io.Writer, rows [][]string) {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		for i, cell := range r {
			if cell == "" {
				r[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	_ = tw.Flush() // into memory
	for line := range strings.Lines(b.String()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
}

// count is "1 write" or "2 writes".
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// byKind is a copy in the order in which kinds are registered, by target
// within one.
func byKind[T any](all []T, key func(T) drivers.Key) []T {
	place := map[drivers.Kind]int{}
	for i, s := range specs.Specs() {
		place[s.Kind] = i + 1
	}
	rank := func(k drivers.Kind) int {
		if p := place[k]; p > 0 {
			return p
		}
		return len(place) + 1 // of a newer agent
	}
	return slices.SortedStableFunc(slices.Values(all), func(a, b T) int {
		return cmp.Or(cmp.Compare(rank(key(a).Kind), rank(key(b).Kind)), key(a).Compare(key(b)))
	})
}

func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func text[T ~string](ts []T) string {
	var s []string
	for _, t := range ts {
		s = append(s, string(t))
	}
	return strings.Join(s, " ")
}
