package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"eniagent/journal"
)

func (c *cli) upgradeCommand() *cobra.Command {
	var dry, yes bool
	cmd := &cobra.Command{
		Use: "upgrade", Short: "Write the journal in the newest format; the agent must not be running", Args: noArgs,
		Long: `Write the journal anew in the newest format that this agent knows. Until then it is
written in the format that it has, so that an older agent can take over again; after
it, older agents refuse it. A copy of the journal as it was is kept beside it, one at
most. The plan is shown first.

To go back to an older agent without loss: agent recover --drain, then install it. The
copy only helps as long as no agent has run since: what came later is not in it.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.upgrade(cmd.Context(), dry, yes) },
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show the plan only")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// upgrade shows the plan, asks, and carries it out.
func (c *cli) upgrade(ctx context.Context, dry, yes bool) error {
	u, err := journal.PlanUpgrade(c.options.JournalDir())
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if !u.Needed() {
		return c.showUpgrade(u)
	}
	if dry {
		return pending(c.showUpgrade(u))
	}
	if !yes {
		upgradeTable(c.err, u)
		if err := c.confirm("Do this?"); err != nil {
			return err
		}
	}
	u, err = journal.Upgrade(ctx, journal.Options{
		Dir: c.options.JournalDir(), Version: version, LockTimeout: c.options.LockTimeout,
		Scan: journal.Reexec("/proc/self/exe", "journal-scan"),
	})
	if err != nil {
		return err
	}
	return c.showUpgrade(u)
}

func pending(err error) error {
	if err != nil {
		return err
	}
	return errPending
}

func (c *cli) showUpgrade(u journal.Upgraded) error {
	return c.print(u, func(w io.Writer) { upgradeTable(w, u) })
}

func upgradeTable(w io.Writer, u journal.Upgraded) {
	if !u.Needed() {
		fmt.Fprintf(w, "Nothing to do: format %d is the newest that this agent knows.\n", u.To)
		return
	}
	would, now, refuse := "would be", "now", "would refuse"
	if u.Done {
		would, now, refuse = "was", "before", "refuse"
	}
	fmt.Fprintf(w, "%s %s written anew in format %d, %s %d: %s, in one commit.\n", u.Path, would, u.To, now, u.From, count(u.Records, "record", "records"))
	fmt.Fprintf(w, "  copy    %s\n", u.Backup)
	for _, k := range u.Kept {
		fmt.Fprintf(w, "  kept    %s, from a newer agent\n", k)
	}
	fmt.Fprintf(w, "Agents that do not know format %d %s it.\n", u.To, refuse)
}
