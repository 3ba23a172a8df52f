//go:build linux

package chaos

import (
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"testing"
)

// driverctlNode is a node that has udev, systemd and driverctl.
func driverctlNode(t *testing.T) *node {
	t.Helper()
	vm := sharedSystemdVM(t)
	mustRun(t, vm, Helper, "remove", StateDir)
	nics := mustNICs(t, vm)
	return &node{t: t, vm: vm, a: nics[0], b: nics[1]}
}

// operationsOn is how many operations the journal has of a function.
func (n *node) operationsOn(nic NIC) (count int) {
	n.t.Helper()
	var operations []struct{ Identity map[string]any }
	must(n.t, json.Unmarshal([]byte(n.agent(0, "journal", "list", "-o", "json")), &operations))
	for _, op := range operations {
		if _, ok := op.Identity[nic.Addr]; ok {
			count++
		}
	}
	return count
}

// TestDriverctlFights: whenever the function is as the agent has it, it is
// bound to igb again. The agent repairs that three times, says who it probably
// is, and leaves the function alone; the node is calm, and the other function
// is handled.
func TestDriverctlFights(t *testing.T) {
	n := driverctlNode(t)
	defer n.home()
	n.ask(driverOf(n.a, "vfio-pci"), linkOf(n.b, 2000))
	p := n.run(AgentPath)
	defer n.kill(p)
	n.settled(p)

	loop, err := n.vm.Start(n.ctx(), Command("bash", "-c", `
		while :; do
			driverctl --nosave set-override `+n.a.Addr+` igb && echo round
			for ((i = 0; i < 20; i++)); do
				sleep 0.2
				[[ $(readlink `+n.a.Sysfs("driver")+`) != */vfio-pci ]] || break
			done
			sleep 0.5
		done`))
	must(t, err)
	defer func() { _ = loop.SignalGroup(n.ctx(), syscall.SIGKILL) }()
	for _, repair := range []string{"count=0", "count=1", "count=2"} {
		n.said(p, "drift, repaired", n.a.Addr, repair)
	}
	n.said(p, "interface is degraded", n.a.Addr, "changed by another hand after 3 repairs", "driverctl (", "agent retry "+n.a.Addr)
	did, steps := n.operationsOn(n.a), n.lines(p, "step ", n.a.Addr)
	if did != 4 {
		t.Errorf("%d operations on it, and not one and three repairs", did)
	}
	n.ask(driverOf(n.a, "vfio-pci"), linkOf(n.b, 2200))
	n.rounds(loop, 3)
	must(t, n.vm.WaitText(n.ctx(), n.b.Sysfs("net", n.ipLink(n.b).Name, "mtu"), "2200"))
	if now := n.operationsOn(n.a); now != did {
		t.Errorf("%d operations on it when the agent had stopped, and %d after", did, now)
	}
	if now := n.lines(p, "step ", n.a.Addr); now != steps {
		t.Errorf("%d steps when the agent had stopped, and %d after", steps, now)
	}
	must(t, loop.SignalGroup(n.ctx(), syscall.SIGKILL))
	_, err = loop.Wait(n.ctx())
	must(t, err)
	n.agent(0, "retry", n.a.Addr)
	n.on(n.a, "vfio-pci")
	n.settled(p)
	n.override(n.a, "vfio-pci")
	n.stop(p)
}

// rounds waits for some more rounds of a loop.
func (n *node) rounds(loop *Proc, more int) {
	n.t.Helper()
	count := func() int {
		said, _ := loop.Output()
		return strings.Count(string(said), "round\n")
	}
	were := count()
	must(n.t, n.vm.WaitFor(n.ctx(), "the other tool to go on", func(context.Context) (bool, error) { return count() >= were+more, nil }))
}

// TestDriverctlOwnsAFunction: its saved override says something else than the
// file. That is reported with its owner, and nothing is done, until the
// override is gone.
func TestDriverctlOwnsAFunction(t *testing.T) {
	n := driverctlNode(t)
	defer n.home()
	n.ask(driverOf(n.a, "vfio-pci"))
	p := n.run(AgentPath)
	defer n.kill(p)
	n.settled(p)

	file := "/etc/driverctl.d/pci-" + n.a.Addr
	did := n.operationsOn(n.a)
	if did != 1 {
		t.Errorf("%d operations on it, and not one", did)
	}
	mustRun(t, n.vm, "driverctl", "set-override", n.a.Addr, "igb")
	defer mustRun(t, n.vm, Helper, "remove", file)
	n.said(p, "interface is degraded", n.a.Addr, "has an owner", "driverctl ("+file+" says igb)", "rm "+file)
	n.on(n.a, "igb")
	if now := n.operationsOn(n.a); now != did {
		t.Errorf("%d operations on it before driverctl, and %d after", did, now)
	}
	mustRun(t, n.vm, "driverctl", "unset-override", n.a.Addr)
	n.on(n.a, "vfio-pci")
	n.settled(p)
	n.stop(p)
}

// TestAdoptDriverctls: its file is left where it is, and said to bind the
// function again, which it does.
func TestAdoptDriverctls(t *testing.T) {
	n := driverctlNode(t)
	defer n.home()
	n.ask(released(n.b))
	file := "/etc/driverctl.d/pci-" + n.a.Addr
	mustRun(t, n.vm, "driverctl", "set-override", n.a.Addr, "vfio-pci")
	defer mustRun(t, n.vm, Helper, "remove", file)
	res, err := n.vm.Agent(n.ctx(), "adopt", "--state-dir", StateDir, "--config", wanted)
	must(t, err)
	if res.Code != 64 || !hasAll(string(res.Stderr), []string{n.a.Addr, file, "binds " + n.a.Addr + " to vfio-pci at each boot", "give --yes"}) {
		t.Errorf("agent adopt with nobody to ask: %v", res)
	}

	_, said := n.adopts(n.a)
	if !strings.Contains(said, file+" binds "+n.a.Addr+" to vfio-pci at each boot: rm it") {
		t.Errorf("agent release said:\n%s", said)
	}
	if text, err := n.vm.ReadText(n.ctx(), file); err != nil || text != "vfio-pci" {
		t.Errorf("driverctl's file has %q, %v", text, err)
	}
	mustRun(t, n.vm, "udevadm", "trigger", "--action=add", n.a.Sysfs()) // as at a boot
	n.on(n.a, "vfio-pci")
	mustRun(t, n.vm, "driverctl", "unset-override", n.a.Addr)
	n.on(n.a, "igb")
}
