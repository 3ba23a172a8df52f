package link

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

const (
	pf     = drivers.Target("0000:01:00.0") // has the VF
	other  = drivers.Target("0000:02:00.0")
	vf     = drivers.Target("0000:01:10.0")
	virtio = drivers.Target("0000:00:06.0")
)

func node(t testing.TB, change func(*sim.Config)) *sim.Kernel {
	t.Helper()
	c := sim.DefaultNode()
	for i := range c.Modules {
		c.Modules[i].Boot = c.Modules[i].Boot || c.Modules[i].Name == "vfio_pci"
	}
	if change != nil {
		change(&c)
	}
	return sim.New(c)
}

// netOf is the netdev of other in a Config.
func netOf(c *sim.Config) *sim.Netdev {
	for i := range c.Devices {
		if c.Devices[i].Address == string(other) {
			return c.Devices[i].Net
		}
	}
	return nil
}

func withMaster(kind string, mtu int) func(*sim.Config) {
	return func(c *sim.Config) {
		c.Links = append(c.Links, sim.Netdev{Name: "over0", Kind: kind, MAC: "52:54:00:00:01:00", MTU: mtu, MaxMTU: 65535})
		netOf(c).Master = "over0"
	}
}

func TestMTUPrecheck(t *testing.T) {
	limits := func(lowest, highest int) func(*sim.Config) {
		return func(c *sim.Config) { netOf(c).MinMTU, netOf(c).MaxMTU = lowest, highest }
	}
	for _, tc := range []struct {
		name    string
		node    func(*sim.Config)
		target  drivers.Target
		to      int
		refusal string
	}{
		{"within the limits", nil, other, 9000, ""},
		{"the device's maximum", limits(128, 4000), other, 4000, ""},
		{"above the device's maximum", limits(128, 4000), other, 4001, "no more than 4000"},
		{"below the device's minimum", limits(1400, 4000), other, 1399, "no less than 1400"},
		{"below IPv6", nil, other, 1279, "IPv6"},
		{"at IPv6", nil, other, 1280, ""},
		{"below IPv6, which is off", func(c *sim.Config) { netOf(c).NoIPv6 = true }, other, 600, ""},
		{"VF above its PF", nil, vf, 1501, "physical function"},
		{"VF as its PF", nil, vf, 1500, ""},
		{"PF above its VF", nil, pf, 9000, ""},
		{"member of a bond", withMaster("bond", 1500), other, 9000, "belongs to bond over0"},
		{"member of a bond, to its MTU", withMaster("bond", 9000), other, 9000, ""},
		{"member of a team", withMaster("team", 1500), other, 9000, "belongs to team over0"},
		{"port of a bridge", withMaster("bridge", 1500), other, 9000, ""},
		{"in a VRF, which sets nothing", withMaster("vrf", 65535), other, 9000, ""},
		{"port of Open vSwitch", withMaster("openvswitch", 1500), other, 9000, ""},
		{"below a VLAN", withVLAN(1500), other, 1400, "vlan vlan0 sits on it with 1500"},
		{"above a VLAN", withVLAN(1500), other, 9000, ""},
		{"no MTU", nil, other, 67, "not an MTU"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := node(t, tc.node)
			writes := k.Writes()
			err := NewMTU(k).(drivers.Prechecker).Precheck(t.Context(), tc.target, MTU(1500), MTU(tc.to))
			switch {
			case tc.refusal == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.refusal != "" && (err == nil || !strings.Contains(err.Error(), tc.refusal)):
				t.Errorf("%v, want a refusal with %q", err, tc.refusal)
			case tc.refusal != "" && tc.to >= 68 && !errors.Is(err, drivers.ErrRefused):
				t.Errorf("%v is not ErrRefused", err)
			}
			if k.Writes() != writes {
				t.Error("a precheck wrote")
			}
		})
	}
}

func withVLAN(mtu int) func(*sim.Config) {
	return func(c *sim.Config) {
		c.Links = append(c.Links, sim.Netdev{Name: "vlan0", Kind: "vlan", MTU: mtu, Lower: netOf(c).Name})
	}
}

func TestMTUPrecheckWithoutLinks(t *testing.T) {
	k := node(t, nil)
	if err := k.Inject(sim.Fault{Label: sim.LabelLinks, Errno: syscall.EIO}); err != nil {
		t.Fatal(err)
	}
	if err := NewMTU(k).(drivers.Prechecker).Precheck(t.Context(), other, "1500", "9000"); !errors.Is(err, syscall.EIO) {
		t.Errorf("limits that cannot be read: %v, want EIO", err)
	}
}

// kinds are both kinds, with a state other than the fresh one.
func kinds(h host.Host) map[drivers.State]drivers.Driver {
	return map[drivers.State]drivers.Driver{"9000": NewMTU(h), Up: NewAdmin(h)}
}

