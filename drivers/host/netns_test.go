package host_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"eniagent/drivers/host"
)

// inNetns runs fn on a thread of its own in a fresh network namespace. The
// thread is never unlocked, so that Go ends it: the namespace ends with it.
func inNetns(t *testing.T, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("*** NOT TESTED: a network namespace wants root ***")
	}
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		defer func() { done <- err }()
		if err == nil {
			fn()
		}
	}()
	if err := <-done; err != nil {
		t.Skipf("*** NOT TESTED: unshare: %v ***", err)
	}
	if after, err := os.Readlink("/proc/self/ns/net"); after != before || err != nil {
		t.Errorf("the process is in %s, was in %s (%v)", after, before, err)
	}
}

func byName(t *testing.T, links []host.Link, name string) host.Link {
	at := slices.IndexFunc(links, func(l host.Link) bool { return l.Name == name })
	if at < 0 {
		t.Errorf("no link %s in %+v", name, links)
		return host.Link{}
	}
	return links[at]
}

func dump(t *testing.T) []host.Link {
	links, err := host.Linux{Root: "/"}.Links(context.Background())
	if err != nil {
		t.Error(err)
	}
	return links
}

func TestLinksOfThisMachine(t *testing.T) {
	lo := byName(t, dump(t), "lo")
	if lo.Index != 1 || lo.MTU != 65536 || lo.Kind != "" || lo.Bus != "" || lo.PermMAC != "" {
		t.Errorf("lo is %+v", lo)
	}
}

func mustLink(t *testing.T, l netlink.Link) int {
	if err := netlink.LinkAdd(l); err != nil {
		t.Errorf("add %s %s: %v", l.Type(), l.Attrs().Name, err)
		return 0
	}
	made, err := netlink.LinkByName(l.Attrs().Name)
	if err != nil {
		t.Error(err)
		return 0
	}
	return made.Attrs().Index
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

func TestLinksInNamespace(t *testing.T) {
	inNetns(t, func() {
		dummy := mustLink(t, &netlink.Dummy{LinkAttrs: named("dummy0")})
		under := named("vlan0.7") // a dot in the name, as VLANs have
		under.ParentIndex = dummy
		vlan := mustLink(t, &netlink.Vlan{LinkAttrs: under, VlanId: 7})
		bridge := mustLink(t, &netlink.Bridge{LinkAttrs: named("br0")})
		if err := netlink.LinkSetMasterByIndex(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: dummy}}, bridge); err != nil {
			t.Error(err)
		}
		k := host.Linux{Root: "/"}
		for _, c := range []host.Call{
			{Op: host.OpMTU, Index: dummy, Number: 9000},
			{Op: host.OpAdmin, Index: dummy, Number: 1},
		} {
			if err := k.Do(context.Background(), c); err != nil {
				t.Errorf("%s: %v", c, err)
			}
		}
		links := dump(t)
		d := byName(t, links, "dummy0")
		if d.Index != dummy || d.Kind != "dummy" || !d.Up || d.MTU != 9000 || d.Master != bridge || d.MAC == "" || d.Lower != 0 {
			t.Errorf("dummy0 is %+v", d)
		}
		if d.MinMTU != 0 || d.MaxMTU != 0 { // a dummy takes any
			t.Errorf("dummy0 has limits %d and %d", d.MinMTU, d.MaxMTU)
		}
		v := byName(t, links, "vlan0.7")
		if v.Index != vlan || v.Kind != "vlan" || v.Lower != dummy || v.Up || v.MaxMTU != 65535 || v.MTU != 1500 {
			t.Errorf("vlan0.7 is %+v", v)
		}
		if b := byName(t, links, "br0"); b.Kind != "bridge" || b.MinMTU != 68 || b.MaxMTU != 65535 {
			t.Errorf("br0 is %+v", b)
		}
		if len(links) < 4 || byName(t, links, "lo").Up {
			t.Errorf("links: %+v", links)
		}
		testNetlinkErrors(t, k, bridge, dummy)
	})
}

