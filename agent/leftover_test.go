package agent

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

// withFields is an entry that asks for a field.
type withField struct {
	name string
	with source.Interface
	// without is the entry that no longer asks for it.
	without source.Interface
}

// fields are entries with a field each that can be taken out of them.
func fields() []withField {
	yes, no, most, combined, rx := true, false, 200, 2, 512
	of := func(i source.Interface, change func(*source.Interface)) source.Interface {
		change(&i)
		return i
	}
	link := pci(portA, "")
	port := func(p source.Port) source.Interface { return portsOf(2, p) }
	return []withField{
		{"mtu", of(link, func(i *source.Interface) { i.MTU = 4000 }), link},
		{"up", of(link, func(i *source.Interface) { i.Up = &yes }), link},
		{"altNames", of(link, func(i *source.Interface) { i.AltNames = []string{"storage0"} }), link},
		{"channels", of(link, func(i *source.Interface) { i.Channels = &source.Channels{Combined: &combined} }), link},
		{"rings", of(link, func(i *source.Interface) { i.Rings = &source.Rings{RX: &rx} }), link},
		{"driver", pci(portA, "vfio-pci"), link},
		{"driver, of an entry that keeps its MTU", of(pci(portA, "vfio-pci"), func(i *source.Interface) { i.AllowManagementPath = "x" }), link},
		{"vlan", port(vlan(100)), port(source.Port{})},
		{"trust", port(source.Port{Trust: &yes}), port(source.Port{})},
		{"spoofCheck", port(source.Port{SpoofCheck: &no}), port(source.Port{})},
		{"maxTxRate", of(port(source.Port{MaxTxRate: &most}), func(i *source.Interface) { i.Up = &yes }), of(port(source.Port{}), func(i *source.Interface) { i.Up = &yes })},
		{"mac", portsOf(2, source.Port{}, only(0, source.Port{MAC: "52:54:00:00:01:00"})), portsOf(2, source.Port{})},
		{"a VF's driver", vfs(2, dpdkVF()), vfs(2, source.VF{})},
		{"a VF's driver in an override", vfs(2, source.VF{}, source.Override{Index: 1, VF: dpdkVF()}), vfs(2, source.VF{})},
		{"a VF's mtu", vfs(2, source.VF{MTU: 1400}), vfs(2, source.VF{})},
		{"vfs, as many as there were", vfs(2, source.VF{Driver: "vfio-pci", Port: source.Port{Trust: &yes}}), pci(maker, "")},
		{"vfs, more", vfs(4, dpdkVF()), pci(maker, "")},
		{"vfs, none", vfs(0, source.VF{}), pci(maker, "")},
	}
}

// picture is what the node is like, but for what no agent can bring back, such
// as inode numbers, and the modules, which only a release of all unloads. The
// address that a VF's netdev gets by itself is another each time.
func (n *node) picture() string {
	lines := []string{fmt.Sprintln(n.keptFor())}
	made := regexp.MustCompile(` (index|inode)=\d+| mac=fe:\S+`)
	for line := range strings.Lines(n.kernel.String()) {
		if !strings.HasPrefix(line, "module") && !strings.HasPrefix(line, "driver") {
			lines = append(lines, made.ReplaceAllString(line, ""))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// asked are the keys of the goals that are kept.
func (n *node) asked() []string {
	var keys []string
	for _, g := range InForce(n.journal, "file").Goals {
		keys = append(keys, g.Key.String())
	}
	return keys
}

// edited is how a node was before an entry asked for a field, and is after that
// was taken out of it again. between is called while no agent runs; nil lets it
// run.
func (f withField) edited(n *node, between func()) (before, after string) {
	n.start(nil)
	n.want(f.without)
	settled(5 * time.Second)
	before = n.picture()
	n.want(f.with)
	settled(10 * time.Second)
	if n.picture() == before {
		n.t.Fatalf("it changes nothing: %+v\n%s", n.agent.Status(n.t.Context()).Interfaces, n.log)
	}
	if between != nil {
		n.halt()
		between()
		n.start(nil)
	}
	n.want(f.without)
	settled(20 * time.Second)
	return before, n.picture()
}

// TestAFieldThatVanishesIsGivenBack: what an entry no longer asks for, though it
// is still there, is what it was before, also when the edit was made while no
// agent ran; then it is nobody's.
func TestAFieldThatVanishesIsGivenBack(t *testing.T) {
	for _, f := range fields() {
		for name, between := range map[string]func(){"": nil, ", while it is stopped": func() {}} {
			t.Run(f.name+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := newNode(t, sim.DefaultNode())
					before, after := f.edited(n, between)
					defer n.halt()
					if after != before {
						t.Errorf("the node is\n%s\nand was\n%s\n%s", after, before, n.log)
					}
					n.allRight()
					if left := n.asked(); f.without.VFs == nil && f.without.Up == nil && len(left) > 0 {
						t.Errorf("still asked for: %v", left)
					}
				})
			})
		}
	}
}

// TestAnAgentThatForgetsWhatWasAskedIsCaught is the broken variant.
func TestAnAgentThatForgetsWhatWasAskedIsCaught(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		before, after := fields()[0].edited(n, func() {
			j, err := journal.OpenMemory(t.Context(), n.store, journal.Options{BootID: "x"})
			if err != nil {
				t.Fatal(err)
			}
			d := InForce(j, "file")
			d.Goals = nil
			if err := errors.Join(j.SetDesired(t.Context(), d), j.Close()); err != nil {
				t.Fatal(err)
			}
		})
		defer n.halt()
		if after == before {
			t.Error("not noticed")
		}
	})
}

