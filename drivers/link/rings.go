package link

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// KindRings is the size of a netdev's rings, in descriptors (ethtool -g).
const KindRings drivers.Kind = "rings"

// RingsSpec is the kind rings on any machine. A driver gives a fresh netdev the
// sizes it thinks best, and most close and open it to change them. It comes
// after channels: each has rings of its own.
func RingsSpec() drivers.Spec {
	return drivers.Spec{
		Kind: KindRings, Class: drivers.Volatile, Netdev: true, Fresh: drivers.Default, WhenAsked: true,
		Cuts: changes, After: []drivers.Kind{"driver", KindChannels}, Legal: legalRings,
	}
}

func legalRings(t drivers.Target, to drivers.State) error {
	if _, err := host.ParseRings(string(to)); err != nil {
		return fmt.Errorf("%w: %w", drivers.ErrIllegal, err)
	}
	return isPCI(t, KindRings)
}

// WithRings is the state at with some of its rings changed.
func WithRings(at drivers.State, change func(*host.Rings)) drivers.State {
	r, _ := host.ParseRings(string(at)) // none: what is asked alone is the goal, and refused with its reason
	change(&r)
	return drivers.State(r.String())
}

// NewRings is the kind rings on this machine.
func NewRings(h host.Host) drivers.Driver {
	return rings{netdev{
		host: h, kind: KindRings, legal: legalRings,
		read: setting(host.SettingRings, func(s host.Settings) drivers.State { return drivers.State(s.Rings.String()) }),
		call: func(c host.Call, _, to drivers.State) (host.Call, error) {
			c.Op, c.Value = host.OpRings, string(to)
			return c, nil
		},
	}}
}

type rings struct{ netdev }

// Apply says what to do about a driver that takes another size than it is given.
func (r rings) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	err := r.netdev.Apply(ctx, t, to)
	var e *drivers.Error
	if errors.As(err, &e) && errors.Is(err, drivers.ErrUnverified) {
		e.Remedy = "drivers round what is asked: ask for what was found"
	}
	return err
}

// Precheck refuses rings that the device does not have.
func (r rings) Precheck(ctx context.Context, t drivers.Target, _, to drivers.State) error {
	want, err := host.ParseRings(string(to))
	if err != nil {
		return err
	}
	dev, s, err := r.current(ctx, t, host.SettingRings)
	switch {
	case errors.Is(err, syscall.EOPNOTSUPP):
		return r.unsupported(t, to, dev)
	case err != nil:
		return err
	}
	return r.within(t, to, dev, []limit{
		{"descriptors in the rx ring", want.RX, s.MaxRings.RX},
		{"descriptors in the rx mini ring", want.Mini, s.MaxRings.Mini},
		{"descriptors in the rx jumbo ring", want.Jumbo, s.MaxRings.Jumbo},
		{"descriptors in the tx ring", want.TX, s.MaxRings.TX},
	})
}
