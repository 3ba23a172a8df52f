package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// simCommand plays the world around a simulated node: power, programs that
// hold devices, other tools, faults.
func (c *cli) simCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "sim", Short: "Play the world around a simulated node (development)",
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			c.simulate = true
			return c.prepare(cmd)
		},
	}
	on := func(fn func(*sim.File, []string) error) func(*cobra.Command, []string) error {
		return func(_ *cobra.Command, args []string) error {
			f, err := c.openSim()
			if err != nil {
				return err
			}
			return errors.Join(fn(f, args), f.Close())
		}
	}
	cmd.AddCommand(
		&cobra.Command{Use: "create", Short: "Make the simulated node, unless it is there", Args: noArgs, RunE: on(func(*sim.File, []string) error { return nil })},
		&cobra.Command{Use: "show", Short: "Print all state", Args: noArgs, RunE: on(func(f *sim.File, _ []string) error {
			_, err := fmt.Fprintln(c.out, f.String())
			return err
		})},
		&cobra.Command{Use: "writes", Short: "Print how many writes the agent has made", Args: noArgs, RunE: on(func(f *sim.File, _ []string) error {
			n, err := f.Writes()
			fmt.Fprintln(c.out, n)
			return err
		})},
		&cobra.Command{Use: "reboot", Short: "Cut the power and boot again", Args: noArgs, RunE: on(func(f *sim.File, _ []string) error { return f.Reboot() })},
		&cobra.Command{Use: "thaw", Short: "Let hung writes go on", Args: noArgs, RunE: on(func(f *sim.File, _ []string) error { return f.Thaw() })},
		&cobra.Command{Use: "unplug ADDRESS", Short: "Pull a function out", Args: oneArg("a PCI address"), RunE: on(func(f *sim.File, a []string) error { return f.Unplug(a[0]) })},
		&cobra.Command{Use: "plug ADDRESS", Short: "Put a function in again that was pulled out", Args: oneArg("a PCI address"), RunE: on(func(f *sim.File, a []string) error { return f.Replug(a[0]) })},
		&cobra.Command{Use: "hold ADDRESS", Short: "Hold a function's vfio group as a DPDK program would, until interrupted", Args: oneArg("a PCI address"), RunE: on(c.simHold)},
		c.simFileCommand(on), c.simFaultCommand(on), c.simWriteCommand(on), c.simSetCommand(on), c.simAilCommand(on), c.simCarrierCommand(on),
		c.simLinkCommand(on), c.simRouteCommand(on), c.simRuleCommand(on), c.simGroupCommand(on),
	)
	return group(cmd)
}

func (c *cli) openSim() (*sim.File, error) {
	k, _, err := c.options.OpenKernel()
	if err != nil {
		return nil, err
	}
	return k.(*sim.File), nil
}

func (c *cli) simHold(f *sim.File, args []string) error {
	if err := f.Hold(args[0], os.Getpid()); err != nil {
		return err
	}
	fmt.Fprintln(c.out, "held")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
	return f.Release(args[0], os.Getpid())
}

