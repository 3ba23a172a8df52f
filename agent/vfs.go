package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"eniagent/agent/plan"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/module"
	"eniagent/drivers/sriov"
)

// What an entry asks of virtual functions becomes a request for each of them,
// so that one changes without its siblings. Their number is another matter: a
// change of it makes all of them anew, and one operation on the physical
// function has all there is of all of them.

// spread puts behind each request those for its virtual functions: in a scope
// anew, else as they were last.
//
// A virtual one that the physical one's entry asks nothing of may have an entry
// of its own, which then stands in its place.
func (v View) spread(ctx context.Context, requests, last []request, s scope) []request {
	var all []request
	addresses, taken := v.addresses(ctx, requests, s)
	for _, r := range requests {
		asked := r.asked.VFs
		if r.pf != "" || taken[r.entry] {
			continue // it comes with its PF
		}
		released := r.asked.State == source.Released || v.ordered(ctx, r.target, requests)
		if r.target != "" && !s.of(r) {
			all = append(append(all, r), virtual(last, r.target)...)
			continue
		}
		if asked == nil && !released || r.err != nil && !r.knownBefore() {
			left := v.leftVFs(ctx, &r, requests)
			all = append(append(all, r), left...)
			continue
		}
		if released {
			vfs, err := v.givenBack(ctx, r, requests)
			if err != nil {
				r.unreadable(err)
			}
			all = append(append(all, r), vfs...)
			continue
		}
		made := addresses[r.target]
		r.make(made)
		all = append(all, r)
		all = append(all, v.virtualOf(r, made, s)...)
	}
	return all
}

// knownBefore says that an entry cannot be read now, and which function it stood
// for last.
func (r *request) knownBefore() bool { return r.unread && r.target != "" }

// make asks for the virtual functions, unless they cannot be had now.
func (r *request) make(m made) {
	switch {
	case m.unread:
		r.unreadable(m.err)
	case m.err != nil:
		r.cannot(conditionOf(m.err), m.err)
	default:
		r.makes, r.untold = append(r.makes, m.all...), m.untold
	}
}

// virtualOf are the requests for what a physical one is asked to have, which
// widen the scope.
func (v View) virtualOf(pf request, m made, s scope) (all []request) {
	for i, t := range m.all {
		s.add(t)
		_, own := m.own[t]
		kept := m.err == nil || slices.Contains(m.last, t) || v.everTouched(t)
		if vf, ok := m.request(pf, i); ok && (own || kept) {
			all = append(all, vf)
		}
	}
	return all
}

// made are the virtual functions that a physical one is asked to have. Where it
// cannot have them, they are those of them that it has, and where that cannot be
// read, those that it was last asked to have: of these, what was asked before or
// touched is kept as it is asked.
type made struct {
	all    []drivers.Target
	untold int                        // how many it is asked to have, where their addresses are not known yet
	own    map[drivers.Target]request // those that have an entry of their own
	last   []drivers.Target           // that were asked for before
	err    error
	unread bool // err is that they could not be read
}

// request is the one for the VF with an index; false where it has another
// already.
func (m made) request(pf request, index int) (request, bool) {
	t, vf := m.all[index], pf.asked.VFs.Of(index)
	if r, ok := m.own[t]; ok {
		return r, r.pf != ""
	}
	return request{
		asked: entry{Kept: pf.asked.Kept, Interface: source.Interface{
			Selector: source.Selector{PCI: t}, State: source.Configured, Up: vf.Up, MTU: vf.MTU, Driver: vf.Driver, Pool: vf.Pool,
			Port: portOf(vf), AllowManagementPath: pf.asked.AllowManagementPath, OnStop: pf.asked.OnStop, Object: pf.asked.Object,
		}},
		entry: fmt.Sprintf("%s vf %d", pf.entry, index), target: t, pf: pf.target,
	}, true
}

