package sim

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"

	"eniagent/drivers/host"
)

// content is what a path leads to: a file's bytes, or nothing.
type content struct {
	Text string `json:"text,omitempty"`
	Gone bool   `json:"gone,omitempty"`
}

// diskFile is a file that may be written. A rename is seen at once and durable
// when the directory was synced: until then a power cut brings back what was
// there before. A real one may, and this one always does, so that a sync that
// is left out is seen.
type diskFile struct {
	Path string  `json:"path"`
	Now  content `json:"now"`
	Safe content `json:"safe"` // what a power cut leaves
}

func (d diskFile) durable() bool { return d.Now == d.Safe }

// errChanged is no errno that a write of a file ends with otherwise.
const errChanged = syscall.ESTALE

// onDisk says whether a file of a Config may be written.
func onDisk(name string) bool { return path.Ext(name) == ".json" }

// diskDirs are the directories that have files which may be written.
func (l *layout) diskDirs() []string {
	dirs := map[string]bool{}
	for _, name := range host.DefaultFiles() {
		dirs[path.Dir(name)] = true
	}
	for name := range l.cfg.Files {
		if onDisk(name) {
			dirs[path.Dir(name)] = true
		}
	}
	return slices.Sorted(maps.Keys(dirs))
}

func (l *layout) hasDir(file string) bool {
	return path.Clean(file) == file && slices.Contains(l.diskDirs(), path.Dir(file))
}

// layDisk makes the files that are there at the first boot.
func (m *machine) layDisk() {
	for name, text := range m.cfg.Files {
		if onDisk(name) {
			m.put(name, content{Text: text})
			m.sync(name)
		}
	}
}

// losePower brings back what was not durable.
func (m *machine) losePower() {
	for i := range m.Disk {
		m.Disk[i].Now = m.Disk[i].Safe
	}
}

func (m *machine) diskFile(name string) (at int, ok bool) {
	return slices.BinarySearchFunc(m.Disk, name, func(d diskFile, name string) int { return cmp.Compare(d.Path, name) })
}

func (m *machine) put(name string, to content) {
	at, ok := m.diskFile(name)
	if !ok {
		m.Disk = slices.Insert(m.Disk, at, diskFile{Path: name, Safe: content{Gone: true}})
	}
	m.Disk[at].Now, m.dirty = to, true
}

// replace is a new file that takes the name of the one with that digest.
func (m *machine) replace(c host.Call) syscall.Errno {
	if !m.hasDir(c.Path) {
		return syscall.ENOENT
	}
	now := content{Gone: true}
	if at, ok := m.diskFile(c.Path); ok {
		now = m.Disk[at].Now
	}
	if now.Gone != (c.Was == "") || !now.Gone && host.Digest(now.Text) != c.Was {
		return errChanged
	}
	m.put(c.Path, content{Text: c.Value})
	return 0
}

// sync makes durable that a file is there, or that it is not.
func (m *machine) sync(name string) {
	if at, ok := m.diskFile(name); ok {
		m.Disk[at].Safe, m.dirty = m.Disk[at].Now, true
	}
}

// file is the content of a file, byte for byte.
func (m *machine) file(name string) (string, syscall.Errno) {
	if at, ok := m.diskFile(name); ok && !m.Disk[at].Now.Gone {
		return m.Disk[at].Now.Text, 0
	}
	n, errno := m.resolve(name, false)
	switch {
	case errno != 0:
		return "", errno
	case n.kind == kindLink:
		return "", syscall.ELOOP
	case n.kind != kindFile:
		return "", syscall.EINVAL
	}
	return n.text + "\n", 0
}

// diskDir is a directory with the files that are there now.
func (m *machine) diskDir(dir string) node {
	return filesNode(m.diskNames(dir), func(name string) (string, bool) {
		at, ok := m.diskFile(path.Join(dir, name))
		if !ok || m.Disk[at].Now.Gone {
			return "", false
		}
		return strings.TrimSuffix(m.Disk[at].Now.Text, "\n"), true
	})
}

func (m *machine) diskNames(dir string) (names []string) {
	for _, d := range m.Disk {
		if path.Dir(d.Path) == dir {
			names = append(names, path.Base(d.Path))
		}
	}
	return names
}
