package all_test

import (
	"maps"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/drivertest"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/link"
	"eniagent/drivers/module"
	"eniagent/drivers/sriov"
)

const (
	pf = drivers.Target("0000:02:00.0") // a port without VFs
	vf = drivers.Target("0000:01:10.0")
	// maker is a port with two VFs, and mgmt has an alternative name.
	maker = drivers.Target("0000:01:00.0")
	mgmt  = drivers.Target("0000:00:05.0")
)

// withVFIO loads what vfio-pci needs.
func withVFIO(t testing.TB, k *sim.Kernel) { load(t, k, "vfio-pci") }

func withUIO(t testing.TB, k *sim.Kernel) { load(t, k, "uio_pci_generic") }

// load loads modules with all that they need.
func load(t testing.TB, k *sim.Kernel, names ...string) {
	t.Helper()
	for _, name := range names {
		closure, err := module.Closure(t.Context(), k, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range closure {
			drivertest.MustApply(t, all.New(k), module.Kind, m, module.Loaded)
		}
	}
}

func onVFIO(t testing.TB, k *sim.Kernel) {
	withVFIO(t, k)
	drivertest.MustApply(t, all.New(k), dpdk.KindDriver, vf, dpdk.Bound("vfio-pci"))
}

func wideLink(t testing.TB, k *sim.Kernel) {
	drivertest.MustApply(t, all.New(k), link.KindMTU, pf, link.MTU(9000))
}

// overridden is a function that an operator gave another override, unbound.
func overridden(t testing.TB, k *sim.Kernel) {
	withVFIO(t, k)
	drivertest.MustApply(t, all.New(k), dpdk.KindDriver, vf, "driver=- override=uio_pci_generic")
}

func up(t testing.TB, k *sim.Kernel) {
	drivertest.MustApply(t, all.New(k), link.KindAdmin, pf, link.Up)
}

func named(t testing.TB, k *sim.Kernel) {
	drivertest.MustApply(t, all.New(k), link.KindAltNames, pf, "[lan0 lan1]")
}

func withoutHash(t testing.TB, k *sim.Kernel) {
	drivertest.MustApply(t, all.New(k), link.KindFeatures, pf, features(map[string]bool{"rx-hashing": false}))
}

// features are those of a simulated igb as they are at first, but for some.
func features(but map[string]bool) drivers.State { return featuresOf("igb", but) }

func featuresOf(driver string, but map[string]bool) drivers.State {
	wanted := map[string]bool{}
	for _, f := range sim.Features(driver) {
		if !f.Fixed {
			wanted[f.Name] = f.Wanted
		}
	}
	maps.Copy(wanted, but)
	return link.Features(wanted)
}

// samples are what each kind is tried with. A kind that is not here fails.
func samples() map[drivers.Kind][]drivertest.Sample {
	remade := []string{"index", "mac"} // of the netdev that a driver makes anew
	durable := []string{"durable"}     // a file is not, before it is synced
	return map[drivers.Kind][]drivertest.Sample{
		module.Kind: {
			{Name: "alone", Target: "module/uio", Before: module.Absent, After: module.Loaded},
			{Name: "away", Target: "module/uio", Prepare: func(t testing.TB, k *sim.Kernel) { load(t, k, "uio") }, Before: module.Loaded, After: module.Absent},
			{Name: "with drivers", Target: "module/vfio_pci", Prepare: func(t testing.TB, k *sim.Kernel) { load(t, k, "vfio-pci-core") }, Before: module.Absent, After: module.Loaded},
		},
		dpdk.KindNoIOMMU: {
			{Target: dpdk.NoIOMMUTarget, Prepare: withVFIO, Before: dpdk.NoIOMMUOff, After: dpdk.NoIOMMUOn},
		},
		sriov.KindNumVFs: {
			{Name: "more", Target: maker, Prepare: driverless, Before: vfs(2), After: vfs(5), Renewed: append(remade, "inode")},
			{Name: "away", Target: maker, Prepare: driverless, Before: vfs(2), After: vfs(0), Renewed: append(remade, "inode")},
			{Name: "the switch alone", Target: maker, Before: vfs(2), After: "autoprobe=0 vfs=0000:01:10.0,0000:01:10.2"},
		},
		sriov.KindMAC: {
			{Name: "of a VF", Target: vf, Before: host.NoMAC, After: "52:54:00:00:01:00"},
			{Name: "of a VF on vfio-pci", Target: vf, Prepare: onVFIO, Before: host.NoMAC, After: "52:54:00:00:01:00"},
			{Name: "of a VF without a driver", Target: "0000:01:10.2", Prepare: driverless, Before: host.NoMAC, After: "52:54:00:00:01:00"},
		},
		sriov.KindVLAN: {
			{Name: "igb", Target: vf, Before: "id=0 qos=0 protocol=802.1Q", After: "id=100 qos=3 protocol=802.1Q"},
			{Name: "of a provider", Config: withMoreOfVFs, Target: vf, Before: "id=0 qos=0 protocol=802.1Q", After: "id=4094 qos=7 protocol=802.1ad"},
		},
		sriov.KindTrust:      {{Target: vf, Before: "off", After: "on"}},
		sriov.KindSpoofCheck: {{Target: vf, Before: "on", After: "off"}},
		sriov.KindLinkState: {
			{Config: withMoreOfVFs, Target: vf, Before: "auto", After: "disable"},
			{Config: withMoreOfVFs, Target: vf, Before: "auto", After: "enable"},
		},
		sriov.KindRate: {
			{Name: "igb with a link", Target: vf, Prepare: makerUp, Before: "min=0 max=0", After: "min=0 max=1000"},
			{Name: "both", Config: withMoreOfVFs, Target: vf, Before: "min=0 max=0", After: "min=100 max=20000"},
		},
		dpdk.KindDriver: {
			{Name: "VF to vfio-pci", Target: vf, Prepare: withVFIO, Before: dpdk.Bound("igbvf"), After: dpdk.Bound("vfio-pci"), Renewed: remade},
			{Name: "PF to vfio-pci", Target: pf, Prepare: withVFIO, Before: dpdk.Bound("igb"), After: dpdk.Bound("vfio-pci"), Renewed: remade},
			{Name: "VF to uio", Target: vf, Prepare: withUIO, Before: dpdk.Bound("igbvf"), After: dpdk.Bound("uio_pci_generic"), Renewed: remade},
			{Name: "VF to nothing", Target: vf, Before: dpdk.Bound("igbvf"), After: "driver=- override=-", Renewed: remade},
			{Name: "back to the kernel", Target: vf, Prepare: onVFIO, Before: dpdk.Bound("vfio-pci"), After: dpdk.Bound("igbvf"), Renewed: remade},
			{Name: "userspace to userspace", Target: vf, Prepare: func(t testing.TB, k *sim.Kernel) { withUIO(t, k); onVFIO(t, k) }, Before: dpdk.Bound("vfio-pci"), After: dpdk.Bound("uio_pci_generic"), Renewed: remade},
			{Name: "override alone", Target: vf, Before: dpdk.Bound("igbvf"), After: "driver=igbvf override=vfio-pci"},
			{Name: "from an operator's override", Target: vf, Prepare: overridden, Before: "driver=- override=uio_pci_generic", After: dpdk.Bound("vfio-pci"), Renewed: remade},
		},
		link.KindName: {
			{Name: "PF", Target: pf, Before: "name=enp2s0", After: "name=lan0"},
			{Name: "of a link that is up", Target: pf, Prepare: up, Before: "name=enp2s0", After: "name=lan0"},
		},
		link.KindMAC: {
			{Name: "PF", Target: pf, Before: "52:54:00:00:00:02", After: "52:54:00:00:01:00"},
			{Name: "of a link that is up", Target: pf, Prepare: up, Before: "52:54:00:00:00:02", After: "52:54:00:00:01:00"},
		},
		link.KindMTU: {
			{Name: "PF", Target: pf, Before: "1500", After: "9000"},
			{Name: "down to the minimum", Target: pf, Prepare: wideLink, Before: "9000", After: "1280"},
			{Name: "VF", Target: vf, Before: "1500", After: "1400"},
			{Name: "virtio", Config: withVirtio, Target: virtio, Before: "1500", After: "4000"},
		},
		link.KindAltNames: {
			{Name: "a second one", Target: mgmt, Before: "[enp0s5]", After: "[eni0 enp0s5]"},
			{Name: "two for one", Target: mgmt, Before: "[enp0s5]", After: `["a b" eni0]`},
			{Name: "VF", Target: vf, Before: "[]", After: "[data0]"},
			{Name: "away", Target: pf, Prepare: named, Before: "[lan0 lan1]", After: "[]"},
		},
		link.KindChannels: {
			{Name: "fewer", Target: pf, Before: "rx=0 tx=0 combined=4", After: "rx=0 tx=0 combined=1"},
			{Name: "all", Target: pf, Prepare: up, Before: "rx=0 tx=0 combined=4", After: "rx=0 tx=0 combined=8"},
		},
		link.KindRings: {
			{Name: "PF", Target: pf, Prepare: up, Before: "rx=256 mini=0 jumbo=0 tx=256", After: "rx=1024 mini=0 jumbo=0 tx=4096"},
			{Name: "VF", Target: vf, Before: "rx=256 mini=0 jumbo=0 tx=256", After: "rx=64 mini=0 jumbo=0 tx=256"},
		},
		link.KindFeatures: {
			{Name: "off", Target: pf, Before: features(nil), After: features(map[string]bool{"tx-tcp-segmentation": false})},
			{Name: "on and off", Target: pf, Prepare: withoutHash, Before: features(map[string]bool{"rx-hashing": false}), After: features(map[string]bool{"rx-gro": false, "rx-vlan-hw-parse": false})},
			{Name: "what others need", Target: vf, Before: featuresOf("igbvf", nil), After: featuresOf("igbvf", map[string]bool{"tx-checksum-ip-generic": false, "tx-scatter-gather": false})},
		},
		link.KindAdmin: {
			{Name: "PF", Target: pf, Before: link.Down, After: link.Up},
			{Name: "of an MTU", Target: pf, Prepare: wideLink, Before: link.Down, After: link.Up},
			{Name: "virtio", Config: withVirtio, Target: virtio, Before: link.Down, After: link.Up},
		},
		deviceplugin.Kind: {
			{Name: "the first of a file", Target: pool, Prepare: emptyList, Before: deviceplugin.Absent, After: poolOf(vf), Renewed: durable},
			{Name: "beside others", Config: withPools, Target: pool, Before: deviceplugin.Absent, After: poolOf(vf), Renewed: durable},
			{Name: "changed", Config: withPools, Target: pool, Prepare: published, Before: poolOf(vf), After: poolOf(vf, pf), Renewed: durable},
			{Name: "withdrawn", Config: withPools, Target: pool, Prepare: published, Before: poolOf(vf), After: deviceplugin.Absent, Renewed: durable},
		},
	}
}

// driverless takes their driver from the VFs: what makes them does not bind
// them.
func driverless(t testing.TB, k *sim.Kernel) {
	for _, a := range []drivers.Target{vf, "0000:01:10.2"} {
		drivertest.MustApply(t, all.New(k), dpdk.KindDriver, a, "driver=- override=-")
	}
}

// withMoreOfVFs is a node whose driver lets everything be set of VFs.
func withMoreOfVFs() sim.Config {
	c := sim.DefaultNode()
	for i := range c.Modules {
		for k := range c.Modules[i].Drivers {
			if d := &c.Modules[i].Drivers[k]; d.VFs != nil {
				d.VFs = &sim.VFLimits{}
			}
		}
	}
	return c
}

func makerUp(t testing.TB, k *sim.Kernel) {
	drivertest.MustApply(t, all.New(k), link.KindAdmin, maker, link.Up)
}

// vfs is the state in which maker has so many VFs.
func vfs(n int) drivers.State {
	v := sriov.VFs{Autoprobe: true}
	for i := range n {
		t, err := host.AfterFunction(maker, 128+2*i)
		if err != nil {
			panic(err)
		}
		v.Addresses = append(v.Addresses, t)
	}
	return v.State()
}

const (
	poolFile = "/etc/pcidp/config.json"
	pool     = drivers.Target("file/" + poolFile + "#intel.com/sriov")
)

func poolOf(functions ...drivers.Target) drivers.State {
	p := deviceplugin.Pool{Driver: "vfio-pci"}
	for _, f := range functions {
		p.Addresses = append(p.Addresses, string(f))
	}
	state, err := p.State()
	if err != nil {
		panic(err)
	}
	return state
}

// withPools is a node whose device plugin has pools of others.
func withPools() sim.Config {
	c := sim.DefaultNode()
	c.Files = map[string]string{poolFile: `{
    "resourceList": [{
            "resourceName": "theirs",
            "selectors": {"pfNames": ["ens6#0-3"]}
        }
    ],
    "more": true
}`}
	return c
}

func emptyList(t testing.TB, k *sim.Kernel) {
	if err := k.WriteFile(poolFile, "{\r\n\t\"resourceList\": []\r\n}\r\n"); err != nil {
		t.Fatal(err)
	}
}

func published(t testing.TB, k *sim.Kernel) {
	drivertest.MustApply(t, all.New(k), deviceplugin.Kind, pool, poolOf(vf))
}

const virtio = drivers.Target("0000:00:06.0")

// withVirtio is a node with a virtio NIC, whose netdev is one level deeper.
func withVirtio() sim.Config {
	c := sim.DefaultNode()
	c.Devices = append(c.Devices, sim.Device{
		Address: string(virtio), Vendor: "0x1af4", Device: "0x1041", Class: "0x020000",
		Net: &sim.Netdev{Name: "ens6", MAC: "52:54:00:00:00:06", MaxMTU: 65535, Nest: "virtio0"},
	})
	return c
}

func TestConformance(t *testing.T) { drivertest.Run(t, all.New, samples()) }

// TestNoKindTwice holds New and Specs together.
func TestNoKindTwice(t *testing.T) {
	set := all.New(sim.New(sim.DefaultNode()))
	if len(set.Drivers) != len(set.Specs) {
		t.Errorf("%d drivers for %d specs", len(set.Drivers), len(set.Specs))
	}
	for _, s := range set.Specs {
		if s.Class != drivers.Volatile && s.Class != drivers.Persistent {
			t.Errorf("kind %s has class %q", s.Kind, s.Class)
		}
		for _, after := range s.After {
			if _, ok := set.Specs.Find(after); !ok {
				t.Errorf("kind %s comes after %q, which there is not", s.Kind, after)
			}
		}
		if s.Netdev && s.Fresh == "" {
			t.Errorf("kind %s: netdev is %t and fresh is %q", s.Kind, s.Netdev, s.Fresh)
		}
	}
}

// TestSpecsLegal is the allow-list over all kinds.
func TestSpecsLegal(t *testing.T) {
	for _, tc := range []struct {
		key  drivers.Key
		to   drivers.State
		want bool
	}{
		{drivers.Key{Kind: "mtu", Target: pf}, "9000", true},
		{drivers.Key{Kind: "mtu", Target: pf}, drivers.Hidden, true},
		{drivers.Key{Kind: "mtu", Target: pf}, "67", false},
		{drivers.Key{Kind: "mtu", Target: pf}, "65536", false},
		{drivers.Key{Kind: "mtu", Target: pf}, "09000", false},
		{drivers.Key{Kind: "mtu", Target: "module/vfio"}, "9000", false},
		{drivers.Key{Kind: "admin", Target: pf}, "up", true},
		{drivers.Key{Kind: "admin", Target: pf}, "1", false},
		{drivers.Key{Kind: "name", Target: pf}, "name=lan0", true},
		{drivers.Key{Kind: "name", Target: pf}, "name=eth%d", false},
		{drivers.Key{Kind: "name", Target: pf}, "name=0123456789abcdef", false},
		{drivers.Key{Kind: "name", Target: pf}, "name=..", false},
		{drivers.Key{Kind: "name", Target: pf}, "lan0", false},
		{drivers.Key{Kind: "name", Target: pf}, drivers.Default, false},
		{drivers.Key{Kind: "name", Target: "module/vfio"}, "name=lan0", false},
		{drivers.Key{Kind: "mac", Target: pf}, "52:54:00:00:01:00", true},
		{drivers.Key{Kind: "mac", Target: pf}, host.NoMAC, false},
		{drivers.Key{Kind: "mac", Target: pf}, "01:00:5e:00:00:01", false},
		{drivers.Key{Kind: "altnames", Target: pf}, `["a b" eni0]`, true},
		{drivers.Key{Kind: "altnames", Target: pf}, "[]", true},
		{drivers.Key{Kind: "altnames", Target: pf}, "[b a]", false},
		{drivers.Key{Kind: "altnames", Target: pf}, "[a a]", false},
		{drivers.Key{Kind: "altnames", Target: pf}, `["a"]`, false},
		{drivers.Key{Kind: "altnames", Target: pf}, "[a", false},
		{drivers.Key{Kind: "altnames", Target: pf}, drivers.Default, false},
		{drivers.Key{Kind: "altnames", Target: "module/vfio"}, "[a]", false},
		{drivers.Key{Kind: "channels", Target: pf}, "rx=0 tx=0 combined=4", true},
		{drivers.Key{Kind: "channels", Target: pf}, "rx=0 tx=0 combined=0", false},
		{drivers.Key{Kind: "channels", Target: pf}, "-", false},
		{drivers.Key{Kind: "channels", Target: "module/vfio"}, "rx=0 tx=0 combined=4", false},
		{drivers.Key{Kind: "rings", Target: pf}, "rx=256 mini=0 jumbo=0 tx=256", true},
		{drivers.Key{Kind: "rings", Target: pf}, "rx=256 tx=256", false},
		{drivers.Key{Kind: "rings", Target: "module/vfio"}, "rx=256 mini=0 jumbo=0 tx=256", false},
		{drivers.Key{Kind: "features", Target: pf}, "rx-gro=off tx-nocache-copy=on", true},
		{drivers.Key{Kind: "features", Target: pf}, "rx-gro=off rx-gro=on", false},
		{drivers.Key{Kind: "features", Target: pf}, "rx-gro=maybe", false},
		{drivers.Key{Kind: "features", Target: pf}, "-", false},
		{drivers.Key{Kind: "features", Target: "module/vfio"}, "rx-gro=off", false},
		{drivers.Key{Kind: "vf.mac", Target: vf}, "52:54:00:00:01:00", true},
		{drivers.Key{Kind: "vf.mac", Target: vf}, host.NoMAC, true},
		{drivers.Key{Kind: "vf.mac", Target: vf}, "01:00:5e:00:00:01", false},
		{drivers.Key{Kind: "vf.mac", Target: vf}, "52:54:00:00:01:0A", false},
		{drivers.Key{Kind: "vf.mac", Target: "module/vfio"}, host.NoMAC, false},
		{drivers.Key{Kind: "vf.vlan", Target: vf}, "id=4094 qos=7 protocol=802.1ad", true},
		{drivers.Key{Kind: "vf.vlan", Target: vf}, "id=0 qos=0 protocol=802.1ad", false},
		{drivers.Key{Kind: "vf.vlan", Target: vf}, "id=4095 qos=0 protocol=802.1Q", false},
		{drivers.Key{Kind: "vf.vlan", Target: vf}, "id=1 qos=8 protocol=802.1Q", false},
		{drivers.Key{Kind: "vf.vlan", Target: vf}, "id=01 qos=0 protocol=802.1Q", false},
		{drivers.Key{Kind: "vf.vlan", Target: vf}, "id=1 qos=0", false},
		{drivers.Key{Kind: "vf.trust", Target: vf}, "on", true},
		{drivers.Key{Kind: "vf.trust", Target: vf}, "-", false},
		{drivers.Key{Kind: "vf.spoofchk", Target: vf}, "true", false},
		{drivers.Key{Kind: "vf.state", Target: vf}, "enable", true},
		{drivers.Key{Kind: "vf.state", Target: vf}, "up", false},
		{drivers.Key{Kind: "vf.state", Target: vf}, drivers.Default, false},
		{drivers.Key{Kind: "vf.rate", Target: vf}, "min=5 max=0", true},
		{drivers.Key{Kind: "vf.rate", Target: vf}, "min=5 max=4", false},
		{drivers.Key{Kind: "vf.rate", Target: vf}, "min=-1 max=4", false},
		{drivers.Key{Kind: "driver", Target: pf}, dpdk.Bound("vfio-pci"), true},
		{drivers.Key{Kind: "driver", Target: pf}, drivers.Hidden, false},
		{drivers.Key{Kind: "driver", Target: pf}, "driver=../../x override=-", false},
		{drivers.Key{Kind: "driver", Target: pf}, "driver=.. override=-", false},
		{drivers.Key{Kind: "driver", Target: pf}, `driver=- override="\x00"`, false},
		{drivers.Key{Kind: "driver", Target: "module/vfio"}, dpdk.Bound("igb"), false},
		{drivers.Key{Kind: "module", Target: "module/vfio"}, "loaded", true},
		{drivers.Key{Kind: "module", Target: "module/../vfio"}, "loaded", false},
		{drivers.Key{Kind: "noiommu", Target: dpdk.NoIOMMUTarget}, "on", true},
		{drivers.Key{Kind: "noiommu", Target: "param/vfio/other"}, "on", false},
		{drivers.Key{Kind: "pool", Target: pool}, "absent", true},
		{drivers.Key{Kind: "pool", Target: pool}, poolOf(vf), true},
		{drivers.Key{Kind: "pool", Target: pool}, poolOf(vf) + " ", false},
		{drivers.Key{Kind: "pool", Target: pool}, `{"resourceName":"x"}`, false},
		{drivers.Key{Kind: "pool", Target: pool}, `{"Selectors":[]}`, false},
		{drivers.Key{Kind: "pool", Target: pool}, "null", false},
		{drivers.Key{Kind: "pool", Target: pool}, drivers.Hidden, false},
		{drivers.Key{Kind: "pool", Target: pf}, poolOf(vf), false},
		{drivers.Key{Kind: "pool", Target: "file//etc/passwd#intel.com/sriov"}, poolOf(vf), false},
		{drivers.Key{Kind: "pool", Target: "file//etc/../x.json#intel.com/sriov"}, poolOf(vf), false},
		{drivers.Key{Kind: "rm", Target: pf}, "-rf", false},
		{drivers.Key{Kind: "mtu", Target: "junk"}, drivers.Hidden, false},
	} {
		if err := all.Specs().Legal(tc.key, tc.to); (err == nil) != tc.want {
			t.Errorf("%s to %q: %v, want legal %t", tc.key, tc.to, err, tc.want)
		}
	}
}

var _ host.Host = (*sim.Kernel)(nil)
