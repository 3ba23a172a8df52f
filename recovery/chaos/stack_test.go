//go:build linux

package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// stack is a way from what must be kept to NIC a, made of real netdevs.
type stack struct {
	name    string
	modules []string
	// make are arguments of ip, or of the helper after "rig"; A and B are the netdevs
	// of the NICs.
	make []string
	// gone are the netdevs that are removed afterwards, in this order.
	gone  []string
	flags []string
	want  string
	bToo  bool // NIC b is on the way as well
	free  bool // NIC a is not
}

func stacks() []stack {
	ovs := []string{"rig datapath ovs-system", "rig port ovs-system internal br-ex", "rig port ovs-system netdev A", "link set br-ex up", "addr add 10.9.0.5/24 dev br-ex"}
	end := []string{"ovs-system"}
	routed := []string{"link set A up", "addr add 10.8.0.5/24 dev A"}
	far := append(slices.Clone(routed), "link set B up", "addr add 10.7.0.5/24 dev B", "route add 192.0.2.0/28 via 10.8.0.1", "route add 192.0.0.0/16 via 10.7.0.1")
	with := func(of []string, more ...string) []string { return append(slices.Clone(of), more...) }
	through := func(dev string) []string {
		return []string{"link set " + dev + " up", "addr add 10.6.0.5/24 dev " + dev, "route add default via 10.6.0.1"}
	}
	child := func(kind, args string) stack {
		return stack{
			name: kind, modules: []string{map[string]string{"vlan": "8021q"}[kind], kind},
			make: append([]string{"link set A up", "link add link A name up0 type " + kind + args}, through("up0")...),
			gone: []string{"up0"}, want: "it carries the IPv4 default route of table 254 on up0",
		}
	}
	tunnel := func(kind, args string, modules ...string) stack {
		return stack{
			name: kind + ", its far end by longest match", modules: modules, gone: []string{"tun0"}, want: "on tun0",
			make: with(far, append([]string{"link add tun0 type " + kind + args}, through("tun0")...)...),
		}
	}
	return []stack{
		{name: "Open vSwitch, the default route", modules: []string{"openvswitch"}, make: with(ovs, "route add default via 10.9.0.1"), gone: end, want: "it carries the IPv4 default route of table 254 on br-ex"},
		{name: "Open vSwitch, the node's address", modules: []string{"openvswitch"}, make: ovs, gone: end, flags: []string{"--node-address", "10.9.0.5"}, want: "the node's own address 10.9.0.5 on br-ex"},
		{name: "Open vSwitch, the way to an address", modules: []string{"openvswitch"}, make: with(ovs, "route add 192.0.2.0/24 via 10.9.0.1"), gone: end, flags: []string{"--keep-reachable", "192.0.2.7"}, want: "the way to 192.0.2.7 on br-ex"},
		{
			name: "Open vSwitch, a bond as port and a VLAN on top", modules: []string{"openvswitch", "bonding", "8021q"}, bToo: true,
			make: []string{
				"link add bond7 type bond", "link set A down", "link set A master bond7", "link set B down", "link set B master bond7", "link set bond7 up",
				"rig datapath ovs-system", "rig port ovs-system internal br-ex", "rig port ovs-system netdev bond7",
				"link set br-ex up", "link add link br-ex name br-ex.9 type vlan id 9", "link set br-ex.9 up", "addr add 10.9.0.5/24 dev br-ex.9", "route add default via 10.9.0.1",
			},
			gone: []string{"br-ex.9", "ovs-system", "bond7"}, want: "on br-ex.9",
		},
		{
			name: "a veth to Open vSwitch", modules: []string{"openvswitch", "veth"},
			make: append(
				[]string{"link add host0 type veth peer name host1", "rig datapath ovs-system", "rig port ovs-system netdev host1", "rig port ovs-system netdev A"},
				through("host0")...,
			),
			gone: []string{"ovs-system", "host0"}, want: "on host0",
		},
		{
			name: "a bridge with a pod's veth", modules: []string{"bridge", "veth"}, bToo: false,
			make: append([]string{"link add br0 type bridge", "link set A master br0", "link add pod0 type veth peer name pod1", "link set pod0 master br0"}, through("br0")...),
			gone: []string{"br0", "pod0"}, want: "on br0",
		},
		{
			name: "a VRF with the node's address", modules: []string{"vrf"},
			make: []string{"link add mgmt type vrf table 10", "link set mgmt up", "link set A master mgmt", "addr add 10.9.0.5/32 dev mgmt"},
			gone: []string{"mgmt"}, flags: []string{"--node-address", "10.9.0.5"}, want: "the node's own address 10.9.0.5 on mgmt",
		},
		{
			name: "a VRF's table", modules: []string{"vrf"}, gone: []string{"mgmt"}, flags: []string{"--keep-reachable", "192.0.2.7"}, want: "the way to 192.0.2.7",
			make: []string{"link add mgmt type vrf table 10", "link set mgmt up", "link set A master mgmt", "link set A up", "addr add 10.8.0.5/24 dev A", "route add 192.0.2.0/24 via 10.8.0.1 table 10"},
		},
		child("vlan", " id 9"),
		child("macvlan", " mode bridge"),
		child("ipvlan", " mode l2"),
		child("macsec", ""),
		tunnel("vxlan", " id 7 remote 192.0.2.9 dstport 4789", "vxlan"),
		tunnel("geneve", " id 7 remote 192.0.2.9", "geneve"),
		tunnel("gre", " remote 192.0.2.9 local 10.8.0.5", "ip_gre"),
		tunnel("gretap", " remote 192.0.2.9 local 10.8.0.5", "ip_gre"),
		tunnel("ipip", " remote 192.0.2.9 local 10.8.0.5", "ipip"),
		{
			name: "WireGuard", modules: []string{"wireguard"}, gone: []string{"wg0"}, want: "on wg0",
			make: with(far, append([]string{"link add wg0 type wireguard", "rig endpoint wg0 192.0.2.9"}, through("wg0")...)...),
		},
		{
			name: "a VXLAN whose far end is in its forwarding database", modules: []string{"vxlan"}, gone: []string{"flannel.1"}, want: "on flannel.1",
			make: with(far, append([]string{
				"link add flannel.1 type vxlan id 1 dstport 8472 nolearning",
				"neigh add to 192.0.2.9 lladdr 02:00:00:00:00:09 dev flannel.1", // no far end: an address behind it
			}, through("flannel.1")...)...), bToo: true, // as long as nothing is there, it is any
		},
		{
			name: "a program's tun", modules: []string{"tun"}, gone: []string{"tun0"}, want: "it may carry the IPv4 default route (0.0.0.0/1) of table 254 on tun0: where tun0 tunnels to is not known",
			make: with(routed, "tuntap add tun0 mode tun", "link set tun0 up", "route add 0.0.0.0/1 dev tun0", "route add 128.0.0.0/1 dev tun0"),
		},
		{
			name: "two halves of a default route", want: "the IPv4 default route (128.0.0.0/1) of table 254", make: with(routed, "route add 128.0.0.0/1 via 10.8.0.1"),
		},
		{
			name: "a nexthop object", want: "the way to 192.0.2.7", flags: []string{"--keep-reachable", "192.0.2.7"},
			make: with(routed, "nexthop add id 9 via 10.8.0.1 dev A", "nexthop add id 10 group 9", "route add 192.0.2.0/24 nhid 10"),
		},
		{
			name: "a longer match by another NIC", free: true, bToo: true, flags: []string{"--keep-reachable", "192.0.2.15"},
			make: with(far, "route add 192.0.2.15 via 10.7.0.1"),
		},
	}
}

