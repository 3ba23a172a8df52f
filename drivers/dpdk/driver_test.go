package dpdk

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

const (
	pfWithVFs = drivers.Target("0000:01:00.0")
	lonePF    = drivers.Target("0000:02:00.0")
	vf        = drivers.Target("0000:01:10.0")
)

// node is a node with vfio-pci loaded.
func node(t testing.TB, change ...func(*sim.Config)) *sim.Kernel {
	t.Helper()
	c := sim.DefaultNode()
	for i := range c.Modules {
		switch c.Modules[i].Name {
		case "vfio", "vfio_pci", "uio_pci_generic":
			c.Modules[i].Boot = true
		}
	}
	for _, f := range change {
		f(&c)
	}
	return sim.New(c)
}

func noGroup(c *sim.Config) {
	for i := range c.Devices {
		if c.Devices[i].Address == string(vf) {
			c.Devices[i].IOMMUGroup = ""
		}
	}
}

func apply(t testing.TB, h host.Host, to drivers.State) {
	t.Helper()
	if err := NewDriver(h).Apply(t.Context(), vf, to); err != nil {
		t.Fatal(err)
	}
}

func observe(h host.Host, target drivers.Target) drivers.Observation {
	return NewDriver(h).Observe(context.Background(), target)
}

// TestRevertOnKernel watches each write of a way back.
func TestRevertOnKernel(t *testing.T) {
	k := node(t)
	apply(t, k, Bound("vfio-pci"))
	var writes []string
	k.Hook = func(p sim.Point) {
		if p.When == sim.Before {
			writes = append(writes, p.Label+" "+p.Call.Value)
		}
	}
	apply(t, k, Bound("igbvf"))
	want := []string{"override \n", "unbind " + string(vf), "bind " + string(vf)}
	if !slices.Equal(writes, want) {
		t.Errorf("wrote %q, want %q", writes, want)
	}
}

// TestBrokenRevertOnKernel is what the order is for: on this kernel, as on a
// real one, the way that brokenRoute goes fails and leaves no driver at all.
func TestBrokenRevertOnKernel(t *testing.T) {
	k := node(t)
	apply(t, k, Bound("vfio-pci"))
	d := binder{k}
	var err error
	for _, hop := range brokenRoute(Bound("vfio-pci"), Bound("igbvf")) {
		if err = d.hop(t.Context(), vf, hop); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENODEV) {
		t.Errorf("binding before the override is cleared: %v, want ENODEV", err)
	}
	if got := observe(k, vf); !got.Is("driver=- override=vfio-pci") {
		t.Errorf("left %q, want no driver", got)
	}
}

func write(path, value string) host.Call {
	return host.Call{Op: host.OpSysfs, Target: vf, Path: path, Value: value}
}

