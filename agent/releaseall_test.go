package agent

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/module"
	"eniagent/drivers/sriov"
	"eniagent/journal"
)

// allBack fails unless an order to release everything left nothing behind.
func (n *node) allBack(r OrderReport) {
	n.t.Helper()
	for _, e := range r.Entries {
		if e.Condition != Released {
			n.t.Errorf("%s is told to be %s: %s", e.Target, e.Condition, e.Reason)
		}
	}
	n.nothingLeft()
}

// nothingLeft fails while there are baselines, or modules that were loaded.
func (n *node) nothingLeft() {
	n.t.Helper()
	if left := n.journal.Baselines(); len(left) > 0 {
		n.t.Errorf("baselines are left: %v\n%s", left, n.log)
	}
	if _, err := n.kernel.Inode(n.t.Context(), host.SysModule+"vfio_pci"); err == nil {
		n.t.Errorf("vfio_pci is left loaded\n%s", n.log)
	}
	if c, ok := n.journal.Control(orderRest, ""); ok {
		n.t.Errorf("an order is left: %v", c)
	}
}

// TestReleaseAllShrinksToTheVFsThereWere: in one call, with the modules.
func TestReleaseAllShrinksToTheVFsThereWere(t *testing.T) {
	for _, first := range []int{3, 7} { // VFs that the agent bound when it made them, and later
		synctest.Test(t, func(t *testing.T) { shrinks(t, first, func(*node) {}) })
	}
}

// TestBrokenReleaseDoesNotShrink: the test above notices an agent that forgot how
// many VFs there were, and one that forgot which modules it loaded.
func TestBrokenReleaseDoesNotShrink(t *testing.T) {
	for kind, sees := range map[drivers.Kind]string{sriov.KindNumVFs: "VFs are", module.Kind: "vfio_pci is left loaded"} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				notices(t, sees, func(t testing.TB) {
					shrinks(t, 3, func(n *node) {
						forgets := func(b journal.Baseline) bool { return b.Key.Kind == kind }
						if n, err := n.journal.DropBaselines(t.Context(), forgets); n == 0 || err != nil {
							t.Fatalf("%d forgotten: %v", n, err)
						}
					})
				})
			})
		})
	}
}

// shrinks makes more VFs than there were, in two steps, and gives all back.
func shrinks(t testing.TB, first int, before func(*node)) {
	t.Helper()
	n := newNode(t, sim.DefaultNode())
	n.start(nil)
	defer n.halt()
	n.want(vfs(first, dpdkVF()))
	settled(20 * time.Second)
	n.want(vfs(7, dpdkVF()))
	settled(20 * time.Second)
	before(n)
	n.allBack(n.release(Order{All: true}))
	n.virtual(vf0, vf1)
	n.driver(vf0, "igbvf")
	n.driver(vf1, "igbvf")
	settled(time.Minute)
	n.nothingLeft()
}

// TestAVFThatIsMadeAnewAfterItsReleaseIsGivenBackAgain: another number of VFs
// destroys one that was left alone since it was back, and its end is told.
func TestAVFThatIsMadeAnewAfterItsReleaseIsGivenBackAgain(t *testing.T) {
	for name, again := range map[string]func(n *node){
		"with all":       func(*node) {},
		"another number": func(n *node) { n.want(vfs(6, dpdkVF())) },
		"by its entry": func(n *node) {
			n.release(Order{Targets: []string{vf1}, Cancel: true})
			own := pci(vf1, "")
			own.State = source.Released
			n.want(vfs(5, source.VF{}), own)
			settled(20 * time.Second)
			n.want(vfs(6, source.VF{}), own)
		},
	} {
		t.Run(name, func(t *testing.T) {
			withNode(t, func(n *node) {
				n.want(vfs(5, dpdkVF()))
				settled(20 * time.Second)
				n.release(Order{Targets: []string{vf1}})
				settled(20 * time.Second)
				again(n)
				settled(20 * time.Second)
				n.allBack(n.release(Order{All: true}))
				n.virtual(vf0, vf1)
				n.driver(vf0, "igbvf")
				n.driver(vf1, "igbvf")
			})
		})
	}
}

// TestModulesFollowTheLastFunction that release --all had to wait for, also when
// the agent is another by then.
func TestModulesFollowTheLastFunction(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, sim.DefaultNode())
			n.start(nil)
			asked := []source.Interface{pci(portA, "vfio-pci"), pci(portB, "vfio-pci")}
			n.want(asked...)
			settled(5 * time.Second)
			let := n.kernel.Hold(portA)
			r := n.release(Order{All: true})
			if i := slices.IndexFunc(r.Entries, func(e OrderEntry) bool { return e.Target == portA }); r.Entries[i].Condition != Held {
				t.Errorf("%+v", r.Entries)
			}
			n.driver(portB, "igb")
			settled(time.Minute)
			n.driver(portA, "vfio-pci")
			if restart {
				n.halt()
				n.start(nil)
				n.want(asked...)
				settled(time.Minute)
			}
			let()
			settled(2 * time.Minute)
			n.driver(portA, "igb")
			n.nothingLeft()
			n.halt()
		})
	}
}

// TestWhatIsAskedAgainKeepsItsModules: the order to give them back is over.
func TestWhatIsAskedAgainKeepsItsModules(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		let := n.kernel.Hold(portA)
		n.release(Order{All: true})
		if _, err := n.agent.Release(t.Context(), Order{Targets: []string{portB}, Cancel: true, Who: "somebody"}); err != nil {
			t.Fatal(err)
		}
		settled(time.Minute)
		let()
		settled(2 * time.Minute)
		n.driver(portA, "igb")
		n.driver(portB, "vfio-pci")
		n.release(Order{Targets: []string{portB}})
		settled(2 * time.Minute)
		if _, err := n.kernel.Inode(n.t.Context(), host.SysModule+"vfio_pci"); err != nil {
			t.Errorf("modules went by an order that was over: %v", err)
		}
	})
}

