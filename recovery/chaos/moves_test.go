//go:build linux

package chaos

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// TestMovesOnARealKernel: MAC addresses that go from one VF to another, settings
// that a change of the VFs moves, and a PF that goes from driver to driver with VFs
// asked of it. One agent does all of it.
func TestMovesOnARealKernel(t *testing.T) {
	n := newNode(t)
	silent(t, n.vm)
	before := n.standing()
	n.byHandWithMACs(n.a)
	p := n.macsOfBoundVFs()
	n.channelsAndVFs(p)
	n.driversAndVFs(p)

	n.agent(0, "release", "--all", "--yes")
	for _, nic := range []NIC{n.a, n.b} {
		n.on(nic, "igb")
		n.override(nic, "(null)")
	}
	n.stop(p)
	n.makesVFs(n.a, 2) // by hand, before the agent came, with their MACs
	for i, vf := range n.keepsFor(n.a) {
		if want := ownMAC(n.a, i); vf.Address != want {
			t.Errorf("VF %d is given back with %s, want %s", i, vf.Address, want)
		}
	}
	must(t, n.vm.Poke(n.ctx(), n.a.Sysfs("sriov_numvfs"), "0"))
	n.makesVFs(n.b, 0)
	n.ip("link set " + n.ipLink(n.a).Name + " down")
	if now := n.standing(); withoutIndex(now) != withoutIndex(before) {
		t.Errorf("the NICs are\n%s, and were\n%s", now, before)
	}
}

// withoutIndex is what standing tells but for the index of the netdevs.
func withoutIndex(standing string) string {
	var lines []string
	for line := range strings.Lines(standing) {
		words := strings.Fields(line)
		lines = append(lines, strings.Join(slices.Delete(words, 3, 4), " "))
	}
	return strings.Join(lines, "\n")
}

// byHandWithMACs makes two VFs as a person does, the first one's link up, and has
// the PF keep MACs for them of which their drivers do not learn.
func (n *node) byHandWithMACs(pf NIC) {
	n.t.Helper()
	name := n.ipLink(pf).Name
	n.ip("link set " + name + " up")
	must(n.t, n.vm.WaitText(n.ctx(), pf.Sysfs("net", name, "operstate"), "up"))
	must(n.t, n.vm.Poke(n.ctx(), pf.Sysfs("sriov_numvfs"), "2"))
	vfs := n.vfsOf(pf)
	for _, vf := range vfs {
		n.on(vf, "igbvf")
	}
	n.ip("link set " + n.ipLink(vfs[0]).Name + " up")
	n.ip("addr add 192.0.2.7/24 dev " + n.ipLink(vfs[0]).Name)
	for i, vf := range vfs {
		n.ip(fmt.Sprintf("link set %s vf %d mac %s", name, i, ownMAC(pf, i)))
		if got := n.keepsFor(pf)[i].Address; got != ownMAC(pf, i) || n.ipLink(vf).MAC == got {
			n.t.Fatalf("VF %d: the PF keeps %s, and the netdev has %s", i, got, n.ipLink(vf).MAC)
		}
	}
}

// twoVFs asks for two VFs with these MACs; "" asks for none.
func twoVFs(pf NIC, macs ...string) string {
	var each []string
	for i, mac := range macs {
		if mac != "" {
			each = append(each, fmt.Sprintf("{index: %d, mac: %q}", i, mac))
		}
	}
	return fmt.Sprintf("{pci: %q, vfs: {count: 2, overrides: [%s]}}", pf.Addr, strings.Join(each, ", "))
}

// haveMACs wants these MACs of the VFs, both of their PF and of their netdevs; ""
// is any but those of the others.
func (n *node) haveMACs(pf NIC, macs ...string) {
	n.t.Helper()
	kept := n.keepsFor(pf)
	for i, vf := range n.vfsOf(pf) {
		own := n.ipLink(vf).MAC
		if macs[i] == "" && !slices.Contains(macs, own) && !slices.Contains(macs, kept[i].Address) {
			continue
		}
		if macs[i] == "" || own != macs[i] || kept[i].Address != macs[i] {
			n.t.Errorf("VF %d has %s, and its PF keeps %s for it: want %q of %q", i, own, kept[i].Address, macs[i], macs)
		}
	}
}

