//go:build linux

package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/vfio.h: _IO(';', 100 + n).
const (
	vfioSetIOMMU          = 0x3b66
	vfioGroupSetContainer = 0x3b68
	vfioGroupGetDeviceFD  = 0x3b6a
	vfioType1v2IOMMU      = 3
)

// hold takes a device as DPDK's EAL does: container, group, IOMMU type, device fd. The kernel gives the device up
// only when that fd is closed.
func hold(addr string) error {
	link, err := os.Readlink("/sys/bus/pci/devices/" + addr + "/iommu_group")
	if err != nil {
		return fmt.Errorf("find the IOMMU group: %w", err)
	}
	group := "/dev/vfio/" + filepath.Base(link)
	container, err := unix.Open("/dev/vfio/vfio", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/vfio/vfio: %w", err)
	}
	g, err := unix.Open(group, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", group, err)
	}
	if err := unix.IoctlSetPointerInt(g, vfioGroupSetContainer, container); err != nil {
		return fmt.Errorf("give %s its container: %w", group, err)
	}
	if err := unix.IoctlSetInt(container, vfioSetIOMMU, vfioType1v2IOMMU); err != nil {
		return fmt.Errorf("set the IOMMU type: %w", err)
	}
	name, err := unix.BytePtrFromString(addr)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(g), vfioGroupGetDeviceFD, uintptr(unsafe.Pointer(name)))
	runtime.KeepAlive(name)
	if errno != 0 {
		return fmt.Errorf("open device %s: %w", addr, errno)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if _, err := fmt.Fprintln(os.Stdout, "held"); err != nil {
		return fmt.Errorf("say that it is held: %w", err)
	}
	<-stop
	return nil
}
