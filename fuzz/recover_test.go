package fuzz_test

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"eniagent/agent/engine"
	"eniagent/agent/guard"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
	"eniagent/recovery"
)

// node is a simulated node with the userspace drivers loaded, to be cloned.
func node(t testing.TB) *sim.Kernel {
	c := sim.DefaultNode()
	c.Fence = true
	for i := range c.Modules {
		c.Modules[i].Boot = c.Modules[i].Boot || slices.Contains([]string{"vfio_pci", "uio_pci_generic"}, c.Modules[i].Name)
	}
	k := sim.New(c)
	for _, name := range []string{"driver vfio-pci\n", "driver uio_pci_generic\n", "driver=igbvf"} {
		if !strings.Contains(k.String(), name) {
			t.Fatalf("the node has no %q", name)
		}
	}
	return k
}

// ordeal is a journal that anybody may have written, and the node that it is
// recovered on.
type ordeal struct {
	witness
	boot   string
	ops    []journal.Operation
	wanted recovery.Wanted
	first  string // the node before recovery
}

// newOrdeal reads one from bytes: how many operations, each of them, and what
// others have done to the node.
func newOrdeal(base *sim.Kernel, b []byte) (*ordeal, error) {
	r := &reader{b}
	o := &ordeal{witness: witness{kernel: base.Clone(), store: journal.NewMemory()}}
	j, err := journal.OpenMemory(context.Background(), o.store, o.options())
	if err != nil {
		return nil, err
	}
	j.Abandon()
	if o.boot, err = host.BootID(context.Background(), o.kernel); err != nil {
		return nil, err
	}
	claimed := map[drivers.Target]bool{}
	for id := range uint64(1 + r.byte()%3) {
		op := r.operation(id+1, func(t drivers.Target) drivers.Identity {
			now, _ := host.Identify(context.Background(), o.kernel, t)
			return now
		})
		if op.BootID == thisBoot {
			op.BootID = o.boot
		}
		if op.TriedIn == thisBoot {
			op.TriedIn = o.boot
		}
		raw, err := journal.Encode(journal.BucketOpen, []byte(number(op.ID)), &op)
		if err != nil || slices.ContainsFunc(op.Targets(), func(t drivers.Target) bool { return claimed[t] }) {
			continue // the journal would not believe it
		}
		for _, t := range op.Targets() {
			claimed[t] = true
		}
		o.store.Put(journal.BucketOpen, number(op.ID), raw)
		o.ops = append(o.ops, op)
	}
	o.wanted = pick(r, []recovery.Wanted{recovery.StillWanted, recovery.Withdrawn, recovery.Unsure})
	o.others(r)
	o.first = o.kernel.String()
	return o, sealStore(o.store)
}

func (o *ordeal) options() journal.Options {
	return journal.Options{BootID: "begun", MachineID: thisMachine, FlushAfter: time.Hour}
}

// others is what happened to the node beside the journal. What the kernel
// refuses did not happen.
func (o *ordeal) others(r *reader) {
	functions := []drivers.Target{port, vf, pf, mgmt}
	for range r.byte() % 5 {
		what, t, n := r.byte(), pick(r, functions), r.byte()
		write := func(path, value string) {
			_ = o.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: t, Path: path, Value: value})
		}
		name := pick(r, []string{"vfio-pci", "uio_pci_generic", "igb", "igbvf", "ena", "none"})
		switch what % 9 {
		case 0:
			write(host.Attr(string(t), "driver_override"), name+"\n")
		case 1:
			driver, _ := host.DriverOf(context.Background(), o.kernel, string(t))
			write(host.PCIDrivers+driver+"/unbind", string(t))
		case 2:
			write(host.PCIDrivers+name+"/bind", string(t))
		case 3:
			write(host.Attr(string(t), "driver_override"), "\n")
		case 4:
			if dev, err := host.NetdevOf(context.Background(), o.kernel, string(t)); err == nil && dev.Name != "" {
				_ = o.kernel.Foreign(host.Call{Op: host.OpMTU, Target: t, Index: dev.Index, Number: []int{1500, 9000, 4000}[n%3]})
			}
		case 5:
			_ = o.kernel.Inject(sim.Fault{Label: pick(r, sim.FaultLabels()), Nth: 1 + n%3, Times: n%5 - 1, Errno: []syscall.Errno{syscall.EIO, syscall.EBUSY, syscall.EINVAL}[n%3]})
		case 6:
			_ = o.kernel.Inject(sim.Fault{Label: pick(r, host.Labels()), Times: 1, Hang: n&1 == 0, Noop: n&1 == 1})
		case 7: // a program holds the function, and somebody's unbind hangs on it
			o.kernel.Hold(string(t))
			if n&1 == 1 {
				write(host.PCIDrivers+"vfio-pci/unbind", string(t))
			}
		case 8:
			_ = o.kernel.Unplug(string(pick(r, []drivers.Target{port, vf})))
		}
	}
}

