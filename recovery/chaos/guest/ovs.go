//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of linux/openvswitch.h: what ovs-vswitchd asks of the kernel, without its
// database.
const (
	ovsNew        = 1
	ovsDel        = 2
	dpName        = 1
	dpUpcall      = 2
	dpVersion     = 2
	vportType     = 2
	vportName     = 3
	vportUpcall   = 5
	vportVersion  = 1
	vportNetdev   = 1
	vportInternal = 2
)

// generic sends one request to a family of generic netlink.
func generic(family string, command, version uint8, data ...nl.NetlinkRequestData) error {
	f, err := netlink.GenlFamilyGet(family)
	if err != nil {
		return fmt.Errorf("%s: %w", family, err)
	}
	req := nl.NewNetlinkRequest(int(f.ID), unix.NLM_F_ACK)
	req.AddData(&nl.Genlmsg{Command: command, Version: version})
	for _, d := range data {
		req.AddData(d)
	}
	_, err = req.Execute(unix.NETLINK_GENERIC, 0)
	return err
}

// header is struct ovs_header.
type header uint32

func (h header) Len() int { return 4 }

func (h header) Serialize() []byte { return binary.NativeEndian.AppendUint32(nil, uint32(h)) }

// datapath makes a datapath of Open vSwitch, whose own netdev has its name.
func datapath(name string) error {
	return generic("ovs_datapath", ovsNew, dpVersion, header(0), nl.NewRtAttr(dpName, nl.ZeroTerminated(name)), nl.NewRtAttr(dpUpcall, nl.Uint32Attr(0)))
}

// undatapath removes one, with all its ports: no netdev of it can be deleted as
// others can.
func undatapath(name string) error {
	return generic("ovs_datapath", ovsDel, dpVersion, header(0), nl.NewRtAttr(dpName, nl.ZeroTerminated(name)))
}

// port gives a datapath a port: a netdev that is there, or an internal one.
func port(of, kind, name string) error {
	dp, err := net.InterfaceByName(of)
	if err != nil {
		return err
	}
	number := map[string]uint32{"netdev": vportNetdev, "internal": vportInternal}[kind]
	return generic("ovs_vport", ovsNew, vportVersion, header(dp.Index), nl.NewRtAttr(vportType, nl.Uint32Attr(number)),
		nl.NewRtAttr(vportName, nl.ZeroTerminated(name)), nl.NewRtAttr(vportUpcall, nl.Uint32Attr(0)))
}

// Of linux/wireguard.h.
const (
	wgSetDevice  = 1
	wgVersion    = 1
	wgIfname     = 2
	wgPeers      = 8
	peerKey      = 1
	peerEndpoint = 4
	nested       = unix.NLA_F_NESTED
)

// endpoint gives a WireGuard netdev a peer at an IPv4 address.
func endpoint(dev, address string) error {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	sockaddr := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	sockaddr = append(binary.BigEndian.AppendUint16(sockaddr, 51820), a.AsSlice()...)
	sockaddr = append(sockaddr, make([]byte, 8)...)
	peers := nl.NewRtAttr(wgPeers|nested, nil)
	peer := nl.NewRtAttr(nested, nil)
	peer.AddRtAttr(peerKey, []byte("a key of as many bytes as it has"))
	peer.AddRtAttr(peerEndpoint, sockaddr)
	peers.AddChild(peer)
	return generic("wireguard", wgSetDevice, wgVersion, nl.NewRtAttr(wgIfname, nl.ZeroTerminated(dev)), peers)
}
