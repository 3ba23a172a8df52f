package agent

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

const (
	maker = "0000:01:00.0" // has two VFs when it boots, and makes up to seven
	vf0   = "0000:01:10.0"
	vf1   = "0000:01:10.2"
	vf2   = "0000:01:10.4"
	vf3   = "0000:01:10.6"
)

// vfs asks for a number of VFs.
func vfs(count int, defaults source.VF, overrides ...source.Override) source.Interface {
	i := pci(maker, "")
	i.VFs = &source.VFs{Count: count, Defaults: defaults, Overrides: overrides}
	return i
}

func dpdkVF() source.VF { return source.VF{Driver: "vfio-pci"} }

func (n *node) virtual(want ...string) {
	n.t.Helper()
	all, err := host.VFsOf(n.t.Context(), n.kernel, maker)
	var got []string
	for _, t := range all {
		got = append(got, string(t))
	}
	if err != nil || !slices.Equal(got, want) {
		n.t.Errorf("VFs are %v (%v), want %v\n%s", got, err, want, n.log)
	}
}

// written counts the writes that come now.
func (n *node) written(fn func()) (labels []string) {
	note := serially(func(label string) { labels = append(labels, label) })
	n.kernel.Hook = func(p sim.Point) {
		if p.When == sim.Before {
			note(p.Label)
		}
	}
	fn()
	n.kernel.Hook = nil
	return labels
}

func withNode(t *testing.T, fn func(n *node)) {
	t.Helper()
	withNodeOf(t, nil, fn)
}

func withNodeOf(t *testing.T, change func(*Config), fn func(n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(change)
		defer n.halt()
		fn(n)
	})
}

func TestVFsAreMadeAndGivenBack(t *testing.T) {
	withNode(t, func(n *node) {
		up := true
		kernel := source.Override{Index: 1, VF: source.VF{Driver: "igbvf", Up: &up, MTU: 1400}}
		n.want(vfs(4, dpdkVF(), kernel))
		settled(10 * time.Second)
		n.expect("pci 0000:01:00.0=right, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=right, pci 0000:01:00.0 vf 2=right, pci 0000:01:00.0 vf 3=right")
		n.virtual(vf0, vf1, vf2, vf3)
		for _, t := range []string{vf0, vf2, vf3} {
			n.driver(t, "vfio-pci")
		}
		n.driver(vf1, "igbvf")
		if probe, _ := n.kernel.Read(n.t.Context(), host.Attr(maker, "sriov_drivers_autoprobe")); probe != "1" {
			t.Errorf("autoprobe is left at %s", probe)
		}
		released := pci(maker, "")
		released.State = source.Released
		n.want(released)
		settled(10 * time.Second)
		n.expect("pci 0000:01:00.0=released")
		n.virtual(vf0, vf1)
		n.driver(vf0, "igbvf")
		n.driver(vf1, "igbvf")
	})
}

// TestOneVFChangesWithoutItsSiblings: other drivers and links of one, nothing
// written to another.
func TestOneVFChangesWithoutItsSiblings(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(vfs(4, dpdkVF()))
		settled(10 * time.Second)
		inodes := func() (all []uint64) {
			for _, t := range []string{vf0, vf1, vf2, vf3} {
				i, err := n.kernel.Inode(n.t.Context(), host.PCIDevices+t)
				if err != nil {
					n.t.Fatal(err)
				}
				all = append(all, i)
			}
			return all
		}
		before := inodes()
		labels := n.written(func() {
			n.want(vfs(4, dpdkVF(), source.Override{Index: 2, VF: source.VF{Driver: "igbvf"}}))
			settled(10 * time.Second)
		})
		n.driver(vf2, "igbvf")
		if got := strings.Join(labels, " "); got != "override unbind bind" {
			t.Errorf("written: %s", got)
		}
		labels = n.written(func() {
			n.unbind(vf3)
			settled(10 * time.Second)
		})
		n.driver(vf3, "vfio-pci")
		if got := strings.Join(labels, " "); got != "bind" {
			t.Errorf("written to repair one: %s", got)
		}
		if after := inodes(); !slices.Equal(before, after) {
			t.Errorf("VFs were made anew: %v, %v", before, after)
		}
	})
}

