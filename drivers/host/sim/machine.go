package sim

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// noIOMMUParam is vfio's switch for functions that no IOMMU protects.
const noIOMMUParam = "enable_unsafe_noiommu_mode"

// The taints that can come about here, by their names in the kernel.
const (
	taintUser      = "TAINT_USER"
	taintOutOfTree = "TAINT_OOT_MODULE"
)

// machine is a layout and the state of its kernel. It has no lock of its own
// and waits for nothing: a store guards it.
type machine struct {
	*layout
	state
	alive func(hold) bool // nil is always
	dirty bool            // the state has changed since the store last looked
}

// state is all that changes, as a File keeps it.
type state struct {
	Boot    int          `json:"boot"`
	Serial  uint64       `json:"serial"` // the last number given out; inodes and random MACs come from it
	Index   int          `json:"index"`  // the last ifindex given out
	Count   int          `json:"count"`  // writes of the agent, over all boots
	Present []*function  `json:"present"`
	Drivers []string     `json:"drivers"` // in the order in which they registered
	Loaded  []loaded     `json:"loaded"`
	Netdevs []netdev     `json:"netdevs"`
	Disk    []diskFile   `json:"disk,omitempty"` // the files that may be written, by path
	Taints  []string     `json:"taints,omitempty"`
	Holds   []hold       `json:"holds,omitempty"`
	Calls   []*call      `json:"calls,omitempty"` // writes that have not returned
	Results []result     `json:"results,omitempty"`
	Faults  []armed      `json:"faults,omitempty"`
	Events  []host.Event `json:"events,omitempty"` // the last ones
	Event   uint64       `json:"event,omitempty"`  // number of the last one
}

// function is a PCI function that is there.
type function struct {
	Address  string  `json:"address"`
	Inode    uint64  `json:"inode"`
	Driver   string  `json:"driver,omitempty"`
	Leaving  bool    `json:"leaving,omitempty"`  // an unbind is on its way: the links are gone, the driver is not
	Removing bool    `json:"removing,omitempty"` // so is a removal: the links between PF and VF are gone
	Override *string `json:"override,omitempty"`
	Owner    uint64  `json:"owner,omitempty"` // the call that has its device_lock
	VFs      int     `json:"vfs,omitempty"`
	Kept     []kept  `json:"kept,omitempty"`     // for its VFs, by their index; never changed in place
	NoProbe  bool    `json:"no_probe,omitempty"` // sriov_drivers_autoprobe is 0
	NoIOMMU  string  `json:"no_iommu,omitempty"` // the group that vfio made for it
	UIO      string  `json:"uio,omitempty"`      // "uio0"
	Dark     bool    `json:"dark,omitempty"`     // no carrier
	Comings  int     `json:"comings,omitempty"`  // how often its netdev came up in this boot
	// Ail is what ails it, nil when it is well. It is never changed in place.
	Ail *Ailment `json:"ail,omitempty"`
}

// loaded is a module in the kernel. Params is never changed in place.
type loaded struct {
	Name   string            `json:"name"`
	State  string            `json:"state"` // "live", "coming", "going"
	Params map[string]string `json:"params,omitempty"`
}

// netdev is a network device. Link.Bus is the function it belongs to.
type netdev struct {
	host.Link
	Dark   bool   `json:"dark,omitempty"`
	Random bool   `json:"random,omitempty"` // its MAC is made up
	Chosen bool   `json:"chosen,omitempty"` // its MAC was set by a program
	Nest   string `json:"nest,omitempty"`
	// Set is never changed in place: clones share it. AltNames are the Link's.
	Set       Settings       `json:"set,omitzero"`
	Defaults  []host.Default `json:"defaults,omitempty"`
	Addresses []string       `json:"addresses,omitempty"`
	Netns     string         `json:"netns,omitempty"` // another namespace that it is in
	Tunnel    *host.Tunnel   `json:"tunnel,omitempty"`
}

// hold is a process that holds a vfio function open.
type hold struct {
	Address string `json:"address"`
	PID     int    `json:"pid"`
	Started uint64 `json:"started,omitempty"` // of the process, so that a reused pid is not taken for it
}

