package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

func TestDefaultNode(t *testing.T) {
	h := on(t, New(DefaultNode()))
	h.bound(mgmt, "ena")
	h.bound(pf, "igb")
	h.bound(vf0, "igbvf")
	h.bound("0000:00:1c.0", "pcieport")
	h.bound("0000:00:00.0", "")
	h.reads("0x8086", host.Attr(pf, "vendor"))
	h.reads("pci:v00008086d000010C9sv00008086sd0000A03Cbc02sc00i00", host.Attr(pf, "modalias"))
	h.reads("(null)", host.Attr(vf0, "driver_override"))
	h.reads("2", host.Attr(pf, "sriov_numvfs"))
	h.reads("7", host.Attr(pf, "sriov_totalvfs"))
	h.reads("2", host.Attr(vf0, "physfn/sriov_numvfs"))
	h.reads("0x10ca", host.Attr(pf, "virtfn1/device"))
	h.reads("live", host.Attr(pf, "driver/module/drivers/pci:igb/module/initstate"))
	h.reads("live", "/sys/module/igb/initstate")
	h.reads(h.read("/sys/class/net/enp1s0/ifindex"), host.Attr(pf, "net/enp1s0/device/net/enp1s0/ifindex"))
	h.lists(host.Attr(pf, "net"), "enp1s0")
	h.lists("/sys/kernel/iommu_groups/8/devices", vf0)
	h.lists("/sys/bus/pci/drivers/igbvf", vf0, vf1, "bind", "module", "unbind")
	h.missing("/dev/vfio")
	h.missing("/sys/module/vfio_pci")
	h.missing(host.PCIDrivers + "vfio-pci")
	h.reads(DefaultNode().Release, "/proc/sys/kernel/osrelease")
	for path, want := range map[string]string{
		host.Attr(pf, "driver"):                    "../../../../bus/pci/drivers/igb",
		host.Attr(pf, "iommu_group"):               "../../../../kernel/iommu_groups/7",
		host.PCIDevices + pf:                       "../../../devices/pci0000:00/0000:00:1c.0/0000:01:00.0",
		"/sys/class/net/enp1s0":                    "../../devices/pci0000:00/0000:00:1c.0/0000:01:00.0/net/enp1s0",
		"/sys/class/net/enp1s0/device":             "../../../0000:01:00.0",
		host.Attr(vf0, "physfn"):                   "../0000:01:00.0",
		host.PCIDrivers + "igb/" + pf:              "../../../../devices/pci0000:00/0000:00:1c.0/0000:01:00.0",
		"/sys/kernel/iommu_groups/7/devices/" + pf: "../../../../devices/pci0000:00/0000:00:1c.0/0000:01:00.0",
	} {
		if got, err := h.Readlink(t.Context(), path); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", path, got, err, want)
		}
	}
}

// Every name that a directory lists can be had, whatever the machine's state.
func TestEveryListedNameIsThere(t *testing.T) {
	k, h := withVFIO(t)
	load(h, "uio", "uio_pci_generic")
	h.must(toVFIO(vf0)...)
	h.must(override(pf2, "uio_pci_generic"), unbind("igb", pf2), bind("uio_pci_generic", pf2))
	defer k.Hold(vf0)()
	count := 0
	var walk func(dir string)
	walk = func(dir string) {
		names, err := h.List(t.Context(), dir)
		if err != nil {
			t.Fatalf("list %s: %v", dir, err)
		}
		for _, name := range names {
			count++
			path := strings.TrimSuffix(dir, "/") + "/" + name
			if _, err := h.Inode(t.Context(), path); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			_, err := h.Readlink(t.Context(), path)
			switch _, listErr := h.List(t.Context(), path); {
			case err == nil: // a link: where it leads is walked elsewhere
			case listErr == nil:
				walk(path)
			default:
				if _, err := h.Read(t.Context(), path); err != nil && !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EBUSY) {
					t.Errorf("%s: %v", path, err)
				}
			}
		}
	}
	walk("/")
	if count < 300 {
		t.Errorf("walked only %d names", count)
	}
}

