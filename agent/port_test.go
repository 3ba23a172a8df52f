package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

const noVLAN = "id=0 qos=0 protocol=802.1Q"

// portsOf asks for a number of VFs, and what the PF shall keep for each.
func portsOf(count int, defaults source.Port, overrides ...source.Override) source.Interface {
	return vfs(count, source.VF{Port: defaults}, overrides...)
}

func only(index int, p source.Port) source.Override {
	return source.Override{Index: index, VF: source.VF{Port: p}}
}

func vlan(id int) source.Port { return source.Port{VLAN: &source.VLAN{ID: &id}} }

func releasedMaker() source.Interface {
	i := pci(maker, "")
	i.State = source.Released
	return i
}

// index is the ifindex of the PF.
func (n *node) index() int {
	n.t.Helper()
	dev, err := host.NetdevOf(n.t.Context(), n.kernel, maker)
	if err != nil || dev.Name == "" {
		n.t.Fatalf("no netdev of %s: %v", maker, err)
	}
	return dev.Index
}

// keptFor is what the PF keeps for its VFs.
func (n *node) keptFor() []host.VF {
	n.t.Helper()
	s, err := n.kernel.Settings(n.t.Context(), n.index(), host.SettingVFs)
	if err != nil {
		n.t.Fatal(err)
	}
	return s.VFs
}

func (n *node) vlans(want ...string) {
	n.t.Helper()
	var got []string
	for _, vf := range n.keptFor() {
		got = append(got, vf.VLAN)
	}
	if !slices.Equal(got, want) {
		n.t.Errorf("VLANs are %q, want %q\n%s", got, want, n.log)
	}
}

// byHand is ip link set PF vf N.
func (n *node) byHand(op host.Op, vf int, value string) {
	n.t.Helper()
	if err := n.kernel.Foreign(host.Call{Op: op, Index: n.index(), Number: vf, Value: value}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) upByHand() {
	n.t.Helper()
	if err := n.kernel.Foreign(host.Call{Op: host.OpAdmin, Index: n.index(), Number: 1}); err != nil {
		n.t.Fatal(err)
	}
}

// TestPortsAreSetBeforeTheDrivers of VFs that are made, so that a netdev has its
// MAC when it comes.
func TestPortsAreSetBeforeTheDrivers(t *testing.T) {
	withNode(t, func(n *node) {
		n.upByHand()
		yes, no, most := true, false, 200
		p := source.Port{Trust: &yes, SpoofCheck: &no, VLAN: vlan(100).VLAN, MaxTxRate: &most}
		labels := n.written(func() {
			n.want(portsOf(3, p, only(0, source.Port{MAC: "52:54:00:00:01:00"}), source.Override{Index: 1, VF: dpdkVF()}))
			settled(10 * time.Second)
		})
		n.expect("pci 0000:01:00.0=right, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=right, pci 0000:01:00.0 vf 2=right")
		after := labels[slices.Index(labels, "vf.mac"):] // of the VFs as they are, before they are made anew, there is nothing to set
		if last, bind := lastOf(after, "vf.vlan"), slices.Index(after, "bind"); slices.Index(labels, "numvfs") > slices.Index(labels, "vf.mac") || bind < last {
			t.Errorf("written: %v", labels)
		}
		rest := "id=100 qos=0 protocol=802.1Q on off auto min=0 max=200"
		want := fmt.Sprintf("[{0 52:54:00:00:01:00 %s} {1 %s %s}", rest, host.NoMAC, rest)
		if got := fmt.Sprint(n.keptFor()); !strings.HasPrefix(got, want) {
			t.Errorf("kept %s\nwant %s", got, want)
		}
		n.has("enp1s0v0", "mac=52:54:00:00:01:00")
		n.driver(vf1, "vfio-pci")
	})
}

func lastOf(all []string, s string) int {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i] == s {
			return i
		}
	}
	return -1
}

