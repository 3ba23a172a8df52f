package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// netdev is what the kinds of this package share.
type netdev struct {
	host host.Host
	kind drivers.Kind
	attr string // in sysfs
	// legal is the kind's allow-list.
	legal func(drivers.Target, drivers.State) error
	// state reads the attribute's text.
	state func(text string) (drivers.State, error)
	// call is the write that brings the netdev to the state.
	call func(c host.Call, to drivers.State) (host.Call, error)
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
	text, err := dev.Attr(ctx, n.host, n.attr)
	if errors.Is(err, fs.ErrNotExist) {
		return drivers.Seen(drivers.Hidden) // it went between the two reads
	}
	if err != nil {
		return unseen(fmt.Errorf("read %s of %s: %w", n.attr, dev.Name, err))
	}
	state, err := n.state(text)
	if err != nil {
		return unseen(fmt.Errorf("read %s of %s: %w", n.attr, dev.Name, err))
	}
	o := drivers.Seen(state)
	o.Netdev = dev.Index
	return o
}

// Apply writes the netdev the function has now, and reads it back.
func (n netdev) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
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
	call, err := n.call(host.Call{Target: t, Index: o.Netdev}, to)
	if err != nil {
		return fault("read the state asked for", err)
	}
	if err := n.host.Do(ctx, call); err != nil {
		return fault("set", err)
	}
	if o = n.Observe(ctx, t); !o.Is(to) {
		return fault("read back", fmt.Errorf("want %s, found %s: %w", to, o, drivers.ErrUnverified))
	}
	return nil
}
