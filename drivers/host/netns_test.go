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
// thread is never unlocked, so that Go ends it, and the namespace with it.
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
	go onThread(func() {
		err := unix.Unshare(unix.CLONE_NEWNET)
		defer func() { done <- err }()
		if err == nil {
			fn()
		}
	})
	if err := <-done; err != nil {
		t.Skipf("*** NOT TESTED: unshare: %v ***", err)
	}
	if after, err := os.Readlink("/proc/self/ns/net"); after != before || err != nil {
		t.Errorf("the process is in %s, was in %s (%v)", after, before, err)
	}
}

// onThread runs fn on a thread that ends with it. The first thread of a
// process, which stands for the process in /proc, would not: it is kept busy
// until another one has been found.
func onThread(fn func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		fn()
		return
	}
	defer runtime.UnlockOSThread()
	other := make(chan struct{})
	go func() {
		defer close(other)
		onThread(fn)
	}()
	<-other
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

// mustLink makes a link; where it cannot, it ends the goroutine that it is in.
func mustLink(t *testing.T, l netlink.Link) int {
	index, err := tryLink(l)
	if err != nil {
		t.Errorf("add %s %s: %v", l.Type(), l.Attrs().Name, err)
		runtime.Goexit()
	}
	return index
}

func tryLink(l netlink.Link) (int, error) {
	if err := netlink.LinkAdd(l); err != nil {
		return 0, err
	}
	made, err := netlink.LinkByName(l.Attrs().Name)
	if err != nil {
		return 0, err
	}
	return made.Attrs().Index, nil
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

func TestLinksInNamespace(t *testing.T) {
	inNetns(t, func() {
		port := mustLink(t, &netlink.Veth{LinkAttrs: named("port0"), PeerName: "port1"})
		bridge := mustLink(t, &netlink.Bridge{LinkAttrs: named("br0")})
		if err := netlink.LinkSetMasterByIndex(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: port}}, bridge); err != nil {
			t.Error(err)
		}
		k := host.Linux{Root: "/"}
		for _, c := range []host.Call{
			{Op: host.OpMTU, Index: port, Number: 9000},
			{Op: host.OpAdmin, Index: port, Number: 1},
		} {
			if err := k.Do(context.Background(), c); err != nil {
				t.Errorf("%s: %v", c, err)
			}
		}
		links := dump(t)
		p := byName(t, links, "port0")
		if p.Index != port || p.Kind != "veth" || !p.Up || p.MTU != 9000 || p.Master != bridge || p.MAC == "" || p.MinMTU != 68 || p.MaxMTU != 65535 {
			t.Errorf("port0 is %+v", p)
		}
		if b := byName(t, links, "br0"); b.Kind != "bridge" || b.MinMTU != 68 || b.MaxMTU != 65535 || b.Up {
			t.Errorf("br0 is %+v", b)
		}
		if byName(t, links, "lo").Up {
			t.Error("lo is up in a fresh namespace: this is not one")
		}
		testNetlinkErrors(t, k, bridge, port)
	})
}

func testNetlinkErrors(t *testing.T, k host.Linux, bridge, port int) {
	for _, tc := range []struct {
		call host.Call
		want error
	}{
		{host.Call{Op: host.OpMTU, Index: 4711, Number: 1500}, unix.ENODEV},
		{host.Call{Op: host.OpAdmin, Index: 4711, Number: 1}, unix.ENODEV},
		{host.Call{Op: host.OpMTU, Index: bridge, Number: 67}, unix.EINVAL},
		{host.Call{Op: host.OpMTU, Index: bridge, Number: 65536}, unix.EINVAL},
		{host.Call{Op: host.OpAdmin, Index: port, Number: 0}, nil},
	} {
		if err := k.Do(context.Background(), tc.call); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.call, err, tc.want)
		}
	}
	if byName(t, dump(t), "port0").Up {
		t.Error("port0 is up")
	}
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
		defer func() { _ = home.Close() }()
		pod, err := netns.New() // which also enters it
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = pod.Close() }()
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
		links := dump(t)
		a, b, c := byName(t, links, "veth0"), byName(t, links, "veth1"), byName(t, links, "host0")
		if a.Peer != b.Index || b.Peer != a.Index || a.Elsewhere || c.Peer != 0 || !c.Elsewhere {
			t.Errorf("peers are %+v, %+v, %+v", a, b, c)
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
		mustLink(t, &netlink.Bridge{LinkAttrs: named("br0")})
		readUntil(events, "link", 1)
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
		bridge := mustLink(t, &netlink.Bridge{LinkAttrs: named("br0")})
		if !flood(ctx, t, bridge) {
			return
		}
		readUntil(events, "lost", 1)
		// What is in the pipes is older than what comes now: more than fits in
		// them must still arrive.
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			readUntil(events, "link", 1001)
		}()
		for {
			select {
			case <-drained:
				return
			default:
				if !flood(ctx, t, bridge) {
					return
				}
			}
		}
	})
}

// flood makes more events of a link than a reader who sleeps can keep.
func flood(ctx context.Context, t *testing.T, index int) bool {
	for i := range 2000 {
		if err := (host.Linux{}).Do(ctx, host.Call{Op: host.OpMTU, Index: index, Number: 1300 + i}); err != nil {
			t.Error(err)
			return false
		}
	}
	return true
}

// readUntil reads at least n events, and on to one of the kind.
func readUntil(events <-chan host.Event, what string, n int) {
	for e := range events {
		if n--; n <= 0 && e.What == what {
			return
		}
	}
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
		bridge := mustLink(t, &netlink.Bridge{LinkAttrs: named("br0")})
		for i := range 300 {
			if err := (host.Linux{}).Do(ctx, host.Call{Op: host.OpMTU, Index: bridge, Number: 1300 + i}); err != nil {
				t.Error(err)
			}
		}
		cancel()
		for range events {
		}
	})
}