// addresses are the virtual functions that the physical ones in a scope are
// asked to have; taken are the entries that stand for one of them.
func (v View) addresses(ctx context.Context, requests []request, s scope) (by map[drivers.Target]made, taken map[string]bool) {
	by, taken = map[drivers.Target]made{}, map[string]bool{}
	for _, pf := range requests {
		if pf.asked.VFs == nil || pf.err != nil && !pf.knownBefore() || !s.of(pf) || pf.asked.State == source.Released || v.ordered(ctx, pf.target, requests) {
			continue
		}
		m := v.makesOf(ctx, pf)
		for i, t := range m.all {
			if pf.asked.VFs.Of(i) != (source.VF{}) {
				continue
			}
			own, ok := ownOf(requests, t)
			switch {
			case !ok:
			case own.asked.State == source.Released: // by itself
				m.own[t] = own
			default:
				own.pf, own.target = pf.target, t
				if errors.Is(own.err, errNobody) {
					own.err, own.condition = nil, ""
				}
				m.own[t], taken[own.entry] = own, true
			}
		}
		by[pf.target] = m
	}
	return by, taken
}

// makesOf are the virtual functions that a physical one is asked to have.
func (v View) makesOf(ctx context.Context, pf request) made {
	ctx, n := host.Noting(ctx)
	m := made{own: map[drivers.Target]request{}, last: v.lastVFs(pf.target)}
	if m.err = pf.err; m.err == nil {
		m.all, m.err = v.vfAddresses(ctx, pf.target, pf.asked.VFs.Count)
	}
	if errors.Is(m.err, sriov.ErrUntold) {
		m.untold, m.err = pf.asked.VFs.Count, nil
	}
	if m.err == nil {
		return m
	}
	m.all, _ = host.VFsOf(ctx, v.Host, string(pf.target)) // the first error says it
	if m.unread = pf.unread || n.Failed() != nil; m.unread && len(m.last) > 0 {
		m.all = m.last
	}
	m.all = m.all[:min(len(m.all), pf.asked.VFs.Count)]
	return m
}

// ownOf is the entry of its own that a VF has, which may still be to be made.
func ownOf(requests []request, t drivers.Target) (request, bool) {
	i := slices.IndexFunc(requests, func(r request) bool {
		return (r.target == t || r.asked.Selector.PCI == t) && r.asked.VFs == nil && !r.ordered()
	})
	if i < 0 {
		return request{}, false
	}
	return requests[i], true
}

// virtual are the requests for the virtual functions of a physical one.
func virtual(requests []request, pf drivers.Target) []request {
	return slices.DeleteFunc(slices.Clone(requests), func(r request) bool { return r.pf != pf })
}

// givenBack are requests to give back the virtual functions of a released one
// that were touched. While it has other ones than it had before, they are given
// back with it. An error is that nobody can tell now.
func (v View) givenBack(ctx context.Context, r request, requests []request) (all []request, err error) {
	ctx, n := host.Noting(ctx)
	defer func() {
		if unread := n.Failed(); unread != nil {
			all, err = nil, unread
		}
	}()
	addresses, vfsErr := host.VFsOf(ctx, v.Host, string(r.target))
	if vfsErr != nil {
		return nil, nil // it is looked at itself, which says why
	}
	for i, t := range addresses {
		named := slices.ContainsFunc(requests, func(o request) bool { return o.target == t && o.pf == "" })
		if named || !v.everTouched(t) {
			continue
		}
		all = append(all, request{
			asked: entry{Kept: r.asked.Kept, Interface: source.Interface{Selector: source.Selector{PCI: t}, Object: r.asked.Object, State: source.Released}},
			entry: fmt.Sprintf("%s vf %d", r.entry, i), target: t, pf: r.target,
		})
	}
	id, idErr := host.Identify(ctx, v.Host, r.target)
	key := drivers.Key{Kind: sriov.KindNumVFs, Target: r.target}
	if b, ok := v.baseline(key, id); len(all) == 0 || idErr != nil || ok && !v.observer().Observe(ctx, key).Is(b.State) {
		return nil, nil
	}
	return all, nil
}

// portOf is what is asked of the physical function for a VF; nil is nothing.
func portOf(vf source.VF) *source.Port {
	if vf.Port == (source.Port{}) {
		return nil
	}
	return &vf.Port
}

