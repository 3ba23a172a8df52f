package link

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

func observe(t *testing.T, d drivers.Driver, target drivers.Target) drivers.State {
	t.Helper()
	o := d.Observe(t.Context(), target)
	if o.Presence > drivers.Concealed {
		t.Fatalf("observed %s (%v)", o, o.Err)
	}
	return o.State
}

func TestSettingsPrecheck(t *testing.T) {
	odd := func(c *sim.Config) { // a NIC with channels for each way
		set := *sim.IGB()
		set.Channels, set.MaxChannels, set.MaxWithVFs = host.Channels{RX: 2, TX: 2}, host.Channels{RX: 4, TX: 2}, 0
		netOf(c).Set = &set
	}
	bare := func(c *sim.Config) { netOf(c).Set = nil }
	for _, tc := range []struct {
		name   string
		node   func(*sim.Config)
		make   func(host.Host) drivers.Driver
		target drivers.Target
		to     func(at drivers.State) drivers.State
		is     error
		says   string
	}{
		{"channels", nil, NewChannels, other, is("rx=0 tx=0 combined=8"), nil, ""},
		{"channels above the maximum", nil, NewChannels, other, is("rx=0 tx=0 combined=9"), drivers.ErrRefused, "enp2s0 has at most 8 combined channels, not 9 (ask for at most 8)"},
		{"channels of a PF with VFs", nil, NewChannels, pf, is("rx=0 tx=0 combined=3"), drivers.ErrRefused, "at most 2"},
		{"separate channels that are combined", nil, NewChannels, other, is("rx=1 tx=1 combined=0"), drivers.ErrRefused, "at most 0 rx channels"},
		{"separate channels", odd, NewChannels, other, is("rx=4 tx=1 combined=0"), nil, ""},
		{"too many to send by", odd, NewChannels, other, is("rx=4 tx=3 combined=0"), drivers.ErrRefused, "at most 2 tx channels"},
		{"no channels", nil, NewChannels, other, is("rx=0 tx=0 combined=0"), drivers.ErrRefused, "at least one"},
		{"channels that a driver lacks", nil, NewChannels, vf, is("rx=0 tx=0 combined=1"), drivers.ErrUnsupported, "take channels off its entry"},
		{"rings", nil, NewRings, vf, is("rx=4096 mini=0 jumbo=0 tx=64"), nil, ""},
		{"rings above the maximum", nil, NewRings, other, is("rx=256 mini=0 jumbo=0 tx=4097"), drivers.ErrRefused, "at most 4096 descriptors in the tx ring"},
		{"a ring that there is not", nil, NewRings, other, is("rx=256 mini=1 jumbo=0 tx=256"), drivers.ErrRefused, "at most 0 descriptors in the rx mini ring"},
		{"rings that a driver lacks", bare, NewRings, other, is("rx=256 mini=0 jumbo=0 tx=256"), drivers.ErrUnsupported, "take rings off"},
		{"a feature", nil, NewFeatures, other, with("rx-gro"), nil, ""},
		{"a fixed feature", nil, NewFeatures, other, with("highdma"), drivers.ErrRefused, "highdma of enp2s0 is fixed: it is always on (take it off features)"},
		{"a feature that is none", nil, NewFeatures, other, with("tx-magic"), drivers.ErrUnsupported, "no feature tx-magic"},
		{"a name", nil, NewAltNames, other, is("[lan0]"), nil, ""},
		{"another's name", nil, NewAltNames, other, is("[ens5 lan0]"), drivers.ErrRefused, "ens5 has the name ens5"},
		{"another's alternative name", nil, NewAltNames, other, is("[enp0s5]"), drivers.ErrRefused, "ens5 has the name enp0s5 (ask for another name"},
		{"its own first name", nil, NewAltNames, other, is("[enp2s0]"), drivers.ErrRefused, "is the name of the interface already"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := node(t, tc.node)
			writes := k.Writes()
			d := tc.make(k)
			at := observe(t, d, tc.target)
			err := d.(drivers.Prechecker).Precheck(t.Context(), tc.target, at, tc.to(at))
			if !errors.Is(err, tc.is) || tc.is == nil && err != nil || tc.is != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %v that says %q", err, tc.is, tc.says)
			}
			if k.Writes() != writes {
				t.Error("a precheck wrote")
			}
		})
	}
}

