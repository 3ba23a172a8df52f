package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/sriov"
)

// No two functions of a node may have one MAC: a switch sends what is for it to
// the one it heard last, and the spoof check of a physical function drops what
// the other sends. So a MAC that is asked for by two is refused to both, and so is
// that of another NIC; one that another VF has now is taken from it first.

// macOf is the MAC that a request asks its physical function to keep; "" is none.
// One that is only to be given back is not asked for.
func (r *request) macOf() string {
	if r.err != nil || r.released() || r.asked.Port == nil {
		return ""
	}
	return r.asked.Port.MAC
}

// refuseSharedMACs refuses a MAC that is asked for twice, and that of a NIC.
func (v View) refuseSharedMACs(ctx context.Context, requests []request) {
	by := map[string][]int{}
	for i := range requests {
		if mac := requests[i].macOf(); mac != "" {
			by[mac] = append(by[mac], i)
		}
	}
	if len(by) == 0 {
		return
	}
	for i := range requests {
		r := &requests[i]
		key := drivers.Key{Kind: sriov.KindMAC, Target: r.target}
		if back := string(r.goal[key]); r.err == nil && r.macOf() == "" && !r.released() && by[back] != nil {
			r.aim(key, host.NoMAC) // what it had before is another one's now
		}
	}
	ctx, n := host.Noting(ctx)
	taken, err := v.nicMACs(ctx)
	if err == nil {
		err = n.Failed() // whose MAC one is, may hang on it
	}
	for mac, at := range by {
		nic, isNIC := taken[mac]
		var entries []string
		for _, i := range at {
			entries = append(entries, requests[i].named())
		}
		for _, i := range at {
			r := &requests[i]
			switch {
			case len(at) > 1:
				r.cannot(Refused, fmt.Errorf("%w: mac %s is asked for by %d entries (%s): a MAC can be of one VF only, give each its own",
					drivers.ErrRefused, mac, len(at), strings.Join(entries, ", ")))
			case err != nil:
				r.unreadable(fmt.Errorf("look which interface has the MAC %s: %w", mac, err))
			case isNIC:
				r.cannot(Refused, fmt.Errorf("%w: mac %s is that of %s: give the VF one that no other interface of the node has", drivers.ErrRefused, mac, nic))
			}
		}
	}
}

// nicMACs are the MACs of the NICs that are no virtual functions, and whose they
// are. What sits on a NIC, such as a VLAN or a bond, may have that NIC's.
func (v View) nicMACs(ctx context.Context) (map[string]string, error) {
	links, err := v.Host.Links(ctx)
	if err != nil {
		return nil, err
	}
	taken := map[string]string{}
	for _, l := range links {
		if l.Kind != "" {
			continue
		}
		f := host.FunctionOf(ctx, v.Host, l)
		if f != "" {
			if _, err := v.Host.Readlink(ctx, host.Attr(string(f), "physfn")); err == nil {
				continue
			}
		}
		for _, mac := range []string{l.MAC, l.PermMAC} {
			if mac != "" {
				taken[strings.ToLower(mac)] = strings.TrimSpace(l.Name + " " + string(f))
			}
		}
	}
	return taken, nil
}

// moveMACs lets a VF wait for a MAC that another VF has now, and takes it from
// that one, unless nothing is asked of it at all. Where VFs wait for each other's,
// the first of them has none in between.
func (v View) moveMACs(ctx context.Context, requests []request, s scope) {
	held := v.heldMACs(ctx, requests, s)
	if len(held) == 0 {
		return
	}
	waits := map[drivers.Target]drivers.Target{}
	for i := range requests {
		r := &requests[i]
		mac := r.macOf()
		if mac == "" {
			continue
		}
		for holder, has := range held {
			if has != mac || holder == r.target {
				continue
			}
			if held[r.target] != mac {
				waits[r.target] = holder
			}
			v.giveUpMAC(requests, r, holder)
			s.add(holder) // which nothing else may concern now
		}
	}
	for i := range requests {
		r := &requests[i]
		holder, ok := waits[r.target]
		if !ok || r.err != nil {
			continue
		}
		if first := firstInCircle(waits, r.target); first == r.target {
			r.aim(drivers.Key{Kind: sriov.KindMAC, Target: r.target}, host.NoMAC)
			r.later = fmt.Sprintf("it gets its MAC once %s, which waits for the one that it has, has given it up", holder)
			r.unread = true
			continue
		}
		r.unread = true // looked at again soon: the physical function may tell nobody of what it keeps
		r.cannot(Waiting, fmt.Errorf("%s has the MAC %s now, and gives it up first", holder, r.asked.Port.MAC))
	}
}

