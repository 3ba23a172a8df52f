//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"eniagent/recovery/chaos"
)

const (
	crashing = "/bin/agent-crash"
	config   = chaos.DiskDir + "/interfaces.yaml"
)

// node is a machine with the agent's journal on a disk of one file system.
type node struct {
	*campaign
	fs string
	vm *chaos.VM
	a  chaos.NIC
	at string // the entry that the node is right for, with no agent running; "" is unknown
}

// newNode boots a machine. What the operations are not about, the modules, is
// loaded by the boot.
func (c *campaign) newNode(ctx context.Context, fs, disk, writeLog string) (*node, error) {
	vm, err := chaos.Start(ctx, chaos.Config{
		NICs: 2, FreePorts: 1, DiskFS: fs, Disk: disk, WriteLog: writeLog, Agent: c.agent, Files: map[string]string{crashing: c.crashing},
		Load: []string{"igb", "igbvf", "vfio_pci", "vfio_iommu_type1"},
	})
	if err != nil {
		return nil, err
	}
	nics, err := vm.NICs(ctx)
	if err != nil {
		return nil, errors.Join(err, vm.Close())
	}
	return &node{campaign: c, fs: fs, vm: vm, a: nics[0]}, nil
}

// anew is the node after a violation: booted, with no journal.
func (n *node) anew(ctx context.Context) error {
	if n.vm.Running() {
		if err := n.vm.PowerCut(); err != nil {
			return err
		}
	}
	if err := n.vm.Boot(ctx); err != nil {
		return err
	}
	n.at = ""
	return n.helper(ctx, "remove", chaos.StateDir)
}

// label is a crash point and its passing, "unbind:after:1".
type label = string

// point is one label of one operation, and how it ends there.
type point struct {
	kind  kind
	label label
	end   string
}

func (p point) String() string { return fmt.Sprintf("%s %s by %s", p.kind.name, p.label, p.end) }

// cases finds the labels of a family's operations by running each once,
// uncrashed.
func (n *node) cases(ctx context.Context, f family) ([]point, error) {
	all := make([][]point, len(f.kinds))
	for i, k := range f.kinds {
		if err := n.reach(ctx, k.from(n)); err != nil {
			return nil, fmt.Errorf("prepare %s: %w", k.name, err)
		}
		if err := n.want(ctx, k.to(n)); err != nil {
			return nil, err
		}
		p, err := n.start(ctx, crashing, "ENIAGENT_CRASH=list:1", "ENIAGENT_CRASH_HOW=list")
		if err != nil {
			return nil, err
		}
		if err := n.settle(ctx, p); err != nil {
			return nil, err
		}
		if err := k.right(ctx, n); err != nil {
			return nil, fmt.Errorf("%s: %w", k.name, err)
		}
		labels := labelsOf(p)
		if len(labels) < 6 {
			return nil, fmt.Errorf("%s has the labels %q only", k.name, labels)
		}
		for _, l := range labels {
			for _, end := range f.ends {
				all[i] = append(all[i], point{k, l, end})
			}
		}
	}
	return chained(all), nil
}

// chained puts the points of a family's kinds between each other: the end of
// one is where the next begins.
func chained(all [][]point) (chain []point) {
	for more := true; more; {
		more = false
		for i, points := range all {
			if len(points) > 0 {
				chain, all[i], more = append(chain, points[0]), points[1:], true
			}
		}
	}
	return chain
}

var passed = regexp.MustCompile(`(?m)^passed (.+)$`)

// labelsOf are the points that an agent passed, but for those of its start.
func labelsOf(p *chaos.Proc) (labels []label) {
	_, log := p.Output()
	times := map[string]int{}
	for _, m := range passed.FindAllStringSubmatch(string(log), -1) {
		times[m[1]]++
		if strings.HasPrefix(m[1], "journal.meta") || strings.HasPrefix(m[1], "journal.desired") || strings.Contains(m[1], "control") {
			continue
		}
		labels = append(labels, fmt.Sprintf("%s:%d", m[1], times[m[1]]))
	}
	return labels
}