func newMachine(cfg Config) *machine {
	m := &machine{layout: newLayout(cfg), state: state{Serial: 1000}}
	m.layDisk()
	m.reboot()
	return m
}

// clone is a machine that shares only what neither of the two changes.
func (m *machine) clone() *machine {
	c := &machine{layout: m.layout, state: m.state}
	c.Present = cloneAll(m.Present)
	c.Calls = cloneAll(m.Calls)
	c.Drivers = slices.Clone(m.Drivers)
	c.Loaded = slices.Clone(m.Loaded)
	c.Netdevs = slices.Clone(m.Netdevs)
	c.Disk = slices.Clone(m.Disk)
	c.Taints = slices.Clone(m.Taints)
	c.Holds = slices.Clone(m.Holds)
	c.Faults = slices.Clone(m.Faults)
	// Nobody waits for a clone's calls, nor watches it yet.
	c.Results, c.Events = nil, nil
	for _, w := range c.Calls {
		w.Abandoned = true
	}
	return c
}

// cloneAll copies what the pointers point to, into one array.
func cloneAll[T any](ps []*T) []*T {
	if len(ps) == 0 {
		return nil
	}
	values, c := make([]T, len(ps)), make([]*T, len(ps))
	for i, p := range ps {
		values[i] = *p
		c[i] = &values[i]
	}
	return c
}

// reboot makes all volatile state anew: the power was off.
func (m *machine) reboot() {
	old := m.state
	m.state = state{Boot: old.Boot + 1, Serial: old.Serial, Count: old.Count, Faults: old.Faults, Event: old.Event, Disk: old.Disk}
	m.losePower()
	m.dirty = true
	for i := range m.cfg.Links {
		if n := &m.cfg.Links[i]; n.Lower == "" {
			m.addNetdev(n, "", n.Name)
		}
	}
	for i := range m.cfg.Devices {
		if d := &m.cfg.Devices[i]; d.PF == "" && !d.Absent {
			m.addFunction(d)
		}
	}
	for i := range m.cfg.Modules {
		if mod := &m.cfg.Modules[i]; mod.Builtin || mod.Boot {
			m.loadAtBoot(mod)
		}
	}
	for i := range m.cfg.Devices {
		m.bootVFs(&m.cfg.Devices[i])
	}
	m.configureNetwork()
	m.Events = nil
	m.event("", host.EventLost)
}

// bootVFs makes the VFs that the host makes when it boots.
func (m *machine) bootVFs(d *Device) {
	n := d.BootVFs
	if m.Boot == 1 {
		n = d.NumVFs
	}
	if f := m.find(d.Address); f != nil && n > 0 {
		m.createVFs(f, n)
	}
}

// configureNetwork does what the host's network configuration does at boot.
func (m *machine) configureNetwork() {
	for i := range m.cfg.Links {
		if n := &m.cfg.Links[i]; n.Lower != "" {
			m.addNetdev(n, "", n.Name)
		}
	}
	want := make(map[string]*Netdev, len(m.Netdevs))
	for i := range m.cfg.Links {
		want[m.cfg.Links[i].Name] = &m.cfg.Links[i]
	}
	for _, d := range m.cfg.Devices {
		if d.Net != nil {
			want[d.Net.Name] = d.Net
		}
	}
	for i := range m.Netdevs {
		if w := want[m.Netdevs[i].Name]; w != nil {
			m.configure(&m.Netdevs[i], w)
		}
	}
	m.pair()
}

// configure does what the host's network configuration does with a netdev.
func (m *machine) configure(n *netdev, w *Netdev) {
	n.Up, n.Master = w.Up, m.indexOf(w.Master)
	n.Defaults, n.Addresses = w.Defaults, w.Addresses
	n.Elsewhere, n.Netns, n.Tunnel = w.Elsewhere, w.Netns, w.Tunnel
	m.dirty = true
}

// pair joins the ends of the veths that are there.
func (m *machine) pair() {
	for i := range m.cfg.Links {
		w := &m.cfg.Links[i]
		if a, b := m.named(w.Name), m.named(w.Peer); a != nil && b != nil && w.Peer != "" {
			a.Peer, b.Peer = b.Index, a.Index
		}
	}
}

