package agent

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

// eachRead has each read go wrong alone in one of so many ways; 1 is in all.
//
//nolint:gochecknoglobals // a flag of the test binary
var eachRead = flag.Int("unread", 4, "have each read go wrong alone in one of so many ways; 1 is in all")

// TestAReadThatFailsChangesNothing: whatever read of a settled node fails, takes
// long or hangs, for a moment or for good, alone or with others: nothing is
// written, no operation is begun, no pool changes, and a dry run says that there is
// nothing to do; also where the agent starts while it does.
func TestAReadThatFailsChangesNothing(t *testing.T) {
	for _, broken := range troubled(t, nil) {
		t.Error(broken)
	}
}

// TestBrokenUnreadIsAbsent: the test above notices an agent that takes what it
// cannot read for absent.
func TestBrokenUnreadIsAbsent(t *testing.T) {
	deaf := func(a *Agent) {
		a.view.Host = a.c.Host // notes nothing
	}
	if len(troubled(t, deaf)) == 0 {
		t.Error("an agent that takes unreadable for absent is not noticed")
	}
}

// trouble is how reads go wrong.
type trouble struct {
	errors []error       // one of them each time; none is that the read takes long
	takes  time.Duration // until it is answered
	share  int           // of the reads in a hundred
}

// troubles are the ways; a deadline is what the pool of writer children says.
func troubles() map[string]trouble {
	deadline := fmt.Errorf("%w: %w", drivers.ErrUnanswered, context.DeadlineExceeded)
	return map[string]trouble{
		"fails":           {errors: []error{syscall.EIO, syscall.ENOMEM}, share: 100},
		"fails at times":  {errors: []error{syscall.EIO, syscall.ENODEV, syscall.EINTR}, share: 40},
		"is slow":         {takes: 4 * time.Second, share: 30},
		"is not answered": {errors: []error{deadline}, takes: 5 * time.Second, share: 100},
	}
}

// troubled is what a settled node came to while reads of it went wrong.
func troubled(t *testing.T, breaks func(*Agent)) (broken []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.writePlugin(theirs)
		n.breaks = breaks
		h := &unreliable{Host: n.kernel, random: rand.New(rand.NewPCG(1, 2))}
		change := func(c *Config) { withPlugin(c); c.Host = h }
		n.start(change)
		defer func() { n.halt() }()
		up := true
		byName := source.Interface{Selector: source.Selector{Name: "enp2s0"}, State: source.Configured, Driver: "vfio-pci", Pool: poolY}
		byMAC := source.Interface{Selector: source.Selector{MAC: "52:54:00:00:00:03"}, State: source.Configured, Up: &up, MTU: 1400, Pool: poolY}
		maker := pooledVFs(3, source.Override{Index: 1, VF: source.VF{Port: source.Port{MAC: "02:00:00:00:00:06"}}}, source.Override{Index: 2, VF: source.VF{Driver: "igbvf", Pool: source.NoPool, Port: source.Port{MAC: "02:00:00:00:00:07"}}})
		n.want(maker, byName, byMAC)
		settled(40 * time.Second)
		n.expectPool(poolX, vf0, vf1)
		n.expectPool(poolY, portA, portB)
		for at, way := range slices.Sorted(maps.Keys(troubles())) {
			for _, some := range h.turns(at) {
				h.trouble(troubles()[way], some...)
				for _, b := range n.unmoved(change, h) {
					broken = append(broken, fmt.Sprintf("%q %s: %s", some, way, b))
				}
				if len(broken) > 20 {
					return
				}
			}
		}
	})
	return broken
}

// TestNoSuchDeviceIsNoAbsence: a netdev that a read of its settings says is not there,
// and that is, has not gone.
func TestNoSuchDeviceIsNoAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.writePlugin(theirs)
		h := &unreliable{Host: n.kernel, random: rand.New(rand.NewPCG(1, 2))}
		change := func(c *Config) { withPlugin(c); c.Host = h }
		n.start(change)
		ports := pci(portB, "igb")
		ports.Channels, ports.Pool = &source.Channels{Combined: new(2)}, poolY
		up := true
		ports.Up = &up
		n.want(pooledVFs(3, source.Override{Index: 1, VF: source.VF{Port: source.Port{MAC: "02:00:00:00:00:06"}}}), ports)
		settled(40 * time.Second)
		n.expectPool(poolX, vf0, vf1, vf2)
		n.expectPool(poolY, portB)
		h.trouble(trouble{errors: []error{syscall.ENODEV}, share: 100}, h.about("settings ")...)
		file, _ := n.kernel.File(t.Context(), pluginFile)
		written := n.written(func() {
			n.agent.Wake()
			settled(time.Minute)
			h.trouble(trouble{})
			settled(time.Minute)
		})
		if now, _ := n.kernel.File(t.Context(), pluginFile); now != file || len(written) > 0 {
			t.Errorf("wrote %v, the device plugin's file is\n%s\n%s", written, now, n.log)
		}
		n.halt()
	})
}

