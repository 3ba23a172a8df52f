package guard_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"eniagent/agent/guard"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

const (
	manager = "0000:00:05.0" // ens5
	nicA    = "enp2s0"       // portA's
	nicB    = "enp3s0"       // portB's
	far     = "192.0.2.9"
	nodes   = "10.1.0.7"
)

// blinded is a kernel of whose network the guard is not told all.
type blinded struct {
	*sim.Kernel
	hide func(*host.Network)
}

func (b blinded) Network(ctx context.Context, to []string) (host.Network, error) {
	n, err := b.Kernel.Network(ctx, to)
	if b.hide != nil {
		b.hide(&n)
	}
	return n, err
}

// layered is a way from what must be kept to portA.
type layered struct {
	name   string
	links  []sim.Netdev
	a, b   sim.Netdev // what is said of the two NICs
	routes []sim.Route
	rules  []host.Rule
	own    string
	reach  string
	want   string // of the refusal for portA
	free   bool   // portA is not on the way
	bToo   bool   // so is portB
	// hide leaves out of the network what leads to portA; nil where nothing does.
	hide func(*host.Network)
}

// The broken variants: a guard that does not see so much of the network.
func noMasters(n *host.Network) { each(n, func(l *host.Link) { l.Master = 0 }) }
func noLowers(n *host.Network)  { each(n, func(l *host.Link) { l.Lower = 0 }) }
func noPeers(n *host.Network)   { each(n, func(l *host.Link) { l.Peer = 0 }) }
func noWays(n *host.Network)    { n.Ways = nil }
func noRouted(n *host.Network)  { n.Routed = nil }
func noKinds(n *host.Network)   { each(n, func(l *host.Link) { l.Kind = "dummy" }) }
func noOVS(n *host.Network) {
	each(n, func(l *host.Link) {
		if l.Kind == "openvswitch" {
			l.Kind = "dummy"
		}
	})
}

func noParts(n *host.Network) {
	n.Defaults = slices.DeleteFunc(n.Defaults, func(d host.Default) bool { return d.To != "" })
}

func each(n *host.Network, change func(*host.Link)) {
	for i := range n.Links {
		change(&n.Links[i])
	}
}

func routed(table int) []host.Default { return []host.Default{{Family: "IPv4", Table: table}} }

// ways are the stacks that a way can go through.
func ways() []layered {
	return slices.Concat(switches(), stacked(), tunnelled(), unknown(), byRoutes())
}

