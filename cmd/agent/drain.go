package main

import (
	"context"
	"fmt"
	"io"

	"eniagent/agent"
	"eniagent/journal"
)

// drain shows the plan, asks, and finishes what is open; dry only shows. It
// does not go through a running agent, which would begin the next operation
// at once.
func (c *cli) drain(ctx context.Context, dry, yes bool) error {
	r, err := c.judged(ctx)
	switch {
	case err != nil:
		return err
	case dry:
		return c.showDrain(r)
	case r.Through == throughAgent:
		return fmt.Errorf("%w: an agent runs and answers on %s, and would begin more: stop it first", journal.ErrLocked, c.options.SocketPath())
	case len(r.Entries) > 0 && !yes:
		if c.output != "json" {
			drainTable(c.err, r)
		}
		if err := c.confirm("Do this?"); err != nil {
			return err
		}
	}
	r, err = agent.RecoverNow(ctx, c.options, c.options.NewLogger(c.err), crashPoints)
	if err != nil {
		return err
	}
	switch {
	case r.Damaged:
		return &agent.DamagedError{Text: "nothing was done: " + r.NotDone}
	case r.NotDone != "":
		return fmt.Errorf("nothing was done: %s", r.NotDone)
	}
	return c.showDrain(r)
}

// throughAgent is where a report comes from that the running agent made.
const throughAgent = "agent"

func (c *cli) showDrain(r agent.RecoverReport) error {
	if err := c.print(r, func(w io.Writer) { drainTable(w, r) }); err != nil {
		return err
	}
	left := error(nil)
	if r.DryRun && len(r.Entries) > 0 {
		left = errPending
	}
	for _, u := range r.Left {
		if u.Person {
			return errHuman
		}
		left = errPending
	}
	return left
}

func drainTable(w io.Writer, r agent.RecoverReport) {
	r.InQuarantine, r.Unreadable = nil, nil // told as left
	recoverTable(w, r)
	switch {
	case len(r.Left) > 0:
		fmt.Fprintln(w, "\nLeft, in the way of an older agent:")
		var rows [][]string
		for _, u := range r.Left {
			what := u.Record
			if what == "" {
				what = fmt.Sprintf("operation %d", u.Operation)
			}
			rows = append(rows, []string{"  " + what, u.Why})
		}
		columns(w, rows)
	case r.DryRun && len(r.Entries) > 0:
		fmt.Fprintln(w, "\nNothing would be left.")
	default:
		fmt.Fprintln(w, "\nDrained: an older agent finds nothing unfinished.")
	}
}
