//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"eniagent/recovery/chaos"
)

const (
	crashing = "/bin/agent-crash"
	config   = chaos.DiskDir + "/interfaces.yaml"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// stage is the machine and where its story is told.
type stage struct {
	vm  *chaos.VM
	out io.Writer
}

func run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "eniagent-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := stage{out: out}
	s.say("Building the agent, and one with a crash point compiled in for the power cut")
	agent, crash := filepath.Join(dir, "agent"), filepath.Join(dir, "agent-crash")
	if err := chaos.Build(ctx, "eniagent/cmd/agent", agent); err != nil {
		return err
	}
	if err := chaos.Build(ctx, "eniagent/cmd/agent", crash, "-tags=crashpoint"); err != nil {
		return err
	}
	s.say("Booting a machine with two igb NICs, an IOMMU, and an ext4 disk for the journal (under a minute)")
	s.vm, err = chaos.Start(ctx, chaos.Config{NICs: 2, Agent: agent, Files: map[string]string{crashing: crash}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.vm.Close()) }()
	boot := s.vm.LastBoot()
	fmt.Fprintf(out, "Linux %s, up in %s, boot id %s\n", boot.Kernel, boot.Took.Round(100*time.Millisecond), boot.ID)
	return s.play(ctx)
}

func (s stage) play(ctx context.Context) error {
	nics, err := s.vm.NICs(ctx)
	if err != nil {
		return err
	}
	want := fmt.Sprintf("apiVersion: eniagent/v1alpha1\ninterfaces:\n  - {pci: %q, driver: vfio-pci}\n  - {pci: %q, up: true, mtu: 9000}\n", nics[0].Addr, nics[1].Addr)
	if err := s.vm.WriteFile(ctx, config, []byte(want), 0o600); err != nil {
		return err
	}
	fmt.Fprint(s.out, "\n", want)
	if err := s.show(ctx, 0, "inventory"); err != nil {
		return err
	}

	s.say("The agent starts; the power is cut between the unbind and the bind")
	p, err := s.start(ctx, crashing, "ENIAGENT_CRASH=bind:before:1", "ENIAGENT_CRASH_HOW=stop")
	if err != nil {
		return err
	}
	if err := p.Expect(ctx, "stopped at "); err != nil {
		return err
	}
	if err := s.show(ctx, 0, "inventory"); err != nil {
		return err
	}
	if err := s.vm.PowerCut(); err != nil {
		return err
	}
	if err := s.vm.Boot(ctx); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "\nPower cut, and booted again: boot id %s\n", s.vm.LastBoot().ID)

	s.say("What was left unfinished? Nothing is touched by asking")
	if err := s.show(ctx, 3, "recover", "--dry-run"); err != nil {
		return err
	}
	s.say("The agent starts again: it recovers, then binds")
	if p, err = s.start(ctx, chaos.AgentPath); err != nil {
		return err
	}
	for _, args := range [][]string{{"status", "--wait", "60s"}, {"journal", "list", "-n", "3"}, {"inventory"}} {
		if err := s.show(ctx, 0, args...); err != nil {
			return err
		}
	}
	if err := p.Signal(ctx, syscall.SIGTERM); err != nil {
		return err
	}
	if res, err := p.Wait(ctx); err != nil || !res.OK() {
		return fmt.Errorf("stop the agent: %w: %v", err, res)
	}
	s.say("Done. Nothing was left half-way.")
	return s.vm.Shutdown(ctx)
}

func (s stage) say(what string) { fmt.Fprintf(s.out, "\n== %s\n", what) }

func (s stage) start(ctx context.Context, binary string, env ...string) (*chaos.Proc, error) {
	return s.vm.Start(ctx, chaos.Cmd{Env: env, Args: []string{
		binary, "run", "--config", config, "--state-dir", chaos.StateDir, "--listen", "", "--allow-without-default-route",
	}})
}

// show runs a command of the agent, prints what it says, and wants that exit
// status.
func (s stage) show(ctx context.Context, code int, args ...string) error {
	fmt.Fprintf(s.out, "\n$ agent")
	for _, a := range args {
		fmt.Fprintf(s.out, " %s", a)
	}
	fmt.Fprintln(s.out)
	res, err := s.vm.Agent(ctx, append(args, "--state-dir", chaos.StateDir)...)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s%s", res.Stdout, res.Stderr)
	if res.Code != code {
		return fmt.Errorf("agent %v: exit status %d, want %d", args, res.Code, code)
	}
	return nil
}
