package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"eniagent/agent/plan"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/link"
	"eniagent/drivers/module"
	"eniagent/drivers/sriov"
	"eniagent/journal"
	"eniagent/recovery"
)

// request is one entry of the desired state, resolved to a function of this
// host.
type request struct {
	asked    entry
	entry    string // the selector's text
	target   drivers.Target
	identity drivers.Identity
	goal     plan.Goal // of the function
	// first are goals of other targets that must be reached before: modules,
	// no-IOMMU. Each is an operation of its own, in this order.
	first []journal.Goal
	// pf is the physical function whose entry asks for this virtual one; makes
	// are the virtual functions that this request is about as well.
	pf    drivers.Target
	makes []drivers.Target
	// joined are functions of its IOMMU group that go to vfio-pci with it.
	joined []joined
	// untold is how many virtual functions are to be made whose addresses are not
	// known before.
	untold int
	// pool is the name of a pool, of which this request is, and members the
	// requests that ask for it.
	pool    string
	members []request
	// alone is what it would be if no other entry stood for its function; nil when
	// none does. What it came to before that stays.
	alone *request
	// order outranks what the entry asks: the function is to be given back.
	order *journal.Control
	// again says that something was done to it since it was left alone: its PF was
	// given another number of VFs, which makes it anew.
	again bool
	// later is what is not to be had now and said while all else is there, such as
	// what is asked once the function has its netdev; "" is nothing.
	later string
	// left are the keys of the goal that are no longer asked for, and given back.
	left []drivers.Key
	// parts are the kinds of which a part is asked for.
	parts []part
	// notes are what a person may want to know of it all the same.
	notes []string
	// err says why it cannot be acted on now; condition says which way.
	err       error
	condition Condition
	// generation is that of the desired state it was resolved with.
	generation string
	revision   int    // of the entries, as in edition
	unread     bool   // the host could not be read: it is looked at again
	withPods   bool   // of a pool: some of it stays only because a pod has it
	obstacle   string // of a pool: why the plugin does not hand it out as it is in the file
}

func (r *request) cannot(c Condition, err error) {
	r.condition, r.err, r.goal, r.first = c, err, nil, nil
}

// resolve finds the function each entry stands for, and what is to be true of
// it. An entry that cannot be resolved says so and affects no other.
func (v View) resolve(ctx context.Context, entries []entry, remembered []journal.Selection) []request {
	f := finder{view: v, remembered: remembered}
	requests := make([]request, 0, len(entries))
	for _, e := range entries {
		requests = append(requests, f.find(ctx, e))
	}
	return v.recalling().complete(ctx, requests, nil, everything())
}

// complete fills in what is to be true of the functions in a scope; last is how
// all were resolved before.
func (v View) complete(ctx context.Context, requests, last []request, s scope) []request {
	requests = v.outrank(ctx, v.spread(ctx, yield(requests), last, s), s)
	v.keepUnsure(ctx, requests, s)
	for i := range requests {
		requests[i].again = false
		requests[i].again = requests[i].letGo() && v.changed(requests[i].target)

		if requests[i].err == nil && s.of(requests[i]) {
			v.ask(ctx, &requests[i])
		}
	}
	v.refuseSharedMACs(ctx, requests)
	v.gather(ctx, requests, s)
	v.moveMACs(ctx, requests, s)
	v.partNames(ctx, requests, s)
	refuseTwice(requests)
	v.join(ctx, requests, s)
	return v.withPools(requests, s)
}

// yield drops the kept entries whose function another entry of the source
// stands for now: it was only selected in another way.
func yield(requests []request) []request {
	named := map[drivers.Target]bool{}
	for _, r := range requests {
		named[r.target] = named[r.target] || r.target != "" && !r.asked.Kept
	}
	return slices.DeleteFunc(requests, func(r request) bool { return r.asked.Kept && named[r.target] })
}

