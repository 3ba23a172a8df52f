package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"eniagent/agent"
)

func (c *cli) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "run", Short: "Recover, then keep the host as desired", Args: noArgs,
		Long: `Run the agent: recover what an earlier one left unfinished, then keep the host as
the desired state asks. SIGTERM finishes the step in flight and leaves bound
functions alone, unless --on-stop or onStop of an entry releases them; a second
signal ends it at once.

With --simulate it runs on a simulated node and needs no root; the node's state
is a file, so that it outlives a kill -9 as hardware would.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.simulate && !cmd.Flags().Changed("config") {
				if err := c.exampleConfig(); err != nil {
					return err
				}
			}
			if n := newNotifier(); n != nil {
				c.options.Notify = n.tell
			}
			// To the journal zero is its default, and not "do not wait".
			c.options.LockTimeout = max(c.options.LockTimeout, time.Nanosecond)
			return agent.Run(cmd.Context(), c.options, c.options.NewLogger(c.err), crashPoints)
		},
	}
	o, f := &c.options, cmd.Flags()
	f.StringVar(&o.Source, "source", o.Source, "where desired state comes from: "+strings.Join(agent.Origins(), " or "))
	c.configFlag(cmd)
	k := &o.Kubernetes
	f.StringVar(&k.Node, "node-name", os.Getenv("NODE_NAME"), "this node in Kubernetes; by default what NODE_NAME says")
	f.StringVar(&k.Kubeconfig, "kubeconfig", "", "how to reach the Kubernetes API; empty in a pod")
	f.StringVar(&k.Metadata, "metadata", "", "URL of the instance metadata, by default AWS's")
	f.StringVar(&k.KernelDriver, "kernel-driver", "", "the kernel's driver of an ENI, by default ena")
	f.StringVar(&k.PluginNamespace, "plugin-namespace", "", "where the SR-IOV device plugin's pods are, to restart this node's when it must read its file again; empty restarts none")
	f.StringVar(&k.PluginSelector, "plugin-selector", k.PluginSelector, "labels of these pods")
	f.StringVar(&o.Listen, "listen", o.Listen, "address of /healthz, /readyz and /metrics; empty for none")
	f.DurationVar(&o.Interval, "interval", o.Interval, "how often to look at everything without any event, 1s to 10m")
	f.DurationVar(&o.ShutdownTimeout, "shutdown-timeout", o.ShutdownTimeout, "how long a stop may take, 1s to 10m")
	f.StringVar(&o.OnStop, "on-stop", o.OnStop, "what a stop does with functions whose entry has no onStop: retain them, or release them until the next start")
	f.DurationVar(&o.WriteTimeout, "write-timeout", o.WriteTimeout, "when a write that hangs in the kernel is left to it, 1s to 10m")
	f.DurationVar(&o.LockTimeout, "lock-timeout", o.LockTimeout, "how long to wait for another holder of the journal, 0 to 10m")
	f.BoolVar(&o.Observe, "observe", false, "plan and report, never write")
	f.BoolVar(&o.NoIOMMU, "allow-noiommu", false, "switch vfio's unsafe mode on where there is no IOMMU; TAINTS the kernel")
	c.pathFlags(cmd, "")
	f.StringVar(&o.LogLevel, "log-level", o.LogLevel, "debug, info, warn or error")
	f.StringVar(&o.LogFormat, "log-format", o.LogFormat, "logfmt or json")
	return cmd
}

// example is what a simulated node is asked for when nobody asks anything.
const example = `# The desired state of a simulated node. Change it while the agent runs.
apiVersion: eniagent/v1alpha1
interfaces:
  - pci: "0000:02:00.0"
    driver: vfio-pci
  - name: enp3s0
    up: true
    mtu: 9000
`

// exampleConfig writes the example where the file is missing, at the first run:
// a file that goes missing later takes nothing back, and asks nothing new.
func (c *cli) exampleConfig() error {
	path := c.options.ConfigFile
	if _, err := os.Lstat(c.journalPath("")); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(example)
	return errors.Join(err, f.Close())
}
