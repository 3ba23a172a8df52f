package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

// counting is a host whose reads are counted, and whose events a test can add
// to.
type counting struct {
	host.Host
	more chan host.Event

	mu    sync.Mutex
	paths []string // read, in order
	times []time.Time
	dumps int // of links and of the network
}

func count(h host.Host) *counting { return &counting{Host: h, more: make(chan host.Event)} }

func (c *counting) read(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paths, c.times = append(c.paths, path), append(c.times, time.Now())
}

func (c *counting) Read(ctx context.Context, path string) (string, error) {
	c.read(path)
	return c.Host.Read(ctx, path)
}

func (c *counting) Readlink(ctx context.Context, path string) (string, error) {
	c.read(path)
	return c.Host.Readlink(ctx, path)
}

func (c *counting) List(ctx context.Context, path string) ([]string, error) {
	c.read(path)
	return c.Host.List(ctx, path)
}

func (c *counting) Inode(ctx context.Context, path string) (uint64, error) {
	c.read(path)
	return c.Host.Inode(ctx, path)
}

func (c *counting) dump() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dumps++
}

func (c *counting) Links(ctx context.Context) ([]host.Link, error) {
	c.dump()
	return c.Host.Links(ctx)
}

func (c *counting) Network(ctx context.Context, to []string) (host.Network, error) {
	c.dump()
	return c.Host.Network(ctx, to)
}

func (c *counting) Watch(ctx context.Context) (<-chan host.Event, error) {
	in, err := c.Host.Watch(ctx)
	if err != nil {
		return nil, err
	}
	out := make(chan host.Event)
	go func() {
		defer close(out)
		for {
			var e host.Event
			var ok bool
			select {
			case e, ok = <-in:
				if !ok {
					return
				}
			case e = <-c.more:
			}
			select {
			case out <- e:
			case <-ctx.Done():
			}
		}
	}()
	return out, nil
}

// reset forgets what was read, and returns it.
func (c *counting) reset() (paths []string, dumps int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	paths, dumps = c.paths, c.dumps
	c.paths, c.times, c.dumps = nil, nil, 0
	return paths, dumps
}

// of are the paths of a function and of its netdev.
func of(paths []string, address, netdev string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
		return !strings.HasPrefix(p+"/", host.PCIDevices+address+"/") && !strings.HasPrefix(p+"/", host.SysNet+netdev+"/")
	})
}

const functions = 64

func wideAddress(i int) string { return fmt.Sprintf("0000:%02x:00.0", 0x40+i) }
func wideName(i int) string    { return fmt.Sprintf("wide%d", i) }
func wideMAC(i int) string     { return fmt.Sprintf("52:54:00:00:01:%02x", i) }

func wideDevice(i int) sim.Device {
	d := sim.DefaultNode().Devices[3]
	d.Address, d.Bridge, d.IOMMUGroup = wideAddress(i), "", fmt.Sprint(100+i)
	d.Net = &sim.Netdev{Name: wideName(i), MAC: wideMAC(i), PermMAC: wideMAC(i), MTU: 1500, MinMTU: 68, MaxMTU: 9216}
	d.NumVFs, d.BootVFs = 0, 0
	return d
}

// wide is a node with many ports besides the default ones.
func wide() sim.Config {
	c := sim.DefaultNode()
	for i := range functions {
		c.Devices = append(c.Devices, wideDevice(i))
	}
	return c
}

// asked asks for all of them, in each way that there is.
func asked() (interfaces []source.Interface) {
	up := true
	for i := range functions {
		s := source.Selector{PCI: drivers.Target(wideAddress(i))}
		switch i % 3 {
		case 1:
			s = source.Selector{Name: wideName(i)}
		case 2:
			s = source.Selector{MAC: wideMAC(i)}
		}
		want := source.Interface{Selector: s, State: source.Configured, Up: &up, MTU: 9000}
		if i%4 == 3 {
			want.Driver, want.Up, want.MTU = "vfio-pci", nil, 0
		}
		interfaces = append(interfaces, want)
	}
	return interfaces
}

// startWide runs an agent whose full passes are too seldom to be of any help.
func startWide(t *testing.T, interfaces []source.Interface) (*node, *counting) {
	t.Helper()
	n := newNode(t, wide())
	c := count(n.kernel)
	n.start(func(cfg *Config) { cfg.Host, cfg.Interval = c, 10*time.Minute })
	n.want(interfaces...)
	settled(20 * time.Second)
	for _, i := range n.agent.Status(t.Context()).Interfaces {
		if i.Condition != Right {
			t.Fatalf("%s is %s: %s\n%s", i.Entry, i.Condition, i.Reason, n.log)
		}
	}
	c.reset()
	return n, c
}