// TestTheCountWaitsForAVFInUse: nothing is torn down under a program, and it
// goes on by itself.
func TestTheCountWaitsForAVFInUse(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(vfs(2, dpdkVF()))
		settled(10 * time.Second)
		release := n.kernel.Hold(vf1)
		labels := n.written(func() {
			n.want(vfs(3, dpdkVF()))
			settled(10 * time.Second)
		})
		if len(labels) > 0 {
			t.Errorf("written while a VF is held: %v", labels)
		}
		n.expect("pci 0000:01:00.0=held, pci 0000:01:00.0 vf 0=waiting, pci 0000:01:00.0 vf 1=waiting, pci 0000:01:00.0 vf 2=waiting")
		release()
		settled(10 * time.Second)
		n.virtual(vf0, vf1, vf2)
		n.expect("pci 0000:01:00.0=right, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=right, pci 0000:01:00.0 vf 2=right")
	})
}

// TestVFsThatNobodyNames get the driver that the kernel has for them.
func TestVFsThatNobodyNames(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(vfs(3, source.VF{}))
		settled(10 * time.Second)
		n.virtual(vf0, vf1, vf2)
		for _, t := range []string{vf0, vf1, vf2} {
			n.driver(t, "igbvf")
		}
	})
}

// TestTooManyVFs is refused before anything is touched, and what the kernel
// does not make is undone.
func TestTooManyVFs(t *testing.T) {
	withNode(t, func(n *node) {
		labels := n.written(func() {
			n.want(vfs(8, dpdkVF()))
			settled(10 * time.Second)
		})
		if len(labels) > 0 || !strings.Contains(n.conditions(), "pci 0000:01:00.0=refused") {
			t.Errorf("%s after %v", n.conditions(), labels)
		}
		if err := n.kernel.Inject(sim.Fault{Label: "numvfs", Path: maker, Nth: 2, Errno: syscall.ENOMEM}); err != nil {
			t.Fatal(err)
		}
		n.want(vfs(5, dpdkVF()))
		settled(time.Minute)
		n.virtual(vf0, vf1, vf2, vf3, "0000:01:11.0")
		n.driver(vf0, "vfio-pci")
	})
}

// TestTooManyVFsTakeNothingFromThoseThereAre, who are kept as they are asked.
func TestTooManyVFsTakeNothingFromThoseThereAre(t *testing.T) {
	withNodeOf(t, withPlugin, func(n *node) {
		vf := source.VF{Driver: "vfio-pci", Pool: poolX}
		n.complete(vfs(2, vf))
		settled(10 * time.Second)
		n.expectPool(poolX, vf0, vf1)
		if writes := n.written(func() { n.complete(vfs(99, vf)); settled(time.Minute) }); len(writes) > 0 {
			t.Errorf("writes: %v", writes)
		}
		n.expect("pci 0000:01:00.0=refused, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=right")
		n.expectPool(poolX, vf0, vf1)
		n.unbind(vf1)
		settled(10 * time.Second)
		n.expectPool(poolX, vf0, vf1)
		n.driver(vf1, "vfio-pci")
		n.complete()
		settled(10 * time.Second)
		n.expectPool(poolX)
		n.driver(vf0, "igbvf")
	})
}

// TestAForeignCountIsRepaired as long as nobody uses what is in the way.
func TestAForeignCountIsRepaired(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(vfs(2, dpdkVF()))
		settled(10 * time.Second)
		for _, count := range []string{"0", "4"} {
			err := n.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: drivers.Target(maker), Path: host.Attr(maker, "sriov_numvfs"), Value: count})
			if err != nil {
				t.Fatal(err)
			}
		}
		settled(10 * time.Second)
		n.virtual(vf0, vf1)
		n.driver(vf0, "vfio-pci")
		n.driver(vf1, "vfio-pci")
	})
}

// TestTheCountSparesTheManagementPath: making VFs anew would cut one that has a
// default route, or that may be given it by a boot that has none yet.
func TestTheCountSparesTheManagementPath(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		routes     map[string][]host.Default
	}{
		{"a VF has a default route", "refused", map[string][]host.Default{vf1: {{Family: "IPv6", Table: 100}}, "0000:00:05.0": {{Family: "IPv4", Table: 254}}}},
		{"nothing has one yet", "held", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sim.DefaultNode()
				for _, d := range c.Devices {
					if d.Net != nil {
						d.Net.Up, d.Net.Defaults = len(tc.routes[d.Address]) > 0, tc.routes[d.Address]
					}
				}
				n := newNode(t, c)
				n.start(nil)
				defer n.halt()
				labels := n.written(func() {
					n.want(vfs(4, source.VF{}))
					settled(10 * time.Second)
				})
				if len(labels) > 0 || !strings.Contains(n.conditions(), "pci 0000:01:00.0="+tc.want) {
					t.Errorf("%s after %v\n%s", n.conditions(), labels, n.log)
				}
				n.virtual(vf0, vf1)
			})
		})
	}
}

