package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// netdev is what the kinds of this package share.
type netdev struct {
	host host.Host
	kind drivers.Kind
	// read is the state of the netdev; fs.ErrNotExist is that it went meanwhile.
	read func(context.Context, host.Reader, host.Netdev) (drivers.State, error)
	// legal is the kind's allow-list.
	legal func(drivers.Target, drivers.State) error
	// hops are the states on the way, each one write further; nil is one hop.
	hops func(from, to drivers.State) []drivers.State
	// call is the write that brings the netdev from one state to the next.
	call func(c host.Call, from, to drivers.State) (host.Call, error)
}

// attribute reads a state from the text of an attribute in sysfs.
func attribute(name string, state func(text string) (drivers.State, error)) func(context.Context, host.Reader, host.Netdev) (drivers.State, error) {
	return func(ctx context.Context, r host.Reader, dev host.Netdev) (drivers.State, error) {
		text, err := dev.Attr(ctx, r, name)
		if err != nil {
			return "", err
		}
		return state(text)
	}
}

// none is the state where the netdev's driver has nothing of the kind to set. It
// is never written.
const none drivers.State = "-"

// setting reads a state from a group of the netdev's settings.
func setting(which host.Setting, state func(host.Settings) drivers.State) func(context.Context, host.Reader, host.Netdev) (drivers.State, error) {
	return func(ctx context.Context, r host.Reader, dev host.Netdev) (drivers.State, error) {
		s, err := r.Settings(ctx, dev.Index, which)
		switch {
		case errors.Is(err, syscall.EOPNOTSUPP):
			return none, nil
		case errors.Is(err, syscall.ENODEV):
			return "", fmt.Errorf("%w: %w", fs.ErrNotExist, err)
		case err != nil:
			return "", err
		}
		return state(s), nil
	}
}

// Observe reads the attribute of the function's netdev. It is Concealed while
// the function has none.
func (n netdev) Observe(ctx context.Context, t drivers.Target) drivers.Observation {
	unseen := func(err error) drivers.Observation {
		return drivers.Observation{Presence: drivers.Unobservable, Err: err}
	}
	address, ok := t.PCIAddress()
	if !ok {
		return unseen(fmt.Errorf("%q: %w", t, drivers.ErrIllegal))
	}
	dev, err := host.NetdevOf(ctx, n.host, address)
	if err != nil {
		return unseen(err)
	}
	if dev.Name == "" {
		if _, err := n.host.Inode(ctx, host.PCIDevices+address); errors.Is(err, fs.ErrNotExist) {
			return drivers.Observation{Presence: drivers.Gone}
		}
		return drivers.Seen(drivers.Hidden)
	}
	state, err := n.read(ctx, n.host, dev)
	if errors.Is(err, fs.ErrNotExist) {
		if err = dev.Went(ctx, n.host, address, err); err == nil {
			return drivers.Seen(drivers.Hidden) // it went between the two reads
		}
	}
	if err != nil {
		return unseen(fmt.Errorf("read %s of %s: %w", n.kind, dev.Name, err))
	}
	o := drivers.Seen(state)
	o.Netdev = dev.Index
	return o
}

// Apply writes the netdev the function has now, and reads it back.
func (n netdev) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	return n.bring(ctx, t, to)
}

// bring is Apply, for the kinds that say more of how it ended.
func (n netdev) bring(ctx context.Context, t drivers.Target, to drivers.State) error {
	fault := func(do string, err error) error {
		return &drivers.Error{Key: drivers.Key{Kind: n.kind, Target: t}, Do: do, Err: err}
	}
	if err := n.legal(t, to); err != nil {
		return err
	}
	o := n.Observe(ctx, t)
	switch {
	case o.Is(to):
		return nil
	case o.Presence == drivers.Gone:
		return fault("find netdev", drivers.ErrGone)
	case o.Presence == drivers.Concealed:
		return fault("find netdev", drivers.ErrHidden)
	case o.Presence == drivers.Unobservable:
		return fault("find netdev", o.Err)
	}
	hops := []drivers.State{to}
	if n.hops != nil {
		hops = n.hops(o.State, to)
	}
	call := host.Call{Target: t, Index: o.Netdev}
	for from := o.State; len(hops) > 0; from, hops = hops[0], hops[1:] {
		c, err := n.call(call, from, hops[0])
		if err != nil {
			return fault("read the state asked for", err)
		}
		err = n.host.Do(ctx, c)
		o := n.Observe(ctx, t)
		// Another hand was quicker where there is such a thing already, or no longer.
		quicker := errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist)
		switch {
		case err != nil && !(quicker && o.Is(hops[0])):
			return fault("set", err)
		case !o.Is(hops[0]):
			return fault("read back", fmt.Errorf("want %s, found %s: %w", hops[0], o, drivers.ErrUnverified))
		}
	}
	return nil
}

// refuse is a refusal of a state before anything is written.
func (n netdev) refuse(t drivers.Target, to drivers.State, cause error, remedy, why string, args ...any) error {
	return &drivers.Error{
		Key: drivers.Key{Kind: n.kind, Target: t}, Do: "precheck " + string(to),
		Err: fmt.Errorf("%w: %s", cause, fmt.Sprintf(why, args...)), Remedy: remedy,
	}
}

// current is the netdev of a function and one group of its settings; the name is
// "" while it has none.
func (n netdev) current(ctx context.Context, t drivers.Target, which host.Setting) (host.Netdev, host.Settings, error) {
	dev, err := host.NetdevOf(ctx, n.host, string(t))
	if err != nil || dev.Name == "" {
		return host.Netdev{}, host.Settings{}, err
	}
	s, err := n.host.Settings(ctx, dev.Index, which)
	if err != nil {
		return dev, s, fmt.Errorf("read %s of %s: %w", which, dev.Name, err)
	}
	return dev, s, nil
}

// isPCI is the target that all kinds of this package have.
func isPCI(t drivers.Target, kind drivers.Kind) error {
	if _, ok := t.PCIAddress(); !ok {
		return fmt.Errorf("target %q of %s: %w", t, kind, drivers.ErrIllegal)
	}
	return nil
}
