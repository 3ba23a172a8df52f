package agent

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/link"
	"eniagent/drivers/sriov"
	"eniagent/journal"
)

// capable is a node whose drivers let all be set: separate channels and all rings
// of a netdev, and all of a VF.
func capable() sim.Config {
	c := sim.DefaultNode()
	for i := range c.Modules {
		for k := range c.Modules[i].Drivers {
			if d := &c.Modules[i].Drivers[k]; d.VFs != nil {
				d.VFs = &sim.VFLimits{}
			}
		}
	}
	for i := range c.Devices {
		if n := c.Devices[i].Net; n != nil && c.Devices[i].Address == portA {
			n.Set = sim.IGB()
			n.Set.Channels, n.Set.MaxChannels = host.Channels{RX: 4, TX: 4}, host.Channels{RX: 8, TX: 8}
			n.Set.Rings, n.Set.MaxRings = host.Rings{RX: 256, Mini: 256, Jumbo: 256, TX: 256}, host.Rings{RX: 4096, Mini: 4096, Jumbo: 4096, TX: 4096}
		}
	}
	return c
}

// changed is an entry of portA with something asked for.
func changed(change func(*source.Interface)) source.Interface {
	i := pci(portA, "")
	change(&i)
	return i
}

func alsoNamed(names ...string) source.Interface {
	return changed(func(i *source.Interface) { i.AltNames = names })
}

// partsOfFields are entries that ask for several parts of one kind, and then for
// fewer of them.
func partsOfFields() []withField {
	num := func(n int) *int { return &n }
	features := func(f map[string]bool) source.Interface {
		return changed(func(i *source.Interface) { i.Features = f })
	}
	channels := func(c source.Channels) source.Interface {
		return changed(func(i *source.Interface) { i.Channels = &c })
	}
	rings := func(r source.Rings) source.Interface {
		return changed(func(i *source.Interface) { i.Rings = &r })
	}
	tagged := func(v source.VLAN) source.Port { return source.Port{VLAN: &v} }
	rates := func(least, most *int) source.Interface {
		return portsOf(2, source.Port{MinTxRate: least, MaxTxRate: most})
	}
	return []withField{
		{"one of two altNames", alsoNamed("a", "b"), alsoNamed("a")},
		{"the other altName", alsoNamed("a", "b"), alsoNamed("b")},
		{"one of two features", features(map[string]bool{"rx-gro": false, "tx-tcp-segmentation": false}), features(map[string]bool{"rx-gro": false})},
		{"channels rx", channels(source.Channels{RX: num(2), TX: num(2)}), channels(source.Channels{TX: num(2)})},
		{"channels tx", channels(source.Channels{RX: num(2), TX: num(2)}), channels(source.Channels{RX: num(2)})},
		{"rings rx", rings(source.Rings{RX: num(512), TX: num(512)}), rings(source.Rings{TX: num(512)})},
		{"rings tx, mini and jumbo", rings(source.Rings{RX: num(512), TX: num(512), Mini: num(512), Jumbo: num(1024)}), rings(source.Rings{RX: num(512)})},
		{"vlan qos", portsOf(2, tagged(source.VLAN{ID: num(100), QoS: num(3)})), portsOf(2, tagged(source.VLAN{ID: num(100)}))},
		{"vlan protocol", portsOf(2, tagged(source.VLAN{ID: num(100), Protocol: "802.1ad"})), portsOf(2, tagged(source.VLAN{ID: num(100)}))},
		{"vlan id", portsOf(2, tagged(source.VLAN{ID: num(100), QoS: num(0)})), portsOf(2, tagged(source.VLAN{QoS: num(0)}))},
		{
			"vlan qos, of one VF",
			portsOf(2, tagged(source.VLAN{ID: num(100)}), only(1, tagged(source.VLAN{QoS: num(3)}))),
			portsOf(2, tagged(source.VLAN{ID: num(100)})),
		},
		{"minTxRate", rates(num(100), num(200)), rates(nil, num(200))},
		{"maxTxRate", rates(num(100), num(200)), rates(num(100), nil)},
	}
}

// wholeFields are fields that only some drivers let be set.
func wholeFields() []withField {
	changedTo := func(on bool) source.Interface {
		return changed(func(i *source.Interface) { i.Features = map[string]bool{"rx-gro": on, "tx-tcp-segmentation": on} })
	}
	return []withField{
		{"linkState", portsOf(2, source.Port{LinkState: "disable"}), portsOf(2, source.Port{})},
		{"linkState, of one VF", portsOf(2, source.Port{}, only(1, source.Port{LinkState: "enable"})), portsOf(2, source.Port{})},
		{"features", changedTo(false), pci(portA, "")},
		{"both rates", portsOf(2, source.Port{MinTxRate: new(int), MaxTxRate: intOf(200)}), portsOf(2, source.Port{})},
	}
}

func intOf(n int) *int { return &n }

