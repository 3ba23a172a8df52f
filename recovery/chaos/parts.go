//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoParts is returned when what the rig is made of is not on this machine.
var ErrNoParts = errors.New("the VM rig's parts are missing: run `make vm-deps`")

// Parts is what a VM is made of, as .ci/vm-deps leaves it.
type Parts struct {
	QEMU    string // QEMU is the emulator's binary.
	Kernel  string // Kernel is a bootable image.
	Modules string // Modules is the directory lib/modules/<release> that belongs to Kernel.
	Root    string // Root is the image of a root file system with systemd and udev.
}

// Find locates the parts in the user's cache. It runs nothing and needs no privilege.
func Find() (Parts, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return Parts{}, fmt.Errorf("%w: %w", ErrNoParts, err)
	}
	list := filepath.Join(cache, "eniagent", "vm", "parts")
	raw, err := os.ReadFile(list)
	if err != nil {
		return Parts{}, fmt.Errorf("%w: read the list of parts: %w", ErrNoParts, err)
	}
	var p Parts
	fields := map[string]*string{"QEMU": &p.QEMU, "KERNEL": &p.Kernel, "MODULES": &p.Modules, "ROOT": &p.Root}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if f := fields[name]; f != nil {
			*f = value
		}
	}
	for name, value := range fields {
		if _, err := os.Stat(*value); err != nil {
			return Parts{}, fmt.Errorf("%w: %s: %w", ErrNoParts, name, err)
		}
	}
	return p, nil
}

// release is the kernel's name for itself, as its modules' directory has it.
func (p Parts) release() string { return filepath.Base(p.Modules) }

// Build compiles a package into a static program that runs in the guest, where no library is.
func Build(ctx context.Context, pkg, out string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", out}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, said)
	}
	return nil
}
