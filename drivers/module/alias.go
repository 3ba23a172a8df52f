package module

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// ByAlias names the kernel drivers that would take a function if nothing said
// otherwise: those whose module has an alias for its modalias, in modules.alias
// or, built in, in modules.builtin.modinfo. Userspace drivers are not among
// them, whose aliases have another prefix.
func ByAlias(ctx context.Context, r host.Reader, t drivers.Target) ([]string, error) {
	modalias, err := modaliasOf(ctx, r, t)
	if err != nil {
		return nil, err
	}
	return byModalias(ctx, r, modalias)
}

func modaliasOf(ctx context.Context, r host.Reader, t drivers.Target) (string, error) {
	address, ok := t.PCIAddress()
	if !ok {
		return "", fmt.Errorf("%q: %w", t, drivers.ErrIllegal)
	}
	modalias, err := r.Read(ctx, host.Attr(address, "modalias"))
	if err != nil {
		return "", fmt.Errorf("read modalias of %s: %w", t, err)
	}
	return modalias, nil
}

var deviceOf = regexp.MustCompile(`d0000[0-9A-F]{4}sv`)

// ByVF names the kernel drivers that would take the virtual functions of a
// physical one, which may not be there yet: they differ from it in the device
// ID, which its capability tells (sriov_vf_device).
func ByVF(ctx context.Context, r host.Reader, pf drivers.Target) ([]string, error) {
	modalias, err := modaliasOfVF(ctx, r, pf)
	if err != nil {
		return nil, err
	}
	return byModalias(ctx, r, modalias)
}

func modaliasOfVF(ctx context.Context, r host.Reader, pf drivers.Target) (string, error) {
	modalias, err := modaliasOf(ctx, r, pf)
	if err != nil {
		return "", err
	}
	device, err := r.Read(ctx, host.Attr(string(pf), "sriov_vf_device"))
	if err != nil {
		return "", fmt.Errorf("read the device ID of the VFs of %s: %w", pf, err)
	}
	device = strings.ToUpper(strings.TrimPrefix(device, "0x"))
	return deviceOf.ReplaceAllString(modalias, "d0000"+device+"sv"), nil
}

// matches are all aliases for PCI functions that the running kernel's modules
// have, loadable and built in.
func matches(ctx context.Context, r host.Reader) ([]match, error) {
	release, err := host.KernelRelease(ctx, r)
	if err != nil {
		return nil, err
	}
	dir := "/lib/modules/" + release + "/"
	text, err := optional(ctx, r, dir+"modules.alias")
	if err != nil {
		return nil, err
	}
	builtin, err := optional(ctx, r, dir+"modules.builtin.modinfo")
	if err != nil {
		return nil, err
	}
	return append(aliases(text), builtinAliases(builtin)...), nil
}

func byModalias(ctx context.Context, r host.Reader, modalias string) ([]string, error) {
	all, err := matches(ctx, r)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range all {
		// A pattern that is malformed matches nothing.
		if hit, err := path.Match(m.pattern, modalias); err != nil || !hit {
			continue
		}
		name, err := driverOf(ctx, r, m.module)
		if err != nil {
			return nil, err
		}
		if !drivers.Bare(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Support is what is known of a driver and a function.
type Support int

// What may be known.
const (
	Unknown  Support = iota // nobody says what the driver takes
	Takes                   // its table has the function, or it takes any
	Declines                // its table does not have the function
)

// Supports says whether a driver takes a function, by the driver's table as its
// module tells it in its aliases (pci_match_device of drivers/pci/pci-driver.c
// goes by that table). vf says that t is the physical function of the one that is
// meant, which is not there yet. A driver of no module with such aliases is
// Unknown: what a built-in one takes is told since Linux 5.2
// (modules.builtin.modinfo), and what was added through new_id never is.
func Supports(ctx context.Context, r host.Reader, t drivers.Target, vf bool, driver string) (Support, error) {
	if drivers.Bare(driver) {
		return Takes, nil
	}
	read := modaliasOf
	if vf {
		read = modaliasOfVF
	}
	modalias, err := read(ctx, r, t)
	if err != nil {
		return Unknown, err
	}
	all, err := matches(ctx, r)
	if err != nil {
		return Unknown, err
	}
	own := canonical(driver)
	link, err := r.Readlink(ctx, host.PCIDrivers+driver+"/module")
	if err == nil {
		own = canonical(path.Base(link))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Unknown, fmt.Errorf("read the module of driver %s: %w", driver, err)
	}
	support := Unknown
	for _, m := range all {
		if canonical(m.module) != own {
			continue
		}
		if hit, err := path.Match(m.pattern, modalias); err == nil && hit {
			return Takes, nil
		}
		support = Declines
	}
	return support, nil
}

// match is one alias of a module.
type match struct{ pattern, module string }

// aliases reads lines such as "alias pci:v00008086d000010C9sv*sd*bc*sc*i* igb".
func aliases(text string) (all []match) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 3 && words[0] == "alias" && strings.HasPrefix(words[1], "pci:") {
			all = append(all, match{words[1], words[2]})
		}
	}
	return all
}

// builtinAliases reads records such as "virtio_pci.alias=pci:v00001AF4d*sv*sd*bc*sc*i*",
// which end in a NUL (Documentation/kbuild/kbuild.rst).
func builtinAliases(text string) (all []match) {
	for record := range strings.SplitSeq(text, "\x00") {
		name, pattern, ok := strings.Cut(record, ".alias=")
		if ok && strings.HasPrefix(pattern, "pci:") {
			all = append(all, match{pattern, name})
		}
	}
	return all
}

// driverOf is the name under which a module registers its PCI driver. Loaded,
// the kernel tells; else it is the module's, with either of the two characters.
func driverOf(ctx context.Context, r host.Reader, module string) (string, error) {
	name := canonical(module)
	links, err := r.List(ctx, host.SysModule+name+"/drivers")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read drivers of module %s: %w", name, err)
	}
	for _, l := range links {
		if driver, ok := strings.CutPrefix(l, "pci:"); ok {
			return driver, nil
		}
	}
	for _, driver := range []string{name, strings.ReplaceAll(name, "_", "-")} {
		if _, err := r.Inode(ctx, host.PCIDrivers+driver); err == nil {
			return driver, nil
		}
	}
	return name, nil
}
