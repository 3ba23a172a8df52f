package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// The limits of a netdev that names none (ETH_MIN_MTU and a jumbo frame).
const (
	defaultMTU = 1500
	minMTU     = 68
	maxMTU     = 9216
)

// addFunctionNetdev makes the netdev of a function anew: new ifindex, default
// MTU, down, and no master.
func (m *machine) addFunctionNetdev(f *function, driver *Driver) {
	n := m.devices[f.Address].Net
	if n == nil {
		return
	}
	name := n.Name
	if f.Comings > 0 && n.Rename != "" {
		name = n.Rename
	}
	f.Comings++
	m.addNetdev(n, f.Address, name)
	dev := &m.Netdevs[len(m.Netdevs)-1]
	dev.Dark = f.Dark
	m.requeue(f)
	m.askMAC(f, dev)
	if dev.Random && driver.RandomIsPermanent {
		dev.PermMAC = dev.MAC
	}
}

// addNetdev registers a network device, of a function or of none.
func (m *machine) addNetdev(n *Netdev, addr, name string) {
	for k := 0; m.indexOf(name) != 0; k++ {
		name = "eth" + strconv.Itoa(k)
	}
	m.Index++
	var set Settings
	if n.Set != nil {
		set = *n.Set
	}
	dev := netdev{Set: set, Dark: n.NoCarrier, Nest: n.Nest, Link: host.Link{
		Index: m.Index, Name: name, AltNames: n.AltNames, Kind: n.Kind, MAC: n.MAC, PermMAC: n.PermMAC,
		MTU: cmp.Or(n.MTU, defaultMTU), MinMTU: cmp.Or(n.MinMTU, minMTU), MaxMTU: cmp.Or(n.MaxMTU, maxMTU),
		Lower: m.indexOf(n.Lower), Bus: addr, IPv6: !n.NoIPv6,
	}}
	if n.Kind == "loopback" {
		dev.Kind, dev.MinMTU, dev.MaxMTU = "", 0, 0
	}
	switch {
	case dev.MAC == "" && n.Kind != "loopback":
		// As eth_hw_addr_random: locally administered, and no permanent address.
		dev.Random = true
		r := m.next()
		dev.MAC = fmt.Sprintf("fe:%02x:%02x:%02x:%02x:%02x", byte(m.Boot), byte(m.Index), byte(r>>16), byte(r>>8), byte(r))
	case dev.PermMAC == "" && addr != "":
		dev.PermMAC = dev.MAC
	}
	m.Netdevs = append(m.Netdevs, dev)
	m.event(drivers.Target(addr), host.EventLink)
}

// dropNetdev unregisters a function's netdev, and the VLANs that sit on it.
func (m *machine) dropNetdev(addr string) {
	at := slices.IndexFunc(m.Netdevs, func(n netdev) bool { return n.Bus == addr })
	if at < 0 {
		return
	}
	index := m.Netdevs[at].Index
	m.Netdevs = slices.DeleteFunc(m.Netdevs, func(n netdev) bool { return n.Index == index || n.Lower == index })
	m.event(drivers.Target(addr), host.EventLink)
}

func (m *machine) netdev(index int) *netdev {
	at, ok := slices.BinarySearchFunc(m.Netdevs, index, func(n netdev, i int) int { return n.Index - i })
	if !ok || m.Netdevs[at].Netns != "" {
		return nil
	}
	return &m.Netdevs[at]
}

// named is the netdev of a name or an alternative name, nil when there is none.
func (m *machine) named(name string) *netdev {
	at := slices.IndexFunc(m.Netdevs, func(n netdev) bool {
		return n.Netns == "" && (n.Name == name || slices.Contains(n.AltNames, name))
	})
	if at < 0 {
		return nil
	}
	return &m.Netdevs[at]
}

// indexOf is the ifindex of a name, 0 when there is none.
func (m *machine) indexOf(name string) int {
	if n := m.named(name); n != nil {
		return n.Index
	}
	return 0
}

