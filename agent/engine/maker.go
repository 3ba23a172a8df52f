package engine

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strconv"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// Made says which function makes a target, from what a journal has of this boot;
// false where it has nothing of it. Some functions tell the addresses of their
// VFs only while these exist (sriov.ErrUntold), and what an operation is about
// must be known when they do not.
func Made(specs drivers.Specs, r *journal.Records, bootID string) func(drivers.Target) (drivers.Target, bool) {
	return func(t drivers.Target) (drivers.Target, bool) {
		for _, op := range slices.Concat(r.Operations(), r.Quarantined(), r.History(0)) {
			if op.BootID != bootID {
				continue
			}
			if maker, _, ok := specs.Maker(t, op.States()); ok {
				return maker.Target, true
			}
		}
		return "", false
	}
}

// maker is the function that is there and makes a target that is not.
func (o Observer) maker(ctx context.Context, t drivers.Target) (drivers.Target, bool, error) {
	pf, made, err := host.MakerOf(ctx, o.Host, t)
	if err != nil || made || o.Made == nil {
		return pf, made, err
	}
	if _, pci := t.PCIAddress(); !pci {
		return "", false, nil
	}
	if pf, made = o.Made(t); !made {
		return "", false, nil
	}
	// What the function tells itself counts.
	for _, name := range []string{"sriov_offset", "sriov_stride"} {
		text, err := o.Host.Read(ctx, host.Attr(string(pf), name))
		if errors.Is(err, fs.ErrNotExist) {
			return "", false, nil
		}
		if err != nil {
			return "", false, err
		}
		if n, err := strconv.Atoi(text); err == nil && n == 0 {
			return pf, true, nil
		}
	}
	return "", false, nil
}