// macsOfBoundVFs has the agent bring the VFs' netdevs to their MACs, and these
// from one VF to the other.
func (n *node) macsOfBoundVFs() *Proc {
	n.t.Helper()
	one, two := ownMAC(n.a, 0), ownMAC(n.a, 1)
	vfs := n.vfsOf(n.a)
	used := n.ipLink(vfs[0])
	n.ask(twoVFs(n.a, one, two))
	plan := n.agent(3, "plan", "--config", wanted, "--allow-without-default-route")
	for _, want := range []string{used.Name + " has the address 192.0.2.7", "\n2 writes would be made."} {
		if !strings.Contains(plan, want) {
			n.t.Errorf("the plan lacks %q:\n%s", want, plan)
		}
	}
	p := n.run(AgentPath)
	n.said(p, "interface is held", vfs[0].Addr, "has to be bound anew for it to take up its MAC", used.Name+" has the address 192.0.2.7")
	must(n.t, n.vm.WaitText(n.ctx(), vfs[1].Sysfs("net/*/address"), two))
	if now := n.ipLink(vfs[0]); now.Index != used.Index || now.MAC != used.MAC {
		n.t.Errorf("the netdev that is used is %+v, and was %+v", now, used)
	}
	if said := n.notRight(); !strings.Contains(said, one+" netdev="+used.MAC) {
		n.t.Errorf("the status does not tell both MACs of the VF, %s and %s:\n%s", one, used.MAC, said)
	}
	n.ip("addr flush dev " + used.Name)
	n.settled(p)
	n.haveMACs(n.a, one, two)
	n.linkIs(vfs[0], 1500, true)
	n.linkIs(vfs[1], 1500, false)

	for _, macs := range [][]string{{two, one}, {one, ""}, {"", one}} {
		n.asks(p, twoVFs(n.a, macs...))
		n.settled(p)
		n.haveMACs(n.a, macs...)
		n.linkIs(vfs[0], 1500, true)
		n.linkIs(vfs[1], 1500, false)
	}
	return p
}

// asks is ask of an agent that runs, and waits until it has read that: what it
// says then is of what is asked now.
func (n *node) asks(p *Proc, entries ...string) {
	n.t.Helper()
	const taken = `msg="desired state in force"`
	were := n.lines(p, taken)
	n.ask(entries...)
	must(n.t, n.vm.WaitFor(n.ctx(), "the agent to read what is asked", n.moreLines(p, were, taken)))
}

// notRight wants the agent not to say that all is as asked, and gives what it says.
func (n *node) notRight() string {
	n.t.Helper()
	res, err := n.vm.Agent(n.ctx(), "status", "--wait", "1s", "--state-dir", StateDir)
	must(n.t, err)
	if res.OK() {
		n.t.Errorf("agent status --wait says that all is as asked: %s", res)
	}
	return string(res.Stdout)
}

// hasChannels counts the queues that the kernel uses: as many as there are
// combined channels.
func (n *node) hasChannels(pf NIC, want int) {
	n.t.Helper()
	queues, err := n.vm.ReadDir(n.ctx(), pf.Sysfs("net", n.ipLink(pf).Name, "queues"))
	must(n.t, err)
	count := 0
	for _, q := range queues {
		if strings.HasPrefix(q, "rx-") {
			count++
		}
	}
	if count != want {
		n.t.Errorf("%s has %d channels, want %d", pf.Addr, count, want)
	}
}

