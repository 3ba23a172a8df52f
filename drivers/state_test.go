package drivers_test

import (
	"errors"
	"slices"
	"testing"

	"eniagent/drivers"
)

func TestObservationIs(t *testing.T) {
	for _, tc := range []struct {
		o    drivers.Observation
		s    drivers.State
		want bool
		text string
	}{
		{drivers.Seen("1500"), "1500", true, "1500"},
		{drivers.Seen("1500"), "9000", false, "1500"},
		{drivers.Seen(drivers.Hidden), drivers.Hidden, true, "hidden"},
		{drivers.Seen(drivers.Hidden), "", false, "hidden"},
		{drivers.Observation{Presence: drivers.Gone}, "", false, "gone"},
		{drivers.Observation{Presence: drivers.Unobservable}, "", false, "unobservable"},
		{drivers.Observation{Presence: drivers.Unobservable, State: "1500"}, "1500", false, "unobservable"},
		{drivers.Observation{Presence: drivers.Gone, State: "1500"}, "1500", false, "gone"},
		{drivers.Observation{Presence: drivers.Presence(9)}, "", false, "unobservable"},
	} {
		if tc.o.Is(tc.s) != tc.want || tc.o.String() != tc.text {
			t.Errorf("%+v is %q: %t, prints %q, want %t, %q", tc.o, tc.s, tc.o.Is(tc.s), tc.o, tc.want, tc.text)
		}
	}
	if drivers.Present.String() != "present" {
		t.Error(drivers.Present)
	}
}

func TestDifference(t *testing.T) {
	full := drivers.Identity{
		Vendor: "0x8086", Device: "0x10c9", Subsystem: "0x8086:0xa03c", MAC: "52:54:00:00:00:01", ENI: "eni-1",
		Incarnation: 7, Netdev: 3,
	}
	virtual := full
	virtual.PF, virtual.PFIncarnation = "0000:01:00.0", 5
	with := func(base drivers.Identity, change func(*drivers.Identity)) drivers.Identity {
		change(&base)
		return base
	}
	for _, tc := range []struct {
		name string
		a, b drivers.Identity
		want string
	}{
		{"itself", full, full, ""},
		{"nothing known", full, drivers.Identity{}, ""},
		{"vendor", full, with(full, func(i *drivers.Identity) { i.Vendor = "0x1d0f" }), "vendor"},
		{"device", full, with(full, func(i *drivers.Identity) { i.Device = "0x1" }), "device"},
		{"subsystem", full, with(full, func(i *drivers.Identity) { i.Subsystem = "0x1:0x2" }), "subsystem"},
		{"eni", full, with(full, func(i *drivers.Identity) { i.ENI = "eni-2" }), "eni"},
		{"mac", full, with(full, func(i *drivers.Identity) { i.MAC = "52:54:00:00:00:02" }), "mac"},
		{"mac under vfio", full, with(full, func(i *drivers.Identity) { i.MAC = "" }), ""},
		{"mac of a VF", virtual, with(virtual, func(i *drivers.Identity) { i.MAC = "fe:00:00:00:00:02" }), ""},
		{"mac, when one of them is known to be a VF", full, with(virtual, func(i *drivers.Identity) { i.MAC = "fe:00:00:00:00:02" }), ""},
		{"incarnation", full, with(full, func(i *drivers.Identity) { i.Incarnation = 8 }), "incarnation"},
		{"pf", virtual, with(virtual, func(i *drivers.Identity) { i.PF = "0000:02:00.0" }), "pf"},
		{"pf's incarnation", virtual, with(virtual, func(i *drivers.Identity) { i.PFIncarnation = 6 }), "pf_incarnation"},
		{"netdev", full, with(full, func(i *drivers.Identity) { i.Netdev = 9 }), ""},
		{"the first of several", full, with(full, func(i *drivers.Identity) { i.Vendor, i.Incarnation = "0x1", 9 }), "vendor"},
	} {
		if got := tc.a.Difference(tc.b); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		if got := tc.b.Difference(tc.a); got != tc.want {
			t.Errorf("%s, the other way: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestSpec(t *testing.T) {
	s := drivers.Spec{Kind: "x", Legal: func(_ drivers.Target, to drivers.State) error {
		if to == "bad" {
			return drivers.ErrIllegal
		}
		return nil
	}}
	if hops := s.Hops("a", "a"); len(hops) != 0 {
		t.Errorf("from a to a: %q", hops)
	}
	if hops := s.Hops("a", "b"); !slices.Equal(hops, []drivers.State{"b"}) {
		t.Errorf("one hop: %q", hops)
	}
	s.Route = func(from, to drivers.State) []drivers.State { return []drivers.State{from + ">" + to, to} }
	for x, want := range map[drivers.State]bool{"a>b": true, "b>a": true, "c": false} {
		if s.Between("a", "b", x) != want {
			t.Errorf("%q is between: %t, want %t", x, !want, want)
		}
	}
	specs := drivers.Specs{s}
	k := drivers.Key{Kind: "x", Target: "module/a"}
	for _, tc := range []struct {
		key drivers.Key
		to  drivers.State
		ok  bool
	}{
		{k, "good", true},
		{k, "bad", false},
		{drivers.Key{Kind: "y", Target: "module/a"}, "good", false},
		{drivers.Key{Kind: "x", Target: "junk"}, "good", false},
	} {
		if err := specs.Legal(tc.key, tc.to); (err == nil) != tc.ok || err != nil && !errors.Is(err, drivers.ErrIllegal) {
			t.Errorf("%s to %q: %v", tc.key, tc.to, err)
		}
	}
	if _, err := (drivers.Set{}).Driver("x"); !errors.Is(err, drivers.ErrIllegal) {
		t.Errorf("a driver of no kind: %v", err)
	}
}
