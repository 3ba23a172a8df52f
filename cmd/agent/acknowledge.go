package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/user"

	"github.com/spf13/cobra"
)

func (c *cli) acknowledgeCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "acknowledge", Short: "Take on that a damaged journal was replaced; the agent is ready again", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if reason == "" {
				return usage(errors.New("--reason is missing: say what was found and decided, it is kept in the journal"))
			}
			query := url.Values{"who": {whoami()}, "why": {reason}}
			err := c.ask(cmd.Context(), "POST", "/acknowledge?"+query.Encode(), &struct{}{})
			if errors.Is(err, errNobody) {
				return fmt.Errorf("%w on %s: start it first", err, c.options.SocketPath())
			}
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; required")
	return cmd
}

// whoami is who is at the keyboard, for the journal.
func whoami() string {
	who := "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	if sudo := os.Getenv("SUDO_USER"); sudo != "" && sudo != who {
		return who + " (sudo by " + sudo + ")"
	}
	return who
}
