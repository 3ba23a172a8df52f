package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-kit/log"
	"github.com/spf13/cobra"

	"eniagent/agent"
	"eniagent/journal"
)

func (c *cli) releaseCommand() *cobra.Command {
	var o agent.Order
	var yes bool
	cmd := &cobra.Command{
		Use: "release TARGET... | --all", Short: "Give functions back for good: driver, MTU and state as they were",
		Long: `Give functions back: the driver, the MTU and the administrative state are restored
to what they were before the agent first touched them, and are left alone then. The
order outranks the desired state, across restarts and reboots, until it is cancelled
or the entry of that function is changed. A TARGET is a PCI address, or the name or
MAC of an interface. With no agent running it is done here, and the order is left in
the journal for the next.

--all is for an uninstall: everything that the agent touched since the machine was
booted is given back, modules and parameters too. Exits with 0 when all is back, 3
when something is held or pending, 4 when a person is needed.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Targets = args; len(args) == 0 != o.All {
				return usage(errors.New("agent release wants targets, or --all"))
			}
			if cmd.Flags().Changed("allow-management-path") && strings.TrimSpace(o.Allowed) == "" {
				return usage(errors.New(`--allow-management-path "": want the reason`))
			}
			o.Who = whoami()
			return c.order(cmd.Context(), verb{path: "/release", now: agent.ReleaseNow, question: "Do this?"}, o, yes)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.All, "all", false, "everything the agent touched, and everything that is asked for")
	f.BoolVar(&o.Cancel, "cancel", false, "cancel the order: what is asked holds again")
	f.StringVar(&o.Why, "reason", "", "why; kept in the journal")
	f.StringVar(&o.Allowed, "allow-management-path", "", "the reason for which functions that carry the management path may be given back too")
	f.BoolVar(&yes, "yes", false, "do not ask")
	c.pathFlags(cmd, alone)
	c.configFlag(cmd)
	return cmd
}

// verb is one of the commands that give standing orders.
type verb struct {
	path     string // on the control socket
	now      func(context.Context, agent.Options, agent.Order, log.Logger, func(*journal.Options)) (agent.OrderReport, error)
	question string
}

// order shows what an order would do, asks, and gives it.
func (c *cli) order(ctx context.Context, v verb, o agent.Order, yes bool) error {
	if !yes {
		o.Dry = true
		plan, err := c.give(ctx, v, o)
		if err != nil {
			return err
		}
		if c.output != "json" {
			orderTable(c.err, plan)
		}
		if err := c.confirm(v.question); err != nil {
			return err
		}
		o.Dry = false
	}
	r, err := c.give(ctx, v, o)
	if err != nil {
		return err
	}
	if err := c.print(r, func(w io.Writer) { orderTable(w, r) }); err != nil {
		return err
	}
	return orderError(r)
}

// give gives an order to the running agent, or carries it out here.
func (c *cli) give(ctx context.Context, v verb, o agent.Order) (r agent.OrderReport, err error) {
	err = c.act(ctx, v.path+"?"+o.Query().Encode(), &r)
	if !errors.Is(err, errNobody) {
		return r, err
	}
	options := c.options
	if o.Dry {
		options.LogLevel = "warn"
	}
	return v.now(ctx, options, o, options.NewLogger(c.err), crashPoints)
}

// orderError says whether all that was ordered is as ordered.
func orderError(r agent.OrderReport) error {
	left := error(nil)
	for _, e := range r.Entries {
		switch {
		case r.Action == "cancel" || r.Action == "resume":
		case e.Condition == agent.Failed || e.Condition == agent.Quarantined || e.Condition == agent.Refused && !e.Ordered:
			return errHuman
		case e.Condition != agent.Released && r.Action == "release", e.Condition != agent.Paused && r.Action == "pause":
			left = errPending
		}
	}
	return left
}

func orderTable(w io.Writer, r agent.OrderReport) {
	if len(r.Entries) == 0 {
		fmt.Fprintln(w, "There is nothing to give back.")
		return
	}
	rows := [][]string{{"TARGET", "ENTRY", "CONDITION", "STEP", "REASON"}}
	for _, e := range r.Entries {
		target := string(e.Target)
		if target == "" {
			target = "whole node"
		}
		row := []string{target, e.Entry, string(e.Condition), "", e.Reason}
		if !r.DryRun && r.Action == "release" || len(e.Steps) == 0 {
			rows = append(rows, row)
			continue
		}
		for i, s := range e.Steps {
			if i > 0 {
				row = []string{" ", " ", " ", "", " "}
			}
			row[3] = fmt.Sprintf("%s: %s  ->  %s", s.Kind, s.From, s.To)
			rows = append(rows, row)
		}
	}
	columns(w, rows)
	if r.DryRun {
		fmt.Fprintln(w)
	}
}

func (c *cli) pauseCommand() *cobra.Command {
	var o agent.Order
	var yes bool
	cmd := &cobra.Command{
		Use: "pause [TARGET]", Short: "Leave a function, or the whole node, as it is until agent resume",
		Long: `Leave a function, or without a TARGET the whole node, as it is: nothing is begun,
replayed or reverted there, across restarts and reboots, until agent resume. What is
under way is finished first.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(errors.New("agent pause wants at most one target"))
			}
			if o.Why == "" {
				return usage(errors.New("--reason is missing: say why, whoever finds it paused will want to know"))
			}
			o.Targets, o.Who = args, whoami()
			return c.order(cmd.Context(), verb{path: "/pause", now: agent.PauseNow, question: "Pause this?"}, o, yes)
		},
	}
	cmd.Flags().StringVar(&o.Why, "reason", "", "why; required, kept in the journal")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (c *cli) resumeCommand() *cobra.Command {
	var o agent.Order
	var yes bool
	cmd := &cobra.Command{
		Use: "resume [TARGET]", Short: "End a pause",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(errors.New("agent resume wants at most one target"))
			}
			o.Targets, o.Who = args, whoami()
			return c.order(cmd.Context(), verb{path: "/resume", now: agent.ResumeNow, question: "Go on with this?"}, o, yes)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