func is(to drivers.State) func(drivers.State) drivers.State {
	return func(drivers.State) drivers.State { return to }
}

func with(feature string) func(drivers.State) drivers.State {
	return func(at drivers.State) drivers.State { return wanting(at, map[string]bool{feature: false}) }
}

// wanting is WithFeatures of a state that is one.
func wanting(at drivers.State, asked map[string]bool) drivers.State {
	s, err := WithFeatures(at, asked)
	if err != nil {
		panic(err)
	}
	return s
}

// TestUdevNamesFirst: what udev is about to name is held until it has.
func TestUdevNamesFirst(t *testing.T) {
	k := node(t, func(c *sim.Config) { c.Files["/run/udev/control"] = "" })
	p := NewAltNames(k).(drivers.Prechecker)
	if err := p.Precheck(t.Context(), other, "[]", "[lan0]"); !errors.Is(err, drivers.ErrHeld) || !errors.Is(err, drivers.ErrRefused) {
		t.Errorf("%v, want ErrHeld", err)
	}
	k = node(t, func(c *sim.Config) { c.Files["/run/udev/control"], c.Files["/run/udev/data/n4"] = "", "I:1" })
	if err := NewAltNames(k).(drivers.Prechecker).Precheck(t.Context(), other, "[]", "[lan0]"); err != nil {
		t.Errorf("once it has: %v", err)
	}
}

// quick is a kernel on which udev makes each write just before.
type quick struct{ *sim.Kernel }

func (q quick) Do(ctx context.Context, c host.Call) error {
	if err := q.Foreign(c); err != nil {
		return err
	}
	return q.Kernel.Do(ctx, c)
}

// TestUdevIsQuicker: a name that is there already, or gone, is as it should be.
func TestUdevIsQuicker(t *testing.T) {
	k := node(t, nil)
	d := NewAltNames(quick{k})
	for _, to := range []drivers.State{"[lan0 lan1]", "[lan1]", "[]"} {
		if err := d.Apply(t.Context(), other, to); err != nil {
			t.Errorf("apply %s: %v", to, err)
		}
	}
	// Nobody was quicker: another netdev has it.
	if err := NewAltNames(k).Apply(t.Context(), other, "[enp0s5]"); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("a name that is taken: %v, want EEXIST", err)
	}
}

// TestARoundedRing is reported as such, for good, and explained.
func TestARoundedRing(t *testing.T) {
	k := node(t, nil)
	d := NewRings(k)
	was, to := observe(t, d, other), drivers.State("rx=1001 mini=0 jumbo=0 tx=256")
	err := d.Apply(t.Context(), other, to)
	if !errors.Is(err, drivers.ErrUnverified) || !errors.Is(err, drivers.ErrUnsupported) || !strings.Contains(err.Error(), "found rx=1008") {
		t.Errorf("%v, want that it was rounded", err)
	}
	if now := observe(t, d, other); !RingsSpec().Between(was, to, now) {
		t.Errorf("%s is not explained", now)
	}
	for _, foreign := range []drivers.State{"rx=4096 mini=0 jumbo=0 tx=256", "rx=1001 mini=0 jumbo=0 tx=512", "rx=128 mini=0 jumbo=0 tx=256", "junk", none} {
		if RingsSpec().Between(was, to, foreign) {
			t.Errorf("%s is taken for rounded", foreign)
		}
	}
}

