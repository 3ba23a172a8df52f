//go:build linux

package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"

	"eniagent/recovery/chaos/wire"
)

// archive writes a cpio archive in the format the kernel unpacks (newc, Documentation/driver-api/early-userspace/
// buffer-format.rst), each entry after its directories.
type archive struct {
	w    *bufio.Writer
	ino  int
	have map[string]bool
	err  error
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
	modeChar = 0o020000
)

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), have: map[string]bool{"/": true}}
}

func (a *archive) entry(name string, mode uint32, major, minor int, size int64) {
	if a.err != nil {
		return
	}
	a.ino++
	name = name[1:] + "\x00"
	n, err := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s",
		a.ino, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name), 0, name)
	a.err = err
	a.pad(int64(n))
}

// pad fills up to the next multiple of four, where every header and every content begins.
func (a *archive) pad(n int64) {
	if a.err == nil {
		_, a.err = a.w.WriteString("\x00\x00\x00"[:(4-n%4)%4])
	}
}

func (a *archive) dir(name string) {
	if a.have[name] {
		return
	}
	a.dir(path.Dir(name))
	a.have[name] = true
	a.entry(name, modeDir|0o755, 0, 0, 0)
}

func (a *archive) bytes(name string, data []byte) {
	a.dir(path.Dir(name))
	a.entry(name, modeFile|0o644, 0, 0, int64(len(data)))
	if a.err == nil {
		_, a.err = a.w.Write(data)
	}
	a.pad(int64(len(data)))
}

func (a *archive) link(name, to string) {
	a.dir(path.Dir(name))
	a.entry(name, modeLink|0o777, 0, 0, int64(len(to)))
	if a.err == nil {
		_, a.err = a.w.WriteString(to)
	}
	a.pad(int64(len(to)))
}

func (a *archive) file(name, host string) {
	f, err := os.Open(host)
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	a.dir(path.Dir(name))
	a.entry(name, modeFile|uint32(info.Mode().Perm()), 0, 0, info.Size())
	if a.err == nil {
		_, a.err = io.CopyN(a.w, f, info.Size())
	}
	a.pad(info.Size())
}

func (a *archive) close() error {
	a.ino = 0
	a.entry("/TRAILER!!!", 0, 0, 0, 0)
	return errors.Join(a.err, a.w.Flush())
}

// writeInitramfs makes the guest's root, uncompressed: software emulation would take longer to unpack than to load.
func writeInitramfs(out io.Writer, c Config, p Parts, guest string) error {
	mods, err := selectModules(p, slices.Concat(nodeModules(), c.Load, c.Modules))
	if err != nil {
		return err
	}
	a := newArchive(out)
	a.dir("/dev")
	a.entry("/dev/console", modeChar|0o600, 5, 1, 0)
	a.file("/init", guest)
	inGuest := []string{"/init", wire.Helper, "/sbin/modprobe"}
	a.link(wire.Helper, "/init")
	a.link("/sbin/modprobe", "/init")
	files := c.files()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		a.file(name, files[name])
		inGuest = append(inGuest, name)
	}
	root := path.Join("/lib/modules", p.release())
	for _, name := range mods.files {
		a.file(path.Join(root, name), path.Join(p.Modules, name))
		inGuest = append(inGuest, path.Join(root, name))
	}
	for name, data := range mods.indexes {
		a.bytes(path.Join(root, name), data)
		inGuest = append(inGuest, path.Join(root, name))
	}
	setup, err := json.Marshal(wire.Setup{
		Load: c.Load, DiskFS: c.DiskFS, HostRoot: c.HostRoot, Systemd: c.Systemd, HugePages: c.HugePages > 0, Files: inGuest,
	})
	if err != nil {
		return fmt.Errorf("encode setup: %w", err)
	}
	a.bytes(wire.Config, setup)
	if err := a.close(); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}