func TestUnknownPath(t *testing.T) {
	h := on(t, New(DefaultNode()))
	for _, path := range []string{"/nowhere", "/sys/bus/pci/devices/" + noFn + "/vendor", "relative", host.Attr(pf, "virtfn2")} {
		h.missing(path)
	}
	if _, err := h.List(t.Context(), host.Attr(pf, "vendor")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("list of a file: %v", err)
	}
	if _, err := h.Read(t.Context(), host.Attr(pf, "net")); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("read of a directory: %v", err)
	}
	h.wants(syscall.EACCES, sysfs(host.Attr(pf, "vendor"), "1"))
	h.wants(syscall.ENOENT, sysfs(host.Attr(noFn, "driver_override"), "x"))
}

func TestModuleFiles(t *testing.T) {
	h := on(t, New(DefaultNode()))
	dir := "/lib/modules/" + DefaultNode().Release + "/"
	for file, line := range map[string]string{
		"modules.dep":     "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/pci/vfio-pci-core.ko.xz kernel/virt/lib/irqbypass.ko.xz kernel/drivers/vfio/vfio.ko.xz",
		"modules.softdep": "softdep vfio post: vfio_iommu_type1",
		"modules.builtin": "kernel/drivers/pci/pcie/pcieport.ko",
		"modules.alias":   "alias pci:v00008086d000010CAsv*sd*bc*sc*i* igbvf",
	} {
		if text := h.read(dir + file); !strings.Contains("\n"+text+"\n", "\n"+line+"\n") {
			t.Errorf("%s has no line %q:\n%s", file, line, text)
		}
	}
	h.lists(dir+"kernel/drivers/vfio/pci", "vfio-pci-core.ko.xz", "vfio-pci.ko.xz")
}

func TestVirtioNest(t *testing.T) {
	cfg := DefaultNode()
	cfg.Devices = append(cfg.Devices, Device{
		Address: "0000:00:06.0", Vendor: "0x1af4", Device: "0x1041", Class: "0x020000",
		Net: &Netdev{Name: "eth7", MAC: "52:54:00:12:34:56", Nest: "virtio2"},
	})
	h := on(t, New(cfg))
	h.bound("0000:00:06.0", "virtio-pci")
	h.missing(host.Attr("0000:00:06.0", "net"))
	h.lists(host.Attr("0000:00:06.0", "virtio2/net"), "eth7")
	if got, err := h.Readlink(t.Context(), "/sys/class/net/eth7/device"); err != nil || got != "../../../virtio2" {
		t.Errorf("device link is %q (%v)", got, err)
	}
	h.missing(host.Attr("0000:00:06.0", "iommu_group"))
}

func TestModules(t *testing.T) {
	k := New(DefaultNode())
	h := on(t, k)
	h.wants(syscall.ENOENT, loadCall("no_such"))
	h.wants(syscall.ENOENT, loadCall("vfio_pci")) // unknown symbols
	load(h, "vfio")
	h.wants(syscall.EEXIST, loadCall("vfio"))
	load(h, "irqbypass", "vfio_pci_core")
	h.must(override(vf0, "vfio-pci"), unbind("igbvf", vf0))
	load(h, "vfio_pci") // registering probes what the override names
	h.bound(vf0, "vfio-pci")
	h.bound(vf1, "igbvf")
	h.reads("live", "/sys/module/vfio_pci/initstate")
	h.lists("/sys/module/vfio/holders", "vfio_pci", "vfio_pci_core")
	h.reads("3", "/sys/module/vfio/refcnt") // its holders, and a bound function
	h.wants(syscall.EWOULDBLOCK, unload("vfio"))
	h.wants(syscall.ENOENT, unload("uio"))
	h.wants(syscall.ENOENT, unload("pcieport"))
	h.wants(syscall.ENOENT, unload("no_such"))
	release := k.Hold(vf0)
	h.reads("7", "/sys/module/vfio/refcnt") // and the files of who holds it
	h.reads("1", "/sys/module/vfio_pci/refcnt")
	h.wants(syscall.EWOULDBLOCK, unload("vfio_pci"))
	release()
	h.must(unload("vfio-pci")) // a bound function is no user
	h.bound(vf0, "")
	h.missing(host.PCIDrivers + "vfio-pci")
	h.must(unload("vfio_pci_core"), unload("irqbypass"), unload("vfio"))
	h.must(unload("igbvf"))
	h.bound(vf1, "")
	load(h, "igbvf") // registering probes what matches and has no override
	h.bound(vf1, "igbvf")
	h.bound(vf0, "")
	h.wants(syscall.EINVAL, host.Call{Op: host.OpLoad, Path: loadCall("vfio").Path, Value: noIOMMUParam + "=perhaps"})
	h.must(host.Call{Op: host.OpLoad, Path: loadCall("vfio").Path, Value: noIOMMUParam + "=1 unknown=2"})
	h.reads("Y", vfioParam)
	load(h, "uio", "igb_uio")
	if diff := cmp.Diff([]string{"TAINT_OOT_MODULE"}, k.Taint()); diff != "" {
		t.Error(diff)
	}
	h.wants(syscall.ENOSYS, host.Call{Op: "format"})
}

