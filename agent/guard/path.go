package guard

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// Carried is what a function carries of the management path.
type Carried struct {
	What string // "the IPv4 default route of table 254 on ens5"
	// Unsure is why it is not known whether it does; "" is that it is.
	Unsure string
	// Must says that it is not all a default route that others carry too: it is the
	// node's address, the way to one that must stay reachable, or the only default
	// route there is.
	Must bool
}

// String is "it carries ...", or "it may carry ...: ...".
func (c Carried) String() string {
	if c.Unsure == "" {
		return "it carries " + c.What
	}
	return "it may carry " + c.What + ": " + c.Unsure
}

// Protected are the functions on the management path, and what each carries.
// Where it is lost from sight, that is each function that may be on it.
func (g *Guard) Protected(ctx context.Context, n host.Network) map[drivers.Target]Carried {
	s := newStack(ctx, g.o.Host, n)
	protected := map[drivers.Target]Carried{}
	defaults := 0 // those that are known to leave the host
	of := map[drivers.Target]int{}
	for _, seed := range g.seeds(s) {
		r := s.below(seed.index, map[int]bool{})
		if seed.address && len(r.carriers) == 0 && r.lost == "" {
			r.lost, r.routed = "no device below it", true
		}
		carriers := g.note(ctx, s, protected, r.carriers, Carried{What: seed.what, Must: seed.must})
		if !seed.must && len(r.carriers) > 0 {
			defaults++
			for t := range carriers {
				of[t]++
			}
		}
		if r.lost == "" {
			continue
		}
		for _, index := range s.anyOf(r) {
			g.note(ctx, s, protected, s.below(index, map[int]bool{}).carriers, Carried{What: seed.what, Unsure: r.lost})
		}
	}
	for t, c := range protected {
		c.Must = c.Must || of[t] == defaults
		protected[t] = c
	}
	return protected
}

// note adds the functions of netdevs to the protected ones, and the physical
// function of one that is virtual. What is sure is kept.
func (g *Guard) note(ctx context.Context, s *stack, protected map[drivers.Target]Carried, carriers []int, c Carried) map[drivers.Target]bool {
	noted := map[drivers.Target]bool{}
	for _, index := range carriers {
		of := c
		t, _ := s.device(s.links[index])
		for t != "" {
			was, known := protected[t]
			of.Must = c.Must || was.Must
			if known && (was.Unsure == "" || of.Unsure != "") {
				was.Must = of.Must
				of = was
			}
			protected[t], noted[t] = of, true
			physfn, err := g.o.Host.Readlink(ctx, host.Attr(string(t), "physfn"))
			if err != nil {
				break
			}
			of = c
			of.What += " by its VF " + string(t)
			t = drivers.Target(path.Base(physfn))
		}
	}
	return noted
}

// seed is a route or an address that must be kept, and the netdev that has it.
type seed struct {
	index   int
	what    string
	address bool
	must    bool // it is no default route
}

// seeds are all that must be kept.
func (g *Guard) seeds(s *stack) []seed {
	var seeds []seed
	add := func(index int, address, must bool, format string, args ...any) {
		if index > 0 {
			seeds = append(seeds, seed{index, fmt.Sprintf(format, args...) + " on " + s.links[index].Name, address, must})
		}
	}
	for _, d := range s.network.Defaults {
		what := "default route"
		if d.To != "" {
			what += " (" + d.To + ")"
		}
		add(d.Index, false, false, "the %s %s of table %d", d.Family, what, d.Table)
	}
	own, reach := parsed(g.o.Own), parsed(g.o.Reach)
	for _, a := range s.network.Addresses {
		switch ip, err := netip.ParseAddr(a.IP); {
		case err != nil:
		case slices.Contains(own, ip.Unmap()):
			add(a.Index, true, true, "the node's own address %s", a.IP)
		case slices.Contains(reach, ip.Unmap()):
			add(a.Index, true, true, "the address %s, which must stay reachable,", a.IP)
		}
	}
	for _, w := range s.network.Ways {
		if ip, err := netip.ParseAddr(w.To); err == nil && slices.Contains(reach, ip) {
			add(w.Index, false, true, "the way to %s", w.To)
		}
	}
	return seeds
}

// parsed are the addresses that can be compared with others.
func parsed(texts []string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			all = append(all, a.Unmap().WithZone(""))
		}
	}
	return all
}
