package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"eniagent/agent/inventory"
	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/module"
	"eniagent/journal"
)

// Adoption is what an operator asks for with agent adopt.
type Adoption struct {
	Baselines map[drivers.Target]string // drivers that release restores
	Pools     []string                  // of the device plugin's file, that are the agent's from now on
	Dry       bool
	Who       string
	Why       string
}

// AdoptEntry is one function that was found in another hand.
type AdoptEntry struct {
	Target   drivers.Target `json:"target"`
	Driver   string         `json:"driver,omitempty"`   // that has it
	Override string         `json:"override,omitempty"` // driver_override
	Wanted   string         `json:"wanted,omitempty"`   // the driver that is asked for
	// Baseline is the driver that release restores, From says who named it:
	// "modalias", "given", "journal"; "" is that nobody does.
	Baseline string `json:"baseline,omitempty"`
	From     string `json:"from,omitempty"`
	// Verdict is "equal" to what is asked, "differs", "not asked for", "stale
	// override".
	Verdict string `json:"verdict"`
	Remedy  string `json:"remedy,omitempty"`
	Adopted bool   `json:"adopted"` // its baseline is written, or would be
}

// AdoptPool is a pool of which the device plugin's file has an entry that is not
// the agent's.
type AdoptPool struct {
	Pool    string           `json:"pool"`
	File    string           `json:"file"`
	Found   drivers.State    `json:"found"`
	Names   []drivers.Target `json:"names"` // of functions
	Remedy  string           `json:"remedy,omitempty"`
	Adopted bool             `json:"adopted"`
}

// Leftover is what another tool left, to be dealt with by a person.
type Leftover struct {
	Path   string `json:"path"`
	Tool   string `json:"tool"`
	Found  string `json:"found"`
	Remedy string `json:"remedy"`
}

// AdoptReport is what agent adopt prints.
type AdoptReport struct {
	DryRun    bool         `json:"dry_run"`
	Who       string       `json:"who"`
	Why       string       `json:"why,omitempty"`
	Functions []AdoptEntry `json:"functions"`
	Pools     []AdoptPool  `json:"pools,omitempty"`
	Leftovers []Leftover   `json:"leftovers"`
}

// The verdicts.
const (
	verdictEqual   = "equal"
	verdictDiffers = "differs"
	verdictUnasked = "not asked for"
	verdictStale   = "stale override"
)

// AdoptNow takes on functions that were bound by another hand, so that they can
// be released. It writes nothing to the host, and no agent may be running.
func AdoptNow(ctx context.Context, o Options, q Adoption, logger log.Logger, journalOptions func(*journal.Options)) (AdoptReport, error) {
	return rehearsed(ctx, o, logger, journalOptions, q.Dry, func(a *Agent, dry bool) (AdoptReport, error) {
		a.readFile(ctx)
		q.Dry = dry
		return a.adopt(ctx, q)
	})
}

func (a *Agent) adopt(ctx context.Context, q Adoption) (AdoptReport, error) {
	report := AdoptReport{DryRun: q.Dry, Who: q.Who, Why: q.Why, Functions: []AdoptEntry{}, Leftovers: []Leftover{}}
	if !q.Dry {
		if err := a.mayWrite(); err != nil {
			return report, err
		}
	}
	functions, err := inventory.List(ctx, a.c.Host)
	if err != nil {
		return report, err
	}
	current, unknown := a.current(ctx), maps.Clone(q.Baselines)
	for _, f := range functions {
		e, found, err := a.adoptEntry(ctx, f, q, current)
		if err != nil {
			return report, err
		}
		if found {
			report.Functions = append(report.Functions, e)
		}
		delete(unknown, f.Address)
		report.Leftovers = append(report.Leftovers, a.driverctl(ctx, f.Address)...)
		if l, ok := newID(f); ok && !slices.ContainsFunc(report.Leftovers, func(o Leftover) bool { return o.Remedy == l.Remedy }) {
			report.Leftovers = append(report.Leftovers, l)
		}
	}
	for _, t := range slices.Sorted(maps.Keys(unknown)) {
		return report, fmt.Errorf("--baseline %s: there is no such network function: agent inventory lists those there are", t)
	}
	report.Leftovers = append(report.Leftovers, a.predecessor(ctx)...)
	if report.Pools, err = a.adoptPools(ctx, q, current); err != nil || q.Dry {
		return report, err
	}
	return report, a.adoptAll(ctx, report, q)
}

// adoptAll keeps what is adopted.
func (a *Agent) adoptAll(ctx context.Context, report AdoptReport, q Adoption) error {
	for _, p := range report.Pools {
		if err := a.adoptPool(ctx, p, q); err != nil {
			return err
		}
	}
	for _, e := range report.Functions {
		if !e.Adopted {
			continue
		}
		if err := a.adoptOne(ctx, e, q); err != nil {
			return err
		}
	}
	return nil
}