// TestTheWayThroughRealNetdevs: whatever stack of netdevs the kernel can make, the
// NIC below it is kept and the other one is not.
func TestTheWayThroughRealNetdevs(t *testing.T) {
	for _, s := range stacks() {
		t.Run(s.name, func(t *testing.T) {
			n := newNode(t)
			defer n.bare()
			for _, module := range s.modules {
				if module != "" && module != "vlan" {
					mustRun(t, n.vm, "modprobe", module)
				}
			}
			defer n.unbuild(s.gone)
			for _, line := range s.make {
				n.build(line)
			}
			n.ask(driverOf(n.a, "vfio-pci"), driverOf(n.b, "vfio-pci"))
			said := n.agent(3, append([]string{"plan", "--config", wanted, "--allow-without-default-route"}, s.flags...)...)
			n.stands(said, n.a, !s.free, s.want)
			n.stands(said, n.b, s.bToo, "")
		})
	}
}

// TestWhatSitsOnARealNICHoldsIt: netdevs in another network namespace, of which
// nothing in this one tells.
func TestWhatSitsOnARealNICHoldsIt(t *testing.T) {
	for _, kind := range []string{"macvlan mode bridge", "ipvlan mode l2", "vlan id 9"} {
		t.Run(kind, func(t *testing.T) {
			n := newNode(t)
			defer n.bare()
			for _, module := range []string{"macvlan", "ipvlan", "8021q"} {
				mustRun(t, n.vm, "modprobe", module)
			}
			n.ip("netns add pod7")
			defer n.ip("netns del pod7")
			n.build("link set A up")
			n.build("link add link A name net1 netns pod7 type " + kind)
			uppers, err := n.vm.ReadDir(n.ctx(), n.a.Sysfs("net", n.ipLink(n.a).Name))
			must(t, err)
			if slices.Contains(uppers, "upper_net1") {
				t.Errorf("this namespace tells of it: %v", uppers)
			}
			for _, ask := range []string{driverOf(n.a, "vfio-pci"), fmt.Sprintf("{pci: %q, up: false}", n.a.Addr), fmt.Sprintf("{pci: %q, mtu: 1400}", n.a.Addr)} {
				n.ask(ask, driverOf(n.b, "vfio-pci"))
				said := n.agent(3, "plan", "--config", wanted, "--allow-without-default-route")
				n.isHeld(said, n.a, "net1 in the network namespace of /run/netns/pod7 sits on")
				n.stands(said, n.b, false, "")
			}
		})
	}
}