// crash brings the node to where an operation begins, cuts it off at the point,
// and wants it back.
func (n *node) crash(ctx context.Context, k point) error {
	if n.at != k.kind.from(n) {
		if err := n.reach(ctx, k.kind.from(n)); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	n.at = ""
	if err := n.want(ctx, k.kind.to(n)); err != nil {
		return err
	}
	how := "ENIAGENT_CRASH_HOW=stop"
	if k.end == "SIGKILL" {
		how = "ENIAGENT_CRASH_HOW="
	}
	p, err := n.start(ctx, crashing, "ENIAGENT_CRASH="+k.label, how)
	if err != nil {
		return err
	}
	if err := n.cut(ctx, p, k.end); err != nil {
		return err
	}
	if err := n.back(ctx, acknowledged(p), k.kind); err != nil {
		return err
	}
	n.at = k.kind.to(n)
	return nil
}

// cut waits for the agent to be at its point, and ends it there.
func (n *node) cut(ctx context.Context, p *chaos.Proc, end string) error {
	if end == "SIGKILL" {
		res, err := p.Wait(ctx)
		if err == nil && res.Signal != syscall.SIGKILL {
			err = fmt.Errorf("the agent did not come to its point: %v", res)
		}
		return err
	}
	if err := p.Expect(ctx, "stopped at "); err != nil {
		return err
	}
	var err error
	switch end {
	case "power cut":
		err = n.vm.PowerCut()
	case "sysrq b":
		err = n.vm.Sysrq(ctx, "b")
	case "panic":
		err = n.vm.Sysrq(ctx, "c")
	}
	if err != nil {
		return err
	}
	return n.vm.Boot(ctx)
}

// anyMoment changes what is desired again and again, and cuts the power.
func (n *node) anyMoment(ctx context.Context, f family, after time.Duration) error {
	n.at = ""
	if err := n.want(ctx, f.kinds[0].from(n)); err != nil {
		return err
	}
	p, err := n.start(ctx, chaos.AgentPath)
	if err != nil {
		return err
	}
	cut := time.After(after)
	for i := 0; ; i++ {
		k := f.kinds[i%len(f.kinds)]
		if err := n.want(ctx, k.to(n)); err != nil {
			return err
		}
		select {
		case <-cut:
			if err := n.vm.PowerCut(); err != nil {
				return err
			}
			if err := n.vm.Boot(ctx); err != nil {
				return err
			}
			return n.back(ctx, acknowledged(p), k)
		case <-time.After(f.pace):
		}
	}
}

var begun = regexp.MustCompile(`op=(\d+) state=intent`)

// acknowledged are the operations that the agent said were durable.
func acknowledged(p *chaos.Proc) (ids []string) {
	_, log := p.Output()
	for _, m := range begun.FindAllStringSubmatch(string(log), -1) {
		ids = append(ids, m[1])
	}
	return ids
}

// back is what must be true after a crash: the journal opens and is whole, it
// has every operation that was acknowledged, the node converges, and no
// operation stays open, which status --wait waits for.
func (n *node) back(ctx context.Context, acknowledged []string, k kind) error {
	res, err := n.agent(ctx, "journal", "verify")
	if err == nil && !res.OK() && len(acknowledged) > 0 {
		err = fmt.Errorf("journal verify: %v", res)
	}
	if err != nil {
		return err
	}
	if err := n.has(ctx, acknowledged); err != nil {
		return err
	}
	p, err := n.start(ctx, chaos.AgentPath)
	if err != nil {
		return err
	}
	if err := n.settle(ctx, p); err != nil {
		return err
	}
	return k.right(ctx, n)
}

// has wants the operations in the journal, open or closed.
func (n *node) has(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	res, err := n.agent(ctx, "journal", "list", "-n", "-1", "-o", "json")
	if err != nil {
		return err
	}
	return lists(res, ids)
}

// lists wants the operations in what journal list says.
func lists(res chaos.Result, ids []string) error {
	var list []struct{ ID json.Number }
	if err := json.Unmarshal(res.Stdout, &list); err != nil {
		return fmt.Errorf("journal list: %w: %v", err, res)
	}
	for _, id := range ids {
		if !slices.ContainsFunc(list, func(op struct{ ID json.Number }) bool { return op.ID.String() == id }) {
			return fmt.Errorf("operation %s was acknowledged and is lost: %s", id, res.Stdout)
		}
	}
	return nil
}

// reach brings the node to what an operation starts from, with no agent left.
func (n *node) reach(ctx context.Context, entry string) error {
	if err := n.want(ctx, entry); err != nil {
		return err
	}
	p, err := n.start(ctx, chaos.AgentPath)
	if err != nil {
		return err
	}
	return n.settle(ctx, p)
}

func (n *node) want(ctx context.Context, entry string) error {
	return n.vm.WriteFile(ctx, config, []byte("apiVersion: eniagent/v1alpha1\ninterfaces:\n  - "+entry+"\n"), 0o600)
}

func (n *node) start(ctx context.Context, binary string, env ...string) (*chaos.Proc, error) {
	return n.vm.Start(ctx, chaos.Cmd{Env: env, Args: []string{
		binary, "run", "--config", config, "--state-dir", chaos.StateDir, "--listen", "", "--allow-without-default-route",
	}})
}

// settle waits until all is as desired, and stops the agent.
func (n *node) settle(ctx context.Context, p *chaos.Proc) error {
	res, err := n.agent(ctx, "status", "--wait", "50s")
	if err == nil && !res.OK() {
		err = fmt.Errorf("it does not settle: %v", res)
	}
	if err == nil {
		err = p.Signal(ctx, syscall.SIGTERM)
	}
	if err == nil {
		res, err = p.Wait(ctx)
	}
	if err == nil && !res.OK() {
		err = fmt.Errorf("SIGTERM: %v", res)
	}
	if err != nil {
		_, log := p.Output()
		return fmt.Errorf("%w\nthe agent's log:\n%s", err, log)
	}
	return nil
}

func (n *node) agent(ctx context.Context, args ...string) (chaos.Result, error) {
	return n.vm.Agent(ctx, append(args, "--state-dir", chaos.StateDir)...)
}
