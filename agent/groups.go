package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
)

// vfioPCI is the driver that programs use a whole IOMMU group by.
const vfioPCI = "vfio-pci"

var errJoined = errors.New("takes it to vfio-pci with it: they share an IOMMU group, which no program can open while one of them is the kernel's")

// join makes one request, and so one operation, of those that take functions of
// one IOMMU group to vfio-pci: all of them go, or none.
func (v View) join(ctx context.Context, requests []request, s scope) {
	for i := range requests {
		lead := &requests[i]
		if lead.joined = nil; !s.of(*lead) || !lead.toVFIO() {
			continue
		}
		if _, paused := v.paused(lead.target); paused {
			continue // then the others wait for it
		}
		members, err := host.GroupOf(ctx, v.Host, string(lead.target))
		if err != nil {
			lead.unreadable(err)
			continue
		}
		there := func(m host.Member) bool { return m.Address == string(lead.target) && m.Driver == vfioPCI }
		if !slices.ContainsFunc(members, there) {
			v.joinAll(lead, requests, members)
		}
	}
}

// joinAll puts the requests for the other members of a group into one.
func (v View) joinAll(lead *request, requests []request, members []host.Member) {
	for _, m := range members {
		t := drivers.Target(m.Address)
		at := slices.IndexFunc(requests, func(r request) bool { return r.target == t && r.toVFIO() })
		if t == lead.target || m.Driver == vfioPCI || at < 0 {
			continue
		}
		if _, paused := v.paused(t); paused {
			lead.cannot(Waiting, fmt.Errorf("%s shares its IOMMU group and is paused: agent resume %s", t, t))
			return
		}
		lead.take(&requests[at])
	}
}

// toVFIO says that a request is for one function, to go to vfio-pci.
func (r *request) toVFIO() bool {
	return r.err == nil && len(r.makes) == 0 && r.order == nil && !r.released() && r.goal[drivers.Key{Kind: dpdk.KindDriver, Target: r.target}] == dpdk.Bound(vfioPCI)
}

// take puts another function's request into this one.
func (r *request) take(other *request) {
	r.goal = maps.Clone(r.goal)
	maps.Copy(r.goal, other.goal)
	r.first = append(slices.Clip(r.first), other.first...)
	r.joined = append(r.joined, joined{other.target, other.identity})
	other.cannot(Waiting, fmt.Errorf("%s %w", r.target, errJoined))
}

// joined is a function whose request has been taken into another's.
type joined struct {
	target   drivers.Target
	identity drivers.Identity
}

// identityOf is that of a function that a request is about.
func (r *request) identityOf(t drivers.Target) drivers.Identity {
	if t == r.target {
		return r.identity
	}
	for _, j := range r.joined {
		if j.target == t {
			return j.identity
		}
	}
	return drivers.Identity{PF: r.target, PFIncarnation: r.identity.Incarnation}
}

// joinedTo widens a scope by the functions that share an IOMMU group with one of
// it and were joined, or may be now.
func (v View) joinedTo(ctx context.Context, last []request, s scope) {
	key := func(t drivers.Target) drivers.Key { return drivers.Key{Kind: dpdk.KindDriver, Target: t} }
	wanted := func(r request) bool {
		return r.asked.Driver == vfioPCI || r.goal[key(r.target)] == dpdk.Bound(vfioPCI)
	}
	for _, r := range last {
		if !s.has(r.target) || !wanted(r) {
			continue
		}
		members, err := host.GroupOf(ctx, v.Host, string(r.target))
		if err != nil {
			continue // said when it is looked at
		}
		for _, m := range members {
			if slices.ContainsFunc(last, func(o request) bool { return o.target == drivers.Target(m.Address) && wanted(o) }) {
				s.add(drivers.Target(m.Address))
			}
		}
	}
}

// givenBy are the functions that a goal gives to programs, by the driver.
func givenBy(goal plan.Goal) map[drivers.Target]string {
	all := map[drivers.Target]string{}
	for k, state := range goal {
		if b, err := dpdk.Parse(state); k.Kind == dpdk.KindDriver && err == nil && drivers.Userspace(b.Driver) {
			all[k.Target] = b.Driver
		}
	}
	return all
}