func (n *node) carrier(where string, on bool) {
	n.t.Helper()
	if err := n.kernel.SetCarrier(where, on); err != nil {
		n.t.Fatal(err)
	}
}

// TestAnEventReadsOnlyItsFunction: whatever one function does, the attributes
// of the others are not read, and the links are listed once for a burst.
func TestAnEventReadsOnlyItsFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := startWide(t, asked())
		defer n.halt()
		for _, flaps := range []int{0, 1, 2} { // by address, name, MAC
			for range 50 { // a burst
				n.carrier(wideAddress(flaps), false)
				n.carrier(wideAddress(flaps), true)
			}
			settled(time.Second)
			paths, dumps := c.reset()
			if len(of(paths, wideAddress(flaps), wideName(flaps))) == 0 || dumps != 1 {
				t.Errorf("function %d: read %d times with %d dumps", flaps, len(paths), dumps)
			}
			for other := range functions {
				if read := of(paths, wideAddress(other), wideName(other)); other != flaps && len(read) > 0 {
					t.Errorf("an event on function %d read %q", flaps, read)
				}
			}
		}
	})
}

// TestASteadyStreamIsLookedAtInTime: events without end hold up no look, and
// make no more looks than the pace allows.
func TestASteadyStreamIsLookedAtInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := startWide(t, asked())
		defer n.halt()
		const lasts = 10 * time.Second
		last, looks, began := time.Now(), 0, time.Now()
		for i := 0; time.Since(began) < lasts; i++ {
			n.carrier(wideAddress(0), i%2 == 0)
			settled(3 * time.Millisecond)
			if paths, _ := c.reset(); len(paths) > 0 {
				looks++
				if gap := time.Since(last); gap > pace+settle {
					t.Errorf("not looked at for %s", gap)
				}
				last = time.Now()
			}
		}
		if most := int(lasts/pace) + 2; looks > most || looks < most/2 {
			t.Errorf("%d looks in %s, want about %d", looks, lasts, most)
		}
	})
}

// TestWhatConcernsNobodyIsNotLookedAt: an event on a function that nothing is
// asked of costs a lookup of it, and one on none costs nothing.
func TestWhatConcernsNobodyIsNotLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := startWide(t, asked())
		defer n.halt()
		n.carrier("enp2s0", false)
		n.unbind(portB)
		settled(time.Second)
		paths, dumps := c.reset()
		mine := len(of(paths, portA, "enp2s0")) + len(of(paths, portB, "enp3s0"))
		if mine != len(paths) || mine > 10 || dumps > 1 {
			t.Errorf("read %q and %d dumps", paths, dumps)
		}
		for range 10 {
			c.more <- host.Event{What: host.EventLink} // of a veth
			c.more <- host.Event{Driver: "virtio_blk", What: "add"}
			c.more <- host.Event{Target: "module/dummy", What: "add"}
		}
		settled(time.Second)
		if paths, dumps := c.reset(); len(paths)+dumps > 0 {
			t.Errorf("read %q and %d dumps", paths, dumps)
		}
	})
}

// TestLostEventsMakeAFullPass: then nobody knows what happened.
func TestLostEventsMakeAFullPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := startWide(t, asked())
		defer n.halt()
		c.more <- host.Event{What: host.EventLost}
		settled(time.Second)
		paths, _ := c.reset()
		for i := range functions {
			if len(of(paths, wideAddress(i), wideName(i))) == 0 {
				t.Errorf("function %d was not looked at", i)
			}
		}
	})
}

// TestDriversAndModulesConcernWhoAsksForThem: those that ask for vfio-pci, and
// nobody else.
func TestDriversAndModulesConcernWhoAsksForThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := startWide(t, asked())
		defer n.halt()
		for _, e := range []host.Event{
			{Driver: "vfio-pci", What: "remove"}, {Target: "module/vfio_pci", What: "remove"}, {Target: "module/vfio_iommu_type1", What: "add"},
		} {
			c.more <- e
			settled(time.Second)
			paths, _ := c.reset()
			for i := range functions {
				if read := len(of(paths, wideAddress(i), wideName(i))) > 0; read != (i%4 == 3) {
					t.Errorf("%+v: function %d was looked at: %t", e, i, read)
				}
			}
		}
	})
}

