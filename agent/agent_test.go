package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSource sends what the test puts in.
type fakeSource struct{ updates chan source.Update }

func (f fakeSource) Updates(context.Context) (<-chan source.Update, error) { return f.updates, nil }

// node is an agent on a simulated kernel with a journal in memory.
type node struct {
	t       testing.TB
	kernel  *sim.Kernel
	store   *journal.Memory
	source  fakeSource
	agent   *Agent
	journal *journal.Journal
	log     *syncBuffer
	stop    context.CancelCauseFunc
	ended   chan error
	fault   func(string) error // of the journal's commits
	breaks  func(*Agent)       // breaks something in it before it runs
	// boundary is told of each write and commit, before and after.
	boundary func(string)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// serially has the calls of fn come one at a time, as several workers write at
// once.
func serially(fn func(label string)) func(label string) {
	var mu sync.Mutex
	return func(label string) {
		mu.Lock()
		defer mu.Unlock()
		fn(label)
	}
}

func newNode(t testing.TB, c sim.Config) *node {
	c.Fence = true
	return &node{t: t, kernel: sim.New(c), store: journal.NewMemory()}
}

// start runs an agent; a second start is a restart.
func (n *node) start(change func(*Config)) {
	n.t.Helper()
	ctx, stop := context.WithCancelCause(context.Background())
	bootID, err := host.BootID(ctx, n.kernel)
	if err != nil {
		n.t.Fatal(err)
	}
	n.journal, err = journal.OpenMemory(ctx, n.store, journal.Options{BootID: bootID, MachineID: "m", Fault: n.fault})
	if err != nil {
		n.t.Fatal(err)
	}
	n.source = fakeSource{make(chan source.Update, 1)}
	n.log = &syncBuffer{}
	c := Config{
		Journal: n.journal, Host: n.kernel, Source: n.source, Name: "file", Object: "/x.yaml",
		Logger: log.NewLogfmtLogger(n.log), BootID: bootID, MachineID: "m", Interval: 30 * time.Second,
		Registry: prometheus.NewPedanticRegistry(),
	}
	if change != nil {
		change(&c)
	}
	n.agent, n.stop, n.ended = New(c), stop, make(chan error, 1)
	if n.breaks != nil {
		n.breaks(n.agent)
	}
	go func() { n.ended <- n.agent.Reconcile(ctx) }()
}

// halt stops the agent as a signal does.
func (n *node) halt() {
	n.t.Helper()
	n.stop(errSignal)
	if err := <-n.ended; !errors.Is(err, errSignal) {
		n.t.Errorf("reconcile ended with %v", err)
	}
	if n.breaks == nil {
		n.legal()
	}
	if err := n.journal.Close(); err != nil {
		n.t.Error(err)
	}
}

// legal fails the test when an interface made an illegal transition.
func (n *node) legal() {
	n.t.Helper()
	if illegal := n.metric("eniagent_illegal_transitions_total"); illegal != 0 {
		n.t.Errorf("%v illegal transitions\n%s", illegal, n.log)
	}
}

// want puts a desired state in force.
func (n *node) want(interfaces ...source.Interface) {
	n.source.updates <- source.Update{Desired: &source.Desired{
		Source: "file", Object: "/x.yaml", Generation: generation(interfaces), Interfaces: interfaces,
	}}
}

func generation(interfaces []source.Interface) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(fmt.Sprintf("%+v", interfaces))))
}

// logged is how many lines of the log above level debug have a text.
func (n *node) logged(text string) (lines int) {
	for line := range strings.Lines(n.log.String()) {
		if strings.Contains(line, text) && !strings.Contains(line, "level=debug ") {
			lines++
		}
	}
	return lines
}

func pci(address, driver string) source.Interface {
	return source.Interface{Selector: source.Selector{PCI: drivers.Target(address)}, State: source.Configured, Driver: driver}
}

func named(name string, mtu int) source.Interface {
	up := true
	return source.Interface{Selector: source.Selector{Name: name}, State: source.Configured, MTU: mtu, Up: &up}
}

