package guard

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/host"
)

// mayRenew asks the rules about netdevs that are made anew on the way to a goal
// and have the same driver then: no entry asked for that in so many words, so
// that it is done only where nobody uses the netdev.
func (g *Guard) mayRenew(ctx context.Context, observed plan.Observed, goal plan.Goal) error {
	steps, err := plan.Order(g.o.Specs, observed, goal)
	if err != nil {
		return nil //nolint:nilerr // who makes the steps is told
	}
	for _, s := range steps {
		spec, _ := g.o.Specs.Find(s.Key.Kind)
		if spec.Renew == nil || !observed[s.Key].Is(goal[s.Key]) || !observed[s.Key].Is(s.From) {
			continue
		}
		if err := g.mayCut(ctx, spec, s.Key, s.From, s.To, time.Now().Add(-lately)); err != nil {
			return err
		}
		if err := g.unused(ctx, s.Key.Target); err != nil {
			return err
		}
	}
	return nil
}

// unused refuses a netdev that has an address of the host's, or another netdev on
// top of it.
func (g *Guard) unused(ctx context.Context, t drivers.Target) error {
	dev, err := host.NetdevOf(ctx, g.o.Host, string(t))
	if err != nil || dev.Name == "" {
		return err
	}
	network, err := g.o.Host.Network(ctx, g.o.Reach)
	if err != nil {
		return fmt.Errorf("read who uses %s: %w", dev.Name, err)
	}
	used := func(why string, args ...any) error {
		return g.refuse(InUse, t, "it goes on by itself once it is not used; or bind its driver anew by hand",
			"its driver has to be bound anew for it to take up its MAC, and %s %s", dev.Name, fmt.Sprintf(why, args...))
	}
	for _, a := range network.Addresses {
		if ip, err := netip.ParseAddr(a.IP); a.Index == dev.Index && (err != nil || !ip.IsLinkLocalUnicast()) {
			return used("has the address %s", a.IP)
		}
	}
	at := slices.IndexFunc(network.Links, func(l host.Link) bool { return l.Lower == dev.Index && l.Index != dev.Index })
	if at >= 0 {
		return used("carries %s", network.Links[at].Name)
	}
	for _, l := range network.Links {
		if l.Index == dev.Index && l.Master != 0 {
			return used("belongs to another interface, as of a bond or a bridge")
		}
	}
	return nil
}
