package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"eniagent/agent"
)

type streams struct {
	in       *os.File
	out, err io.Writer
}

// cli is what all subcommands share.
type cli struct {
	streams
	options  agent.Options
	simulate bool
	output   string
}

const about = `agent configures a node's extra network interfaces: links, MTU, and binding PCI
functions to DPDK drivers. Everything it intends to do is durable in a journal
before the host is touched; after a crash or a reboot it recovers first.`

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, s streams) int {
	c := &cli{streams: s, options: agent.DefaultOptions()}
	c.options.Version = version
	root := c.root()
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	if asksJSON(args) {
		c.output = "json" // for an error in the flags, too
	}
	cmd, err := root.ExecuteContextC(ctx)
	err = c.damaged(cmd, err)
	c.printError(err)
	return exitCode(err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use: "agent", Short: "Configure extra network interfaces, crash-safe", Long: about + "\n\n" + exitStatus,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return c.prepare(cmd) },
		Version:           version,
	}
	root.SetVersionTemplate(versionLine() + "\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	f := root.PersistentFlags()
	f.StringVar(&c.options.StateDir, "state-dir", c.options.StateDir, "directory of journal, fences and control socket")
	f.StringVar(&c.options.Root, "root", c.options.Root, "where the host's file system is mounted")
	f.StringVar(&c.options.PodResources, "pod-resources", c.options.PodResources, "the kubelet's socket, by default below --root; empty where there is no kubelet any more")
	f.StringVar(&c.options.PluginFile, "device-plugin-config", c.options.PluginFile, "the SR-IOV device plugin's configuration, below --root; read only where pools are asked for")
	f.StringVarP(&c.output, "output", "o", "table", "table or json")
	f.BoolVar(&c.simulate, "simulate", false, "use a simulated node, which needs no root (development)")
	f.StringVar(&c.options.Simulate, "simulate-state", "", "its state file (default: sim.json in --state-dir)")
	root.AddCommand(
		c.runCommand(), c.planCommand(), c.statusCommand(), c.recoverCommand(), c.retryCommand(), c.journalCommand(),
		c.releaseCommand(), c.pauseCommand(), c.resumeCommand(), c.resolveCommand(), c.adoptCommand(),
		c.restartedCommand(), c.validateCommand(), c.inventoryCommand(), c.versionCommand(),
		c.writerCommand(), c.scanCommand(), c.simCommand(),
	)
	return root
}

// asksJSON says whether a command line asks for JSON, which its errors then
// are as well, even those that keep it from being understood.
func asksJSON(args []string) bool {
	for i, a := range args {
		switch {
		case a == "--":
			return false
		case a == "-ojson", a == "-o=json", a == "--output=json":
			return true
		case (a == "-o" || a == "--output") && i+1 < len(args) && args[i+1] == "json":
			return true
		}
	}
	return false
}

// prepare completes the flags that all commands have, and checks them.
func (c *cli) prepare(cmd *cobra.Command) error {
	c.simulated(cmd)
	bad := c.absolute()
	c.kubelet(cmd)
	if c.options.ConfigFile == stdin && cmd.Name() != "plan" {
		bad = errors.Join(bad, errors.New("--config -: only agent plan reads standard input: name the file"))
	}
	if c.output != "table" && c.output != "json" {
		bad = errors.Join(bad, fmt.Errorf("--output %s: want table or json", c.output))
	}
	if cmd.Name() == "run" {
		bad = errors.Join(bad, c.options.Validate())
	}
	if bad != nil {
		return usage(bad)
	}
	return nil
}

// simulated puts everything of a simulated node into one directory, unless a
// flag says otherwise.
func (c *cli) simulated(cmd *cobra.Command) {
	if c.options.Simulate != "" {
		c.simulate = true
	}
	if !c.simulate {
		return
	}
	if !cmd.Flags().Changed("state-dir") {
		c.options.StateDir = filepath.Join(os.TempDir(), "eniagent-simulated-"+strconv.Itoa(os.Geteuid()))
	}
	if c.options.Simulate == "" {
		c.options.Simulate = filepath.Join(c.options.StateDir, "sim.json")
	}
	if f := cmd.Flags().Lookup("config"); f != nil && !f.Changed {
		c.options.ConfigFile = filepath.Join(c.options.StateDir, "interfaces.yaml")
	}
}

// kubelet is the one of the host that is worked on, unless a flag says
// otherwise. A simulated node has none.
func (c *cli) kubelet(cmd *cobra.Command) {
	switch {
	case cmd.Flags().Changed("pod-resources"):
	case c.simulate:
		c.options.PodResources = ""
	default:
		c.options.PodResources = filepath.Join(c.options.Root, c.options.PodResources)
	}
}

// group is a command that only has subcommands: alone it tells of them, and
// one that it does not have is an error.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage(fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()))
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// configFlag is the flag of the commands that read the desired state.
func (c *cli) configFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&c.options.ConfigFile, "config", "c", c.options.ConfigFile, "file of the desired state")
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(fmt.Errorf("%s takes no arguments: %q", cmd.CommandPath(), args))
	}
	return nil
}

func oneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage(fmt.Errorf("%s wants one argument: %s", cmd.CommandPath(), name))
		}
		return nil
	}
}