// adoptEntry says what is to be done about a function; false when no other hand
// is to be seen on it.
func (a *Agent) adoptEntry(ctx context.Context, f inventory.Function, q Adoption, current []request) (AdoptEntry, bool, error) {
	e := AdoptEntry{Target: f.Address, Driver: f.Driver, Override: f.Override, Verdict: verdictUnasked}
	given, isGiven := q.Baselines[f.Address]
	if !drivers.Userspace(f.Driver) {
		if isGiven {
			return e, false, fmt.Errorf("--baseline %s: it is on %s, which needs none: leave it out", f.Address, orNone(f.Driver))
		}
		e.Verdict, e.Remedy = verdictStale, fmt.Sprintf("echo > /sys/bus/pci/devices/%s/driver_override, unless it is meant to take effect at the next probe", f.Address)
		if f.Driver == "" {
			e.Remedy += fmt.Sprintf("; then echo %s > /sys/bus/pci/drivers_probe for the kernel's driver, which it lacks", f.Address)
		}
		return e, f.Override != "" && f.Override != f.Driver, nil
	}
	key := drivers.Key{Kind: dpdk.KindDriver, Target: f.Address}
	for _, r := range current {
		if r.target != f.Address || r.asked.Driver == "" {
			continue
		}
		e.Wanted, e.Verdict = r.asked.Driver, verdictEqual
		if now := (dpdk.Binding{Driver: f.Driver, Override: f.Override}).State(); now != dpdk.Bound(r.asked.Driver) {
			e.Verdict, e.Remedy = verdictDiffers, "the next agent binds it to "+r.asked.Driver+": ask for what it has, or let it"
		}
	}
	id, err := host.Identify(ctx, a.c.Host, f.Address)
	if err != nil {
		return e, false, err
	}
	b, known := a.view.baseline(key, id)
	adopted, before := a.view.adopted(ctx, f.Address)
	if before {
		b.State, known = adopted, true
	}
	switch {
	case isGiven && known && !b.Unknown && !before:
		return e, false, fmt.Errorf("--baseline %s: the agent itself found it at %s, which release gives it back to: leave it out", f.Address, b.State)
	case isGiven:
		e.Baseline, e.From, e.Adopted = given, "given", true
		return e, true, a.isDriver(ctx, f.Address, given)
	case known && !b.Unknown:
		was, err := dpdk.Parse(b.State)
		if err != nil {
			return e, false, err
		}
		e.Baseline, e.From = was.Driver, "journal"
		return e, true, nil
	}
	return a.byAlias(ctx, e)
}

func orNone(driver string) string {
	if driver == "" {
		return "no driver"
	}
	return driver
}

// byAlias takes the driver that the kernel would bind by itself.
func (a *Agent) byAlias(ctx context.Context, e AdoptEntry) (AdoptEntry, bool, error) {
	names, err := module.ByAlias(ctx, a.c.Host, e.Target)
	if err != nil {
		return e, false, err
	}
	say := fmt.Sprintf("say what it is given back to: agent adopt --baseline %s=DRIVER", e.Target)
	switch len(names) {
	case 0:
		e.Remedy = "no driver of this kernel names it as its own: " + say
	case 1:
		e.Baseline, e.From, e.Adopted = names[0], "modalias", true
	default:
		e.Remedy = fmt.Sprintf("several drivers name it as their own (%s): %s", strings.Join(names, ", "), say)
	}
	return e, true, nil
}