// links are the network devices as RTM_GETLINK tells of them.
func (m *machine) links() []host.Link {
	ls := make([]host.Link, 0, len(m.Netdevs))
	for i := range m.Netdevs {
		if m.Netdevs[i].Netns != "" {
			continue
		}
		l := m.Netdevs[i].Link
		l.Oper = m.Netdevs[i].oper()
		l.AltNames = slices.Clone(l.AltNames)
		ls = append(ls, l)
	}
	return ls
}

// oper is the operational state: a netdev that is down has no carrier.
func (n *netdev) oper() string {
	switch {
	case n.Name == "lo":
		return "unknown"
	case n.Up && !n.Dark:
		return "up"
	default:
		return "down"
	}
}

// setMTU is RTM_SETLINK with IFLA_MTU (dev_validate_mtu).
func (m *machine) setMTU(index, mtu int) syscall.Errno {
	n := m.netdev(index)
	switch {
	case n == nil:
		return syscall.ENODEV
	case mtu < n.MinMTU || mtu < 0 || n.MaxMTU > 0 && mtu > n.MaxMTU:
		return syscall.EINVAL
	case n.MTU != mtu:
		n.MTU = mtu
		m.event(drivers.Target(n.Bus), host.EventLink)
	}
	return 0
}

// setAdmin is RTM_NEWLINK with IFF_UP.
func (m *machine) setAdmin(index int, up bool) syscall.Errno {
	n := m.netdev(index)
	if n == nil {
		return syscall.ENODEV
	}
	if n.Up != up {
		n.Up = up
		m.event(drivers.Target(n.Bus), host.EventLink)
	}
	return 0
}

// setCarrier plugs a cable in or out; the function remembers it over a rebind.
func (m *machine) setCarrier(where string, on bool) error {
	f, n := m.find(where), m.named(where)
	if f == nil && n == nil {
		return fmt.Errorf("no function and no netdev %q", where)
	}
	if n != nil {
		f = m.find(n.Bus)
	}
	if f != nil {
		f.Dark = !on
	}
	for i := range m.Netdevs {
		if n := &m.Netdevs[i]; n.Name == where || n.Bus == where && where != "" {
			n.Dark = !on
			m.event(drivers.Target(n.Bus), host.EventLink)
		}
	}
	m.dirty = true
	return nil
}

// setName is RTM_SETLINK with IFLA_IFNAME (dev_change_name): a name that it has as
// an alternative one is taken, too.
func (m *machine) setName(index int, name string) syscall.Errno {
	n := m.netdev(index)
	other := m.named(name)
	switch {
	case n == nil:
		return syscall.ENODEV
	case n.Name == name:
		return 0
	case len(name) > 15:
		return syscall.ERANGE // ifla_policy
	case !host.LinkName(name):
		return syscall.EINVAL
	case other != nil:
		return syscall.EEXIST
	case n.Up && before(m.cfg.Release, 6, 2): // live renaming came with bd039b5ea2a9
		return syscall.EBUSY
	}
	n.Name = name
	m.event(drivers.Target(n.Bus), host.EventLink)
	return 0
}

// setMAC is RTM_SETLINK with IFLA_ADDRESS. The driver of a VF asks its PF, which
// refuses another address than the one that it has set, unless it trusts the VF
// (igb_set_vf_mac_addr). A PF that is down is not asked.
func (m *machine) setMAC(index int, mac string) syscall.Errno {
	n := m.netdev(index)
	switch {
	case n == nil:
		return syscall.ENODEV
	case !host.UnicastMAC(mac):
		return syscall.EADDRNOTAVAIL
	case n.MAC == mac:
		return 0
	}
	if kept, up := m.keptFor(n.Bus); up {
		if kept.ByPF && kept.Trust != "on" && kept.MAC != mac {
			return syscall.EADDRNOTAVAIL
		}
		kept.MAC = mac
	}
	n.MAC, n.Random, n.Chosen = mac, false, true
	m.event(drivers.Target(n.Bus), host.EventLink)
	return 0
}

// rename gives a netdev another name, as udev does.
func (m *machine) rename(name, to string) error {
	n := m.named(name)
	if n == nil {
		return fmt.Errorf("no netdev %q", name)
	}
	if errno := m.setName(n.Index, to); errno != 0 {
		return fmt.Errorf("netdev %q: %w", to, errno)
	}
	return nil
}
