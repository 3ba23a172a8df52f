package sim

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// Network is host.Reader. A route is there while a netdev of it is up, as the
// kernel takes it out with the link.
func (f *front) Network(ctx context.Context, to []string) (n host.Network, err error) {
	var wrong error
	err = f.look(ctx, "getroute", "", func(m *machine) (syscall.Errno, bool) {
		n = host.Network{Links: m.links()}
		for i := range m.Netdevs {
			dev := &m.Netdevs[i]
			if dev.Netns != "" {
				continue
			}
			for _, a := range dev.Addresses {
				n.Addresses = append(n.Addresses, host.Address{Index: dev.Index, IP: a})
			}
			if dev.Tunnel != nil {
				t := *dev.Tunnel
				t.Index = dev.Index
				n.Tunnels = append(n.Tunnels, t)
			}
		}
		targets, err := n.Targets(to)
		if wrong = err; err != nil {
			return 0, true
		}
		t := m.tables()
		n.Routed = t.Routed()
		n.Add(t, targets)
		return 0, true
	})
	return n, cmp.Or(err, wrong)
}

// Children is host.Reader.
func (f *front) Children(ctx context.Context) (all []host.Child, err error) {
	err = f.look(ctx, "getroute", "", func(m *machine) (syscall.Errno, bool) {
		all = nil
		for i := range m.Netdevs {
			if n := &m.Netdevs[i]; n.Netns != "" && m.netdev(n.Lower) != nil {
				all = append(all, host.Child{Lower: n.Lower, Name: n.Name, Kind: n.Kind, Where: n.Netns})
			}
		}
		return 0, true
	})
	return all, err
}

// tables are what the machine routes by now.
func (m *machine) tables() host.Tables {
	t := host.Tables{Rules: append(host.KernelRules(), m.cfg.Rules...)}
	for i := range m.Netdevs {
		dev := &m.Netdevs[i]
		if dev.Netns != "" {
			continue
		}
		for _, text := range dev.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				t.Routes = append(t.Routes, host.Route{To: netip.PrefixFrom(a, a.BitLen()), Table: host.TableLocal, Kind: host.Ends})
			}
		}
		for _, d := range dev.Defaults {
			to := "0.0.0.0/0"
			if d.Family == "IPv6" {
				to = "::/0"
			}
			t.Routes = append(t.Routes, m.route(Route{To: cmp.Or(d.To, to), Table: d.Table, Dev: []string{dev.Name}})...)
		}
	}
	for _, r := range m.cfg.Routes {
		t.Routes = append(t.Routes, m.route(r)...)
	}
	return t
}

// route is a route as the kernel has it, none while no netdev of it is up.
func (m *machine) route(r Route) []host.Route {
	to, err := r.prefix()
	if err != nil {
		return nil // Validate has refused it
	}
	route := host.Route{To: to, Table: cmp.Or(r.Table, host.TableMain), Metric: r.Metric, Kind: r.Kind}
	for _, name := range r.Dev {
		if n := m.named(name); n != nil && n.Up && n.Netns == "" {
			route.Hops = append(route.Hops, n.Index)
		}
	}
	if r.Kind == host.Unicast && len(route.Hops) == 0 {
		return nil
	}
	return []host.Route{route}
}

func (r Route) prefix() (netip.Prefix, error) {
	if r.To == "default" {
		return netip.MustParsePrefix("0.0.0.0/0"), nil
	}
	if a, err := netip.ParseAddr(r.To); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(r.To)
}

// AddLink makes a network device that is no PCI function's, as another tool
// would. One that is there, of a function too, gets its master, namespace and
// addresses, and is set up where n is.
func (f *front) AddLink(n Netdev) error {
	return f.store.update(func(m *machine) error {
		if err := m.edit(func(c *Config) error {
			old := netdevOf(c, n.Name)
			if old == nil {
				c.Links = append(c.Links, n)
				return nil
			}
			old.Master, old.Netns, old.Up = n.Master, n.Netns, old.Up || n.Up
			old.Addresses = append(slices.Clip(old.Addresses), n.Addresses...)
			old.Defaults = append(slices.Clip(old.Defaults), n.Defaults...)
			n = *old
			return nil
		}); err != nil {
			return err
		}
		there := func(d netdev) bool { return d.Name == n.Name } // in whatever namespace
		if !slices.ContainsFunc(m.Netdevs, there) {
			m.addNetdev(&n, "", n.Name)
		}
		dev := &m.Netdevs[slices.IndexFunc(m.Netdevs, there)]
		m.configure(dev, &n)
		m.pair()
		m.event(drivers.Target(dev.Bus), host.EventLink)
		return nil
	})
}

// AddRoute adds a route as another tool would.
func (f *front) AddRoute(r Route) error {
	return f.Edit(func(c *Config) error {
		c.Routes = append(slices.Clip(c.Routes), r)
		return nil
	})
}

// AddRule adds a rule as another tool would.
func (f *front) AddRule(r host.Rule) error {
	return f.Edit(func(c *Config) error {
		c.Rules = append(slices.Clip(c.Rules), r)
		return nil
	})
}

// netdevOf is the netdev of a name in a Config, nil when there is none.
func netdevOf(c *Config, name string) *Netdev {
	for i := range c.Devices {
		if n := c.Devices[i].Net; n != nil && n.Name == name {
			return n
		}
	}
	at := slices.IndexFunc(c.Links, func(n Netdev) bool { return n.Name == name })
	if at < 0 {
		return nil
	}
	return &c.Links[at]
}
