package guard

import (
	"context"
	"fmt"
	"slices"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// stack is the netdevs of a host and what packets that leave by one of them go
// on to. The links between them are those that the kernel tells: what a netdev
// sits on, its members, its other end, the far ends of a tunnel.
type stack struct {
	network host.Network
	links   map[int]host.Link
	members map[int][]int // by master
	uppers  map[int][]int // by what they sit on
	tunnels map[int]host.Tunnel
	ways    map[string][]int
	// device is the PCI function of a netdev, "" for another device; false for a
	// netdev that is only made of others, or of nothing.
	device func(host.Link) (drivers.Target, bool)
}

func newStack(ctx context.Context, h host.Host, n host.Network) *stack {
	s := &stack{
		network: n, links: map[int]host.Link{}, members: map[int][]int{}, uppers: map[int][]int{},
		tunnels: map[int]host.Tunnel{}, ways: map[string][]int{},
		device: func(l host.Link) (drivers.Target, bool) {
			if t := host.FunctionOf(ctx, h, l); t != "" {
				return t, true
			}
			_, err := h.Readlink(ctx, host.SysNet+l.Name+"/device")
			return "", err == nil
		},
	}
	for _, l := range n.Links {
		s.links[l.Index] = l
		if l.Master != 0 {
			s.members[l.Master] = append(s.members[l.Master], l.Index)
		}
		if l.Lower != 0 {
			s.uppers[l.Lower] = append(s.uppers[l.Lower], l.Index)
		}
	}
	for _, t := range n.Tunnels {
		s.tunnels[t.Index] = t
	}
	for _, w := range n.Ways {
		if w.Index != 0 {
			s.ways[w.To] = append(s.ways[w.To], w.Index)
		}
	}
	return s
}

// reach is what carries the packets that leave by a netdev.
type reach struct {
	carriers []int // netdevs of devices
	// lost is why it is not known what else, or what at all; "" is that it is. Then
	// it may be any netdev that is up, or, when routed is set, any that routes
	// leave by.
	lost   string
	routed bool
}

func (r *reach) add(o reach) {
	r.carriers = append(r.carriers, o.carriers...)
	if r.lost == "" || r.routed && o.lost != "" && !o.routed {
		r.lost, r.routed = o.lost, o.routed
	}
}

// below is what carries the packets that leave by a netdev. Those that were
// asked about before are left out.
func (s *stack) below(index int, seen map[int]bool) (r reach) {
	l, ok := s.links[index]
	if !ok || seen[index] {
		return reach{}
	}
	seen[index] = true
	_, device := s.device(l)
	if device {
		r.carriers = append(r.carriers, index)
	}
	members := s.ports(l)
	tunnel, tunnels := s.tunnels[index]
	if l.Lower != 0 {
		r.add(s.below(l.Lower, seen))
	}
	if len(members) > 0 {
		r.add(s.through(members, seen))
	}
	if l.Peer != 0 {
		r.add(s.behind(l.Peer, seen))
	}
	if tunnels {
		r.add(s.far(l, tunnel, seen))
	}
	switch {
	case device || tunnels || len(members) > 0 || l.Lower != 0 || l.Peer != 0:
	case l.Elsewhere:
		r.add(reach{lost: fmt.Sprintf("%s leads into another network namespace", l.Name), routed: true})
	case !inert(l):
		r.add(reach{lost: fmt.Sprintf("what carries %s, of kind %q, is not known", l.Name, l.Kind)})
	}
	return r
}

// ovs is the kind of the netdevs that Open vSwitch makes.
const ovs = "openvswitch"

// ports are the members of a netdev. Which bridge of Open vSwitch a port is on is
// known to ovs-vswitchd alone: to the kernel, each port of the datapath may carry
// what an internal port sends (net/openvswitch/vport-netdev.c makes the
// datapath's own netdev the master of all).
func (s *stack) ports(l host.Link) []int {
	members := s.members[l.Index]
	if l.Kind != ovs {
		return members
	}
	for _, o := range s.network.Links {
		if o.Kind == ovs && o.Index != l.Index {
			members = append(slices.Clip(members), s.members[o.Index]...)
		}
	}
	return members
}

// through is what carries what a switch or a bond sends to its members. A member
// that it is not known of, such as the interface of a pod or a virtual machine, is
// only taken for the way where no other leads to a device.
func (s *stack) through(members []int, seen map[int]bool) (r reach) {
	for _, m := range members {
		r.add(s.below(m, seen))
	}
	if len(r.carriers) > 0 {
		r.lost, r.routed = "", false
	}
	return r
}

// behind is what carries packets that come out of a veth: it may be the port of a
// switch, or have a VLAN that is one.
func (s *stack) behind(index int, seen map[int]bool) (r reach) {
	l, ok := s.links[index]
	if !ok || seen[index] {
		return reach{}
	}
	seen[index] = true
	if master, ok := s.links[l.Master]; ok {
		r.add(s.below(l.Master, seen))
		for _, u := range s.uppers[l.Master] {
			r.add(s.behind(u, seen))
		}
		if master.Kind == ovs { // what the datapath sends to an internal port
			for _, o := range s.network.Links {
				if o.Kind == ovs {
					r.add(s.below(o.Index, seen))
				}
			}
		}
	}
	for _, u := range s.uppers[index] {
		r.add(s.behind(u, seen))
	}
	return r
}

// far is what carries the packets of a tunnel.
func (s *stack) far(l host.Link, t host.Tunnel, seen map[int]bool) (r reach) {
	if t.Under != 0 {
		r.add(s.below(t.Under, seen))
	}
	for _, to := range t.To {
		for _, hop := range s.ways[to] {
			r.add(s.below(hop, seen))
		}
	}
	if t.Open && t.Under == 0 && l.Lower == 0 {
		r.add(reach{lost: fmt.Sprintf("where %s tunnels to is not known", l.Name), routed: true})
	}
	return r
}

// inert says that no packet leaves the host by a netdev, unless by those that are
// listed as its members, of which it has none.
func inert(l host.Link) bool {
	return l.Name == "lo" || slices.Contains([]string{"dummy", "ifb", "nlmon", "bridge", "bond", "team", "vrf", ovs, "netdevsim"}, l.Kind)
}

// anyOf are the netdevs that may carry what is lost from sight.
func (s *stack) anyOf(r reach) []int {
	if r.routed {
		return s.network.Routed
	}
	var up []int
	for _, l := range s.network.Links {
		if _, device := s.device(l); device && l.Up {
			up = append(up, l.Index)
		}
	}
	return up
}
