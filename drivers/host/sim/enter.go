package sim

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"eniagent/drivers/host"
)

// pageSize is how much of a write a sysfs attribute is given.
const pageSize = 4096

// enter is what a write does before it takes a lock: path and value are
// understood, and what can be refused at once is refused. It says whether the
// call is over with that.
func (m *machine) enter(w *call) (errno syscall.Errno, over bool) {
	c := w.Call
	switch c.Op {
	case host.OpSysfs:
		return m.enterSysfs(w)
	case host.OpMTU, host.OpAdmin, host.OpName, host.OpMAC, host.OpAltName, host.OpChannels, host.OpRings, host.OpFeature:
		w.Act = act(c.Op)
		if n := m.netdev(c.Index); n != nil {
			w.Address = n.Bus
		}
	case host.OpVFMAC, host.OpVFVLAN, host.OpVFTrust, host.OpVFSpoofCheck, host.OpVFState, host.OpVFRate:
		w.Act, w.Address = actVF, string(c.Target)
	case host.OpReplace, host.OpSync:
		w.Act = act(c.Op)
	case host.OpLoad:
		mod, errno := m.moduleAt(c.Path)
		if errno != 0 {
			return errno, true
		}
		w.Act, w.Module = actLoad, mod.Name
	case host.OpUnload:
		w.Act, w.Module = actUnload, moduleName(c.Value)
		if m.modules[w.Module] == nil {
			return syscall.ENOENT, true
		}
	default:
		return syscall.ENOSYS, true
	}
	return 0, false
}

func (m *machine) enterSysfs(w *call) (errno syscall.Errno, over bool) {
	n, errno := m.resolve(w.Call.Path, true)
	switch {
	case errno != 0:
		return errno, true
	case n.kind == kindDir:
		return syscall.EISDIR, true
	case n.store == "":
		return syscall.EACCES, true
	case w.Call.Value == "":
		return 0, true // sysfs_kf_write: no bytes, no store
	}
	w.Act, w.Driver, w.Module, w.Param = n.store, n.driver, n.module, n.param
	if n.function != nil {
		w.Address, w.Inode = n.function.Address, n.function.Inode
	}
	switch w.Act {
	case actOverride:
		if len(w.Call.Value) >= pageSize-1 {
			return syscall.EINVAL, true
		}
	case actBind, actUnbind, actProbe:
		return m.enterBus(w)
	case actNumVFs:
		return enterNumVFs(w, m.totalVFs(n.function))
	case actAutoprobe:
		on, ok := parseBool(w.Call.Value)
		if !ok {
			return syscall.EINVAL, true
		}
		if on {
			w.Number = 1
		}
	case actRemove, actRescan:
		v, ok := parseUint(w.Call.Value, 64)
		if !ok {
			return syscall.EINVAL, true
		}
		return 0, v == 0
	}
	return 0, false
}

// enterBus is the part of bind_store, unbind_store and drivers_probe_store that
// looks at the function without its lock. While an unbind hangs the function is
// still bound for all three.
func (m *machine) enterBus(w *call) (errno syscall.Errno, over bool) {
	f := m.find(strings.TrimSuffix(w.Call.Value, "\n"))
	if f == nil {
		return syscall.ENODEV, true
	}
	w.Address, w.Inode = f.Address, f.Inode
	switch w.Act {
	case actBind:
		if !m.match(w.Driver, f) {
			return syscall.ENODEV, true
		}
	case actUnbind:
		if f.Driver != w.Driver {
			return syscall.ENODEV, true
		}
	case actProbe:
		return 0, f.Driver != ""
	}
	return 0, false
}

func enterNumVFs(w *call, total int) (errno syscall.Errno, over bool) {
	n, ok := parseUint(w.Call.Value, 16)
	switch {
	case !ok:
		return syscall.EINVAL, true
	case int(n) > total:
		return syscall.ERANGE, true
	}
	w.Number = int(n)
	return 0, false
}

// parseUint is kstrtoull with base 0, which knows one plus sign, "0x" and an
// octal "0", and neither "0b" nor "_".
func parseUint(value string, bits int) (n uint64, ok bool) {
	digits := strings.ToLower(strings.TrimPrefix(strings.TrimSuffix(value, "\n"), "+"))
	base := 10
	switch hex, found := strings.CutPrefix(digits, "0x"); {
	case found:
		digits, base = hex, 16
	case strings.HasPrefix(digits, "0") && digits != "0":
		digits, base = digits[1:], 8
	}
	n, err := strconv.ParseUint(digits, base, bits)
	return n, err == nil
}

// parseOverride is driver_set_override. Before 6.0 it stored a lone NUL as a
// name that no driver has; since then that clears, as a newline does.
func parseOverride(value, release string) *string {
	if strings.HasPrefix(value, "\n") || strings.HasPrefix(value, "\x00") && !before(release, 6, 0) {
		return nil
	}
	name, _, _ := strings.Cut(value, "\n")
	name, _, _ = strings.Cut(name, "\x00")
	return &name
}

// before says whether a kernel release is older than a version.
func before(release string, major, minor int) bool {
	var is [2]int
	if _, err := fmt.Sscanf(release, "%d.%d", &is[0], &is[1]); err != nil {
		return false
	}
	return is[0] < major || is[0] == major && is[1] < minor
}
