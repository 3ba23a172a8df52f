package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"eniagent/drivers/host/sim"
)

// simAilCommand makes a function ail, or well.
func (c *cli) simAilCommand(on func(func(*sim.File, []string) error) func(*cobra.Command, []string) error) *cobra.Command {
	var a sim.Ailment
	cmd := &cobra.Command{
		Use: "ail ADDRESS", Short: "Make a function ail; without flags, be well again", Args: oneArg("a PCI address"),
		RunE: on(func(f *sim.File, args []string) error { return f.Ail(args[0], a) }),
	}
	f := cmd.Flags()
	f.BoolVar(&a.Dead, "dead", false, "its config space reads as all ones")
	f.BoolVar(&a.NoNode, "no-node", false, "what programs open is not in /dev")
	f.IntVar(&a.Fatal, "fatal", 0, "its count of fatal AER errors")
	f.IntVar(&a.Speed, "speed", 0, "of its link in Mb/s, -1 is unknown")
	f.IntVar(&a.RxErrors, "rx-errors", 0, "its count of receive errors")
	return cmd
}

// simCarrierCommand plugs a cable in or out.
func (c *cli) simCarrierCommand(on func(func(*sim.File, []string) error) func(*cobra.Command, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: "carrier PORT on|off", Short: "Plug a cable in or out, of a netdev or a PCI address",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || args[1] != "on" && args[1] != "off" {
				return usage(errors.New("agent sim carrier wants a port, and on or off"))
			}
			return nil
		},
		RunE: on(func(f *sim.File, args []string) error {
			if err := f.SetCarrier(args[0], args[1] == "on"); err != nil {
				return fmt.Errorf("carrier of %s: %w", args[0], err)
			}
			return nil
		}),
	}
}
