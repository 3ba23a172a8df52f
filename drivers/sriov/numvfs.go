package sriov

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// KindNumVFs is the virtual functions of a physical one.
const KindNumVFs drivers.Kind = "numvfs"

// NumVFsSpec is the kind numvfs on any machine.
func NumVFsSpec() drivers.Spec {
	return drivers.Spec{
		Kind: KindNumVFs, Class: drivers.Volatile, WhenAsked: true, Makes: made, Meets: meets, Cuts: cuts, Legal: legal, Route: route,
		// Drivers give queues of the physical function to the virtual ones, and set up
		// what is left anew (igb_sriov_reinit of igb_main.c, ixgbe_sriov_reinit).
		Moves: []drivers.Kind{"channels", "rings", "features", "mtu", "admin"},
	}
}

// NewNumVFs is the kind numvfs on this machine.
func NewNumVFs(h host.Host) drivers.Driver { return maker{h} }

type maker struct{ host host.Host }

// Observe reads the switch and the links to the VFs; Unobservable where the
// function makes none.
func (m maker) Observe(ctx context.Context, t drivers.Target) drivers.Observation {
	v, err := m.read(ctx, t)
	switch {
	case errors.Is(err, drivers.ErrGone):
		return drivers.Observation{Presence: drivers.Gone}
	case err != nil:
		return drivers.Observation{Presence: drivers.Unobservable, Err: err}
	}
	return drivers.Seen(v.State())
}

func (m maker) read(ctx context.Context, t drivers.Target) (VFs, error) {
	address, ok := t.PCIAddress()
	if !ok {
		return VFs{}, fmt.Errorf("%q: %w", t, drivers.ErrIllegal)
	}
	if _, err := m.host.Inode(ctx, host.PCIDevices+address); errors.Is(err, fs.ErrNotExist) {
		return VFs{}, fmt.Errorf("%s: %w", t, drivers.ErrGone)
	}
	probe, err := m.host.Read(ctx, host.Attr(address, "sriov_drivers_autoprobe"))
	if errors.Is(err, fs.ErrNotExist) {
		return VFs{}, fmt.Errorf("%s has no SR-IOV capability: %w", t, drivers.ErrUnsupported)
	}
	if err != nil {
		return VFs{}, fmt.Errorf("read sriov_drivers_autoprobe of %s: %w", t, err)
	}
	all, err := host.VFsOf(ctx, m.host, address)
	return VFs{Autoprobe: probe != "0", Addresses: all}, err
}

// Apply goes the route hop by hop and reads each one back: the kernel reports
// success for fewer VFs than were asked for.
func (m maker) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	if err := legal(t, to); err != nil {
		return err
	}
	at, err := m.read(ctx, t)
	if err != nil {
		return m.fault(t, "read VFs", err, "")
	}
	for _, hop := range route(at.State(), to) {
		if err := m.hop(ctx, t, hop); err != nil {
			return err
		}
	}
	return nil
}

func (m maker) hop(ctx context.Context, t drivers.Target, to drivers.State) error {
	at, err := m.read(ctx, t)
	if err != nil {
		return m.fault(t, "read VFs", err, "")
	}
	if meets(to, at.State()) {
		return nil // another hand was here first
	}
	goal, err := Parse(to)
	if err != nil {
		return err
	}
	call := host.Call{Op: host.OpSysfs, Target: t, Path: host.Attr(string(t), "sriov_numvfs"), Value: strconv.Itoa(goal.number())}
	if goal.same(at) {
		call.Path, call.Value = host.Attr(string(t), "sriov_drivers_autoprobe"), strconv.Itoa(flag(goal.Autoprobe))
	}
	if err := m.host.Do(ctx, call); err != nil {
		return m.fault(t, call.Label(), err, remedy(err))
	}
	if at, err = m.read(ctx, t); err != nil {
		return m.fault(t, "read back", err, "")
	}
	if meets(to, at.State()) {
		return nil
	}
	if n, want := at.number(), goal.number(); n != want {
		return m.fault(t, "read back", fmt.Errorf("%d VFs were asked for and %d are there: %w", want, n, drivers.ErrUnverified),
			"the device or its driver makes no more: ask for fewer, and see the kernel's log")
	}
	return m.fault(t, "read back", fmt.Errorf("want %q, found %q: %w", to, at.State(), drivers.ErrUnverified), "")
}