func switches() []layered {
	system := sim.Netdev{Name: "ovs-system", Kind: "openvswitch"}
	return []layered{
		{
			name: "Open vSwitch, the default route on an internal port", hide: noOVS,
			links: []sim.Netdev{system, {Name: "br-ex", Kind: "openvswitch", Up: true, Defaults: routed(254)}},
			a:     sim.Netdev{Master: "ovs-system", Up: true}, want: "it carries the IPv4 default route of table 254 on br-ex",
		},
		{
			name: "Open vSwitch, the node's address on an internal port", own: nodes, hide: noOVS,
			links: []sim.Netdev{system, {Name: "br-ex", Kind: "openvswitch", Up: true, Addresses: []string{nodes}}},
			a:     sim.Netdev{Master: "ovs-system"}, want: "the node's own address 10.1.0.7 on br-ex",
		},
		{
			name: "Open vSwitch, the way to an address by an internal port", reach: far, hide: noOVS,
			links:  []sim.Netdev{system, {Name: "br-ex", Kind: "openvswitch", Up: true}},
			routes: []sim.Route{{To: "192.0.2.0/24", Dev: []string{"br-ex"}}},
			a:      sim.Netdev{Master: "ovs-system"}, want: "the way to 192.0.2.9 on br-ex",
		},
		{
			name: "Open vSwitch, a VLAN on an internal port and a bond as port", hide: noOVS,
			links: []sim.Netdev{
				system,
				{Name: "bond0", Kind: "bond", Master: "ovs-system"},
				{Name: "mgmt", Kind: "openvswitch", Up: true},
				{Name: "mgmt.5", Kind: "vlan", Lower: "mgmt", Up: true, Defaults: routed(254)},
			},
			a: sim.Netdev{Master: "bond0"}, want: "on mgmt.5",
		},
		{
			name: "Open vSwitch with a tunnel of flows, and a NIC that has routes", bToo: true,
			links: []sim.Netdev{
				system,
				{Name: "br-ex", Kind: "openvswitch", Up: true, Defaults: routed(254)},
				{Name: "genev_sys_6081", Kind: "geneve", Master: "ovs-system", Up: true, Tunnel: &host.Tunnel{Open: true}},
			},
			a: sim.Netdev{Up: true}, b: sim.Netdev{Master: "ovs-system"}, free: true,
			routes: []sim.Route{{To: "172.16.0.0/16", Dev: []string{nicA}}},
		},
		{
			name: "a bridge with a VM's tap, and a NIC that has routes", bToo: true,
			links: []sim.Netdev{
				{Name: "br0", Kind: "bridge", Up: true, Defaults: routed(254)},
				{Name: "tap0", Kind: "tun", Master: "br0", Up: true, Tunnel: &host.Tunnel{Open: true}},
				{Name: "veth0", Kind: "veth", Master: "br0", Up: true, Elsewhere: true},
			},
			a: sim.Netdev{Up: true}, b: sim.Netdev{Master: "br0"}, free: true,
			routes: []sim.Route{{To: "172.16.0.0/16", Dev: []string{nicA}}},
		},
		{
			name: "a bridge", hide: noMasters, want: "on br0",
			links: []sim.Netdev{{Name: "br0", Kind: "bridge", Up: true, Defaults: routed(254)}}, a: sim.Netdev{Master: "br0"},
		},
		{
			name: "a team", hide: noMasters, want: "on team0",
			links: []sim.Netdev{{Name: "team0", Kind: "team", Up: true, Defaults: routed(254)}}, a: sim.Netdev{Master: "team0"},
		},
		{
			name: "a VRF that has the node's address", own: nodes, hide: noMasters, want: "on mgmt",
			links: []sim.Netdev{{Name: "mgmt", Kind: "vrf", Up: true, Addresses: []string{nodes}}}, a: sim.Netdev{Master: "mgmt"},
		},
		{
			name: "a bond in a bridge", hide: noMasters, want: "on br0",
			links: []sim.Netdev{{Name: "br0", Kind: "bridge", Up: true, Defaults: routed(254)}, {Name: "bond0", Kind: "bond", Master: "br0"}},
			a:     sim.Netdev{Master: "bond0"},
		},
	}
}

func stacked() []layered {
	var all []layered
	for _, kind := range []string{"vlan", "macvlan", "macvtap", "ipvlan", "macsec", "ipoib", "xfrm"} {
		all = append(all, layered{
			name: kind, hide: noLowers, want: "on upper0",
			links: []sim.Netdev{{Name: "upper0", Kind: kind, Lower: nicA, Up: true, Defaults: routed(254)}},
		})
	}
	return append(all,
		layered{
			name: "a veth whose other end is a port of a bridge", hide: noPeers, want: "on host0",
			links: []sim.Netdev{
				{Name: "br0", Kind: "bridge", Up: true},
				{Name: "host0", Kind: "veth", Peer: "host1", Up: true, Defaults: routed(254)},
				{Name: "host1", Kind: "veth", Master: "br0", Up: true},
			},
			a: sim.Netdev{Master: "br0"},
		},
		layered{
			name: "a veth whose other end is a port of Open vSwitch", hide: noPeers, want: "on host0",
			links: []sim.Netdev{
				{Name: "ovs-system", Kind: "openvswitch"},
				{Name: "host0", Kind: "veth", Peer: "host1", Up: true, Defaults: routed(254)},
				{Name: "host1", Kind: "veth", Master: "ovs-system", Up: true},
			},
			a: sim.Netdev{Master: "ovs-system"},
		},
		layered{
			name: "a VLAN on the other end of a veth, in a bridge", hide: noPeers, want: "on host0",
			links: []sim.Netdev{
				{Name: "br0", Kind: "bridge", Up: true},
				{Name: "host0", Kind: "veth", Peer: "host1", Up: true, Defaults: routed(254)},
				{Name: "host1", Kind: "veth", Up: true},
				{Name: "host1.7", Kind: "vlan", Lower: "host1", Master: "br0", Up: true},
			},
			a: sim.Netdev{Master: "br0"},
		},
		layered{
			name: "a ring of masters", hide: noLowers, want: "on v2",
			links: []sim.Netdev{
				{Name: "v1", Kind: "vlan", Lower: nicA, Master: "br0", Up: true},
				{Name: "br0", Kind: "bridge", Master: "br0", Up: true},
				{Name: "v2", Kind: "vlan", Lower: "br0", Up: true, Defaults: routed(254)},
			},
		},
	)
}

