//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
)

// The disk that PlugDisk plugs, as QEMU and the guest call it.
const (
	plugged = "plugged"
	// PluggedDisk is the block device of the disk that is plugged.
	PluggedDisk = "/dev/vdb"
)

// PlugDisk plugs a disk with the image given into a free port, and waits until the guest sees it. One at a time.
func (v *VM) PlugDisk(ctx context.Context, port int, image string) error {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	m, err := v.machine()
	if err != nil {
		return fmt.Errorf("plug a disk: %w", err)
	}
	if err := m.qmp.do(ctx, "blockdev-add", map[string]any{
		"driver": "raw", "node-name": plugged, "file": map[string]any{"driver": "file", "filename": image},
	}); err != nil {
		return fmt.Errorf("plug a disk: %w", err)
	}
	if err := m.qmp.do(ctx, "device_add", map[string]any{
		"driver": "virtio-blk-pci", "id": plugged + "-disk", "drive": plugged, "bus": portID(port),
	}); err != nil {
		undo := m.qmp.do(ctx, "blockdev-del", map[string]any{"node-name": plugged})
		return fmt.Errorf("plug a disk: %w", errors.Join(err, undo))
	}
	if _, err := v.WaitExists(ctx, PluggedDisk); err != nil {
		return v.explain("plug a disk", err)
	}
	return nil
}

// UnplugDisk takes it away again; nothing of it may be mounted.
func (v *VM) UnplugDisk(ctx context.Context) error {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	m, err := v.machine()
	if err != nil {
		return fmt.Errorf("unplug the disk: %w", err)
	}
	if err := m.qmp.remove(ctx, plugged+"-disk"); err != nil {
		return v.explain("unplug the disk", err)
	}
	if err := m.qmp.do(ctx, "blockdev-del", map[string]any{"node-name": plugged}); err != nil {
		return fmt.Errorf("unplug the disk: %w", err)
	}
	return nil
}
