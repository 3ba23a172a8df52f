//go:build linux

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const wanted = DiskDir + "/interfaces.yaml"

// node is the agent's side of a test on the real kernel.
type node struct {
	t    *testing.T
	vm   *VM
	a, b NIC // the two PFs
}

// newNode is a node with no agent, no journal and both PFs on igb.
func newNode(t *testing.T) *node {
	t.Helper()
	vm := sharedVM(t)
	mustRun(t, vm, Helper, "remove", StateDir)
	nics := mustNICs(t, vm)
	return &node{t: t, vm: vm, a: nics[0], b: nics[1]}
}

func (n *node) ctx() context.Context { return n.t.Context() }

// ask writes the desired state.
func (n *node) ask(entries ...string) {
	n.t.Helper()
	text := "apiVersion: eniagent/v1alpha1\ninterfaces:\n"
	for _, e := range entries {
		text += "  - " + e + "\n"
	}
	must(n.t, n.vm.WriteFile(n.ctx(), wanted, []byte(text), 0o600))
}

func driverOf(n NIC, driver string) string {
	return fmt.Sprintf("{pci: %q, driver: %s}", n.Addr, driver)
}
func released(n NIC) string        { return fmt.Sprintf("{pci: %q, state: released}", n.Addr) }
func linkOf(n NIC, mtu int) string { return fmt.Sprintf("{pci: %q, up: true, mtu: %d}", n.Addr, mtu) }

// run starts an agent; env switches crash points on in the crashing one.
func (n *node) run(binary string, env ...string) *Proc {
	n.t.Helper()
	p, err := n.vm.Start(n.ctx(), Cmd{Env: env, Args: []string{
		binary, "run", "--config", wanted, "--state-dir", StateDir, "--listen", "", "--write-timeout", "2s", "--allow-without-default-route",
	}})
	must(n.t, err)
	n.t.Cleanup(func() {
		if n.t.Failed() {
			_, log := p.Output()
			n.t.Logf("log of an agent of this test:\n%s", log)
		}
	})
	return p
}

// agent runs a command and wants that exit status.
func (n *node) agent(code int, args ...string) string {
	n.t.Helper()
	res, err := n.vm.Agent(n.ctx(), append(args, "--state-dir", StateDir)...)
	must(n.t, err)
	if res.Code != code {
		n.t.Fatalf("agent %s: want exit status %d, got %v", strings.Join(args, " "), code, res)
	}
	return string(res.Stdout)
}

// settled waits until everything is as desired.
func (n *node) settled(p *Proc) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.ctx(), unhurried)
	defer cancel()
	res, err := n.vm.Agent(ctx, "status", "--wait", (unhurried - time.Minute).String(), "--state-dir", StateDir)
	if err != nil || !res.OK() {
		_, log := p.Output()
		n.t.Fatalf("the agent does not settle: %v, %v\nits log: %s", err, res, log)
	}
}

// stop ends the agent as a service manager does.
func (n *node) stop(p *Proc) {
	n.t.Helper()
	must(n.t, p.Signal(n.ctx(), syscall.SIGTERM))
	res, err := p.Wait(n.ctx())
	must(n.t, err)
	if !res.OK() {
		n.t.Errorf("SIGTERM: %v", res)
	}
}

// killed waits for the agent to be killed by its crash point.
func (n *node) killed(p *Proc) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.ctx(), unhurried)
	defer cancel()
	res, err := p.Wait(ctx)
	must(n.t, err)
	if res.Signal != syscall.SIGKILL {
		n.t.Fatalf("want it killed at its crash point, got %v", res)
	}
}

// said waits for a line of the agent's log that has all the words.
func (n *node) said(p *Proc, words ...string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.ctx(), unhurried)
	defer cancel()
	if err := n.vm.WaitFor(ctx, "log line with "+strings.Join(words, ", "), n.moreLines(p, 0, words...)); err != nil {
		_, log := p.Output()
		n.t.Fatalf("%v\nits log: %s", err, log)
	}
}

func hasAll(s string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}

// on waits for the driver of a NIC.
func (n *node) on(nic NIC, driver string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.ctx(), unhurried)
	defer cancel()
	must(n.t, n.vm.WaitLink(ctx, nic.Sysfs("driver"), driver))
}

