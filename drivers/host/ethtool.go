package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Settings is one group of the settings of netdev index.
func (Linux) Settings(_ context.Context, index int, which Setting) (s Settings, err error) {
	switch which {
	case SettingVFs:
		s.VFs, err = readVFs(index)
		return s, err
	case SettingAltNames:
		l, err := netlink.LinkByIndex(index)
		if err != nil {
			return s, fmt.Errorf("netdev %d: %w", index, noNetdev(err))
		}
		return Settings{AltNames: l.Attrs().AltNames}, nil
	}
	err = onNetdev(index, func(eth *ethtool.Ethtool, name string) (err error) {
		s, err = settings(eth, name, which)
		return err
	})
	return s, err
}

// onNetdev calls fn with the name of a netdev. ethtool's ioctls take names, and
// udev may give one to another netdev at any time: whatever was done is only
// believed when the netdev still has its name afterwards.
func onNetdev(index int, fn func(eth *ethtool.Ethtool, name string) error) error {
	before, err := netlink.LinkByIndex(index)
	if err != nil {
		return fmt.Errorf("netdev %d: %w", index, noNetdev(err))
	}
	eth, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open ethtool socket: %w", err)
	}
	defer eth.Close()
	name := before.Attrs().Name
	if err := fn(eth, name); err != nil {
		return fmt.Errorf("ethtool on %s: %w", name, err)
	}
	after, err := netlink.LinkByIndex(index)
	switch {
	case err != nil:
		return fmt.Errorf("netdev %d: %w", index, noNetdev(err))
	case after.Attrs().Name != name:
		return fmt.Errorf("netdev %d was %s and is %s now: %w", index, name, after.Attrs().Name, unix.EAGAIN)
	}
	return nil
}

// noNetdev gives the netlink package's word for a missing netdev its errno.
func noNetdev(err error) error {
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return unix.ENODEV
	}
	return err
}

func settings(eth *ethtool.Ethtool, name string, which Setting) (s Settings, err error) {
	switch which {
	case SettingChannels:
		c, err := eth.GetChannels(name)
		s.Channels = Channels{RX: int(c.RxCount), TX: int(c.TxCount), Combined: int(c.CombinedCount)}
		s.MaxChannels = Channels{RX: int(c.MaxRx), TX: int(c.MaxTx), Combined: int(c.MaxCombined)}
		return s, err
	case SettingRings:
		r, err := eth.GetRing(name)
		s.Rings = Rings{RX: int(r.RxPending), Mini: int(r.RxMiniPending), Jumbo: int(r.RxJumboPending), TX: int(r.TxPending)}
		s.MaxRings = Rings{RX: int(r.RxMaxPending), Mini: int(r.RxMiniMaxPending), Jumbo: int(r.RxJumboMaxPending), TX: int(r.TxMaxPending)}
		return s, err
	case SettingFeatures:
		states, err := eth.FeaturesWithState(name)
		for feature, f := range states {
			s.Features = append(s.Features, Feature{
				Name: feature, Wanted: f.Requested, Active: f.Active, Fixed: !f.Available || f.NeverChanged,
			})
		}
		slices.SortFunc(s.Features, func(a, b Feature) int { return strings.Compare(a.Name, b.Name) })
		return s, err
	}
	return s, fmt.Errorf("settings %q: %w", which, unix.EOPNOTSUPP)
}

// set makes one write. What a struct of ethtool's has besides is left as it is.
func set(eth *ethtool.Ethtool, name string, c Call) error {
	switch c.Op {
	case OpChannels:
		want, err := ParseChannels(c.Value)
		if err != nil {
			return err
		}
		now, err := eth.GetChannels(name)
		if err != nil {
			return err
		}
		now.RxCount, now.TxCount, now.CombinedCount = uint32(want.RX), uint32(want.TX), uint32(want.Combined)
		_, err = eth.SetChannels(name, now)
		return err
	case OpRings:
		want, err := ParseRings(c.Value)
		if err != nil {
			return err
		}
		now, err := eth.GetRing(name)
		if err != nil {
			return err
		}
		now.RxPending, now.RxMiniPending, now.RxJumboPending, now.TxPending = uint32(want.RX), uint32(want.Mini), uint32(want.Jumbo), uint32(want.TX)
		_, err = eth.SetRing(name, now)
		return err
	default:
		err := eth.Change(name, map[string]bool{c.Value: c.Number == 1})
		var errno syscall.Errno
		if err != nil && !errors.As(err, &errno) {
			return fmt.Errorf("%w: %w", err, unix.EOPNOTSUPP) // the kernel was not asked: it has no such feature
		}
		return err
	}
}
