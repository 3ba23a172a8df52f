package sim

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"eniagent/drivers/host"
)

func TestOverride(t *testing.T) {
	h := on(t, New(DefaultNode()))
	for _, tc := range []struct{ write, read string }{
		{"vfio-pci", "vfio-pci"},
		{"", "vfio-pci"}, // no bytes, no store
		{"igbvf\n", "igbvf"},
		{"\n", "(null)"},
		{"none", "none"},
		{"\x00", "(null)"}, // since 6.0
		{"none\x00more", "none"},
		{unset, "(null)"},
	} {
		h.must(override(vf0, tc.write))
		if got := h.read(host.Attr(vf0, "driver_override")); got != tc.read {
			t.Errorf("after %q it reads %q, want %q", tc.write, got, tc.read)
		}
	}
	h.wants(syscall.EINVAL, override(vf0, strings.Repeat("x", 4095)))
	h.wants(0, override(vf0, strings.Repeat("x", 4094)))
	h.bound(vf0, "igbvf") // an override unbinds nothing
}

// TestALoneNULBefore60 is stored, and matches no driver.
func TestALoneNULBefore60(t *testing.T) {
	cfg := DefaultNode()
	for release, want := range map[string]string{"5.19.17": "", "6.0.0": "(null)", "10.1": "(null)"} {
		cfg.Release = release
		h := on(t, New(cfg))
		h.must(override(vf0, "none"), override(vf0, "\x00"))
		h.reads(want, host.Attr(vf0, "driver_override"))
	}
}

func TestBindErrnos(t *testing.T) {
	_, h := withVFIO(t)
	h.wants(syscall.ENODEV, bind("igbvf", noFn))
	h.wants(syscall.ENODEV, unbind("vfio-pci", vf0))
	h.wants(syscall.ENODEV, probe(noFn))
	h.wants(syscall.ENOENT, bind("no-such-driver", vf0))
	h.wants(syscall.EBUSY, bind("igbvf", vf0))     // bound, and matching
	h.wants(syscall.ENODEV, bind("vfio-pci", vf0)) // no ids, no override
	h.must(probe(vf0))                             // bound: nothing to do
	h.must(override(vf0, "vfio-pci"), unbind("igbvf", vf0))
	h.wants(syscall.ENODEV, bind("igbvf", vf0)) // the override names another
	h.bound(vf0, "")
	h.must(bind("vfio-pci", vf0+"\n"))
	h.bound(vf0, "vfio-pci")
	h.wants(syscall.EBUSY, bind("vfio-pci", vf0))
	h.lists("/dev/vfio", "8", "vfio")
	h.must(override(vf0, "none"), unbind("vfio-pci", vf0), probe(vf0))
	h.bound(vf0, "") // success, and nothing bound
	h.lists("/dev/vfio", "vfio")
	h.must(override(vf0, unset), probe(vf0))
	h.bound(vf0, "igbvf")
}

// TestNICDriverOfAnotherFunction: an override makes every driver match, and
// the driver has the last word.
func TestNICDriverOfAnotherFunction(t *testing.T) {
	h := on(t, New(DefaultNode()))
	h.must(override(vf0, "igb"), unbind("igbvf", vf0))
	h.wants(syscall.EINVAL, bind("igb", vf0))
	h.must(probe(vf0))
	h.bound(vf0, "")
	h.must(override(vf0, "pcieport"))
	h.wants(syscall.ENODEV, bind("pcieport", vf0))
	h.must(probe(vf0))
	h.bound(vf0, "")
}