func TestOverrideStates(t *testing.T) {
	override := host.Attr(string(vf), "driver_override")
	for _, tc := range []struct {
		name, value string
		want        drivers.State
	}{
		{"unset", "\n", "driver=igbvf override=-"},
		{"a driver", "vfio-pci\n", "driver=igbvf override=vfio-pci"},
		{"a lone NUL on an old kernel", "\x00", `driver=igbvf override="\x00"`},
		{"no name of a driver", "what ever\n", `driver=igbvf override="what ever"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := node(t, func(c *sim.Config) { c.Release = "5.15.0-91-generic" })
			if err := k.Foreign(write(override, tc.value)); err != nil {
				t.Fatal(err)
			}
			if got := observe(k, vf); !got.Is(tc.want) {
				t.Fatalf("observed %q, want %q", got, tc.want)
			}
			apply(t, k, Bound("vfio-pci")) // it can be left
			apply(t, k, Bound("igbvf"))
			if _, err := Parse(tc.want); err != nil { // and not asked for
				err := NewDriver(k).Apply(t.Context(), vf, tc.want)
				if !errors.Is(err, drivers.ErrIllegal) {
					t.Errorf("asked for %q: %v, want ErrIllegal", tc.want, err)
				}
			}
		})
	}
}

func TestRemedies(t *testing.T) {
	for _, tc := range []struct {
		label  string
		errno  syscall.Errno
		remedy string
	}{
		{"bind", syscall.ENOENT, "driver vfio-pci is not registered"},
		{"bind", syscall.EINVAL, "IOMMU"},
		{"bind", syscall.ENODEV, "does not take this function"},
		{"override", syscall.EACCES, "needs root"},
		{"unbind", syscall.EROFS, "needs root"},
		{"bind", syscall.EPERM, "needs root"},
		{"bind", syscall.EIO, ""},
	} {
		t.Run(tc.label+" "+tc.errno.Error(), func(t *testing.T) {
			k := node(t)
			if err := k.Inject(sim.Fault{Label: tc.label, Errno: tc.errno}); err != nil {
				t.Fatal(err)
			}
			err := NewDriver(k).Apply(t.Context(), vf, Bound("vfio-pci"))
			var e *drivers.Error
			if !errors.As(err, &e) {
				t.Fatalf("%v is no drivers.Error", err)
			}
			if want := (drivers.Key{Kind: KindDriver, Target: vf}); e.Key != want || e.Do != tc.label {
				t.Errorf("the error names %s and %q, want %s and %q", e.Key, e.Do, want, tc.label)
			}
			if !errors.Is(err, tc.errno) {
				t.Errorf("%v is not %v", err, tc.errno)
			}
			if !strings.Contains(e.Remedy, tc.remedy) || (tc.remedy == "") != (e.Remedy == "") {
				t.Errorf("the remedy is %q, want %q", e.Remedy, tc.remedy)
			}
		})
	}
}

// TestBindWithoutIOMMU is the commonest failure of all, as the kernel has it.
func TestBindWithoutIOMMU(t *testing.T) {
	k := node(t, noGroup)
	err := NewDriver(k).Apply(t.Context(), vf, Bound("vfio-pci"))
	if !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "--allow-noiommu") {
		t.Errorf("%v, want EINVAL and the remedy", err)
	}
	if got := observe(k, vf); !got.Is("driver=- override=vfio-pci") {
		t.Errorf("left %q", got)
	}
}

func TestUnverified(t *testing.T) {
	for _, label := range []string{"override", "unbind", "bind"} {
		k := node(t)
		if err := k.Inject(sim.Fault{Label: label, Noop: true}); err != nil {
			t.Fatal(err)
		}
		if err := NewDriver(k).Apply(t.Context(), vf, Bound("vfio-pci")); !errors.Is(err, drivers.ErrUnverified) {
			t.Errorf("%s that does nothing: %v, want ErrUnverified", label, err)
		}
	}
}

func TestPrecheck(t *testing.T) {
	on := func(k *sim.Kernel) {
		if err := k.Foreign(host.Call{Op: host.OpSysfs, Target: NoIOMMUTarget, Path: noiommuFile, Value: "Y"}); err != nil {
			panic(err)
		}
	}
	fail := func(path string) func(*sim.Kernel) {
		return func(k *sim.Kernel) {
			if err := k.Inject(sim.Fault{Label: sim.LabelRead, Path: path, Times: -1, Errno: syscall.EIO}); err != nil {
				panic(err)
			}
		}
	}
	for _, tc := range []struct {
		name    string
		node    func(*sim.Config)
		prepare func(*sim.Kernel)
		target  drivers.Target
		to      drivers.State
		refusal string // "" allows; "EIO" is that error
	}{
		{name: "VF to vfio-pci", target: vf, to: Bound("vfio-pci")},
		{name: "lone PF to vfio-pci", target: lonePF, to: Bound("vfio-pci")},
		{name: "driver that is not there", target: vf, to: Bound("igb_uio"), refusal: "not registered"},
		{name: "PF with VFs to vfio-pci", target: pfWithVFs, to: Bound("vfio-pci"), refusal: "2 VFs"},
		{name: "PF with VFs to no driver", target: pfWithVFs, to: "driver=- override=-", refusal: "2 VFs"},
		{name: "PF with VFs keeps its driver", target: pfWithVFs, to: "driver=igb override=-"},
		{name: "VFs that cannot be counted", prepare: fail("sriov_numvfs"), target: pfWithVFs, to: Bound("vfio-pci"), refusal: "EIO"},
		{name: "drivers that cannot be looked at", prepare: fail("drivers/vfio-pci"), target: vf, to: Bound("vfio-pci"), refusal: "EIO"},
		{name: "no group", node: noGroup, target: vf, to: Bound("vfio-pci"), refusal: "IOMMU"},
		{name: "no group, unsafe mode", node: noGroup, prepare: on, target: vf, to: Bound("vfio-pci")},
		{name: "no group, uio", node: noGroup, target: vf, to: Bound("uio_pci_generic")},
		{name: "to no driver", target: vf, to: "driver=- override=-"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := node(t, func(c *sim.Config) {
				if tc.node != nil {
					tc.node(c)
				}
			})
			if tc.prepare != nil {
				tc.prepare(k)
			}
			testPrecheck(t, k, tc.target, tc.to, tc.refusal)
		})
	}
}

func testPrecheck(t *testing.T, k *sim.Kernel, target drivers.Target, to drivers.State, refusal string) {
	t.Helper()
	writes := k.Writes()
	err := binder{k}.Precheck(t.Context(), target, observe(k, target).State, to)
	switch {
	case k.Writes() != writes:
		t.Error("a precheck wrote")
	case refusal == "" && err != nil:
		t.Errorf("refused: %v", err)
	case refusal == "EIO" && !errors.Is(err, syscall.EIO):
		t.Errorf("%v, want EIO", err)
	case refusal != "" && refusal != "EIO" && (!errors.Is(err, drivers.ErrRefused) || !strings.Contains(err.Error(), refusal)):
		t.Errorf("%v, want a refusal with %q", err, refusal)
	}
}

// TestUnreadableIsNotWritten is Apply on a host that cannot be read at first.
func TestUnreadableIsNotWritten(t *testing.T) {
	k := node(t)
	if err := k.Inject(sim.Fault{Label: sim.LabelRead, Errno: syscall.EIO}); err != nil {
		t.Fatal(err)
	}
	writes := k.Writes()
	if err := NewDriver(k).Apply(t.Context(), vf, Bound("vfio-pci")); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v, want EIO", err)
	}
	if k.Writes() != writes {
		t.Errorf("%d writes of what could not be read", k.Writes()-writes)
	}
}

// TestSomebodyElseUnbinds is a hop that another hand has already made.
func TestSomebodyElseUnbinds(t *testing.T) {
	k := node(t)
	k.Hook = func(p sim.Point) {
		if p.When == sim.After && p.Label == "override" {
			_ = k.Foreign(write(host.PCIDrivers+"igbvf/unbind", string(vf)))
		}
	}
	// The override was to be read back with the driver still there.
	err := NewDriver(k).Apply(t.Context(), vf, Bound("vfio-pci"))
	if err != nil && !errors.Is(err, drivers.ErrUnverified) {
		t.Errorf("%v, want ErrUnverified at most", err)
	}
	apply(t, k, Bound("vfio-pci"))

	k = node(t)
	apply(t, k, "driver=igbvf override=vfio-pci")
	h := &fakeMeddler{Kernel: k, reads: 2, call: write(host.PCIDrivers+"igbvf/unbind", string(vf))}
	apply(t, h, "driver=- override=vfio-pci")
}

// fakeMeddler is a host on which another hand writes before a certain look at
// the override.
type fakeMeddler struct {
	*sim.Kernel
	reads int
	call  host.Call
}

func (f *fakeMeddler) Readlink(ctx context.Context, path string) (string, error) {
	if strings.HasSuffix(path, "/driver") {
		if f.reads--; f.reads == 0 {
			if err := f.Foreign(f.call); err != nil {
				return "", err
			}
		}
	}
	return f.Kernel.Readlink(ctx, path)
}

func TestNoIOMMU(t *testing.T) {
	bare := sim.New(sim.DefaultNode())
	if got := NewNoIOMMU(bare).Observe(t.Context(), NoIOMMUTarget); got.Presence != drivers.Gone {
		t.Errorf("without vfio: %q, want gone", got)
	}
	err := NewNoIOMMU(bare).Apply(t.Context(), NoIOMMUTarget, NoIOMMUOn)
	var e *drivers.Error
	if !errors.As(err, &e) || !strings.Contains(e.Remedy, "CONFIG_VFIO_NOIOMMU") {
		t.Errorf("without vfio: %v, want the remedy", err)
	}
	k := node(t, noGroup)
	if err := NewNoIOMMU(k).Apply(t.Context(), NoIOMMUTarget, NoIOMMUOn); err != nil {
		t.Fatal(err)
	}
	apply(t, k, Bound("vfio-pci"))
	if !slices.Contains(k.Taint(), "TAINT_USER") {
		t.Errorf("taints: %q", k.Taint())
	}
}

// TestApplySparesVFs: a revert has no precheck, and takes no VFs away either.
func TestApplySparesVFs(t *testing.T) {
	k := node(t)
	err := NewDriver(k).Apply(t.Context(), pfWithVFs, Bound("vfio-pci"))
	if !errors.Is(err, drivers.ErrRefused) || !strings.Contains(err.Error(), "2 VFs") {
		t.Errorf("%v, want it refused for its VFs", err)
	}
	if now := k.String(); !strings.Contains(now, "function "+string(vf)) || !strings.Contains(now, "driver=igb override=\"vfio-pci\" vfs=2") {
		t.Errorf("the VFs are gone:\n%s", now)
	}
}