// gather puts what is asked of the virtual functions into the request of the
// physical one whose change makes them, and lets theirs wait for it.
func (v View) gather(ctx context.Context, requests []request, s scope) {
	v.goWithPF(ctx, requests, s)
	for i := range requests {
		r := &requests[i]
		key := drivers.Key{Kind: sriov.KindNumVFs, Target: r.target}
		left := slices.Contains(r.left, key)
		if !s.of(*r) || r.err != nil || r.asked.VFs == nil && !r.released() && !left {
			continue
		}
		ctx, n := host.Noting(ctx)
		v.gatherOne(ctx, r, requests)
		if err := n.Failed(); err != nil {
			r.leaveUnread(requests, err)
		}
	}
}

// leaveUnread leaves a physical function alone that could not be read, and with it
// the virtual ones that were to wait for it.
func (r *request) leaveUnread(requests []request, err error) {
	r.makes = nil
	r.unreadable(err)
	for i := range requests {
		if vf := &requests[i]; vf.pf == r.target && errors.Is(vf.err, errMadeFirst) {
			vf.unreadable(err)
		}
	}
}

func (v View) gatherOne(ctx context.Context, r *request, requests []request) {
	key := drivers.Key{Kind: sriov.KindNumVFs, Target: r.target}
	left := slices.Contains(r.left, key)
	now := v.observer().Observe(ctx, key)
	if !r.released() && !left {
		r.goal[key] = v.wantedVFs(key, r, now).State()
	}
	want, ok := r.goal[key]
	r.makes = nil
	if !ok || now.Is(want) {
		return
	}
	spec, _ := v.Drivers.Specs.Find(key.Kind)
	if vf, asked := stillAsked(requests, r, spec.Makes(now.State), spec.Makes(want)); asked && r.order == nil {
		r.cannot(Held, fmt.Errorf("%w: %s would go, and %s asks for it: give that back first, or ask for as many VFs", drivers.ErrHeld, vf.target, vf.named()))
		return
	}
	if r.released() || left {
		v.restore(r, spec.Makes(want))
	} else {
		v.absorb(ctx, r, requests, justMade(now.State, want))
	}
	r.makes = slices.Concat(spec.Makes(now.State), spec.Makes(want))
	slices.Sort(r.makes)
	r.makes = slices.Compact(r.makes)
}

// stillAsked is a virtual function that goes with a change of their number, and
// that an entry of its own asks for.
func stillAsked(requests []request, pf *request, now, want []drivers.Target) (request, bool) {
	i := slices.IndexFunc(requests, func(r request) bool {
		return r.pf != pf.target && r.asked.State == source.Configured && r.order == nil && slices.Contains(now, r.target) && !slices.Contains(want, r.target)
	})
	if i < 0 {
		return request{}, false
	}
	return requests[i], true
}

// goWithPF lets an entry of its own wait whose virtual function goes with its
// physical one, which a person has ordered to be given back.
func (v View) goWithPF(ctx context.Context, requests []request, s scope) {
	for i := range requests {
		r := &requests[i]
		pf := r.identity.PF
		if !s.of(*r) || r.err != nil || r.released() || r.pf != "" || pf == "" || !v.ordered(ctx, pf, requests) {
			continue
		}
		key := drivers.Key{Kind: sriov.KindNumVFs, Target: pf}
		spec, _ := v.Drivers.Specs.Find(key.Kind)
		if b, ok := v.baseline(key, drivers.Identity{}); ok && !b.Unknown && !slices.Contains(spec.Makes(b.State), r.target) {
			r.cannot(Waiting, fmt.Errorf("it goes with %s, which is to be given back by an order: agent release --cancel %s keeps both", pf, pf))
		}
	}
}

var errMadeFirst = errors.New("makes its VFs first")

