package main

import "github.com/spf13/cobra"

// pathFlags are the flags that tell a command the management path. With an
// agent running its own hold; a command that does the work itself knows no more
// of the path than it is told, besides what the journal remembers.
func (c *cli) pathFlags(cmd *cobra.Command, when string) {
	o, f := &c.options, cmd.Flags()
	f.StringSliceVar(&o.NodeAddresses, "node-address", nil, when+"the node's own addresses; what carries them is never touched")
	f.StringSliceVar(&o.KeepReachable, "keep-reachable", nil, when+"addresses, such as the API server's, whose way is never touched")
	cmd.PreRunE = func(*cobra.Command, []string) error { return o.ValidateAddresses() }
	f.BoolVar(&o.WithoutDefault, "allow-without-default-route", false, when+"work on a node that has no default route, so that its management path cannot be told")
}

// alone is when the flags of a command matter that asks the running agent.
const alone = "with no agent running: "