// TestOnePortChangesWithoutItsSiblings: one write, and what an entry does not
// name stays as it is.
func TestOnePortChangesWithoutItsSiblings(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(portsOf(2, vlan(100)))
		settled(10 * time.Second)
		n.vlans("id=100 qos=0 protocol=802.1Q", "id=100 qos=0 protocol=802.1Q")
		n.byHand(host.OpVFVLAN, 1, "id=100 qos=5 protocol=802.1Q")
		labels := n.written(func() {
			n.want(portsOf(2, vlan(100), only(1, vlan(200))))
			settled(10 * time.Second)
		})
		if got := strings.Join(labels, " "); got != "vf.vlan" {
			t.Errorf("written: %s\n%s", got, n.log)
		}
		n.vlans("id=100 qos=0 protocol=802.1Q", "id=200 qos=5 protocol=802.1Q")
	})
}

// TestAPortThatNobodyAsksFor is none of the agent's business, whoever sets it.
func TestAPortThatNobodyAsksFor(t *testing.T) {
	withNode(t, func(n *node) {
		n.byHand(host.OpVFTrust, 0, "on")
		labels := n.written(func() {
			n.want(portsOf(2, vlan(7)))
			settled(10 * time.Second)
			n.byHand(host.OpVFSpoofCheck, 1, "off")
			settled(2 * time.Minute)
		})
		if !slices.Equal(labels, []string{"vf.vlan", "vf.vlan"}) {
			t.Errorf("written: %v", labels)
		}
		if got := n.keptFor(); got[0].Trust != "on" || got[1].SpoofCheck != "off" {
			t.Errorf("kept %v", got)
		}
	})
}

// TestAPortIsRepaired after another hand, at once where the PF is up, and else
// by the full pass: the kernel tells nobody then.
func TestAPortIsRepaired(t *testing.T) {
	for _, up := range []bool{true, false} {
		t.Run(fmt.Sprintf("up %t", up), func(t *testing.T) {
			withNode(t, func(n *node) {
				if up {
					n.upByHand()
				}
				n.want(portsOf(2, vlan(100)))
				settled(10 * time.Second)
				n.byHand(host.OpVFVLAN, 1, noVLAN)
				settled(5 * time.Second)
				if up {
					n.vlans("id=100 qos=0 protocol=802.1Q", "id=100 qos=0 protocol=802.1Q")
				} else {
					n.vlans("id=100 qos=0 protocol=802.1Q", noVLAN)
				}
				settled(2 * time.Minute)
				n.vlans("id=100 qos=0 protocol=802.1Q", "id=100 qos=0 protocol=802.1Q")
				if got := len(n.repairs()); got != 1 {
					t.Errorf("%d repairs", got)
				}
			})
		})
	}
}

// TestPortsComeBackWithThePFsDriver, whose reload loses the VFs and all that was
// kept for them.
func TestPortsComeBackWithThePFsDriver(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(portsOf(2, vlan(100), only(0, source.Port{MAC: "52:54:00:00:01:00"})))
		settled(10 * time.Second)
		for _, act := range []string{"unbind", "bind"} {
			if err := n.kernel.Foreign(host.Call{Op: host.OpSysfs, Path: host.PCIDrivers + "igb/" + act, Value: maker}); err != nil {
				t.Fatal(err)
			}
		}
		settled(time.Minute)
		n.virtual(vf0, vf1)
		n.vlans("id=100 qos=0 protocol=802.1Q", "id=100 qos=0 protocol=802.1Q")
		if got := n.keptFor()[0].MAC; got != "52:54:00:00:01:00" {
			t.Errorf("MAC %s", got)
		}
		n.driver(vf0, "igbvf")
	})
}

// TestPortsAreGivenBack: what was before, whether or not their number changed.
func TestPortsAreGivenBack(t *testing.T) {
	for _, count := range []int{2, 4} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			withNode(t, func(n *node) { n.portsThereAndBack(count) })
		})
	}
}

