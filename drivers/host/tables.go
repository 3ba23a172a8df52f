package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The messages are read here and not by the netlink package, which knows no
// nexthop objects and no action of a rule, and fails on an encapsulation that it
// does not know.

// tables dumps the routes and rules of this network namespace. Of the routes it
// keeps those that lead to the world or match an address of to, and by which
// netdevs any leaves: a router has a million of them.
func tables(to []netip.Addr) (t Tables, routed []int, err error) {
	var all []rawRoute
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := complete(func() ([]rawRoute, error) { return dumpRoutes(family, to) })
		if err != nil {
			return Tables{}, nil, fmt.Errorf("dump routes: %w", err)
		}
		all = append(all, routes...)
		rules, err := complete(func() ([]Rule, error) { return dumpRules(family) })
		if err != nil {
			return Tables{}, nil, fmt.Errorf("dump routing rules: %w", err)
		}
		t.Rules = append(t.Rules, rules...)
	}
	if err := fillHops(all); err != nil {
		return Tables{}, nil, err
	}
	var exits Tables
	for _, r := range all {
		exits.Routes = append(exits.Routes, r.Route)
		if r.To.IsValid() {
			t.Routes = append(t.Routes, r.Route)
		}
	}
	return t, exits.Routed(), nil
}

// fillHops gives the routes that only name a nexthop object its netdevs.
func fillHops(routes []rawRoute) error {
	bare := func(r rawRoute) bool { return r.nexthop != 0 && len(r.Hops) == 0 }
	if !slices.ContainsFunc(routes, bare) {
		return nil
	}
	nexthops, err := complete(dumpNexthops)
	if err != nil {
		return fmt.Errorf("dump nexthop objects: %w", err)
	}
	for i, r := range routes {
		if bare(r) {
			routes[i].Hops = nexthops[r.nexthop]
		}
	}
	return nil
}

// rtaNhID is RTA_NH_ID of linux/rtnetlink.h.
const rtaNhID = 30

// rawRoute is a route whose hops may be those of a nexthop object
// (net.ipv4.nexthop_compat_mode 0 gives nothing else of them).
type rawRoute struct {
	Route
	nexthop uint32
}

// dumpRoutes are the routes that matter, and one without a prefix for each way
// in which others leave.
func dumpRoutes(family int, to []netip.Addr) ([]rawRoute, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family)}})
	var routes []rawRoute
	type exit struct {
		nexthop uint32
		hop     int
	}
	exits := map[exit]bool{}
	var failed error
	err := req.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE, func(m []byte) bool {
		r, ok, err := parseRoute(m, family)
		if failed = err; err != nil {
			return false
		}
		switch {
		case !ok:
		case matters(r.Route, to):
			routes = append(routes, r)
		case r.Kind == Unicast && !nearby(r.To):
			for _, hop := range append(r.Hops, 0) {
				e := exit{nexthop: r.nexthop, hop: hop}
				if hop == 0 && (len(r.Hops) > 0 || r.nexthop == 0) || exits[e] {
					continue
				}
				exits[e] = true
				some := rawRoute{nexthop: e.nexthop}
				if hop != 0 {
					some.Hops = []int{hop}
				}
				routes = append(routes, some)
			}
		}
		return true
	})
	return routes, errors.Join(failed, err)
}

func matters(r Route, to []netip.Addr) bool {
	if wide(r.To) {
		return true
	}
	for _, a := range to {
		if r.To.Contains(a) {
			return true
		}
	}
	return false
}

// parseRoute reads an RTM_NEWROUTE; false for one that routes nothing, such as a
// cached one.
func parseRoute(m []byte, family int) (rawRoute, bool, error) {
	msg := nl.DeserializeRtMsg(m)
	if int(msg.Family) != family || msg.Flags&unix.RTM_F_CLONED != 0 {
		return rawRoute{}, false, nil
	}
	attrs, err := nl.ParseRouteAttr(m[msg.Len():])
	if err != nil {
		return rawRoute{}, false, fmt.Errorf("decode route: %w", err)
	}
	r := rawRoute{Route: Route{Table: int(msg.Table), Kind: Ends}}
	switch msg.Type {
	case unix.RTN_UNICAST:
		r.Kind = Unicast
	case unix.RTN_THROW:
		r.Kind = Throw
	}
	to := zero(family)
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_DST:
			to, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_TABLE:
			r.Table = int(number(a.Value))
		case unix.RTA_PRIORITY:
			r.Metric = int(number(a.Value))
		case unix.RTA_OIF:
			r.Hops = append(r.Hops, int(number(a.Value)))
		case rtaNhID:
			r.nexthop = number(a.Value)
		case unix.RTA_MULTIPATH:
			r.Hops = append(r.Hops, multipath(a.Value)...)
		}
	}
	r.To = netip.PrefixFrom(to, int(msg.Dst_len))
	return r, r.To.IsValid(), nil
}

