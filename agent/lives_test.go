package agent

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/engine"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/link"
	"eniagent/journal"
)

// lives is how many random lives of a node are tried; life is the one to begin
// with, as a failure names it.
//
//nolint:gochecknoglobals // flags of the test binary
var (
	lives    = flag.Int("lives", 6, "random lives of a node that are tried")
	lifeFrom = flag.Uint64("life", 1, "number of the first of them")
)

// life is a node that somebody has set up, to which an agent comes: with edits of
// what is desired, kills and other hands, until everything is released.
type life struct {
	*node
	rng    *rand.Rand
	breaks func(*Agent)
	before map[drivers.Key]drivers.State // of each function that was there
	text   string                        // of the node
	wrong  []string
}

// TestLivesEndAsTheyBegan: a baseline is never what an operation of the journal
// wrote, and after release all there is of each function is as it was before the
// agent's first write, and no module is left.
func TestLivesEndAsTheyBegan(t *testing.T) {
	for i := range uint64(*lives) {
		number := *lifeFrom + i
		for _, w := range live(t, number, nil) {
			t.Errorf("life %d: %s (go test ./agent -run LivesEnd -lives 1 -life %d)", number, w, number)
		}
	}
}

// TestBrokenLivesAreCaught holds the check against agents that forget a part of
// what they destroy.
func TestBrokenLivesAreCaught(t *testing.T) {
	for name, breaks := range map[string]func(drivers.Spec) drivers.Spec{
		"rings do not go with the netdev": func(s drivers.Spec) drivers.Spec {
			s.Netdev = s.Netdev && s.Kind != link.KindRings
			return s
		},
		"what a PF keeps does not go with the VF": func(s drivers.Spec) drivers.Spec {
			s.OfVF = false
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			specs := drivers.Specs{}
			for _, s := range all.Specs() {
				specs = append(specs, breaks(s))
			}
			for i := range uint64(*lives) {
				if len(live(t, *lifeFrom+i, func(a *Agent) { a.view.Drivers.Specs, a.engine.Drivers.Specs = specs, specs })) > 0 {
					return
				}
			}
			t.Error("nothing is wrong with it: the check would not notice")
		})
	}
}

// live lives one life, and returns what is wrong at its end and on the way.
func live(t *testing.T, number uint64, breaks func(*Agent)) (wrong []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &life{node: newNode(t, sim.DefaultNode()), rng: rand.New(rand.NewPCG(number, 1)), breaks: breaks}
		l.setUp()
		l.before, l.text = l.observe(), l.picture()
		l.begin()
		for range 3 + l.rng.IntN(4) {
			l.step()
		}
		l.end()
		wrong = l.wrong
	})
	return wrong
}

func (l *life) chance(percent int) bool    { return l.rng.IntN(100) < percent }
func (l *life) oneOf(of ...string) string  { return of[l.rng.IntN(len(of))] }
func (l *life) number(least, most int) int { return least + l.rng.IntN(most-least+1) }

// setUp is what somebody did before the agent came.
func (l *life) setUp() {
	do := func(c host.Call) {
		if err := l.kernel.Foreign(c); err != nil {
			l.t.Fatalf("%+v: %v", c, err)
		}
	}
	if l.chance(60) {
		do(host.Call{Op: host.OpAdmin, Target: maker, Index: l.index(), Number: 1})
	}
	if l.chance(60) {
		numvfs := host.Attr(maker, "sriov_numvfs")
		do(host.Call{Op: host.OpSysfs, Target: maker, Path: numvfs, Value: "0"})
		do(host.Call{Op: host.OpSysfs, Target: maker, Path: numvfs, Value: strconv.Itoa(l.number(0, 4))})
	}
	made, err := host.VFsOf(l.t.Context(), l.kernel, maker)
	if err != nil {
		l.t.Fatal(err)
	}
	for i := range made {
		for op, value := range map[host.Op]string{
			host.OpVFVLAN: host.VLAN{ID: 10 + i, Protocol: host.Dot1Q}.String(), host.OpVFTrust: "on",
			host.OpVFSpoofCheck: "off", host.OpVFMAC: fmt.Sprintf("52:54:00:00:07:%02d", i),
		} {
			if l.rng.IntN(2) == 0 {
				do(host.Call{Op: op, Index: l.index(), Number: i, Value: value})
			}
		}
		if driver := host.PCIDrivers + "igbvf/"; l.chance(50) { // which has its MAC from then on
			do(host.Call{Op: host.OpSysfs, Target: made[i], Path: driver + "unbind", Value: string(made[i])})
			do(host.Call{Op: host.OpSysfs, Target: made[i], Path: driver + "bind", Value: string(made[i])})
		}
	}
	l.setUpPorts(do)
}

