package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"eniagent/drivers"
)

// VFsOf are the virtual functions of a physical one, by their index. That an
// index is missing, as while the kernel makes or removes them, is
// drivers.ErrUnknown.
func VFsOf(ctx context.Context, r Reader, address string) ([]drivers.Target, error) {
	names, err := r.List(ctx, PCIDevices+address)
	if err != nil {
		return nil, fmt.Errorf("list VFs of %s: %w", address, err)
	}
	byIndex := map[int]drivers.Target{}
	for _, name := range names {
		number, ok := strings.CutPrefix(name, "virtfn")
		i, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue
		}
		link, err := r.Readlink(ctx, Attr(address, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went between the two reads
		}
		if err != nil {
			return nil, fmt.Errorf("read VF of %s: %w", address, err)
		}
		byIndex[i] = drivers.Target(path.Base(link))
	}
	all := make([]drivers.Target, len(byIndex))
	for i := range all {
		t, ok := byIndex[i]
		if !ok {
			return nil, fmt.Errorf("%s has %d VFs and none with index %d: %w", address, len(byIndex), i, drivers.ErrUnknown)
		}
		all[i] = t
	}
	return all, nil
}

// AfterFunction is the function whose routing id is so much higher.
func AfterFunction(t drivers.Target, offset int) (drivers.Target, error) {
	var domain, bus, device, function int
	if _, err := fmt.Sscanf(string(t), "%x:%x:%x.%x", &domain, &bus, &device, &function); err != nil {
		return "", fmt.Errorf("%q is not a PCI address: %w", t, err)
	}
	id := bus<<8 | device<<3 | function
	if id += offset; id < 0 || id > 0xffff {
		return "", fmt.Errorf("%s and %d is no routing id: %w", t, offset, drivers.ErrIllegal)
	}
	return drivers.PCI(fmt.Sprintf("%04x:%02x:%02x.%x", domain, id>>8, id>>3&0x1f, id&7))
}

// MakerOf is the physical function that is there and makes a VF at an address
// where there is none now.
func MakerOf(ctx context.Context, r Reader, t drivers.Target) (drivers.Target, bool, error) {
	if _, ok := t.PCIAddress(); !ok {
		return "", false, nil
	}
	names, err := r.List(ctx, strings.TrimSuffix(PCIDevices, "/"))
	if err != nil {
		return "", false, fmt.Errorf("list PCI functions: %w", err)
	}
	domain, _, _ := strings.Cut(string(t), ":")
	for _, pf := range names {
		if !strings.HasPrefix(pf, domain+":") || pf >= string(t) {
			continue // a VF comes after its PF
		}
		made, err := makes(ctx, r, pf, t)
		if made || err != nil {
			return drivers.Target(pf), made, err
		}
	}
	return "", false, nil
}

func makes(ctx context.Context, r Reader, pf string, t drivers.Target) (bool, error) {
	var n [3]int
	for i, name := range []string{"sriov_totalvfs", "sriov_offset", "sriov_stride"} {
		text, err := r.Read(ctx, Attr(pf, name))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read %s of %s: %w", name, pf, err)
		}
		if n[i], err = strconv.Atoi(text); err != nil {
			return false, fmt.Errorf("read %s of %s: %w", name, pf, err)
		}
	}
	for i := range n[0] {
		if at, err := AfterFunction(drivers.Target(pf), n[1]+i*n[2]); err == nil && at == t {
			return true, nil
		}
	}
	return false, nil
}