func TestUIO(t *testing.T) {
	h := on(t, New(DefaultNode()))
	load(h, "uio", "uio_pci_generic", "igb_uio")
	h.must(override(vf0, "igb_uio"), unbind("igbvf", vf0), probe(vf0))
	h.must(override(vf1, "uio_pci_generic"), unbind("igbvf", vf1), probe(vf1))
	h.bound(vf0, "igb_uio")
	h.bound(vf1, "uio_pci_generic")
	h.lists(host.Attr(vf1, "uio"), "uio1")
	h.reads("igb_uio", "/sys/class/uio/uio0/name")
}

func TestOverrideBeatsIds(t *testing.T) {
	_, h := withVFIO(t)
	// vfio-pci registered long after igb, and still wins.
	h.must(override(pf2, "vfio-pci"), unbind("igb", pf2), probe(pf2))
	h.bound(pf2, "vfio-pci")
	h.must(unbind("vfio-pci", pf2), override(pf2, unset), probe(pf2))
	h.bound(pf2, "igb")
}

func TestRemoveRescanPlug(t *testing.T) {
	k, h := withVFIO(t)
	inode, _ := h.Inode(t.Context(), host.PCIDevices+pf2)
	h.must(override(pf2, "vfio-pci"))
	h.must(sysfs(host.Attr(pf2, "remove"), "1"))
	h.missing(host.PCIDevices + pf2)
	h.must(sysfs("/sys/bus/pci/rescan", "1"))
	h.bound(pf2, "igb")
	h.reads("(null)", host.Attr(pf2, "driver_override"))
	if again, _ := h.Inode(t.Context(), host.PCIDevices+pf2); again == inode {
		t.Error("the same incarnation after remove and rescan")
	}
	if err := k.Unplug(pf); err != nil {
		t.Fatal(err)
	}
	h.missing(host.PCIDevices + pf)
	h.missing(host.PCIDevices + vf0)
	h.must(sysfs("/sys/bus/pci/rescan", "1"))
	h.missing(host.PCIDevices + pf)
	if err := k.Unplug(pf); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("unplugged twice: %v", err)
	}
	if err := k.Plug(igb(pf, "7", "other", "52:54:00:00:00:09")); err != nil {
		t.Fatal(err)
	}
	h.bound(pf, "igb")
	if err := k.Plug(igb(pf, "7", "other", "52:54:00:00:00:09")); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("plugged twice: %v", err)
	}
}

// TestAVFHasNoRemove: it comes and goes with its PF's count, as pci_dev_hp_attrs
// of drivers/pci/pci-sysfs.c has it.
func TestAVFHasNoRemove(t *testing.T) {
	k, h := withVFIO(t)
	for _, wrong := range removable(t, k, vf0) {
		t.Error(wrong)
	}
	h.bound(vf0, "igbvf")
}

// TestBrokenVFHasRemove: the test above notices a function that has all of them.
func TestBrokenVFHasRemove(t *testing.T) {
	k, _ := withVFIO(t)
	if wrong := removable(t, k, pf2); len(wrong) != 7 {
		t.Errorf("of 7 only these are noticed: %q", wrong)
	}
}

// removable says in which ways a function can be taken away.
func removable(t *testing.T, k *Kernel, address string) (ways []string) {
	t.Helper()
	names, err := k.List(t.Context(), host.PCIDevices+address)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rescan", "remove"} {
		if _, err := k.Inode(t.Context(), host.Attr(address, name)); !errors.Is(err, fs.ErrNotExist) {
			ways = append(ways, fmt.Sprintf("%s is there (%v)", name, err))
		}
		if slices.Contains(names, name) {
			ways = append(ways, "it lists "+name)
		}
		if err := k.Foreign(sysfs(host.Attr(address, name), "1")); !errors.Is(err, syscall.ENOENT) {
			ways = append(ways, fmt.Sprintf("%s is written: %v, want ENOENT", name, err))
		}
	}
	if err := k.Unplug(address); !errors.Is(err, syscall.EINVAL) {
		ways = append(ways, fmt.Sprintf("it is unplugged: %v, want EINVAL", err))
	}
	return ways
}