// override wants the override of a NIC.
func (n *node) override(nic NIC, want string) {
	n.t.Helper()
	got, err := n.vm.ReadText(n.ctx(), nic.Sysfs("driver_override"))
	must(n.t, err)
	if got != want {
		n.t.Errorf("%s has override %q, want %q", nic.Addr, got, want)
	}
}

// ipLink is what `ip link` says of a NIC on a kernel driver.
func (n *node) ipLink(nic NIC) (link struct {
	Index int      `json:"ifindex"`
	Name  string   `json:"ifname"`
	MTU   int      `json:"mtu"`
	Flags []string `json:"flags"`
	MAC   string   `json:"address"`
},
) {
	n.t.Helper()
	names, err := n.vm.ReadDir(n.ctx(), nic.Sysfs("net"))
	must(n.t, err)
	said := mustRun(n.t, n.vm, "/bin/ip", "-j", "link", "show", "dev", names[0])
	links := []any{&link}
	must(n.t, json.Unmarshal([]byte(said), &links))
	return link
}

func (n *node) linkIs(nic NIC, mtu int, up bool) {
	n.t.Helper()
	l := n.ipLink(nic)
	isUp := strings.Contains(strings.Join(l.Flags, ","), "UP")
	if l.MTU != mtu || isUp != up {
		n.t.Errorf("ip link: %s has MTU %d, up %t; want %d, %t", nic.Addr, l.MTU, isUp, mtu, up)
	}
}

// giveBack restores both PFs through the agent and stops it.
func (n *node) giveBack(p *Proc) {
	n.t.Helper()
	n.ask(released(n.a), released(n.b))
	n.on(n.a, "igb")
	n.on(n.b, "igb")
	n.settled(p)
	n.stop(p)
}

func TestAgentBindsAndGivesBack(t *testing.T) {
	n := newNode(t)
	name := n.ipLink(n.a).Name
	mustRun(t, n.vm, "/bin/ip", "link", "set", "dev", name, "mtu", "4000", "up")
	n.ask(driverOf(n.a, "vfio-pci"), linkOf(n.b, 3000))

	plan, err := n.vm.Agent(n.ctx(), "plan", "--allow-without-default-route", "--config", wanted, "--state-dir", StateDir)
	must(t, err)
	if plan.Code != 3 || !strings.Contains(string(plan.Stdout), "driver=- override=vfio-pci  ->  driver=vfio-pci override=vfio-pci") {
		t.Errorf("plan before the start: %v", plan)
	}
	p := n.run(AgentPath)
	n.settled(p)
	n.on(n.a, "vfio-pci")
	n.override(n.a, "vfio-pci")
	if _, err := n.vm.WaitExists(n.ctx(), "/dev/vfio/"+n.a.Group); err != nil {
		t.Error(err)
	}
	n.linkIs(n.b, 3000, true)
	n.agent(0, "plan")
	n.inventoryIsTrue()

	n.ask(driverOf(n.a, "igb"), linkOf(n.b, 1500))
	n.on(n.a, "igb")
	n.settled(p)
	n.override(n.a, "(null)")
	n.linkIs(n.a, 4000, true) // as it was before the round trip
	n.linkIs(n.b, 1500, true)
	n.agent(0, "plan")
	n.inventoryIsTrue()
	n.giveBack(p)
	n.agent(0, "journal", "verify")
}

// inventoryIsTrue holds what the agent lists against sysfs and ip link.
func (n *node) inventoryIsTrue() {
	n.t.Helper()
	var functions []struct {
		Address, Driver, Override, MAC, Netdev string
		Group                                  string `json:"iommu_group"`
		MTU                                    int
		Role                                   string
		TotalVFs                               int `json:"total_vfs"`
	}
	must(n.t, json.Unmarshal([]byte(n.agent(0, "inventory", "-o", "json")), &functions))
	seen := 0
	for _, nic := range mustNICs(n.t, n.vm) {
		for _, f := range functions {
			if f.Address != nic.Addr {
				continue
			}
			seen++
			override, err := n.vm.ReadText(n.ctx(), nic.Sysfs("driver_override"))
			must(n.t, err)
			// Under igb it is 7, under vfio-pci what the hardware says: 8.
			total, err := n.vm.ReadText(n.ctx(), nic.Sysfs("sriov_totalvfs"))
			must(n.t, err)
			if f.Driver != nic.Driver || f.Group != nic.Group || f.Role != "pf" || fmt.Sprint(f.TotalVFs) != total ||
				f.Override != strings.Trim(override, "()nul") {
				n.t.Errorf("inventory says %+v, sysfs %+v with override %s", f, nic, override)
			}
			if nic.Netdev == "" {
				continue
			}
			if l := n.ipLink(nic); f.Netdev != l.Name || f.MTU != l.MTU || f.MAC != l.MAC {
				n.t.Errorf("inventory says %+v, ip link %+v", f, l)
			}
		}
	}
	if seen != 2 {
		n.t.Errorf("the inventory has %d of the 2 PFs: %+v", seen, functions)
	}
}

