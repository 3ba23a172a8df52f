package link

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// KindMTU is the MTU of a netdev, in bytes.
const KindMTU drivers.Kind = "mtu"

// What no device may go beyond (ETH_MIN_MTU, and the IPv6 minimum link MTU of
// RFC 8200: Linux switches IPv6 off on a link below it).
const (
	minMTU  = 68
	maxMTU  = 65535
	ipv6MTU = 1280
)

// MTUSpec is the kind mtu on any machine. A fresh Ethernet netdev has 1500.
func MTUSpec() drivers.Spec {
	return drivers.Spec{
		Kind: KindMTU, Class: drivers.Volatile, Netdev: true, Fresh: "1500",
		Cuts:  func(from, to drivers.State) bool { return from != drivers.Hidden && from != to },
		After: []drivers.Kind{"driver"}, Legal: legalMTU,
	}
}

// MTU is the State of an MTU in bytes.
func MTU(bytes int) drivers.State { return drivers.State(strconv.Itoa(bytes)) }

func parseMTU(s drivers.State) (int, error) {
	n, err := strconv.Atoi(string(s))
	if err != nil || n < minMTU || n > maxMTU || MTU(n) != s {
		return 0, fmt.Errorf("%q is not an MTU: want %d to %d bytes: %w", s, minMTU, maxMTU, drivers.ErrIllegal)
	}
	return n, nil
}

func legalMTU(t drivers.Target, to drivers.State) error {
	if _, ok := t.PCIAddress(); !ok {
		return fmt.Errorf("target %q of mtu: %w", t, drivers.ErrIllegal)
	}
	_, err := parseMTU(to)
	return err
}

// NewMTU is the kind mtu on this machine.
func NewMTU(h host.Host) drivers.Driver {
	return mtu{netdev{
		host: h, kind: KindMTU, legal: legalMTU,
		read: attribute("mtu", func(text string) (drivers.State, error) {
			n, err := strconv.Atoi(text)
			return MTU(n), err
		}),
		call: func(c host.Call, _, to drivers.State) (host.Call, error) {
			n, err := parseMTU(to)
			c.Op, c.Number = host.OpMTU, n
			return c, err
		},
	}}
}

type mtu struct{ netdev }

// Precheck refuses an MTU that the device, its PF, the interfaces on top of it
// or IPv6 could not live with.
func (m mtu) Precheck(ctx context.Context, t drivers.Target, _, to drivers.State) error {
	want, err := parseMTU(to)
	if err != nil {
		return err
	}
	links, err := m.host.Links(ctx)
	if err != nil {
		return fmt.Errorf("read limits of the MTU: %w", err)
	}
	own, ok, err := m.linkOf(ctx, t, links)
	if err != nil {
		return err
	}
	refuse := func(remedy, why string, args ...any) error {
		return m.refuse(t, to, drivers.ErrRefused, remedy, why, args...)
	}
	if pf, ok := m.physical(ctx, t, links); ok && want > pf.MTU {
		return refuse("raise the MTU of the physical function first", "its physical function %s has %d", pf.Name, pf.MTU)
	}
	if !ok {
		return nil // hidden: the device says its own limits when it is back
	}
	switch {
	case own.MinMTU > 0 && want < own.MinMTU:
		return refuse("ask for more", "%s takes no less than %d", own.Name, own.MinMTU)
	case own.MaxMTU > 0 && want > own.MaxMTU:
		return refuse("ask for less", "%s takes no more than %d", own.Name, own.MaxMTU)
	case want < ipv6MTU && own.IPv6:
		return refuse("ask for 1280 or more, or disable IPv6 on it", "%s has IPv6, which the kernel switches off below %d", own.Name, ipv6MTU)
	}
	for _, l := range links {
		switch {
		case l.Index == own.Master && slices.Contains(aggregates(), l.Kind) && l.MTU != want:
			return refuse("set the MTU of "+l.Name+" instead", "%s belongs to %s %s, which sets the MTU of its members (%d)", own.Name, l.Kind, l.Name, l.MTU)
		case l.Lower == own.Index && l.Index != own.Index && l.MTU > want:
			return refuse("lower the MTU of "+l.Name+" first", "%s %s sits on it with %d", l.Kind, l.Name, l.MTU)
		}
	}
	return nil
}

// aggregates are the kinds of master that set the MTU of their members. A
// bridge, a VRF and Open vSwitch do not.
func aggregates() []string { return []string{"bond", "team"} }

func (m mtu) linkOf(ctx context.Context, t drivers.Target, links []host.Link) (host.Link, bool, error) {
	dev, err := host.NetdevOf(ctx, m.host, string(t))
	if err != nil {
		return host.Link{}, false, err
	}
	for _, l := range links {
		if dev.Name != "" && l.Index == dev.Index {
			return l, true, nil
		}
	}
	return host.Link{}, false, nil
}

// physical is the netdev of the PF that a VF belongs to.
func (m mtu) physical(ctx context.Context, t drivers.Target, links []host.Link) (host.Link, bool) {
	physfn, err := m.host.Readlink(ctx, host.Attr(string(t), "physfn"))
	if err != nil {
		return host.Link{}, false
	}
	pf, ok, err := m.linkOf(ctx, drivers.Target(path.Base(physfn)), links)
	return pf, ok && err == nil
}