// TestAPartOfAFieldThatVanishesIsGivenBack: what an entry no longer names of a
// kind, though it still names another part of it, is what it was before, also when
// the edit was made while no agent ran. Then nothing of it is remembered.
func TestAPartOfAFieldThatVanishesIsGivenBack(t *testing.T) {
	for _, f := range slices.Concat(partsOfFields(), wholeFields()) {
		for name, between := range map[string]func(){"": nil, ", while it is stopped": func() {}} {
			t.Run(f.name+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := newNode(t, capable())
					before, after := f.edited(n, between)
					defer n.halt()
					if after != before {
						t.Errorf("the node is\n%s\nand was\n%s\n%s", after, before, n.log)
					}
					n.allRight()
					if left := n.partsKept(); len(left) > 0 {
						t.Errorf("still remembered: %v", left)
					}
				})
			})
		}
	}
}

// partsKept are the parts that the journal remembers beside the entries.
func (n *node) partsKept() map[drivers.Key][]string {
	n.t.Helper()
	doc, err := documentIn(InForce(n.journal, "file"))
	if err != nil {
		n.t.Fatal(err)
	}
	return doc.Parts
}

// TestAnAgentThatForgetsWhichPartsWereAskedIsCaught is the broken variant: the
// desired state that it kept has the goals, and of the parts only those that the
// new entries name.
func TestAnAgentThatForgetsWhichPartsWereAskedIsCaught(t *testing.T) {
	for _, f := range partsOfFields() {
		t.Run(f.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, capable())
				before, after := f.edited(n, func() {
					j, err := journal.OpenMemory(t.Context(), n.store, journal.Options{BootID: "x"})
					if err != nil {
						t.Fatal(err)
					}
					d := InForce(j, "file")
					d.Document, err = json.Marshal(document{Entries: []entry{{Interface: f.without}}})
					if err := errors.Join(err, j.SetDesired(t.Context(), d), j.Close()); err != nil {
						t.Fatal(err)
					}
				})
				defer n.halt()
				if after == before {
					t.Error("not noticed")
				}
			})
		})
	}
}

// TestAnAltNameThatIsNotTheAgentsStays: one that was there before it was asked for,
// and one that somebody else gave since.
func TestAnAltNameThatIsNotTheAgentsStays(t *testing.T) {
	withNode(t, func(n *node) {
		give := func(name string) {
			dev, err := host.NetdevOf(n.t.Context(), n.kernel, portA)
			if err == nil {
				err = n.kernel.Foreign(host.Call{Op: host.OpAltName, Target: portA, Index: dev.Index, Value: name, Number: 1})
			}
			if err != nil {
				n.t.Fatal(err)
			}
		}
		give("before")
		n.ask(alsoNamed("a", "b", "before"))
		give("since")
		n.ask(alsoNamed("a"))
		settled(time.Minute)
		n.allRight()
		n.has("enp2s0", `alt="a"`, `alt="before"`, `alt="since"`)
		if l := n.line("enp2s0"); strings.Contains(l, `alt="b"`) {
			n.t.Errorf("b was left: %s", l)
		}
		give("b")
		settled(2 * time.Minute)
		n.has("enp2s0", `alt="b"`) // it was given back once; this is somebody else's
	})
}

// TestAPartIsGivenBackLater: an edit that cannot be carried out when it is made is
// not forgotten: while a pause lasts, while the entry is refused, over restarts and
// further edits.
func TestAPartIsGivenBackLater(t *testing.T) {
	lives := map[string]func(*node){
		"a pause": func(n *node) {
			order := Order{Targets: []string{portA}, Why: "bench"}
			n.order(order, n.agent.Pause)
			n.ask(alsoNamed("a"))
			n.has("enp2s0", `alt="b"`)
			n.restart()
			n.has("enp2s0", `alt="b"`)
			n.order(order, n.agent.Resume)
			settled(20 * time.Second)
		},
		"a refused entry": func(n *node) {
			refused := alsoNamed("a")
			refused.Driver = "nonesuch"
			n.ask(refused)
			n.expect("pci 0000:02:00.0=refused")
			n.restart()
			n.ask(alsoNamed("a"))
		},
		"two edits, the first not carried out": func(n *node) {
			n.order(Order{Targets: []string{portA}, Why: "bench"}, n.agent.Pause)
			n.ask(pci(portA, ""))
			n.restart()
			n.ask(alsoNamed("a"))
			n.order(Order{Targets: []string{portA}, Why: "bench"}, n.agent.Resume)
			settled(20 * time.Second)
		},
		"a write that hangs": func(n *node) {
			if err := n.kernel.Inject(sim.Fault{Label: "altname", Path: portA, When: sim.Before, Hang: true}); err != nil {
				n.t.Fatal(err)
			}
			n.ask(alsoNamed("a"))
			n.kernel.Thaw()
			n.restart()
		},
	}
	for name, life := range lives {
		t.Run(name, func(t *testing.T) {
			withNode(t, func(n *node) {
				n.ask(alsoNamed("a"))
				before := n.picture()
				n.ask(alsoNamed("a", "b"))
				n.has("enp2s0", `alt="a"`, `alt="b"`)
				life(n)
				settled(20 * time.Second)
				n.allRight()
				if after := n.picture(); after != before {
					t.Errorf("the node is\n%s\nand was\n%s\n%s", after, before, n.log)
				}
				if left := n.partsKept(); len(left) > 0 {
					t.Errorf("still remembered: %v", left)
				}
			})
		})
	}
}

