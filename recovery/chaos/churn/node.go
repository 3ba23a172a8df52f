//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"eniagent/recovery/chaos"
)

const config = chaos.DiskDir + "/interfaces.yaml"

// node is a machine with two PFs and the agent.
type node struct {
	vm    *chaos.VM
	pfs   []chaos.NIC
	out   io.Writer
	agent *chaos.Proc // nil while none runs
	log   strings.Builder
}

// boot starts a machine.
func boot(ctx context.Context, agent string, out io.Writer) (*node, error) {
	files := map[string]string{}
	for _, name := range []string{"ip", "ethtool"} {
		more, err := chaos.Program(ctx, name)
		if err != nil {
			return nil, err
		}
		for guest, host := range more {
			files[guest] = host
		}
	}
	vm, err := chaos.Start(ctx, chaos.Config{NICs: 2, Agent: agent, Files: files})
	if err != nil {
		return nil, err
	}
	nics, err := vm.NICs(ctx)
	if err != nil {
		return nil, errors.Join(err, vm.Close())
	}
	return &node{vm: vm, pfs: nics, out: out}, nil
}

// prepare makes the node as somebody else left it: the last of its PFs may have VFs.
func (n *node) prepare(ctx context.Context, l life) error {
	for i, pf := range n.pfs {
		commands := l.before(pf.Netdev)
		if i == len(n.pfs)-1 && l.chance(60) {
			count := l.number(1, 3)
			if err := n.vm.Poke(ctx, pf.Sysfs("sriov_numvfs"), fmt.Sprint(count)); err != nil {
				return err
			}
			commands = append(commands, l.beforeVFs(pf.Netdev, count)...)
		}
		for _, command := range commands {
			if _, err := n.output(ctx, command...); err != nil {
				return err
			}
		}
	}
	return nil
}

// output is what a program prints; it has to succeed.
func (n *node) output(ctx context.Context, args ...string) (string, error) {
	res, err := n.vm.Run(ctx, chaos.Command(args...))
	if err == nil && !res.OK() {
		err = fmt.Errorf("%s: %v", strings.Join(args, " "), res)
	}
	return string(res.Stdout), err
}

// ask writes the desired state.
func (n *node) ask(ctx context.Context, entries []string) error {
	text := "apiVersion: eniagent/v1alpha1\ninterfaces: []\n"
	if len(entries) > 0 {
		text = "apiVersion: eniagent/v1alpha1\ninterfaces:\n  - " + strings.Join(entries, "\n  - ") + "\n"
	}
	return n.vm.WriteFile(ctx, config, []byte(text), 0o600)
}

// start starts the agent where none runs.
func (n *node) start(ctx context.Context) (err error) {
	if n.agent != nil {
		return nil
	}
	n.agent, err = n.vm.Start(ctx, chaos.Command(
		chaos.AgentPath, "run", "--config", config, "--state-dir", chaos.StateDir, "--listen", "", "--allow-without-default-route",
	))
	return err
}

// end ends the agent by a signal, and keeps its log.
func (n *node) end(ctx context.Context, s syscall.Signal) error {
	if n.agent == nil {
		return nil
	}
	if err := n.agent.Signal(ctx, s); err != nil {
		return err
	}
	res, err := n.agent.Wait(ctx)
	if err != nil {
		return err
	}
	n.log.Write(res.Stderr)
	n.agent = nil
	// One that has only just begun does not handle the signal yet.
	if s == syscall.SIGTERM && !res.OK() && res.Signal != syscall.SIGTERM {
		return fmt.Errorf("the agent did not end well: %v", res)
	}
	return nil
}

// said is the log of all agents so far.
func (n *node) said() string {
	if n.agent == nil {
		return n.log.String()
	}
	_, now := n.agent.Output()
	return n.log.String() + string(now)
}

// ran runs one of the agent's commands, whatever its exit status.
func (n *node) ran(ctx context.Context, args ...string) (chaos.Result, error) {
	return n.vm.Agent(ctx, append(args, "--state-dir", chaos.StateDir)...)
}

// patience is how long a release may take on an emulated machine that others load.
const patience = 10 * time.Minute

// release gives everything back, and wants that said and true. A release that has
// not ended after some seconds ends with 3, and goes on by itself: then it is asked
// again.
func (n *node) release(ctx context.Context) error {
	for end := time.Now().Add(patience); ; {
		res, err := n.ran(ctx, "release", "--all", "--yes")
		switch {
		case err != nil:
			return err
		case res.OK():
			return nil
		case res.Code != 3 || time.Now().After(end):
			return fmt.Errorf("release --all: %v", res)
		}
		fmt.Fprintf(n.out, "  release --all ended with 3, asked again:\n%s", res.Stdout)
		pause(ctx, time.Second)
	}
}

// quarantined are the operations in quarantine.
func (n *node) quarantined(ctx context.Context) ([]string, error) {
	res, err := n.ran(ctx, "journal", "list", "-n", "-1", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list []struct {
		ID      json.Number
		State   string
		Outcome string
	}
	if err := json.Unmarshal(res.Stdout, &list); err != nil {
		return nil, fmt.Errorf("journal list: %w: %v", err, res)
	}
	var all []string
	for _, op := range list {
		if op.State == "quarantined" {
			all = append(all, fmt.Sprintf("operation %s: %s", op.ID, op.Outcome))
		}
	}
	return all, nil
}

// pause waits for as long, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