// TestAForeignChangeIsSeenWithinASecond, without a full pass.
func TestAForeignChangeIsSeenWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := startWide(t, asked())
		defer n.halt()
		n.unbind(wideAddress(3))
		link := n.link(wideName(0))
		if err := n.kernel.Foreign(host.Call{Op: host.OpMTU, Target: drivers.Target(wideAddress(0)), Index: link.Index, Number: 1400}); err != nil {
			t.Fatal(err)
		}
		settled(time.Second)
		n.driver(wideAddress(3), "vfio-pci")
		if mtu := n.link(wideName(0)).MTU; mtu != 9000 {
			t.Errorf("MTU is %d a second after another hand changed it", mtu)
		}
	})
}

func (n *node) link(name string) host.Link {
	n.t.Helper()
	links, err := n.kernel.Links(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	i := slices.IndexFunc(links, func(l host.Link) bool { return l.Name == name })
	if i < 0 {
		n.t.Fatalf("no netdev %s", name)
	}
	return links[i]
}

// TestARetryLooksAtItsOwnTarget: a function that a program holds is looked at
// again and again, and the others are not.
func TestARetryLooksAtItsOwnTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		interfaces := asked()
		n, c := startWide(t, interfaces)
		defer n.halt()
		release := n.kernel.Hold(wideAddress(3))
		interfaces[3].Driver = "igb"
		n.want(interfaces...)
		settled(time.Second)
		c.reset()
		settled(10 * time.Second)
		paths, _ := c.reset()
		if len(of(paths, wideAddress(3), "")) == 0 {
			t.Error("what is held was not tried again")
		}
		for other := range functions {
			if read := of(paths, wideAddress(other), wideName(other)); other != 3 && len(read) > 0 {
				t.Fatalf("a retry of function 3 read %q", read)
			}
		}
		release()
		settled(time.Second)
		n.driver(wideAddress(3), "igb")
	})
}

// TestPFAndVFConcernEachOther: when one of them comes, goes or changes hands; and
// a PF its VFs when its link changes.
func TestPFAndVFConcernEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pf, vf, name = "0000:01:00.0", "0000:01:10.0", "enp1s0v0"
		n := newNode(t, sim.DefaultNode())
		c := count(n.kernel)
		n.start(func(cfg *Config) { cfg.Host, cfg.Interval = c, 10*time.Minute })
		defer n.halt()
		n.want(named("enp1s0", 1500), named(name, 1500))
		settled(10 * time.Second)
		n.expect("name enp1s0=right, name enp1s0v0=right")
		for _, step := range []struct {
			event  host.Event
			looked string // that must be looked at, too
			is     bool
		}{
			{host.Event{Target: pf, What: "change"}, vf, true},
			{host.Event{Target: pf, What: host.EventLink}, vf, true}, // its link is that of its PF
			{host.Event{Target: vf, What: "change"}, pf, true},
			{host.Event{Target: vf, What: host.EventLink}, pf, false},
			{host.Event{Target: "0000:01:10.2", What: "change"}, pf, true}, // nothing is asked of that VF
		} {
			c.reset()
			c.more <- step.event
			settled(time.Second)
			paths, _ := c.reset()
			// A VF names its PF, whose inode tells whether it still is the same.
			read := slices.Contains(paths, host.Attr(step.looked, "vendor"))
			if read != step.is {
				t.Errorf("%+v: %s was looked at: %t", step.event, step.looked, read)
			}
		}
		n.want(named("enp1s0", 1500), pci(vf, "nonesuch"))
		settled(time.Second)
		c.reset()
		c.more <- host.Event{Target: pf, What: host.EventLink}
		settled(100 * time.Millisecond)
		if paths, _ := c.reset(); !slices.Contains(paths, host.Attr(vf, "vendor")) {
			t.Error("a VF that is not as asked was not looked at when its PF's link changed")
		}
	})
}

// TestTwoEntriesForOneFunctionByEvents: what is compared between entries is
// right when an event concerns one of them.
func TestTwoEntriesForOneFunctionByEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(func(c *Config) { c.Interval = 10 * time.Minute })
		defer n.halt()
		rename := func(name, to string) {
			t.Helper()
			if err := n.kernel.Rename(name, to); err != nil {
				t.Fatal(err)
			}
			settled(time.Second)
		}
		up := pci(portB, "")
		up.MTU = 9000
		n.want(named("port", 9000), up)
		settled(5 * time.Second)
		n.expect("name port=waiting, pci 0000:03:00.0=right")
		rename("enp3s0", "port")
		n.expect("name port=refused, pci 0000:03:00.0=refused")
		rename("port", "other")
		rename("enp2s0", "port")
		n.expect("name port=right, pci 0000:03:00.0=right")
		if n.link("port").MTU != 9000 {
			t.Error("the entry does not stand for the netdev that has its name")
		}
	})
}