// TestABridgeTakesItsBusAlong when it is removed or pulled out, and a rescan or
// a plug brings all of it back, the VFs not made.
func TestABridgeTakesItsBusAlong(t *testing.T) {
	const bridge, other = "0000:00:1c.0", "0000:00:1c.1"
	for name, there := range map[string]struct{ away, back func(*Kernel, hands) error }{
		"remove and rescan": {
			func(_ *Kernel, h hands) error { h.must(sysfs(host.Attr(bridge, "remove"), "1")); return nil },
			func(_ *Kernel, h hands) error { h.must(sysfs("/sys/bus/pci/rescan", "1")); return nil },
		},
		"remove and rescan from another function of the bus": {
			func(_ *Kernel, h hands) error { h.must(sysfs(host.Attr(bridge, "remove"), "1")); return nil },
			func(_ *Kernel, h hands) error { h.must(sysfs(host.Attr(other, "rescan"), "1")); return nil },
		},
		"unplug and plug": {
			func(k *Kernel, _ hands) error { return k.Unplug(bridge) },
			func(k *Kernel, h hands) error {
				h.must(sysfs("/sys/bus/pci/rescan", "1"))
				h.missing(host.PCIDevices + bridge)
				return k.Replug(bridge)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			k, h := withVFIO(t)
			if err := there.away(k, h); err != nil {
				t.Fatal(err)
			}
			for _, gone := range []string{bridge, pf, vf0} {
				h.missing(host.PCIDevices + gone)
			}
			h.bound(pf2, "igb")
			if err := there.back(k, h); err != nil {
				t.Fatal(err)
			}
			h.bound(bridge, "pcieport")
			h.bound(pf, "igb")
			h.reads("0", host.Attr(pf, "sriov_numvfs"))
			h.missing(host.PCIDevices + vf0)
		})
	}
}

// TestPlugUndoesUnplug, and nothing else does.
func TestPlugUndoesUnplug(t *testing.T) {
	k, h := withVFIO(t)
	if err := k.Unplug(pf2); err != nil {
		t.Fatal(err)
	}
	h.must(sysfs("/sys/bus/pci/rescan", "1"))
	h.missing(host.PCIDevices + pf2)
	if err := k.Replug(pf2); err != nil {
		t.Fatal(err)
	}
	h.bound(pf2, "igb")
	for address, want := range map[string]syscall.Errno{pf2: syscall.EEXIST, vf0: syscall.EINVAL, "0000:77:00.0": syscall.ENODEV} {
		if err := k.Replug(address); !errors.Is(err, want) {
			t.Errorf("plug %s: %v, want %v", address, err, want)
		}
	}
}

func TestLinks(t *testing.T) {
	cfg := DefaultNode()
	cfg.Links = append(cfg.Links,
		Netdev{Name: "bond0", Kind: "bond", MAC: "52:54:00:00:00:02", Up: true},
		Netdev{Name: "enp3s0.100", Kind: "vlan", MAC: "52:54:00:00:00:03", Lower: "enp3s0"})
	for i := range cfg.Devices {
		if cfg.Devices[i].Address == pf2 {
			cfg.Devices[i].Net.Master, cfg.Devices[i].Net.Up, cfg.Devices[i].Net.Rename = "bond0", true, "eth9"
		}
	}
	k := New(cfg)
	h := on(t, k)
	bond, _ := h.Read(t.Context(), "/sys/class/net/bond0/ifindex")
	h.reads(bond, "/sys/class/net/enp2s0/master/ifindex")
	h.reads(bond, "/sys/class/net/bond0/lower_enp2s0/master/ifindex")
	if l, _ := h.link(pf2); l.Master == 0 || !l.Up {
		t.Errorf("slave is %+v", l)
	}
	h.must(unbind("igb", "0000:03:00.0"))
	h.missing("/sys/class/net/enp3s0.100") // a VLAN goes with what it sits on
	h.must(unbind("igb", pf2), bind("igb", pf2))
	if l, _ := h.link(pf2); l.Master != 0 || l.Up || l.Name != "eth9" {
		t.Errorf("after a rebind it is %+v", l)
	}
	if err := k.Rename("eth9", "wan0"); err != nil {
		t.Fatal(err)
	}
	if err := k.SetCarrier(pf2, false); err != nil {
		t.Fatal(err)
	}
	l, _ := h.link(pf2)
	h.must(host.Call{Op: host.OpAdmin, Target: pf2, Index: l.Index, Number: 1})
	h.reads("down", "/sys/class/net/wan0/operstate")
	h.reads("0", "/sys/class/net/wan0/carrier")
	if err := k.SetCarrier("wan0", true); err != nil {
		t.Fatal(err)
	}
	h.reads("up", "/sys/class/net/wan0/operstate")
}