func testNetlinkErrors(t *testing.T, k host.Linux, bridge, dummy int) {
	for _, tc := range []struct {
		call host.Call
		want error
	}{
		{host.Call{Op: host.OpMTU, Index: 4711, Number: 1500}, unix.ENODEV},
		{host.Call{Op: host.OpAdmin, Index: 4711, Number: 1}, unix.ENODEV},
		{host.Call{Op: host.OpMTU, Index: bridge, Number: 67}, unix.EINVAL},
		{host.Call{Op: host.OpMTU, Index: bridge, Number: 65536}, unix.EINVAL},
		{host.Call{Op: host.OpAdmin, Index: dummy, Number: 0}, nil},
	} {
		if err := k.Do(context.Background(), tc.call); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.call, err, tc.want)
		}
	}
	if byName(t, dump(t), "dummy0").Up {
		t.Error("dummy0 is up")
	}
}

// TestIPv6OfLinks is what sysctl says of each link.
func TestIPv6OfLinks(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skip("*** NOT TESTED: this kernel has no IPv6 ***")
	}
	inNetns(t, func() {
		mustLink(t, &netlink.Dummy{LinkAttrs: named("dummy0")})
		if !byName(t, dump(t), "dummy0").IPv6 {
			t.Error("dummy0 has no IPv6")
		}
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/dummy0/disable_ipv6", []byte("1"), 0); err != nil {
			t.Logf("*** NOT TESTED: switching IPv6 off: %v ***", err)
			return
		}
		if byName(t, dump(t), "dummy0").IPv6 {
			t.Error("dummy0 still has IPv6")
		}
	})
}

// TestVethHasNoLower: the peer of a veth is no device that it sits on, and in
// another namespace its index is the index of something else here. On a node
// with pods it is often that of a NIC.
func TestVethHasNoLower(t *testing.T) {
	inNetns(t, func() {
		home, err := netns.Get()
		if err != nil {
			t.Error(err)
			return
		}
		defer home.Close()
		pod, err := netns.New() // which also enters it
		if err != nil {
			t.Error(err)
			return
		}
		defer pod.Close()
		if err := netns.Set(home); err != nil {
			t.Error(err)
			return
		}
		mustLink(t, &netlink.Veth{LinkAttrs: named("veth0"), PeerName: "veth1"})
		mustLink(t, &netlink.Veth{LinkAttrs: named("host0"), PeerName: "eth0", PeerNamespace: netlink.NsFd(pod)})
		for _, name := range []string{"veth0", "veth1", "host0"} {
			if l := byName(t, dump(t), name); l.Lower != 0 {
				t.Errorf("%s sits on index %d: %+v", name, l.Lower, l)
			}
		}
	})
}

func TestWatchLinks(t *testing.T) {
	inNetns(t, func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		events, err := host.Linux{Root: "/"}.Watch(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		mustLink(t, &netlink.Dummy{LinkAttrs: named("dummy0")})
		for e := range events {
			if e.What == "link" {
				break
			}
		}
		cancel()
		for range events { // until it is closed
		}
	})
}

// TestWatchOverflow: who reads too slowly loses events, is told so, and gets
// those that come after.
func TestWatchOverflow(t *testing.T) {
	inNetns(t, func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		events, err := host.Linux{Root: "/"}.Watch(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		dummy := mustLink(t, &netlink.Dummy{LinkAttrs: named("dummy0")})
		k := host.Linux{Root: "/"}
		flood := func() {
			for i := range 2000 {
				if err := k.Do(ctx, host.Call{Op: host.OpMTU, Index: dummy, Number: 1300 + i}); err != nil {
					t.Error(err)
					return
				}
			}
		}
		flood()
		for e := range events {
			if e.What == "lost" {
				break
			}
		}
		// What is in the pipes is older than what comes now: more than fits in
		// them must still arrive.
		drained := make(chan int)
		go func() {
			n := 0
			for e := range events {
				if n++; e.What == "link" && n > 1000 {
					break
				}
			}
			drained <- n
		}()
		for len(drained) == 0 {
			select {
			case <-drained:
				return
			default:
				flood()
			}
		}
	})
}

// TestWatchEnds: what is under way when ctx ends keeps nobody waiting; goleak
// looks at the end of all tests.
func TestWatchEnds(t *testing.T) {
	inNetns(t, func() {
		ctx, cancel := context.WithCancel(context.Background())
		events, err := host.Linux{Root: "/"}.Watch(ctx)
		if err != nil {
			t.Error(err)
			cancel()
			return
		}
		dummy := mustLink(t, &netlink.Dummy{LinkAttrs: named("dummy0")})
		for i := range 300 {
			if err := (host.Linux{}).Do(ctx, host.Call{Op: host.OpMTU, Index: dummy, Number: 1300 + i}); err != nil {
				t.Error(err)
			}
		}
		cancel()
		for range events {
		}
	})
}
