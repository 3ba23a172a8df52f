package guard

import (
	"context"
	"fmt"
	"path"
	"slices"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// Protected are the functions on the management path, and what each carries.
func (g *Guard) Protected(ctx context.Context, n host.Network) map[drivers.Target]string {
	carried := g.carried(n)
	protected := map[drivers.Target]string{}
	for _, l := range n.Links {
		why, ok := carried[l.Index]
		if !ok {
			continue
		}
		t := host.FunctionOf(ctx, g.o.Host, l)
		if t == "" {
			continue
		}
		protected[t] = why
		if physfn, err := g.o.Host.Readlink(ctx, host.Attr(string(t), "physfn")); err == nil {
			protected[drivers.Target(path.Base(physfn))] = why + " by its VF " + string(t)
		}
	}
	return protected
}

// carried is what each netdev carries, by index: seeds are what has the routes
// and addresses, and from them it goes down to what they sit on.
func (g *Guard) carried(n host.Network) map[int]string {
	name := map[int]string{}
	for _, l := range n.Links {
		name[l.Index] = l.Name
	}
	carried := map[int]string{}
	seed := func(index int, format string, args ...any) {
		if _, ok := carried[index]; !ok && index > 0 {
			carried[index] = fmt.Sprintf(format, args...)
		}
	}
	for _, d := range n.Defaults {
		seed(d.Index, "the %s default route of table %d on %s", d.Family, d.Table, name[d.Index])
	}
	for _, a := range n.Addresses {
		if slices.Contains(g.o.Own, a.IP) {
			seed(a.Index, "the node's own address %s on %s", a.IP, name[a.Index])
		}
	}
	for _, w := range n.Ways {
		seed(w.Index, "the way to %s on %s", w.To, name[w.Index])
	}
	// Each round goes one floor down; there are no more floors than links.
	for range n.Links {
		for _, l := range n.Links {
			if why, ok := carried[l.Index]; ok && l.Lower != 0 {
				seed(l.Lower, "%s", why)
			}
			if why, ok := carried[l.Master]; ok && l.Master != 0 {
				seed(l.Index, "%s", why)
			}
		}
	}
	return carried
}