// settled lets everything happen that happens by itself, some virtual time long.
func settled(d time.Duration) {
	time.Sleep(d) // virtual: only ever called inside a synctest bubble
	synctest.Wait()
}

// conditions is how each entry stands, "pci 0000:02:00.0=right".
func (n *node) conditions() string {
	var s []string
	for _, i := range n.agent.Status(n.t.Context()).Interfaces {
		s = append(s, i.Entry+"="+string(i.Condition))
	}
	return strings.Join(s, ", ")
}

func (n *node) expect(want string) {
	n.t.Helper()
	if got := n.conditions(); got != want {
		n.t.Errorf("interfaces are %q, want %q\n%s", got, want, n.log)
	}
}

func (n *node) driver(address, want string) {
	n.t.Helper()
	got, err := host.DriverOf(n.t.Context(), n.kernel, address)
	if err != nil || got != want {
		n.t.Errorf("%s is on %q (%v), want %q\n%s", address, got, err, want, n.log)
	}
}

const (
	portA = "0000:02:00.0"
	portB = "0000:03:00.0"
)

func TestReconcileBindsAndGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		if err := n.agent.Ready(); err == nil {
			t.Error("ready before any desired state was read")
		}
		n.want(pci(portA, "vfio-pci"), named("enp3s0", 9000))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right, name enp3s0=right")
		n.driver(portA, "vfio-pci")
		if err := n.agent.Ready(); err != nil {
			t.Error(err)
		}
		released := pci(portA, "")
		released.State = source.Released
		n.want(released, named("enp3s0", 1500))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=released, name enp3s0=right")
		n.driver(portA, "igb")
		// Who reads that it is released may change it at once.
		log := n.log.String()
		if left, told := strings.Index(log, "left alone from now on"), strings.Index(log, "interface is released"); left < 0 || told < left {
			t.Errorf("it is told to be released at %d, and left alone from %d on:\n%s", told, left, log)
		}
	})
}

func TestWhatVanishesFromTheSourceIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		n.want(pci(portB, "vfio-pci")) // as if the file had been cut
		settled(5 * time.Second)
		n.expect("pci 0000:03:00.0=right, pci 0000:02:00.0=right")
		n.driver(portA, "vfio-pci")
		if s := n.agent.Status(t.Context()); !s.Interfaces[1].Kept {
			t.Error("nothing says that the entry was kept")
		}
		n.source.updates <- source.Update{Err: errors.New("line 3: what is this")}
		settled(5 * time.Second)
		if s := n.agent.Status(t.Context()); !strings.Contains(s.Source.Error, "line 3") || !s.Ready {
			t.Errorf("status of a broken source: %+v", s.Source)
		}
		n.halt()
		// Restarted with the source away: the last good state is in the journal.
		n.start(nil)
		n.source.updates <- source.Update{Err: errors.New("no such file")}
		n.unbind(portA)
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		n.expect("pci 0000:03:00.0=right, pci 0000:02:00.0=right")
		n.halt()
	})
}

// unbind is some other tool's.
func (n *node) unbind(address string) {
	n.t.Helper()
	driver, err := host.DriverOf(n.t.Context(), n.kernel, address)
	if err != nil {
		n.t.Fatal(err)
	}
	path := host.PCIDrivers + driver + "/unbind"
	if err := n.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: drivers.Target(address), Path: path, Value: address}); err != nil {
		n.t.Fatal(err)
	}
}

