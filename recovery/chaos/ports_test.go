//go:build linux

package chaos

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// kept is what a PF keeps for one VF, as ip link tells it.
type kept struct {
	VF      int    `json:"vf"`
	Address string `json:"address"`
	VLANs   []struct {
		ID  int `json:"vlan"`
		QoS int `json:"qos"`
	} `json:"vlan_list"`
	SpoofCheck bool `json:"spoofchk"`
	Trust      bool `json:"trust"`
	Rate       struct {
		Max int `json:"max_tx"`
	} `json:"rate"`
}

func (k kept) String() string {
	vlan := "none"
	if len(k.VLANs) > 0 {
		vlan = fmt.Sprintf("%d/%d", k.VLANs[0].ID, k.VLANs[0].QoS)
	}
	return fmt.Sprintf("%s vlan %s spoofchk %t trust %t", k.Address, vlan, k.SpoofCheck, k.Trust)
}

func (n *node) keepsFor(pf NIC) []kept {
	n.t.Helper()
	var links []struct {
		VFs []kept `json:"vfinfo_list"`
	}
	must(n.t, json.Unmarshal([]byte(n.ip("-j link show dev "+n.ipLink(pf).Name)), &links))
	if len(links) != 1 {
		n.t.Fatalf("ip link tells of %d links", len(links))
	}
	return links[0].VFs
}

// sevenVFs asks for all that an igb makes: those with an even index for DPDK,
// the others with links of their own.
func sevenVFs(pf NIC, vlan int) string {
	var each []string
	for i := range 7 {
		rest := ""
		if i%2 == 1 {
			rest = ", driver: igbvf, mtu: 1400, up: true"
		}
		each = append(each, fmt.Sprintf("{index: %d, mac: %q, vlan: {id: %d, qos: %d}%s}", i, ownMAC(pf, i), vlan+i, i, rest))
	}
	return fmt.Sprintf("{pci: %q, up: true, vfs: {count: 7, defaults: {driver: vfio-pci, trust: true, spoofCheck: false}, overrides: [%s]}}",
		pf.Addr, strings.Join(each, ", "))
}

func ownMAC(pf NIC, i int) string { return fmt.Sprintf("52:54:00:0%d:00:0%d", pf.Port+1, i) }

// hasSeven wants that of the kernel, and of ip, and of the agent's status.
func (n *node) hasSeven(pf NIC, vlan int) {
	n.t.Helper()
	all, vfs := n.keepsFor(pf), n.vfsOf(pf)
	if len(all) != 7 || len(vfs) != 7 {
		n.t.Fatalf("%d VFs, and ip tells of %d", len(vfs), len(all))
	}
	status := n.agent(0, "status", "--wait", "1m") // a read that is late on a busy machine is told as a fence until it is back
	for i, vf := range vfs {
		if got, want := all[i].String(), fmt.Sprintf("%s vlan %d/%d spoofchk false trust true", ownMAC(pf, i), vlan+i, i); got != want {
			n.t.Errorf("VF %d of %s: ip tells %s, want %s", i, pf.Addr, got, want)
		}
		driver := "vfio-pci"
		if i%2 == 1 {
			driver = "igbvf"
			n.linkIs(vf, 1400, true)
			if got := n.ipLink(vf).MAC; got != ownMAC(pf, i) {
				n.t.Errorf("the link of VF %d of %s has %s, want %s", i, pf.Addr, got, ownMAC(pf, i))
			}
		}
		n.on(vf, driver)
		line := regexp.MustCompile(fmt.Sprintf(`(?m)^pci %s vf %d .* right .*%s.* vf\.mac %s, .*vf\.vlan id=%d qos=%d`, pf.Addr, i, driver, ownMAC(pf, i), vlan+i, i))
		if !line.MatchString(status) {
			n.t.Errorf("the agent's status has no %s:\n%s", line, status)
		}
	}
}

// TestTwoPFsWithAllTheirVFs: what the agent, ip and sysfs tell of fourteen VFs is
// the same, after another hand, and after two SIGKILLs half-way.
func TestTwoPFsWithAllTheirVFs(t *testing.T) {
	n := newNode(t)
	n.ask(sevenVFs(n.a, 100), sevenVFs(n.b, 200))
	n.killed(n.run(crashing, "ENIAGENT_CRASH=vf.vlan:before:5"))
	p := n.run(AgentPath)
	n.settled(p)
	n.hasSeven(n.a, 100)
	n.hasSeven(n.b, 200)

	// Another hand: repaired, and no VF is made anew.
	inode := n.inodeOf(n.vfsOf(n.a)[3])
	words := []string{"kind=vf.vlan", n.vfsOf(n.a)[3].Addr, "step made"}
	were := n.lines(p, words...)
	n.ip("link set " + n.ipLink(n.a).Name + " vf 3 vlan 999 qos 1")
	must(t, n.vm.WaitFor(t.Context(), "the VLAN to be repaired", n.moreLines(p, were, words...)))
	n.settled(p)
	n.hasSeven(n.a, 100)
	if now := n.inodeOf(n.vfsOf(n.a)[3]); now != inode {
		t.Errorf("the VF was made anew: inode %s, then %s", inode, now)
	}
	n.stop(p)

	n.ask(sevenVFs(n.a, 300), sevenVFs(n.b, 200))
	n.killed(n.run(crashing, "ENIAGENT_CRASH=vf.vlan:after:3"))
	p = n.run(AgentPath)
	n.settled(p)
	n.hasSeven(n.a, 300)
	n.hasSeven(n.b, 200)

	n.ask(released(n.a), released(n.b))
	for _, pf := range []NIC{n.a, n.b} {
		must(t, n.vm.WaitGone(t.Context(), pf.Sysfs("virtfn0")))
	}
	n.settled(p)
	n.stop(p)
}