// keepUnsure lets a function wait that is to be given back while its object asks
// for one that has no netdev to be found by: it may be the same.
func (v View) keepUnsure(ctx context.Context, requests []request, s scope) {
	for i := range requests {
		r := &requests[i]
		if r.err != nil || r.order != nil || !r.asked.Kept || !r.released() || r.asked.Object == "" || !s.of(*r) {
			continue
		}
		ctx, n := host.Noting(ctx)
		at := slices.IndexFunc(requests, func(o request) bool {
			return !o.asked.Kept && o.asked.Object == r.asked.Object && o.asked.Selector.PCI == "" && (errors.Is(o.err, errNobody) || o.unread)
		})
		hidden := at >= 0 && v.userspace(ctx, r.target)
		switch err := n.Failed(); {
		case at >= 0 && requests[at].unread:
			r.unreadable(requests[at].err)
		case at >= 0 && err != nil:
			r.unreadable(err)
		case hidden:
			r.cannot(Waiting, fmt.Errorf("its object asks for %s now, which may be this function: it has no netdev to tell; if it is not, agent release %s", requests[at].entry, r.target))
		}
	}
}

// named is the entry with the object that asks it, where the source is made of
// such.
func (r *request) named() string {
	if r.asked.Object == "" {
		return r.entry
	}
	return r.entry + " of " + r.asked.Object
}

// refuseTwice refuses all entries that stand for one function.
func refuseTwice(requests []request) {
	byTarget, ordered := map[drivers.Target][]int{}, map[drivers.Target]bool{}
	for i, r := range requests {
		switch {
		case r.target == "":
		case r.order == nil:
			byTarget[r.target] = append(byTarget[r.target], i)
		case ordered[r.target]: // one of them is enough to carry the order out
			requests[i].cannot(Waiting, fmt.Errorf("another entry stands for %s, too: it is to be given back, %s", r.target, r.why()))
		default:
			ordered[r.target] = true
		}
	}
	for t, at := range byTarget {
		if len(at) < 2 {
			continue
		}
		var entries []string
		for _, i := range at {
			entries = append(entries, requests[i].named())
		}
		for _, i := range at {
			if alone := requests[i]; alone.err == nil {
				requests[i].alone = &alone
			}
			requests[i].cannot(Refused, fmt.Errorf("%s is asked for by %d entries (%s): keep one", t, len(at), strings.Join(entries, ", ")))
		}
	}
}

var errNobody = errors.New("no interface answers to it now")