// unmoved is what changes on a settled node while reads go wrong, and when they
// are right again.
func (n *node) unmoved(change func(*Config), h *unreliable) (broken []string) {
	file, _ := n.kernel.File(n.t.Context(), pluginFile)
	last, owed := n.agent.view.Operations(1), n.owed()
	writes := n.written(func() {
		n.agent.Wake()
		settled(31 * time.Second)
		if r := n.agent.Recover(n.t.Context(), true); len(r.Pools)+len(r.Left)+len(r.Entries) > 0 {
			broken = append(broken, fmt.Sprintf("a dry run finds %+v", r))
		}
		n.halt()
		n.start(change)
		settled(31 * time.Second)
		h.trouble(trouble{})
		settled(31 * time.Second)
	})
	if len(writes) > 0 {
		broken = append(broken, fmt.Sprintf("wrote %v", writes))
	}
	if now, _ := n.kernel.File(n.t.Context(), pluginFile); now != file {
		broken = append(broken, "the device plugin's file is "+now)
	}
	if ops := n.agent.view.Operations(1); fmt.Sprint(ops) != fmt.Sprint(last) || n.owed() != owed {
		broken = append(broken, fmt.Sprintf("operation %+v, %d restarts", ops, n.owed()))
	}
	if all := n.conditions() + ", " + n.poolConditions(); strings.Count(all, "=right") != 8 {
		broken = append(broken, "it does not come back: "+all)
	}
	return broken
}

// TestAfterARebootWhatCannotBeReadIsInNoPool: there, what was read last is another
// kernel's.
func TestAfterARebootWhatCannotBeReadIsInNoPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.writePlugin(theirs)
		h := &unreliable{Host: n.kernel, random: rand.New(rand.NewPCG(1, 2))}
		change := func(c *Config) { withPlugin(c); c.Host = h }
		n.start(change)
		n.want(inPool(pci(portA, "vfio-pci"), poolX), pooledVFs(2))
		settled(30 * time.Second)
		n.expectPool(poolX, vf0, vf1, portA)
		n.halt()
		n.kernel.Reboot()
		h.trouble(troubles()["fails"], h.about(portA)...)
		n.start(change)
		settled(time.Minute)
		n.expectPool(poolX, vf0, vf1)
		h.trouble(trouble{})
		settled(time.Minute)
		n.expectPool(poolX, vf0, vf1, portA)
		n.halt()
	})
}

// TestWhatIsGivenBackWhileReadsFail comes back once, as it was: what could not be
// read was not taken for back.
func TestWhatIsGivenBackWhileReadsFail(t *testing.T) {
	for seed := range uint64(6) {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, sim.DefaultNode())
			n.writePlugin(theirs)
			h := &unreliable{Host: n.kernel, random: rand.New(rand.NewPCG(seed, 3))}
			n.start(func(c *Config) { withPlugin(c); c.Host = h })
			n.want(inPool(pci(portA, "vfio-pci"), poolX), pooledVFs(4))
			settled(30 * time.Second)
			n.expectPool(poolX, vf0, vf1, vf2, vf3, portA)
			h.trouble(trouble{errors: []error{syscall.EIO, syscall.ENOMEM}, takes: 10 * time.Millisecond, share: int(2 + 6*seed)})
			released := pci(maker, "")
			released.State = source.Released
			n.want(releasedPCI(portA), released)
			settled(5 * time.Minute)
			h.trouble(trouble{})
			settled(10 * time.Minute)
			n.expect("pci 0000:02:00.0=released, pci 0000:01:00.0=released")
			n.virtual(vf0, vf1)
			n.driver(vf0, "igbvf")
			n.driver(vf1, "igbvf")
			n.driver(portA, "igb")
			n.expectPool(poolX)
			for _, op := range n.journal.History(0) {
				if op.State != journal.Done {
					n.t.Errorf("seed %d: operation %d is %s: %s\n%s", seed, op.ID, op.State, op.Outcome, n.log)
				}
			}
			n.halt()
		})
	}
}

// about are the reads that there were of a function.
func (u *unreliable) about(t string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(u.reads)), func(read string) bool { return !strings.Contains(read, t) })
}

