package sriov_test

import (
	"errors"
	"strings"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/sriov"
)

// latePF tells the addresses of its VFs while it has some.
const latePF = drivers.Target("0000:03:00.0")

// TestAddressesAreToldLate: what the function does not define yet is said to be
// unknown, and never computed from zeros.
func TestAddressesAreToldLate(t *testing.T) {
	k := sim.New(sim.DefaultNode())
	for n, want := range map[int]error{0: nil, 1: sriov.ErrUntold, 2: sriov.ErrUntold, 7: sriov.ErrUntold, 8: drivers.ErrRefused} {
		if all, err := sriov.Addresses(t.Context(), k, latePF, n); !errors.Is(err, want) || len(all) > 0 {
			t.Errorf("of none, %d: %v (%v), want %v", n, all, err, want)
		}
	}
	must(t, k, numVFs(latePF, "1"))
	if all, err := sriov.Addresses(t.Context(), k, latePF, 1); err != nil || len(all) != 1 || all[0] != "0000:03:10.0" {
		t.Errorf("the one there is: %v (%v)", all, err)
	}
	// First VF Offset is defined now, VF Stride is not.
	if all, err := sriov.Addresses(t.Context(), k, latePF, 3); !errors.Is(err, sriov.ErrUntold) {
		t.Errorf("of one, 3: %v (%v)", all, err)
	}
	must(t, k, numVFs(latePF, "0"), numVFs(latePF, "2"))
	if all, err := sriov.Addresses(t.Context(), k, latePF, 3); err != nil || len(all) != 3 || all[2] != "0000:03:10.4" {
		t.Errorf("of two, 3: %v (%v)", all, err)
	}
}

func numVFs(pf drivers.Target, n string) host.Call {
	return host.Call{Op: host.OpSysfs, Target: pf, Path: host.Attr(string(pf), "sriov_numvfs"), Value: n}
}

// TestVFsByTheirNumber: a goal that names no addresses is reached, is met by what
// is seen then, and is left again.
func TestVFsByTheirNumber(t *testing.T) {
	const goal drivers.State = "autoprobe=0 count=2"
	k, spec := sim.New(sim.DefaultNode()), sriov.NumVFsSpec()
	d := sriov.NewNumVFs(k)
	before := d.Observe(t.Context(), latePF)
	if err := d.(drivers.Prechecker).Precheck(t.Context(), latePF, before.State, goal); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds it done
		if err := d.Apply(t.Context(), latePF, goal); err != nil {
			t.Fatal(err)
		}
	}
	o := d.Observe(t.Context(), latePF)
	if !o.Is("autoprobe=0 vfs=0000:03:10.0,0000:03:10.2") || !spec.Met(goal, o.State) || len(spec.Hops(o.State, goal)) > 0 {
		t.Errorf("it is %s: met %t, still to do %q", o, spec.Met(goal, o.State), spec.Hops(o.State, goal))
	}
	for _, other := range []drivers.State{"autoprobe=1 vfs=0000:03:10.0,0000:03:10.2", "autoprobe=0 vfs=0000:03:10.0", "autoprobe=0 vfs=-", "junk", ""} {
		if spec.Met(goal, other) || spec.Met(other, goal) {
			t.Errorf("%q meets %q, or the other way", other, goal)
		}
	}
	if err := d.Apply(t.Context(), latePF, before.State); err != nil {
		t.Fatal(err)
	}
	if now := d.Observe(t.Context(), latePF); !now.Is(before.State) {
		t.Errorf("back it is %s, want %s", now, before)
	}
	err := d.(drivers.Prechecker).Precheck(t.Context(), latePF, before.State, "autoprobe=0 count=8")
	if !errors.Is(err, drivers.ErrRefused) || !strings.Contains(err.Error(), "makes no more than 7") {
		t.Errorf("more than it makes: %v", err)
	}
	for _, junk := range []drivers.State{"autoprobe=0 count=0", "autoprobe=0 count=-", "autoprobe=0 count=257", "autoprobe=0 count=02", "autoprobe=0 count=", "autoprobe=0 vf=2", "autoprobe=0"} {
		if v, err := sriov.Parse(junk); err == nil {
			t.Errorf("%q is %+v", junk, v)
		}
	}
}
