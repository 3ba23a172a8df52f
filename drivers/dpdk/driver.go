package dpdk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// KindDriver is the driver and the override of a PCI function, as one State.
const KindDriver drivers.Kind = "driver"

// DriverSpec is the kind driver on any machine.
func DriverSpec() drivers.Spec {
	return drivers.Spec{
		Kind: KindDriver, Class: drivers.Volatile, Fresh: Binding{}.State(),
		// A VF's driver reads what its physical function keeps for it.
		After: []drivers.Kind{"numvfs", "vf.mac", "vf.vlan", "vf.trust", "vf.spoofchk", "vf.state"},
		// A VF's driver that was given no MAC makes one up, and tells it to the
		// physical function (igbvf_probe, iavf_process_config).
		Moves: []drivers.Kind{"vf.mac"},
		Hides: hides, Renew: driverless, Taken: taken, Cuts: cuts, Legal: legal, Route: route,
	}
}

// NewDriver is the kind driver on this machine.
func NewDriver(h host.Host) drivers.Driver { return binder{h} }

type binder struct{ host host.Host }

// Observe reads the driver link and the override.
func (d binder) Observe(ctx context.Context, t drivers.Target) drivers.Observation {
	b, err := d.read(ctx, string(t))
	switch {
	case errors.Is(err, drivers.ErrGone):
		return drivers.Observation{Presence: drivers.Gone}
	case err != nil:
		return drivers.Observation{Presence: drivers.Unobservable, Err: err}
	}
	return drivers.Seen(b.State())
}

func (d binder) read(ctx context.Context, address string) (Binding, error) {
	driver, err := host.DriverOf(ctx, d.host, address)
	if err != nil {
		return Binding{}, err
	}
	override, err := d.host.Read(ctx, host.Attr(address, "driver_override"))
	if errors.Is(err, fs.ErrNotExist) {
		return Binding{}, fmt.Errorf("%s: %w", address, drivers.ErrGone)
	}
	if err != nil {
		return Binding{}, fmt.Errorf("read driver_override of %s: %w", address, err)
	}
	if override == "(null)" {
		override = ""
	} else if override == "" {
		// Set to the empty string, which no driver matches: a lone NUL byte was
		// stored so before Linux 6.0.
		override = "\x00"
	}
	return Binding{Driver: driver, Override: override}, nil
}

// Apply goes the route hop by hop and reads each one back: a write that
// succeeded says little (drivers_probe succeeds when nothing bound).
func (d binder) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	if err := legal(t, to); err != nil {
		return err
	}
	at, err := d.read(ctx, string(t))
	if err != nil {
		return d.fault(t, "read driver", err, "")
	}
	for _, hop := range route(at.State(), to) {
		if err := d.hop(ctx, t, hop); err != nil {
			return err
		}
	}
	return nil
}

func (d binder) hop(ctx context.Context, t drivers.Target, to drivers.State) error {
	address := string(t)
	at, err := d.read(ctx, address)
	if err != nil {
		return d.fault(t, "read driver", err, "")
	}
	if at.State() == to {
		return nil // another hand was here first
	}
	goal, err := Parse(to)
	if err != nil {
		return err
	}
	call := next(t, at, goal)
	if at.Override == goal.Override && at.Driver != "" {
		// Asked again here: a revert has no precheck, and VFs are made at any time.
		if err := d.sparesVFs(ctx, t, call.Label()); err != nil {
			return err
		}
	}
	if err := d.host.Do(ctx, call); err != nil {
		return d.fault(t, call.Label(), err, remedy(err, goal))
	}
	at, err = d.read(ctx, address)
	if err != nil {
		return d.fault(t, "read back", err, "")
	}
	if at.State() != to {
		return d.fault(t, "read back", fmt.Errorf("want %q, found %q: %w", to, at.State(), drivers.ErrUnverified), "")
	}
	return nil
}