func TestANameStandsForItsFunctionAfterTheNetdevIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		byName := source.Interface{Selector: source.Selector{Name: "enp2s0"}, State: source.Configured, Driver: "vfio-pci"}
		byMAC := source.Interface{Selector: source.Selector{MAC: "52:54:00:00:00:03"}, State: source.Configured, Driver: "vfio-pci"}
		n.want(byName, byMAC)
		settled(5 * time.Second)
		n.expect("name enp2s0=right, mac 52:54:00:00:00:03=right")
		n.halt()
		n.start(nil) // the netdevs are gone; the journal remembers
		settled(5 * time.Second)
		n.expect("name enp2s0=right, mac 52:54:00:00:00:03=right")
		n.unbind(portA)
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		// A new netdev takes the name: the entry still stands for the old function.
		if err := n.kernel.Rename("enp1s0", "enp2s0"); err != nil {
			t.Fatal(err)
		}
		settled(time.Minute)
		n.driver("0000:01:00.0", "igb")
		n.halt()
		// In a new boot the name is asked anew.
		if err := n.kernel.Rename("enp2s0", "enp1s0"); err != nil {
			t.Fatal(err)
		}
		n.kernel.Reboot()
		n.driver(portA, "igb")
		n.start(nil)
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		n.driver(portB, "vfio-pci")
		n.halt()
	})
}

func TestBaselineOfANewBootIsTheKernels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.halt()
		n.kernel.Reboot()
		n.start(nil)
		settled(5 * time.Second)
		b, ok := n.journal.Baseline(drivers.Key{Kind: "driver", Target: portA})
		if !ok || b.State != "driver=igb override=-" || b.Unknown {
			t.Errorf("baseline after a reboot is %+v, %t", b, ok)
		}
		n.halt()
	})
}

func TestReleaseOfAnothersWorkIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.want(pci(portA, "uio_pci_generic"))
		settled(5 * time.Second)
		n.driver(portA, "uio_pci_generic")
		n.halt()
		n.store = journal.NewMemory() // a new agent that knows nothing of it
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		released := pci(portA, "")
		released.State = source.Released
		n.want(released)
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=refused")
		n.driver(portA, "vfio-pci")
		n.halt()
	})
}

func TestAGoalRevertedThreeTimesIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		if err := n.kernel.Inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL, Times: -1}); err != nil {
			t.Fatal(err)
		}
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(30 * time.Minute)
		n.expect("pci 0000:02:00.0=failed")
		n.driver(portA, "igb")
		tried := len(n.journal.History(0))
		settled(2 * time.Hour)
		n.halt()
		n.start(nil) // across restarts
		settled(2 * time.Hour)
		if again := len(n.journal.History(0)); again != tried {
			t.Errorf("%d more operations were begun", again-tried)
		}
		n.expect("pci 0000:02:00.0=failed")
		// Desired state changes, and changes back: it is tried again.
		if err := n.kernel.ClearFaults(); err != nil {
			t.Fatal(err)
		}
		n.want(pci(portA, "uio_pci_generic"))
		settled(time.Minute)
		n.want(pci(portA, "vfio-pci"))
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=right")
		n.halt()
	})
}

func TestRetryClearsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		if err := n.kernel.Inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL, Times: 3}); err != nil {
			t.Fatal(err)
		}
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(30 * time.Minute)
		n.expect("pci 0000:02:00.0=failed")
		if cleared, err := n.agent.Retry(t.Context(), portA); err != nil || cleared != 1 {
			t.Errorf("cleared %d, %v", cleared, err)
		}
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=right")
	})
}

func TestObserveNeverWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(func(c *Config) { c.Observe = true })
		defer n.halt()
		n.want(pci(portA, "vfio-pci"), named("enp3s0", 9000))
		settled(5 * time.Minute)
		n.expect("pci 0000:02:00.0=pending, name enp3s0=pending")
		if w := n.kernel.Writes(); w != 0 {
			t.Errorf("%d writes were made", w)
		}
		if _, ok := n.journal.Desired("file"); ok || len(n.journal.History(0)) > 0 {
			t.Error("the journal was written")
		}
		if p := n.agent.Plan(t.Context()); p.Changes() != 10 {
			t.Errorf("the plan has %d writes, want 5 modules, 3 of the driver, MTU and up", p.Changes())
		}
	})
}