// TestAPoolOutlivesACountThatCannotBe: more VFs than the device makes are refused,
// and the pool of those it has stays as it is, whoever bound them.
func TestAPoolOutlivesACountThatCannotBe(t *testing.T) {
	withPools(t, func(n *node) {
		n.want(pooledVFs(7))
		settled(30 * time.Second)
		n.expectPools("intel.com/x=right")
		was, changes := n.pool(poolX), n.owed()
		n.want(pooledVFs(8))
		settled(40 * time.Second)
		if now := n.pool(poolX); now != was || n.owed() != changes {
			n.t.Errorf("the pool has %s, want %s; %d restarts are owed\n%s", now, was, n.owed(), n.log)
		}
		if all := n.conditions(); !strings.Contains(all, "pci 0000:01:00.0=refused") || strings.Count(all, "=right") != 7 {
			n.t.Errorf("stands as %s", all)
		}
		n.want(pooledVFs(7))
		settled(40 * time.Second)
		if now := n.pool(poolX); now != was || n.owed() != changes {
			n.t.Errorf("the pool has %s, want %s\n%s", now, was, n.log)
		}
	})
}

// TestAPoolOfOthersVFsOutlivesACountThatCannotBe: nothing was done to them.
func TestAPoolOfOthersVFsOutlivesACountThatCannotBe(t *testing.T) {
	withPools(t, func(n *node) {
		want := vfs(2, source.VF{Driver: "igbvf", Pool: poolX})
		n.want(want)
		settled(30 * time.Second)
		n.expectPool(poolX, vf0, vf1)
		want.VFs.Count = 8
		n.want(want)
		settled(40 * time.Second)
		n.expectPool(poolX, vf0, vf1)
	})
}

// unreliable is a host of which reads go wrong.
type unreliable struct {
	host.Host
	mu      sync.Mutex
	random  *rand.Rand
	reads   map[string]bool // that there were
	wrong   trouble
	concern []string // the reads that go wrong; none is all
}

// trouble has some reads go wrong from now on; none are all.
func (u *unreliable) trouble(w trouble, some ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wrong, u.concern = w, some
}

// turns are the reads that go wrong together, one turn after the other: all, some
// at random, each alone.
func (u *unreliable) turns(way int) [][]string {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := slices.Sorted(maps.Keys(u.reads))
	turns := [][]string{nil}
	for range 12 {
		some := slices.Clone(all)
		u.random.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		turns = append(turns, some[:2+u.random.IntN(len(some)/2)])
	}
	for i, read := range all {
		if i%*eachRead == way%*eachRead {
			turns = append(turns, []string{read})
		}
	}
	return turns
}

func (u *unreliable) meet(what string) error {
	u.mu.Lock()
	if u.reads == nil {
		u.reads = map[string]bool{}
	}
	u.reads[what] = true
	w, hit := u.wrong, len(u.concern) == 0 || slices.Contains(u.concern, what)
	hit = hit && u.random.IntN(100) < u.wrong.share
	var err error
	if hit && len(w.errors) > 0 {
		err = fmt.Errorf("%s: %w", what, w.errors[u.random.IntN(len(w.errors))])
	}
	u.mu.Unlock()
	if hit {
		time.Sleep(w.takes)
	}
	return err
}

func (u *unreliable) Read(ctx context.Context, path string) (string, error) {
	if err := u.meet("read " + path); err != nil {
		return "", err
	}
	return u.Host.Read(ctx, path)
}

func (u *unreliable) File(ctx context.Context, path string) (string, error) {
	if err := u.meet("file " + path); err != nil {
		return "", err
	}
	return u.Host.File(ctx, path)
}

func (u *unreliable) Readlink(ctx context.Context, path string) (string, error) {
	if err := u.meet("readlink " + path); err != nil {
		return "", err
	}
	return u.Host.Readlink(ctx, path)
}

func (u *unreliable) List(ctx context.Context, path string) ([]string, error) {
	if err := u.meet("list " + path); err != nil {
		return nil, err
	}
	return u.Host.List(ctx, path)
}

func (u *unreliable) Inode(ctx context.Context, path string) (uint64, error) {
	if err := u.meet("inode " + path); err != nil {
		return 0, err
	}
	return u.Host.Inode(ctx, path)
}

func (u *unreliable) Links(ctx context.Context) ([]host.Link, error) {
	if err := u.meet("links"); err != nil {
		return nil, err
	}
	return u.Host.Links(ctx)
}

func (u *unreliable) Settings(ctx context.Context, index int, which host.Setting) (host.Settings, error) {
	if err := u.meet(fmt.Sprint("settings ", which, " of ", index)); err != nil {
		return host.Settings{}, err
	}
	return u.Host.Settings(ctx, index, which)
}

func (u *unreliable) Network(ctx context.Context, to []string) (host.Network, error) {
	if err := u.meet("network"); err != nil {
		return host.Network{}, err
	}
	return u.Host.Network(ctx, to)
}
