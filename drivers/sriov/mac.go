package sriov

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// instead is what a state of KindMAC has of a VF whose netdev has another MAC
// than its physical function keeps for it: "52:54:00:00:01:00 netdev=fe:...".
const instead = " netdev="

// probedMAC takes a state apart: the MAC that is kept, and what the netdev has.
func probedMAC(s drivers.State) (bare, has drivers.State) {
	mac, own, _ := strings.Cut(string(s), instead)
	return drivers.State(mac), drivers.State(own)
}

func bareMAC(s drivers.State) drivers.State {
	bare, _ := probedMAC(s)
	return bare
}

// routeMAC is one write. That a netdev has another MAC is nothing that a write
// makes, nor one that it ends: that is its driver's probe.
func routeMAC(from, to drivers.State) []drivers.State {
	switch {
	case from == to, bareMAC(from) == bareMAC(to) && bareMAC(to) != to:
		return nil
	}
	return []drivers.State{bareMAC(to)}
}

// givesMAC says that the netdev has the MAC that is kept for it, where one is.
func givesMAC(s drivers.State) []drivers.Kind {
	if bareMAC(s) == host.NoMAC {
		return nil
	}
	return []drivers.Kind{"mac"}
}

// taken is the MAC that a physical function tells of a VF, held against what the
// VF's own netdev has; where there is none to be seen it is as it is told.
//
// A VF's driver reads its MAC when it is probed. Where it is given none it makes
// one up, and tells it (igbvf_probe, iavf_process_config): that is no
// administrative MAC, and another one after each probe. An administrative one is
// to the netdev as a permanent one (NET_ADDR_PERM of linux/netdevice.h); one that
// was made up, or set by somebody, is not.
//
// A MAC that was set later is enforced by the physical function, and not known to
// the VF: the spoof check drops what it sends (igb_set_vf_mac). One that is down
// answers no VF, so that no probe would help.
func (a attribute) taken(ctx context.Context, t drivers.Target, p place, told drivers.State) (drivers.State, error) {
	dev, err := host.NetdevOf(ctx, a.host, string(t))
	if err != nil || dev.Name == "" {
		return told, err
	}
	own, err := dev.Attr(ctx, a.host, "address")
	if err != nil {
		return told, gone(err)
	}
	if own == string(told) {
		assigned, err := dev.Attr(ctx, a.host, "addr_assign_type")
		if err == nil && assigned != "0" {
			return host.NoMAC, nil
		}
		return told, gone(err)
	}
	up, err := isUp(ctx, a.host, p.pf)
	if err == nil && up {
		return told + drivers.State(instead+own), nil
	}
	return told, gone(err)
}

func isUp(ctx context.Context, r host.Reader, dev host.Netdev) (bool, error) {
	text, err := dev.Attr(ctx, r, "flags")
	if err != nil {
		return false, err
	}
	flags, err := strconv.ParseUint(text, 0, 32)
	return flags&1 != 0, err // IFF_UP
}

// gone takes a netdev that went between two reads for none.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// of is the attribute of a VF.
func (a attribute) of(vf host.VF) drivers.State {
	text := map[drivers.Kind]string{
		KindMAC: vf.MAC, KindVLAN: vf.VLAN, KindTrust: vf.Trust, KindSpoofCheck: vf.SpoofCheck,
		KindLinkState: vf.LinkState, KindRate: vf.Rate,
	}[a.kind]
	if text == "" {
		return untold
	}
	return drivers.State(text)
}