// next is the one write that leads from at to goal, its neighbour on a route.
func next(t drivers.Target, at, goal Binding) host.Call {
	address := string(t)
	call := host.Call{Op: host.OpSysfs, Target: t, Value: address}
	switch {
	case at.Override != goal.Override:
		// A newline clears on every kernel. A NUL byte or an empty write does not.
		call.Path, call.Value = host.Attr(address, "driver_override"), goal.Override+"\n"
	case at.Driver != "":
		call.Path = host.PCIDrivers + at.Driver + "/unbind"
	default:
		call.Path = host.PCIDrivers + goal.Driver + "/bind"
	}
	return call
}

func (d binder) fault(t drivers.Target, do string, err error, remedy string) error {
	return &drivers.Error{Key: drivers.Key{Kind: KindDriver, Target: t}, Do: do, Err: err, Remedy: remedy}
}

// remedy says what a person can do about an errno of a bind.
func remedy(err error, goal Binding) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("driver %s is not registered: is its module installed for this kernel and loaded?", goal.Driver)
	case errors.Is(err, syscall.EINVAL) && goal.Driver == "vfio-pci":
		return "vfio-pci wants an IOMMU group: switch the IOMMU on in the firmware and on the kernel's command line, or see --allow-noiommu"
	case errors.Is(err, syscall.ENODEV):
		return fmt.Sprintf("driver %s does not take this function", goal.Driver)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EPERM):
		return "the agent needs root and a writable /sys"
	}
	return ""
}

// Precheck is PrecheckWith nothing else.
func (d binder) Precheck(ctx context.Context, t drivers.Target, from, to drivers.State) error {
	return d.PrecheckWith(ctx, t, from, to, func(drivers.Kind) (drivers.State, bool) { return "", false })
}

// PrecheckWith refuses what is known to fail, or to destroy, before anything is
// unbound. What it cannot read it does not take for harmless. That the function
// has VFs is no matter where they go, or are made anew, in the same operation.
func (d binder) PrecheckWith(ctx context.Context, t drivers.Target, from, to drivers.State, with func(drivers.Kind) (drivers.State, bool)) error {
	goal, err := Parse(to)
	if err != nil {
		return err
	}
	if goal.Driver == foreignDriver(from) {
		return nil
	}
	notReady := func(why, remedy string) error {
		return d.fault(t, "precheck", fmt.Errorf("%w, %w: %s", drivers.ErrRefused, drivers.ErrNotReady, why), remedy)
	}
	_, remade := with("numvfs")
	switch err := d.sparesVFs(ctx, t, "precheck"); {
	case err != nil && !remade:
		return err
	case goal.Driver == "":
		return nil
	}
	_, err = d.host.Inode(ctx, host.PCIDrivers+goal.Driver)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return notReady("driver "+goal.Driver+" is not registered", "is its module installed for this kernel?")
	case err != nil:
		return d.fault(t, "precheck", fmt.Errorf("look for driver %s: %w", goal.Driver, err), "")
	}
	if goal.Driver == "vfio-pci" && !d.hasIOMMU(ctx, t) {
		return notReady("vfio-pci needs an IOMMU group and the function has none",
			"switch the IOMMU on in the firmware and on the kernel's command line, or see --allow-noiommu")
	}
	return nil
}

// sparesVFs refuses to take its driver from a physical function that has
// virtual ones.
func (d binder) sparesVFs(ctx context.Context, t drivers.Target, do string) error {
	n, err := d.host.Read(ctx, host.Attr(string(t), "sriov_numvfs"))
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return d.fault(t, do, fmt.Errorf("count its VFs: %w", err), "")
	case err == nil && n != "0" && n != "":
		return d.fault(t, do, fmt.Errorf("%w: it is a physical function with %s VFs, which a rebind would destroy", drivers.ErrRefused, n), "remove the VFs first")
	}
	return nil
}

func (d binder) hasIOMMU(ctx context.Context, t drivers.Target) bool {
	if _, err := d.host.Readlink(ctx, host.Attr(string(t), "iommu_group")); err == nil {
		return true
	}
	v, err := d.host.Read(ctx, noiommuFile)
	return err == nil && v == "Y"
}