// TestARefusalEndsByAnEventOnAnotherFunction: of its IOMMU group.
func TestARefusalEndsByAnEventOnAnotherFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sim.DefaultNode()
		for i := range c.Devices {
			if c.Devices[i].Address == portB {
				c.Devices[i].IOMMUGroup = "10" // portA's
			}
		}
		n := newNode(t, c)
		n.start(func(c *Config) { c.Interval = 10 * time.Minute })
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=refused")
		n.unbind(portB)
		settled(time.Second)
		n.expect("pci 0000:02:00.0=right")
	})
}

// TestAHotPlugIsConfiguredWithinASecond: by any selector, at any moment, on
// average and at worst, and without a full pass.
func TestAHotPlugIsConfiguredWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(func(c *Config) { c.Interval = 10 * time.Minute })
		defer n.halt()
		n.want(asked()...)
		settled(20 * time.Second)
		var took []time.Duration
		for i := range functions {
			settled(time.Duration(i*37%211) * time.Millisecond)
			began := time.Now()
			if err := n.kernel.Plug(wideDevice(i)); err != nil {
				t.Fatal(err)
			}
			for n.agent.conditions()[asked()[i].Selector.String()] != Right {
				if settled(time.Millisecond); time.Since(began) > 5*time.Second {
					t.Fatalf("function %d is not configured 5s after it was plugged in\n%s", i, n.log)
				}
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		p50, p99 := took[len(took)/2], took[len(took)*99/100]
		t.Logf("from hot-plug to configured, of %d: p50 %s, p99 %s", len(took), p50, p99)
		if p99 > 500*time.Millisecond {
			t.Errorf("p99 is %s", p99)
		}
	})
}

// TestAFailedReadIsMadeAgain: no event tells that a host can be read again.
func TestAFailedReadIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		f := &failing{Host: n.kernel}
		n.start(func(c *Config) { c.Host, c.Interval = f, 10*time.Minute })
		defer n.halt()
		f.fail(true)
		n.want(named("enp3s0", 9000))
		settled(time.Second)
		n.expect("name enp3s0=waiting")
		f.fail(false)
		settled(retryKept)
		n.expect("name enp3s0=right")
	})
}

// failing is a host whose netdevs cannot be listed for a while.
type failing struct {
	host.Host
	mu sync.Mutex
	no bool
}

func (f *failing) fail(no bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.no = no
}

func (f *failing) Links(ctx context.Context) ([]host.Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.no {
		return nil, context.DeadlineExceeded
	}
	return f.Host.Links(ctx)
}

// BenchmarkLinkEvent is what one event on one of 64 functions costs: as a pass
// over everything, and as a look at its target.
func BenchmarkLinkEvent(b *testing.B) {
	ctx := b.Context()
	kernel := sim.New(func() sim.Config { c := wide(); c.Fence = true; return c }())
	bootID, err := host.BootID(ctx, kernel)
	if err != nil {
		b.Fatal(err)
	}
	j, err := journal.OpenMemory(ctx, journal.NewMemory(), journal.Options{BootID: bootID, MachineID: "m"})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = j.Close() }()
	c := count(kernel)
	a := New(Config{
		Journal: j, Host: c, Name: "file", Object: "/x.yaml", BootID: bootID, MachineID: "m",
		Interval: time.Minute, Registry: prometheus.NewRegistry(),
	})
	defer a.stop()
	a.take(ctx, source.Update{Desired: &source.Desired{Source: "file", Object: "/x.yaml", Generation: "1", Interfaces: asked()}})
	a.heard = true
	for began := time.Now(); slices.ContainsFunc(a.Status(ctx).Interfaces, func(i InterfaceReport) bool { return i.Condition != Right }) || !a.passed; {
		if time.Since(began) > time.Minute {
			b.Fatal("not settled")
		}
		a.pass(ctx)
		a.workers.Wait()
	}
	before := 0.0
	for _, way := range []struct {
		name string
		look func()
	}{
		{"everything", func() { a.pass(ctx) }},
		{"target", func() { a.look(ctx, []matter{{target: drivers.Target(wideAddress(1)), reach: near}}) }},
	} {
		b.Run(way.name, func(b *testing.B) {
			reads, events := 0, 0
			for b.Loop() {
				if err := kernel.SetCarrier(wideAddress(1), events%2 == 0); err != nil {
					b.Fatal(err)
				}
				c.reset()
				way.look()
				a.workers.Wait()
				paths, dumps := c.reset()
				reads, events = reads+len(paths)+dumps, events+1
			}
			each := float64(reads) / float64(events)
			b.ReportMetric(each, "reads/event")
			if before == 0 {
				before = each
			}
			b.ReportMetric(before/each, "fewer")
		})
	}
}
