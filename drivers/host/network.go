package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Default is a default route, in any table.
type Default struct {
	Index  int    `json:"index"`  // of the netdev it leaves by
	Family string `json:"family"` // "IPv4" or "IPv6"
	Table  int    `json:"table"`  // 254 is main
}

// Address is an address of the host.
type Address struct {
	Index int    `json:"index"`
	IP    string `json:"ip"`
}

// Way is the netdev by which the host reaches an address now.
type Way struct {
	To    string `json:"to"`
	Index int    `json:"index"` // 0 when there is no way
}

// Network is how the host reaches the world.
type Network struct {
	Links     []Link    `json:"links"`
	Defaults  []Default `json:"defaults,omitempty"`
	Addresses []Address `json:"addresses,omitempty"`
	Ways      []Way     `json:"ways,omitempty"` // one for each address asked about
}

// Network dumps links, the default routes of all tables and the addresses, and
// asks the kernel for the way to each address of to.
func (l Linux) Network(ctx context.Context, to []string) (Network, error) {
	links, err := l.Links(ctx)
	if err != nil {
		return Network{}, err
	}
	n := Network{Links: links}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := complete(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return Network{}, fmt.Errorf("dump routes: %w", err)
		}
		for _, r := range routes {
			n.Defaults = append(n.Defaults, defaultsOf(r, family)...)
		}
	}
	addresses, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return Network{}, fmt.Errorf("dump addresses: %w", err)
	}
	for _, a := range addresses {
		n.Addresses = append(n.Addresses, Address{Index: a.LinkIndex, IP: a.IP.String()})
	}
	for _, address := range to {
		way, err := wayTo(address)
		if err != nil {
			return Network{}, err
		}
		n.Ways = append(n.Ways, way)
	}
	return n, nil
}

// defaultsOf are the netdevs by which a default route leaves; none for another
// route. A multipath route has several.
func defaultsOf(r netlink.Route, family int) []Default {
	if r.Dst != nil {
		if ones, _ := r.Dst.Mask.Size(); ones != 0 {
			return nil
		}
	}
	name := map[int]string{unix.AF_INET: "IPv4", unix.AF_INET6: "IPv6"}[family]
	var all []Default
	if r.LinkIndex > 0 {
		all = append(all, Default{Index: r.LinkIndex, Family: name, Table: r.Table})
	}
	for _, hop := range r.MultiPath {
		all = append(all, Default{Index: hop.LinkIndex, Family: name, Table: r.Table})
	}
	slices.SortFunc(all, func(a, b Default) int { return cmp.Compare(a.Index, b.Index) })
	return slices.Compact(all)
}

// wayTo is the kernel's own answer, policy rules and all.
func wayTo(address string) (Way, error) {
	ip := net.ParseIP(address)
	if ip == nil {
		return Way{}, fmt.Errorf("%q is not an IP address", address)
	}
	routes, err := netlink.RouteGet(ip)
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), err == nil && len(routes) == 0:
		return Way{To: address}, nil
	case err != nil:
		return Way{}, fmt.Errorf("look up the way to %s: %w", address, err)
	}
	return Way{To: address, Index: routes[0].LinkIndex}, nil
}