func zero(family int) netip.Addr {
	if family == unix.AF_INET {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// number is an attribute of 32 bits, 0 when it is shorter.
func number(value []byte) uint32 {
	if len(value) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(value)
}

// multipath are the netdevs of the struct rtnexthops in RTA_MULTIPATH.
func multipath(value []byte) (hops []int) {
	for len(value) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(value))
		if size < unix.SizeofRtNexthop {
			return hops
		}
		hops = append(hops, int(number(value[4:])))
		value = value[min(len(value), (size+3)&^3):]
	}
	return hops
}

// dumpNexthops are the netdevs of each nexthop object, or group of them
// (linux/nexthop.h).
func dumpNexthops() (map[uint32][]int, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEXTHOP, unix.NLM_F_DUMP)
	req.AddRawData(make([]byte, sizeofNhmsg))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEXTHOP)
	if err != nil {
		return nil, err
	}
	hops, groups := map[uint32][]int{}, map[uint32][]uint32{}
	for _, m := range messages {
		attrs, err := nl.ParseRouteAttr(m[min(len(m), sizeofNhmsg):])
		if err != nil {
			return nil, fmt.Errorf("decode nexthop object: %w", err)
		}
		id, members := uint32(0), []uint32(nil)
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.NHA_ID:
				id = number(a.Value)
			case unix.NHA_OIF:
				hops[id] = append(hops[id], int(number(a.Value)))
			case unix.NHA_GROUP: // struct nexthop_grp
				for g := a.Value; len(g) >= sizeofNexthopGrp; g = g[sizeofNexthopGrp:] {
					members = append(members, number(g))
				}
			}
		}
		groups[id] = members
	}
	for id, members := range groups {
		for _, m := range members {
			hops[id] = append(hops[id], hops[m]...)
		}
	}
	return hops, nil
}

// Sizes of struct nhmsg and struct nexthop_grp (linux/nexthop.h).
const (
	sizeofNhmsg      = 8
	sizeofNexthopGrp = 8
)

// Of struct fib_rule_hdr (linux/fib_rules.h).
const (
	ruleTOS    = 3
	ruleTable  = 4
	ruleAction = 7
	ruleFlags  = 8
)

func dumpRules(family int) ([]Rule, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family)}})
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
	if errors.Is(err, unix.EOPNOTSUPP) { // a kernel without CONFIG_IP_MULTIPLE_TABLES
		var all []Rule
		for _, r := range KernelRules() {
			if r.IPv6 == (family == unix.AF_INET6) {
				all = append(all, r)
			}
		}
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	var rules []Rule
	jumps := false
	for _, m := range messages {
		if len(m) < unix.SizeofRtMsg || int(m[0]) != family {
			continue
		}
		r, applies, err := parseRule(m, family)
		if err != nil {
			return nil, err
		}
		// What a jump leaves out is not worked out: from there on all may match.
		jumps = jumps || m[ruleAction] == unix.FR_ACT_GOTO
		r.Depends = r.Depends || jumps
		if applies {
			rules = append(rules, r)
		}
	}
	return rules, nil
}

// parseRule reads an RTM_NEWRULE; false for one that is for packets from
// elsewhere only.
func parseRule(m []byte, family int) (r Rule, applies bool, err error) {
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofRtMsg:])
	if err != nil {
		return Rule{}, false, fmt.Errorf("decode routing rule: %w", err)
	}
	r = Rule{IPv6: family == unix.AF_INET6, Table: int(m[ruleTable]), Suppress: -1}
	applies = true
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.FRA_DST:
			r.To = selector(a.Value, m[1])
		case unix.FRA_SRC:
			r.From = selector(a.Value, m[2])
		case unix.FRA_TABLE:
			r.Table = int(number(a.Value))
		case unix.FRA_PRIORITY:
			r.Priority = int(number(a.Value))
		case unix.FRA_SUPPRESS_PREFIXLEN:
			r.Suppress = int(int32(number(a.Value))) //nolint:gosec // -1 is none
		case unix.FRA_IIFNAME:
			applies = nl.BytesToString(a.Value) == "lo" // as packets of this host are seen
		case unix.FRA_PROTOCOL, unix.FRA_PAD, unix.FRA_FLOW, unix.FRA_SUPPRESS_IFGROUP, unix.FRA_GOTO:
		default: // a mark, a user, a port: also what a later kernel looks at
			r.Depends = true
		}
	}
	r.Depends = r.Depends || m[ruleTOS] != 0
	flags := binary.NativeEndian.Uint32(m[ruleFlags:])
	if flags&unix.FIB_RULE_INVERT != 0 {
		r.To, r.From, r.Depends, applies = netip.Prefix{}, netip.Prefix{}, true, true
	}
	switch m[ruleAction] {
	case unix.FR_ACT_TO_TBL:
	case unix.FR_ACT_GOTO, unix.FR_ACT_NOP:
		r.Table, r.Depends = 0, true
	default:
		r.Table = 0
	}
	return r, applies, nil
}

func selector(value []byte, bits byte) netip.Prefix {
	a, _ := netip.AddrFromSlice(value)
	return netip.PrefixFrom(a, int(bits))
}