// giveUpMAC asks the holder of a MAC, which another VF is to have, to have none,
// or what it had before, unless it is asked to have another one anyway.
func (v View) giveUpMAC(requests []request, r *request, holder drivers.Target) {
	key := drivers.Key{Kind: sriov.KindMAC, Target: holder}
	at := slices.IndexFunc(requests, func(o request) bool { return o.target == holder && o.err == nil && o.goal != nil })
	if at < 0 {
		if !slices.ContainsFunc(requests, func(o request) bool { return o.target == holder }) {
			r.cannot(Refused, fmt.Errorf("%w: %s has the MAC %s, and no entry asks for anything of it: take it away there, or ask for another one",
				drivers.ErrRefused, holder, r.macOf()))
		}
		return
	}
	h := &requests[at]
	if to, asked := h.goal[key]; asked && string(to) != r.macOf() {
		return
	}
	if h.released() {
		r.cannot(Refused, fmt.Errorf("%w: %s is given back with the MAC %s, which it had before: ask for another one", drivers.ErrRefused, holder, r.macOf()))
		return
	}
	to := drivers.State(host.NoMAC)
	if b, ok := v.baseline(key, h.identity); ok && !b.Unknown && string(b.State) != r.macOf() {
		to = b.State
	}
	h.aim(key, to)
}

// aim sets one goal more; workers may have the goals there are. What is given back
// and aims elsewhere for now is still to be given back.
func (r *request) aim(k drivers.Key, to drivers.State) {
	if r.goal[k] != to {
		r.left = slices.DeleteFunc(slices.Clone(r.left), func(left drivers.Key) bool { return left == k })
	}
	r.goal = maps.Clone(r.goal)
	r.goal[k] = to
}

// firstInCircle is the first, by address, of those that wait for each other with
// t; "" where they do not.
func firstInCircle(waits map[drivers.Target]drivers.Target, t drivers.Target) drivers.Target {
	first := t
	for at, n := waits[t], 0; n <= len(waits); at, n = waits[at], n+1 {
		if at == "" {
			return ""
		}
		if at == t {
			return first
		}
		first = min(first, at)
	}
	return ""
}

// heldMACs are those of the MACs asked for that VFs have now by the physical
// functions of which any in the scope asks for one.
func (v View) heldMACs(ctx context.Context, requests []request, s scope) map[drivers.Target]string {
	asked, pfs := map[string]bool{}, map[drivers.Target]bool{}
	for i := range requests {
		r := &requests[i]
		if mac, pf := r.macOf(), r.identity.PF; mac != "" && pf != "" {
			asked[mac] = true
			pfs[pf] = pfs[pf] || s.of(*r)
		}
	}
	held := map[drivers.Target]string{}
	for pf, concerned := range pfs {
		if !concerned {
			continue
		}
		for _, vf := range v.having(ctx, pf, asked) {
			// What a VF's driver has made up is none that its physical function keeps.
			o := v.observer().Observe(ctx, drivers.Key{Kind: sriov.KindMAC, Target: vf})
			if o.Presence == drivers.Present && asked[string(o.State)] {
				held[vf] = string(o.State)
			}
		}
	}
	return held
}

// having are the VFs of a physical function that it tells one of these MACs of;
// none where it cannot be asked, which is said where the MAC itself is looked at.
func (v View) having(ctx context.Context, pf drivers.Target, macs map[string]bool) []drivers.Target {
	if fenced, err := v.observer().Fenced(pf); fenced || err != nil {
		return nil
	}
	vfs, err := host.VFsOf(ctx, v.Host, string(pf))
	if err != nil || len(vfs) == 0 {
		return nil
	}
	dev, err := host.NetdevOf(ctx, v.Host, string(pf))
	if err != nil || dev.Name == "" {
		return nil
	}
	kept, err := v.Host.Settings(ctx, dev.Index, host.SettingVFs)
	if err != nil {
		return nil
	}
	var having []drivers.Target
	for _, k := range kept.VFs {
		if macs[k.MAC] && k.Index < len(vfs) {
			having = append(having, vfs[k.Index])
		}
	}
	return having
}