func (n *node) portsThereAndBack(count int) {
	n.byHand(host.OpVFVLAN, 1, "id=7 qos=1 protocol=802.1Q")
	n.byHand(host.OpVFTrust, 1, "on")
	before := n.keptFor()
	no := false
	p := vlan(100)
	p.Trust = &no
	asked := portsOf(count, p, only(0, source.Port{MAC: "52:54:00:00:01:00"}))
	asked.VFs.ReplaceVFs = "their ports are asked for"
	n.want(asked)
	settled(10 * time.Second)
	if got := n.keptFor(); len(got) != count || got[1].VLAN != "id=100 qos=1 protocol=802.1Q" || got[1].Trust != "off" {
		n.t.Errorf("kept %v", got)
	}
	n.want(releasedMaker())
	settled(10 * time.Second)
	n.virtual(vf0, vf1)
	if got := n.keptFor(); !slices.Equal(got, before) {
		n.t.Errorf("kept %v\nwant %v\n%s", got, before, n.log)
	}
	for _, b := range n.agent.c.Journal.Baselines() {
		if t := string(b.Key.Target); t == vf0 || t == vf1 {
			n.t.Errorf("a baseline is left: %v\n%s", b, n.conditions())
		}
	}
	writes := n.kernel.Writes()
	settled(5 * time.Minute)
	if n.kernel.Writes() != writes {
		n.t.Error("what was given back is written")
	}
}

// TestAPortIsGivenBackUnderAProgram, whoever gave the VF to it: its driver was
// never touched.
func TestAPortIsGivenBackUnderAProgram(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(vfs(2, dpdkVF()), pci(portB, "vfio-pci"))
		settled(10 * time.Second)
		n.want(releasedMaker(), pci(portB, "vfio-pci")) // which leaves the modules
		settled(10 * time.Second)
		n.driver(vf0, "igbvf")
		for _, c := range []host.Call{
			{Op: host.OpSysfs, Path: host.Attr(vf0, "driver_override"), Value: "vfio-pci"},
			{Op: host.OpSysfs, Path: host.PCIDrivers + "igbvf/unbind", Value: vf0},
			{Op: host.OpSysfs, Path: host.DriversProbe, Value: vf0},
		} {
			if err := n.kernel.Foreign(c); err != nil {
				t.Fatal(err)
			}
		}
		defer n.kernel.Hold(vf0)()
		n.want(portsOf(2, vlan(100)), pci(portB, "vfio-pci"))
		settled(10 * time.Second)
		n.vlans("id=100 qos=0 protocol=802.1Q", "id=100 qos=0 protocol=802.1Q")
		n.want(releasedMaker(), pci(portB, "vfio-pci"))
		settled(10 * time.Second)
		n.vlans(noVLAN, noVLAN)
		n.driver(vf0, "vfio-pci")
	})
}

// TestWhatADriverCannotSet is refused, says so, and leaves the rest alone.
func TestWhatADriverCannotSet(t *testing.T) {
	id, lowest := 5, 100
	for name, tc := range map[string]struct {
		port  source.Port
		stays Condition
		says  []string
	}{
		"a link state":  {source.Port{LinkState: "disable"}, Refused, []string{"not supported", "igb lets no vf.state of a VF be set", "take linkState off"}},
		"a protocol":    {source.Port{VLAN: &source.VLAN{ID: &id, Protocol: host.Dot1ad}}, Refused, []string{"not supported", "ask for 802.1Q"}},
		"a lowest rate": {source.Port{MinTxRate: &lowest}, Failed, []string{"igb takes no such rate"}},
	} {
		t.Run(name, func(t *testing.T) {
			withNode(t, func(n *node) {
				n.upByHand()
				labels := n.written(func() {
					n.want(portsOf(2, source.Port{}, only(1, tc.port)))
					settled(10 * time.Minute)
				})
				if tc.stays == Refused && len(labels) != 1 {
					t.Errorf("tried again: %v", labels)
				}
				if !strings.Contains(n.conditions(), "pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1="+string(tc.stays)) {
					t.Errorf("%s\n%s", n.conditions(), n.log)
				}
				for _, s := range tc.says {
					if !strings.Contains(n.log.String(), s) {
						t.Errorf("nothing says %q: %s", s, n.log)
					}
				}
				n.vlans(noVLAN, noVLAN)
			})
		})
	}
}

