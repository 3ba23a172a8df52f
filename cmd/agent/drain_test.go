package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"eniagent/agent"
	"eniagent/journal"
	"eniagent/recovery"
)

func TestDrainEndsWithZeroOnlyWhenNothingIsLeft(t *testing.T) {
	entry := []agent.RecoverEntry{{Operation: 7, Decision: recovery.Replay}}
	for name, tc := range map[string]struct {
		report agent.RecoverReport
		want   error
		says   string
	}{
		"nothing":   {agent.RecoverReport{}, nil, "Drained: an older agent finds nothing unfinished."},
		"done":      {agent.RecoverReport{Entries: entry}, nil, "Drained"},
		"planned":   {agent.RecoverReport{DryRun: true, Entries: entry}, errPending, "Nothing would be left."},
		"held":      {agent.RecoverReport{Left: []agent.Unfinished{{Operation: 7, Why: "held"}}}, errPending, "operation 7  held"},
		"to decide": {agent.RecoverReport{Left: []agent.Unfinished{{Operation: 7, Person: true}, {Operation: 8, Why: "held"}}}, errHuman, "operation 7"},
		"newer":     {agent.RecoverReport{Left: []agent.Unfinished{{Record: "open/9", Why: "newer", Person: true}}}, errHuman, "open/9"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			c := &cli{streams: streams{out: &out}, output: "table"}
			if err := c.showDrain(tc.report); !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			if !strings.Contains(out.String(), tc.says) {
				t.Errorf("says %q, want %q", out.String(), tc.says)
			}
		})
	}
}

// What an upgrade says before and after; no agent has a second format yet.
func TestUpgradeIsTold(t *testing.T) {
	u := journal.Upgraded{Path: "journal.db", From: 1, To: 2, Records: 12, Backup: "journal.db.before-upgrade", Kept: []string{"open/9"}}
	var out bytes.Buffer
	upgradeTable(&out, u)
	u.Done = true
	upgradeTable(&out, u)
	const want = `journal.db would be written anew in format 2, now 1: 12 records, in one commit.
  copy    journal.db.before-upgrade
  kept    open/9, from a newer agent
Agents that do not know format 2 would refuse it.
journal.db was written anew in format 2, before 1: 12 records, in one commit.
  copy    journal.db.before-upgrade
  kept    open/9, from a newer agent
Agents that do not know format 2 refuse it.
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestRecoverNeedsAPersonForANewerAgentsOperation(t *testing.T) {
	c := &cli{streams: streams{out: new(bytes.Buffer)}, output: "table"}
	err := c.showRecovery(agent.RecoverReport{Left: []agent.Unfinished{{Record: "open/9", Person: true}}})
	if !errors.Is(err, errHuman) {
		t.Errorf("error %v", err)
	}
	if err := c.showRecovery(agent.RecoverReport{}); err != nil {
		t.Errorf("error %v", err)
	}
}
