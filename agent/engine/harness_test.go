package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
	"eniagent/recovery"
)

// The functions of the simulated node that the tests use.
const (
	port drivers.Target = "0000:02:00.0" // igb, netdev enp2s0
	vf   drivers.Target = "0000:01:10.0" // igbvf
)

func keyOf(k drivers.Kind, t drivers.Target) drivers.Key { return drivers.Key{Kind: k, Target: t} }

// world is a kernel and a store, and the boundaries at which it may crash.
type world struct {
	t      testing.TB
	kernel *sim.Kernel
	store  *journal.Memory
	// boundary is called before and after every journal commit and host write.
	boundary func(label string)
	// broken are violations of the write-ahead rule, found while writing.
	broken []string
	// written is how many writes the kernel had seen when it was booted.
	written int
	log     bytes.Buffer
}

func newWorld(t testing.TB) *world {
	c := sim.DefaultNode()
	c.Fence = true
	w := &world{t: t, kernel: sim.New(c), store: journal.NewMemory()}
	for _, m := range []string{"vfio", "vfio_iommu_type1", "irqbypass", "vfio_pci_core", "vfio_pci", "uio", "uio_pci_generic"} {
		w.load(m)
	}
	return w
}

// load loads a module as the boot would have.
func (w *world) load(module string) {
	w.t.Helper()
	for _, path := range []string{"virt/lib", "drivers/vfio", "drivers/vfio/pci", "drivers/uio"} {
		file := "/lib/modules/6.12.95-cloud-amd64/kernel/" + path + "/" + module + ".ko.xz"
		for _, f := range []string{file, strings.ReplaceAll(file, "vfio_pci", "vfio-pci"), strings.ReplaceAll(file, "vfio_pci_core", "vfio-pci-core")} {
			target, err := drivers.Module(module)
			if err != nil {
				w.t.Fatal(err)
			}
			if w.kernel.Foreign(host.Call{Op: host.OpLoad, Target: target, Path: f}) == nil {
				return
			}
		}
	}
	w.t.Fatalf("module %s is not on the simulated node", module)
}

// copyAt is the world as a crash at this instant leaves it.
func (w *world) copyAt() *world {
	return &world{t: w.t, kernel: w.kernel.Clone(), store: w.store.Clone()}
}

func (w *world) pass(label string) {
	if w.boundary != nil {
		w.boundary(label)
	}
}