// TestAgentIsKilledHalfWay kills the agent with SIGKILL at each label of a
// bind, a link change and an unbind, explains, and starts it again.
func TestAgentIsKilledHalfWay(t *testing.T) {
	tests := []struct{ point, decision string }{
		{"override:before:1", "replay"}, // after the intent, before the first write
		{"override:after:1", "replay"},
		{"unbind:after:1", "replay"}, // between unbind and bind
		{"bind:before:1", "replay"},
		{"bind:after:1", "done"},
	}
	for _, tc := range tests {
		t.Run(tc.point, func(t *testing.T) {
			n := newNode(t)
			n.ask(driverOf(n.a, "vfio-pci"))
			n.killed(n.run(crashing, "ENIAGENT_CRASH="+tc.point))
			n.explains(tc.decision)
			p := n.run(AgentPath)
			n.said(p, `msg="operation recovered"`, "decision="+tc.decision)
			n.settled(p)
			n.on(n.a, "vfio-pci")
			n.giveBack(p)
		})
	}
	t.Run("link", func(t *testing.T) {
		n := newNode(t)
		n.ask(linkOf(n.b, 2000))
		mustRun(t, n.vm, "/bin/ip", "link", "set", "dev", n.ipLink(n.b).Name, "down")
		n.killed(n.run(crashing, "ENIAGENT_CRASH=admin:before:1"))
		n.linkIs(n.b, 2000, false)
		n.explains("replay")
		p := n.run(AgentPath)
		n.settled(p)
		n.linkIs(n.b, 2000, true)
		n.giveBack(p)
	})
	t.Run("unbind, on the way back", func(t *testing.T) {
		n := newNode(t)
		n.ask(driverOf(n.a, "vfio-pci"))
		p := n.run(AgentPath)
		n.settled(p)
		n.stop(p)
		n.ask(driverOf(n.a, "igb"))
		n.killed(n.run(crashing, "ENIAGENT_CRASH=bind:before:1"))
		n.override(n.a, "(null)")
		n.explains("replay")
		p = n.run(AgentPath)
		n.settled(p)
		n.on(n.a, "igb")
		n.giveBack(p)
	})
}

// explains wants a dry run that decides so of one operation and touches nothing.
func (n *node) explains(decision string) {
	n.t.Helper()
	journal := StateDir + "/journal/journal.db"
	before, err := n.vm.ReadFile(n.ctx(), journal)
	must(n.t, err)
	res, err := n.vm.Agent(n.ctx(), "recover", "--dry-run", "--allow-without-default-route", "-o", "json", "--state-dir", StateDir)
	must(n.t, err)
	var report struct {
		Entries []struct{ Decision, Why string }
	}
	must(n.t, json.Unmarshal(res.Stdout, &report))
	if res.Code != 3 || len(report.Entries) != 1 || report.Entries[0].Decision != decision || report.Entries[0].Why == "" {
		n.t.Errorf("recover --dry-run: want one operation to %s and exit status 3, got %v", decision, res)
	}
	after, err := n.vm.ReadFile(n.ctx(), journal)
	must(n.t, err)
	if string(before) != string(after) {
		n.t.Error("recover --dry-run changed the journal")
	}
}

// TestAgentThroughAPowerCut cuts the power between unbind and bind.
func TestAgentThroughAPowerCut(t *testing.T) {
	n := newNode(t)
	n.ask(driverOf(n.a, "vfio-pci"))
	p := n.run(crashing, "ENIAGENT_CRASH=bind:before:1", "ENIAGENT_CRASH_HOW=stop")
	must(t, p.Expect(n.ctx(), "stopped at "))
	must(t, n.vm.PowerCut())
	must(t, n.vm.Boot(n.ctx()))
	n.on(n.a, "igb")
	n.explains("supersede")
	p = n.run(AgentPath)
	n.said(p, `msg="operation recovered"`, "decision=supersede")
	n.settled(p)
	n.on(n.a, "vfio-pci")
	n.stop(p)
	p = n.run(AgentPath)
	n.giveBack(p)
}

