package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

const latePF = "0000:03:00.0" // tells the addresses of its VFs while it has some

// mixed asks a PF for VFs: the first stays with the kernel, the last is handed to
// pods, all have attributes.
func mixed(pf string, count int) source.Interface {
	up, trust, id := true, true, 100
	i := pci(pf, "")
	port := source.Port{Trust: &trust, VLAN: &source.VLAN{ID: &id}}
	i.Up = &up
	i.VFs = &source.VFs{Count: count, Defaults: source.VF{Port: port}, Overrides: []source.Override{{Index: 0, VF: source.VF{Port: port, Up: &up, MTU: 1400}}}}
	for at := 1; at < count; at++ {
		i.VFs.Overrides = append(i.VFs.Overrides, source.Override{Index: at, VF: source.VF{Driver: "vfio-pci", Port: port}})
	}
	i.VFs.Overrides[count-1].VF.Pool = poolX
	return i
}

// seenOf is what there is of a PF's VFs.
func (n *node) seenOf(pf string) string {
	n.t.Helper()
	all, err := host.VFsOf(n.t.Context(), n.kernel, pf)
	if err != nil {
		return err.Error()
	}
	var words []string
	for _, t := range all {
		driver, _ := host.DriverOf(n.t.Context(), n.kernel, string(t))
		dev, _ := host.NetdevOf(n.t.Context(), n.kernel, string(t))
		mtu := ""
		if dev.Name != "" {
			mtu, _ = dev.Attr(n.t.Context(), n.kernel, "mtu")
		}
		words = append(words, strings.TrimSpace(fmt.Sprintf("%s %s %s", t, driver, mtu)))
	}
	probe, _ := n.kernel.Read(n.t.Context(), host.Attr(pf, "sriov_drivers_autoprobe"))
	pfDev, _ := host.NetdevOf(n.t.Context(), n.kernel, pf)
	set, err := n.kernel.Settings(n.t.Context(), pfDev.Index, host.SettingVFs)
	if err != nil {
		return err.Error()
	}
	for _, vf := range set.VFs {
		words = append(words, vf.VLAN+" trust="+vf.Trust)
	}
	return fmt.Sprintf("autoprobe=%s: %s", probe, strings.Join(words, ", "))
}

// mixedSeen is what there is when mixed has what it asks for.
func mixedSeen(pf string, count int) string {
	bus := strings.TrimSuffix(pf, "00.0")
	words, kept := []string{bus + "10.0 igbvf 1400"}, []string{}
	for i := range count {
		if i > 0 {
			words = append(words, fmt.Sprintf("%s%02x.%x vfio-pci", bus, 0x10+i*2/8, i*2%8))
		}
		kept = append(kept, "id=100 qos=0 protocol=802.1Q trust=on")
	}
	return "autoprobe=1: " + strings.Join(append(words, kept...), ", ")
}

// TestEveryPFOfTheNodeMakesVFs, whenever it tells their addresses: with drivers,
// attributes, links and a pool for each, other numbers of them, and release.
func TestEveryPFOfTheNodeMakesVFs(t *testing.T) {
	for _, pf := range []string{maker, portA, latePF} {
		t.Run(pf, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, sim.DefaultNode())
				n.start(withPlugin)
				defer n.halt()
				before := n.seenOf(pf)
				for _, count := range []int{5, 2, 7} {
					n.want(mixed(pf, count))
					settled(30 * time.Second)
					if got, want := n.seenOf(pf), mixedSeen(pf, count); got != want {
						t.Fatalf("%d VFs: %s\nwant %s\n%s\n%v", count, got, want, n.conditions(), n.reasons())
					}
					if c := n.conditions(); strings.Count(c, "=right") != count+1+strings.Count(c, "pool ") {
						t.Errorf("%d VFs: %s", count, c)
					}
				}
				released := pci(pf, "")
				released.State = source.Released
				n.want(released)
				settled(30 * time.Second)
				if got := n.seenOf(pf); got != before {
					t.Errorf("released, it has %s, want %s\n%s", got, before, n.conditions())
				}
			})
		})
	}
}

