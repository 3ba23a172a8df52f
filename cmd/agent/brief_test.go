package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLongStatesAreBrief: what differs is there, and short states are as they are.
func TestLongStatesAreBrief(t *testing.T) {
	const on, off = "a=on b=on c=on d=on e=on f=on", "a=on b=on c=off d=on e=on f=on"
	for _, tc := range []struct{ states, want []string }{
		{[]string{"1500", "hidden", ""}, []string{"1500", "hidden", ""}},
		{[]string{"driver=igb override=-", "hidden"}, []string{"driver=igb override=-", "hidden"}},
		{[]string{on, "hidden", "hidden"}, []string{"a=on b=on ... 6 in all", "hidden", "hidden"}},
		{[]string{on, off, on}, []string{"c=on ... 6 in all", "c=off ... 6 in all", "c=on ... 6 in all"}},
		{[]string{on, on}, []string{"a=on b=on ... 6 in all", "a=on b=on ... 6 in all"}},
	} {
		if diff := cmp.Diff(tc.want, brief(tc.states...)); diff != "" {
			t.Errorf("%q:\n%s", tc.states, diff)
		}
	}
}