// policy is what the engine is made with; a broken variant leaves something out.
type policy struct {
	specs func(drivers.Specs) drivers.Specs
	guard bool
}

// recover is what a restarted agent does, twice: every open operation is judged
// and the decision carried out.
func (o *ordeal) recover(p policy) error {
	ctx := context.Background()
	j, err := journal.OpenMemory(ctx, o.store, o.options())
	if err != nil {
		return err
	}
	defer j.Abandon()
	if d, degraded := j.Degraded(); degraded {
		return fmt.Errorf("the journal does not believe what was sealed: %+v", d)
	}
	if len(j.Operations()) != len(o.ops) {
		return fmt.Errorf("%d open operations of %d", len(j.Operations()), len(o.ops))
	}
	o.kernel.Hook = o.sees
	set := all.New(o.kernel)
	set.Specs = p.specs(set.Specs)
	opts := engine.Options{
		Journal: j, Drivers: set, Host: o.kernel, StepTimeout: 20 * time.Millisecond,
		Sleep: func(context.Context, time.Duration) error { return nil },
	}
	if p.guard {
		opts.Guard = guard.New(guard.Options{Host: o.kernel, Specs: set.Specs})
	}
	e := engine.New(opts)
	env := recovery.Env{
		Specs: set.Specs, BootID: o.boot, MachineID: thisMachine, MaxAttempts: 3,
		Wanted: func(*journal.Operation) recovery.Wanted { return o.wanted },
	}
	for range 2 {
		for _, op := range j.Operations() {
			if _, r := e.Resume(ctx, env, op.ID); r.Outcome == engine.Failed {
				return fmt.Errorf("operation %d: %w", op.ID, r.Err)
			}
		}
	}
	o.kernel.Hook = nil
	return errors.Join(errors.Join(o.wrong...), ended(j), o.untouched())
}

// ended: each operation is closed, in quarantine, or open with a reason.
func ended(j *journal.Journal) error {
	for _, op := range j.Operations() {
		if op.LastError == "" {
			return fmt.Errorf("operation %d stays open and nobody knows why", op.ID)
		}
	}
	return nil
}

// The writes there may be, stated without the product's own list.
var (
	overridePath = regexp.MustCompile(`^/sys/bus/pci/devices/([0-9a-f:.]+)/driver_override$`)
	bindPath     = regexp.MustCompile(`^/sys/bus/pci/drivers/([A-Za-z0-9_][A-Za-z0-9_.-]*)/(bind|unbind)$`)
	modulePath   = regexp.MustCompile(`^/lib/modules/6\.12\.95-cloud-amd64/(?:[a-z0-9_-]+/)*([a-z0-9_-]+)\.ko\.xz$`)
)

// witness sees every write of a kernel and holds it against the operations that
// are open and durable at that moment.
type witness struct {
	kernel *sim.Kernel
	store  *journal.Memory
	wrong  []error
}

