package host_test

import (
	"cmp"
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"eniagent/drivers/host"
)

// ip runs iproute2 in the network namespace of the calling thread.
func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.CommandContext(context.Background(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Errorf("ip %s: %v: %s", args, err, out)
	}
}

// network is what the kernel tells, with the names of netdevs in place of their
// indexes.
type network struct {
	host.Network
	name map[int]string
}

func networkTo(t *testing.T, to ...string) network {
	t.Helper()
	n, err := host.Linux{Root: "/"}.Network(context.Background(), to)
	if err != nil {
		t.Error(err)
	}
	names := map[int]string{0: "none"}
	for _, l := range n.Links {
		names[l.Index] = l.Name
	}
	return network{n, names}
}

func (n network) ways(to string) string {
	var all []string
	for _, w := range n.Ways {
		if w.To == to {
			all = append(all, n.name[w.Index])
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (n network) defaults() string {
	var all []string
	for _, d := range n.Defaults {
		all = append(all, cmp.Or(d.To, "all")+" "+n.name[d.Index])
	}
	return strings.Join(all, ", ")
}

// TestRoutesOfTheKernel: each form that a route has, and the rules, as a real
// kernel tells of them.
func TestRoutesOfTheKernel(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("*** NOT TESTED: no iproute2 ***")
	}
	inNetns(t, func() {
		for i, name := range []string{"a", "b", "c"} {
			ip(t, "link add "+name+"0 type veth peer name "+name+"1")
			ip(t, "link set "+name+"0 up")
			ip(t, "link set "+name+"1 up")
			ip(t, "addr add 10."+string(rune('1'+i))+".0.2/24 dev "+name+"0")
			ip(t, "-6 addr add fd00:"+string(rune('1'+i))+"::2/64 dev "+name+"0 nodad")
		}
		for _, r := range []string{
			"route add 0.0.0.0/1 via 10.1.0.1 dev a0",
			"route add 128.0.0.0/1 via 10.2.0.1",
			"-6 route add 2000::/3 via fd00:3::1",
			"-6 route add default via fd00:2::1 table 100",
			"route add local default dev lo table 101",
			"route add unreachable default table 102",
			"route add 224.0.0.0/4 dev c0",
			"route add 192.0.2.0/24 nexthop via 10.1.0.1 nexthop via 10.2.0.1 nexthop via 10.3.0.1 weight 5",
			"route add 192.0.2.128/25 via 10.2.0.1",
			"route add 198.51.100.0/24 via inet6 fd00:3::1 dev c0",
			"route add 203.0.113.0/24 encap mpls 17 via 10.2.0.1",
			"nexthop add id 5 via 10.1.0.1 dev a0",
			"nexthop add id 6 via 10.3.0.1 dev c0",
			"nexthop add id 7 group 5/6",
			"route add 100.64.0.0/24 nhid 7",
			"route add 100.64.1.0/24 nhid 6",
			"-6 route add fd99::/64 nexthop via fd00:1::1 nexthop via fd00:2::1",
			"route add 100.64.2.0/24 via 10.1.0.1 metric 5",
			"route add 100.64.2.0/24 via 10.2.0.1 metric 4",
			"route add 172.16.0.0/16 via 10.1.0.1 table 200",
			"rule add fwmark 7 lookup 200 priority 50",
			"route add 172.16.0.0/16 via 10.3.0.1",
			"route add 172.17.0.0/16 via 10.1.0.1 table 201",
			"rule add to 172.17.0.0/16 lookup 201 priority 60",
			"rule add uidrange 0-0 lookup 202 priority 61",
			"route add 172.17.0.0/16 via 10.2.0.1 table 202",
			"rule add iif a1 lookup 203 priority 40",
			"route add 172.17.0.0/16 via 10.3.0.1 table 203",
		} {
			if strings.Contains(r, "encap mpls") && exec.CommandContext(context.Background(), "ip", strings.Fields(r)...).Run() != nil {
				t.Log("*** NOT TESTED: this kernel has no MPLS ***")
				continue
			}
			if !strings.Contains(r, "encap mpls") {
				ip(t, r)
			}
		}
		for _, compat := range []string{"1", "0"} {
			sysctl(t, "/proc/sys/net/ipv4/nexthop_compat_mode", compat)
			checkRoutes(t)
		}
	})
}

func checkRoutes(t *testing.T) {
	t.Helper()
	ways := map[string]string{
		"9.9.9.9": "a0", "192.0.2.9": "a0 b0 c0", "192.0.2.200": "b0", "198.51.100.1": "c0",
		"100.64.0.1": "a0 c0", "100.64.1.1": "c0", "100.64.2.1": "b0", "fd99::1": "a0 b0", "2001:db8::1": "c0",
		"172.16.0.1": "a0 c0", "172.17.0.1": "a0",
		"fc00::1": "b0", // of a table that no rule names, as a VRF's is
	}
	var to []string
	for address := range ways {
		to = append(to, address)
	}
	n := networkTo(t, to...)
	for address, want := range ways {
		if got := n.ways(address); got != want {
			t.Errorf("the way to %s is by %q, want %q", address, got, want)
		}
	}
	if got, want := n.defaults(), "0.0.0.0/1 a0, 128.0.0.0/1 b0, all b0, 2000::/3 c0"; got != want {
		t.Errorf("the default routes are %q, want %q", got, want)
	}
	var routed []string
	for _, i := range n.Routed {
		routed = append(routed, n.name[i])
	}
	if !slices.Equal(routed, []string{"a0", "b0", "c0"}) {
		t.Errorf("routes leave by %v", routed)
	}
}

// sysctl writes a setting of the calling thread's network namespace.
func sysctl(t *testing.T, path, value string) {
	t.Helper()
	if err := (host.Linux{Root: "/"}).Do(context.Background(), host.Call{Op: host.OpSysfs, Path: path, Value: value}); err != nil {
		t.Errorf("write %s: %v", path, err)
	}
}
