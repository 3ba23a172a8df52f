package module

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// Kind is whether a module is loaded.
const Kind drivers.Kind = "module"

// The states.
const (
	Loaded drivers.State = "loaded" // live, or built into the kernel
	Absent drivers.State = "absent"
)

// Spec is the kind on any machine.
func Spec() drivers.Spec {
	return drivers.Spec{Kind: Kind, Class: drivers.Volatile, Legal: legal}
}

func legal(t drivers.Target, to drivers.State) error {
	if _, ok := t.ModuleName(); !ok || to != Loaded && to != Absent {
		return fmt.Errorf("%s=%q of module: %w", t, to, drivers.ErrIllegal)
	}
	return nil
}

// New is the kind on this machine.
func New(h host.Host) drivers.Driver { return loader{h} }

type loader struct{ host host.Host }

// Observe reads /sys/module. A module on its way in or out is Unobservable:
// the task that loads it may yet fail.
func (l loader) Observe(ctx context.Context, t drivers.Target) drivers.Observation {
	name, ok := t.ModuleName()
	if !ok {
		return drivers.Observation{Presence: drivers.Unobservable, Err: fmt.Errorf("%q: %w", t, drivers.ErrIllegal)}
	}
	state, err := l.host.Read(ctx, host.SysModule+name+"/initstate")
	switch {
	case err == nil && state == "live":
		return drivers.Seen(Loaded)
	case err == nil:
		return drivers.Observation{Presence: drivers.Unobservable, Err: fmt.Errorf("module %s is %s", name, state)}
	case !errors.Is(err, fs.ErrNotExist):
		return drivers.Observation{Presence: drivers.Unobservable, Err: fmt.Errorf("read state of module %s: %w", name, err)}
	}
	// Built-in modules have no initstate, and a directory only with parameters.
	_, err = l.host.Inode(ctx, host.SysModule+name)
	switch {
	case err == nil:
		return drivers.Seen(Loaded)
	case !errors.Is(err, fs.ErrNotExist):
		return drivers.Observation{Presence: drivers.Unobservable, Err: fmt.Errorf("look for module %s: %w", name, err)}
	}
	index, err := readIndex(ctx, l.host)
	switch {
	case err == nil && index.builtin[name]:
		return drivers.Seen(Loaded)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return drivers.Observation{Presence: drivers.Unobservable, Err: err}
	}
	return drivers.Seen(Absent)
}

// Apply loads or unloads the one module. Unloading never waits for its users.
func (l loader) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	if err := legal(t, to); err != nil {
		return err
	}
	if l.Observe(ctx, t).Is(to) {
		return nil
	}
	name, _ := t.ModuleName()
	call := host.Call{Op: host.OpUnload, Target: t, Value: name}
	if to == Absent {
		if err := l.unused(ctx, name); err != nil {
			return l.fault(t, call.Label(), err, "it stays loaded until they have another driver")
		}
	}
	if to == Loaded {
		index, err := readIndex(ctx, l.host)
		if err != nil {
			return l.fault(t, "load", err, "are the modules of the running kernel installed?")
		}
		file, ok := index.file[name]
		if !ok {
			return l.fault(t, "load", fmt.Errorf("no module file: %w", drivers.ErrUnsupported), "install it for the running kernel")
		}
		call = host.Call{Op: host.OpLoad, Target: t, Path: file, Value: index.config.optionsOf(name)}
	}
	err := l.host.Do(ctx, call)
	// EEXIST is that somebody else loaded it first, or that something of its
	// own clashes with what is there: reading back tells.
	if err != nil && (to == Absent || !errors.Is(err, syscall.EEXIST)) {
		return l.fault(t, call.Label(), err, remedy(call.Op, err))
	}
	if got := l.Observe(ctx, t); !got.Is(to) {
		return l.fault(t, "read back", fmt.Errorf("want %q, found %q: %w", to, got, drivers.ErrUnverified), "")
	}
	return nil
}

// unused says whether the module's drivers have no device. The kernel would
// take the driver from each: a bound device is no use of a module.
func (l loader) unused(ctx context.Context, name string) error {
	links, err := l.host.List(ctx, host.SysModule+name+"/drivers")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list its drivers: %w", err)
	}
	for _, link := range links {
		bus, driver, _ := strings.Cut(link, ":")
		entries, err := l.host.List(ctx, "/sys/bus/"+bus+"/drivers/"+driver)
		if err != nil {
			return fmt.Errorf("list the devices of driver %s: %w", driver, err)
		}
		for _, e := range entries {
			if !slices.Contains([]string{"bind", "unbind", "module", "uevent", "new_id", "remove_id"}, e) {
				return fmt.Errorf("%w: its driver %s has device %s", drivers.ErrRefused, driver, e)
			}
		}
	}
	return nil
}

func (l loader) fault(t drivers.Target, do string, err error, remedy string) error {
	return &drivers.Error{Key: drivers.Key{Kind: Kind, Target: t}, Do: do, Err: err, Remedy: remedy}
}

func remedy(op host.Op, err error) string {
	if op == host.OpUnload {
		return unloadRemedy(err)
	}
	switch {
	case errors.Is(err, syscall.EPERM):
		return "loading modules wants CAP_SYS_MODULE and kernel.modules_disabled=0, and no module_blacklist on the kernel's command line"
	case errors.Is(err, syscall.EKEYREJECTED), errors.Is(err, syscall.EBADMSG):
		return "the kernel wants signed modules (lockdown or Secure Boot) and this one is not"
	case errors.Is(err, syscall.ENOENT):
		return "a symbol is missing: a module it depends on is not loaded"
	case errors.Is(err, syscall.EINVAL):
		return "the module does not take a parameter that modprobe.d or the kernel's command line gives it: see the kernel's log"
	case errors.Is(err, syscall.ENOEXEC):
		return "the module was built for another kernel"
	}
	return ""
}

func unloadRemedy(err error) string {
	switch {
	case errors.Is(err, syscall.EPERM):
		return "unloading modules wants CAP_SYS_MODULE and kernel.modules_disabled=0"
	case errors.Is(err, syscall.ENOENT):
		return "it is built into the kernel, or was unloaded meanwhile"
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, syscall.EBUSY):
		return "it is in use: lsmod names the modules that need it"
	}
	return ""
}