func (o *witness) sees(at sim.Point) {
	if at.When != sim.Before {
		return
	}
	if err := o.covered(at.Call); err != nil {
		o.wrong = append(o.wrong, fmt.Errorf("%s on %s: %w", at.Call, at.Call.Target, err))
	}
}

func (o *witness) covered(c host.Call) error {
	if err := host.Allowed(c); err != nil {
		return err
	}
	named := map[drivers.Kind][]drivers.State{} // by the durable operation, for this target
	o.store.Rows(func(bucket, key string, value []byte) {
		op, err := journal.DecodeOperation(bucket, []byte(key), value)
		if err != nil || bucket != journal.BucketOpen {
			return
		}
		for _, ch := range op.Changes {
			if ch.Key.Target == c.Target {
				named[ch.Key.Kind] = append(named[ch.Key.Kind], ch.Before, ch.After)
			}
		}
	})
	asks := func(k drivers.Kind, s drivers.State) error {
		if !slices.Contains(named[k], s) {
			return fmt.Errorf("no open operation names %s=%s of it, only %v", k, s, named)
		}
		return nil
	}
	switch c.Op {
	case host.OpMTU:
		return errors.Join(o.owns(c), asks("mtu", drivers.State(strconv.Itoa(c.Number))))
	case host.OpAdmin:
		return errors.Join(o.owns(c), asks("admin", []drivers.State{"down", "up"}[c.Number]))
	case host.OpUnload:
		return asks("module", "absent")
	case host.OpLoad:
		m := modulePath.FindStringSubmatch(c.Path)
		if m == nil || "module/"+strings.ReplaceAll(m[1], "-", "_") != string(c.Target) {
			return errors.New("not the file of its module")
		}
		return asks("module", "loaded")
	}
	return o.coveredSysfs(c, named["driver"], asks)
}

func (o *witness) coveredSysfs(c host.Call, bindings []drivers.State, asks func(drivers.Kind, drivers.State) error) error {
	if c.Target == noIOMMU {
		return asks("noiommu", map[string]drivers.State{"Y": "on", "N": "off"}[c.Value])
	}
	names := func(field, name string) bool {
		return slices.ContainsFunc(bindings, func(s drivers.State) bool { return slices.Contains(strings.Fields(string(s)), field+"="+name) })
	}
	override, bind := overridePath.FindStringSubmatch(c.Path), bindPath.FindStringSubmatch(c.Path)
	value := strings.TrimSuffix(c.Value, "\n")
	switch {
	case len(bindings) == 0:
		return errors.New("no open operation is about its driver")
	case override != nil && override[1] == string(c.Target) && (value == "" || names("override", value)):
		return nil
	case bind == nil || c.Value != string(c.Target):
		return errors.New("not a write about its target")
	case bind[2] == "bind" && !names("driver", bind[1]):
		return fmt.Errorf("driver %s is named by nobody", bind[1])
	}
	return nil
}

// owns says whether the netdev that is written belongs to the target.
func (o *witness) owns(c host.Call) error {
	links, err := o.kernel.Links(context.Background())
	if err != nil {
		return nil //nolint:nilerr // an injected fault; nothing is known
	}
	for _, l := range links {
		if l.Index == c.Index && l.Bus != string(c.Target) {
			return fmt.Errorf("netdev %s belongs to %q", l.Name, l.Bus)
		}
	}
	return nil
}

var subject = regexp.MustCompile(`^(function (\S+) .*driver=(\S+)|link .*bus=(\S+))`)

// untouched: what no operation is about is as it was, and the function that
// carries the default route in any case. A module that comes in takes functions
// that have no driver; that is the kernel's doing.
func (o *ordeal) untouched() error {
	var ours []drivers.Target
	for _, op := range o.ops {
		ours = append(ours, op.Targets()...)
	}
	return untouched(o.first, o.kernel.String(), ours)
}

