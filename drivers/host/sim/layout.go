package sim

import (
	"path"
	"slices"
	"strings"
)

// layout is what follows from a Config and never changes: it is shared by a
// machine and all its clones.
type layout struct {
	cfg     Config
	devices map[string]*Device
	dirs    map[string]string // sysfs directory of a function
	modules map[string]*Module
	files   map[string]*Module // by the path of the module file
	drivers map[string]*Driver
	owners  map[string]*Module // by driver
	root    *tree
	raw     []byte // the Config as JSON, once it has been encoded
}

func newLayout(cfg Config) *layout {
	l := &layout{
		cfg: cfg.copy(), devices: map[string]*Device{}, dirs: map[string]string{}, modules: map[string]*Module{},
		files: map[string]*Module{}, drivers: map[string]*Driver{}, owners: map[string]*Module{}, root: &tree{},
	}
	for i := range l.cfg.Devices {
		d := &l.cfg.Devices[i]
		l.devices[d.Address] = d
	}
	for addr := range l.devices {
		l.dirs[addr] = l.sysfsDir(addr)
	}
	for i := range l.cfg.Modules {
		l.addModule(&l.cfg.Modules[i])
	}
	for name, text := range l.cfg.Files {
		if !onDisk(name) {
			l.root.put(name, &tree{file: true, text: text})
		}
	}
	for _, dir := range l.diskDirs() {
		l.root.put(dir, &tree{mount: func(m *machine) (node, bool) { return m.diskDir(dir), true }})
	}
	l.depmod()
	l.mount()
	return l
}

func (l *layout) addModule(m *Module) {
	m.Name = moduleName(m.Name)
	l.modules[m.Name] = m
	if !m.Builtin {
		l.files[l.moduleDir()+m.Path] = m
		l.root.put(l.moduleDir()+m.Path, &tree{file: true})
	}
	for i := range m.Drivers {
		l.drivers[m.Drivers[i].Name] = &m.Drivers[i]
		l.owners[m.Drivers[i].Name] = m
	}
}

func (l *layout) moduleDir() string { return "/lib/modules/" + l.cfg.Release + "/" }

// sysfsDir is where a function is below /sys/devices: under the bridges it
// sits behind, of which a wrong Config may have a ring.
func (l *layout) sysfsDir(addr string) string {
	dir := ""
	for hops := 0; addr != "" && l.devices[addr] != nil && hops < 8; hops++ {
		dir = "/" + addr + dir
		addr = l.devices[addr].Bridge
	}
	return pciRoot + dir
}

// vfs are the addresses of the virtual functions that a PF can have, in order.
func (l *layout) vfs(pf string) []string {
	var addrs []string
	for i := range l.cfg.Devices {
		if l.cfg.Devices[i].PF == pf {
			addrs = append(addrs, l.cfg.Devices[i].Address)
		}
	}
	return addrs
}

// needs are all modules that one needs, each before those that it needs
// itself, as modules.dep lists them.
func (l *layout) needs(m *Module) []*Module {
	var order []*Module
	var visit func(*Module)
	visit = func(m *Module) {
		for _, name := range m.Needs {
			need := l.modules[moduleName(name)]
			if need != nil && !slices.Contains(order, need) {
				visit(need)
				order = append(order, need)
			}
		}
	}
	visit(m)
	slices.Reverse(order)
	return order
}

// depmod writes the files that modprobe reads.
func (l *layout) depmod() {
	var dep, soft, builtin, modinfo, aliases []string
	for i := range l.cfg.Modules {
		m := &l.cfg.Modules[i]
		if m.Builtin {
			builtin = append(builtin, m.Path)
			for _, pattern := range m.aliases() {
				modinfo = append(modinfo, m.Name+".alias="+pattern+"\x00")
			}
			continue
		}
		line := m.Path + ":"
		for _, need := range l.needs(m) {
			if !need.Builtin {
				line += " " + need.Path
			}
		}
		dep = append(dep, line)
		if len(m.SoftPre)+len(m.SoftPost) > 0 {
			soft = append(soft, softdep(m))
		}
		for _, pattern := range m.aliases() {
			aliases = append(aliases, "alias "+pattern+" "+m.Name)
		}
	}
	for name, lines := range map[string][]string{
		"modules.dep":     dep,
		"modules.softdep": append([]string{"# Soft dependencies extracted from modules themselves."}, soft...),
		"modules.builtin": builtin,
		"modules.alias":   append([]string{"# Aliases extracted from modules themselves."}, aliases...),
	} {
		l.root.put(l.moduleDir()+name, &tree{file: true, text: strings.Join(lines, "\n")})
	}
	l.root.put(l.moduleDir()+"modules.builtin.modinfo", &tree{file: true, text: strings.Join(modinfo, "")})
}

// aliases are the patterns of the devices that a module's drivers take.
func (m *Module) aliases() (all []string) {
	for _, d := range m.Drivers {
		for _, id := range d.Match {
			all = append(all, alias(id))
		}
	}
	return all
}

func softdep(m *Module) string {
	line := "softdep " + m.Name
	if len(m.SoftPre) > 0 {
		line += " pre: " + strings.Join(m.SoftPre, " ")
	}
	if len(m.SoftPost) > 0 {
		line += " post: " + strings.Join(m.SoftPost, " ")
	}
	return line
}

// tree is the part of the virtual file system that never changes, and the
// places in it where the machine's own state is mounted.
type tree struct {
	kids  map[string]*tree
	file  bool
	text  string
	mount func(*machine) (node, bool)
}

// put hangs t in the tree at a path, making the directories on the way.
func (t *tree) put(name string, leaf *tree) {
	dir, base := path.Split(path.Clean(name))
	for part := range strings.SplitSeq(strings.Trim(dir, "/"), "/") {
		if part == "" {
			continue
		}
		t = t.kid(part, &tree{})
	}
	if at := t.kid(base, leaf); at != leaf {
		at.mount, at.file, at.text = leaf.mount, leaf.file, leaf.text
	}
}

// kid is the child of that name, which becomes fresh when there is none.
func (t *tree) kid(name string, fresh *tree) *tree {
	if t.kids == nil {
		t.kids = map[string]*tree{}
	}
	if t.kids[name] == nil {
		t.kids[name] = fresh
	}
	return t.kids[name]
}