func TestHeldFunctionIsRefusedAndGoesOnByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		release := n.kernel.Hold(portA)
		n.want(pci(portA, "igb"), pci(portB, "vfio-pci"))
		settled(2 * time.Minute)
		n.driver(portB, "vfio-pci")
		n.expect("pci 0000:02:00.0=held, pci 0000:03:00.0=right")
		if err := n.agent.Healthy(); err != nil {
			t.Errorf("a fenced target made the agent unhealthy: %v", err)
		}
		n.halt()
		n.start(nil)
		settled(10 * time.Second)
		if err := n.agent.Ready(); err != nil {
			t.Errorf("a fenced target keeps the next agent from being ready: %v", err)
		}
		release()
		settled(time.Second)
		n.driver(portA, "igb")
		n.halt()
	})
}

// TestAHungUnbindIsFencedAndGoesOnByItself: the guard's look was too early.
func TestAHungUnbindIsFencedAndGoesOnByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.hang("unbind")
		n.want(pci(portA, "igb"), pci(portB, "vfio-pci"))
		settled(2 * time.Minute)
		n.expect("pci 0000:02:00.0=fenced, pci 0000:03:00.0=right")
		if err := n.agent.Healthy(); err != nil {
			t.Errorf("a fenced target made the agent unhealthy: %v", err)
		}
		n.halt()
		n.start(nil)
		settled(10 * time.Second)
		if err := n.agent.Ready(); err != nil {
			t.Errorf("a fenced target keeps the next agent from being ready: %v", err)
		}
		n.kernel.Thaw()
		settled(2 * time.Second)
		n.driver(portA, "igb")
		n.halt()
	})
}

// hang makes the next such write on portA hang until Thaw, after it was made.
func (n *node) hang(label string) {
	n.t.Helper()
	if err := n.kernel.Inject(sim.Fault{Label: label, Path: portA, When: sim.After, Hang: true}); err != nil {
		n.t.Fatal(err)
	}
}

func TestTwoEntriesForOneFunctionAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		byName := source.Interface{Selector: source.Selector{Name: "enp2s0"}, State: source.Configured, Driver: "vfio-pci"}
		n.want(pci(portA, "uio_pci_generic"), byName, pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=refused, name enp2s0=refused, pci 0000:03:00.0=right")
		n.driver(portA, "igb")
	})
}

func TestWhatCannotBeIsSaidAndHarmsNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(pci("0000:99:00.0", "vfio-pci"), pci(portA, "no_such_driver"), named("nowhere0", 1500), named("enp3s0", 9500), named("enp1s0", 9000))
		settled(5 * time.Second)
		n.expect("pci 0000:99:00.0=waiting, pci 0000:02:00.0=refused, name nowhere0=waiting, name enp3s0=refused, name enp1s0=right")
		for _, i := range n.agent.Status(t.Context()).Interfaces[:4] {
			if i.Reason == "" {
				t.Errorf("%s is %s without a reason", i.Entry, i.Condition)
			}
		}
	})
}

func TestForeignUnbindIsRepairedByAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(func(c *Config) { c.Interval = time.Hour })
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.unbind(portA)
		settled(time.Second)
		n.driver(portA, "vfio-pci")
	})
}

// TestVFIOWithoutItsBackend is a function on vfio-pci that no program can open,
// because vfio_iommu_type1 is not there: it is loaded, and not for ever.
func TestVFIOWithoutItsBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		backend := host.SysModule + "vfio_iommu_type1"
		for range maxRepairs {
			if _, err := n.kernel.Inode(t.Context(), backend); err != nil {
				t.Fatalf("not loaded: %v\n%s", err, n.log)
			}
			n.expect("pci 0000:02:00.0=right")
			if err := n.kernel.Foreign(host.Call{Op: host.OpUnload, Target: "module/vfio_iommu_type1", Value: "vfio_iommu_type1"}); err != nil {
				t.Fatal(err)
			}
			settled(time.Minute)
		}
		n.expect("pci 0000:02:00.0=degraded")
		n.driver(portA, "vfio-pci")
		settled(repairWindow)
		n.expect("pci 0000:02:00.0=right")
	})
}