func untouched(before, after string, ours []drivers.Target) error {
	now := strings.Split(after, "\n")
	for _, line := range strings.Split(before, "\n") {
		m := subject.FindStringSubmatch(line)
		if m == nil || m[3] == "-" || slices.Contains(now, line) {
			continue
		}
		t := drivers.Target(m[2] + m[4])
		// That it would get another driver is no write that cuts: a record may name it.
		plain := func(l string) string { l, _, _ = strings.Cut(l, " override="); return l }
		if t == mgmt && slices.Contains(ours, t) && slices.ContainsFunc(now, func(l string) bool { return plain(l) == plain(line) }) {
			continue
		}
		if t == mgmt || !slices.Contains(ours, t) {
			return fmt.Errorf("nothing is asked of it, and it changed: %s\nnow\n%s", line, after)
		}
	}
	return nil
}

func asIs() policy {
	return policy{specs: func(s drivers.Specs) drivers.Specs { return s }, guard: true}
}

// recoverySeeds are operations that a crash leaves, and hostile ones.
func recoverySeeds() (seeds [][]byte) {
	const igb, vfio = drivers.State("driver=igb override=-"), drivers.State("driver=vfio-pci override=vfio-pci")
	bind := []journal.Change{change("driver", port, igb, vfio), change("mtu", port, "1500", drivers.Hidden), change("admin", port, "down", drivers.Hidden)}
	back := []journal.Change{change("driver", port, vfio, igb), change("mtu", port, drivers.Hidden, "9000"), change("admin", port, drivers.Hidden, "up")}
	ops := [][]journal.Change{
		bind, back,
		{change("mtu", port, "1500", "9000"), change("admin", port, "down", "up")},
		{change("mtu", port, "9000", "1500")},
		{change("driver", vf, "driver=igbvf override=-", vfio)},
		{change("module", "module/igb_uio", "absent", "loaded")},
		{change("module", "module/igb_uio", "loaded", "absent")},
		{change("module", "module/igb", "absent", "loaded")},
		{change("module", "module/ena", "loaded", "absent")},
		{change("module", "module/vfio_pci", "loaded", "absent")},
		{change("noiommu", noIOMMU, "off", "on")},
		{change("noiommu", "param/kvm/x", "off", "on")},
		{change("driver", mgmt, "driver=ena override=-", vfio)},
		{change("driver", mgmt, vfio, "driver=ena override=-")},
		{change("mtu", mgmt, "1500", "9000"), change("admin", mgmt, "up", "down")},
		{change("driver", pf, igb, vfio)},
		{change("driver", pf, vfio, igb), change("admin", pf, "up", "down")},
		{change("driver", bridge, "driver=- override=-", "driver=uio_pci_generic override=uio_pci_generic")},
		{change("driver", absent, igb, vfio)},
		{change("driver", port, igb, "driver=../../../etc override=-")},
		{change("driver", port, igb, "driver=module override=-")},
		{change("driver", port, igb, "driver=.. override=..")},
		{change("mtu", port, "1500", "65536")},
		{change("mtu", port, "1500", "67")},
		{change("pool", "file//etc/passwd#ro/ot", "absent", "loaded"), change("driver", port, igb, vfio)},
		{change("driver", port, igb, vfio), change("driver", vf, "driver=igbvf override=-", vfio)},
		{change("mtu", "module/igb", "1500", "9000")},
		{change("module", port, "absent", "loaded")},
	}
	other := func(what, n, name byte) []byte { return []byte{what, 0, n, name} } // to port
	histories := [][]byte{
		{0},
		append([]byte{1}, other(0, 0, 0)...),
		append([]byte{2}, append(other(0, 0, 0), other(1, 0, 0)...)...),
		append([]byte{3}, append(append(other(0, 0, 0), other(1, 0, 0)...), other(2, 0, 0)...)...),
		append([]byte{3}, append(append(other(0, 0, 1), other(1, 0, 1)...), other(2, 0, 1)...)...),
		append([]byte{1}, other(4, 2, 0)...),
		append([]byte{1}, append(other(5, 0, 0), 4)...),
		append([]byte{1}, append(other(5, 4, 0), 3)...),
		append([]byte{1}, append(other(6, 0, 0), 3)...),
		append([]byte{1}, append(other(6, 1, 0), 4)...),
		append([]byte{4}, append(append(append(other(0, 0, 0), other(1, 0, 0)...), other(2, 0, 0)...), other(7, 1, 0)...)...),
		append([]byte{1}, append(other(8, 0, 0), 0)...),
		append([]byte{2}, append(append(other(6, 0, 0), 3), other(4, 1, 0)...)...),
	}
	for _, changes := range ops {
		for i, flags := range []byte{0, 1, 2, 16, 4, 64} {
			for k, history := range histories {
				if (i+k)%3 != 0 {
					continue // enough of them
				}
				s := script{flags: flags, attempts: byte(i % 4), changes: changes}
				if flags == 64 {
					s.then = slices.Repeat([]byte{byte(5 + k%3)}, len(changes))
				}
				seeds = append(seeds, append(append(append([]byte{0}, s.bytes()...), byte((i+k)%3)), history...))
			}
		}
	}
	return seeds
}

