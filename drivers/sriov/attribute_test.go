package sriov_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/sriov"
)

const (
	pf  = drivers.Target("0000:01:00.0")
	vf0 = drivers.Target("0000:01:10.0")
	vf1 = drivers.Target("0000:01:10.2")
)

func must(t *testing.T, k *sim.Kernel, calls ...host.Call) {
	t.Helper()
	for _, c := range calls {
		if err := k.Foreign(c); err != nil {
			t.Fatal(err)
		}
	}
}

// silent is a driver that tells nothing of its VFs, or not of these kinds.
type silent struct {
	*sim.Kernel
	of func([]host.VF) ([]host.VF, error)
}

func (s silent) Settings(ctx context.Context, index int, which host.Setting) (host.Settings, error) {
	set, err := s.Kernel.Settings(ctx, index, which)
	if err == nil {
		set.VFs, err = s.of(set.VFs)
	}
	return set, err
}

// TestWhatIsNotTold is nothing that could be set, and says so before it is tried.
func TestWhatIsNotTold(t *testing.T) {
	untold := func(vfs []host.VF) ([]host.VF, error) { vfs[0].Trust, vfs[0].SpoofCheck = "", ""; return vfs, nil }
	none := func([]host.VF) ([]host.VF, error) { return nil, syscall.EOPNOTSUPP }
	for _, tc := range []struct {
		name string
		kind drivers.Kind
		of   func([]host.VF) ([]host.VF, error)
		to   drivers.State
	}{
		{"one attribute", sriov.KindTrust, untold, "on"},
		{"another", sriov.KindSpoofCheck, untold, "off"},
		{"any VF", sriov.KindMAC, none, "52:54:00:00:01:00"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := sriov.NewAttribute(tc.kind)(silent{sim.New(sim.DefaultNode()), tc.of})
			o := d.Observe(t.Context(), vf0)
			if !o.Is("-") {
				t.Errorf("observed %s (%v)", o, o.Err)
			}
			err := d.(drivers.Prechecker).Precheck(t.Context(), vf0, o.State, tc.to)
			if !errors.Is(err, drivers.ErrUnsupported) || !strings.Contains(err.Error(), "its driver igb lets no "+string(tc.kind)+" of a VF be set: take ") {
				t.Errorf("%v, want ErrUnsupported and a remedy", err)
			}
		})
	}
	missing := func(vfs []host.VF) ([]host.VF, error) { return vfs[1:], nil }
	d := sriov.NewAttribute(sriov.KindVLAN)(silent{sim.New(sim.DefaultNode()), missing})
	if o := d.Observe(t.Context(), vf0); o.Presence != drivers.Unobservable || !errors.Is(o.Err, drivers.ErrUnknown) {
		t.Errorf("a VF that is left out: observed %s (%v)", o, o.Err)
	}
	if o := d.Observe(t.Context(), vf1); !o.Is("id=0 qos=0 protocol=802.1Q") {
		t.Errorf("the one after it: observed %s (%v)", o, o.Err)
	}
}

