package health

import (
	"context"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

const (
	port = "0000:02:00.0"
	wire = "0000:03:00.0"
)

// rig is a port on a userspace driver, one whose link is up, and a Monitor.
type rig struct {
	t       *testing.T
	kernel  *sim.Kernel
	monitor *Monitor
	hidden  []string // attributes that are not there
}

// Read hides what this kernel or device does not have.
func (r *rig) Read(ctx context.Context, file string) (string, error) {
	for _, name := range r.hidden {
		if path.Base(file) == name {
			return "", &fs.PathError{Op: "open", Path: file, Err: syscall.ENOENT}
		}
	}
	return r.kernel.Read(ctx, file)
}

// reader is the kernel without what is hidden.
type reader struct {
	*sim.Kernel
	rig *rig
}

func (r reader) Read(ctx context.Context, file string) (string, error) { return r.rig.Read(ctx, file) }

func newRig(t *testing.T, driver string) *rig {
	t.Helper()
	return newRigOn(t, sim.DefaultNode(), driver)
}

func newRigOn(t *testing.T, c sim.Config, driver string) *rig {
	t.Helper()
	r := &rig{t: t, kernel: sim.New(c), monitor: New()}
	dev, err := host.NetdevOf(t.Context(), r.kernel, wire)
	if err != nil {
		t.Fatal(err)
	}
	up := host.Call{Op: host.OpAdmin, Index: dev.Index, Number: 1}
	for _, c := range append(r.binding(driver), up) {
		c.Target = port
		if err := r.kernel.Foreign(c); err != nil {
			t.Fatalf("%s: %v", c, err)
		}
	}
	return r
}

// binding are the writes that bring the port to a driver.
func (r *rig) binding(driver string) (calls []host.Call) {
	r.t.Helper()
	release, err := host.KernelRelease(r.t.Context(), r.kernel)
	if err != nil {
		r.t.Fatal(err)
	}
	modules := map[string][]string{
		"vfio-pci":        {"drivers/vfio/vfio", "virt/lib/irqbypass", "drivers/vfio/pci/vfio-pci-core", "drivers/vfio/pci/vfio-pci"},
		"uio_pci_generic": {"drivers/uio/uio", "drivers/uio/uio_pci_generic"},
	}
	for _, m := range modules[driver] {
		file := "/lib/modules/" + release + "/kernel/" + m + ".ko.xz"
		calls = append(calls, host.Call{Op: host.OpLoad, Path: file})
	}
	return append(calls,
		host.Call{Op: host.OpSysfs, Path: host.Attr(port, "driver_override"), Value: driver},
		host.Call{Op: host.OpSysfs, Path: host.PCIDrivers + "igb/unbind", Value: port},
		host.Call{Op: host.OpSysfs, Path: host.PCIDrivers + driver + "/bind", Value: port},
	)
}

// look is what ails a function, by reason.
func (r *rig) look(f Function) string {
	r.t.Helper()
	var reasons []string
	v := r.monitor.Look(r.t.Context(), reader{r.kernel, r}, f)
	for _, f := range v.Findings {
		reasons = append(reasons, string(f.Reason))
		if f.Text == "" {
			r.t.Errorf("%s is not explained", f.Reason)
		}
	}
	return strings.Join(reasons, " ")
}

func (r *rig) expect(f Function, want string) {
	r.t.Helper()
	if got := r.look(f); got != want {
		r.t.Errorf("%s ails of %q, want %q", f.Target, got, want)
	}
}

func (r *rig) ail(t drivers.Target, a sim.Ailment) {
	r.t.Helper()
	if err := r.kernel.Ail(string(t), a); err != nil {
		r.t.Fatal(err)
	}
}

func TestUserspaceFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f := newRig(t, "vfio-pci"), Function{Target: port, Driver: "vfio-pci"}
		r.expect(f, "")
		r.ail(port, sim.Ailment{Dead: true})
		r.expect(f, "dead")
		r.ail(port, sim.Ailment{NoNode: true})
		r.expect(f, "node")
		r.ail(port, sim.Ailment{})
		r.expect(f, "")
		if n := r.monitor.Ailing(Dead); n != 0 {
			t.Errorf("%d are dead", n)
		}
	})
}

func TestBusErrorsAreToldOfForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f := newRig(t, "vfio-pci"), Function{Target: port, Driver: "vfio-pci"}
		r.ail(port, sim.Ailment{Fatal: 3, NonFatal: 2}) // from before the first look
		r.expect(f, "")
		r.ail(port, sim.Ailment{Fatal: 3, NonFatal: 3})
		r.expect(f, "bus")
		if n := r.monitor.Ailing(Bus); n != 1 {
			t.Errorf("%d ail, want 1", n)
		}
		time.Sleep(hold - time.Second)
		r.expect(f, "bus")
		time.Sleep(2 * time.Second)
		r.expect(f, "")
	})
}

func TestUIODeviceNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f := newRig(t, "uio_pci_generic"), Function{Target: port, Driver: "uio_pci_generic"}
		r.expect(f, "")
		r.ail(port, sim.Ailment{NoNode: true})
		r.expect(f, "node")
	})
}

// TestAGroupThatTheKernelUses: vfio-pci lets no program open a function while another
// one of its IOMMU group is on a driver of the kernel; uio asks for no group.
func TestAGroupThatTheKernelUses(t *testing.T) {
	c := sim.DefaultNode()
	for i := range c.Devices {
		if a := c.Devices[i].Address; a == port || a == wire {
			c.Devices[i].IOMMUGroup = "10"
		}
	}
	for driver, want := range map[string]string{"vfio-pci": "group", "uio_pci_generic": ""} {
		r, f := newRigOn(t, c, driver), Function{Target: port, Driver: driver}
		r.expect(f, want)
		if err := r.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: wire, Path: host.PCIDrivers + "igb/unbind", Value: wire}); err != nil {
			t.Fatal(err)
		}
		r.expect(f, "")
	}
}

func TestCarrierHasAWhileToCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f := newRig(t, "vfio-pci"), Function{Target: wire, Driver: "igb", Up: true}
		r.expect(f, "")
		if err := r.kernel.SetCarrier(wire, false); err != nil {
			t.Fatal(err)
		}
		v := r.monitor.Look(t.Context(), r.kernel, f)
		if len(v.Findings) > 0 || time.Until(v.Again) != patience {
			t.Errorf("at once: %+v", v)
		}
		time.Sleep(patience)
		r.expect(f, "carrier")
		down := f
		down.Up = false
		r.expect(down, "") // nobody asks for it to be up
		r.expect(f, "")
		time.Sleep(patience)
		r.expect(f, "carrier")
		if err := r.kernel.SetCarrier(wire, true); err != nil {
			t.Fatal(err)
		}
		r.expect(f, "")
	})
}

func TestSpeedIsMissedOnlyWhereItWasKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f := newRig(t, "vfio-pci"), Function{Target: wire, Driver: "igb", Up: true}
		r.ail(wire, sim.Ailment{Speed: -1})
		r.expect(f, "") // as a virtual NIC, which never has one
		r.ail(wire, sim.Ailment{Speed: 25000})
		r.expect(f, "")
		for _, unknown := range []int{-1, 1<<32 - 1} {
			r.ail(wire, sim.Ailment{Speed: unknown})
			r.expect(f, "speed")
		}
	})
}

func TestErrorRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f := newRig(t, "vfio-pci"), Function{Target: wire, Driver: "igb", Up: true}
		r.ail(wire, sim.Ailment{RxErrors: 2e6})
		r.expect(f, "")
		time.Sleep(sample)
		r.ail(wire, sim.Ailment{RxErrors: 1e6}) // the driver began to count anew
		r.expect(f, "")
		time.Sleep(20 * time.Second)
		r.ail(wire, sim.Ailment{RxErrors: 1e6 + 100, TxErrors: 100}) // ten a second
		r.expect(f, "")
		r.ail(wire, sim.Ailment{RxErrors: 1e6 + 1000, TxErrors: 100})
		r.expect(f, "") // too soon to tell
		time.Sleep(sample)
		r.expect(f, "errors")
		r.ail(wire, sim.Ailment{}) // the driver began to count anew
		time.Sleep(sample)
		r.expect(f, "errors")
		time.Sleep(hold)
		r.expect(f, "")
	})
}

