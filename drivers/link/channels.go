package link

import (
	"fmt"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// KindChannels is the number of queues of a netdev (ethtool -l).
const KindChannels drivers.Kind = "channels"

// ChannelsSpec is the kind channels on any machine. How many a fresh netdev has
// depends on its driver and on the processors. Most drivers close and open the
// netdev to change them.
func ChannelsSpec() drivers.Spec {
	return drivers.Spec{
		Kind: KindChannels, Class: drivers.Volatile, Netdev: true, Fresh: drivers.Default, WhenAsked: true,
		Cuts: changes, After: []drivers.Kind{"driver"}, Legal: legalChannels,
	}
}

// changes says whether a netdev that is there is written: most drivers reset it.
func changes(from, to drivers.State) bool { return from != drivers.Hidden && from != to }

func legalChannels(t drivers.Target, to drivers.State) error {
	if _, err := host.ParseChannels(string(to)); err != nil {
		return fmt.Errorf("%w: %w", drivers.ErrIllegal, err)
	}
	return isPCI(t, KindChannels)
}

// WithChannels is the state at with some of its channels changed.
func WithChannels(at drivers.State, change func(*host.Channels)) (drivers.State, error) {
	c, err := parsed(at, host.ParseChannels)
	change(&c)
	return drivers.State(c.String()), err
}

// parsed reads a state that a part is asked of. Of a driver that has none, and of
// a netdev that is not there yet, what is asked alone is the goal: the driver refuses it
// with its reason.
func parsed[T any](at drivers.State, parse func(string) (T, error)) (v T, err error) {
	if at == "" || at == none || at == drivers.Hidden {
		return v, nil
	}
	return parse(string(at))
}

// NewChannels is the kind channels on this machine.
func NewChannels(h host.Host) drivers.Driver {
	return channels{found: &found{most: map[drivers.Target]ceiling{}}, netdev: netdev{
		host: h, kind: KindChannels, legal: legalChannels,
		read: setting(host.SettingChannels, func(s host.Settings) drivers.State { return drivers.State(s.Channels.String()) }),
		call: func(c host.Call, _, to drivers.State) (host.Call, error) {
			c.Op, c.Value = host.OpChannels, string(to)
			return c, nil
		},
	}}
}

// limit is a number that is asked for, and the highest that there is.
type limit struct {
	what          string
	want, highest int
	or            string // another way out
}

// within refuses what is above a maximum. A function without a netdev says its
// own limits when it is back.
func (n netdev) within(t drivers.Target, to drivers.State, dev host.Netdev, limits []limit) error {
	if dev.Name == "" {
		return nil
	}
	for _, l := range limits {
		if l.want > l.highest {
			return n.refuse(t, to, drivers.ErrRefused, fmt.Sprintf("ask for at most %d%s", l.highest, l.or),
				"%s has at most %d %s, not %d", dev.Name, l.highest, l.what, l.want)
		}
	}
	return nil
}

func (n netdev) unsupported(t drivers.Target, to drivers.State, dev host.Netdev) error {
	return n.refuse(t, to, drivers.ErrUnsupported, fmt.Sprintf("take %s off its entry", n.kind),
		"the driver of %s lets no %s be set", dev.Name, n.kind)
}
