package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// tunnels are the netdevs of this namespace that put packets into packets of
// their own, as its RTM_NEWLINK messages tell.
func tunnels(messages [][]byte) ([]Tunnel, error) {
	var all []Tunnel
	for _, m := range messages {
		link, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, fmt.Errorf("decode link: %w", err)
		}
		t, ok, err := tunnel(link)
		if err != nil {
			return nil, fmt.Errorf("far ends of %s: %w", link.Attrs().Name, err)
		}
		if ok {
			all = append(all, t)
		}
	}
	return all, nil
}

// tunnel is what a netdev tunnels to; false when it is no tunnel.
func tunnel(link netlink.Link) (Tunnel, bool, error) {
	t := Tunnel{Index: link.Attrs().Index}
	var remote net.IP
	under := 0
	switch l := link.(type) {
	case *netlink.Vxlan:
		var err error
		remote, t.Open, under = l.Group, l.FlowBased, l.VtepDevIndex
		if t.To, err = forwarded(t.Index); err != nil {
			return t, false, err
		}
	case *netlink.Geneve:
		under = int(l.Link)
		remote, t.Open = l.Remote, l.FlowBased
	case *netlink.Gretun:
		under = int(l.Link)
		remote, t.Open = l.Remote, l.FlowBased
	case *netlink.Gretap:
		under = int(l.Link)
		remote, t.Open = l.Remote, l.FlowBased
	case *netlink.Iptun:
		under = int(l.Link)
		remote, t.Open = l.Remote, l.FlowBased
	case *netlink.Ip6tnl:
		under = int(l.Link)
		remote, t.Open = l.Remote, l.FlowBased
	case *netlink.Sittun:
		under = int(l.Link)
		remote = l.Remote
	case *netlink.Vti:
		under = int(l.Link)
		remote = l.Remote
	case *netlink.Wireguard:
		var err error
		t.To, t.Open, err = endpoints(t.Index)
		return t, true, err
	default:
		t.Open = slices.Contains(openKinds(), link.Type())
		return t, t.Open, nil
	}
	if a, ok := netip.AddrFromSlice(remote); ok && !a.IsUnspecified() {
		t.To = append(t.To, a.Unmap().String())
	}
	if link.Attrs().NetNsID < 0 {
		t.Under = under
	}
	t.Open = t.Open || len(t.To) == 0
	return t, true, nil
}

// openKinds, by the netlink package's names, are the kinds whose packets go where a program, a policy or each packet
// says.
func openKinds() []string {
	return []string{"tuntap", "xfrm", "gtp", "bareudp", "amt", "ovpn", "l2tpeth", "erspan", "ip6erspan"}
}

// forwarded are the far ends in the forwarding database of a VXLAN (NDA_DST of
// drivers/net/vxlan), which flannel and others keep there.
func forwarded(index int) ([]string, error) {
	entries, err := complete(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, unix.AF_BRIDGE) })
	if err != nil {
		return nil, err
	}
	var to []string
	for _, e := range entries {
		if a, ok := netip.AddrFromSlice(e.IP); ok && !a.IsUnspecified() {
			to = append(to, a.Unmap().String())
		}
	}
	slices.Sort(to)
	return slices.Compact(to), nil
}

// Of linux/wireguard.h.
const (
	wireguardFamily   = "wireguard"
	wgGetDevice       = 0
	wgVersion         = 1
	wgDeviceIfindex   = 1
	wgDevicePeers     = 8
	wgPeerEndpoint    = 4
	sizeofSockaddrIn  = 8  // up to and with the address
	sizeofSockaddrIn6 = 24 // the same
)

// endpoints are those of the peers of a WireGuard netdev. open says that one has
// none yet: it is learned when the peer speaks.
func endpoints(index int) (to []string, open bool, err error) {
	family, err := netlink.GenlFamilyGet(wireguardFamily)
	if err != nil {
		return nil, false, err
	}
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_DUMP)
	req.AddData(&nl.Genlmsg{Command: wgGetDevice, Version: wgVersion})
	req.AddData(nl.NewRtAttr(wgDeviceIfindex, nl.Uint32Attr(uint32(index))))
	messages, err := complete(func() ([][]byte, error) { return req.Execute(unix.NETLINK_GENERIC, 0) })
	if errors.Is(err, unix.ENODEV) {
		return nil, false, nil // it went since
	}
	if err != nil {
		return nil, false, err
	}
	for _, m := range messages {
		peers, err := inside(m[min(len(m), nl.SizeofGenlmsg):], wgDevicePeers)
		if err != nil {
			return nil, false, err
		}
		for peer := range slices.Values(peers) {
			ends, err := attributes(peer.Value, wgPeerEndpoint)
			if err != nil {
				return nil, false, err
			}
			open = open || len(ends) == 0
			for _, e := range ends {
				if a, ok := sockaddr(e.Value); ok {
					to = append(to, a.Unmap().String())
				}
			}
		}
	}
	slices.Sort(to)
	return slices.Compact(to), open, nil
}

// attributes are those of a type in a message or an attribute.
func attributes(b []byte, kind uint16) ([]syscall.NetlinkRouteAttr, error) {
	all, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(a syscall.NetlinkRouteAttr) bool { return a.Attr.Type&nl.NLA_TYPE_MASK != kind }), nil
}

// inside are the attributes in those of a type.
func inside(b []byte, kind uint16) (all []syscall.NetlinkRouteAttr, err error) {
	outer, err := attributes(b, kind)
	for _, o := range outer {
		in, err := nl.ParseRouteAttr(o.Value)
		if err != nil {
			return nil, err
		}
		all = append(all, in...)
	}
	return all, err
}

// sockaddr is the address of a struct sockaddr_in or sockaddr_in6.
func sockaddr(b []byte) (netip.Addr, bool) {
	switch {
	case len(b) >= sizeofSockaddrIn6 && binary.NativeEndian.Uint16(b) == unix.AF_INET6:
		return netip.AddrFromSlice(b[8:sizeofSockaddrIn6])
	case len(b) >= sizeofSockaddrIn && binary.NativeEndian.Uint16(b) == unix.AF_INET:
		return netip.AddrFromSlice(b[4:sizeofSockaddrIn])
	}
	return netip.Addr{}, false
}