func tunnelled() []layered {
	var all []layered
	for _, kind := range []string{"vxlan", "geneve", "gre", "gretap", "ipip", "sit", "ip6tnl", "vti", "wireguard"} {
		all = append(all, layered{
			name: kind + ", its far end by longest match", hide: noWays, want: "on tunnel0",
			links:  []sim.Netdev{{Name: "tunnel0", Kind: kind, Up: true, Defaults: routed(254), Tunnel: &host.Tunnel{To: []string{far}}}},
			routes: []sim.Route{{To: "192.0.2.0/28", Dev: []string{nicA}}, {To: "192.0.0.0/16", Dev: []string{nicB}}},
			a:      sim.Netdev{Up: true}, b: sim.Netdev{Up: true},
		})
	}
	return append(all, layered{
		name: "a tunnel in a tunnel, the outer one bound to its device", hide: noWays, want: "on wg0",
		links: []sim.Netdev{
			{Name: "wg0", Kind: "wireguard", Up: true, Defaults: routed(51820), Tunnel: &host.Tunnel{To: []string{far}}},
			{Name: "vxlan0", Kind: "vxlan", Lower: nicA, Up: true, Tunnel: &host.Tunnel{Open: true}},
		},
		routes: []sim.Route{{To: far, Dev: []string{"vxlan0"}}},
	})
}

// unknown are ways that are lost from sight.
func unknown() []layered {
	routes := []sim.Route{{To: "172.16.0.0/16", Dev: []string{nicA}}}
	up := sim.Netdev{Up: true}
	return []layered{
		{
			name: "a program's tun", hide: noRouted, want: "it may carry the IPv4 default route (0.0.0.0/1) of table 254 on tun0: where tun0 tunnels to is not known",
			links:  []sim.Netdev{{Name: "tun0", Kind: "tun", Up: true, Tunnel: &host.Tunnel{Open: true}}},
			routes: append(routes, sim.Route{To: "0.0.0.0/1", Dev: []string{"tun0"}}), a: up, b: up,
		},
		{
			name: "a tunnel of flows", hide: noRouted, want: "it may carry", a: up, b: up, routes: routes,
			links: []sim.Netdev{{Name: "genev_sys_6081", Kind: "geneve", Up: true, Defaults: routed(254), Tunnel: &host.Tunnel{Open: true}}},
		},
		{
			name: "WireGuard, one of whose peers has not spoken yet", hide: noRouted, want: "it may carry", a: up, b: up, routes: routes,
			links: []sim.Netdev{{Name: "wg0", Kind: "wireguard", Up: true, Defaults: routed(254), Tunnel: &host.Tunnel{Open: true}}},
		},
		{
			name: "a veth into another namespace", hide: noRouted, want: "veth0 leads into another network namespace", a: up, b: up, routes: routes,
			links: []sim.Netdev{{Name: "veth0", Kind: "veth", Up: true, Defaults: routed(254), Elsewhere: true}},
		},
		{
			name: "a kind that is not known", hide: noKinds, want: `what carries ppp0, of kind "ppp", is not known`, a: up,
			links: []sim.Netdev{{Name: "ppp0", Kind: "ppp", Up: true, Defaults: routed(254)}},
		},
		{
			name: "the node's address on the loopback", own: nodes, hide: noRouted, want: "it may carry the node's own address 10.1.0.7 on lo0", a: up, b: up, routes: routes,
			links: []sim.Netdev{{Name: "lo0", Kind: "dummy", Up: true, Addresses: []string{nodes}}},
		},
		{
			name: "a default route that ends in the host", free: true, a: up, routes: routes,
			links: []sim.Netdev{{Name: "dummy0", Kind: "dummy", Up: true, Defaults: routed(254)}},
		},
	}
}

