package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"

	"eniagent/agent/guard"
	"eniagent/agent/plan"
	"eniagent/agent/source/kubelet"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// onPath is the standing order that remembers a target of the management path.
const onPath = "management-path"

// Allocated is what guard.Options wants.
func (o Options) Allocated(r host.Reader) func(context.Context, time.Time) (map[drivers.Target]string, error) {
	if o.PodResources == "" {
		return nil
	}
	return kubelet.New(o.PodResources, func(ctx context.Context, number string) ([]drivers.Target, error) {
		return host.OpenableIn(ctx, r, number)
	}).Allocated
}

// newGuard is the guard with what this agent knows.
func (a *Agent) newGuard() *guard.Guard {
	a.view.Rules = guard.Options{
		Own: a.c.Own, Reach: a.c.Reach, WithoutDefault: a.c.WithoutDefault, Registry: a.c.Registry,
		Allocated: a.c.Allocated, Restores: a.restores,
		Allowed: func(t drivers.Target) string {
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.allowed[t]
		},
		Wanted: func(t drivers.Target) bool {
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.given[t] == vfioPCI
		},
	}
	return a.view.NewGuard(a.view.Rules)
}

// asking is the view whose guard goes by what some requests allow and give away,
// in place of what was last in force.
func (v View) asking(requests []request) View {
	if v.Guard == nil {
		return v
	}
	allowed, given := permitted(requests)
	o := v.Rules
	o.Registry = nil // nothing is refused by it, it is only asked
	o.Allowed = func(t drivers.Target) string { return allowed[t] }
	o.Wanted = func(t drivers.Target) bool { return given[t] == vfioPCI }
	v.Guard = v.NewGuard(o)
	return v
}

// NewGuard is a guard of the view's host that remembers what the journal does.
// What entries allow and give away is read from the journal too, unless the
// options know it better.
func (v View) NewGuard(o guard.Options) *guard.Guard {
	o.Host, o.Specs, o.Remembered = v.Host, v.Drivers.Specs, v.rememberedPath
	o.Opened, o.Baseline = v.opened, v.stateBefore
	allowed, given := v.permissions()
	if o.Allowed == nil {
		o.Allowed = func(t drivers.Target) string { return allowed[t] }
	}
	entries := o.Allowed
	o.Allowed = func(t drivers.Target) string { return cmp.Or(entries(t), v.orderAllows(t)) }
	if o.Wanted == nil {
		o.Wanted = func(t drivers.Target) bool { return given[t] == vfioPCI }
	}
	return guard.New(o)
}

// permissions are what the last good desired state allows on the management
// path, and which functions it gives to programs, by the driver.
func (v View) permissions() (allowed, given map[drivers.Target]string) {
	allowed, given = map[drivers.Target]string{}, map[drivers.Target]string{}
	for _, d := range v.Records.Sources() {
		doc, err := documentIn(d)
		if err != nil {
			continue // said where it is restored
		}
		for _, e := range doc.Entries {
			for _, t := range targetsOf(e, d.Selections) {
				if e.AllowManagementPath != "" {
					allowed[t] = e.AllowManagementPath
				}
				if drivers.Userspace(e.Driver) {
					given[t] = e.Driver
				}
			}
		}
		for _, g := range d.Goals { // virtual functions have no entry of their own
			maps.Copy(given, givenBy(plan.Goal{g.Key: g.State}))
		}
	}
	return allowed, given
}

// targetsOf are the functions that an entry stands for, as far as they are
// known without looking.
func targetsOf(e entry, selections []journal.Selection) (ts []drivers.Target) {
	if e.Selector.PCI != "" {
		return []drivers.Target{e.Selector.PCI}
	}
	for _, s := range selections {
		if s.Selector == e.String() {
			ts = append(ts, s.Target)
		}
	}
	return ts
}

