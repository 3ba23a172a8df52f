package sriov

import (
	"fmt"
	"slices"
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
}

// State is "autoprobe=1 vfs=0000:01:10.0,0000:01:10.2", with "-" for none.
func (v VFs) State() drivers.State {
	list := make([]string, len(v.Addresses))
	for i, a := range v.Addresses {
		list[i] = string(a)
	}
	return drivers.State(fmt.Sprintf("autoprobe=%d vfs=%s", flag(v.Autoprobe), orNone(strings.Join(list, ","))))
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
	switches, list, ok := strings.Cut(string(s), " vfs=")
	if !ok || switches != "autoprobe=0" && switches != "autoprobe=1" || list == "" {
		return wrong("want autoprobe=0|1 vfs=ADDRESS,...|-")
	}
	v := VFs{Autoprobe: switches == "autoprobe=1"}
	if list == "-" {
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
		if next.State() != at.State() {
			at = next
			hops = append(hops, at.State())
		}
	}
	if !slices.Equal(at.Addresses, goal.Addresses) {
		hop(VFs{Autoprobe: at.Autoprobe})
		if len(goal.Addresses) > 0 {
			hop(VFs{})
			hop(VFs{Addresses: goal.Addresses})
		}
	}
	hop(goal)
	return hops
}

func cuts(from, to drivers.State) bool {
	return !slices.Equal(made(from), made(to))
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
