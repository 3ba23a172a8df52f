package sim

import (
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"

	"eniagent/drivers"
)

// The states of a module in the kernel, as in initstate.
const (
	moduleLive   = "live"
	moduleComing = "coming"
	moduleGoing  = "going"
)

// module is a module that is in the kernel, nil when it is not.
func (m *machine) module(name string) *loaded {
	at := slices.IndexFunc(m.Loaded, func(l loaded) bool { return l.Name == name })
	if at < 0 {
		return nil
	}
	return &m.Loaded[at]
}

// loadAtBoot loads a module and all it needs, without anything in the way.
func (m *machine) loadAtBoot(mod *Module) {
	needs := m.needs(mod)
	slices.Reverse(needs)
	for _, mod := range append(needs, mod) {
		if m.module(mod.Name) == nil {
			w := &call{Module: mod.Name}
			if m.insert(w, mod) == 0 {
				m.load(w)
			}
		}
	}
}

// insert is the part of finit_module that comes before the module runs.
func (m *machine) insert(w *call, mod *Module) syscall.Errno {
	if m.module(mod.Name) != nil {
		return syscall.EEXIST
	}
	for _, need := range mod.Needs {
		if l := m.module(moduleName(need)); l == nil || l.State == moduleGoing {
			return syscall.ENOENT // "Unknown symbol in module"
		}
	}
	params := map[string]string{}
	for _, p := range mod.Params {
		params[p.Name] = p.Default
	}
	for arg := range strings.FieldsSeq(w.Call.Value) {
		name, value, _ := strings.Cut(arg, "=")
		at := slices.IndexFunc(mod.Params, func(p Param) bool { return p.Name == name })
		if at < 0 {
			continue // the kernel warns of an unknown parameter and goes on
		}
		v, errno := mod.Params[at].parse(value)
		if errno != 0 {
			return errno
		}
		params[name] = v
	}
	m.Loaded = append(m.Loaded, loaded{Name: mod.Name, State: moduleComing, Params: params})
	if mod.OutOfTree {
		m.taint(taintOutOfTree)
	}
	for _, d := range mod.Drivers {
		m.Drivers = append(m.Drivers, d.Name)
		m.driverEvent(d.Name, "add")
	}
	return 0
}

// load registers a module's drivers, each of which takes the driverless
// functions that it matches, and says whether it is over: it waits for the
// device_lock of each.
func (m *machine) load(w *call) bool {
	mod := m.modules[w.Module]
	for _, d := range mod.Drivers {
		for _, f := range slices.Clone(m.Present) {
			if !m.match(d.Name, f) {
				continue
			}
			if f.Owner != 0 && f.Owner != w.Seq {
				return false
			}
			_ = m.probe(d.Name, f) // the load goes on whatever a probe says
		}
	}
	m.module(w.Module).State = moduleLive
	m.event(drivers.Target("module/"+w.Module), "add")
	return true
}

// leave is the part of delete_module that can refuse.
func (m *machine) leave(name string) syscall.Errno {
	l := m.module(name)
	switch {
	case l == nil || m.modules[name].Builtin:
		return syscall.ENOENT
	case l.State != moduleLive:
		return syscall.EBUSY
	case m.references(name) > 0:
		return syscall.EWOULDBLOCK
	}
	l.State = moduleGoing
	m.dirty = true
	return 0
}

// unload unbinds every function of a module's drivers, and says whether it is
// over.
func (m *machine) unload(w *call) bool {
	mod := m.modules[w.Module]
	for _, d := range mod.Drivers {
		for _, f := range slices.Clone(m.Present) {
			if f.Driver == d.Name && (!f.lock(w.Seq) || !m.detach(f, w.Seq)) {
				return false
			}
			m.unlock(f, w.Seq)
		}
		m.Drivers = slices.DeleteFunc(m.Drivers, func(name string) bool { return name == d.Name })
		m.driverEvent(d.Name, "remove")
	}
	m.Loaded = slices.DeleteFunc(m.Loaded, func(l loaded) bool { return l.Name == w.Module })
	m.event(drivers.Target("module/"+w.Module), "remove")
	return true
}

// references is a module's reference count. A bound function is none; one that
// a process holds open is.
func (m *machine) references(name string) int {
	n := len(m.holders(name))
	for _, f := range m.Present {
		if m.onVFIO(f) && m.held(f.Address) {
			n += heldReferences(m.owners[f.Driver].Name)[name]
		}
	}
	// vfio_fs_inode_new pins vfio's own file system for as long as there is a
	// function in it.
	if name == "vfio" && !before(m.cfg.Release, 6, 10) && slices.ContainsFunc(m.Present, m.onVFIO) {
		n++
	}
	return n
}

// heldReferences are what a program that has a function open holds of each
// module: of vfio by the files of the container, of the group (and its cdev)
// and of the device.
func heldReferences(driver string) map[string]int {
	return map[string]int{driver: 1, "vfio": 4, "vfio_iommu_type1": 1}
}

// holders are the modules in the kernel that need a module.
func (m *machine) holders(name string) []string {
	var names []string
	for _, l := range m.Loaded {
		if slices.ContainsFunc(m.modules[l.Name].Needs, func(need string) bool { return moduleName(need) == name }) {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return names
}

// setParam writes a parameter of a module that is in the kernel.
func (m *machine) setParam(module, name, value string) syscall.Errno {
	l := m.module(module)
	if l == nil {
		return syscall.ENODEV
	}
	params := m.modules[module].Params
	at := slices.IndexFunc(params, func(p Param) bool { return p.Name == name })
	v, errno := params[at].parse(value)
	if errno != 0 {
		return errno
	}
	if l.Params[name] != v {
		l.Params = maps.Clone(l.Params)
		l.Params[name] = v
		m.dirty = true // no uevent tells of it
	}
	return 0
}

// parse is a value as the parameter then reads.
func (p Param) parse(value string) (string, syscall.Errno) {
	value = strings.TrimSuffix(value, "\n")
	if !p.Bool {
		return value, 0
	}
	on, ok := parseBool(value)
	switch {
	case !ok:
		return "", syscall.EINVAL
	case on:
		return "Y", 0
	default:
		return "N", 0
	}
}

// parseBool is kstrtobool, which looks at the first character, or two.
func parseBool(s string) (on, ok bool) {
	s = strings.ToLower(s)
	switch {
	case s == "":
		return false, false
	case strings.ContainsRune("yt1", rune(s[0])), strings.HasPrefix(s, "on"):
		return true, true
	case strings.ContainsRune("nf0", rune(s[0])), strings.HasPrefix(s, "of"):
		return false, true
	default:
		return false, false
	}
}

// moduleAt is the module of a module file.
func (m *machine) moduleAt(file string) (*Module, syscall.Errno) {
	if mod := m.files[path.Clean(file)]; mod != nil {
		return mod, 0
	}
	return nil, syscall.ENOENT
}
