package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"eniagent/agent/plan"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/link"
	"eniagent/drivers/sriov"
	"eniagent/journal"
)

// part is a kind of which an entry names only a part: with is a state in which
// that part is as asked, and all else as it is.
type part struct {
	kind drivers.Kind
	with func(at drivers.State) (drivers.State, error)
	// names are what is asked for of it, and left what no longer is and is to be
	// given back.
	names, left []string
}

// parts are those of an entry.
func parts(i source.Interface) []part {
	var ps []part
	if len(i.AltNames) > 0 {
		ps = append(ps, part{link.KindAltNames, func(at drivers.State) (drivers.State, error) { return link.WithAltNames(at, i.AltNames...) }, i.AltNames, nil})
	}
	if c := i.Channels; c != nil {
		ps = append(ps, part{link.KindChannels, func(at drivers.State) (drivers.State, error) {
			return link.WithChannels(at, func(n *host.Channels) { put(&n.RX, c.RX, &n.TX, c.TX, &n.Combined, c.Combined) })
		}, given(map[string]*int{"rx": c.RX, "tx": c.TX, "combined": c.Combined}), nil})
	}
	if r := i.Rings; r != nil {
		ps = append(ps, part{link.KindRings, func(at drivers.State) (drivers.State, error) {
			return link.WithRings(at, func(n *host.Rings) {
				put(&n.RX, r.RX, &n.Mini, r.Mini, &n.Jumbo, r.Jumbo, &n.TX, r.TX)
			})
		}, given(map[string]*int{"rx": r.RX, "mini": r.Mini, "jumbo": r.Jumbo, "tx": r.TX}), nil})
	}
	if len(i.Features) > 0 {
		ps = append(ps, part{
			link.KindFeatures, func(at drivers.State) (drivers.State, error) { return link.WithFeatures(at, i.Features) },
			slices.Sorted(maps.Keys(i.Features)), nil,
		})
	}
	if i.Port == nil {
		return ps
	}
	if p := i.Port; p.VLAN != nil {
		ps = append(ps, part{sriov.KindVLAN, func(at drivers.State) (drivers.State, error) {
			return sriov.WithVLAN(at, func(v *host.VLAN) {
				put(&v.ID, p.VLAN.ID, &v.QoS, p.VLAN.QoS)
				v.Protocol = cmp.Or(p.VLAN.Protocol, v.Protocol)
			})
		}, vlanNames(p.VLAN), nil})
	}
	if p := i.Port; p.MinTxRate != nil || p.MaxTxRate != nil {
		ps = append(ps, part{sriov.KindRate, func(at drivers.State) (drivers.State, error) {
			return sriov.WithRate(at, func(r *host.Rate) { put(&r.Min, p.MinTxRate, &r.Max, p.MaxTxRate) })
		}, given(map[string]*int{"min": p.MinTxRate, "max": p.MaxTxRate}), nil})
	}
	return ps
}

// askPort asks for what the physical function shall keep for this one, as far
// as it is asked as a whole.
func (r *request) askPort() {
	p := r.asked.Port
	if p == nil {
		return
	}
	ask := func(kind drivers.Kind, to string) {
		if to != "" {
			r.goal[drivers.Key{Kind: kind, Target: r.target}] = drivers.State(to)
		}
	}
	onOff := func(on *bool) string {
		if on == nil {
			return ""
		}
		return map[bool]string{true: "on", false: "off"}[*on]
	}
	ask(sriov.KindMAC, p.MAC)
	ask(sriov.KindTrust, onOff(p.Trust))
	ask(sriov.KindSpoofCheck, onOff(p.SpoofCheck))
	ask(sriov.KindLinkState, p.LinkState)
}

// put sets each first of two to the second, where there is one.
func put(pairs ...*int) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != nil {
			*pairs[i] = *pairs[i+1]
		}
	}
}

// askPart asks for a part of a kind; false when it cannot be said what that is.
//
// While an operation on it is under way, its goal is the state after: what is
// observed half-way may lead elsewhere, and a goal that is another one would
// have the operation withdrawn. While the function has no netdev, the goal is
// what was before, and without such a thing what the netdev will have: that is
// seen only when it is there.
func (v View) askPart(ctx context.Context, r *request, p part) bool {
	key := drivers.Key{Kind: p.kind, Target: r.target}
	if after, ok := v.underWay(key); ok {
		if with, err := p.with(after); err == nil && with == after {
			r.goal[key] = after
			return true
		}
	}
	from := func(at drivers.State) bool {
		with, err := p.with(at)
		if err != nil {
			r.cannot(Pending, fmt.Errorf("%s: what it is now cannot be read: %w", key, err))
			return false
		}
		r.goal[key] = with
		return true
	}
	spec, _ := v.Drivers.Specs.Find(p.kind)
	switch o := v.observer().Observe(ctx, key); {
	case o.Presence == drivers.Present:
		return from(o.State)
	case o.Presence == drivers.Concealed && spec.OfVF:
		return from("") // the VF is still to be made
	case o.Presence == drivers.Concealed:
		b, known := v.baseline(key, r.identity)
		switch {
		case known && !b.Unknown:
			return from(b.State)
		case r.asked.Driver == "":
			r.cannot(Refused, fmt.Errorf("%s: the function has no netdev: %w: ask for a driver of the kernel too", p.kind, drivers.ErrHidden))
			return false
		default:
			r.later = fmt.Sprintf("%s is set once its netdev is there", p.kind)
		}
	default:
		err := o.Err
		if err == nil {
			err = drivers.ErrGone
		}
		r.cannot(conditionOf(err), fmt.Errorf("%s: %w", key, err))
		return false
	}
	return true
}

// renew aims the parts at what is observed now: what another hand has added since
// the entry was resolved is none of the agent's business.
func (v View) renew(r *request, observed plan.Observed) error {
	goal := maps.Clone(r.goal) // others have the old one
	for _, p := range r.parts {
		key := drivers.Key{Kind: p.kind, Target: r.target}
		_, asked := goal[key]
		_, under := v.underWay(key)
		if o := observed[key]; asked && !under && o.Presence == drivers.Present && !r.released() {
			with, err := p.with(o.State)
			if err != nil {
				return fmt.Errorf("%s: what it is now cannot be read: %w", key, err)
			}
			goal[key] = with
		}
	}
	r.goal = goal
	return nil
}

// underWay is the state after of the operation on a key that is not closed.
func (v View) underWay(k drivers.Key) (drivers.State, bool) {
	id := v.claimed(k.Target)
	op, ok := v.Records.Get(id)
	after, covered := op.After()[k]
	return after, ok && op.State == journal.Intent && covered && after != drivers.Hidden
}