// bootID is a uuid that follows from the seed and the number of the boot.
func (m *machine) bootID() string {
	h := fnv.New128a()
	h.Write([]byte(m.cfg.Seed + "/" + strconv.Itoa(m.Boot)))
	b := h.Sum(nil)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// find is the function at an address, nil when there is none.
func (m *machine) find(addr string) *function {
	for _, f := range m.Present {
		if f.Address == addr {
			return f
		}
	}
	return nil
}

// addFunction makes a function appear, driverless.
func (m *machine) addFunction(d *Device) *function {
	f := &function{Address: d.Address, Inode: m.next(), Dark: d.Net != nil && d.Net.NoCarrier}
	if d.Override != "" {
		f.Override = &d.Override
	}
	at, _ := slices.BinarySearchFunc(m.Present, f, func(a, b *function) int { return cmp.Compare(a.Address, b.Address) })
	m.Present = slices.Insert(m.Present, at, f)
	m.event(drivers.Target(d.Address), "add")
	return f
}

// next is a number that this machine has never given out.
func (m *machine) next() uint64 {
	m.Serial++
	return m.Serial
}

func (m *machine) taint(name string) {
	if !slices.Contains(m.Taints, name) {
		m.Taints = append(m.Taints, name)
		slices.Sort(m.Taints)
	}
}

// maxEvents is how far a watcher may fall behind.
const maxEvents = 256

// event tells watchers that a target may have changed.
func (m *machine) event(t drivers.Target, what string) {
	m.tell(host.Event{Target: t, What: what})
}

// driverEvent tells watchers that a driver came or went.
func (m *machine) driverEvent(name, what string) {
	m.tell(host.Event{Driver: name, What: what})
}

func (m *machine) tell(e host.Event) {
	m.dirty = true
	m.Event++
	if len(m.Events) >= maxEvents {
		m.Events = append(m.Events[:0], m.Events[maxEvents/2:]...)
	}
	m.Events = append(m.Events, e)
}

// held says whether a process holds the function open.
func (m *machine) held(addr string) bool {
	return slices.ContainsFunc(m.Holds, func(h hold) bool { return h.Address == addr })
}

// due says whether something has ended that nobody has told the kernel of: a
// process that held a function, or the time that a slow write takes.
func (m *machine) due() bool {
	for _, h := range m.Holds {
		if m.alive != nil && !m.alive(h) {
			return true
		}
	}
	now := m.clock()
	for _, w := range m.Calls {
		if !w.At.IsZero() && !now.Before(w.At) {
			return true
		}
	}
	return false
}

// clock is the time, read only when a call asks for it.
func (m *machine) clock() time.Time {
	for _, w := range m.Calls {
		if !w.At.IsZero() {
			return time.Now()
		}
	}
	return time.Time{}
}

// settle lets go of what dead processes held, and advances every write that
// can be advanced.
func (m *machine) settle() {
	m.Holds = slices.DeleteFunc(m.Holds, func(h hold) bool {
		dead := m.alive != nil && !m.alive(h)
		m.dirty = m.dirty || dead
		return dead
	})
	m.advanceAll()
}

// check says whether the state can be one of this layout, which it must be for
// nothing to be nil where it is not expected.
func (m *machine) check() error {
	for _, f := range m.Present {
		if f == nil || m.devices[f.Address] == nil {
			return fmt.Errorf("state has a function that is not in the config")
		}
		if f.Driver != "" && m.drivers[f.Driver] == nil {
			return fmt.Errorf("function %s has driver %q, which is not in the config", f.Address, f.Driver)
		}
	}
	for _, d := range m.Drivers {
		if m.drivers[d] == nil {
			return fmt.Errorf("driver %q is not in the config", d)
		}
	}
	for _, l := range m.Loaded {
		if m.modules[l.Name] == nil {
			return fmt.Errorf("module %q is not in the config", l.Name)
		}
	}
	for _, w := range m.Calls {
		if w == nil {
			return fmt.Errorf("state has an empty call")
		}
	}
	return nil
}
