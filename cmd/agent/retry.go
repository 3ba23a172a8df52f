package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"

	"github.com/spf13/cobra"
)

func (c *cli) retryCommand() *cobra.Command {
	return &cobra.Command{
		Use: "retry [TARGET]", Short: "Forget failures, so that what was given up is tried again",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(errors.New("agent retry wants at most one target"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{}
			if len(args) == 1 {
				query.Set("target", args[0])
			}
			var answer struct {
				Cleared int `json:"cleared"`
			}
			err := c.ask(cmd.Context(), "POST", "/retry?"+query.Encode(), &answer)
			if errors.Is(err, errNobody) {
				return fmt.Errorf("%w on %s: start it first", err, c.options.SocketPath())
			}
			if err != nil {
				return err
			}
			return c.print(answer, func(w io.Writer) { fmt.Fprintf(w, "%s forgotten.\n", count(answer.Cleared, "failure", "failures")) })
		},
	}
}
