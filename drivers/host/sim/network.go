package sim

import (
	"context"
	"slices"
	"syscall"

	"eniagent/drivers/host"
)

// Network is host.Reader. A default route is there while its netdev is up, as
// the kernel takes it out with the link; the way to any address is the first.
func (f *front) Network(ctx context.Context, to []string) (n host.Network, err error) {
	err = f.look(ctx, "getroute", "", func(m *machine) (syscall.Errno, bool) {
		n = host.Network{Links: m.links()}
		for _, dev := range m.Netdevs {
			for _, a := range dev.Addresses {
				n.Addresses = append(n.Addresses, host.Address{Index: dev.Index, IP: a})
			}
			if !dev.Up {
				continue
			}
			for _, d := range dev.Defaults {
				d.Index = dev.Index
				n.Defaults = append(n.Defaults, d)
			}
		}
		for _, address := range to {
			n.Ways = append(n.Ways, way(n, address))
		}
		return 0, true
	})
	return n, err
}

func way(n host.Network, to string) host.Way {
	at := slices.IndexFunc(n.Addresses, func(a host.Address) bool { return a.IP == to })
	switch {
	case at >= 0:
		return host.Way{To: to, Index: n.Addresses[at].Index}
	case len(n.Defaults) > 0:
		return host.Way{To: to, Index: n.Defaults[0].Index}
	}
	return host.Way{To: to}
}
