package sriov

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"eniagent/drivers"
)

// maxVFs bounds a state: of a single function no device makes more.
const maxVFs = 256

// VFs is the State of the kind numvfs, taken apart: the addresses of the VFs,
// by their index, and whether the kernel probes VFs that have no override.
type VFs struct {
	Autoprobe bool
	Addresses []drivers.Target
	// Count is how many VFs are asked for whose addresses nobody knows yet; 0 where
	// these are known. A State with it is a goal, and never observed.
	Count int
}

// State is "autoprobe=1 vfs=0000:01:10.0,0000:01:10.2", with "-" for none, and
// "autoprobe=0 count=2" where the addresses are not known yet.
func (v VFs) State() drivers.State {
	if v.Count > 0 {
		return drivers.State(fmt.Sprintf("autoprobe=%d count=%d", flag(v.Autoprobe), v.Count))
	}
	list := make([]string, len(v.Addresses))
	for i, a := range v.Addresses {
		list[i] = string(a)
	}
	return drivers.State(fmt.Sprintf("autoprobe=%d vfs=%s", flag(v.Autoprobe), orNone(strings.Join(list, ","))))
}

// number is how many VFs there are.
func (v VFs) number() int { return max(v.Count, len(v.Addresses)) }

// same says whether these are the same VFs, as far as their addresses are known.
func (v VFs) same(o VFs) bool {
	if v.Count > 0 || o.Count > 0 {
		return v.number() == o.number()
	}
	return slices.Equal(v.Addresses, o.Addresses)
}

// meets says whether a state that was seen is what a goal asks for.
func meets(goal, seen drivers.State) bool {
	if goal == seen {
		return true
	}
	want, err := Parse(goal)
	is, serr := Parse(seen)
	return err == nil && serr == nil && want.Count > 0 && want.Autoprobe == is.Autoprobe && want.same(is)
}

func flag(on bool) int {
	if on {
		return 1
	}
	return 0
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Parse reads a State.
func Parse(s drivers.State) (VFs, error) {
	wrong := func(why string) (VFs, error) {
		return VFs{}, fmt.Errorf("%q is not a state of numvfs: %s", s, why)
	}
	switches, rest, _ := strings.Cut(string(s), " ")
	what, list, ok := strings.Cut(rest, "=")
	if !ok || switches != "autoprobe=0" && switches != "autoprobe=1" || list == "" || what != "vfs" && what != "count" {
		return wrong("want autoprobe=0|1 vfs=ADDRESS,...|-, or count=NUMBER")
	}
	v := VFs{Autoprobe: switches == "autoprobe=1"}
	switch {
	case what == "count":
		n, err := strconv.Atoi(list)
		if err != nil || n < 1 || n > maxVFs || strconv.Itoa(n) != list {
			return wrong("want a count from 1 to 256")
		}
		v.Count = n
		return v, nil
	case list == "-":
		return v, nil
	}
	for _, a := range strings.Split(list, ",") {
		t, err := drivers.PCI(a)
		if err != nil || string(t) != a || slices.Contains(v.Addresses, t) || len(v.Addresses) == maxVFs {
			return wrong("want at most 256 addresses, each once")
		}
		v.Addresses = append(v.Addresses, t)
	}
	return v, nil
}

// made is what there is by a state, which may come from a disk.
func made(s drivers.State) []drivers.Target {
	v, err := Parse(s)
	if err != nil {
		return nil
	}
	return v.Addresses
}

// route leads over no VFs at all, and makes them with autoprobe off; what it
// finally is to be is written last, before anything is bound.
func route(from, to drivers.State) []drivers.State {
	goal, err := Parse(to)
	if err != nil {
		return nil
	}
	at, err := Parse(from)
	if err != nil {
		return nil // it was not read from a host, and cannot be left
	}
	var hops []drivers.State
	hop := func(next VFs) {
		if !meets(next.State(), at.State()) {
			at = next
			hops = append(hops, at.State())
		}
	}
	if !at.same(goal) {
		hop(VFs{Autoprobe: at.Autoprobe})
		if goal.number() > 0 {
			hop(VFs{})
			hop(VFs{Addresses: goal.Addresses, Count: goal.Count})
		}
	}
	hop(goal)
	return hops
}

func cuts(from, to drivers.State) bool {
	at, err := Parse(from)
	goal, gerr := Parse(to)
	return err == nil && gerr == nil && !at.same(goal)
}

func legal(t drivers.Target, to drivers.State) error {
	if _, ok := t.PCIAddress(); !ok {
		return fmt.Errorf("target %q of numvfs: %w", t, drivers.ErrIllegal)
	}
	v, err := Parse(to)
	if err != nil {
		return fmt.Errorf("%w: %w", drivers.ErrIllegal, err)
	}
	if slices.Contains(v.Addresses, t) {
		return fmt.Errorf("%w: %s is a VF of its own in %q", drivers.ErrIllegal, t, to)
	}
	return nil
}