// isHeld looks for a NIC's line in a plan, which says that it is in use.
func (n *node) isHeld(said string, nic NIC, want string) {
	n.t.Helper()
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "pci "+nic.Addr) && strings.Contains(line, " held ") && strings.Contains(line, want) {
			return
		}
	}
	n.t.Errorf("%s is not held for %q:\n%s", nic.Addr, want, said)
}

// build makes one netdev, address or route of a stack.
func (n *node) build(line string) {
	n.t.Helper()
	words := strings.Fields(line)
	for i, w := range words {
		switch w {
		case "A":
			words[i] = n.ipLink(n.a).Name
		case "B":
			words[i] = n.ipLink(n.b).Name
		}
	}
	if words[0] == "rig" {
		mustRun(n.t, n.vm, append([]string{Helper}, words[1:]...)...)
		return
	}
	mustRun(n.t, n.vm, append([]string{"/bin/ip"}, words...)...)
	for _, nic := range []NIC{n.a, n.b} { // a nexthop object wants a carrier
		if name := n.ipLink(nic).Name; line == "link set A up" && nic == n.a || line == "link set B up" && nic == n.b {
			must(n.t, n.vm.WaitText(n.ctx(), nic.Sysfs("net", name, "operstate"), "up"))
		}
	}
}

// unbuild removes netdevs, and the datapath of Open vSwitch.
func (n *node) unbuild(gone []string) {
	n.t.Helper()
	for _, name := range gone {
		if name == "ovs-system" {
			_, err := n.vm.Run(n.ctx(), Command(Helper, "undatapath", name))
			must(n.t, err)
			continue
		}
		n.without(name)
	}
}

// stands looks for a NIC's line in a plan.
func (n *node) stands(said string, nic NIC, refused bool, want string) {
	n.t.Helper()
	for line := range strings.Lines(said) {
		if !strings.HasPrefix(line, "pci "+nic.Addr) {
			continue
		}
		if strings.Contains(line, " refused ") != refused || !strings.Contains(line, want) {
			n.t.Errorf("refused: %t, want %t and %q: %s", strings.Contains(line, " refused "), refused, want, line)
		}
		return
	}
	n.t.Errorf("%s is not in the plan:\n%s", nic.Addr, said)
}

// bare takes from both NICs what a stack gave them.
func (n *node) bare() {
	n.t.Helper()
	for _, nic := range []NIC{n.a, n.b} {
		name := n.ipLink(nic).Name
		n.ip("addr flush dev " + name)
		n.ip("link set " + name + " nomaster down mtu 1500")
	}
	n.ip("nexthop flush")
}
