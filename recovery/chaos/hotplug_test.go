//go:build linux

package chaos

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"

	"eniagent/recovery/chaos/wire"
)

// byMAC asks for a NIC wherever it appears.
func byMAC(mac, rest string) string { return fmt.Sprintf("{mac: %q, %s}", mac, rest) }

// plug plugs a NIC into the free port while an agent runs.
func (n *node) plug(mac string) NIC {
	n.t.Helper()
	nic, err := n.vm.PlugNIC(n.ctx(), 2, mac)
	must(n.t, err)
	return nic
}

func (n *node) unplug(nic NIC) {
	n.t.Helper()
	must(n.t, n.vm.UnplugNIC(n.ctx(), 2))
	must(n.t, n.vm.WaitGone(n.ctx(), nic.Sysfs()))
}

// clear empties the free port, whatever a test left in it.
func (n *node) clear() {
	if nics, err := n.vm.NICs(n.ctx()); err == nil && len(nics) > 2 {
		_ = n.vm.UnplugNIC(n.ctx(), 2)
	}
}

// TestHotPlugWhileTheAgentRuns: a function that appears is configured, one that
// is pulled out is gone, under vfio and held by a program too, and what is
// plugged in at its address is not it.
func TestHotPlugWhileTheAgentRuns(t *testing.T) {
	const first, second = "52:54:00:00:cc:01", "52:54:00:00:cc:02"
	n := newNode(t)
	defer n.clear()
	n.ask(byMAC(first, "driver: vfio-pci"), linkOf(n.b, 2300))
	p := n.run(AgentPath)
	defer n.kill(p)
	n.said(p, "interface is waiting", first)

	nic := n.plug(first)
	appeared := time.Now()
	n.on(nic, "vfio-pci")
	t.Logf("bound %v after the rig saw it", time.Since(appeared))
	n.settled(p)
	n.unplug(nic)
	n.said(p, "to=gone", nic.Addr)
	if said := n.agent(0, "recover", "--dry-run"); !strings.Contains(said, "Nothing was left unfinished") {
		t.Errorf("recover --dry-run once the function is gone:\n%s", said)
	}

	other := n.plug(second)
	if other.Addr != nic.Addr {
		t.Fatalf("the other NIC is at %s, not at %s", other.Addr, nic.Addr)
	}
	n.on(other, "igb")
	n.ask(byMAC(first, "driver: vfio-pci"), linkOf(n.b, 2301))
	must(t, n.vm.WaitText(n.ctx(), n.b.Sysfs("net", n.ipLink(n.b).Name, "mtu"), "2301"))
	if now := n.driver(other); now != "igb" {
		t.Errorf("another NIC at the same address is on %s", now)
	}
	n.unplug(other)

	nic = n.plug(first)
	n.on(nic, "vfio-pci")
	n.settled(p)
	n.pulledOutWhileHeld(p, nic)
	n.stop(p)
}

// pulledOutWhileHeld pulls a NIC out while a program has it open: the kernel
// keeps it until the program ends.
func (n *node) pulledOutWhileHeld(p *Proc, nic NIC) {
	n.t.Helper()
	holder, err := n.vm.Start(n.ctx(), Command(Helper, "hold", nic.Addr))
	must(n.t, err)
	must(n.t, holder.Expect(n.ctx(), "held\n"))
	out := make(chan error, 1)
	go func() { out <- n.vm.UnplugNIC(n.ctx(), 2) }()
	must(n.t, n.vm.until(n.ctx(), wire.Contains, "/proc/[0-9]*/stack", "vfio_unregister_group_dev"))
	were := n.lines(p, "to=gone", nic.Addr)
	n.ask(byMAC("52:54:00:00:cc:01", "driver: vfio-pci"), linkOf(n.b, 2302))
	must(n.t, n.vm.WaitText(n.ctx(), n.b.Sysfs("net", n.ipLink(n.b).Name, "mtu"), "2302"))
	must(n.t, holder.Signal(n.ctx(), syscall.SIGTERM))
	must(n.t, <-out)
	must(n.t, n.vm.WaitFor(n.ctx(), "the agent to see it gone", n.moreLines(p, were, "to=gone", nic.Addr)))
	if _, err := n.vm.ReadDir(n.ctx(), nic.Sysfs()); !errors.Is(err, fs.ErrNotExist) {
		n.t.Errorf("it is still there: %v", err)
	}
}

// TestHotPlugOfAPFWithVFs pulls a PF out under its VFs, and plugs it in again.
func TestHotPlugOfAPFWithVFs(t *testing.T) {
	const mac = "52:54:00:00:cc:03"
	n := newNode(t)
	defer n.clear()
	pf := n.plug(mac)
	n.on(pf, "igb")
	n.ask(byMAC(mac, strings.TrimPrefix(strings.TrimSuffix(mixed(pf, 3), "}"), fmt.Sprintf("{pci: %q, ", pf.Addr))))
	p := n.run(AgentPath)
	defer n.kill(p)
	n.settled(p)
	n.hasVFs(pf, 3)
	n.unplug(pf)
	n.said(p, "to=gone", pf.Addr)
	if again := n.plug(mac); again.Addr != pf.Addr {
		t.Fatalf("it is at %s, and was at %s", again.Addr, pf.Addr)
	}
	_, err := n.vm.WaitExists(t.Context(), pf.Sysfs("virtfn2"))
	must(t, err)
	n.settled(p)
	n.hasVFs(pf, 3)
	n.stop(p)
}