func byRoutes() []layered {
	up := sim.Netdev{Up: true}
	return []layered{
		{
			name: "two halves of a default route", hide: noParts, want: "the IPv4 default route (0.0.0.0/1) of table 254 on enp2s0", a: up,
			routes: []sim.Route{{To: "0.0.0.0/1", Dev: []string{nicA}}, {To: "128.0.0.0/1", Dev: []string{nicA}}},
		},
		{
			name: "all of the IPv6 internet", hide: noParts, want: "the IPv6 default route (2000::/3) of table 100", a: up,
			routes: []sim.Route{{To: "2000::/3", Table: 100, Dev: []string{nicA}}},
		},
		{name: "multicast is no default route", free: true, a: up, routes: []sim.Route{{To: "224.0.0.0/4", Dev: []string{nicA}}, {To: "fc00::/7", Dev: []string{nicA}}}},
		{name: "a local default route is none", free: true, routes: []sim.Route{{To: "default", Dev: []string{nicA}, Table: 100, Kind: host.Ends}}, a: up},
		{
			name: "the way to an address by both hops of the longest match", reach: far, bToo: true, hide: noWays, want: "the way to 192.0.2.9 on enp2s0",
			a: up, b: up, routes: []sim.Route{{To: "192.0.2.0/25", Dev: []string{nicB, nicA}}, {To: "192.0.0.0/8", Dev: []string{"ens5"}}},
		},
		{
			name: "the way to an address by a longer match than asked for at first sight", reach: far, free: true, bToo: true, a: up, b: up,
			routes: []sim.Route{{To: "192.0.2.8/30", Dev: []string{nicB}}, {To: "192.0.2.0/24", Dev: []string{nicA}}},
		},
		{
			name: "the way to an address by the table of a rule", reach: far, bToo: true, hide: noWays, want: "the way to 192.0.2.9", a: up, b: up,
			routes: []sim.Route{{To: "192.0.2.0/24", Table: 77, Dev: []string{nicA}}, {To: "192.0.2.9", Dev: []string{nicB}}},
			rules:  []host.Rule{{Priority: 100, Table: 77, Depends: true, Suppress: -1}},
		},
	}
}

// node is a simulated node with the way, and nothing else to keep.
func (w layered) node() sim.Config {
	c := sim.DefaultNode()
	for i := range c.Devices {
		d := &c.Devices[i]
		net, is := d.Net, sim.Netdev{}
		switch d.Address {
		case manager:
			net.Defaults, net.Addresses = nil, nil
			continue
		case portA:
			is = w.a
		case portB:
			is = w.b
		default:
			continue
		}
		net.Up, net.Master = is.Up, is.Master
	}
	c.Links = append(c.Links, w.links...)
	c.Routes, c.Rules = w.routes, w.rules
	return c
}

func (w layered) guard(k *sim.Kernel, hide func(*host.Network), allowed string) *guard.Guard {
	o := guard.Options{
		Host: blinded{k, hide}, Specs: all.New(k).Specs, WithoutDefault: true,
		Allowed: func(drivers.Target) string { return allowed },
	}
	if w.own != "" {
		o.Own = []string{w.own}
	}
	if w.reach != "" {
		o.Reach = []string{w.reach}
	}
	return guard.New(o)
}

// unbind asks about the way of a function from its driver to none.
func unbind(t *testing.T, g *guard.Guard, k *sim.Kernel, address string) error {
	t.Helper()
	key := drivers.Key{Kind: dpdk.KindDriver, Target: drivers.Target(address)}
	from := dpdk.NewDriver(k).Observe(t.Context(), key.Target).State
	goal := g.MayDrive(t.Context(), plan.Observed{key: drivers.Seen(from)}, plan.Goal{key: dpdk.Binding{}.State()})
	step := g.MayStep(t.Context(), drivers.Step{Key: key, From: from, To: dpdk.Binding{}.State()})
	if (goal == nil) != (step == nil) {
		t.Errorf("%s: of a goal: %v, of a step: %v", address, goal, step)
	}
	return step
}

// TestWhateverCarriesTheWayIsKept, through each kind of netdev; and a guard that
// is not told of that kind lets it be cut, so that the test would see it.
func TestWhateverCarriesTheWayIsKept(t *testing.T) {
	for _, w := range ways() {
		t.Run(w.name, func(t *testing.T) {
			k := sim.New(w.node())
			err := unbind(t, w.guard(k, nil, ""), k, portA)
			var refusal *guard.Refusal
			switch {
			case w.free && err != nil:
				t.Errorf("not on the way, and refused: %v", err)
			case w.free:
			case !errors.As(err, &refusal) || refusal.Rule != guard.Management || !strings.Contains(err.Error(), w.want):
				t.Errorf("want a refusal with %q, got %v", w.want, err)
			}
			if err := unbind(t, w.guard(k, nil, ""), k, portB); (err != nil) != w.bToo {
				t.Errorf("the other NIC: %v", err)
			}
			if err := unbind(t, w.guard(k, nil, "its maintenance window"), k, portA); err != nil {
				t.Errorf("with a reason given: %v", err)
			}
			if w.free {
				return
			}
			if err := unbind(t, w.guard(k, w.hide, ""), k, portA); err != nil {
				t.Errorf("the broken variant is not caught: %v", err)
			}
		})
	}
}