func TestRoundTrip(t *testing.T) {
	_, h := withVFIO(t)
	before, _ := h.link(vf0)
	inode, err := h.Inode(t.Context(), host.PCIDevices+vf0)
	if err != nil {
		t.Fatal(err)
	}
	h.must(
		host.Call{Op: host.OpMTU, Target: vf0, Index: before.Index, Number: 9000},
		host.Call{Op: host.OpAdmin, Target: vf0, Index: before.Index, Number: 1},
	)
	if l, _ := h.link(vf0); l.MTU != 9000 || !l.Up || l.Oper != "up" {
		t.Errorf("link is %+v", l)
	}
	h.must(toVFIO(vf0)...)
	if l, ok := h.link(vf0); ok {
		t.Errorf("a netdev under vfio: %+v", l)
	}
	h.missing(host.Attr(vf0, "net"))
	h.wants(syscall.ENODEV, host.Call{Op: host.OpMTU, Index: before.Index, Number: 9000})
	h.must(override(vf0, unset), unbind("vfio-pci", vf0), bind("igbvf", vf0))
	after, _ := h.link(vf0)
	if after.Index == before.Index || after.MTU != 1500 || after.Up || after.Name != before.Name || after.MAC == before.MAC || after.PermMAC != after.MAC {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if again, err := h.Inode(t.Context(), host.PCIDevices+vf0); err != nil || again != inode {
		t.Errorf("incarnation %d, was %d (%v)", again, inode, err)
	}
}

func TestMTU(t *testing.T) {
	h := on(t, New(DefaultNode()))
	l, _ := h.link(mgmt)
	mtu := func(index, n int) host.Call { return host.Call{Op: host.OpMTU, Target: mgmt, Index: index, Number: n} }
	h.wants(syscall.EINVAL, mtu(l.Index, 127))
	h.wants(syscall.EINVAL, mtu(l.Index, 9217))
	h.wants(syscall.ENODEV, mtu(999, 1500))
	h.wants(0, mtu(l.Index, 9216))
	h.reads("9216", "/sys/class/net/ens5/mtu")
	h.wants(syscall.ENODEV, host.Call{Op: host.OpAdmin, Index: 999})
	h.wants(0, host.Call{Op: host.OpAdmin, Index: l.Index, Number: 0})
	h.reads("down", "/sys/class/net/ens5/operstate")
}

func TestPFUnbindTakesItsVFs(t *testing.T) {
	_, h := withVFIO(t)
	h.must(toVFIO(vf0)...)
	inode, _ := h.Inode(t.Context(), host.PCIDevices+vf0)
	h.must(unbind("igb", pf))
	h.missing(host.PCIDevices + vf0)
	h.missing(host.PCIDevices + vf1)
	h.reads("0", host.Attr(pf, "sriov_numvfs"))
	h.must(bind("igb", pf))
	h.missing(host.PCIDevices + vf0)
	h.must(sysfs(host.Attr(pf, "sriov_numvfs"), "2"))
	h.bound(vf0, "igbvf") // the override went with it
	if again, err := h.Inode(t.Context(), host.PCIDevices+vf0); err != nil || again == inode {
		t.Errorf("incarnation %d again (%v)", again, err)
	}
}

func TestNumVFs(t *testing.T) {
	c := DefaultNode()
	c.Devices = slices.DeleteFunc(c.Devices, func(d Device) bool { return d.PF == pf && d.Address > vf1 })
	h := on(t, New(c))
	numvfs := func(addr, n string) host.Call { return sysfs(host.Attr(addr, "sriov_numvfs"), n) }
	h.wants(0, numvfs(pf, "2"))
	h.wants(syscall.EBUSY, numvfs(pf, "1"))
	h.wants(syscall.ERANGE, numvfs(pf, "8"))
	h.wants(syscall.EINVAL, numvfs(pf, "many"))
	h.wants(0, numvfs(pf, "0"))
	h.wants(0, numvfs(pf, "5")) // the device enables fewer, and says nothing
	h.reads("2", host.Attr(pf, "sriov_numvfs"))
	h.must(unbind("igb", pf2))
	h.wants(syscall.ENOENT, numvfs(pf2, "1"))
	h.wants(syscall.ENOENT, numvfs(mgmt, "1")) // no such attribute
}

// TestNumVFsIsAKernelNumber: base by prefix, one plus sign, nothing else.
func TestNumVFsIsAKernelNumber(t *testing.T) {
	h := on(t, New(DefaultNode()))
	for value, errno := range map[string]syscall.Errno{
		"2\n": 0, "+2": 0, "0x2": 0, "0X2": 0, "02": 0, "+02": 0,
		"++2": syscall.EINVAL, "-2": syscall.EINVAL, "0b10": syscall.EINVAL, "0o2": syscall.EINVAL, "0_2": syscall.EINVAL,
		"0x": syscall.EINVAL, "08": syscall.EINVAL, "2 ": syscall.EINVAL, "65538": syscall.EINVAL,
	} {
		h.wants(errno, sysfs(host.Attr(pf, "sriov_numvfs"), value))
	}
}

// TestTotalVFsWithoutTheDriver: igb makes one VF fewer than the function has
// room for, and what it says goes when it does.
func TestTotalVFsWithoutTheDriver(t *testing.T) {
	_, h := withVFIO(t)
	numvfs := func(n string) host.Call { return sysfs(host.Attr(pf2, "sriov_numvfs"), n) }
	total := host.Attr(pf2, "sriov_totalvfs")
	h.reads("7", total)
	h.wants(syscall.ERANGE, numvfs("8"))
	h.must(unbind("igb", pf2))
	h.reads("8", total)
	h.wants(syscall.ENOENT, numvfs("8"))
	h.wants(syscall.ERANGE, numvfs("9"))
	h.must(override(pf2, "vfio-pci"), bind("vfio-pci", pf2))
	h.reads("8", total)
	h.must(override(pf2, unset), unbind("vfio-pci", pf2), bind("igb", pf2))
	h.reads("7", total)
}

func TestAutoprobeGatesVFs(t *testing.T) {
	_, h := withVFIO(t)
	h.must(unbind("igbvf", vf0), sysfs(host.Attr(pf, "sriov_drivers_autoprobe"), "0"))
	h.must(probe(vf0))
	h.bound(vf0, "")
	h.wants(syscall.ENODEV, bind("igbvf", vf0))
	h.must(override(vf0, "vfio-pci"), probe(vf0))
	h.bound(vf0, "vfio-pci")
	h.must(unbind("vfio-pci", vf0), override(vf0, unset), sysfs(host.Attr(pf, "sriov_drivers_autoprobe"), "1"), probe(vf0))
	h.bound(vf0, "igbvf")
	h.wants(syscall.EINVAL, sysfs(host.Attr(pf, "sriov_drivers_autoprobe"), "maybe"))
}

func TestNoIOMMU(t *testing.T) {
	cfg := DefaultNode()
	for i := range cfg.Devices {
		cfg.Devices[i].IOMMUGroup = ""
	}
	k := New(cfg)
	h := on(t, k)
	h.missing("/sys/kernel/iommu_groups")
	h.wants(syscall.ENOENT, sysfs(vfioParam, "Y")) // vfio is not loaded
	load(h, "vfio", "irqbypass", "vfio_pci_core", "vfio_pci")
	h.must(override(vf0, "vfio-pci"), unbind("igbvf", vf0))
	h.wants(syscall.EINVAL, bind("vfio-pci", vf0))
	h.must(probe(vf0))
	h.bound(vf0, "")
	h.wants(syscall.EINVAL, sysfs(vfioParam, "x"))
	h.must(sysfs(vfioParam, "1"))
	h.reads("Y", vfioParam)
	if got := k.Taint(); len(got) != 0 {
		t.Errorf("tainted by the mode alone: %v", got)
	}
	h.must(bind("vfio-pci", vf0))
	h.lists("/dev/vfio", "noiommu-0", "vfio")
	h.reads("vfio-noiommu", host.Attr(vf0, "iommu_group/name"))
	h.reads("64", "/proc/sys/kernel/tainted")
	if diff := cmp.Diff([]string{"TAINT_USER"}, k.Taint()); diff != "" {
		t.Error(diff)
	}
	h.must(unbind("vfio-pci", vf0), sysfs(vfioParam, "N\n"))
	h.missing(host.Attr(vf0, "iommu_group"))
	h.reads("N", vfioParam)
	k.Reboot()
	if got := k.Taint(); len(got) != 0 {
		t.Errorf("tainted after a reboot: %v", got)
	}
}