// absorb takes what is asked of its virtual functions into a request.
func (v View) absorb(ctx context.Context, r *request, requests []request, how makingOf) {
	for i := range requests {
		vf := &requests[i]
		if vf.pf != r.target || vf.released() || vf.err != nil {
			continue
		}
		maps.Copy(r.goal, vf.goal)
		r.first = append(r.first, vf.first...)
		if _, named := vf.goal[drivers.Key{Kind: dpdk.KindDriver, Target: vf.target}]; !named {
			v.natural(ctx, r, vf.target, how)
		}
		vf.cannot(Waiting, fmt.Errorf("%s %w", r.target, errMadeFirst))
	}
}

// restore asks for what the virtual functions were before they were touched.
func (v View) restore(r *request, vfs []drivers.Target) {
	for _, t := range vfs {
		for _, kind := range v.functionKinds() {
			key := drivers.Key{Kind: kind, Target: t}
			if b, ok := v.baseline(key, drivers.Identity{}); ok && v.restorable(b) {
				r.goal[key] = b.State
			}
		}
	}
	v.withoutGiven(r)
}

// wantedVFs are those that a request asks for, with the switch as it was before
// the agent first touched it.
func (v View) wantedVFs(key drivers.Key, r *request, now drivers.Observation) sriov.VFs {
	want := sriov.VFs{Autoprobe: true, Addresses: r.makes}
	if n, making := v.makingUntold(key, r); making {
		return sriov.VFs{Count: n}
	}
	was := now.State
	if b, ok := v.baseline(key, r.identity); ok {
		was = b.State
	}
	if vfs, err := sriov.Parse(was); err == nil {
		want.Autoprobe = vfs.Autoprobe
	}
	if r.untold > 0 {
		return firstMake(r.untold, want.Autoprobe, now.State)
	}
	return want
}

// natural asks for the driver that the kernel has for a function that is still
// to be made, unless it is there now, and has one; none is no driver.
func (v View) natural(ctx context.Context, r *request, t drivers.Target, how makingOf) {
	key := drivers.Key{Kind: dpdk.KindDriver, Target: t}
	now := v.observer().Observe(ctx, key)
	if now.Presence == drivers.Present && !(how.just && now.Is(dpdk.Binding{}.State())) {
		return // it stays as it is
	}
	if !how.probed {
		if r.goal != nil {
			r.goal[key] = dpdk.Binding{}.State()
		}
		return // as the kernel leaves it while nothing is probed
	}
	names, err := module.ByVF(ctx, v.Host, r.target)
	switch {
	case err != nil:
		r.cannot(Pending, fmt.Errorf("find the kernel's driver for the VFs of %s: %w", r.target, err))
	case len(names) > 1:
		r.cannot(Refused, fmt.Errorf("%w: several drivers take the VFs of %s (%v): say which, with vfs.defaults.driver", drivers.ErrRefused, r.target, names))
	case len(names) == 1 && r.goal != nil:
		r.goal[key] = dpdk.Bound(names[0])
	case r.goal != nil:
		r.goal[key] = dpdk.Binding{}.State()
	}
}

// family widens a scope by those who are in one operation at times: a physical
// function that VFs are asked of, and these.
func family(last []request, s scope) {
	for _, r := range last {
		if r.pf != "" && (s.has(r.target) || s.has(r.pf)) {
			s.add(r.pf)
		}
	}
	for _, r := range last {
		if r.pf != "" && s.has(r.pf) {
			s.add(r.target)
		}
	}
}

// absentVF says that a request is for a VF that its PF does not make now.
func (v View) absentVF(ctx context.Context, r *request) bool {
	_, err := v.Host.Inode(ctx, host.PCIDevices+string(r.target))
	return r.pf != "" && errors.Is(err, fs.ErrNotExist)
}

// targets are all functions that a request is about.
func (r *request) targets() []drivers.Target {
	all := append([]drivers.Target{r.target}, r.makes...)
	for _, j := range r.joined {
		all = append(all, j.target)
	}
	return all
}

// keysOf are the keys that are looked at for a request.
func (v View) keysOf(r request) plan.Goal {
	keys := plan.Goal{}
	for _, t := range r.targets() {
		for _, kind := range v.functionKinds() {
			if key := (drivers.Key{Kind: kind, Target: t}); v.concerns(r, key) {
				keys[key] = ""
			}
		}
	}
	return keys
}