// setUpPorts is what somebody set of network devices.
func (l *life) setUpPorts(do func(host.Call)) {
	for _, t := range []drivers.Target{portA, portB} {
		dev, err := host.NetdevOf(l.t.Context(), l.kernel, string(t))
		if err != nil {
			l.t.Fatal(err)
		}
		for _, c := range []host.Call{
			{Op: host.OpAltName, Value: "rack7-" + dev.Name, Number: 1},
			{Op: host.OpMTU, Number: 4000},
			{Op: host.OpRings, Value: host.Rings{RX: 512, TX: 1024}.String()},
			{Op: host.OpChannels, Value: host.Channels{Combined: 2}.String()},
			{Op: host.OpFeature, Value: "rx-gro"},
		} {
			if c.Target, c.Index = t, dev.Index; l.chance(50) {
				do(c)
			}
		}
	}
}

// observe is the state of each key of each function that is there.
func (l *life) observe() map[drivers.Key]drivers.State {
	states := map[drivers.Key]drivers.State{}
	kinds, o := all.New(l.kernel), engine.Observer{Drivers: all.New(l.kernel), Host: l.kernel}
	names, err := l.kernel.List(l.t.Context(), strings.TrimSuffix(host.PCIDevices, "/"))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, name := range names {
		for _, spec := range kinds.Specs {
			k := drivers.Key{Kind: spec.Kind, Target: drivers.Target(name)}
			if seen := o.Observe(l.t.Context(), k); seen.Presence <= drivers.Concealed {
				states[k] = seen.State
			}
		}
	}
	return states
}