// TestARateWaitsForTheLink of its PF, which the same entry may ask to set up.
func TestARateWaitsForTheLink(t *testing.T) {
	withNode(t, func(n *node) {
		up, most := true, 500
		i := portsOf(3, source.Port{MaxTxRate: &most})
		i.Up = &up
		n.want(i)
		settled(time.Minute)
		for _, vf := range n.keptFor() {
			if vf.Rate != "min=0 max=500" {
				t.Errorf("kept %v\n%s", vf, n.log)
			}
		}
		n.expect("pci 0000:01:00.0=right, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=right, pci 0000:01:00.0 vf 2=right")
	})
}

// TestPortsSpareTheManagementPath: another VLAN or MAC would cut what the VF's
// netdev carries; that it is trusted does not.
func TestPortsSpareTheManagementPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.DefaultNode()
		for _, d := range c.Devices {
			if d.Address == vf1 {
				d.Net.Up, d.Net.Defaults = true, []host.Default{{Family: "IPv6", Table: 100}}
			}
		}
		n := newNode(t, c)
		n.start(nil)
		defer n.halt()
		yes := true
		labels := n.written(func() {
			n.want(portsOf(2, source.Port{Trust: &yes}, only(1, source.Port{MAC: "52:54:00:00:01:01"})))
			settled(10 * time.Second)
		})
		n.expect("pci 0000:01:00.0=right, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=refused")
		if got := strings.Join(labels, " "); got != "vf.trust" {
			t.Errorf("written: %s", got)
		}
		n.want(portsOf(2, source.Port{Trust: &yes}, only(1, vlan(5))))
		settled(10 * time.Second)
		n.vlans(noVLAN, noVLAN)
		n.want(portsOf(2, source.Port{Trust: &yes}))
		settled(10 * time.Second)
		n.expect("pci 0000:01:00.0=right, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=right")
	})
}

// TestWhatAPodHasIsNotFoughtOver: a network plugin sets what it wants of a VF
// for its pod. The agent puts back what is asked when the pod has ended, and
// what is newly asked waits for that.
func TestWhatAPodHasIsNotFoughtOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, p := newNode(t, sim.DefaultNode()), &pods{}
		n.start(p.asked)
		defer n.halt()
		off := false
		asked := vlan(100)
		asked.Trust = &off
		n.want(vfs(2, source.VF{Driver: "vfio-pci", Port: asked}))
		settled(10 * time.Second)
		n.vlans("id=100 qos=0 protocol=802.1Q", "id=100 qos=0 protocol=802.1Q")
		end := p.give(vf1)
		labels := n.written(func() {
			n.byHand(host.OpVFVLAN, 1, "id=7 qos=0 protocol=802.1Q")
			n.byHand(host.OpVFTrust, 1, "on")
			settled(2 * time.Minute)
		})
		if got := strings.Join(labels, " "); got != "" {
			t.Errorf("written under a pod: %s\n%s", got, n.log)
		}
		n.expect("pci 0000:01:00.0=right, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=held")
		asked.VLAN = vlan(200).VLAN
		n.want(vfs(2, source.VF{Driver: "vfio-pci", Port: asked}))
		settled(time.Minute)
		n.vlans("id=200 qos=0 protocol=802.1Q", "id=7 qos=0 protocol=802.1Q")
		end()
		settled(10 * time.Second)
		n.vlans("id=200 qos=0 protocol=802.1Q", "id=200 qos=0 protocol=802.1Q")
		if trust := n.keptFor()[1].Trust; trust != "off" {
			t.Errorf("trust is left %s", trust)
		}
		n.expect("pci 0000:01:00.0=right, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=right")
	})
}