func (c *cli) simFaultCommand(on func(func(*sim.File, []string) error) func(*cobra.Command, []string) error) *cobra.Command {
	var fault sim.Fault
	var when, errno string
	cmd := &cobra.Command{
		Use: "fault LABEL", Short: "Make the next such call go wrong: " + strings.Join(sim.FaultLabels(), ", "), Args: oneArg("a label"),
		RunE: on(func(f *sim.File, args []string) error {
			fault.Label, fault.When = args[0], sim.When(when)
			if errno != "" {
				var known bool
				if fault.Errno, known = sim.Errno(errno); !known {
					return usage(fmt.Errorf("--errno %s: want a name such as EBUSY", errno))
				}
			}
			return f.Inject(fault)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&fault.Path, "path", "", "only where the path, target or value contains this")
	f.IntVar(&fault.Nth, "nth", 1, "which one from now")
	f.IntVar(&fault.Times, "times", 1, "how often; -1 for ever")
	f.StringVar(&when, "when", string(sim.Before), "before or after it is done")
	f.StringVar(&errno, "errno", "", "fail with this, such as EBUSY")
	f.BoolVar(&fault.Noop, "noop", false, "report success and do nothing")
	f.BoolVar(&fault.Hang, "hang", false, "hang until thaw")
	f.BoolVar(&fault.Crash, "crash", false, "kill the agent with SIGKILL")
	f.DurationVar(&fault.Slow, "slow", time.Duration(0), "take this long")
	return cmd
}

// simFileCommand puts a file there, as some other tool would.
func (c *cli) simFileCommand(on func(func(*sim.File, []string) error) func(*cobra.Command, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: "file PATH TEXT", Short: "Put a file on the node as another tool would",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usage(errors.New("agent sim file wants a path and a text"))
			}
			return nil
		},
		RunE: on(func(f *sim.File, args []string) error {
			if filepath.Ext(args[0]) == ".json" { // which the agent may write, too
				return f.WriteFile(args[0], args[1])
			}
			return f.Edit(func(cfg *sim.Config) error {
				cfg.Files[args[0]] = args[1]
				return nil
			})
		}),
	}
}

// simWriteCommand writes as some other tool would.
func (c *cli) simWriteCommand(on func(func(*sim.File, []string) error) func(*cobra.Command, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: "write PATH VALUE", Short: "Write a sysfs attribute as another tool would",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usage(errors.New("agent sim write wants a path and a value"))
			}
			return nil
		},
		RunE: on(func(f *sim.File, args []string) error {
			return f.Foreign(host.Call{Op: host.OpSysfs, Path: args[0], Value: args[1]})
		}),
	}
}

// simSetCommand sets what is no attribute in sysfs as some other tool would.
func (c *cli) simSetCommand(on func(func(*sim.File, []string) error) func(*cobra.Command, []string) error) *cobra.Command {
	return &cobra.Command{
		Use:   "set name|mac|mtu|altname|channels|rings|feature|vf.mac|vf.vlan|vf.trust|vf.spoofchk|vf.state|vf.rate ADDRESS VALUE",
		Short: "Set the netdev of a function, or what a PF keeps for its VF, as another tool would; name=on and name=off for a feature or a name",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 3 {
				return usage(errors.New("agent sim set wants what to set, a PCI address and a value"))
			}
			return nil
		},
		RunE: on(func(f *sim.File, args []string) error {
			call := host.Call{Op: host.Op(args[0]), Target: drivers.Target(args[1]), Value: args[2]}
			at, err := args[1], error(nil)
			if slices.Contains(host.VFOps(), call.Op) {
				if at, call.Number, err = pfOf(f, call.Target); err != nil {
					return err
				}
			}
			dev, err := host.NetdevOf(context.Background(), f, at)
			if err != nil {
				return err
			}
			call.Index = dev.Index
			switch call.Op {
			case host.OpMTU:
				call.Number, err = strconv.Atoi(args[2])
			case host.OpAltName, host.OpFeature:
				name, value, _ := strings.Cut(args[2], "=")
				call.Value, call.Number = name, map[string]int{"on": 1}[value]
			}
			if err != nil {
				return usage(err)
			}
			return f.Foreign(call)
		}),
	}
}

// pfOf is the physical function of a virtual one, and which of its VFs that is.
func pfOf(f *sim.File, vf drivers.Target) (string, int, error) {
	ctx := context.Background()
	physfn, err := f.Readlink(ctx, host.Attr(string(vf), "physfn"))
	if err != nil {
		return "", 0, fmt.Errorf("%s is no virtual function: %w", vf, err)
	}
	pf := path.Base(physfn)
	all, err := host.VFsOf(ctx, f, pf)
	return pf, slices.Index(all, vf), err
}