// TestTheCountWaitsForAVFOfAPod: a VF that the kubelet has allocated stays,
// though no program has opened it yet.
func TestTheCountWaitsForAVFOfAPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, p := newNode(t, sim.DefaultNode()), &pods{}
		n.start(p.asked)
		defer n.halt()
		n.want(vfs(2, dpdkVF()))
		settled(10 * time.Second)
		end := p.give(vf1)
		labels := n.written(func() {
			n.want(vfs(3, dpdkVF()))
			settled(time.Minute)
		})
		if len(labels) > 0 {
			t.Errorf("written while a pod has a VF: %v", labels)
		}
		n.says("in-use", "allocated to pod media/encoder-0", "when the pod ends")
		end()
		settled(10 * time.Second)
		n.virtual(vf0, vf1, vf2)
	})
}

// TestAnOrderToReleaseAPFGivesItsVFsBack: what the file asks of them is over
// with it, whether or not their number is another one then.
func TestAnOrderToReleaseAPFGivesItsVFsBack(t *testing.T) {
	for _, count := range []int{2, 4} {
		withNode(t, func(n *node) {
			n.want(vfs(count, dpdkVF()))
			settled(10 * time.Second)
			if _, err := n.agent.Release(n.t.Context(), Order{Targets: []string{maker}, Who: "test"}); err != nil {
				t.Fatal(err)
			}
			settled(10 * time.Second)
			n.expect("pci 0000:01:00.0=released")
			n.virtual(vf0, vf1)
			n.driver(vf0, "igbvf")
			n.driver(vf1, "igbvf")
			if ops := n.journal.History(0); len(ops) > 20 {
				t.Errorf("%d operations for %d VFs", len(ops), count)
			}
		})
	}
}

// TestAPFIsLetGoAfterItsVFs: while a program holds one, its entry may vanish,
// and the VF is given back all the same.
func TestAPFIsLetGoAfterItsVFs(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(vfs(2, dpdkVF()))
		settled(10 * time.Second)
		end := n.kernel.Hold(vf1)
		n.want(releasedMaker())
		settled(time.Minute)
		n.expect("pci 0000:01:00.0=pending, pci 0000:01:00.0 vf 1=held")
		n.says("its VFs are not all back yet")
		n.want()
		settled(time.Minute)
		end()
		settled(2 * time.Second)
		n.driver(vf0, "igbvf")
		n.driver(vf1, "igbvf")
		n.expect("")
	})
}

// TestAVFMayHaveAnEntryOfItsOwn, wherever it stands, where its PF's asks nothing
// of it: it is made so, with its PF's others.
func TestAVFMayHaveAnEntryOfItsOwn(t *testing.T) {
	for _, first := range []bool{true, false} {
		withNode(t, func(n *node) {
			own := ofObject("nodeeni/a", pci(vf2, "vfio-pci"))
			ask := func(count int, own ...source.Interface) {
				pf := ofObject("policy/b", vfs(count, source.VF{}, source.Override{Index: 0, VF: dpdkVF()}))
				if all := append([]source.Interface{pf}, own...); !first {
					slices.Reverse(all)
					n.complete(all...)
				} else {
					n.complete(all...)
				}
				settled(10 * time.Second)
			}
			ask(2, own)
			if s := n.conditions(); !strings.Contains(s, "pci "+vf2+"=waiting") {
				t.Errorf("without that VF: %s", s)
			}
			ask(4, own)
			n.expect("pci 0000:01:00.0=right, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=right, pci 0000:01:10.4=right, pci 0000:01:00.0 vf 3=right")
			n.virtual(vf0, vf1, vf2, vf3)
			n.driver(vf0, "vfio-pci")
			n.driver(vf2, "vfio-pci")
			n.driver(vf3, "igbvf")
			n.unbind(vf2)
			settled(10 * time.Second)
			n.driver(vf2, "vfio-pci")
			// It is given back alone.
			inode, err := n.kernel.Inode(t.Context(), host.PCIDevices+vf2)
			if err != nil {
				t.Fatal(err)
			}
			ask(4)
			n.driver(vf2, "igbvf")
			if now, err := n.kernel.Inode(t.Context(), host.PCIDevices+vf2); now != inode || err != nil {
				t.Errorf("made anew to be given back: %d, %d, %v", inode, now, err)
			}
			// What both ask something of is refused.
			ask(4, ofObject("nodeeni/a", pci(vf0, "igbvf")))
			if s := n.conditions(); !strings.Contains(s, "vf 0=refused") || !strings.Contains(s, "pci "+vf0+"=refused") {
				t.Errorf("asked twice: %s", s)
			}
			n.driver(vf0, "vfio-pci")
		})
	}
}