// picture is the node as text, without what only numbers it, and without what a
// PF was told of a MAC that a VF chose itself: the VF's netdev has that too, and
// the PF hears of it only while it is up. The netdev of a VF that was given one has
// that once it was probed anew, whatever it had before.
func (l *life) picture() string {
	var lines []string
	given := map[string]bool{}
	for k, s := range l.observe() {
		if spec, _ := all.Specs().Find(k.Kind); spec.Gives != nil && len(spec.Gives(s)) > 0 {
			given["bus="+string(k.Target)] = true
		}
	}
	for line := range strings.Lines(ignoringNumbers(l.kernel.String())) {
		var words []string
		ofGiven := slices.ContainsFunc(strings.Fields(line), func(w string) bool { return given[w] })
		for _, w := range strings.Fields(line) {
			if strings.Contains(w, ".mac=\"fe:") || ofGiven && strings.HasPrefix(w, "mac=") {
				continue
			}
			words = append(words, w)
		}
		lines = append(lines, strings.Join(words, " "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (l *life) begin() {
	l.node.breaks = l.breaks
	l.start(nil)
}

// step edits what is desired, and lets something happen meanwhile.
func (l *life) step() {
	asked := l.asked()
	if !l.chance(40) {
		l.want(asked...)
		settled(30 * time.Second)
	} else {
		l.killedAt(l.number(1, 60), asked)
	}
	if bound := l.bound(); len(bound) > 0 && l.chance(30) {
		l.unbind(bound[l.rng.IntN(len(bound))])
		settled(30 * time.Second)
	}
	l.wrong = append(l.wrong, wrongBaselines(l.before, l.journal.Baselines())...)
}

// killedAt puts a desired state in force, and ends the agent at one of the
// boundaries of what it does then; another goes on.
func (l *life) killedAt(boundary int, asked []source.Interface) {
	var left *image
	points := 0
	at := serially(func(string) {
		if points++; points == boundary {
			left = &image{kernel: l.kernel.Clone(), store: l.store.Clone()}
		}
	})
	l.kernel.Hook = func(p sim.Point) { at(p.Label) }
	l.want(asked...)
	settled(30 * time.Second)
	l.kernel.Hook = nil
	if left == nil {
		return
	}
	l.halt()
	l.node = &node{t: l.t, kernel: left.kernel, store: left.store}
	l.begin()
	l.want(asked...)
	settled(30 * time.Second)
}

// bound are the functions on vfio-pci.
func (l *life) bound() (targets []string) {
	for _, t := range []string{portA, portB, vf0, vf1, vf2, vf3} {
		if d, err := host.DriverOf(l.t.Context(), l.kernel, t); err == nil && d == "vfio-pci" {
			targets = append(targets, t)
		}
	}
	return targets
}

// asked is a desired state.
func (l *life) asked() []source.Interface {
	var asked []source.Interface
	for _, t := range []string{portA, portB} {
		i := pci(t, "")
		switch l.rng.IntN(5) {
		case 0:
			continue
		case 1, 2:
			i.Driver = "vfio-pci"
		default:
			if l.chance(50) {
				i.MTU = 1500 + 500*l.number(0, 9)
			}
			if l.chance(50) {
				i.AltNames = []string{"n" + strings.NewReplacer(":", "", ".", "").Replace(t)}
			}
			rx, combined := 128*l.number(1, 6), l.number(1, 4)
			if l.chance(50) {
				i.Rings = &source.Rings{RX: &rx}
			}
			if l.chance(50) {
				i.Channels = &source.Channels{Combined: &combined}
			}
			if i.MTU == 0 && i.AltNames == nil && i.Rings == nil && i.Channels == nil {
				i.Driver = "igb"
			}
		}
		asked = append(asked, i)
	}
	if l.chance(85) {
		asked = append(asked, l.askedVFs())
	}
	return asked
}

func (l *life) askedVFs() source.Interface {
	vf := func() source.VF {
		var v source.VF
		if l.chance(40) {
			v.Driver = l.oneOf("vfio-pci", "igbvf")
		}
		if l.chance(40) {
			v.Port = vlan(l.number(100, 300))
		}
		if on := l.chance(50); l.chance(40) {
			v.Trust = &on
		}
		return v
	}
	count := l.number(0, 5)
	if count == 0 {
		asked := vfs(0, source.VF{})
		asked.VFs.ReplaceVFs = "lives"
		return asked
	}
	var overrides []source.Override
	for i := range count {
		if o := (source.Override{Index: i, VF: vf()}); l.chance(40) && (o.Driver != "" || o.VLAN != nil || o.Trust != nil) {
			if l.chance(30) {
				o.MAC = fmt.Sprintf("52:54:00:00:09:%02d", l.number(10*i, 10*i+2))
			}
			overrides = append(overrides, o)
		}
	}
	asked := vfs(count, vf(), overrides...)
	if l.chance(80) {
		asked.VFs.ReplaceVFs = "lives"
	}
	return asked
}

// end releases everything and holds the node against what it was.
func (l *life) end() {
	r := l.release(Order{All: true})
	settled(2 * time.Minute)
	for _, e := range r.Entries {
		if e.Condition != Released {
			l.wrong = append(l.wrong, fmt.Sprintf("%s is told to be %s: %s", e.Target, e.Condition, e.Reason))
		}
	}
	for _, b := range l.journal.Baselines() {
		l.wrong = append(l.wrong, fmt.Sprintf("a baseline is left: %s=%s", b.Key, b.State))
	}
	for _, op := range l.journal.Quarantined() {
		l.wrong = append(l.wrong, fmt.Sprintf("quarantined: %s", op.Outcome))
	}
	was, is := strings.Split(l.text, "\n"), strings.Split(l.picture(), "\n")
	for _, line := range was {
		if !slices.Contains(is, line) {
			l.wrong = append(l.wrong, "no longer there: "+line)
		}
	}
	for _, line := range is {
		if !slices.Contains(was, line) {
			l.wrong = append(l.wrong, "new: "+line)
		}
	}
	if len(l.wrong) > 0 && l.breaks == nil {
		l.t.Log(l.log.String())
	}
	l.halt()
}

// wrongBaselines says which baselines are not what was there before the agent.
func wrongBaselines(before map[drivers.Key]drivers.State, baselines []journal.Baseline) (wrong []string) {
	for _, b := range baselines {
		if _, pci := b.Key.Target.PCIAddress(); !pci {
			continue
		}
		spec, _ := all.Specs().Find(b.Key.Kind)
		if was, there := before[b.Key]; !there || spec.Settled(was) != b.State {
			wrong = append(wrong, fmt.Sprintf("the baseline of %s is %s, and it was %q", b.Key, b.State, was))
		}
	}
	return wrong
}

// TestBrokenBaselinesAreCaught holds the check against a journal whose baselines
// are the first states that could be seen, whoever made them.
func TestBrokenBaselinesAreCaught(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &life{node: newNode(t, sim.DefaultNode())}
		l.before = l.observe()
		l.begin()
		defer l.halt()
		l.want(vfs(1, source.VF{}))
		settled(20 * time.Second)
		l.want(portsOf(3, vlan(100)))
		settled(20 * time.Second)
		l.want(portsOf(3, vlan(200)))
		settled(20 * time.Second)
		if wrong := wrongBaselines(l.before, l.journal.Baselines()); len(wrong) > 0 {
			t.Errorf("%v", wrong)
		}
		first := map[drivers.Key]journal.Baseline{}
		for _, op := range slices.Backward(l.journal.History(0)) {
			for _, c := range op.Changes {
				if _, known := first[c.Key]; !known && c.Before != drivers.Hidden {
					first[c.Key] = journal.Baseline{Key: c.Key, State: c.Before}
				}
			}
		}
		var naive []journal.Baseline
		for _, b := range first {
			naive = append(naive, b)
		}
		if len(wrongBaselines(l.before, naive)) == 0 {
			t.Error("nothing is wrong with it: the check would not notice")
		}
	})
}
