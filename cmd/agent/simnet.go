package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// simLinkCommand makes a netdev as some other tool would.
func (c *cli) simLinkCommand(on func(func(*sim.File, []string) error) func(*cobra.Command, []string) error) *cobra.Command {
	var n sim.Netdev
	var remotes, defaults []string
	var open bool
	cmd := &cobra.Command{
		Use: "link NAME", Short: "Add a netdev, or give one another master, addresses or namespace, as another tool would", Args: oneArg("a name"),
		RunE: on(func(f *sim.File, args []string) error {
			n.Name, n.Up = args[0], true
			if open || len(remotes) > 0 {
				n.Tunnel = &host.Tunnel{To: remotes, Open: open}
			}
			for _, a := range append(append([]string{}, n.Addresses...), remotes...) {
				if _, err := netip.ParseAddr(a); err != nil {
					return usage(fmt.Errorf("%q is not an IP address", a))
				}
			}
			for _, family := range defaults {
				if family != "IPv4" && family != "IPv6" {
					return usage(fmt.Errorf("--default %s: want IPv4 or IPv6", family))
				}
				n.Defaults = append(n.Defaults, host.Default{Family: family, Table: host.TableMain})
			}
			return f.AddLink(n)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&n.Kind, "kind", "", "as ip link has it: bond, bridge, vlan, macvlan, veth, vxlan, or openvswitch, for one")
	f.StringVar(&n.Lower, "lower", "", "the netdev that it sits on")
	f.StringVar(&n.Master, "master", "", "the bond, bridge or ovs-system that it is a member of")
	f.StringVar(&n.Peer, "peer", "", "the other end of a veth")
	f.StringVar(&n.Netns, "netns", "", "another network namespace that it is in")
	f.BoolVar(&n.Elsewhere, "elsewhere", false, "its lower device or other end is in another network namespace")
	f.StringSliceVar(&n.Addresses, "address", nil, "an IP address that it has")
	f.StringSliceVar(&defaults, "default", nil, "a default route leaves by it: IPv4 or IPv6")
	f.StringSliceVar(&remotes, "remote", nil, "the far end of a tunnel")
	f.BoolVar(&open, "open", false, "the far end of a tunnel is not known")
	return cmd
}

// simGroupCommand puts functions into one IOMMU group, as a port without ACS
// above them does.
func (c *cli) simGroupCommand(on func(func(*sim.File, []string) error) func(*cobra.Command, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: "group NUMBER ADDRESS...", Short: "Put functions into one IOMMU group",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(errors.New("agent sim group wants a number and PCI addresses"))
			}
			return nil
		},
		RunE: on(func(f *sim.File, args []string) error {
			return f.Edit(func(cfg *sim.Config) error {
				for _, address := range args[1:] {
					at := slices.IndexFunc(cfg.Devices, func(d sim.Device) bool { return d.Address == address })
					if at < 0 {
						return usage(fmt.Errorf("no function %s", address))
					}
					cfg.Devices[at].IOMMUGroup = args[0]
				}
				return nil
			})
		}),
	}
}

// simRouteCommand adds a route as some other tool would.
func (c *cli) simRouteCommand(on func(func(*sim.File, []string) error) func(*cobra.Command, []string) error) *cobra.Command {
	var r sim.Route
	cmd := &cobra.Command{
		Use: "route PREFIX DEV...", Short: "Add a route as another tool would",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(errors.New("agent sim route wants a prefix and the netdevs that it leaves by"))
			}
			return nil
		},
		RunE: on(func(f *sim.File, args []string) error {
			r.To, r.Dev = args[0], args[1:]
			return f.AddRoute(r)
		}),
	}
	cmd.Flags().IntVar(&r.Table, "table", host.TableMain, "its table")
	cmd.Flags().IntVar(&r.Metric, "metric", 0, "its metric")
	return cmd
}

// simRuleCommand adds a routing rule as some other tool would.
func (c *cli) simRuleCommand(on func(func(*sim.File, []string) error) func(*cobra.Command, []string) error) *cobra.Command {
	r := host.Rule{Suppress: -1}
	var to string
	cmd := &cobra.Command{
		Use: "rule", Short: "Add a routing rule as another tool would", Args: noArgs,
		RunE: on(func(f *sim.File, _ []string) (err error) {
			if to != "" {
				if r.To, err = netip.ParsePrefix(to); err != nil {
					return usage(fmt.Errorf("--to: %w", err))
				}
				r.IPv6 = r.To.Addr().Is6()
			}
			return f.AddRule(r)
		}),
	}
	f := cmd.Flags()
	f.IntVar(&r.Priority, "priority", 100, "its priority")
	f.IntVar(&r.Table, "table", host.TableMain, "the table that is looked into")
	f.StringVar(&to, "to", "", "for packets to this prefix only")
	f.BoolVar(&r.Depends, "mark", false, "for packets with a mark only")
	return cmd
}
