package host

import (
	"cmp"
	"net/netip"
	"slices"
)

// Route is a route of a table.
type Route struct {
	To     netip.Prefix
	Table  int   // 254 is main
	Metric int   // the lowest is taken
	Hops   []int // ifindexes of the netdevs by which it leaves
	Kind   RouteKind
}

// RouteKind is what becomes of a packet that a route matches.
type RouteKind int

// The kinds of routes (rtm_type in linux/rtnetlink.h).
const (
	Unicast RouteKind = iota // it leaves by one of the hops
	Ends                     // it stays here, or is dropped: local, broadcast, blackhole, unreachable, prohibit
	Throw                    // the next rule is asked
)

// Rule is a rule that names the table to look into; rules of other actions
// match and end the search.
type Rule struct {
	Priority int
	IPv6     bool
	Table    int          // 0 is that it has another action
	To, From netip.Prefix // the zero value is any
	// Depends says that it looks at more than addresses, such as a mark or a
	// user: it may match.
	Depends  bool
	Suppress int // a match with no longer prefix is not taken; -1 takes any
}

// TableLocal and TableMain are tables that every kernel has.
const (
	TableLocal = 255
	TableMain  = 254
)

// Tables are what the kernel routes by.
type Tables struct {
	Routes []Route
	Rules  []Rule
}

// KernelRules are the rules that a kernel starts with.
func KernelRules() []Rule {
	var all []Rule
	for _, v6 := range []bool{false, true} {
		all = append(all, Rule{IPv6: v6, Table: TableLocal, Suppress: -1}, Rule{Priority: 32766, IPv6: v6, Table: TableMain, Suppress: -1})
	}
	return append(all, Rule{Priority: 32767, Table: 253, Suppress: -1})
}

// The longest prefixes that no network of its own has: what is shorter stands
// for the world. The largest blocks that IANA assigns are a /8 and a /12.
const (
	wide4 = 7
	wide6 = 11
)

// wide says whether a route to a prefix counts as a default route, alone or with
// others, as 0.0.0.0/1 and 128.0.0.0/1 do that a VPN sets. Multicast and unique
// local addresses do not lead to the world.
func wide(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() <= wide4 && !netip.MustParsePrefix("224.0.0.0/3").Contains(p.Addr())
	}
	return p.Bits() <= wide6 && p.Overlaps(netip.MustParsePrefix("2000::/3"))
}

// nearby says whether a prefix leads no further than the link.
func nearby(p netip.Prefix) bool {
	a := p.Addr()
	return p.Bits() > 0 && (a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsLoopback())
}

// Defaults are the default routes of all tables, one for each hop.
func (t Tables) Defaults() []Default {
	var all []Default
	for _, r := range t.Routes {
		if r.Kind != Unicast || !wide(r.To) {
			continue
		}
		d := Default{Family: "IPv4", Table: r.Table}
		if !r.To.Addr().Is4() {
			d.Family = "IPv6"
		}
		if r.To.Bits() > 0 {
			d.To = r.To.String()
		}
		for _, hop := range r.Hops {
			d.Index = hop
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b Default) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table), cmp.Compare(a.To, b.To), cmp.Compare(a.Index, b.Index))
	})
	return slices.Compact(all)
}

// Routed are the netdevs by which routes leave that lead beyond their link.
func (t Tables) Routed() []int {
	var all []int
	for _, r := range t.Routes {
		if r.Kind == Unicast && !nearby(r.To) {
			all = append(all, r.Hops...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Ways are the netdevs by which packets of this host to an address may leave:
// the longest match, of the lowest metric, in the table of each rule that may
// match, up to the first that does. own are the host's addresses, which rules
// may ask for. Where no rule leads anywhere, all tables are asked: those of a
// VRF belong to its interfaces, and to no rule that could be seen here.
func (t Tables) Ways(to netip.Addr, own []netip.Addr) []int {
	to = to.Unmap()
	var hops []int
	for _, r := range t.inOrder(to) {
		sure := !r.Depends && !r.From.IsValid()
		if r.Table == 0 {
			if sure {
				break
			}
			continue
		}
		if r.From.IsValid() && !slices.ContainsFunc(own, r.From.Contains) {
			continue
		}
		match, ok := t.lookup(r.Table, to, r.Suppress)
		if !ok {
			continue
		}
		hops = append(hops, match...)
		if sure {
			break
		}
	}
	if len(hops) == 0 {
		for _, table := range t.tables() {
			match, _ := t.lookup(table, to, -1)
			hops = append(hops, match...)
		}
	}
	slices.Sort(hops)
	return slices.Compact(hops)
}

// inOrder are the rules that an address does not rule out, as they are asked.
func (t Tables) inOrder(to netip.Addr) []Rule {
	var rules []Rule
	for _, r := range t.Rules {
		if r.IPv6 == to.Is6() && (!r.To.IsValid() || r.To.Contains(to) || r.Depends) {
			rules = append(rules, r)
		}
	}
	slices.SortStableFunc(rules, func(a, b Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	return rules
}

// lookup is the longest match in a table; false when there is none that is
// taken.
func (t Tables) lookup(table int, to netip.Addr, suppress int) (hops []int, ok bool) {
	var best []Route
	for _, r := range t.Routes {
		if r.Table != table || !r.To.Contains(to) {
			continue
		}
		order := -1
		if len(best) > 0 {
			order = cmp.Or(cmp.Compare(best[0].To.Bits(), r.To.Bits()), cmp.Compare(r.Metric, best[0].Metric))
		}
		switch {
		case order < 0:
			best = []Route{r}
		case order == 0: // the hops of an IPv6 route may be a route each
			best = append(best, r)
		}
	}
	if len(best) == 0 || best[0].Kind == Throw || best[0].To.Bits() <= suppress {
		return nil, false
	}
	for _, r := range best {
		if r.Kind == Unicast {
			hops = append(hops, r.Hops...)
		}
	}
	return hops, true
}

func (t Tables) tables() []int {
	var all []int
	for _, r := range t.Routes {
		if r.Table != TableLocal {
			all = append(all, r.Table)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
