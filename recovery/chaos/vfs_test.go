//go:build linux

package chaos

import (
	"fmt"
	"path"
	"strings"
	"testing"
)

// mixed asks for four VFs, three for DPDK and one with a link of its own.
func mixed(n NIC, count int) string {
	return fmt.Sprintf("{pci: %q, up: true, vfs: {count: %d, defaults: {driver: vfio-pci}, overrides: [{index: 1, driver: igbvf, mtu: 1400, up: true}]}}", n.Addr, count)
}

// vfsOf are the VFs of a PF, by index.
func (n *node) vfsOf(pf NIC) (all []NIC) {
	n.t.Helper()
	for i := 0; ; i++ {
		link, err := n.vm.Readlink(n.ctx(), pf.Sysfs(fmt.Sprintf("virtfn%d", i)))
		if err != nil {
			return all
		}
		all = append(all, NIC{Addr: path.Base(link)})
	}
}

// hasVFs wants that many VFs, as mixed asks, and the kernel's switch as it was.
func (n *node) hasVFs(pf NIC, count int) []NIC {
	n.t.Helper()
	all := n.vfsOf(pf)
	if len(all) != count {
		n.t.Fatalf("%d VFs, want %d", len(all), count)
	}
	for i, vf := range all {
		driver := "vfio-pci"
		if i == 1 {
			driver = "igbvf"
			n.linkIs(vf, 1400, true)
		}
		n.on(vf, driver)
	}
	if probe, err := n.vm.ReadText(n.ctx(), pf.Sysfs("sriov_drivers_autoprobe")); err != nil || probe != "1" {
		n.t.Errorf("autoprobe is %q (%v)", probe, err)
	}
	return all
}

func (n *node) inodeOf(nic NIC) string {
	n.t.Helper()
	return strings.TrimSpace(mustRun(n.t, n.vm, Helper, "inode", nic.Sysfs()))
}

// giveBackVFs restores the PF, which had none, and stops the agent.
func (n *node) giveBackVFs(p *Proc) {
	n.t.Helper()
	n.ask(released(n.a))
	must(n.t, n.vm.WaitGone(n.ctx(), n.a.Sysfs("virtfn0")))
	n.settled(p)
	n.stop(p)
	if probe, err := n.vm.ReadText(n.ctx(), n.a.Sysfs("sriov_drivers_autoprobe")); err != nil || probe != "1" {
		n.t.Errorf("autoprobe is left at %q (%v)", probe, err)
	}
}

// TestVFs has VFs made, changed one by one, made more and given back, on the
// real kernel.
func TestVFs(t *testing.T) {
	n := newNode(t)
	n.ask(mixed(n.a, 4))
	p := n.run(AgentPath)
	n.settled(p)
	vfs := n.hasVFs(n.a, 4)

	// Somebody unbinds one: it is repaired, and its siblings are not touched.
	index := n.ipLink(vfs[1]).Index
	var inodes []string
	for _, vf := range vfs {
		inodes = append(inodes, n.inodeOf(vf))
	}
	mustRun(t, n.vm, Helper, "write", "/sys/bus/pci/drivers/vfio-pci/unbind", vfs[2].Addr)
	n.on(vfs[2], "vfio-pci")
	n.settled(p)
	for i, vf := range n.hasVFs(n.a, 4) {
		if now := n.inodeOf(vf); now != inodes[i] {
			t.Errorf("VF %d was made anew: inode %s, then %s", i, inodes[i], now)
		}
	}
	if now := n.ipLink(vfs[1]).Index; now != index {
		t.Errorf("the sibling's netdev was made anew: index %d, then %d", index, now)
	}

	// One is a container's, so all stay until it is back.
	n.ip("netns add pod")
	n.ip("link set " + n.ipLink(vfs[1]).Name + " netns pod")
	n.ask(mixed(n.a, 6))
	n.said(p, "interface is held", vfs[1].Addr, "in another network namespace")
	n.ip("netns del pod") // the kernel gives the netdev back
	_, err := n.vm.WaitExists(t.Context(), n.a.Sysfs("virtfn5"))
	must(t, err)
	n.settled(p)
	n.hasVFs(n.a, 6)
	n.inventoryIsTrue()

	// Somebody takes the PF's driver away and gives it back, and resets the PF.
	mustRun(t, n.vm, Helper, "write", "/sys/bus/pci/drivers/igb/unbind", n.a.Addr)
	mustRun(t, n.vm, Helper, "write", "/sys/bus/pci/drivers/igb/bind", n.a.Addr)
	_, err = n.vm.WaitExists(t.Context(), n.a.Sysfs("virtfn5"))
	must(t, err)
	n.settled(p)
	n.hasVFs(n.a, 6)
	// Not settled then: igbvf may know no speed after it, which is told as degraded.
	mustRun(t, n.vm, Helper, "write", n.a.Sysfs("reset"), "1")
	n.hasVFs(n.a, 6)
	n.giveBackVFs(p)
}

// TestVFsHalfWay kills the agent while it makes VFs anew.
func TestVFsHalfWay(t *testing.T) {
	for _, point := range []string{
		"autoprobe:before:1", "numvfs:before:1", "numvfs:after:1", "autoprobe:after:1", "override:before:1", "bind:after:2", "mtu:before:1",
	} {
		t.Run(point, func(t *testing.T) {
			n := newNode(t)
			n.ask(mixed(n.a, 2))
			n.killed(n.run(crashing, "ENIAGENT_CRASH="+point))
			n.explains("replay")
			p := n.run(AgentPath)
			n.said(p, `msg="operation recovered"`, "decision=replay")
			n.settled(p)
			n.hasVFs(n.a, 2)
			n.giveBackVFs(p)
		})
	}
}
