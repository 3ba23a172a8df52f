package agent

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/go-kit/log/level"

	"eniagent/agent/guard"
	"eniagent/agent/source/kubelet"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// onPath is the standing order that remembers a target of the management path.
const onPath = "management-path"

// Allocated is what guard.Options wants.
func (o Options) Allocated() func(context.Context, time.Time) (map[drivers.Target]string, error) {
	if o.PodResources == "" {
		return nil
	}
	return kubelet.New(o.PodResources).Allocated
}

// newGuard is the guard with what this agent knows.
func (a *Agent) newGuard() *guard.Guard {
	return guard.New(guard.Options{
		Host: a.c.Host, Specs: a.view.Drivers.Specs, Own: a.c.Own, Reach: a.c.Reach,
		WithoutDefault: a.c.WithoutDefault, Registry: a.c.Registry, Remembered: a.rememberedPath,
		Allocated: a.c.Allocated, Restores: a.restores,
		Allowed: func(t drivers.Target) string {
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.allowed[t]
		},
		Wanted: func(t drivers.Target) bool {
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.given[t]
		},
	})
}

// restores says that desired state gives a function to a program, as an earlier
// boot did, and that nothing was done to it in this one.
func (a *Agent) restores(t drivers.Target) bool {
	a.mu.Lock()
	given := a.given[t]
	a.mu.Unlock()
	if !given {
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

// notePath remembers, by identity and durably, what is on the management path
// now: its routes may be gone when it matters. It also notes what the entries
// allow and give away, which the guard asks for.
func (a *Agent) notePath(ctx context.Context, requests []request) {
	allowed, given := map[drivers.Target]string{}, map[drivers.Target]bool{}
	for _, r := range requests {
		if r.asked.AllowManagementPath != "" {
			allowed[r.target] = r.asked.AllowManagementPath
		}
		given[r.target] = drivers.Userspace(r.asked.Driver) && r.goal[drivers.Key{Kind: dpdk.KindDriver, Target: r.target}] != ""
	}
	a.mu.Lock()
	a.allowed, a.given = allowed, given
	a.mu.Unlock()
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
		if err := a.rememberTarget(ctx, t, protected[t]); err != nil {
			level.Warn(a.logger).Log("target", t, "err", err, "msg", "target of the management path not remembered")
		}
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
	return a.c.Journal.SetControl(ctx, journal.Control{
		Action: onPath, Target: t, Why: why, Facts: map[string]string{"identity": string(text)},
	})
}

// rememberedPath is what was once on the management path and is still the same
// device.
func (a *Agent) rememberedPath() map[drivers.Target]string {
	remembered := map[drivers.Target]string{}
	for _, c := range a.c.Journal.Controls() {
		if c.Action != onPath {
			continue
		}
		var id drivers.Identity
		if err := json.Unmarshal([]byte(c.Facts["identity"]), &id); err != nil {
			remembered[c.Target] = c.Why // no reason to forget it
			continue
		}
		now, err := host.Identify(context.Background(), a.c.Host, c.Target)
		if err != nil || id.Difference(now) == "" {
			remembered[c.Target] = c.Why
		}
	}
	return remembered
}