// TestAnswersOfDrivers are told apart: for good, until there is a link, and soon
// over.
func TestAnswersOfDrivers(t *testing.T) {
	up := func(k *sim.Kernel) {
		dev, err := host.NetdevOf(t.Context(), k, string(pf))
		if err != nil {
			t.Fatal(err)
		}
		must(t, k, host.Call{Op: host.OpAdmin, Target: pf, Index: dev.Index, Number: 1})
	}
	fault := func(errno syscall.Errno) func(*sim.Kernel) {
		return func(k *sim.Kernel) {
			if err := k.Inject(sim.Fault{Label: "vf.mac", Errno: errno}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name   string
		kind   drivers.Kind
		to     drivers.State
		with   func(*sim.Kernel)
		is     error
		isNot  error
		remedy string
	}{
		{"a link state", sriov.KindLinkState, "enable", nil, drivers.ErrUnsupported, nil, "take linkState off vfs"},
		{"a protocol", sriov.KindVLAN, "id=5 qos=0 protocol=802.1ad", nil, drivers.ErrUnsupported, nil, "ask for 802.1Q"},
		{"a rate without a link", sriov.KindRate, "min=0 max=5", nil, syscall.EAGAIN, syscall.EINVAL, "takes a rate with a link only"},
		{"a rate that it has not", sriov.KindRate, "min=1 max=5", up, syscall.EINVAL, syscall.EAGAIN, "ask for no minTxRate"},
		{"a reset", sriov.KindMAC, "52:54:00:00:01:00", fault(syscall.EAGAIN), syscall.EAGAIN, nil, "it is tried again"},
		{"another reset", sriov.KindMAC, "52:54:00:00:01:00", fault(syscall.EBUSY), syscall.EBUSY, nil, "it is tried again"},
		{"a value", sriov.KindMAC, "52:54:00:00:01:00", fault(syscall.EINVAL), syscall.EINVAL, nil, "takes no such value"},
		{"no permission", sriov.KindMAC, "52:54:00:00:01:00", fault(syscall.EPERM), syscall.EPERM, nil, "CAP_NET_ADMIN"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := sim.New(sim.DefaultNode())
			if tc.with != nil {
				tc.with(k)
			}
			err := sriov.NewAttribute(tc.kind)(k).Apply(t.Context(), vf0, tc.to)
			var told *drivers.Error
			switch {
			case !errors.As(err, &told) || told.Key != drivers.Key{Kind: tc.kind, Target: vf0}:
				t.Errorf("%v names no key", err)
			case !errors.Is(err, tc.is), tc.isNot != nil && errors.Is(err, tc.isNot):
				t.Errorf("%v, want %v and not %v", err, tc.is, tc.isNot)
			case !strings.Contains(told.Remedy, tc.remedy):
				t.Errorf("remedy %q, want %q", told.Remedy, tc.remedy)
			}
		})
	}
}

// TestADriverIsNotAskedTwice for what it cannot set, until its PF has another
// netdev, or it may have another mode.
func TestADriverIsNotAskedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := sim.New(sim.DefaultNode())
		d := sriov.NewAttribute(sriov.KindVLAN)(k)
		refuses := func(to drivers.State) bool {
			t.Helper()
			o := d.Observe(t.Context(), vf1)
			err := d.(drivers.Prechecker).Precheck(t.Context(), vf1, o.State, to)
			if err != nil && (!errors.Is(err, drivers.ErrUnsupported) || !strings.Contains(err.Error(), "ask for 802.1Q")) {
				t.Errorf("precheck: %v", err)
			}
			return err != nil
		}
		const provider = "id=5 qos=0 protocol=802.1ad"
		if refuses(provider) {
			t.Error("refused before it was tried")
		}
		if err := d.Apply(t.Context(), vf0, provider); !errors.Is(err, drivers.ErrUnsupported) {
			t.Fatal(err)
		}
		if !refuses(provider) || refuses("id=5 qos=0 protocol=802.1Q") {
			t.Error("it is tried again, or more is refused than was")
		}
		time.Sleep(2 * time.Hour)
		if refuses(provider) {
			t.Error("it is never tried again")
		}
		if err := d.Apply(t.Context(), vf0, provider); err == nil || !refuses(provider) {
			t.Errorf("tried again: %v", err)
		}
		address := string(pf)
		must(t, k, host.Call{Op: host.OpSysfs, Path: host.PCIDrivers + "igb/unbind", Value: address},
			host.Call{Op: host.OpSysfs, Path: host.PCIDrivers + "igb/bind", Value: address},
			host.Call{Op: host.OpSysfs, Path: host.Attr(address, "sriov_numvfs"), Value: "2"})
		if refuses(provider) {
			t.Error("what another netdev could not do is refused")
		}
	})
}

// TestAPFWithoutANetdev hides what its driver would keep, and has nobody to ask.
func TestAPFWithoutANetdev(t *testing.T) {
	d := sriov.NewAttribute(sriov.KindTrust)(nameless{sim.New(sim.DefaultNode())})
	if o := d.Observe(t.Context(), vf0); o.Presence != drivers.Concealed {
		t.Errorf("observed %s (%v), want it hidden", o, o.Err)
	}
	if err := d.Apply(t.Context(), vf0, "on"); !errors.Is(err, drivers.ErrHidden) {
		t.Errorf("%v, want ErrHidden", err)
	}
}