// TestHiddenVFAbovePF: on its way back from a program, a VF is bound by its PF
// as it would be with a netdev.
func TestHiddenVFAbovePF(t *testing.T) {
	k := node(t, nil)
	if err := dpdk.NewDriver(k).Apply(t.Context(), vf, dpdk.Bound("vfio-pci")); err != nil {
		t.Fatal(err)
	}
	p := NewMTU(k).(drivers.Prechecker)
	if err := p.Precheck(t.Context(), vf, drivers.Hidden, "1501"); !errors.Is(err, drivers.ErrRefused) {
		t.Errorf("%v, want a refusal", err)
	}
	if err := p.Precheck(t.Context(), vf, drivers.Hidden, "1500"); err != nil {
		t.Error(err)
	}
}

func TestHiddenOnVFIO(t *testing.T) {
	k := node(t, nil)
	if err := dpdk.NewDriver(k).Apply(t.Context(), other, dpdk.Bound("vfio-pci")); err != nil {
		t.Fatal(err)
	}
	writes := k.Writes()
	for to, d := range kinds(k) {
		got := d.Observe(t.Context(), other)
		if !got.Is(drivers.Hidden) || got.Presence != drivers.Concealed || got.Netdev != 0 {
			t.Errorf("observed %+v, want hidden", got)
		}
		if err := d.Apply(t.Context(), other, to); !errors.Is(err, drivers.ErrHidden) {
			t.Errorf("apply %q: %v, want ErrHidden", to, err)
		}
		if p, ok := d.(drivers.Prechecker); ok {
			if err := p.Precheck(t.Context(), other, drivers.Hidden, to); err != nil {
				t.Errorf("precheck while hidden: %v", err)
			}
		}
	}
	if k.Writes() != writes {
		t.Error("a hidden netdev was written")
	}
	if err := dpdk.NewDriver(k).Apply(t.Context(), other, dpdk.Bound("igb")); err != nil {
		t.Fatal(err)
	}
	for _, spec := range []drivers.Spec{MTUSpec(), AdminSpec()} {
		d := map[drivers.Kind]drivers.Driver{KindMTU: NewMTU(k), KindAdmin: NewAdmin(k)}[spec.Kind]
		if got := d.Observe(t.Context(), other); !got.Is(spec.Fresh) || got.Netdev == 0 {
			t.Errorf("%s came back as %q, want fresh %q", spec.Kind, got, spec.Fresh)
		}
	}
}

func TestReadbackMismatch(t *testing.T) {
	k := node(t, nil)
	for to, d := range kinds(k) {
		label := map[drivers.State]string{"9000": "mtu", Up: "admin"}[to]
		if err := k.Inject(sim.Fault{Label: label, Noop: true}); err != nil {
			t.Fatal(err)
		}
		if err := d.Apply(t.Context(), other, to); !errors.Is(err, drivers.ErrUnverified) {
			t.Errorf("%s that does nothing: %v, want ErrUnverified", label, err)
		}
	}
}

// TestSeveralNetdevs is a function whose ports cannot be told apart.
func TestSeveralNetdevs(t *testing.T) {
	k := node(t, nil)
	h := fakeTwins{k}
	for to, d := range kinds(h) {
		got := d.Observe(t.Context(), other)
		if got.Presence != drivers.Unobservable || !errors.Is(got.Err, drivers.ErrUnsupported) {
			t.Errorf("observed %q (%v), want ErrUnsupported", got, got.Err)
		}
		if err := d.Apply(t.Context(), other, to); !errors.Is(err, drivers.ErrUnsupported) {
			t.Errorf("apply %q: %v, want ErrUnsupported", to, err)
		}
	}
}

func TestVirtio(t *testing.T) {
	k := node(t, func(c *sim.Config) {
		c.Devices = append(c.Devices, sim.Device{
			Address: string(virtio), Vendor: "0x1af4", Device: "0x1041", Class: "0x020000",
			Net: &sim.Netdev{Name: "ens6", MAC: "52:54:00:00:00:06", MaxMTU: 4000, Nest: "virtio0"},
		})
	})
	for to, d := range map[drivers.State]drivers.Driver{"3000": NewMTU(k), Up: NewAdmin(k)} {
		if err := d.Apply(t.Context(), virtio, to); err != nil {
			t.Errorf("apply %q: %v", to, err)
		}
	}
	if err := NewMTU(k).(drivers.Prechecker).Precheck(t.Context(), virtio, "1500", "4001"); !errors.Is(err, drivers.ErrRefused) {
		t.Errorf("above the maximum: %v, want ErrRefused", err)
	}
}

// TestRenamed is a netdev that udev renames between two looks.
func TestRenamed(t *testing.T) {
	k := node(t, nil)
	if err := k.Rename("enp2s0", "lan0"); err != nil {
		t.Fatal(err)
	}
	if err := NewMTU(k).Apply(t.Context(), other, "9000"); err != nil {
		t.Error(err)
	}
}