// TestAgentMeetsHotUnplugAndLinkDown pulls the function out, and takes the
// link down, between unbind and bind.
func TestAgentMeetsHotUnplugAndLinkDown(t *testing.T) {
	n := newNode(t)
	plugged, err := n.vm.PlugNIC(n.ctx(), 2, "52:54:00:00:bb:01")
	must(t, err)
	n.on(plugged, "igb")
	n.ask(driverOf(plugged, "vfio-pci"))
	p := n.run(crashing, "ENIAGENT_CRASH=bind:before:1", "ENIAGENT_CRASH_HOW=stop")
	must(t, p.Expect(n.ctx(), "stopped at "))
	must(t, n.vm.UnplugNIC(n.ctx(), 2))
	must(t, n.vm.WaitGone(n.ctx(), plugged.Sysfs()))
	must(t, p.Signal(n.ctx(), syscall.SIGKILL))
	n.killed(p)
	n.explains("supersede")
	n.ask(driverOf(plugged, "vfio-pci"), driverOf(n.a, "vfio-pci"))
	p = n.run(AgentPath)
	n.said(p, `msg="operation recovered"`, "decision=supersede")
	n.on(n.a, "vfio-pci")
	if said := n.agent(3, "status"); !strings.Contains(said, "waiting") {
		t.Errorf("status of a function that is gone:\n%s", said)
	}
	n.stop(p)

	n = newNode(t)
	n.ask(driverOf(n.a, "igb"))
	p = n.run(crashing, "ENIAGENT_CRASH=bind:before:1", "ENIAGENT_CRASH_HOW=stop")
	must(t, p.Expect(n.ctx(), "stopped at "))
	must(t, n.vm.SetLink(n.ctx(), 0, false))
	must(t, p.Signal(n.ctx(), syscall.SIGKILL))
	n.killed(p)
	p = n.run(AgentPath)
	n.on(n.a, "igb")
	n.settled(p)
	must(t, n.vm.SetLink(n.ctx(), 0, true))
	n.stop(p)
}

// TestAgentAndAHungUnbind: a program holds the function, the unbind hangs, the
// agent is killed, the next one opens the journal at once, sees the fence,
// works on the other NIC, and is done when the program ends.
func TestAgentAndAHungUnbind(t *testing.T) {
	n := newNode(t)
	n.ask(driverOf(n.a, "vfio-pci"))
	p := n.run(AgentPath)
	n.settled(p)
	n.stop(p)

	// The program opens the device between the guard's last look and the write.
	n.ask(driverOf(n.a, "igb"))
	mustRun(t, n.vm, Helper, "remove", "/tmp/go-on")
	p = n.run(crashing, "ENIAGENT_CRASH=unbind:before:1", "ENIAGENT_CRASH_HOW=wait")
	must(t, p.Expect(n.ctx(), "stopped at "))
	holder, err := n.vm.Start(n.ctx(), Command(Helper, "hold", n.a.Addr))
	must(t, err)
	must(t, holder.Expect(n.ctx(), "held\n"))
	must(t, n.vm.WriteFile(n.ctx(), "/tmp/go-on", nil, 0o600))
	n.said(p, "hangs in the kernel")
	must(t, p.Signal(n.ctx(), syscall.SIGKILL))
	n.killed(p)

	began := time.Now()
	n.ask(driverOf(n.a, "igb"), linkOf(n.b, 2500))
	p = n.run(AgentPath)
	n.said(p, `msg="operation stays open"`, "decision=keep", "a write still runs in the kernel")
	t.Logf("the next agent has the journal and sees the fence after %v", time.Since(began))
	must(t, n.vm.WaitText(n.ctx(), n.b.Sysfs("net", n.ipLink(n.b).Name, "mtu"), "2500"))
	if said := n.agent(3, "status"); !strings.Contains(said, "a write still runs") {
		t.Errorf("status of a fenced function:\n%s", said)
	}
	if said := n.agent(3, "recover", "--dry-run"); !strings.Contains(said, "KEEP") {
		t.Errorf("recover --dry-run of a fenced operation:\n%s", said)
	}
	must(t, holder.Signal(n.ctx(), syscall.SIGTERM))
	ended := time.Now()
	n.on(n.a, "igb")
	t.Logf("converged %v after the holder's end", time.Since(ended))
	n.settled(p)
	n.override(n.a, "(null)")
	n.giveBack(p)
}

