package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"

	"eniagent/drivers"
)

// Identify reads what tells this thing from another at the same address. What
// cannot be read is left unknown; drivers.ErrGone says that the target is not
// there. Only PCI functions have an identity beyond their name.
func Identify(ctx context.Context, r Reader, t drivers.Target) (drivers.Identity, error) {
	address, ok := t.PCIAddress()
	if !ok {
		return drivers.Identity{}, nil
	}
	inode, err := r.Inode(ctx, PCIDevices+address)
	if errors.Is(err, fs.ErrNotExist) {
		return drivers.Identity{}, fmt.Errorf("%s: %w", t, drivers.ErrGone)
	}
	if err != nil {
		return drivers.Identity{}, fmt.Errorf("identify %s: %w", t, err)
	}
	attr := func(name string) string {
		s, err := r.Read(ctx, Attr(address, name))
		if err != nil {
			return ""
		}
		return s
	}
	id := drivers.Identity{Vendor: attr("vendor"), Device: attr("device"), Incarnation: inode}
	if v, d := attr("subsystem_vendor"), attr("subsystem_device"); v != "" && d != "" {
		id.Subsystem = v + ":" + d
	}
	if link, err := r.Readlink(ctx, Attr(address, "physfn")); err == nil {
		id.PF = drivers.Target(path.Base(link))
		id.PFIncarnation, _ = r.Inode(ctx, PCIDevices+path.Base(link))
	}
	if dev, err := NetdevOf(ctx, r, address); err == nil && dev.Name != "" {
		id.Netdev = dev.Index
		if dev.ownMAC(ctx, r) {
			id.MAC = dev.MAC
		}
	}
	return id, nil
}

// Netdev is what sysfs tells of the netdev of a function without any lock:
// these attributes are read under RCU, while netlink may wait for rtnl.
type Netdev struct {
	Name  string // "" when the function has none
	Index int
	MAC   string // current
	dir   string
}

// NetdevOf finds the netdev of a PCI function, directly below it or below its
// virtio device. More than one is drivers.ErrUnsupported: no attribute could
// say which is meant.
func NetdevOf(ctx context.Context, r Reader, address string) (Netdev, error) {
	dir := Attr(address, "net")
	names, err := r.List(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		dir, names, err = virtioNet(ctx, r, address)
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 {
		return Netdev{}, nil
	}
	if err != nil {
		return Netdev{}, fmt.Errorf("list netdevs of %s: %w", address, err)
	}
	if len(names) > 1 {
		return Netdev{}, fmt.Errorf("%s has %d netdevs (%v): %w", address, len(names), names, drivers.ErrUnsupported)
	}
	dev := Netdev{Name: names[0], dir: dir + "/" + names[0]}
	index, err := r.Read(ctx, dev.dir+"/ifindex")
	if errors.Is(err, fs.ErrNotExist) {
		return Netdev{}, nil // it went between the two reads
	}
	if err != nil {
		return Netdev{}, fmt.Errorf("read ifindex of %s: %w", dev.Name, err)
	}
	if dev.Index, err = strconv.Atoi(index); err != nil {
		return Netdev{}, fmt.Errorf("read ifindex of %s: %w", dev.Name, err)
	}
	if mac, err := r.Read(ctx, dev.dir+"/address"); err == nil {
		dev.MAC = mac
	}
	return dev, nil
}

// Went is nil when the function has no netdev any more, whose absence a read has just
// told by err; else it is err, as the netdev is there, or why nobody can tell.
func (n Netdev) Went(ctx context.Context, r Reader, address string, err error) error {
	switch now, unread := NetdevOf(ctx, r, address); {
	case unread != nil:
		return unread
	case now.Name != "":
		return err
	}
	return nil
}

func virtioNet(ctx context.Context, r Reader, address string) (dir string, names []string, err error) {
	children, err := r.List(ctx, PCIDevices+address)
	if err != nil {
		return "", nil, err
	}
	for _, c := range children {
		if matched, _ := path.Match("virtio[0-9]*", c); matched {
			dir = Attr(address, c) + "/net"
			names, err = r.List(ctx, dir)
			return dir, names, err
		}
	}
	return "", nil, nil
}

// Attr reads an attribute of the netdev, "mtu" or "flags".
func (n Netdev) Attr(ctx context.Context, r Reader, name string) (string, error) {
	return r.Read(ctx, n.dir+"/"+name)
}

// ownMAC says whether the MAC is the device's own. One that is random, or that
// somebody set, as a bond does with its members', tells nothing of the device
// (NET_ADDR_PERM of linux/netdevice.h). Kernels without the attribute are
// believed.
func (n Netdev) ownMAC(ctx context.Context, r Reader) bool {
	assigned, err := n.Attr(ctx, r, "addr_assign_type")
	return errors.Is(err, fs.ErrNotExist) || err == nil && assigned == "0"
}

// DriverOf is the driver bound to a function; "" when none is.
func DriverOf(ctx context.Context, r Reader, address string) (string, error) {
	link, err := r.Readlink(ctx, Attr(address, "driver"))
	if errors.Is(err, fs.ErrNotExist) {
		// No link is no driver, unless there is no function either.
		if _, err := r.Inode(ctx, PCIDevices+address); errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s: %w", address, drivers.ErrGone)
		}
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read driver of %s: %w", address, err)
	}
	return path.Base(link), nil
}
