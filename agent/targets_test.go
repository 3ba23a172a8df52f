package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/sriov"
)

// TestADriverThatDoesNotTakeTheDevice is refused before anything is unbound, by
// what its module says of devices, be it loaded, loadable or built in.
func TestADriverThatDoesNotTakeTheDevice(t *testing.T) {
	for driver, says := range map[string]string{
		"ena":        "driver ena does not support 0000:02:00.0 (8086:10c9)",
		"igbvf":      "driver igbvf does not support",
		"pcieport":   "driver pcieport does not support",
		"virtio-pci": "driver virtio-pci does not support",
		"nosuch":     "driver nosuch is not registered, and module nosuch is not installed",
	} {
		withNode(t, func(n *node) {
			calls := n.written(func() {
				n.want(pci(portA, driver))
				settled(5 * time.Second)
			})
			n.expect("pci 0000:02:00.0=refused")
			n.says(says)
			if len(calls) > 0 {
				t.Errorf("%s: %q was written", driver, calls)
			}
		})
	}
}

// TestAVFsDriverIsHeldAgainstItsDevice, also before the VF is made.
func TestAVFsDriverIsHeldAgainstItsDevice(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(vfs(3, source.VF{Driver: "igb"}))
		settled(5 * time.Second)
		if r := n.reasons()[" pci 0000:01:00.0 vf 2"]; !strings.Contains(r, "driver igb does not support 0000:01:10.4 (8086:10ca)") || !strings.Contains(r, "ask for igbvf") {
			t.Errorf("%s: %q", n.conditions(), r)
		}
	})
}

// TestADriverOfWhichNothingIsKnown is allowed, and it is said.
func TestADriverOfWhichNothingIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.DefaultNode()
		// Built in, and nothing tells what it takes.
		c.Modules = append(c.Modules, sim.Module{Name: "special", Builtin: true, Path: "kernel/special.ko", Drivers: []sim.Driver{{Name: "special", Makes: sim.MakesNet}}})
		n := newNode(t, c)
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "special"))
		settled(20 * time.Second)
		if !strings.Contains(n.log.String(), "whether driver special takes it is not known") {
			t.Errorf("nothing is said: %s\n%s", n.conditions(), n.log)
		}
	})
}

// rebound is the PF on a driver, with VFs asked of it in the same entry.
func rebound(pf, driver string, count int) source.Interface {
	i := pci(pf, driver)
	i.VFs = &source.VFs{Count: count, Defaults: source.VF{Driver: "vfio-pci"}}
	return i
}

// makes wants a PF to have a driver and so many VFs, each on vfio-pci.
func (n *node) makes(pf, driver string, count int) {
	n.t.Helper()
	n.driver(pf, driver)
	all, err := host.VFsOf(n.t.Context(), n.kernel, pf)
	if err != nil || len(all) != count {
		n.t.Fatalf("it has %v (%v), want %d\n%s\n%v", all, err, count, n.conditions(), n.reasons())
	}
	for _, vf := range all {
		n.driver(string(vf), "vfio-pci")
	}
}

// TestAPFAndItsVFsInOneEdit: the PF's own driver first, then its VFs; and the
// other way when they are given back.
func TestAPFAndItsVFsInOneEdit(t *testing.T) {
	edits := func(pf, driver, other string) func(*node) {
		return func(n *node) {
			n.want(pci(pf, "vfio-pci"))
			settled(10 * time.Second)
			n.makes(pf, "vfio-pci", 0)
			for _, count := range []int{2, 3} {
				n.want(rebound(pf, driver, count))
				settled(20 * time.Second)
				n.makes(pf, driver, count)
			}
			for _, count := range []int{4, 3} {
				n.want(rebound(pf, other, count))
				settled(20 * time.Second)
				n.makes(pf, other, count)
			}
			released := pci(pf, "")
			released.State = source.Released
			n.want(released)
			settled(20 * time.Second)
			n.makes(pf, "igb", 0)
			if log := n.log.String(); strings.Contains(log, "attempt=2") || strings.Contains(log, "hidden by another attribute") {
				t.Errorf("it took more than one attempt:\n%s", log)
			}
		}
	}
	for _, pf := range []string{portA, latePF} {
		t.Run(pf+" igb first", func(t *testing.T) { withNode(t, edits(pf, "igb", "pci-pf-stub")) })
		t.Run(pf+" pci-pf-stub first", func(t *testing.T) { withNode(t, edits(pf, "pci-pf-stub", "igb")) })
	}
}

