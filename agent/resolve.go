package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"eniagent/agent/plan"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/link"
	"eniagent/drivers/module"
	"eniagent/journal"
)

// request is one entry of the desired state, resolved to a function of this
// host.
type request struct {
	asked    source.Interface
	entry    string // the selector's text
	kept     bool   // no longer in the source, and not released there
	target   drivers.Target
	identity drivers.Identity
	goal     plan.Goal // of the function
	// first are goals of other targets that must be reached before: modules,
	// no-IOMMU. Each is an operation of its own, in this order.
	first []journal.Goal
	// err says why it cannot be acted on now; condition says which way.
	err       error
	condition Condition
}

func (r *request) cannot(c Condition, err error) {
	r.condition, r.err, r.goal, r.first = c, err, nil, nil
}

// resolver turns desired state into requests.
type resolver struct {
	host    host.Host
	records *journal.Records
	noIOMMU bool // switching no-IOMMU on is allowed
	bootID  string
}

// resolve finds the function each entry stands for, and what is to be true of
// it. An entry that cannot be resolved says so and affects no other.
func (v resolver) resolve(ctx context.Context, interfaces []source.Interface, remembered []journal.Selection) []request {
	links, linksErr := v.host.Links(ctx)
	requests := make([]request, 0, len(interfaces))
	for _, i := range interfaces {
		r := request{asked: i, entry: i.Selector.String()}
		if i.Selector.PCI == "" && linksErr != nil {
			r.cannot(Waiting, fmt.Errorf("list network devices: %w", linksErr))
		} else if t, err := v.find(ctx, i.Selector, links, remembered); err != nil {
			r.cannot(Waiting, err)
			r.target = t
		} else {
			r.target = t
			v.ask(ctx, &r)
		}
		requests = append(requests, r)
	}
	refuseTwice(requests)
	return requests
}

// refuseTwice refuses all entries that stand for one function.
func refuseTwice(requests []request) {
	byTarget := map[drivers.Target][]int{}
	for i, r := range requests {
		if r.target != "" {
			byTarget[r.target] = append(byTarget[r.target], i)
		}
	}
	for t, at := range byTarget {
		if len(at) < 2 {
			continue
		}
		var entries []string
		for _, i := range at {
			entries = append(entries, requests[i].entry)
		}
		for _, i := range at {
			requests[i].cannot(Refused, fmt.Errorf("%s is asked for by %d entries (%s): keep one", t, len(at), strings.Join(entries, ", ")))
		}
	}
}

var errNobody = errors.New("no interface answers to it now")

// find is the function that a selector stands for. A name or a MAC is gone
// while its function sits on a userspace driver; then what it stood for last
// is remembered, and still holds when a new netdev took the name meanwhile.
func (v resolver) find(ctx context.Context, s source.Selector, links []host.Link, remembered []journal.Selection) (drivers.Target, error) {
	if s.PCI != "" {
		if _, err := v.host.Inode(ctx, host.PCIDevices+string(s.PCI)); errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("no PCI function %s: %w", s.PCI, errNobody)
		}
		return s.PCI, nil
	}
	if t, ok := v.remember(ctx, s, remembered); ok {
		return t, nil
	}
	var found []host.Link
	for _, l := range links {
		if matches(s, l) {
			found = append(found, l)
		}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("%s: %w", s, errNobody)
	}
	var targets []drivers.Target
	for _, l := range found {
		if t := v.functionOf(ctx, l); t != "" {
			targets = append(targets, t)
		}
	}
	slices.Sort(targets)
	switch targets = slices.Compact(targets); len(targets) {
	case 0:
		return "", fmt.Errorf("%s is %s, which is not a PCI function", s, found[0].Name)
	case 1:
		return targets[0], nil
	}
	return "", fmt.Errorf("%s is ambiguous: %v; select by pci", s, targets)
}

// matches compares a selector with a link: a MAC with the burned-in address
// first, because members of a bond share the current one.
func matches(s source.Selector, l host.Link) bool {
	if s.Name != "" {
		return l.Name == s.Name || slices.Contains(l.AltNames, s.Name)
	}
	if l.PermMAC != "" {
		return strings.EqualFold(l.PermMAC, s.MAC)
	}
	return strings.EqualFold(l.MAC, s.MAC)
}

