package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/module"
)

// supported says whether the driver that is asked for takes the function. One
// that does not would leave it without any: the kernel says so only once it has
// lost the driver that it had.
func (v View) supported(ctx context.Context, r *request) bool {
	driver, of, vf := r.asked.Driver, r.target, v.absentVF(ctx, r)
	if vf {
		of = r.pf
	} else if now, err := host.DriverOf(ctx, v.Host, string(r.target)); err == nil && now == driver {
		return true // it has it: by an identifier that was added, for one
	}
	support, err := module.Supports(ctx, v.Host, of, vf, driver)
	switch {
	case err != nil:
		r.unread = true
		r.cannot(Pending, fmt.Errorf("look whether driver %s takes %s: %w", driver, r.target, err))
		return false
	case support == module.Declines:
		r.cannot(Refused, fmt.Errorf("%w: driver %s does not support %s (%s): its module names no such device; ask for %s", drivers.ErrRefused, driver, r.target, v.ids(ctx, of, vf), v.others(ctx, of, vf)))
		return false
	case support == module.Unknown && !v.lacks(ctx, host.PCIDrivers+driver):
		r.note("whether driver " + driver + " takes it is not known: its module says nothing of devices")
	}
	return true
}

// ids are the vendor and device of a function, "8086:10c9".
func (v View) ids(ctx context.Context, t drivers.Target, vf bool) string {
	name := "device"
	if vf {
		name = "sriov_vf_device"
	}
	vendor, err := v.Host.Read(ctx, host.Attr(string(t), "vendor"))
	device, derr := v.Host.Read(ctx, host.Attr(string(t), name))
	if err != nil || derr != nil {
		return "its device is not known"
	}
	return trimHex(vendor) + ":" + trimHex(device)
}

// others names the drivers that would take a function.
func (v View) others(ctx context.Context, t drivers.Target, vf bool) string {
	find := module.ByAlias
	if vf {
		find = module.ByVF
	}
	names, err := find(ctx, v.Host, t)
	if err != nil || len(names) == 0 {
		return "vfio-pci, or one that supports it"
	}
	return names[0] + ", or for vfio-pci"
}

// note is something that a person may want to know although the entry can be
// acted on.
func (r *request) note(text string) { r.notes = append(r.notes, text) }

// planNotes are what a plan says besides the steps.
func (r *request) planNotes() []string {
	notes := slices.Clone(r.notes)
	if r.untold > 0 {
		notes = append(notes, "what is asked of its VFs is planned once they are made: their addresses are not known before")
	}
	return notes
}

func trimHex(id string) string { return strings.TrimPrefix(strings.TrimSpace(id), "0x") }

// remark notes what modprobe would do for the modules that are still to be
// loaded and the agent does not; false where one of them may not be loaded.
func (v View) remark(ctx context.Context, r *request, modules []drivers.Target) bool {
	missing := slices.DeleteFunc(slices.Clone(modules), func(t drivers.Target) bool {
		return v.observer().Observe(ctx, drivers.Key{Kind: module.Kind, Target: t}).Is(module.Loaded)
	})
	remarks, err := module.Remarks(ctx, v.Host, missing)
	if err != nil {
		r.cannot(conditionOf(err), err)
		return false
	}
	for _, text := range remarks {
		r.note(text)
	}
	return true
}
