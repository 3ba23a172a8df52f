package main

import (
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"eniagent/drivers/host"
	"eniagent/journal"
)

// childGC has a writer child collect its garbage early. It makes little, and there
// may be many of them.
const childGC = 20

// writerCommand is the life of a writer child. The agent starts it.
func (c *cli) writerCommand() *cobra.Command {
	var fenceDir string
	cmd := &cobra.Command{
		Use: "writer OWNER [FILE...]", Hidden: true, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			kernel, closeKernel, err := c.options.OpenKernel()
			if err != nil {
				return err
			}
			debug.SetGCPercent(childGC)
			if err := host.Serve(c.in, c.out, kernel, host.FencesIn(fenceDir), args[0], args[1:]...); err != nil {
				return err
			}
			return closeKernel()
		},
	}
	cmd.Flags().StringVar(&fenceDir, "fences", "", "directory of the fences")
	return cmd
}

// scanCommand reads a journal in a process of its own, so that whatever damage
// makes of the reader happens there.
func (c *cli) scanCommand() *cobra.Command {
	return &cobra.Command{
		Use: "journal-scan PATH", Hidden: true, Args: oneArg("the journal's file"),
		RunE: func(_ *cobra.Command, args []string) error {
			os.Exit(journal.ScanMain(args[0], c.err))
			return nil
		},
	}
}
