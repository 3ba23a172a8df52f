package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"eniagent/agent/source/file"
)

func (c *cli) validateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "validate FILE", Short: "Check a file of desired state without using it", Args: oneArg("a file of desired state"),
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read desired state: %w", err)
			}
			desired, err := file.Parse(args[0], data)
			if err != nil {
				return err
			}
			return c.print(desired, func(w io.Writer) {
				fmt.Fprintf(w, "%s: %s, valid.\n", args[0], count(len(desired.Interfaces), "interface", "interfaces"))
			})
		},
	}
}