// TestAgentLeavesAHeldFunctionAlone: a program holds the function before the
// agent wants it back. It is refused and named, all else goes on, and it is done
// by itself within a second of the program's end.
func TestAgentLeavesAHeldFunctionAlone(t *testing.T) {
	n := newNode(t)
	n.ask(driverOf(n.a, "vfio-pci"))
	p := n.run(AgentPath)
	n.settled(p)
	holder, err := n.vm.Start(n.ctx(), Command(Helper, "hold", n.a.Addr))
	must(t, err)
	must(t, holder.Expect(n.ctx(), "held\n"))
	n.ask(driverOf(n.a, "igb"), linkOf(n.b, 2600))
	n.said(p, "interface is held", "refused by in-use", "rig (pid")
	must(t, n.vm.WaitText(n.ctx(), n.b.Sysfs("net", n.ipLink(n.b).Name, "mtu"), "2600"))
	must(t, holder.Signal(n.ctx(), syscall.SIGTERM))
	_, err = holder.Wait(n.ctx())
	must(t, err)
	ended := time.Now()
	n.on(n.a, "igb")
	t.Logf("done %v after the program's end", time.Since(ended))
	n.settled(p)
	n.giveBack(p)
}

// TestHostSeamInTheGuest runs the tests of the seam that want a kernel with
// dummies, VLANs and IPv6.
func TestHostSeamInTheGuest(t *testing.T) {
	vm := sharedVM(t)
	binary := filepath.Join(t.TempDir(), "host.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags=guest", "-trimpath", "-ldflags=-s -w", "-o", binary, "eniagent/drivers/host")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the tests: %v\n%s", err, said)
	}
	data, err := os.ReadFile(binary)
	must(t, err)
	must(t, vm.WriteFile(t.Context(), "/tmp/host.test", data, 0o700))
	for _, module := range []string{"dummy", "8021q", "bridge"} {
		mustRun(t, vm, "modprobe", module)
	}
	said := mustRun(t, vm, "/tmp/host.test", "-test.v", "-test.run", "TestDummyAndVLAN|TestIPv6OfLinks|TestFenceBetweenProcesses|TestLinksOfThisMachine")
	if n := strings.Count(said, "--- PASS"); n < 4 || strings.Contains(said, "--- SKIP") {
		t.Errorf("%d tests passed in the guest:\n%s", n, said)
	}
}

// TestAgentWithoutIOMMU: nothing is unbound for a bind that cannot work, and
// the kernel says EINVAL to who tries all the same.
func TestAgentWithoutIOMMU(t *testing.T) {
	requireVM(t)
	agent, _ := built(t)
	vm, err := Start(t.Context(), Config{NICs: 1, NoIOMMU: true, Log: consoleLog(), Agent: agent})
	must(t, err)
	defer func() { must(t, vm.Close()) }()
	n := &node{t: t, vm: vm, a: mustNICs(t, vm)[0]}
	n.ask(driverOf(n.a, "vfio-pci"))
	p := n.run(AgentPath)
	n.said(p, "interface is refused", "IOMMU")
	n.on(n.a, "igb")
	n.override(n.a, "(null)")
	said := n.agent(0, "inventory", "--check")
	if !strings.Contains(said, "IOMMU                   NO") {
		t.Errorf("inventory --check without an IOMMU:\n%s", said)
	}
	n.stop(p)
	mustRun(t, vm, "modprobe", "vfio-pci") // the agent did not, as it would be for nothing
	must(t, vm.Poke(t.Context(), n.a.Sysfs("driver/unbind"), n.a.Addr))
	must(t, vm.Poke(t.Context(), n.a.Sysfs("driver_override"), "vfio-pci\n"))
	wantIs(t, "bind to vfio-pci without an IOMMU", vm.Poke(t.Context(), "/sys/bus/pci/drivers/vfio-pci/bind", n.a.Addr), syscall.EINVAL)
}
