package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"eniagent/agent"
	"eniagent/drivers"
	"eniagent/journal"
)

func (c *cli) adoptCommand() *cobra.Command {
	q := agent.Adoption{}
	var given []string
	var yes bool
	cmd := &cobra.Command{
		Use: "adopt", Short: "Take on functions that another tool bound, so that they can be released", Args: noArgs,
		Long: `Take on what another tool has bound to a userspace driver. For each such function the
journal keeps what agent release gives it back to: the driver that the kernel would
bind by itself, or the one given. Nothing is written to the host. What differs from
the desired state, stale overrides and leftovers of other tools are shown, with what
to do about them; so are pools of the device plugin's file that are asked for and not
the agent's. The agent must not be running.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q.Who, q.Baselines = whoami(), map[drivers.Target]string{}
			for _, g := range given {
				address, driver, _ := strings.Cut(g, "=")
				t, err := drivers.PCI(address)
				if err != nil || driver == "" {
					return usage(fmt.Errorf("--baseline %s: want TARGET=DRIVER, such as 0000:3b:00.0=igb", g))
				}
				q.Baselines[t] = driver
			}
			return c.adopt(cmd.Context(), q, yes)
		},
	}
	cmd.Flags().StringArrayVar(&given, "baseline", nil, "TARGET=DRIVER: what release gives this function back to")
	cmd.Flags().StringArrayVar(&q.Pools, "pool", nil, "prefix/name: a pool in the device plugin's file that is the agent's from now on")
	cmd.Flags().StringVar(&q.Why, "reason", "", "why; kept in the journal")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.configFlag(cmd)
	return cmd
}

func (c *cli) adopt(ctx context.Context, q agent.Adoption, yes bool) error {
	if err := c.ask(ctx, "GET", "/status", &agent.Status{}); !errors.Is(err, errNobody) {
		return fmt.Errorf("an agent answers on %s: stop it first: %w", c.options.SocketPath(), errors.Join(journal.ErrLocked, err))
	}
	options := c.options
	options.LockTimeout = time.Second
	options.LogLevel = "warn"
	plan := q
	plan.Dry = true
	r, err := agent.AdoptNow(ctx, options, plan, options.NewLogger(c.err), crashPoints)
	if err != nil {
		return err
	}
	adopts := false
	for _, f := range r.Functions {
		adopts = adopts || f.Adopted
	}
	for _, p := range r.Pools {
		adopts = adopts || p.Adopted
	}
	if adopts && !yes {
		if c.output != "json" {
			adoptTable(c.err, r)
		}
		if err := c.confirm("Adopt these?"); err != nil {
			return err
		}
	}
	if adopts {
		if r, err = agent.AdoptNow(ctx, options, q, options.NewLogger(c.err), crashPoints); err != nil {
			return err
		}
	}
	r.DryRun = false
	if err := c.print(r, func(w io.Writer) { adoptTable(w, r) }); err != nil {
		return err
	}
	for _, f := range r.Functions {
		if f.Baseline == "" && drivers.Userspace(f.Driver) {
			return errHuman
		}
	}
	return nil
}

func adoptTable(w io.Writer, r agent.AdoptReport) {
	if len(r.Functions)+len(r.Pools)+len(r.Leftovers) == 0 {
		fmt.Fprintln(w, "No other hand is to be seen on this node.")
		return
	}
	if len(r.Functions) > 0 {
		rows := [][]string{{"TARGET", "DRIVER", "OVERRIDE", "ASKED FOR", "IS", "GIVEN BACK TO", "SAYS", "REMEDY"}}
		for _, f := range r.Functions {
			rows = append(rows, []string{string(f.Target), f.Driver, f.Override, f.Wanted, f.Verdict, f.Baseline, f.From, f.Remedy})
		}
		columns(w, rows)
	}
	if len(r.Pools) > 0 {
		rows := [][]string{{"POOL", "FILE", "NAMES", "IS", "REMEDY"}}
		for _, p := range r.Pools {
			is := "another hand's"
			if p.Adopted {
				is = "the agent's from now on"
			}
			rows = append(rows, []string{p.Pool, p.File, text(p.Names), is, p.Remedy})
		}
		columns(w, rows)
	}
	if len(r.Leftovers) > 0 {
		fmt.Fprintln(w, "\nLeft by other tools, and not touched:")
		rows := [][]string{{"PATH", "TOOL", "FOUND", "REMEDY"}}
		for _, l := range r.Leftovers {
			rows = append(rows, []string{l.Path, l.Tool, l.Found, l.Remedy})
		}
		columns(w, rows)
	}
}