// TestWhatCannotBeReadIsUnknown and not unhealthy.
func TestWhatCannotBeReadIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "vfio-pci")
		r.ail(port, sim.Ailment{Dead: true, Fatal: 1})
		r.ail(wire, sim.Ailment{Speed: -1, RxErrors: 1})
		r.hidden = []string{"config", "aer_dev_fatal", "aer_dev_nonfatal", "carrier", "speed", "rx_errors"}
		r.expect(Function{Target: port, Driver: "vfio-pci"}, "")
		r.expect(Function{Target: wire, Driver: "igb", Up: true}, "")
		r.hidden = []string{"aer_dev_fatal"}
		r.ail(port, sim.Ailment{NonFatal: 5})
		r.expect(Function{Target: port, Driver: "vfio-pci"}, "")
		r.hidden = nil // counting begins now
		r.expect(Function{Target: port, Driver: "vfio-pci"}, "")
	})
}

func TestAnotherLifeOfTheFunctionIsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f := newRig(t, "vfio-pci"), Function{Target: port, Driver: "vfio-pci", Incarnation: 1}
		r.expect(f, "")
		r.ail(port, sim.Ailment{Fatal: 1})
		f.Incarnation = 2
		r.expect(f, "")
		r.ail(port, sim.Ailment{Fatal: 2})
		r.expect(f, "bus")
		r.monitor.Forget(port)
		r.expect(f, "")
		r.monitor.Keep(func(drivers.Target) bool { return false })
		if len(r.monitor.by) > 0 {
			t.Error("functions of no interest are remembered")
		}
	})
}

// TestAVFAilsOfWhatItsPFAilsOf, in its own words.
func TestAVFAilsOfWhatItsPFAilsOf(t *testing.T) {
	const pf, vf = "0000:01:00.0", "0000:01:10.0"
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "uio_pci_generic")
		bound, own := Function{Target: vf, Driver: "uio_pci_generic"}, Function{Target: vf, Driver: "uio_pci_generic", OwnLink: true}
		unasked := Function{Target: vf, Driver: "igbvf"}
		look := func(f Function) Verdict { return r.monitor.Look(t.Context(), r.kernel, f) }
		if v := look(bound); len(v.Findings) > 0 || len(v.Notes) != 1 || !strings.Contains(v.Notes[0], "enp1s0 is down") {
			t.Errorf("with a PF that is down: %+v", v)
		}
		dev, err := host.NetdevOf(t.Context(), r.kernel, pf)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.kernel.Foreign(host.Call{Op: host.OpAdmin, Target: pf, Index: dev.Index, Number: 1}); err != nil {
			t.Fatal(err)
		}
		if v := look(bound); len(v.Findings)+len(v.Notes) > 0 {
			t.Errorf("all is well: %+v", v)
		}
		if err := r.kernel.SetCarrier(pf, false); err != nil {
			t.Fatal(err)
		}
		if v := look(bound); len(v.Findings) > 0 || time.Until(v.Again) != patience {
			t.Errorf("at once: %+v", v)
		}
		time.Sleep(patience)
		r.expect(bound, "carrier")
		r.expect(own, "")
		r.expect(unasked, "")
		if err := r.kernel.SetCarrier(pf, true); err != nil {
			t.Fatal(err)
		}
		r.expect(bound, "")
		for _, f := range []Function{bound, own, unasked} {
			r.ail(pf, sim.Ailment{})
			r.expect(f, "")
			r.ail(pf, sim.Ailment{Dead: true, NonFatal: 1})
			r.expect(f, "dead bus")
			r.ail(pf, sim.Ailment{NonFatal: 1})
			r.expect(f, "bus")
			time.Sleep(hold)
			r.expect(f, "")
		}
	})
}
