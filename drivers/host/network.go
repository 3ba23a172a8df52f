package host

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Default is a route to the world, in any table: a default route, or one that
// stands for a part of it, as 0.0.0.0/1 does.
type Default struct {
	Index  int    `json:"index"`        // of the netdev it leaves by
	Family string `json:"family"`       // "IPv4" or "IPv6"
	Table  int    `json:"table"`        // 254 is main
	To     string `json:"to,omitempty"` // its prefix, where that is not all
}

// Address is an address of the host.
type Address struct {
	Index int    `json:"index"`
	IP    string `json:"ip"`
}

// Way is a netdev by which packets to an address may leave the host now.
type Way struct {
	To    string `json:"to"`
	Index int    `json:"index"` // 0 when there is no way
}

// Tunnel is where the packets of a netdev go that puts them into packets of
// its own.
type Tunnel struct {
	Index int `json:"index"`
	// To are the far ends, as far as the kernel knows them: there is a Way to each.
	To    []string `json:"to,omitempty"`
	Under int      `json:"under,omitempty"` // ifindex of the netdev that it is bound to
	// Open says that there may be others: each packet, or a program, says which.
	Open bool `json:"open,omitempty"`
}

// Network is how the host reaches the world.
type Network struct {
	Links     []Link    `json:"links"`
	Defaults  []Default `json:"defaults,omitempty"`
	Addresses []Address `json:"addresses,omitempty"`
	Tunnels   []Tunnel  `json:"tunnels,omitempty"`
	// Ways has one at least for each address asked about, and for each far end of
	// a tunnel.
	Ways []Way `json:"ways,omitempty"`
	// Routed are the netdevs by which any route leaves that leads beyond a link.
	Routed []int `json:"routed,omitempty"`
}

// Add adds to the network what the tables tell of it, with the ways to each
// address of to.
func (n *Network) Add(t Tables, to []netip.Addr) {
	n.Defaults = t.Defaults()
	var own []netip.Addr
	for _, a := range n.Addresses {
		if ip, err := netip.ParseAddr(a.IP); err == nil {
			own = append(own, ip.Unmap())
		}
	}
	for _, address := range to {
		hops := t.Ways(address, own)
		if len(hops) == 0 {
			hops = []int{0}
		}
		for _, hop := range hops {
			n.Ways = append(n.Ways, Way{To: address.String(), Index: hop})
		}
	}
}

// Targets are the addresses whose ways a Network has: those asked for and the
// far ends of its tunnels, each once.
func (n *Network) Targets(to []string) ([]netip.Addr, error) {
	var all []netip.Addr
	add := func(text string) error {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("%q is not an IP address", text)
		}
		if a = a.Unmap().WithZone(""); !slices.Contains(all, a) {
			all = append(all, a)
		}
		return nil
	}
	for _, text := range to {
		if err := add(text); err != nil {
			return nil, err
		}
	}
	for _, t := range n.Tunnels {
		for _, text := range t.To {
			if err := add(text); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// Network dumps links, addresses, routes and rules, and finds the ways to each
// address of to.
func (l Linux) Network(ctx context.Context, to []string) (Network, error) {
	links, messages, err := l.dumpLinks(ctx)
	if err != nil {
		return Network{}, err
	}
	n := Network{Links: links}
	if n.Tunnels, err = tunnels(messages); err != nil {
		return Network{}, err
	}
	addresses, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return Network{}, fmt.Errorf("dump addresses: %w", err)
	}
	for _, a := range addresses {
		n.Addresses = append(n.Addresses, Address{Index: a.LinkIndex, IP: a.IP.String()})
	}
	targets, err := n.Targets(to)
	if err != nil {
		return Network{}, err
	}
	t, routed, err := tables(targets)
	if err != nil {
		return Network{}, err
	}
	n.Routed = routed
	n.Add(t, targets)
	return n, nil
}
