package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
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
	"eniagent/drivers/deviceplugin"
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
	// dir, where it is not empty, has the journal's file instead of store.
	dir     string
	journal *journal.Journal // the latest that was opened
	// files is a disk: what is on it survives a reboot.
	files map[drivers.Target]drivers.State
	// boundary is called before and after every journal commit and host write.
	boundary func(label string)
	// fail, where it is not nil, makes the journal's disk fail at a point.
	fail func(point string) error
	// attempts is how often a goal is tried.
	attempts int
	// earlier is the store before the latest commit.
	earlier *journal.Memory
	// undone are operations whose revert was durable once.
	undone map[uint64]bool
	// Broken variants: what a journal does not keep, what recovery believes,
	// what an engine is made of.
	loses string
	lie   func(*recovery.Env)
	wrong func(*engine.Options)
	// broken are violations of the write-ahead rule, found while writing.
	broken []string
	// written is how many writes the kernel had seen when it was booted, and
	// filed how many of all that it ever saw were of files, which survive it.
	written, filed int
	// text is the device plugin's file, and edited how often the agent changed it.
	text   string
	edited int
	// met are operations that an engine found to be undone by another.
	met map[uint64]bool
	log bytes.Buffer
}

func newWorld(t testing.TB) *world {
	c := sim.DefaultNode()
	c.Fence = true
	w := &world{t: t, kernel: sim.New(c), store: journal.NewMemory(), attempts: 3, files: map[drivers.Target]drivers.State{}, undone: map[uint64]bool{}, met: map[uint64]bool{}}
	w.boot()
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
	c := &world{
		t: w.t, kernel: w.kernel.Clone(), store: w.store.Clone(), earlier: w.earlier,
		attempts: w.attempts, files: maps.Clone(w.files), undone: maps.Clone(w.undone), filed: w.filed, edited: w.edited, met: maps.Clone(w.met),
	}
	if w.dir != "" {
		c.dir = w.copyFile()
	}
	return c
}

// copyFile is a directory with the journal's file as it is now.
func (w *world) copyFile() string {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.dir, "copy")
	if err == nil {
		err = os.Chmod(dir, 0o700)
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(filepath.Join(w.dir, journal.FileName))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist): // not even created yet
	case err == nil:
		err = os.WriteFile(filepath.Join(dir, journal.FileName), data, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	return dir
}

// drivers are the kinds of a machine, and one that is registered only here.
func (w *world) drivers() drivers.Set {
	set := all.New(host.Attentive(w.kernel))
	set.Specs, set.Drivers[kindEntry] = specs(), entry{w}
	return set
}

func specs() drivers.Specs { return append(all.Specs(), entrySpec()) }

// breaks makes a broken variant of the world.
func (w *world) breaks(variant func(*world)) {
	if variant != nil {
		variant(w)
	}
}

// reboot is a new kernel, with the modules that the boot loads.
func (w *world) reboot() {
	w.kernel.Reboot()
	w.boot()
	w.written = w.writes()
}

// writes are the kernel's writes but for those of files.
func (w *world) writes() int { return w.kernel.Writes() - w.filed }