// restart ends the agent and starts another, which settles.
func (n *node) restart() {
	n.halt()
	n.start(nil)
	settled(5 * time.Second)
}

// TestAPartIsGivenBackOverKills: an agent that ends at any boundary of a write
// after the edit is followed by one that goes on, whether the file
// is there then or not.
func TestAPartIsGivenBackOverKills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, capable())
		var images []image
		seen := serially(func(string) { images = append(images, image{kernel: n.kernel.Clone(), store: n.store.Clone()}) })
		n.start(nil)
		n.ask(alsoNamed("a"))
		before := n.picture()
		n.ask(alsoNamed("a", "b"))
		n.kernel.Hook = func(p sim.Point) { seen(p.Label) }
		n.want(alsoNamed("a"))
		settled(20 * time.Second)
		n.kernel.Hook = nil
		n.halt()
		if len(images) < 2 {
			t.Fatalf("it was seen at %d boundaries\n%s", len(images), n.log)
		}
		for i, left := range images {
			for _, file := range []bool{true, false} {
				next := &node{t: t, kernel: left.kernel.Clone(), store: left.store.Clone()}
				next.start(nil)
				if file {
					next.want(alsoNamed("a"))
				}
				settled(20 * time.Second)
				if after := next.picture(); after != before {
					t.Errorf("ended at boundary %d, file there %t: the node is\n%s\nand was\n%s\n%s", i, file, after, before, next.log)
				}
				next.halt()
			}
		}
	})
}

// TestAPartIsGivenBackThroughAnotherSelector: an entry that selects the same
// function in another way stands in the place of the first.
func TestAPartIsGivenBackThroughAnotherSelector(t *testing.T) {
	withNode(t, func(n *node) {
		byName := named("enp2s0", 0)
		byName.AltNames = []string{"a", "b"}
		n.ask(byName)
		n.has("enp2s0", `alt="a"`, `alt="b"`)
		n.ask(alsoNamed("a"))
		settled(20 * time.Second)
		n.allRight()
		if l := n.line("enp2s0"); !strings.Contains(l, `alt="a"`) || strings.Contains(l, `alt="b"`) {
			n.t.Errorf("want a alone: %s", l)
		}
	})
}

// TestAPlanHasWhatIsGivenBack, of whole fields and of parts: through the agent and
// without one, and through one that only observes.
func TestAPlanHasWhatIsGivenBack(t *testing.T) {
	yes := true
	cases := []struct {
		withField
		entry string
		step  StepReport
	}{
		{
			withField{"trust", portsOf(2, source.Port{Trust: &yes}), portsOf(2, source.Port{})},
			"pci 0000:01:00.0 vf 0",
			StepReport{Kind: sriov.KindTrust, Target: vf0, From: "on", To: "off"},
		},
		{
			withField{"one of two altNames", alsoNamed("a", "b"), alsoNamed("a")},
			"pci 0000:02:00.0",
			StepReport{Kind: link.KindAltNames, Target: portA, From: "[a b]", To: "[a]"},
		},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, capable())
				n.start(nil)
				n.ask(tc.with)
				writes := n.kernel.Writes()
				edit := source.Desired{Source: "file", Object: "/x.yaml", Generation: "g", Interfaces: []source.Interface{tc.without}}
				plans := map[string]PlanReport{"through the agent": n.agent.view.PlanFor(t.Context(), edit)}
				n.halt()
				plans["without an agent"] = n.offline().PlanFor(t.Context(), edit)
				n.start(func(c *Config) { c.Observe = true })
				n.ask(tc.without)
				plans["through one that observes"] = n.agent.Plan(t.Context())
				told := n.reasonOf(tc.entry)
				n.halt()
				for where, p := range plans {
					i := slices.IndexFunc(p.Entries, func(e PlanEntry) bool { return e.Entry == tc.entry })
					if i < 0 || p.Entries[i].Condition != Pending || !slices.Equal(p.Entries[i].Steps, []StepReport{tc.step}) {
						t.Errorf("%s: want the step %+v: %+v", where, tc.step, p.Entries)
					}
				}
				if got := n.kernel.Writes(); got != writes || !strings.HasPrefix(told, string(Pending)) {
					t.Errorf("an agent that observes made %d writes, and says %q", got-writes, told)
				}
			})
		})
	}
}