// FuzzRecovery: whatever is in the journal, with a good checksum and a fitting
// manifest, recovery writes what the allow-list and the record both name, ends
// with a reason, and leaves the rest of the node as it is.
func FuzzRecovery(f *testing.F) {
	for _, b := range recoverySeeds() {
		f.Add(b)
	}
	base := node(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer deadline()()
		if err := suffer(base, b, asIs()); err != nil {
			t.Fatal(err)
		}
	})
}

func suffer(base *sim.Kernel, b []byte, p policy) error {
	o, err := newOrdeal(base, b)
	if err != nil {
		return err
	}
	if err := o.recover(p); err != nil {
		return fmt.Errorf("%w\noperations %+v, %s\non\n%s", err, o.ops, o.wanted, o.first)
	}
	return nil
}

// TestBrokenRecoveriesAreCaught holds the seeds against engines that leave a
// rule out.
func TestBrokenRecoveriesAreCaught(t *testing.T) {
	base := node(t)
	spec := func(kind drivers.Kind, change func(*drivers.Spec)) func(drivers.Specs) drivers.Specs {
		return func(specs drivers.Specs) drivers.Specs {
			specs = slices.Clone(specs)
			for i := range specs {
				if specs[i].Kind == kind {
					change(&specs[i])
				}
			}
			return specs
		}
	}
	unguarded := asIs()
	unguarded.guard = false
	for name, p := range map[string]policy{
		"without a guard":    unguarded,
		"a cut that is none": {guard: true, specs: spec("driver", func(s *drivers.Spec) { s.Cuts = nil })},
	} {
		t.Run(name, func(t *testing.T) {
			if !slices.ContainsFunc(recoverySeeds(), func(b []byte) bool { return suffer(base, b, p) != nil }) {
				t.Error("no seed finds it")
			}
		})
	}
	t.Run("a write that nobody asked for", func(t *testing.T) {
		o, err := newOrdeal(base, recoverySeeds()[0])
		must(t, err)
		for _, c := range []host.Call{
			{Op: host.OpSysfs, Target: vf, Path: host.Attr(string(vf), "driver_override"), Value: "vfio-pci\n"},
			{Op: host.OpSysfs, Target: port, Path: host.Attr(string(port), "driver_override"), Value: "igb_uio\n"},
			{Op: host.OpSysfs, Target: port, Path: host.PCIDrivers + "uio_pci_generic/bind", Value: string(port)},
			{Op: host.OpSysfs, Target: port, Path: path.Dir(host.PCIDrivers) + "/drivers_probe", Value: string(port)},
			{Op: host.OpMTU, Target: port, Index: 4, Number: 9000},
			{Op: host.OpUnload, Target: "module/igb", Value: "igb"},
		} {
			if o.covered(c) == nil {
				t.Errorf("%s on %s passes", c, c.Target)
			}
		}
	})
}
