package sriov

import (
	"context"
	"fmt"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// Addresses are those that a function's first n VFs have, or will have: their
// routing ids follow from the function's, an offset and a stride (PCI Express
// Base Specification, SR-IOV; pci_iov_virtfn_bus of drivers/pci/iov.c).
func Addresses(ctx context.Context, r host.Reader, pf drivers.Target, n int) ([]drivers.Target, error) {
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
