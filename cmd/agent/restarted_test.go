package main

import (
	"strings"
	"testing"
	"time"

	"eniagent/agent"
)

// TestWhatIsOwedToThePlugin says who is to do what about it.
func TestWhatIsOwedToThePlugin(t *testing.T) {
	owed := agent.RestartReport{Owed: 2, Number: 7, Why: "operation 3", Since: time.Now()}
	automatic := owed
	automatic.Automatic, automatic.Waiting, automatic.Error = true, "the end of pod a", "forbidden"
	for want, r := range map[string]*agent.RestartReport{
		"agent plugin-restarted 7": &owed,
		"\n  the agent sees to it, and waits for the end of pod a\n  the agent could not: forbidden\n": &automatic,
		"": nil,
	} {
		var b strings.Builder
		restartLine(&b, r)
		if !strings.Contains(b.String(), want) || r != nil && r.Automatic == strings.Contains(b.String(), "plugin-restarted") || r == nil && b.Len() > 0 {
			t.Errorf("it says %q, want %q", b.String(), want)
		}
	}
}