func (m maker) fault(t drivers.Target, do string, err error, remedy string) error {
	return &drivers.Error{Key: drivers.Key{Kind: KindNumVFs, Target: t}, Do: do, Err: err, Remedy: remedy}
}

// remedy says what a person can do about an errno of sriov_numvfs
// (drivers/pci/pci-sysfs.c, drivers/pci/iov.c, and the functions' drivers).
func remedy(err error) string {
	switch {
	case errors.Is(err, syscall.ERANGE):
		return "ask for no more than sriov_totalvfs, or raise it in the device's firmware"
	case errors.Is(err, fs.ErrNotExist):
		return "the function needs a driver that can make VFs: bind its kernel driver first"
	case errors.Is(err, syscall.EBUSY):
		return "another program changes the VFs at the same time"
	case errors.Is(err, syscall.EAGAIN):
		return "the function's driver is busy with a reset: it is tried again"
	case errors.Is(err, syscall.ENOMEM):
		return "the firmware left too little room for the VFs' memory or bus numbers: switch SR-IOV on there, or boot with pci=realloc"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EPERM):
		return "the agent needs root and a writable /sys"
	}
	return ""
}

// Precheck is PrecheckWith nothing else.
func (m maker) Precheck(ctx context.Context, t drivers.Target, from, to drivers.State) error {
	return m.PrecheckWith(ctx, t, from, to, func(drivers.Kind) (drivers.State, bool) { return "", false })
}

// PrecheckWith refuses a number that the function cannot make, addresses that
// its VFs will not have, and a driver that makes none.
func (m maker) PrecheckWith(ctx context.Context, t drivers.Target, from, to drivers.State, with func(drivers.Kind) (drivers.State, bool)) error {
	goal, err := Parse(to)
	if err != nil || goal.number() == 0 || !cuts(from, to) {
		return err
	}
	refused := func(remedy, why string, args ...any) error {
		return m.fault(t, "precheck", fmt.Errorf("%w: %s", drivers.ErrRefused, fmt.Sprintf(why, args...)), remedy)
	}
	driver, err := host.DriverOf(ctx, m.host, string(t))
	state, rebound := with("driver")
	if rebound { // before the VFs are made
		driver = driverIn(state)
	}
	switch {
	case err != nil:
		return m.fault(t, "precheck", err, "")
	case driver == "vfio-pci":
		return refused("ask for its kernel driver, or for driver: pci-pf-stub where it has none", "it is on vfio-pci, whose VFs (module parameter enable_sriov) only programs can use that share a token with the one that has their PF")
	case !drivers.MakesVFs(driver):
		return refused("bind its kernel driver first", "it is on %q, which makes no VFs", orNone(driver))
	}
	will, err := Addresses(ctx, m.host, t, goal.number())
	switch {
	case errors.Is(err, ErrUntold), err == nil && goal.Count > 0:
	case err != nil:
		return m.fault(t, "precheck", err, "")
	case !slices.Equal(will, goal.Addresses):
		return refused("", "its VFs will be %v, not %v", will, goal.Addresses)
	}
	return nil
}

// driverIn is the driver in a state of the kind driver, "driver=igb override=-".
func driverIn(s drivers.State) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(string(s), "driver="), " ")
	return strings.TrimPrefix(name, "-")
}

func number(ctx context.Context, r host.Reader, t drivers.Target, name string) (int, error) {
	text, err := r.Read(ctx, host.Attr(string(t), name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%s has no %s: %w", t, name, drivers.ErrUnsupported)
	}
	if err != nil {
		return 0, fmt.Errorf("read %s of %s: %w", name, t, err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("read %s of %s: %w", name, t, err)
	}
	return n, nil
}