func (n *node) allRight() {
	n.t.Helper()
	for _, r := range n.agent.Status(n.t.Context()).Interfaces {
		if r.Condition != Right {
			n.t.Errorf("%s is %s: %s", r.Entry, r.Condition, r.Reason)
		}
	}
}

// TestAFieldOfVFsThatWereMadeWithIt: nothing was before it, so it is what the
// kernel makes of a VF. Where that differs by driver, it is told and left.
func TestAFieldOfVFsThatWereMadeWithIt(t *testing.T) {
	withNode(t, func(n *node) {
		yes, no := true, false
		with := source.VF{Driver: "vfio-pci", Port: source.Port{Trust: &yes, VLAN: vlan(100).VLAN}}
		mac := only(0, source.Port{MAC: "52:54:00:00:01:00"})
		n.want(vfs(4, with, mac, source.Override{Index: 3, VF: source.VF{Driver: "igbvf", MTU: 1400}}))
		settled(10 * time.Second)
		n.driver(vf2, "vfio-pci")
		n.want(vfs(4, source.VF{}))
		settled(20 * time.Second)
		n.allRight()
		n.vlans(noVLAN, noVLAN, noVLAN, noVLAN)
		for _, vf := range n.keptFor() {
			if vf.Trust != "off" || vf.MAC != host.NoMAC {
				t.Errorf("kept %+v", vf)
			}
		}
		for _, vf := range []string{vf0, vf1, vf2, vf3} {
			n.driver(vf, "igbvf")
		}
		n.has("enp1s0v3", "mtu=1500")

		n.want(vfs(5, source.VF{Port: source.Port{SpoofCheck: &no}}))
		settled(10 * time.Second)
		n.want(vfs(5, source.VF{}))
		settled(10 * time.Second)
		const told = "vf.spoofchk is no longer asked for and stays off"
		for _, where := range []string{n.reasonOf("pci 0000:01:00.0 vf 4"), n.plannedReason("pci 0000:01:00.0 vf 4")} {
			if !strings.Contains(where, told) {
				t.Errorf("%q does not say %q", where, told)
			}
		}
	})
}

func (n *node) reasonOf(entry string) string {
	for _, r := range n.agent.Status(n.t.Context()).Interfaces {
		if r.Entry == entry {
			return string(r.Condition) + " " + r.Reason
		}
	}
	return ""
}

func (n *node) plannedReason(entry string) string {
	n.t.Helper()
	p := n.agent.Plan(n.t.Context())
	for _, e := range p.Entries {
		if e.Entry == entry {
			return string(e.Condition) + " " + e.Reason
		}
	}
	return ""
}

// TestATrustedVFLeavesItsPool before its trust is taken back, and comes back
// without it; an entry without its pool leaves that.
func TestATrustedVFLeavesItsPool(t *testing.T) {
	withPools(t, func(n *node) {
		yes := true
		trusted := source.VF{Driver: "vfio-pci", Pool: poolX, Port: source.Port{Trust: &yes}}
		n.want(vfs(2, trusted))
		settled(10 * time.Second)
		n.expectPool(poolX, vf0, vf1)
		labels := n.written(func() {
			n.want(vfs(2, source.VF{Driver: "vfio-pci", Pool: poolX}))
			settled(20 * time.Second)
		})
		n.expectPool(poolX, vf0, vf1)
		for _, vf := range n.keptFor() {
			if vf.Trust != "off" {
				n.t.Errorf("kept %+v", vf)
			}
		}
		if out, off := slices.Index(labels, "replace"), slices.Index(labels, "vf.trust"); out < 0 || off < out {
			n.t.Errorf("written: %v", labels)
		}
		n.want(vfs(2, source.VF{Driver: "vfio-pci"}))
		settled(20 * time.Second)
		n.expectPool(poolX)
		n.driver(vf0, "vfio-pci")
	})
}

// TestChannelsThatVFsLeaveNoRoomForComeBackWithTheirEnd: they are no longer asked
// for, and must not keep the VFs from being made, or be refused for good.
func TestChannelsThatVFsLeaveNoRoomForComeBackWithTheirEnd(t *testing.T) {
	three, one := 3, 1
	ask := func(combined *int, count int) source.Interface {
		i := pci(portA, "")
		if combined != nil {
			i.Channels = &source.Channels{Combined: combined}
		}
		if count >= 0 {
			i.VFs = &source.VFs{Count: count}
		}
		return i
	}
	for name, first := range map[string]source.Interface{"in the place of VFs": ask(&three, -1), "beside VFs": ask(&one, 3)} {
		for end, goes := range map[string]func(n *node){
			"none":     func(n *node) { n.want(ask(nil, 0)) },
			"taken":    func(n *node) { n.want(ask(nil, -1)) },
			"released": func(n *node) { n.release(Order{All: true}) },
		} {
			t.Run(name+", "+end, func(t *testing.T) {
				withNode(t, func(n *node) {
					n.want(first)
					settled(20 * time.Second)
					n.want(ask(nil, 3))
					settled(20 * time.Second)
					n.has("enp2s0", `combined=2"`)
					n.says("until its VFs go")
					if c := n.conditions(); strings.Count(c, "=right") != 4 {
						t.Errorf("interfaces are %s\n%s", c, n.log)
					}
					goes(n)
					settled(20 * time.Second)
					n.has("enp2s0", `combined=4"`)
					if left := n.journal.Baselines(); end == "released" && len(left) > 0 {
						t.Errorf("baselines are left: %v", left)
					}
				})
			})
		}
	}
}
