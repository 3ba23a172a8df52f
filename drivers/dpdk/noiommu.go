package dpdk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// KindNoIOMMU is vfio's unsafe mode, in which a program can reach all of the
// host's memory by DMA. It taints the kernel, and is never switched on but by
// explicit option.
const KindNoIOMMU drivers.Kind = "noiommu"

// The states of KindNoIOMMU.
const (
	NoIOMMUOn  drivers.State = "on"
	NoIOMMUOff drivers.State = "off"
)

const noiommuFile = host.SysModule + "vfio/parameters/enable_unsafe_noiommu_mode"

// NoIOMMUTarget is the one target the kind has.
const NoIOMMUTarget drivers.Target = "param/vfio/enable_unsafe_noiommu_mode"

// NoIOMMUSpec is the kind noiommu on any machine.
func NoIOMMUSpec() drivers.Spec {
	return drivers.Spec{Kind: KindNoIOMMU, Class: drivers.Volatile, Legal: legalNoIOMMU}
}

func legalNoIOMMU(t drivers.Target, to drivers.State) error {
	if t != NoIOMMUTarget || to != NoIOMMUOn && to != NoIOMMUOff {
		return fmt.Errorf("%s=%q of noiommu: %w", t, to, drivers.ErrIllegal)
	}
	return nil
}

// NewNoIOMMU is the kind noiommu on this machine.
func NewNoIOMMU(h host.Host) drivers.Driver { return noiommu{h} }

type noiommu struct{ host host.Host }

// Observe reads the parameter; Gone while vfio is not loaded or was built
// without CONFIG_VFIO_NOIOMMU.
func (n noiommu) Observe(ctx context.Context, t drivers.Target) drivers.Observation {
	if t != NoIOMMUTarget {
		return drivers.Observation{Presence: drivers.Unobservable, Err: fmt.Errorf("target %q of noiommu: %w", t, drivers.ErrIllegal)}
	}
	v, err := n.host.Read(ctx, noiommuFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return drivers.Observation{Presence: drivers.Gone}
	case err != nil:
		return drivers.Observation{Presence: drivers.Unobservable, Err: fmt.Errorf("read noiommu mode: %w", err)}
	case v == "Y":
		return drivers.Seen(NoIOMMUOn)
	}
	return drivers.Seen(NoIOMMUOff)
}

// Apply writes the parameter and reads it back.
func (n noiommu) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	if err := legalNoIOMMU(t, to); err != nil {
		return err
	}
	if n.Observe(ctx, t).Is(to) {
		return nil
	}
	value := map[drivers.State]string{NoIOMMUOn: "Y", NoIOMMUOff: "N"}[to]
	fault := func(do string, err error, remedy string) error {
		return &drivers.Error{Key: drivers.Key{Kind: KindNoIOMMU, Target: t}, Do: do, Err: err, Remedy: remedy}
	}
	err := n.host.Do(ctx, host.Call{Op: host.OpSysfs, Target: t, Path: noiommuFile, Value: value})
	if err != nil {
		return fault("write "+value, err, "the kernel needs CONFIG_VFIO_NOIOMMU and vfio loaded")
	}
	if got := n.Observe(ctx, t); !got.Is(to) {
		return fault("read back", fmt.Errorf("want %q, found %q: %w", to, got, drivers.ErrUnverified), "")
	}
	return nil
}