// restores says that desired state gives a function to a program, as an earlier
// boot did, and that nothing was done to it in this one.
func (a *Agent) restores(t drivers.Target) bool {
	a.mu.Lock()
	given := a.given[t]
	a.mu.Unlock()
	if given == "" {
		return false
	}
	driver := drivers.Key{Kind: dpdk.KindDriver, Target: t}
	for _, op := range a.c.Journal.History(0) {
		after, concerned := op.After()[driver]
		if !concerned || op.State != journal.Done {
			continue
		}
		b, err := dpdk.Parse(after)
		return err == nil && drivers.Userspace(b.Driver) && op.BootID != a.c.BootID
	}
	return false
}

// notePermissions notes what the entries allow and give away, which the guard
// asks for.
func (a *Agent) notePermissions(requests []request) {
	allowed, given := permitted(requests)
	a.mu.Lock()
	a.allowed, a.given = allowed, given
	a.mu.Unlock()
}

// permitted are what requests allow on the management path, and which functions
// they give to programs, by the driver.
func permitted(requests []request) (allowed, given map[drivers.Target]string) {
	allowed, given = map[drivers.Target]string{}, map[drivers.Target]string{}
	for _, r := range requests {
		if r.asked.AllowManagementPath != "" {
			allowed[r.target] = r.asked.AllowManagementPath
		}
		maps.Copy(given, givenBy(r.goal))
	}
	return allowed, given
}

// notePath remembers, by identity and durably, what is on the management path
// now: its routes may be gone when it matters.
func (a *Agent) notePath(ctx context.Context) {
	if a.readOnly() {
		return
	}
	network, err := a.c.Host.Network(ctx, a.c.Reach)
	if err != nil {
		level.Warn(a.logger).Log("err", err, "msg", "management path not read, what is remembered of it stands")
		return
	}
	protected := a.guard.Protected(ctx, network)
	for _, t := range slices.Sorted(maps.Keys(protected)) {
		if protected[t].Unsure != "" {
			continue // it may not be on it tomorrow
		}
		if err := a.rememberTarget(ctx, t, protected[t].What); err != nil {
			level.Warn(a.logger).Log("target", t, "err", err, "msg", "target of the management path not remembered")
		}
	}
}

// noteRefused remembers a function that was found on the management path while
// it was looked at: the next full pass may find its routes gone.
func (a *Agent) noteRefused(ctx context.Context, err error) {
	var refusal *guard.Refusal
	if !errors.As(err, &refusal) || refusal.Rule != guard.Management || a.readOnly() {
		return
	}
	if _, known := a.c.Journal.Control(onPath, refusal.Target); known {
		return
	}
	why, sure := strings.CutPrefix(refusal.Why, "it carries ")
	if !sure {
		return
	}
	if err := a.rememberTarget(ctx, refusal.Target, why); err != nil {
		level.Warn(a.logger).Log("target", refusal.Target, "err", err, "msg", "target of the management path not remembered")
	}
}

func (a *Agent) rememberTarget(ctx context.Context, t drivers.Target, why string) error {
	id, err := host.Identify(ctx, a.c.Host, t)
	if err != nil {
		return err
	}
	// Inodes and indexes are another kernel's after the next boot.
	id.Incarnation, id.PFIncarnation, id.Netdev = 0, 0, 0
	text, err := json.Marshal(id)
	if err != nil {
		return err
	}
	facts := map[string]string{"identity": string(text)}
	was, known := a.c.Journal.Control(onPath, t)
	if origin := was.Facts[factOrigin]; known && origin != "" || !known && a.view.brought(t) {
		facts[factOrigin] = originAgent
	}
	return a.c.Journal.SetControl(ctx, journal.Control{Action: onPath, Target: t, Why: why, Facts: facts})
}

// rememberedPath is what was once on the management path and is still the same
// device.
func (v View) rememberedPath() map[drivers.Target]string {
	remembered := map[drivers.Target]string{}
	for _, c := range v.Records.Controls() {
		if c.Action != onPath {
			continue
		}
		var id drivers.Identity
		if err := json.Unmarshal([]byte(c.Facts["identity"]), &id); err != nil {
			remembered[c.Target] = c.Why // no reason to forget it
			continue
		}
		now, err := host.Identify(context.Background(), v.Host, c.Target)
		if err != nil || id.Difference(now) == "" {
			remembered[c.Target] = c.Why
		}
	}
	return remembered
}