// nameless is a kernel in which the PF's netdev is in another namespace.
type nameless struct{ *sim.Kernel }

func (n nameless) List(ctx context.Context, path string) ([]string, error) {
	if path == host.Attr(string(pf), "net") {
		return nil, nil
	}
	return n.Kernel.List(ctx, path)
}

// TestWhatIsNoVF has none of these kinds.
func TestWhatIsNoVF(t *testing.T) {
	d := sriov.NewAttribute(sriov.KindTrust)(sim.New(sim.DefaultNode()))
	if o := d.Observe(t.Context(), pf); o.Presence != drivers.Unobservable || !errors.Is(o.Err, drivers.ErrUnsupported) {
		t.Errorf("of a PF: observed %s (%v)", o, o.Err)
	}
	if err := d.Apply(t.Context(), pf, "on"); !errors.Is(err, drivers.ErrUnsupported) {
		t.Errorf("of a PF: %v, want ErrUnsupported", err)
	}
}

// TestWhatCutsAVF is what the management path is guarded from.
func TestWhatCutsAVF(t *testing.T) {
	cuts := map[drivers.Kind][][2]drivers.State{
		sriov.KindMAC:       {{"a", "b"}},
		sriov.KindVLAN:      {{"a", "b"}},
		sriov.KindLinkState: {{"auto", "disable"}, {"enable", "disable"}, {"enable", "auto"}},
	}
	spares := map[drivers.Kind][][2]drivers.State{
		sriov.KindMAC:       {{"a", "a"}, {drivers.Hidden, "a"}},
		sriov.KindVLAN:      {{"a", "a"}, {drivers.Hidden, "a"}},
		sriov.KindLinkState: {{"disable", "auto"}, {"auto", "enable"}, {"disable", "enable"}, {drivers.Hidden, "disable"}},
	}
	for _, s := range sriov.AttributeSpecs() {
		if (s.Cuts != nil) != (cuts[s.Kind] != nil) {
			t.Errorf("%s: cuts %t", s.Kind, s.Cuts != nil)
		}
		for _, c := range cuts[s.Kind] {
			if !s.Cuts(c[0], c[1]) {
				t.Errorf("%s from %s to %s cuts nothing", s.Kind, c[0], c[1])
			}
		}
		for _, c := range spares[s.Kind] {
			if s.Cuts(c[0], c[1]) {
				t.Errorf("%s from %s to %s cuts", s.Kind, c[0], c[1])
			}
		}
	}
}

// TestPartsOfPorts: what is asked of some of it leaves the rest.
func TestPartsOfPorts(t *testing.T) {
	for _, tc := range []struct{ at, want drivers.State }{
		{"id=7 qos=3 protocol=802.1ad", "id=100 qos=3 protocol=802.1ad"},
		{"", "id=100 qos=0 protocol=802.1Q"},
		{drivers.Hidden, "id=100 qos=0 protocol=802.1Q"},
	} {
		if got, err := sriov.WithVLAN(tc.at, func(v *host.VLAN) { v.ID = 100 }); got != tc.want || err != nil {
			t.Errorf("%q with VLAN 100 is %q, want %q", tc.at, got, tc.want)
		}
	}
	if got, err := sriov.WithVLAN("id=7 qos=0 protocol=802.1ad", func(v *host.VLAN) { v.ID = 0 }); got != "id=0 qos=0 protocol=802.1Q" || err != nil {
		t.Errorf("no VLAN is %q", got)
	}
	for at, want := range map[drivers.State]drivers.State{"min=5 max=10": "min=5 max=100", "": "min=0 max=100"} {
		if got, err := sriov.WithRate(at, func(r *host.Rate) { r.Max = 100 }); got != want || err != nil {
			t.Errorf("%q with at most 100 is %q, want %q", at, got, want)
		}
	}
}