// TestAStubKeepsNothingForItsVFs: what a PF would keep for a VF is refused, and
// nothing is unbound for it.
func TestAStubKeepsNothingForItsVFs(t *testing.T) {
	withNode(t, func(n *node) {
		i := rebound(portA, "pci-pf-stub", 2)
		i.VFs.Overrides = []source.Override{{Index: 0, VF: source.VF{Driver: "vfio-pci", Port: source.Port{MAC: "02:00:00:00:00:01"}}}}
		n.want(i)
		settled(20 * time.Second)
		n.driver(portA, "igb")
		if r := n.reasons()[" pci 0000:02:00.0"]; !strings.Contains(r, "vf.mac@0000:02:10.0") || !strings.Contains(r, "its physical function will have no netdev") {
			t.Errorf("%s: %q", n.conditions(), n.reasons())
		}
	})
}

// TestAPFOfAProgramMakesNoVFs, and what to do is said.
func TestAPFOfAProgramMakesNoVFs(t *testing.T) {
	withNode(t, func(n *node) {
		n.want(pci(portB, "vfio-pci")) // loads the modules
		settled(10 * time.Second)
		if err := n.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: portA, Path: host.Attr(portA, "driver_override"), Value: "vfio-pci"}); err != nil {
			t.Fatal(err)
		}
		n.unbind(portA)
		if err := n.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: portA, Path: host.DriversProbe, Value: portA}); err != nil {
			t.Fatal(err)
		}
		i := pci(portA, "")
		i.VFs = &source.VFs{Count: 2}
		n.want(pci(portB, "vfio-pci"), i)
		settled(10 * time.Second)
		for _, says := range []string{"enable_sriov", "ask for its kernel driver, or for driver: pci-pf-stub"} {
			if r := n.reasons()[" pci 0000:02:00.0"]; !strings.Contains(r, says) {
				t.Errorf("the reason lacks %q: %q", says, r)
			}
		}
		key := drivers.Key{Kind: sriov.KindNumVFs, Target: portA}
		if o := n.agent.view.observer().Observe(t.Context(), key); !o.Is("autoprobe=1 vfs=-") {
			t.Errorf("its VFs are %s", o)
		}
	})
}

// TestModulesAreLoadedAsModprobeWould: with the options of modprobe.d, with its
// softdeps; a command that is not run is said, and one that forbids is kept.
func TestModulesAreLoadedAsModprobeWould(t *testing.T) {
	node := func(conf string) sim.Config {
		c := sim.DefaultNode()
		c.Files["/etc/modprobe.d/dpdk.conf"] = conf
		for i := range c.Modules {
			if c.Modules[i].Name == "vfio_pci" {
				c.Modules[i].Params = []sim.Param{{Name: "disable_idle_d3", Default: "N", Bool: true, ReadOnly: true}}
			}
		}
		return c
	}
	for name, tc := range map[string]struct{ conf, want, param, says string }{
		"options":         {"options vfio-pci disable_idle_d3=1", "right", "Y", ""},
		"nothing":         {"options igb x=1", "right", "N", ""},
		"a softdep":       {"softdep vfio-pci pre: uio", "right", "N", ""},
		"a command":       {"install vfio-pci /sbin/modprobe --ignore-install vfio-pci; logger x", "right", "N", "modprobe.d has a command for module vfio_pci that is not run"},
		"a command of no": {"install vfio-pci /bin/false", "refused", "", "modprobe.d forbids module vfio_pci"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, node(tc.conf))
				n.start(nil)
				defer n.halt()
				n.want(pci(portA, "vfio-pci"))
				settled(10 * time.Second)
				n.expect("pci 0000:02:00.0=" + tc.want)
				got, _ := n.kernel.Read(t.Context(), host.SysModule+"vfio_pci/parameters/disable_idle_d3")
				if got != tc.param {
					t.Errorf("disable_idle_d3 is %q, want %q", got, tc.param)
				}
				_, err := n.kernel.Inode(t.Context(), host.SysModule+"uio")
				if loaded := err == nil; loaded != (name == "a softdep") {
					t.Errorf("uio is loaded: %t", loaded)
				}
				if tc.says != "" && !strings.Contains(n.reason()+n.log.String(), tc.says) {
					t.Errorf("it is not said: %q\n%s", n.reason(), n.log)
				}
			})
		})
	}
}