// find is the function that a selector stands for. A name or a MAC is gone
// while its function sits on a userspace driver; then what it stood for last
// is remembered, and still holds when a new netdev took the name meanwhile.
func (v View) find(ctx context.Context, s source.Selector, links []host.Link, remembered []journal.Selection) (drivers.Target, error) {
	if s.PCI != "" {
		if _, err := v.Host.Inode(ctx, host.PCIDevices+string(s.PCI)); errors.Is(err, fs.ErrNotExist) {
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
		if t := host.FunctionOf(ctx, v.Host, l); t != "" {
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

// remember is what a selector stood for last, if that is still the same device
// and has no netdev now.
func (v View) remember(ctx context.Context, s source.Selector, remembered []journal.Selection) (drivers.Target, bool) {
	i := slices.IndexFunc(remembered, func(m journal.Selection) bool { return m.Selector == s.String() })
	if i < 0 {
		return "", false
	}
	m := remembered[i]
	now, err := host.Identify(ctx, v.Host, m.Target)
	if err != nil || m.Identity.Difference(now) != "" || now.Netdev != 0 {
		return "", false
	}
	if m.Identity.Incarnation == 0 && !v.userspace(ctx, m.Target) {
		// In another boot another device of the same kind may be at the address, and
		// as long as no driver has it, nobody can tell.
		return "", false
	}
	return m.Target, true
}

// userspace says whether a function is on a driver that leaves it no netdev.
func (v View) userspace(ctx context.Context, t drivers.Target) bool {
	driver, err := host.DriverOf(ctx, v.Host, string(t))
	return err == nil && drivers.Bare(driver)
}

// ask fills in what is to be true of the function, unless that takes a read that
// failed.
func (v View) ask(ctx context.Context, r *request) {
	ctx, n := host.Noting(ctx)
	v.fill(ctx, r)
	if err := n.Failed(); err != nil {
		r.unreadable(err)
	}
}

func (v View) fill(ctx context.Context, r *request) {
	id, err := host.Identify(ctx, v.Host, r.target)
	if err != nil && !v.absentVF(ctx, r) {
		r.cannot(Waiting, err)
		return
	}
	r.identity, r.goal, r.later, r.left, r.parts, r.notes = id, plan.Goal{}, "", nil, nil, nil
	if r.released() {
		v.release(ctx, r)
		return
	}
	if !v.network(ctx, r) {
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
	r.askPort()
	r.parts = v.partsOf(ctx, r)
	for _, p := range r.parts {
		if !v.askPart(ctx, r, p) {
			return
		}
	}
	if r.asked.Driver != "" {
		r.goal[drivers.Key{Kind: dpdk.KindDriver, Target: r.target}] = dpdk.Bound(r.asked.Driver)
		if v.supported(ctx, r) {
			v.prepare(ctx, r)
		}
	}
	v.askBack(ctx, r)
}

// classNetwork is the base class of network controllers (PCI Code and ID
// Assignment Specification).
const classNetwork = "0x02"

// network says whether a function is one of a network. Others are the node's own,
// and may be its disk: an address that is wrong must not take them away.
func (v View) network(ctx context.Context, r *request) bool {
	class, err := v.Host.Read(ctx, host.Attr(string(r.target), "class"))
	switch {
	case err != nil && v.absentVF(ctx, r):
	case err != nil:
		r.cannot(Waiting, err)
	case !strings.HasPrefix(class, classNetwork):
		r.cannot(Refused, fmt.Errorf("%w: %s is no network interface but of class %s: give the address of one, see agent inventory", drivers.ErrRefused, r.target, class))
	}
	return r.err == nil
}

// vfioBackend is the module that vfio reaches the IOMMU through; a kernel whose
// iommufd stands in for it has none (CONFIG_IOMMUFD_VFIO_CONTAINER).
const vfioBackend = "vfio_iommu_type1"

func (v View) lacks(ctx context.Context, path string) bool {
	_, err := v.Host.Inode(ctx, path)
	return errors.Is(err, fs.ErrNotExist)
}

// prepare asks for what the driver needs: its module, and no-IOMMU where that
// was allowed and there is no IOMMU.
func (v View) prepare(ctx context.Context, r *request) {
	driver := r.asked.Driver
	registered := !v.lacks(ctx, host.PCIDrivers+driver)
	// Without its IOMMU backend no program can open what vfio-pci has.
	if !registered || driver == "vfio-pci" && v.lacks(ctx, host.SysModule+vfioBackend) {
		modules, err := module.Closure(ctx, v.Host, driver)
		if err != nil && !registered {
			r.cannot(Refused, fmt.Errorf("driver %s is not registered, and %w", driver, err))
			return
		}
		if !v.remark(ctx, r, modules) {
			return
		}
		for _, t := range modules {
			r.first = append(r.first, journal.Goal{Key: drivers.Key{Kind: module.Kind, Target: t}, State: module.Loaded})
		}
	}
	of := r.target
	if v.absentVF(ctx, r) {
		of = r.pf // what it will be behind
	}
	if _, err := v.Host.Readlink(ctx, host.Attr(string(of), "iommu_group")); err == nil || driver != "vfio-pci" {
		return
	}
	if !v.NoIOMMU {
		r.cannot(Refused, fmt.Errorf("%w: vfio-pci needs an IOMMU group and %s has none: switch the IOMMU on in the firmware and on the kernel's command line, or see --allow-noiommu", drivers.ErrRefused, r.target))
		return
	}
	key := drivers.Key{Kind: dpdk.KindNoIOMMU, Target: dpdk.NoIOMMUTarget}
	r.first = append(r.first, journal.Goal{Key: key, State: dpdk.NoIOMMUOn})
}

// release asks for the baseline of whatever the agent touched in this boot, and
// for what the kernel makes of what the agent had made.
func (v View) release(ctx context.Context, r *request) {
	if r.letGo() {
		return
	}
	driver := drivers.Key{Kind: dpdk.KindDriver, Target: r.target}
	b, ok := v.baseline(driver, r.identity)
	now := v.observer().Observe(ctx, driver)
	spec, _ := v.Drivers.Specs.Find(driver.Kind)
	adopted, known := v.adopted(ctx, r.target)
	if (!ok || b.Unknown) && known {
		b.Unknown, r.goal[driver] = false, adopted
	}
	born, made := v.born(ctx, r)
	made = made && !known
	known = known || made
	switch {
	case ok && b.Unknown:
		r.cannot(Refused, fmt.Errorf("it was on %s before the agent first touched it, by another hand: %s", b.State, sayBaseline(r.target)))
		return
	case !ok && !known && spec.Taken(now.State) && !v.onlyPort(r):
		r.cannot(Refused, fmt.Errorf("it is on %s, and the journal does not know what it was before: %s", now.State, sayBaseline(r.target)))
		return
	}
	for _, kind := range v.functionKinds() {
		key := drivers.Key{Kind: kind, Target: r.target}
		if b, ok := v.baseline(key, r.identity); ok && v.restorable(b) {
			r.goal[key] = b.State
		}
	}
	if made {
		r.goal[driver] = born
		v.unset(ctx, r)
	}
	v.fresh(ctx, r, driver)
	v.withoutGiven(r)
	if to, ok := r.goal[driver]; ok && spec.Hides(to) {
		// What was before had no netdev: what its link was like while the agent had
		// it on another driver is nothing to go back to.
		maps.DeleteFunc(r.goal, func(k drivers.Key, _ drivers.State) bool { return k != driver && !v.ofVF(k) })
	}
}

// unset asks for what a VF has of which nobody has set anything, as far as its
// physical function's driver tells of it.
func (v View) unset(ctx context.Context, r *request) {
	for _, spec := range v.Drivers.Specs {
		to, known := sriov.Unset(spec.Kind)
		if !known {
			continue
		}
		key := drivers.Key{Kind: spec.Kind, Target: r.target}
		if o := v.observer().Observe(ctx, key); o.Presence == drivers.Present && spec.Legal(r.target, o.State) == nil {
			r.goal[key] = to
		}
	}
}

// fresh asks for what the kernel gives a new netdev, where there was none before
// the agent's first write and the one that there is now stays.
func (v View) fresh(ctx context.Context, r *request, driver drivers.Key) {
	if to, ok := r.goal[driver]; !ok || !v.observer().Observe(ctx, driver).Is(to) {
		return
	}
	for _, spec := range v.Drivers.Specs {
		key := drivers.Key{Kind: spec.Kind, Target: r.target}
		if spec.Netdev && spec.Fresh != drivers.Default && v.baselines().Made(key, r.identity) && v.observer().Observe(ctx, key).Presence == drivers.Present {
			r.goal[key] = spec.Fresh
		}
	}
}

// withoutGiven leaves out of a goal what follows from the rest of it: the MAC that a
// physical function has for a VF is what the VF's driver takes when it is probed,
// whatever the netdev had besides.
func (v View) withoutGiven(r *request) {
	for key, to := range maps.Clone(r.goal) {
		if spec, _ := v.Drivers.Specs.Find(key.Kind); spec.Gives != nil {
			for _, given := range spec.Gives(to) {
				delete(r.goal, drivers.Key{Kind: given, Target: key.Target})
			}
		}
	}
}

// born is what the kernel makes of a virtual function that the agent had made:
// nothing was before that. False for any other.
func (v View) born(ctx context.Context, r *request) (drivers.State, bool) {
	if !v.baselines().MadeVF(r.target, r.identity) {
		return "", false
	}
	names, err := module.ByVF(ctx, v.Host, r.identity.PF)
	if err != nil || len(names) != 1 {
		return "", false // as with one that is not known
	}
	return dpdk.Bound(names[0]), true
}

func (v View) ofVF(k drivers.Key) bool {
	spec, _ := v.Drivers.Specs.Find(k.Kind)
	return spec.OfVF
}

// onlyPort says that of a virtual function nothing was touched but what its
// physical one keeps for it: whose program it is in makes no difference.
func (v View) onlyPort(r *request) bool {
	found := false
	for _, kind := range v.functionKinds() {
		k := drivers.Key{Kind: kind, Target: r.target}
		if _, ok := v.baseline(k, r.identity); ok && !v.ofVF(k) {
			return false
		} else if ok {
			found = true
		}
	}
	return found
}

// sayBaseline is what to do about a function whose past nobody knows.
func sayBaseline(t drivers.Target) string {
	return fmt.Sprintf("nobody knows what to give it back to; say it with agent adopt --baseline %s=DRIVER while the agent is stopped, or ask for its driver by name", t)
}

// baselines are what release restores.
func (v View) baselines() recovery.Baselines {
	return recovery.Baselines{Specs: v.Drivers.Specs, Records: v.Records}
}

// baseline is what a key was before the agent first touched it in this boot and
// in this life of its device.
func (v View) baseline(k drivers.Key, id drivers.Identity) (journal.Baseline, bool) {
	return v.baselines().Of(k, id)
}