// TestVFsWithoutAddressesAreCounted: the plan says how many there will be, and
// one whose address an entry names waits until it is there.
func TestVFsWithoutAddressesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		i := pci(latePF, "")
		i.VFs = &source.VFs{Count: 8}
		n.want(i)
		settled(time.Second)
		n.expect("pci 0000:03:00.0=refused")
		n.says("8 VFs are asked for and 0000:03:00.0 makes no more than 7")
		i.VFs = &source.VFs{Count: 2}
		n.want(i, pci("0000:03:10.2", "vfio-pci"))
		settled(10 * time.Second)
		n.driver("0000:03:10.0", "igbvf")
		n.driver("0000:03:10.2", "vfio-pci")
		first, second := drivers.State(""), drivers.State("")
		for _, op := range n.journal.History(0) {
			for _, c := range op.Changes {
				if c.Key.Kind == "numvfs" {
					first, second = c.After, first
				}
			}
		}
		if first != "autoprobe=0 count=2" || second != "autoprobe=1 vfs=0000:03:10.0,0000:03:10.2" {
			t.Errorf("VFs were made by %q, and then %q", first, second)
		}
	})
}

// TestARepairOfUntoldVFsIsOneOperation, since their addresses are remembered, and
// a fight over them is ended like any other.
func TestARepairOfUntoldVFsIsOneOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(withPlugin)
		defer n.halt()
		n.want(mixed(latePF, 3))
		settled(30 * time.Second)
		away := host.Call{Op: host.OpSysfs, Path: host.Attr(latePF, "sriov_numvfs"), Value: "0"}
		for i := range maxRepairs {
			if err := n.kernel.Foreign(away); err != nil {
				t.Fatal(err)
			}
			settled(30 * time.Second)
			if got, want := n.seenOf(latePF), mixedSeen(latePF, 3); got != want {
				t.Fatalf("repaired it has %s\nwant %s\n%s", got, want, n.conditions())
			}
			made := slices.DeleteFunc(n.repairs(), func(op journal.Operation) bool { return !slices.Contains(op.Targets(), latePF) })
			if len(made) != i+1 {
				t.Errorf("%d repairs after %d losses", len(made), i+1)
			}
		}
		if err := n.kernel.Foreign(away); err != nil {
			t.Fatal(err)
		}
		settled(30 * time.Second)
		if c := n.conditions(); !strings.Contains(c, "pci 0000:03:00.0=degraded") {
			t.Errorf("the fight goes on: %s", c)
		}
	})
}

// untoldStep is a desired state, and what there is of the VFs once it is reached.
type untoldStep struct {
	want source.Interface
	seen string
}

// untoldSteps make them, make another number of them and give them back.
func untoldSteps() []untoldStep {
	released := pci(latePF, "")
	released.State = source.Released
	return []untoldStep{{mixed(latePF, 2), mixedSeen(latePF, 2)}, {mixed(latePF, 3), mixedSeen(latePF, 3)}, {released, "autoprobe=1: "}}
}

// untoldImages goes through the steps, and keeps the node at each boundary.
func untoldImages(t *testing.T) (images []image) {
	n := newNode(t, sim.DefaultNode())
	step, on := 0, true
	keep := serially(func(label string) {
		if on {
			images = append(images, image{label: label, kernel: n.kernel.Clone(), store: n.store.Clone(), step: step})
		}
	})
	n.fault = func(point string) error {
		keep("journal " + point)
		return nil
	}
	n.kernel.Hook = func(p sim.Point) { keep(fmt.Sprint(p.Label, " ", p.When)) }
	n.start(withPlugin)
	for at, s := range untoldSteps() {
		step = at
		n.want(s.want)
		settled(30 * time.Second)
		if got := n.seenOf(latePF); got != s.seen {
			t.Fatalf("step %d: %s\nwant %s\n%s", at, got, s.seen, n.log)
		}
	}
	on = false
	n.halt()
	return images
}

// TestUntoldVFsThroughCrashes ends the agent at every boundary of their making,
// of another number of them and of their release, and the power there, too.
func TestUntoldVFsThroughCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		points := 0
		for at, i := range untoldImages(t) {
			if at%*every != 0 {
				continue
			}
			for _, reboot := range []bool{false, true} {
				points++
				n, s := &node{t: t, kernel: i.kernel.Clone(), store: i.store.Clone()}, untoldSteps()[i.step]
				if reboot {
					n.kernel.Reboot()
				}
				n.start(withPlugin)
				n.want(s.want)
				settled(60 * time.Second)
				if got := n.seenOf(latePF); got != s.seen {
					t.Errorf("%d %s, reboot %t, step %d: %s\nwant %s\n%s", at, i.label, reboot, i.step, got, s.seen, n.conditions())
				}
				if q := n.journal.Quarantined(); len(q) > 0 {
					t.Errorf("%d %s, reboot %t: quarantined: %s", at, i.label, reboot, q[0].Outcome)
				}
				n.halt()
			}
		}
		t.Logf("evidence: in process | crash of an agent that makes VFs of unknown addresses at 1 in %d boundaries, and a reboot there | %d | 0", *every, points)
	})
}
