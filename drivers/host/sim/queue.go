package sim

import (
	"slices"
	"syscall"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// act is what a call does once its path and value have been understood.
type act string

const (
	actOverride  act = "override"
	actUnbind    act = "unbind"
	actBind      act = "bind"
	actProbe     act = "probe"
	actParam     act = "param"
	actNumVFs    act = "numvfs"
	actAutoprobe act = "autoprobe"
	actRemove    act = "remove"
	actRescan    act = "rescan"
	actMTU       act = "mtu"
	actAdmin     act = "admin"
	actName      act = "name"
	actMAC       act = "mac"
	actAltName   act = "altname"
	actVF        act = "vf"
	actChannels  act = "channels"
	actRings     act = "rings"
	actFeature   act = "feature"
	actLoad      act = "load"
	actUnload    act = "unload"
	actReplace   act = "replace"
	actSync      act = "sync"
)

// call is a write in the kernel, from the system call's entry to its return.
// It goes on when the process that made it is dead.
type call struct {
	Seq       uint64        `json:"seq"`
	Call      host.Call     `json:"call"`
	Act       act           `json:"act"`
	Address   string        `json:"address,omitempty"` // the function, and which one of that address it was
	Inode     uint64        `json:"inode,omitempty"`
	Driver    string        `json:"driver,omitempty"`
	Module    string        `json:"module,omitempty"`
	Param     string        `json:"param,omitempty"`
	Number    int           `json:"number,omitempty"`
	Began     bool          `json:"began,omitempty"`
	Abandoned bool          `json:"abandoned,omitempty"` // nobody waits for the result
	Stuck     bool          `json:"stuck,omitempty"`     // by a fault, until Thaw
	At        time.Time     `json:"at,omitzero"`         // by a fault: not before
	Noop      bool          `json:"noop,omitempty"`      // by a fault: success, and nothing done
	Lie       syscall.Errno `json:"lie,omitempty"`       // by a fault: done, and reported so
}

// result is how a call ended, kept until the one who waits has taken it.
type result struct {
	Seq   uint64        `json:"seq"`
	Errno syscall.Errno `json:"errno,omitempty"`
}

// maxResults bounds what is kept for processes that died waiting.
const maxResults = 64

// submit makes a call and advances it as far as it goes. Its number finds the
// result.
func (m *machine) submit(c host.Call, fault Fault) uint64 {
	m.dirty = true
	w := &call{Seq: m.next(), Call: c}
	if fault.Errno != 0 && fault.When == Before {
		m.finish(w, fault.Errno)
		return w.Seq
	}
	w.Noop, w.Stuck, w.Lie = fault.Noop, fault.Hang, fault.Errno
	errno, over := m.enter(w)
	if over {
		m.finish(w, errno)
		return w.Seq
	}
	if fault.Slow > 0 {
		w.At = time.Now().Add(fault.Slow)
	}
	m.queue(w)
	m.advanceAll()
	return w.Seq
}

func (m *machine) queue(w *call) {
	m.Calls = append(m.Calls, w)
	if f := m.target(w); f != nil && (w.Stuck || !w.At.IsZero()) {
		f.lock(w.Seq) // it sleeps where a driver sleeps: with the lock
	}
}

// advanceAll advances the calls in their order, from the first again whenever
// one has ended, until no more can be done: the order of the device_lock's
// queue.
func (m *machine) advanceAll() {
	now := m.clock()
	for again := true; again; {
		again = false
		for i, w := range m.Calls {
			errno, over := m.advance(w, now)
			if !over {
				continue
			}
			m.Calls = slices.Delete(m.Calls, i, i+1)
			m.finish(w, errno)
			again = true
			break
		}
	}
}

// finish lets go of the call's locks and leaves its result.
func (m *machine) finish(w *call, errno syscall.Errno) {
	m.dirty = true
	for _, f := range m.Present {
		m.unlock(f, w.Seq)
	}
	if w.Abandoned {
		return
	}
	if w.Lie != 0 {
		errno = w.Lie
	}
	if len(m.Results) >= maxResults {
		m.Results = slices.Delete(m.Results, 0, 1)
	}
	m.Results = append(m.Results, result{w.Seq, errno})
}

// take is the result of a call; waiting says that there is none yet.
func (m *machine) take(seq uint64) (errno syscall.Errno, over, waiting bool) {
	at := slices.IndexFunc(m.Results, func(r result) bool { return r.Seq == seq })
	if at < 0 {
		return 0, false, slices.ContainsFunc(m.Calls, func(w *call) bool { return w.Seq == seq })
	}
	errno = m.Results[at].Errno
	m.Results = slices.Delete(m.Results, at, at+1)
	m.dirty = true
	return errno, true, false
}

// abandon is for a call whose caller has gone; the call itself goes on.
func (m *machine) abandon(seq uint64) {
	for _, w := range m.Calls {
		if w.Seq == seq {
			w.Abandoned = true
			m.dirty = true
		}
	}
}

// thaw lets the calls go on that a fault hung.
func (m *machine) thaw() {
	for _, w := range m.Calls {
		m.dirty = m.dirty || w.Stuck
		w.Stuck = false
	}
	m.advanceAll()
}

func (m *machine) unlock(f *function, seq uint64) {
	if f.Owner == seq {
		f.Owner = 0
	}
}

// target is the function that a call is about; nil when it has gone, even if
// another one has come at its address.
func (m *machine) target(w *call) *function {
	if f := m.find(w.Address); f != nil && f.Inode == w.Inode {
		return f
	}
	return nil
}

// fenced says whether a call still runs on a target, or holds its lock.
func (m *machine) fenced(t drivers.Target) bool {
	for _, w := range m.Calls {
		if w.Call.Target == t || w.Address == string(t) {
			return true
		}
	}
	f := m.find(string(t))
	return f != nil && f.Owner != 0
}

// advance takes a call as far as it goes, and says whether it is over.
func (m *machine) advance(w *call, now time.Time) (errno syscall.Errno, over bool) {
	if w.Stuck || !w.At.IsZero() && now.Before(w.At) {
		return 0, false
	}
	if w.Noop {
		return 0, true
	}
	switch w.Act {
	case actMTU:
		return m.setMTU(w.Call.Index, w.Call.Number), true
	case actAdmin:
		return m.setAdmin(w.Call.Index, w.Call.Number != 0), true
	case actName:
		return m.setName(w.Call.Index, w.Call.Value), true
	case actMAC:
		return m.setMAC(w.Call.Index, w.Call.Value), true
	case actAltName, actChannels, actRings, actFeature:
		return m.setSetting(w.Call), true
	case actVF:
		return m.setVF(w.Call), true
	case actParam:
		return m.setParam(w.Module, w.Param, w.Call.Value), true
	case actRescan:
		m.rescan(m.busOf(w.Address))
		return 0, true
	case actReplace:
		return m.replace(w.Call), true
	case actSync:
		m.sync(w.Call.Path)
		return 0, true
	case actLoad:
		if errno := m.begin(w, func() syscall.Errno { return m.insert(w, m.modules[w.Module]) }); errno != 0 {
			return errno, true
		}
		return 0, m.load(w)
	case actUnload:
		if errno := m.begin(w, func() syscall.Errno { return m.leave(w.Module) }); errno != 0 {
			return errno, true
		}
		return 0, m.unload(w)
	}
	return m.advanceFunction(w)
}

// begin does once what a call does before it can block.
func (m *machine) begin(w *call, once func() syscall.Errno) syscall.Errno {
	if w.Began {
		return 0
	}
	w.Began = true
	return once()
}

// advanceFunction advances a call that takes the device_lock of one function.
func (m *machine) advanceFunction(w *call) (errno syscall.Errno, over bool) {
	f := m.target(w)
	if f == nil {
		// It went while the call waited: there is nothing to unbind any more,
		// and nothing to bind.
		if w.Act == actUnbind || w.Act == actRemove {
			return 0, true
		}
		return syscall.ENODEV, true
	}
	if w.Act == actAutoprobe { // takes no lock
		f.NoProbe = w.Number == 0
		return 0, true
	}
	if !f.lock(w.Seq) {
		return 0, false
	}
	switch w.Act {
	case actOverride:
		f.Override = parseOverride(w.Call.Value, m.cfg.Release)
		return 0, true
	case actBind:
		return m.probe(w.Driver, f), true
	case actProbe:
		if f.Driver == "" {
			m.attach(f)
		}
		return 0, true
	case actUnbind: // of whatever is bound now that the lock is had
		return 0, m.detach(f, w.Seq)
	case actRemove:
		return 0, m.remove(f, w.Seq)
	default:
		return m.setNumVFs(f, w)
	}
}

// setNumVFs is sriov_numvfs_store.
func (m *machine) setNumVFs(f *function, w *call) (errno syscall.Errno, over bool) {
	switch {
	case f.VFs == w.Number:
		return 0, true
	case f.Driver == "" || m.drivers[f.Driver].Makes != MakesNet && !m.drivers[f.Driver].StubVFs:
		return syscall.ENOENT, true
	case w.Number == 0:
		return 0, m.dropVFs(f, w.Seq)
	case f.VFs != 0:
		return syscall.EBUSY, true
	}
	m.createVFs(f, w.Number)
	return 0, true
}

// rescan finds the functions on a bus and behind its bridges that are plugged in
// and are not there, as pci_rescan_bus does: each comes up as at its first boot.
// A bridge without a name is the root.
func (m *machine) rescan(bridge string) {
	for i := range m.cfg.Devices {
		d := &m.cfg.Devices[i]
		if d.PF != "" || d.Bridge != bridge || d.Absent {
			continue
		}
		m.bringUp(d)
	}
}

// bringUp lets a function come that is not there, and what sits behind it.
func (m *machine) bringUp(d *Device) {
	if m.find(d.Address) == nil {
		m.attach(m.addFunction(d))
	}
	m.rescan(d.Address)
}

// busOf is the bridge that a function sits behind.
func (m *machine) busOf(addr string) string {
	if d := m.devices[addr]; d != nil {
		return d.Bridge
	}
	return ""
}
