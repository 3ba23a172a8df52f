//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	guestPackage = "eniagent/recovery/chaos/guest"
	diskSize     = 512 << 20
)

// make builds what is booted, in a directory that is gone when it returns.
func (v *VM) make(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "eniagent-vm-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	guest := filepath.Join(dir, "guest")
	if err := Build(ctx, guestPackage, guest); err != nil {
		return err
	}
	v.initramfs, err = os.Create(filepath.Join(dir, "initramfs"))
	if err != nil {
		return fmt.Errorf("create the initramfs: %w", err)
	}
	if err := writeInitramfs(v.initramfs, v.cfg, v.parts, guest); err != nil {
		return err
	}
	image := v.cfg.Disk
	if image == "" {
		image = filepath.Join(dir, "disk")
	}
	if err := MakeDisk(ctx, image, v.cfg.DiskFS); err != nil {
		return err
	}
	v.disk, err = os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the disk: %w", err)
	}
	return nil
}

// MakeDisk makes the image of an empty disk. It leaves an existing one as it is: it may be the point of the test.
func MakeDisk(ctx context.Context, image, fstype string) error {
	f, err := os.OpenFile(image, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create the disk: %w", err)
	}
	if err := errors.Join(f.Truncate(diskSize), f.Close()); err != nil {
		return fmt.Errorf("size the disk: %w", err)
	}
	mkfs := "mkfs." + fstype
	// A user's PATH often lacks sbin, where it is.
	if _, err := exec.LookPath(mkfs); err != nil {
		mkfs = filepath.Join("/usr/sbin", mkfs)
	}
	if said, err := exec.CommandContext(ctx, mkfs, "-q", image).CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("make the disk's %s: %w\n%s", fstype, err, said), os.Remove(image))
	}
	return nil
}