// TestManyFunctionsAtOnce changes what is asked of 16 functions while links
// flap and people ask, and counts the writes on each at any moment.
func TestManyFunctionsAtOnce(t *testing.T) {
	c := sim.DefaultNode()
	var addresses []string
	for i := range 16 {
		a := fmt.Sprintf("0000:%02x:00.0", 0x20+i)
		addresses = append(addresses, a)
		c.Devices = append(c.Devices, sim.Device{
			Address: a, Vendor: "0x8086", Device: "0x10c9", SubsystemVendor: "0x8086", SubsystemDevice: "0xa03c",
			Class: "0x020000", IOMMUGroup: fmt.Sprint(100 + i), TotalVFs: 7,
			Net: &sim.Netdev{
				Name: fmt.Sprintf("many%d", i), MAC: fmt.Sprintf("52:54:00:00:01:%02x", i),
				PermMAC: fmt.Sprintf("52:54:00:00:01:%02x", i), MTU: 1500, MinMTU: 68, MaxMTU: 9216,
			},
		})
	}
	n := newNode(t, c)
	var mu sync.Mutex
	at, most := map[drivers.Target]int{}, 0
	n.kernel.Hook = func(p sim.Point) {
		mu.Lock()
		defer mu.Unlock()
		if p.When == sim.Before {
			at[p.Call.Target]++
			most = max(most, at[p.Call.Target])
		} else {
			at[p.Call.Target]--
		}
	}
	n.start(nil)
	ctx, cancel := context.WithCancel(t.Context())
	var world sync.WaitGroup
	var asked atomic.Int64
	world.Go(func() { // links flap
		for i := 0; ctx.Err() == nil; i++ {
			_ = n.kernel.SetCarrier(addresses[i%16], i%3 == 0)
			n.agent.Wake()
		}
	})
	world.Go(func() { // people ask
		for ctx.Err() == nil {
			n.agent.Status(ctx)
			n.agent.Plan(ctx)
			n.agent.Recover(ctx, true)
			asked.Add(1)
		}
	})
	choices := []string{"vfio-pci", "igb", "uio_pci_generic"}
	for round := range 6 {
		var interfaces []source.Interface
		for i, a := range addresses {
			interfaces = append(interfaces, pci(a, choices[(i+round)%3]))
		}
		n.want(interfaces...)
		n.await(func() bool {
			return !slices.ContainsFunc(interfaces, func(i source.Interface) bool {
				d, err := host.DriverOf(ctx, n.kernel, string(i.Selector.PCI))
				return err != nil || d != i.Driver
			})
		})
	}
	cancel()
	world.Wait()
	n.halt()
	if most != 1 {
		t.Errorf("%d writes were under way on one target", most)
	}
	if asked.Load() == 0 {
		t.Error("nobody asked")
	}
	if left := n.journal.Operations(); len(left) > 0 {
		t.Errorf("left open: %v", left)
	}
}

// await waits for a condition of the kernel, woken by its events.
func (n *node) await(condition func() bool) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 30*time.Second)
	defer cancel()
	events, err := n.kernel.Watch(ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	for !condition() {
		if _, ok := <-events; !ok {
			n.t.Fatalf("not within 30 s: %s\n%s", n.conditions(), n.log)
		}
	}
}

// TestPanicOfAWorkerEndsTheLoop: the journal is closed as for any other end.
func TestPanicOfAWorkerEndsTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.kernel.Hook = func(sim.Point) { panic("a driver is broken") }
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		err := <-n.ended
		if err == nil || !strings.Contains(err.Error(), "a driver is broken") {
			t.Errorf("reconcile ended with %v", err)
		}
		n.stop(errSignal)
		if err := n.journal.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestAStopAtTheStartIsNoFailure: it ends as one that was asked to.
func TestAStopAtTheStartIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		for range 10 {
			n.kernel.Reboot() // so that there is something to take over
			n.start(nil)
			n.halt() // says how it ended
		}
	})
}
