package guard

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
)

// inUse refuses to take a driver from a function that somebody uses.
func (g *Guard) inUse(ctx context.Context, spec drivers.Spec, t drivers.Target, from drivers.State) error {
	if spec.Hides == nil {
		return nil // the link's own kinds take nothing from a program
	}
	binding, err := dpdk.Parse(from)
	if err != nil {
		return nil //nolint:nilerr // a foreign override; the driver itself says what it is when it is left
	}
	if drivers.Userspace(binding.Driver) {
		return g.held(ctx, t, binding.Driver)
	}
	dev, err := host.NetdevOf(ctx, g.o.Host, string(t))
	if err != nil || dev.Name != "" {
		return err
	}
	class, err := g.o.Host.Read(ctx, host.Attr(string(t), "class"))
	if err != nil || !strings.HasPrefix(class, "0x02") {
		return nil //nolint:nilerr // no network function, or gone: then the write says so
	}
	return g.refuse(InUse, t, "it goes on by itself when the netdev is back in the host's namespace",
		"driver %s is bound and shows no netdev here: it is in another network namespace, such as a pod's", binding.Driver)
}

// held asks the kernel whether a program holds a function on a userspace
// driver: opening a vfio group that is open already is EBUSY
// (drivers/vfio/group.c), whoever holds it and from whatever namespace.
func (g *Guard) held(ctx context.Context, t drivers.Target, driver string) error {
	node, err := host.NodeOf(ctx, g.o.Host, string(t), driver)
	if err != nil || node == "" {
		return err
	}
	holders := strings.Join(host.HoldersOf(ctx, g.o.Host)[node], ", ")
	if driver == "vfio-pci" {
		_, err = g.o.Host.Read(ctx, node)
	}
	switch {
	case errors.Is(err, syscall.EBUSY), holders != "":
		if holders == "" {
			holders = "a program that cannot be seen from here"
		}
		return g.refuse(InUse, t, "it goes on by itself when the program ends", "%s is held by %s", path.Base(node), holders)
	case errors.Is(err, fs.ErrNotExist):
		return nil // no node, so nobody can have opened it
	}
	return nil
}