// channelsAndVFs: VFs take channels from their PF. What is asked of the first PF
// stays.
func (n *node) channelsAndVFs(p *Proc) {
	n.t.Helper()
	pf := n.b
	ask := func(fields string) {
		n.asks(p, twoVFs(n.a, "", ownMAC(n.a, 0)), fmt.Sprintf("{pci: %q, up: true, %s}", pf.Addr, fields))
	}
	const four, two = "channels: {combined: 4}", "vfs: {count: 2, defaults: {driver: vfio-pci}}"
	refused := []string{pf.Addr, "has at most 2 combined channels while it has 2 VFs, not 4 (ask for at most 2, or for no VFs)"}
	ask(four)
	n.settled(p)
	n.hasChannels(pf, 4)

	// Both cannot be: nothing is done, and it is said once.
	ask(four + ", " + two)
	n.said(p, refused...)
	n.notRight()
	n.hasChannels(pf, 4)
	n.makesVFs(pf, 0)
	if said := n.lines(p, refused...); said != 1 {
		n.t.Errorf("the refusal is in the log %d times", said)
	}

	ask(two)
	n.settled(p)
	n.hasChannels(pf, 2)
	n.makesVFs(pf, 2)
	were := n.lines(p, refused...)
	ask(four + ", " + two)
	must(n.t, n.vm.WaitFor(n.ctx(), "the refusal", n.moreLines(p, were, refused...)))
	n.notRight()
	n.makesVFs(pf, 2)

	ask(four)
	n.settled(p)
	n.makesVFs(pf, 0)
	n.hasChannels(pf, 4)

	// Somebody else makes VFs, and they go again.
	were = n.lines(p, refused...)
	must(n.t, n.vm.Poke(n.ctx(), pf.Sysfs("sriov_numvfs"), "2"))
	must(n.t, n.vm.WaitFor(n.ctx(), "the refusal", n.moreLines(p, were, refused...)))
	n.notRight()
	must(n.t, n.vm.Poke(n.ctx(), pf.Sysfs("sriov_numvfs"), "0"))
	n.settled(p)
	n.hasChannels(pf, 4)
}

// driversAndVFs: a PF on drivers that make VFs, and on one that makes none.
func (n *node) driversAndVFs(p *Proc) {
	n.t.Helper()
	pf := n.b
	for _, step := range []struct {
		driver string
		vfs    int
	}{{"pci-pf-stub", 2}, {"vfio-pci", 0}, {"igb", 2}, {"pci-pf-stub", 1}, {"vfio-pci", 0}} {
		entry := driverOf(pf, step.driver)
		if step.vfs > 0 {
			entry = fmt.Sprintf("{pci: %q, driver: %s, vfs: {count: %d, defaults: {driver: vfio-pci}}}", pf.Addr, step.driver, step.vfs)
		}
		n.asks(p, twoVFs(n.a, "", ownMAC(n.a, 0)), entry)
		n.settled(p)
		n.isOn(pf, step.driver)
		for _, vf := range n.makesVFs(pf, step.vfs) {
			n.isOn(vf, "vfio-pci")
		}
	}

	// Each went its way in one attempt.
	if again := n.lines(p, "hidden by another attribute"); again > 0 {
		n.t.Errorf("what the PF cannot keep for its VFs was tried %d times", again)
	}
}

// isOn wants a driver now, and not some time.
func (n *node) isOn(nic NIC, driver string) {
	n.t.Helper()
	if is := n.driver(nic); is != driver {
		n.t.Errorf("%s is on %q, want %q", nic.Addr, is, driver)
	}
}

// makesVFs wants so many VFs of a PF.
func (n *node) makesVFs(pf NIC, want int) []NIC {
	n.t.Helper()
	all := n.vfsOf(pf)
	if len(all) != want {
		n.t.Errorf("%s has %d VFs, want %d", pf.Addr, len(all), want)
	}
	text, err := n.vm.ReadText(n.ctx(), pf.Sysfs("sriov_numvfs"))
	if !errors.Is(err, fs.ErrNotExist) && text != fmt.Sprint(want) {
		n.t.Errorf("%s has sriov_numvfs %s (%v), want %d", pf.Addr, text, err, want)
	}
	return all
}
