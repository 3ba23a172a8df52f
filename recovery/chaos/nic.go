//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
)

// NIC is one PF as the guest sees it now.
type NIC struct {
	Port   int    // Port is the root port it is behind.
	MAC    string // MAC is its permanent address.
	Addr   string // Addr is its PCI address.
	Driver string // Driver is what it is bound to, or empty.
	Netdev string // Netdev is its interface, or empty.
	Group  string // Group is its IOMMU group, or empty.
}

// Sysfs is a path in the NIC's sysfs directory.
func (n NIC) Sysfs(elem ...string) string { return Sysfs(n.Addr, elem...) }

// Sysfs is a path in the sysfs directory of a PCI function.
func Sysfs(addr string, elem ...string) string {
	return path.Join(append([]string{"/sys/bus/pci/devices", addr}, elem...)...)
}

func mac(port int) string       { return fmt.Sprintf("52:54:00:00:00:%02x", port+1) }
func portID(port int) string    { return fmt.Sprintf("port%d", port) }
func nicID(port int) string     { return fmt.Sprintf("nic%d", port) }
func netID(port int) string     { return fmt.Sprintf("net%d", port) }
func portSlot(port int) int     { return 0x10 + port }
func portAddr(port int) string  { return fmt.Sprintf("0000:00:%02x.0", portSlot(port)) }
func portChild(port int) string { return Sysfs(portAddr(port), "0000:*:00.0") }

// NICs tells about every PF that is plugged, by port.
func (v *VM) NICs(ctx context.Context) ([]NIC, error) {
	v.mu.Lock()
	plugged := maps.Clone(v.ports)
	v.mu.Unlock()
	var list []NIC
	for _, port := range slices.Sorted(maps.Keys(plugged)) {
		n, err := v.nic(ctx, port, plugged[port])
		if err != nil {
			return nil, fmt.Errorf("look at NIC %d: %w", port, err)
		}
		list = append(list, n)
	}
	return list, nil
}

// nic waits for the PCI function and not for a driver: whether it has one is often the question.
func (v *VM) nic(ctx context.Context, port int, mac string) (NIC, error) {
	dir, err := v.WaitExists(ctx, portChild(port))
	if err != nil {
		return NIC{}, err
	}
	n := NIC{Port: port, MAC: mac, Addr: path.Base(dir)}
	for _, l := range []struct {
		name string
		to   *string
	}{{"driver", &n.Driver}, {"iommu_group", &n.Group}} {
		link, err := v.Readlink(ctx, n.Sysfs(l.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return NIC{}, err
		}
		*l.to = path.Base(link)
	}
	names, err := v.ReadDir(ctx, n.Sysfs("net"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return NIC{}, err
	}
	if len(names) > 0 {
		n.Netdev = names[0]
	}
	return n, nil
}

// uplinkMAC is the address of the uplink, which is nobody else's.
const uplinkMAC = "52:54:00:00:ff:01"

// Uplink gives the uplink its address and the default route, with the guest's ip, and tells its name.
func (v *VM) Uplink(ctx context.Context) (string, error) {
	dir, err := v.WaitExists(ctx, "/sys/bus/virtio/drivers/virtio_net/*/net/*")
	if err != nil {
		return "", fmt.Errorf("look for the uplink: %w", err)
	}
	name := path.Base(dir)
	for _, args := range [][]string{
		{"addr", "replace", GuestAddr, "dev", name}, {"link", "set", name, "up"}, {"route", "replace", "default", "via", HostAddr},
	} {
		res, err := v.Run(ctx, Command(append([]string{"/bin/ip"}, args...)...))
		if err == nil && !res.OK() {
			err = errors.New(res.String())
		}
		if err != nil {
			return "", fmt.Errorf("set up the uplink: %w", err)
		}
	}
	return name, nil
}

// PlugNIC plugs a NIC into a free port, as the attachment of an interface does, and waits until the guest has its
// PCI function. An empty mac gives the port's own. It stays plugged over a power cut.
func (v *VM) PlugNIC(ctx context.Context, port int, addr string) (NIC, error) {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	if addr == "" {
		addr = mac(port)
	}
	m, err := v.machine()
	if err != nil {
		return NIC{}, fmt.Errorf("plug NIC %d: %w", port, err)
	}
	if err := m.qmp.do(ctx, "netdev_add", map[string]any{"type": "user", "id": netID(port), "restrict": true}); err != nil {
		return NIC{}, fmt.Errorf("plug NIC %d: %w", port, err)
	}
	if err := m.qmp.do(ctx, "device_add", map[string]any{
		"driver": "igb", "id": nicID(port), "netdev": netID(port), "bus": portID(port), "mac": addr,
	}); err != nil {
		// The port is taken, most likely: leave it as it was.
		undo := m.qmp.do(ctx, "netdev_del", map[string]any{"id": netID(port)})
		return NIC{}, fmt.Errorf("plug NIC %d: %w", port, errors.Join(err, undo))
	}
	v.mu.Lock()
	v.ports[port] = addr
	v.mu.Unlock()
	n, err := v.nic(ctx, port, addr)
	if err != nil {
		return NIC{}, fmt.Errorf("plug NIC %d: %w", port, err)
	}
	return n, nil
}

// UnplugNIC asks the guest to let a NIC go, and waits until it has. A guest that cannot, because a program holds the
// device, keeps it until then.
func (v *VM) UnplugNIC(ctx context.Context, port int) error {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	m, err := v.machine()
	if err != nil {
		return fmt.Errorf("unplug NIC %d: %w", port, err)
	}
	if err := m.qmp.remove(ctx, nicID(port)); err != nil {
		return v.explain(fmt.Sprintf("unplug NIC %d", port), err)
	}
	v.mu.Lock()
	delete(v.ports, port)
	v.mu.Unlock()
	if err := m.qmp.do(ctx, "netdev_del", map[string]any{"id": netID(port)}); err != nil {
		return fmt.Errorf("unplug NIC %d: %w", port, err)
	}
	return nil
}

// SetLink pulls a NIC's cable, or puts it back.
func (v *VM) SetLink(ctx context.Context, port int, up bool) error {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	m, err := v.machine()
	if err != nil {
		return fmt.Errorf("set the link of NIC %d: %w", port, err)
	}
	if err := m.qmp.do(ctx, "set_link", map[string]any{"name": nicID(port), "up": up}); err != nil {
		return fmt.Errorf("set the link of NIC %d: %w", port, err)
	}
	return nil
}
