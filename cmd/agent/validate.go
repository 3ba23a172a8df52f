package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"eniagent/agent/source"
	"eniagent/agent/source/file"
	"eniagent/drivers"
	"eniagent/drivers/host"
)

func (c *cli) validateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "validate FILE|-", Short: "Check a file of desired state without using it", Args: oneArg("a file of desired state, or - for standard input"),
		Long: `Check a file of desired state as agent run would: what it says, and who may write it,
as its content becomes writes to the host. - reads standard input. A driver's name that
looks like a slip is refused; of one that this host does not have, a warning is given,
since the file may be for another.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			desired, err := c.readDesired(args[0])
			if err != nil {
				return err
			}
			if err := c.checkDrivers(cmd.Context(), args[0], *desired); err != nil {
				return err
			}
			return c.print(desired, func(w io.Writer) {
				fmt.Fprintf(w, "%s: %s, valid.\n", args[0], count(len(desired.Interfaces), "interface", "interfaces"))
			})
		},
	}
}

// readDesired reads a file as the agent does, or standard input.
func (c *cli) readDesired(path string) (*source.Desired, error) {
	if path != stdin {
		desired, err := file.Read(path)
		if err != nil {
			return nil, stream(fmt.Errorf("read desired state: %w", err))
		}
		return desired, nil
	}
	data, err := c.standardInput()
	if err != nil {
		return nil, stream(fmt.Errorf("read desired state: %w", err))
	}
	return file.Parse("standard input", data)
}

// stdin stands for standard input where a file is named.
const stdin = "-"

func (c *cli) standardInput() ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(c.in, file.MaxSize+1)) // one more than is legal, which Parse refuses
	if err != nil {
		return nil, fmt.Errorf("standard input: %w; give it a file or a pipe that can be read", err)
	}
	return data, nil
}

// checkDrivers refuses names that are a slip of a userspace driver's, and warns
// of those that this host does not have.
func (c *cli) checkDrivers(ctx context.Context, path string, d source.Desired) error {
	h, closeHost, err := c.options.OpenHost()
	if err != nil {
		h, closeHost = nil, func() error { return nil } // the file may be for another machine
	}
	var bad []error
	for _, name := range driversOf(d) {
		if drivers.Userspace(name) || h != nil && registered(ctx, h, name) {
			continue
		}
		i := slices.IndexFunc(drivers.UserspaceDrivers(), func(u string) bool { return slips(name, u) <= maxSlips })
		switch {
		case i >= 0:
			bad = append(bad, fmt.Errorf("%s: driver: %s: no such driver is known; did you mean %s?", path, name, drivers.UserspaceDrivers()[i]))
		case h != nil:
			fmt.Fprintf(c.err, "agent: warning: %s: driver: %s is not registered on this host; agent plan says there whether it can be loaded\n", path, name)
		}
	}
	return errors.Join(append(bad, closeHost())...)
}

func registered(ctx context.Context, h host.Reader, driver string) bool {
	_, err := h.Inode(ctx, host.PCIDrivers+driver)
	return err == nil
}

// driversOf are the drivers that are asked for, each once.
func driversOf(d source.Desired) []string {
	var names []string
	for _, i := range d.Interfaces {
		names = append(names, i.Driver)
		if i.VFs == nil {
			continue
		}
		names = append(names, i.VFs.Defaults.Driver)
		for _, o := range i.VFs.Overrides {
			names = append(names, o.Driver)
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(n string) bool { return n == "" })
}

// maxSlips is how many slips of the finger tell a name from another.
const maxSlips = 2

// slips is how many characters are missing, too many or wrong in a for b: the
// Levenshtein distance.
func slips(a, b string) int {
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		next := []int{i + 1}
		for j := range len(b) {
			wrong := last[j]
			if a[i] != b[j] {
				wrong++
			}
			next = append(next, min(wrong, last[j+1]+1, next[j]+1))
		}
		last = next
	}
	return last[len(b)]
}
