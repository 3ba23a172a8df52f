package sriov

import (
	"context"
	"fmt"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// Addresses are those that a function's first n VFs have, or will have: their
// routing ids follow from the function's, an offset and a stride (PCI Express
// Base Specification, SR-IOV; pci_iov_virtfn_bus of drivers/pci/iov.c). More
// than the function makes is drivers.ErrRefused.
func Addresses(ctx context.Context, r host.Reader, pf drivers.Target, n int) ([]drivers.Target, error) {
	total, err := number(ctx, r, pf, "sriov_totalvfs")
	switch {
	case err != nil:
		return nil, err
	case n > total:
		return nil, fmt.Errorf("%w: %d VFs are asked for and %s makes no more than %d: ask for fewer, or raise it in the device's firmware",
			drivers.ErrRefused, n, pf, total)
	}
	offset, err := number(ctx, r, pf, "sriov_offset")
	if err != nil {
		return nil, err
	}
	stride, err := number(ctx, r, pf, "sriov_stride")
	if err != nil {
		return nil, err
	}
	all := make([]drivers.Target, n)
	for i := range all {
		if all[i], err = host.AfterFunction(pf, offset+i*stride); err != nil {
			return nil, fmt.Errorf("VF %d of %s: %w", i, pf, err)
		}
	}
	return all, nil
}
