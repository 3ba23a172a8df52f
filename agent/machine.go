package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/supervise"
)

// OpenKernel is the kernel that the options name: this machine's, or a
// simulated one, which is made where its state file is missing.
func (o Options) OpenKernel() (host.Kernel, func() error, error) {
	if o.Simulate == "" {
		if _, err := os.Stat(filepath.Join(o.Root, "sys/bus/pci")); err != nil {
			return nil, nil, fmt.Errorf("find sysfs: %w: is --root right, and /sys mounted?", err)
		}
		return host.Linux{Root: o.Root}, func() error { return nil }, nil
	}
	if _, err := os.Stat(o.Simulate); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(o.Simulate), 0o700); err != nil {
			return nil, nil, fmt.Errorf("make simulated node: %w", err)
		}
		if err := sim.Create(o.Simulate, sim.DefaultNode()); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, nil, fmt.Errorf("make simulated node: %w", err)
		}
	}
	f, err := sim.Open(o.Simulate)
	if err != nil {
		return nil, nil, fmt.Errorf("open simulated node: %w", err)
	}
	return f, f.Close, nil
}

// WriterCommand is the argument vector of a writer child of this binary.
func (o Options) WriterCommand() []string {
	return []string{"/proc/self/exe", "writer", "--fences", o.FenceDir(), "--root", o.Root, "--simulate-state", o.Simulate}
}

// openPool puts writer children in front of a kernel.
func (o Options) openPool(k host.Kernel, owner *supervise.Group, logger log.Logger) (*host.Pool, error) {
	fences, err := host.OpenFences(o.FenceDir())
	if err != nil {
		return nil, err
	}
	logger = log.With(logger, "component", "host")
	return host.NewPool(k, host.PoolOptions{
		Owner: owner, Command: o.WriterCommand(), Files: []string{o.PluginFile}, Fences: fences, WriteTimeout: o.WriteTimeout,
		OnAbandon: func(t drivers.Target, what string) {
			level.Warn(logger).Log("target", t, "kind", what, "msg", "write or read hangs in the kernel, its child is left to it")
		},
		OnReturn: func(t drivers.Target, what string, err error) {
			level.Warn(logger).Log("target", t, "kind", what, "err", err, "msg", "what hung has come back")
		},
	})
}

// OpenHost is the host for commands that only read while no agent runs. It
// has no children: what a hung device blocks, blocks the command alone.
func (o Options) OpenHost() (host.Host, func() error, error) {
	k, closeKernel, err := o.OpenKernel()
	if err != nil {
		return nil, nil, err
	}
	return reader{k, host.FencesIn(o.FenceDir())}, closeKernel, nil
}

// reader is a Host that refuses to write.
type reader struct {
	host.Kernel
	fences host.Fences
}

func (r reader) Do(_ context.Context, c host.Call) error {
	return fmt.Errorf("%s: %w: a command that only reads", c, drivers.ErrRefused)
}

func (r reader) Fenced(t drivers.Target) (bool, error) { return r.fences.Held(t) }