// open is a journal and an engine on the world as it is.
func (w *world) open() (*journal.Journal, *engine.Engine) {
	w.t.Helper()
	bootID, err := host.BootID(context.Background(), w.kernel)
	if err != nil {
		w.t.Fatal(err)
	}
	j, err := journal.OpenMemory(context.Background(), w.store, journal.Options{
		BootID: bootID, MachineID: "m", Version: "test", FlushAfter: time.Hour,
		Fault: func(point string) error { w.pass("journal " + point); return nil },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.kernel.Hook = func(p sim.Point) {
		if p.When == sim.Before {
			w.checkIntent(p)
		}
		w.pass("host " + p.String())
	}
	e := engine.New(engine.Options{
		Journal: j, Drivers: all.New(w.kernel), Host: w.kernel, Logger: log.NewLogfmtLogger(log.NewSyncWriter(&w.log)),
		Sleep: func(context.Context, time.Duration) error { return nil },
	})
	return j, e
}

// checkIntent is the write-ahead rule: whatever is written is covered by an
// open operation that is durable now.
func (w *world) checkIntent(p sim.Point) {
	covered := false
	w.store.Rows(func(bucket, key string, value []byte) {
		if bucket != journal.BucketOpen {
			return
		}
		op, err := journal.DecodeOperation(bucket, []byte(key), value)
		if err != nil {
			w.t.Errorf("open record: %v", err)
			return
		}
		covered = covered || slices.Contains(op.Targets(), p.Call.Target) && op.Attempts > 0
	})
	if !covered {
		w.broken = append(w.broken, fmt.Sprintf("%s on %s without a durable intent", p, p.Call.Target))
	}
}

// recover is what a restarted agent does: every open operation is judged and
// the decision carried out.
func (w *world) recover(wanted plan.Goal) {
	w.t.Helper()
	j, e := w.open()
	defer j.Abandon()
	for _, op := range j.Operations() {
		e.Resume(context.Background(), w.env(wanted), op.ID)
	}
	if err := j.Flush(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) env(wanted plan.Goal) recovery.Env {
	bootID, err := host.BootID(context.Background(), w.kernel)
	if err != nil {
		w.t.Fatal(err)
	}
	return recovery.Env{
		Specs: all.Specs(), BootID: bootID, MachineID: "m", MaxAttempts: 3, Wanted: recovery.WantedBy(wanted),
	}
}

// operations are all operations in the store, by where they stand.
func (w *world) operations() (open, quarantined []journal.Operation) {
	w.t.Helper()
	j, err := journal.OpenMemory(context.Background(), w.store.Clone(), journal.Options{BootID: "x", FlushAfter: time.Hour})
	if err != nil {
		w.t.Fatal(err)
	}
	defer j.Abandon()
	return j.Operations(), j.Quarantined()
}

func (w *world) observe(keys plan.Goal) plan.Observed {
	return engine.Observer{Drivers: all.New(w.kernel), Host: w.kernel}.All(context.Background(), keys)
}

// at says whether the host is at the goal.
func (w *world) at(goal plan.Goal) bool {
	for k, o := range w.observe(goal) {
		if !o.Is(goal[k]) {
			return false
		}
	}
	return true
}

// cover drafts the operation that brings a target to what is wanted.
func (w *world) cover(t drivers.Target, want, baseline plan.Goal) plan.Draft {
	w.t.Helper()
	keys := plan.Goal{keyOf("driver", t): "", keyOf("mtu", t): "", keyOf("admin", t): ""}
	d, err := plan.Cover(all.Specs(), plan.Function{Target: t, Want: want, Observed: w.observe(keys), Baseline: baseline})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// scenario is one operation from one state of the host.
type scenario struct {
	name  string
	setup func(*world)
	draft func(*world) plan.Draft
	// fails says that the goal cannot be reached, so that it ends reverted.
	fails bool
}

func driverGoal(t drivers.Target, driver string) plan.Goal {
	return plan.Goal{keyOf("driver", t): dpdk.Bound(driver)}
}

// foreign writes as another tool would.
func (w *world) foreign(c host.Call) {
	w.t.Helper()
	if err := w.kernel.Foreign(c); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) rebind(t drivers.Target, from, to string) {
	w.t.Helper()
	address := string(t)
	override := to
	if !drivers.Userspace(to) {
		override = ""
	}
	w.foreign(host.Call{Op: host.OpSysfs, Target: t, Path: host.Attr(address, "driver_override"), Value: override + "\n"})
	w.foreign(host.Call{Op: host.OpSysfs, Target: t, Path: host.PCIDrivers + from + "/unbind", Value: address})
	w.foreign(host.Call{Op: host.OpSysfs, Target: t, Path: host.PCIDrivers + to + "/bind", Value: address})
}

// scenarios is each kind of operation there is.
func scenarios() []scenario {
	restored := plan.Goal{keyOf("mtu", port): "9000", keyOf("admin", port): "up"}
	return []scenario{
		{name: "bind", draft: func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "vfio-pci"), nil) }},
		{
			name:  "bind a VF that is up with jumbo frames",
			setup: func(w *world) { w.setLink(vf, 4000, true) },
			draft: func(w *world) plan.Draft { return w.cover(vf, driverGoal(vf, "vfio-pci"), nil) },
		},
		{
			name:  "back to the kernel's driver, link restored",
			setup: func(w *world) { w.rebind(port, "igb", "vfio-pci") },
			draft: func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "igb"), restored) },
		},
		{
			name:  "from one userspace driver to another",
			setup: func(w *world) { w.rebind(port, "igb", "uio_pci_generic") },
			draft: func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "vfio-pci"), nil) },
		},
		{
			name: "a stale override is cleared",
			setup: func(w *world) {
				w.foreign(host.Call{Op: host.OpSysfs, Target: port, Path: host.Attr(string(port), "driver_override"), Value: "vfio-pci\n"})
			},
			draft: func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "igb"), nil) },
		},
		{name: "link", draft: func(w *world) plan.Draft { return w.cover(port, restored, nil) }},
		{
			name:  "module",
			setup: func(w *world) { w.foreign(host.Call{Op: host.OpUnload, Target: "module/vfio_pci", Value: "vfio_pci"}) },
			draft: func(*world) plan.Draft {
				k := keyOf("module", "module/vfio_pci")
				return plan.Draft{Before: plan.Goal{k: "absent"}, After: plan.Goal{k: "loaded"}}
			},
		},
		{name: "no-IOMMU", draft: func(*world) plan.Draft {
			k := keyOf("noiommu", dpdk.NoIOMMUTarget)
			return plan.Draft{Before: plan.Goal{k: "off"}, After: plan.Goal{k: "on"}}
		}},
		{
			name:  "a bind that the driver refuses",
			setup: func(w *world) { w.inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL, Times: -1}) },
			draft: func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "vfio-pci"), nil) },
			fails: true,
		},
		{
			name:  "a bind that says it worked and did not",
			setup: func(w *world) { w.inject(sim.Fault{Label: "bind", Path: "vfio-pci", Noop: true, Times: -1}) },
			draft: func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "vfio-pci"), nil) },
			fails: true,
		},
		{
			name:  "a link whose MTU is refused half-way",
			setup: func(w *world) { w.inject(sim.Fault{Label: "admin", Errno: syscall.EINVAL, Times: -1}) },
			draft: func(w *world) plan.Draft { return w.cover(port, restored, nil) },
			fails: true,
		},
	}
}

func (w *world) setLink(t drivers.Target, mtu int, up bool) {
	w.t.Helper()
	dev, err := host.NetdevOf(context.Background(), w.kernel, string(t))
	if err != nil {
		w.t.Fatal(err)
	}
	w.foreign(host.Call{Op: host.OpMTU, Target: t, Index: dev.Index, Number: mtu})
	if up {
		w.foreign(host.Call{Op: host.OpAdmin, Target: t, Index: dev.Index, Number: 1})
	}
}

func (w *world) inject(f sim.Fault) {
	w.t.Helper()
	if err := w.kernel.Inject(f); err != nil {
		w.t.Fatal(err)
	}
}
