package sriov

import (
	"context"
	"errors"
	"fmt"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// ErrUntold is returned while a function does not tell what addresses its VFs
// would have: First VF Offset is defined with one VF at least, VF Stride with two
// (PCI Express Base Specification, 9.3.3.9 and 9.3.3.10).
var ErrUntold = errors.New("the addresses of its VFs are known once they are made")

// Addresses are those that a function's n VFs have, or will have: their routing
// ids follow from the function's, an offset and a stride (PCI Express Base
// Specification, SR-IOV; pci_iov_virtfn_bus of drivers/pci/iov.c). More than the
// function makes is drivers.ErrRefused, and what it does not tell now ErrUntold.
func Addresses(ctx context.Context, r host.Reader, pf drivers.Target, n int) ([]drivers.Target, error) {
	total, err := number(ctx, r, pf, "sriov_totalvfs")
	switch {
	case err != nil:
		return nil, err
	case n > total:
		return nil, fmt.Errorf("%w: %d VFs are asked for and %s makes no more than %d: ask for fewer, or raise it in the device's firmware",
			drivers.ErrRefused, n, pf, total)
	}
	if now, err := host.VFsOf(ctx, r, string(pf)); err != nil || len(now) == n {
		return now, err
	}
	offset, err := number(ctx, r, pf, "sriov_offset")
	if err != nil {
		return nil, err
	}
	stride, err := number(ctx, r, pf, "sriov_stride")
	if err != nil {
		return nil, err
	}
	if n > 0 && offset == 0 || n > 1 && stride == 0 {
		return nil, fmt.Errorf("%s: %w", pf, ErrUntold)
	}
	all := make([]drivers.Target, n)
	for i := range all {
		if all[i], err = host.AfterFunction(pf, offset+i*stride); err != nil {
			return nil, fmt.Errorf("VF %d of %s: %w", i, pf, err)
		}
	}
	return all, nil
}