// TestWaysFollowTheRules: of the tables, what a rule leaves out is no way.
func TestWaysFollowTheRules(t *testing.T) {
	to := netip.MustParseAddr(far)
	route := func(prefix string, table, metric int, kind host.RouteKind, hops ...int) host.Route {
		return host.Route{To: netip.MustParsePrefix(prefix), Table: table, Metric: metric, Kind: kind, Hops: hops}
	}
	main := route("0.0.0.0/0", 254, 0, host.Unicast, 1)
	for name, tc := range map[string]struct {
		routes []host.Route
		rules  []host.Rule
		own    string
		want   []int
	}{
		"the lowest metric":           {routes: []host.Route{route("192.0.2.0/24", 254, 10, host.Unicast, 2), route("192.0.2.0/24", 254, 5, host.Unicast, 3), main}, want: []int{3}},
		"a rule for other packets":    {routes: []host.Route{main, route("0.0.0.0/0", 7, 0, host.Unicast, 2)}, rules: []host.Rule{{Priority: 9, Table: 7, To: netip.MustParsePrefix("10.0.0.0/8"), Suppress: -1}}, want: []int{1}},
		"a rule for its packets ends": {routes: []host.Route{main, route("0.0.0.0/0", 7, 0, host.Unicast, 2)}, rules: []host.Rule{{Priority: 9, Table: 7, To: netip.MustParsePrefix("192.0.2.0/24"), Suppress: -1}}, want: []int{2}},
		"a rule for an own address":   {routes: []host.Route{main, route("0.0.0.0/0", 7, 0, host.Unicast, 2)}, rules: []host.Rule{{Priority: 9, Table: 7, From: netip.MustParsePrefix("10.1.0.0/24"), Suppress: -1}}, own: nodes, want: []int{1, 2}},
		"a rule for a pod's address":  {routes: []host.Route{main, route("0.0.0.0/0", 7, 0, host.Unicast, 2)}, rules: []host.Rule{{Priority: 9, Table: 7, From: netip.MustParsePrefix("10.9.0.0/24"), Suppress: -1}}, own: nodes, want: []int{1}},
		"a suppressed default":        {routes: []host.Route{main, route("0.0.0.0/0", 7, 0, host.Unicast, 2)}, rules: []host.Rule{{Priority: 8, Table: 254, Suppress: 0}, {Priority: 9, Table: 7, Suppress: -1}}, want: []int{2}},
		"a suppressed default, longer": {
			routes: []host.Route{main, route("192.0.2.0/24", 254, 0, host.Unicast, 3), route("0.0.0.0/0", 7, 0, host.Unicast, 2)},
			rules:  []host.Rule{{Priority: 8, Table: 254, Suppress: 0}, {Priority: 9, Table: 7, Suppress: -1}}, want: []int{3},
		},
		"throw asks on":          {routes: []host.Route{route("192.0.2.0/24", 7, 0, host.Throw), route("0.0.0.0/0", 7, 0, host.Unicast, 2), main}, rules: []host.Rule{{Priority: 9, Table: 7, Suppress: -1}}, want: []int{1}},
		"a blackhole has no hop": {routes: []host.Route{route("192.0.2.0/24", 254, 0, host.Ends), main}, want: []int{}},
		"a VRF's table":          {routes: []host.Route{route("192.0.2.0/24", 1001, 0, host.Unicast, 4)}, want: []int{4}},
	} {
		t.Run(name, func(t *testing.T) {
			var own []netip.Addr
			if tc.own != "" {
				own = append(own, netip.MustParseAddr(tc.own))
			}
			got := host.Tables{Routes: tc.routes, Rules: append(host.KernelRules(), tc.rules...)}.Ways(to, own)
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