// TestAWishIsNotBelieved: a feature that is wanted and not active is no success.
func TestAWishIsNotBelieved(t *testing.T) {
	k := node(t, nil)
	d := NewFeatures(k)
	all := observe(t, d, other)
	off := wanting(all, map[string]bool{"tx-checksum-ip-generic": false, "tx-tcp-segmentation": false})
	if err := d.Apply(t.Context(), other, off); err != nil {
		t.Fatal(err)
	}
	err := d.Apply(t.Context(), other, wanting(off, map[string]bool{"tx-tcp-segmentation": true}))
	if !errors.Is(err, drivers.ErrUnverified) || !errors.Is(err, drivers.ErrUnsupported) || !strings.Contains(err.Error(), "tx-tcp-segmentation is wanted true") {
		t.Errorf("segmentation without checksums: %v", err)
	}
	if err := d.Apply(t.Context(), other, all); err != nil {
		t.Errorf("with what it needs: %v", err)
	}
}

// TestRoutesGoBackTheWayTheyCame: what a revert leaves, half-way back from
// anywhere, is on the way there.
func TestRoutesGoBackTheWayTheyCame(t *testing.T) {
	for _, tc := range []struct {
		spec          drivers.Spec
		before, after drivers.State
		hops          int
	}{
		{AltNamesSpec(), "[a b]", "[c d e]", 5},
		{AltNamesSpec(), "[]", "[c d e]", 3},
		{AltNamesSpec(), `["a b" c]`, "[c]", 1},
		{FeaturesSpec(), "a=on b=off tx-checksum-x=off z=on", "a=off b=on tx-checksum-x=on z=off", 4},
		{FeaturesSpec(), "a=on b=on", "a=off b=on", 1},
	} {
		there := tc.spec.Hops(tc.before, tc.after)
		if len(there) != tc.hops || there[len(there)-1] != tc.after {
			t.Errorf("%s to %s goes by %q, want %d hops", tc.before, tc.after, there, tc.hops)
		}
		for _, from := range there {
			for _, x := range tc.spec.Hops(from, tc.before) {
				if x != tc.before && !slices.Contains(there, x) {
					t.Errorf("back from %s: %s is not on the way from %s to %s", from, x, tc.before, tc.after)
				}
			}
		}
	}
}

// TestSettingsHiddenAndRemade: on vfio-pci there is nothing to observe, and the
// netdev comes back with what its driver gives it.
func TestSettingsHiddenAndRemade(t *testing.T) {
	k := node(t, nil)
	changed := map[drivers.State]drivers.Driver{
		"rx=0 tx=0 combined=1": NewChannels(k), "rx=512 mini=0 jumbo=0 tx=512": NewRings(k), "[lan0]": NewAltNames(k),
	}
	fresh := map[drivers.State]drivers.State{}
	for to, d := range changed {
		fresh[to] = observe(t, d, other)
		if err := d.Apply(t.Context(), other, to); err != nil {
			t.Fatal(err)
		}
	}
	rebind := func(driver string) {
		if err := dpdk.NewDriver(k).Apply(t.Context(), other, dpdk.Bound(driver)); err != nil {
			t.Fatal(err)
		}
	}
	rebind("vfio-pci")
	for to, d := range changed {
		if got := observe(t, d, other); got != drivers.Hidden {
			t.Errorf("observed %s, want hidden", got)
		}
		if err := d.Apply(t.Context(), other, to); !errors.Is(err, drivers.ErrHidden) {
			t.Errorf("apply %s: %v, want ErrHidden", to, err)
		}
		if err := d.(drivers.Prechecker).Precheck(t.Context(), other, drivers.Hidden, to); err != nil {
			t.Errorf("precheck of %s while hidden: %v", to, err)
		}
	}
	rebind("igb")
	for to, d := range changed {
		if got := observe(t, d, other); got != fresh[to] {
			t.Errorf("came back as %s, want %s", got, fresh[to])
		}
	}
}

// TestWhatCutsALink is what the management path is guarded from.
func TestWhatCutsALink(t *testing.T) {
	for _, spec := range []drivers.Spec{ChannelsSpec(), RingsSpec(), FeaturesSpec()} {
		if !spec.Cuts("a", "b") || spec.Cuts(drivers.Hidden, "b") || spec.Cuts("a", "a") {
			t.Errorf("%s: a change of a netdev that is there, and that alone, cuts", spec.Kind)
		}
	}
	if AltNamesSpec().Cuts != nil {
		t.Error("a name cuts nothing")
	}
}
