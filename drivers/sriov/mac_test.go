package sriov_test

import (
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/sriov"
)

// TestAVFsOwnMACIsNoneOfItsPF: the MAC that a VF's driver makes up is told by the
// physical function and is no administrative one; one that was set is, whatever
// the VF is bound to.
func TestAVFsOwnMACIsNoneOfItsPF(t *testing.T) {
	const mac = drivers.State("52:54:00:00:01:00")
	k := sim.New(sim.DefaultNode())
	dev, err := host.NetdevOf(t.Context(), k, string(pf))
	if err != nil {
		t.Fatal(err)
	}
	must(t, k, host.Call{Op: host.OpAdmin, Target: pf, Index: dev.Index, Number: 1})
	d := sriov.NewAttribute(sriov.KindMAC)(k)
	told := func() string {
		s, err := k.Settings(t.Context(), dev.Index, host.SettingVFs)
		if err != nil {
			t.Fatal(err)
		}
		return s.VFs[0].MAC
	}
	wants := func(when string, want drivers.State) {
		t.Helper()
		if o := d.Observe(t.Context(), vf0); !o.Is(want) {
			t.Errorf("%s: observed %s (%v), want %s; its PF tells %s", when, o, o.Err, want, told())
		}
	}
	bind := func(driver string) {
		t.Helper()
		if driver == "vfio-pci" {
			must(t, k, host.Call{Op: host.OpSysfs, Target: vf0, Path: host.Attr(string(vf0), "driver_override"), Value: driver + "\n"})
		}
		if err := dpdk.NewDriver(k).Apply(t.Context(), vf0, dpdk.Binding{Driver: driver, Override: map[bool]string{true: driver}[driver == "vfio-pci"]}.State()); err != nil {
			t.Fatal(err)
		}
	}
	rebind := func() {
		t.Helper()
		if err := dpdk.NewDriver(k).Apply(t.Context(), vf0, "driver=- override=-"); err != nil {
			t.Fatal(err)
		}
		bind("igbvf")
	}
	rebind()
	if told() == host.NoMAC {
		t.Fatal("the VF told its PF nothing")
	}
	wants("made up", host.NoMAC)
	if err := d.Apply(t.Context(), vf0, mac); err != nil {
		t.Fatal(err)
	}
	rebind()
	wants("set", mac)
	if err := d.Apply(t.Context(), vf0, host.NoMAC); err != nil {
		t.Fatal(err)
	}
	rebind()
	wants("taken away", host.NoMAC)
	if told() == host.NoMAC || told() == string(mac) {
		t.Errorf("its PF tells %s of a VF that has made one up", told())
	}
}

// TestAMACThatANetdevDoesNotHave is told with what it has instead, as long as a
// probe would make it the same: a PF that is down answers no VF.
func TestAMACThatANetdevDoesNotHave(t *testing.T) {
	const mac = "52:54:00:00:01:00"
	k := sim.New(sim.DefaultNode())
	dev, err := host.NetdevOf(t.Context(), k, string(pf))
	if err != nil {
		t.Fatal(err)
	}
	d := sriov.NewAttribute(sriov.KindMAC)(k)
	up := func(on int) { must(t, k, host.Call{Op: host.OpAdmin, Target: pf, Index: dev.Index, Number: on}) }
	link, err := host.NetdevOf(t.Context(), k, string(vf0))
	if err != nil {
		t.Fatal(err)
	}
	own, err := link.Attr(t.Context(), k, "address")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Apply(t.Context(), vf0, mac); err != nil {
		t.Fatalf("with a PF that is down: %v", err)
	}
	spec := sriov.AttributeSpecs()[0]
	for _, tc := range []struct {
		when string
		up   int
		want drivers.State
	}{{"its PF is down", 0, mac}, {"its PF is up", 1, drivers.State(mac + " netdev=" + own)}} {
		up(tc.up)
		o := d.Observe(t.Context(), vf0)
		if !o.Is(tc.want) {
			t.Errorf("%s: observed %s (%v), want %s", tc.when, o, o.Err, tc.want)
		}
		if got := spec.Settled(o.State); got != mac {
			t.Errorf("%s: it is settled at %s, want %s", tc.when, got, mac)
		}
		if err := spec.Legal(vf0, o.State); (err == nil) != (tc.want == mac) {
			t.Errorf("%s: %s may be asked for: %v", tc.when, o, err)
		}
	}
}
