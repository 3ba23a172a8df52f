package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"eniagent/agent"
)

func (c *cli) restartedCommand() *cobra.Command {
	return &cobra.Command{
		Use: "plugin-restarted NUMBER", Short: "Say that the SR-IOV device plugin was restarted",
		Long: `Say that the SR-IOV device plugin of this node was restarted. It reads its file only
when it starts, so each change of a pool owes it a restart, which agent status shows
with its NUMBER. What came to be owed after that number stays owed.`,
		Args: oneArg("the number that agent status shows"),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil {
				return usage(fmt.Errorf("%q is no number: agent status shows which is owed", args[0]))
			}
			var r agent.RestartReport
			query := url.Values{"number": {args[0]}, "who": {whoami()}}
			err = c.ask(cmd.Context(), "POST", "/plugin-restarted?"+query.Encode(), &r)
			if errors.Is(err, errNobody) {
				r, err = agent.PluginRestartedNow(cmd.Context(), c.options, number, whoami(), c.options.NewLogger(c.err), crashPoints)
			}
			if err != nil {
				return err
			}
			return c.print(r, func(w io.Writer) {
				if r.Owed == 0 {
					fmt.Fprintln(w, "Nothing is owed to the device plugin.")
					return
				}
				restartLine(w, &r)
			})
		},
	}
}

// restartLine says what the device plugin is owed.
func restartLine(w io.Writer, r *agent.RestartReport) {
	if r == nil {
		return
	}
	fmt.Fprintf(w, "RESTART OWED to the device plugin for %s, last as %s:\n", age(r.Since), r.Why)
	if !r.Automatic {
		fmt.Fprintf(w, "  restart it on this node, then: agent plugin-restarted %d\n", r.Number)
		return
	}
	if r.Waiting != "" {
		fmt.Fprintf(w, "  the agent sees to it, and waits for %s\n", r.Waiting)
	}
	if r.Error != "" {
		fmt.Fprintf(w, "  the agent could not: %s\n", r.Error)
	}
}