// TestReleaseAllLooksAtEachFunctionAFewTimes: what it reads grows with the
// functions, and not with their square.
func TestReleaseAllLooksAtEachFunctionAFewTimes(t *testing.T) {
	reads := map[int]int{}
	for _, count := range []int{8, 32} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, wide())
			var c *counting
			n.start(func(o *Config) { c = countReads(o, n.kernel) })
			defer n.halt()
			var asked []source.Interface
			for i := range count {
				asked = append(asked, pci(wideAddress(i), "vfio-pci"))
			}
			n.want(asked...)
			settled(time.Minute)
			c.reset()
			n.allBack(n.release(Order{All: true}))
			paths, _ := c.reset()
			reads[count] = len(paths)
		})
	}
	t.Logf("reads by functions: %v", reads)
	if few, many := reads[8], reads[32]; few == 0 || many > 5*few {
		t.Errorf("%d reads for 8 functions, %d for 32: want no more than fivefold", few, many)
	}
}

func countReads(c *Config, h host.Host) *counting {
	counts := count(h)
	c.Host = counts
	return counts
}

// TestAReleaseThatTakesLongSaysSo: what is not back when the wait ends is told with a
// reason, and is given back all the same.
func TestAReleaseThatTakesLongSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		if err := n.kernel.Inject(sim.Fault{Label: sim.LabelRead, Times: -1, Slow: 700 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		report, err := n.agent.Release(t.Context(), Order{All: true, Who: "root", Why: "test"})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range report.Entries {
			if e.Condition != Released && e.Reason == "" {
				t.Errorf("%s is %s, and nothing says why", e.Target, e.Condition)
			}
		}
		if i := slices.IndexFunc(report.Entries, func(e OrderEntry) bool { return e.Target == portA }); i < 0 || report.Entries[i].Condition == Released {
			t.Errorf("the test shows nothing: %+v", report.Entries)
		}
		settled(5 * time.Minute)
		n.driver(portA, "igb")
		n.halt()
	})
}

// TestAReleasedFunctionIsToldWithItsOrder from the first moment on.
func TestAReleasedFunctionIsToldWithItsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.release(Order{Targets: []string{portA}})
		settled(time.Minute)
		if told, with := n.logged(`msg="interface is released"`), n.logged("to cancel: agent release --cancel"); told != 1 || with != 1 {
			t.Errorf("told %d times, %d times with its order\n%s", told, with, n.log)
		}
		n.halt()
	})
}

// TestAFunctionThatGoesEndsNoRelease of the others, when it goes while the orders are
// given, as VFs do that are being made anew.
func TestAFunctionThatGoesEndsNoRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		var asked atomic.Bool
		n.fault = func(string) error {
			if asked.CompareAndSwap(true, false) { // the order for portA is being kept
				return n.kernel.Unplug(portB)
			}
			return nil
		}
		n.start(nil)
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(20 * time.Second)
		asked.Store(true)
		report := n.release(Order{All: true})
		i := slices.IndexFunc(report.Entries, func(e OrderEntry) bool { return e.Target == portB })
		if i < 0 || report.Entries[i].Condition == Released || report.Entries[i].Reason == "" {
			t.Errorf("%+v", report.Entries)
		}
		n.driver(portA, "igb")
		n.halt()
	})
}

// pullOut pulls functions out.
func (n *node) pullOut(ports ...string) {
	n.t.Helper()
	for _, port := range ports {
		if err := n.kernel.Unplug(port); err != nil {
			n.t.Fatal(err)
		}
	}
}

// putIn puts functions in again.
func (n *node) putIn(ports ...string) {
	n.t.Helper()
	for _, d := range sim.DefaultNode().Devices {
		if !slices.Contains(ports, d.Address) {
			continue
		}
		if err := n.kernel.Plug(d); err != nil {
			n.t.Fatal(err)
		}
	}
}

// TestWhatIsAwayIsReleasedToo: a function that is pulled out when everything is released is
// left alone when it is put in again, until its entry changes.
func TestWhatIsAwayIsReleasedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		byMAC := source.Interface{Selector: source.Selector{MAC: "52:54:00:00:00:03"}, State: source.Configured, Driver: "vfio-pci"}
		n.want(pci(portA, "vfio-pci"), byMAC)
		settled(20 * time.Second)
		n.pullOut(portA, portB)
		settled(20 * time.Second)
		report := n.release(Order{All: true})
		n.allBack(report)
		for _, port := range []drivers.Target{portA, portB} {
			if !slices.ContainsFunc(report.Entries, func(e OrderEntry) bool { return e.Target == port && strings.Contains(e.Reason, "it is gone") }) {
				t.Errorf("%s is not told: %+v", port, report.Entries)
			}
		}
		n.halt()
		n.start(nil)
		n.want(pci(portA, "vfio-pci"), byMAC)
		n.putIn(portA, portB)
		settled(time.Minute)
		n.driver(portA, "igb")
		n.driver(portB, "igb")
		n.nothingLeft()
		changed := pci(portA, "igb")
		changed.MTU = 1400
		n.want(changed, byMAC)
		settled(time.Minute)
		n.driver(portB, "igb")
		if all := n.conditions(); !strings.Contains(all, "pci 0000:02:00.0=right") {
			t.Errorf("asked anew: %s", all)
		}
		n.halt()
	})
}
