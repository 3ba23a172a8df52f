package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"eniagent/agent"
	"eniagent/agent/engine"
)

func (c *cli) resolveCommand() *cobra.Command {
	q := agent.Resolution{}
	var accept, replay, revert, yes bool
	cmd := &cobra.Command{
		Use: "resolve OP --accept|--replay|--revert --reason TEXT", Short: "Decide about an operation in quarantine, or one that stays open",
		Long: `Decide about an operation in quarantine, or about one that stays open.

--accept  takes the host as it is
--replay  drives the host to the state after
--revert  drives the host to the state before

The operation is closed as resolved, with who decided and why. What is then written
is an operation of its own, from what is observed now, and passes every guard. What
is desired holds again afterwards.`,
		Args: oneArg("the number of an operation"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.Operation, err = strconv.ParseUint(args[0], 10, 64); err != nil {
				return usage(fmt.Errorf("%q is not the number of an operation", args[0]))
			}
			n := 0
			for how, given := range map[string]bool{agent.Accept: accept, agent.Replay: replay, agent.Revert: revert} {
				if given {
					q.How, n = how, n+1
				}
			}
			if n != 1 {
				return usage(errors.New("agent resolve wants exactly one of --accept, --replay and --revert"))
			}
			if q.Why == "" {
				return usage(errors.New("--reason is missing: say what was found and decided, it is kept in the journal"))
			}
			q.Who = whoami()
			return c.resolve(cmd.Context(), q, yes)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&accept, "accept", false, "take the host as it is")
	f.BoolVar(&replay, "replay", false, "drive the host to the state after")
	f.BoolVar(&revert, "revert", false, "drive the host to the state before")
	f.StringVar(&q.Why, "reason", "", "why; required, kept in the journal")
	f.BoolVar(&yes, "yes", false, "do not ask")
	c.pathFlags(cmd, alone)
	return cmd
}

func (c *cli) resolve(ctx context.Context, q agent.Resolution, yes bool) error {
	if !yes {
		q.Dry = true
		plan, err := c.decide(ctx, q)
		if err != nil {
			return err
		}
		if c.output != "json" {
			resolveTable(c.err, plan)
		}
		if err := c.confirm("Do this?"); err != nil {
			return err
		}
		q.Dry = false
	}
	r, err := c.decide(ctx, q)
	if err != nil {
		return err
	}
	if err := c.print(r, func(w io.Writer) { resolveTable(w, r) }); err != nil {
		return err
	}
	switch engine.Outcome(r.Outcome) {
	case engine.Done:
		return nil
	case engine.Kept:
		return errPending
	}
	return errHuman
}

// decide puts a decision to the running agent, or carries it out here.
func (c *cli) decide(ctx context.Context, q agent.Resolution) (r agent.ResolveReport, err error) {
	path := fmt.Sprintf("/operations/%d/resolve?%s", q.Operation, q.Query().Encode())
	if err = c.act(ctx, path, &r); !errors.Is(err, errNobody) {
		return r, err
	}
	options := c.options
	if q.Dry {
		options.LogLevel = "warn"
	}
	return agent.ResolveNow(ctx, options, q, options.NewLogger(c.err), crashPoints)
}

func resolveTable(w io.Writer, r agent.ResolveReport) {
	fmt.Fprintf(w, "Operation %d on %s, %s\n", r.Operation, text(r.Targets), r.State)
	keyTable(w, r.Keys, r.DryRun && slices.ContainsFunc(r.Keys, func(k agent.KeyReport) bool { return k.Found != "" }))
	fmt.Fprintf(w, "  decision    %s, by %s: %s\n", strings.ToUpper(r.How), r.Who, r.Why)
	for i, s := range r.Steps {
		fmt.Fprintf(w, "  step %-2d     %s %s: %s  ->  %s\n", i+1, s.Target, s.Kind, s.From, s.To)
	}
	if r.Next != 0 {
		fmt.Fprintf(w, "  operation   %d\n", r.Next)
	}
	for _, line := range [][2]string{{"outcome", r.Outcome}, {"error", r.Error}, {"note", r.Note}} {
		if line[1] != "" {
			fmt.Fprintf(w, "  %-11s %s\n", line[0], line[1])
		}
	}
}