// isDriver wants a driver that there is, and that is no userspace driver.
func (a *Agent) isDriver(ctx context.Context, t drivers.Target, name string) error {
	if _, err := dpdk.Parse(dpdk.Bound(name)); err != nil || drivers.Userspace(name) {
		return fmt.Errorf("--baseline %s=%s: want a driver of the kernel, such as igb", t, name)
	}
	if _, err := a.c.Host.Inode(ctx, host.PCIDrivers+name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := module.Closure(ctx, a.c.Host, name); err != nil {
		return fmt.Errorf("--baseline %s=%s: the driver is not registered, and %w", t, name, err)
	}
	return nil
}

func (a *Agent) adoptOne(ctx context.Context, e AdoptEntry, q Adoption) error {
	c, err := a.view.orderFor(ctx, orderAdopted, e.Target, q.Who, q.Why)
	if err != nil {
		return err
	}
	c.Facts[factDriver] = e.Baseline
	if err := a.c.Journal.SetControl(ctx, c); err != nil {
		return err
	}
	level.Warn(a.logger).Log("target", e.Target, "who", q.Who, "why", q.Why, "before", e.Baseline, "msg", "adopted")
	return nil
}

// driverctl is what driverctl keeps of a function.
func (a *Agent) driverctl(ctx context.Context, t drivers.Target) []Leftover {
	for _, name := range []string{"pci-" + string(t), string(t)} {
		file := "/etc/driverctl.d/" + name
		text, err := a.c.Host.Read(ctx, file)
		if err != nil {
			continue
		}
		return []Leftover{{
			Path: file, Tool: "driverctl", Found: "binds " + string(t) + " to " + strings.TrimSpace(text) + " at each boot",
			Remedy: "rm " + file + ", once the agent binds it: driverctl unset-override would unbind it at once",
		}}
	}
	return nil
}

// newID is what a tool may have left that bound a function with no override: an
// ID given to the driver, which nothing lists.
func newID(f inventory.Function) (Leftover, bool) {
	if !drivers.Userspace(f.Driver) || f.Override != "" {
		return Leftover{}, false
	}
	remove := host.PCIDrivers + f.Driver + "/remove_id"
	return Leftover{
		Path: remove, Tool: "dpdk-devbind.py, or new_id",
		Found:  fmt.Sprintf("%s is on %s with no override: %s may take every %s that has no driver", f.Address, f.Driver, f.Driver, f.ID),
		Remedy: fmt.Sprintf("echo %s > %s, which says ENODEV when there is nothing to remove", strings.ReplaceAll(f.ID, ":", " "), remove),
	}, true
}

// predecessor is what the AWS multi-ENI controller leaves on a node (its init
// container writes the first three, and removes none).
func (a *Agent) predecessor(ctx context.Context) (found []Leftover) {
	const tool = "aws-multi-eni-controller"
	for _, l := range []Leftover{
		{Path: "/usr/bin/dpdk-devbind.py", Found: "a script that binds functions behind the agent", Remedy: "rm it, unless DPDK's own package has it"},
		{Path: "/etc/modules-load.d/dpdk.conf", Found: "loads vfio modules at each boot", Remedy: "rm it: the agent loads what it needs"},
		{Path: "/etc/modprobe.d/dpdk.conf", Found: "options of vfio modules, such as the unsafe no-IOMMU mode", Remedy: "rm it, unless you want them"},
		{Path: "/etc/pcidp/config.json.backup", Found: "a copy of the device plugin's file", Remedy: "rm it"},
		{Path: "/var/lib/aws-multi-eni-controller/interface-mappings.json", Found: "its memory of interfaces, which nothing reads", Remedy: "rm -r /var/lib/aws-multi-eni-controller"},
	} {
		if _, err := a.c.Host.Inode(ctx, l.Path); err != nil {
			continue
		}
		l.Tool = tool
		found = append(found, l)
	}
	if taint(ctx, a.c.Host) != "" {
		found = append(found, Leftover{
			Path: host.SysModule + "vfio/parameters/enable_unsafe_noiommu_mode", Tool: tool,
			Found:  "vfio's unsafe mode is on, programs can reach all memory by DMA",
			Remedy: "echo N > it, unless there is no IOMMU here",
		})
	}
	return found
}

// adoptPools are the pools that are asked for, or named to be taken on, and that
// the file has from another hand. What such an entry names is no pool of the
// agent's before a person says so: its other functions would be taken out of it.
func (a *Agent) adoptPools(ctx context.Context, q Adoption, current []request) (found []AdoptPool, err error) {
	names := slices.Clone(q.Pools)
	for _, r := range current {
		if r.pool != "" {
			names = append(names, r.pool)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		t, err := drivers.FileEntry(a.view.PluginFile, name)
		if err != nil {
			return nil, fmt.Errorf("--pool %s: %w", name, err)
		}
		o, named := a.view.observer().Observe(ctx, poolKey(t)), slices.Contains(q.Pools, name)
		switch {
		case o.Presence != drivers.Present && named:
			return nil, fmt.Errorf("--pool %s: %w", name, orUnknown(o.Err))
		case slices.Contains(a.view.ownPools(), t) && named:
			return nil, fmt.Errorf("--pool %s: it is the agent's already: leave it out", name)
		case o.State == deviceplugin.Absent && named:
			return nil, fmt.Errorf("--pool %s: %s has no such entry: leave it out", name, a.view.PluginFile)
		case o.Presence != drivers.Present, o.State == deviceplugin.Absent, slices.Contains(a.view.ownPools(), t):
			continue
		}
		p := AdoptPool{Pool: name, File: a.view.PluginFile, Found: o.State, Names: append([]drivers.Target{}, deviceplugin.Functions(o.State)...), Adopted: named}
		if !named {
			p.Remedy = "agent adopt --pool " + name + " takes it on: it is then as the desired state has it, and withdrawn with its functions"
		}
		found = append(found, p)
	}
	return found, nil
}

func (a *Agent) adoptPool(ctx context.Context, p AdoptPool, q Adoption) error {
	t, err := drivers.FileEntry(p.File, p.Pool)
	if err != nil || !p.Adopted {
		return err
	}
	c, err := a.view.orderFor(ctx, orderAdopted, t, q.Who, q.Why)
	if err != nil {
		return err
	}
	level.Warn(a.logger).Log("target", t, "who", q.Who, "why", q.Why, "before", p.Found, "msg", "adopted")
	return a.c.Journal.SetControl(ctx, c)
}