// functionOf is the PCI function behind a link; "" when there is none.
func (v resolver) functionOf(ctx context.Context, l host.Link) drivers.Target {
	if device, err := v.host.Readlink(ctx, host.SysNet+l.Name); err == nil {
		if t := host.LastPCI(device); t != "" {
			return t
		}
	}
	if device, err := v.host.Readlink(ctx, host.SysNet+l.Name+"/device"); err == nil {
		if t := host.LastPCI(device); t != "" {
			return t
		}
	}
	if t := drivers.Target(l.Bus); l.Bus != "" {
		if _, ok := t.PCIAddress(); ok {
			return t
		}
	}
	return ""
}

// remember is what a selector stood for last, if that is still the same device
// and has no netdev now.
func (v resolver) remember(ctx context.Context, s source.Selector, remembered []journal.Selection) (drivers.Target, bool) {
	i := slices.IndexFunc(remembered, func(m journal.Selection) bool { return m.Selector == s.String() })
	if i < 0 {
		return "", false
	}
	m := remembered[i]
	now, err := host.Identify(ctx, v.host, m.Target)
	if err != nil || m.Identity.Difference(now) != "" || now.Netdev != 0 {
		return "", false
	}
	return m.Target, true
}

// ask fills in what is to be true of the function.
func (v resolver) ask(ctx context.Context, r *request) {
	id, err := host.Identify(ctx, v.host, r.target)
	if err != nil {
		r.cannot(Waiting, err)
		return
	}
	r.identity, r.goal = id, plan.Goal{}
	if r.asked.State == source.Released {
		v.release(r)
		return
	}
	if r.asked.MTU != 0 {
		r.goal[drivers.Key{Kind: link.KindMTU, Target: r.target}] = link.MTU(r.asked.MTU)
	}
	if r.asked.Up != nil {
		state := link.Down
		if *r.asked.Up {
			state = link.Up
		}
		r.goal[drivers.Key{Kind: link.KindAdmin, Target: r.target}] = state
	}
	if r.asked.Driver != "" {
		r.goal[drivers.Key{Kind: dpdk.KindDriver, Target: r.target}] = dpdk.Bound(r.asked.Driver)
		v.prepare(ctx, r)
	}
}

// prepare asks for what the driver needs: its module, and no-IOMMU where that
// was allowed and there is no IOMMU.
func (v resolver) prepare(ctx context.Context, r *request) {
	driver := r.asked.Driver
	if _, err := v.host.Inode(ctx, host.PCIDrivers+driver); errors.Is(err, fs.ErrNotExist) {
		modules, err := module.Closure(ctx, v.host, driver)
		if err != nil {
			r.cannot(Refused, fmt.Errorf("driver %s is not registered, and %w", driver, err))
			return
		}
		for _, t := range modules {
			r.first = append(r.first, journal.Goal{Key: drivers.Key{Kind: module.Kind, Target: t}, State: module.Loaded})
		}
	}
	if _, err := v.host.Readlink(ctx, host.Attr(string(r.target), "iommu_group")); err == nil || driver != "vfio-pci" {
		return
	}
	if !v.noIOMMU {
		r.cannot(Refused, fmt.Errorf("%w: vfio-pci needs an IOMMU group and %s has none: switch the IOMMU on in the firmware and on the kernel's command line, or see --allow-noiommu", drivers.ErrRefused, r.target))
		return
	}
	key := drivers.Key{Kind: dpdk.KindNoIOMMU, Target: dpdk.NoIOMMUTarget}
	r.first = append(r.first, journal.Goal{Key: key, State: dpdk.NoIOMMUOn})
}

// release asks for the baseline of whatever the agent touched in this boot.
func (v resolver) release(r *request) {
	for _, kind := range []drivers.Kind{dpdk.KindDriver, link.KindMTU, link.KindAdmin} {
		key := drivers.Key{Kind: kind, Target: r.target}
		b, ok := v.records.Baseline(key)
		switch {
		case !ok || b.Class == drivers.Volatile && b.BootID != v.bootID || b.Incarnation != 0 && b.Incarnation != r.identity.Incarnation:
			continue // never touched in this life of the device
		case b.Unknown:
			r.cannot(Refused, fmt.Errorf("it was on %s before the agent first touched it, by another hand: nobody knows what it was before; name its driver instead of releasing it", b.State))
			return
		}
		r.goal[key] = b.State
	}
}
