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
		Cuts: changes, After: []drivers.Kind{"driver", KindChannels}, Legal: legalRings, Lands: rounded,
	}
}

func legalRings(t drivers.Target, to drivers.State) error {
	if _, err := host.ParseRings(string(to)); err != nil {
		return fmt.Errorf("%w: %w", drivers.ErrIllegal, err)
	}
	return isPCI(t, KindRings)
}

// rounded says whether a driver that was asked for the rings to may have made x
// of it: what is not to change is as it was, and all else is within a factor of
// two, as of drivers that take powers of two, or enlarged to a small minimum.
func rounded(from, to, x drivers.State) bool {
	const smallest = 512 // no driver's minimum is above it
	was, err1 := host.ParseRings(string(from))
	want, err2 := host.ParseRings(string(to))
	is, err3 := host.ParseRings(string(x))
	if err1 != nil || err2 != nil || err3 != nil {
		return false
	}
	near := func(was, want, is int) bool {
		return is == was || was != want && 2*is >= want && is <= max(2*want, smallest)
	}
	return near(was.RX, want.RX, is.RX) && near(was.Mini, want.Mini, is.Mini) &&
		near(was.Jumbo, want.Jumbo, is.Jumbo) && near(was.TX, want.TX, is.TX)
}

// WithRings is the state at with some of its rings changed.
func WithRings(at drivers.State, change func(*host.Rings)) (drivers.State, error) {
	r, err := parsed(at, host.ParseRings)
	change(&r)
	return drivers.State(r.String()), err
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

// Apply says what to do about a driver that makes another size of what it is
// asked for. It would do so again.
func (r rings) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	was := r.Observe(ctx, t)
	err := r.bring(ctx, t, to)
	var e *drivers.Error
	if !errors.As(err, &e) || !errors.Is(err, drivers.ErrUnverified) {
		return err
	}
	if now := r.Observe(ctx, t); now.Presence == drivers.Present && !now.Is(was.State) {
		e.Err, e.Remedy = fmt.Errorf("%w: %w", e.Err, drivers.ErrUnsupported), "the driver rounds: ask for the size that was found"
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
		{"descriptors in the rx ring", want.RX, s.MaxRings.RX, ""},
		{"descriptors in the rx mini ring", want.Mini, s.MaxRings.Mini, ""},
		{"descriptors in the rx jumbo ring", want.Jumbo, s.MaxRings.Jumbo, ""},
		{"descriptors in the tx ring", want.TX, s.MaxRings.TX, ""},
	})
}