func TestReboot(t *testing.T) {
	k, h := withVFIO(t)
	fresh := New(DefaultNode())
	h.must(toVFIO(vf0)...)
	h.must(override(pf2, "none"))
	k.Hold(vf0)
	if err := k.Foreign(unbind("vfio-pci", vf0)); !errors.Is(err, drivers.ErrFenced) {
		t.Fatalf("unbind of a held function: %v", err)
	}
	boot, inode := h.read("/proc/sys/kernel/random/boot_id"), must(h.Inode(t.Context(), host.PCIDevices+pf))
	k.Reboot()
	if again := h.read("/proc/sys/kernel/random/boot_id"); again == boot || len(again) != 36 {
		t.Errorf("boot id %q after %q", again, boot)
	}
	if again := must(h.Inode(t.Context(), host.PCIDevices+pf)); again == inode {
		t.Error("the incarnation survived")
	}
	h.missing("/sys/module/vfio")
	if diff := cmp.Diff(kernelState(fresh), kernelState(k)); diff != "" {
		t.Errorf("a rebooted machine is not a fresh one (-fresh +rebooted):\n%s", diff)
	}
	if fenced, _ := k.Fenced(vf0); fenced {
		t.Error("a write survived the reboot")
	}
	cfg := DefaultNode()
	for i := range cfg.Devices {
		cfg.Devices[i].BootVFs = 0
	}
	k = New(cfg)
	k.Reboot()
	on(t, k).missing(host.PCIDevices + vf0)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// kernelState is a dump without the numbers that never come again.
func kernelState(k *Kernel) []string {
	var lines []string
	for line := range strings.Lines(k.String()) {
		var words []string
		for word := range strings.FieldsSeq(line) {
			switch name, _, _ := strings.Cut(word, "="); name {
			case "inode", "mac", "id":
			default:
				words = append(words, word)
			}
		}
		if words[0] != "boot" {
			lines = append(lines, strings.Join(words, " "))
		}
	}
	return lines
}

func TestCloneIsIndependent(t *testing.T) {
	k, h := withVFIO(t)
	h.must(toVFIO(vf0)...)
	h.must(sysfs(vfioParam, "Y"))
	release := k.Hold(vf0)
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	k.Hook = func(Point) { cancel() }
	if err := k.Do(ctx, unbind("vfio-pci", vf0)); !errors.Is(err, drivers.ErrFenced) {
		t.Fatalf("unbind of a held function: %v", err)
	}
	k.Hook = nil
	if err := k.Inject(Fault{Label: "mtu", Errno: syscall.EIO, Times: 3}); err != nil {
		t.Fatal(err)
	}
	before := k.String()
	c := k.Clone()
	if diff := cmp.Diff(before, c.String()); diff != "" {
		t.Fatalf("the clone differs (-original +clone):\n%s", diff)
	}
	ch := on(t, c)
	ch.must(toVFIO(vf1)...)
	ch.must(sysfs(vfioParam, "N"), unload("igbvf"), unbind("igb", pf2))
	ch.wants(syscall.EIO, host.Call{Op: host.OpMTU, Index: 2, Number: 1400})
	c.mem.machine.Holds = nil
	c.settle()
	if err := c.SetCarrier(mgmt, false); err != nil {
		t.Fatal(err)
	}
	if err := c.Edit(func(cfg *Config) error { cfg.Files["/etc/machine-id"] = "x"; return nil }); err != nil {
		t.Fatal(err)
	}
	ch.bound(vf0, "")
	ch.reads("x", "/etc/machine-id")
	if diff := cmp.Diff(before, k.String()); diff != "" {
		t.Errorf("the original changed with its clone (-before +after):\n%s", diff)
	}
	if got := h.read("/etc/machine-id"); got == "x" {
		t.Error("the original's config changed with its clone's")
	}
	c.Reboot()
	if diff := cmp.Diff(before, k.String()); diff != "" {
		t.Errorf("the original rebooted with its clone (-before +after):\n%s", diff)
	}
}