// ownVF asks for one in a pool by an entry of its own, and for four by their
// PF's, or for another number.
func (n *node) ownVF(count int) {
	all := []source.Interface{ofObject("nodeeni/a", inPool(pci(vf2, "vfio-pci"), poolX))}
	if count > 0 {
		all = append(all, ofObject("policy/b", vfs(count, source.VF{})))
	}
	n.complete(all...)
	settled(10 * time.Second)
}

// TestWhatAVFsOwnEntryAsksForIsNotTakenAway by the entry of its PF, whether that
// asks for fewer or goes; and once nothing asks for it, by itself.
func TestWhatAVFsOwnEntryAsksForIsNotTakenAway(t *testing.T) {
	for _, fewer := range []int{1, 0} {
		withNodeOf(t, withPlugin, func(n *node) {
			n.ownVF(4)
			n.expectPool(poolX, vf2)
			if writes := n.written(func() { n.ownVF(fewer); settled(20 * time.Minute) }); len(writes) > 0 {
				t.Errorf("writes while an entry asks for it: %v", writes)
			}
			n.expectPool(poolX, vf2)
			if s := n.conditions(); !strings.Contains(s, "pci 0000:01:00.0=held") || !strings.Contains(s, "pci 0000:01:10.4=right") {
				t.Errorf("stands as %s", s)
			}
			const want = "in use: 0000:01:10.4 would go, and pci 0000:01:10.4 of nodeeni/a asks for it: give that back first, or ask for as many VFs"
			if got := n.reasons()["policy/b pci 0000:01:00.0"]; got != want {
				t.Errorf("the reason is %q, want %q", got, want)
			}
			n.ownVF(4)
			if s := n.conditions(); !strings.Contains(s, "pci 0000:01:00.0=right") {
				t.Errorf("asked for as many again: %s", s)
			}
			n.ownVF(fewer)
			n.complete()
			settled(time.Minute)
			n.expectPool(poolX)
			n.expect("")
			n.virtual(vf0, vf1)
		})
	}
}

// TestAnOrderOnAPFOutranksItsVFsEntries, which say so.
func TestAnOrderOnAPFOutranksItsVFsEntries(t *testing.T) {
	withNodeOf(t, withPlugin, func(n *node) {
		n.ownVF(4)
		end := n.kernel.Hold(vf2)
		n.release(Order{Targets: []string{maker}})
		settled(20 * time.Minute)
		n.expectPool(poolX)
		n.expect("pci 0000:01:10.4=waiting, pci 0000:01:00.0=held")
		const want = "it goes with 0000:01:00.0, which is to be given back by an order: agent release --cancel 0000:01:00.0 keeps both"
		if got := n.reasons()["nodeeni/a pci 0000:01:10.4"]; got != want {
			t.Errorf("the reason is %q, want %q", got, want)
		}
		end()
		settled(10 * time.Second)
		n.virtual(vf0, vf1)
		n.expect("pci 0000:01:10.4=waiting, pci 0000:01:00.0=released")
		n.release(Order{Targets: []string{maker}, Cancel: true})
		settled(10 * time.Second)
		n.expectPool(poolX, vf2)
	})
}

// TestAPFsTurnComesAfterItsVFs: a worker on one of them, at each look at both,
// keeps nobody from the PF.
func TestAPFsTurnComesAfterItsVFs(t *testing.T) {
	withNode(t, func(n *node) {
		own := pci(vf1, "")
		own.State = source.Released
		n.complete(own, vfs(2, source.VF{}))
		settled(10 * time.Second)
		n.complete(own, vfs(3, source.VF{}))
		settled(10 * time.Second)
		n.virtual(vf0, vf1, vf2)
	})
}