// boot loads the modules of the userspace drivers.
func (w *world) boot() {
	for _, m := range []string{"vfio", "vfio_iommu_type1", "irqbypass", "vfio_pci_core", "vfio_pci", "uio", "uio_pci_generic"} {
		w.load(m)
	}
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
	j, err := w.openStore(journal.Options{
		BootID: bootID, MachineID: "m", Version: "test", FlushAfter: time.Hour,
		Fault: w.commit,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.journal = j
	for _, op := range j.Operations() {
		w.met[op.ID] = w.met[op.ID] || op.State == journal.Reverting
	}
	w.kernel.Hook = func(p sim.Point) {
		if p.When == sim.Before {
			if p.Call.Op == host.OpReplace || p.Call.Op == host.OpSync {
				w.filed++
			}
			w.checkIntent(p.String(), p.Call.Target)
		}
		if p.Call.Op == host.OpReplace {
			text, _ := w.kernel.File(context.Background(), poolFile)
			if p.When == sim.After && text != w.text {
				w.edited++
			}
			w.text = text
		}
		w.pass("host " + p.String())
	}
	o := engine.Options{
		Journal: j, Drivers: w.drivers(), Host: w.kernel, Logger: log.NewLogfmtLogger(log.NewSyncWriter(&w.log)),
		Sleep: func(context.Context, time.Duration) error { return nil }, MaxAttempts: w.attempts,
	}
	if w.wrong != nil {
		w.wrong(&o)
	}
	return j, engine.New(o)
}

// commit is called by the journal on both sides of each commit.
func (w *world) commit(point string) error {
	if strings.HasSuffix(point, ":before") {
		w.earlier = w.store.Clone()
	}
	if w.fail != nil {
		if err := w.fail(point); err != nil {
			return err
		}
	}
	if label, after := strings.CutSuffix(point, ":after"); after && w.loses != "" && strings.Contains(label, w.loses) {
		w.store.Become(w.earlier)
	}
	for _, op := range w.durable() {
		// On a disk the journal's own word is taken, which is ahead before a commit.
		if op.State == journal.Reverting && strings.HasSuffix(point, ":after") {
			w.undone[op.ID] = true
		}
	}
	w.pass("journal " + point)
	return nil
}

func (w *world) openStore(o journal.Options) (*journal.Journal, error) {
	if w.dir == "" {
		return journal.OpenMemory(context.Background(), w.store, o)
	}
	o.Dir = w.dir
	return journal.Open(context.Background(), o)
}

// checkIntent is the write-ahead rule: whatever is written is covered by an
// open operation that is durable now, with this attempt counted, and never goes
// forward once its revert was durable.
func (w *world) checkIntent(label string, t drivers.Target) {
	durable := w.durable()
	at := slices.IndexFunc(durable, func(op journal.Operation) bool { return slices.Contains(op.Targets(), t) })
	if at < 0 {
		w.broken = append(w.broken, fmt.Sprintf("I1: %s on %s without a durable intent", label, t))
		return
	}
	op := durable[at]
	if known, _ := w.journal.Get(op.ID); op.Attempts == 0 || op.Attempts < known.Attempts {
		w.broken = append(w.broken, fmt.Sprintf("I8: %s in attempt %d, of which %d are durable", label, known.Attempts, op.Attempts))
	}
	if w.undone[op.ID] && op.State != journal.Reverting {
		w.broken = append(w.broken, fmt.Sprintf("I9: %s goes forward, and the revert was durable", label))
	}
}

// durable are the open operations in the store, whatever the journal believes.
func (w *world) durable() (open []journal.Operation) {
	if w.dir != "" {
		return w.journal.Operations() // its file cannot be read beside it
	}
	w.store.Rows(func(bucket, key string, value []byte) {
		if bucket != journal.BucketOpen {
			return
		}
		op, err := journal.DecodeOperation(bucket, []byte(key), value)
		if err != nil {
			w.t.Errorf("open record: %v", err)
			return
		}
		open = append(open, *op)
	})
	return open
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
	env := recovery.Env{
		Specs: specs(), BootID: bootID, MachineID: "m", MaxAttempts: w.attempts, Wanted: recovery.WantedBy(wanted),
	}
	if w.lie != nil {
		w.lie(&env)
	}
	return env
}

// operations are all operations in the store, by where they stand.
func (w *world) operations() (open, quarantined []journal.Operation) {
	w.t.Helper()
	if w.dir != "" {
		s, err := journal.OpenReadOnly(filepath.Join(w.dir, journal.FileName))
		if err != nil {
			w.t.Fatal(err)
		}
		return s.Operations(), s.Quarantined()
	}
	j, err := journal.OpenMemory(context.Background(), w.store.Clone(), journal.Options{BootID: "x", FlushAfter: time.Hour})
	if err != nil {
		w.t.Fatal(err)
	}
	defer j.Abandon()
	return j.Operations(), j.Quarantined()
}

// debt is what the store has of the restarts that are owed.
func (w *world) debt() (d journal.Debt) {
	w.t.Helper()
	if w.dir != "" {
		s, err := journal.OpenReadOnly(filepath.Join(w.dir, journal.FileName))
		if err != nil {
			w.t.Fatal(err)
		}
		d, _ = s.Debt(deviceplugin.Restart)
		return d
	}
	j, err := journal.OpenMemory(context.Background(), w.store.Clone(), journal.Options{BootID: "x", FlushAfter: time.Hour})
	if err != nil {
		w.t.Fatal(err)
	}
	defer j.Abandon()
	d, _ = j.Debt(deviceplugin.Restart)
	return d
}

// closed are the operations that the store has as closed.
func (w *world) closed() []journal.Operation {
	w.t.Helper()
	if w.dir != "" {
		s, err := journal.OpenReadOnly(filepath.Join(w.dir, journal.FileName))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			w.t.Fatal(err)
		}
		return s.History(0)
	}
	j, err := journal.OpenMemory(context.Background(), w.store.Clone(), journal.Options{BootID: "x", FlushAfter: time.Hour})
	if err != nil {
		w.t.Fatal(err)
	}
	defer j.Abandon()
	return j.History(0)
}

func (w *world) observe(keys plan.Goal) plan.Observed {
	return engine.Observer{Drivers: w.drivers(), Host: w.kernel, Made: madeLate}.All(context.Background(), keys)
}

// at says whether the host is at the goal.
func (w *world) at(goal plan.Goal) bool {
	for k, o := range w.observe(goal) {
		if spec, _ := w.drivers().Specs.Find(k.Kind); o.Presence > drivers.Concealed || !spec.Met(goal[k], o.State) {
			return false
		}
	}
	return true
}

// cover drafts the operation that brings a target to what is wanted.
func (w *world) cover(t drivers.Target, want, baseline plan.Goal) plan.Draft {
	w.t.Helper()
	keys := plan.Goal{keyOf("driver", t): "", keyOf("mtu", t): "", keyOf("admin", t): ""}
	maps.Copy(keys, want)
	maps.Copy(keys, baseline)
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
	// foreign makes of the host what the operation does not explain, as another
	// tool would; nil where every state there is belongs to the operation.
	foreign func(*world)
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

// rebind gives the port, which igb has, to another driver.
func (w *world) rebind(to string) {
	w.t.Helper()
	const address = string(port)
	override := to
	if !drivers.Userspace(to) {
		override = ""
	}
	w.foreign(host.Call{Op: host.OpSysfs, Target: port, Path: host.Attr(address, "driver_override"), Value: override + "\n"})
	w.foreign(host.Call{Op: host.OpSysfs, Target: port, Path: host.PCIDrivers + "igb/unbind", Value: address})
	w.foreign(host.Call{Op: host.OpSysfs, Target: port, Path: host.PCIDrivers + to + "/bind", Value: address})
}

// scenarios is each kind of operation there is.
func scenarios() []scenario {
	restored := plan.Goal{keyOf("mtu", port): "9000", keyOf("admin", port): "up"}
	return slices.Concat(entryScenarios(), poolScenarios(), settingScenarios(), vfScenarios(), lateScenarios(), portScenarios(), []scenario{
		{
			name: "bind", foreign: func(w *world) { w.takeAway(port, "uio_pci_generic") },
			draft: func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "vfio-pci"), nil) },
		},
		{
			name: "bind a VF that is up with jumbo frames", foreign: func(w *world) { w.takeAway(vf, "uio_pci_generic") },
			setup: func(w *world) { w.setLink(vf, 4000, true) },
			draft: func(w *world) plan.Draft { return w.cover(vf, driverGoal(vf, "vfio-pci"), nil) },
		},
		{
			name: "back to the driver of the kernel, link restored", foreign: func(w *world) { w.takeAway(port, "uio_pci_generic") },
			setup: func(w *world) { w.rebind("vfio-pci") },
			draft: func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "igb"), restored) },
		},
		{
			name: "from one userspace driver to another", foreign: func(w *world) { w.takeAway(port, "igb") },
			setup: func(w *world) { w.rebind("uio_pci_generic") },
			draft: func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "vfio-pci"), nil) },
		},
		{
			name: "a stale override is cleared", foreign: func(w *world) { w.takeAway(port, "uio_pci_generic") },
			setup: func(w *world) {
				w.foreign(host.Call{Op: host.OpSysfs, Target: port, Path: host.Attr(string(port), "driver_override"), Value: "vfio-pci\n"})
			},
			draft: func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "igb"), nil) },
		},
		{
			name: "link", foreign: func(w *world) { w.setLink(port, 2000, false) },
			draft: func(w *world) plan.Draft { return w.cover(port, restored, nil) },
		},
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
			name: "a bind that the driver refuses", foreign: func(w *world) { w.takeAway(port, "uio_pci_generic") },
			setup: func(w *world) { w.inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL, Times: -1}) },
			draft: func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "vfio-pci"), nil) },
			fails: true,
		},
		{
			name: "a bind that says it worked and did not", foreign: func(w *world) { w.takeAway(port, "uio_pci_generic") },
			setup: func(w *world) { w.inject(sim.Fault{Label: "bind", Path: "vfio-pci", Noop: true, Times: -1}) },
			draft: func(w *world) plan.Draft { return w.cover(port, driverGoal(port, "vfio-pci"), nil) },
			fails: true,
		},
		{
			name: "a link whose state is refused half-way", foreign: func(w *world) { w.setLink(port, 2000, false) },
			setup: func(w *world) { w.inject(sim.Fault{Label: "admin", Errno: syscall.EINVAL, Times: -1}) },
			draft: func(w *world) plan.Draft { return w.cover(port, restored, nil) },
			fails: true,
		},
	})
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
