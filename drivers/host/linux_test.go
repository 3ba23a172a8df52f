package host_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// tree makes files, directories ("x/") and links ("x -> y") below a root.
func tree(t testing.TB, entries map[string]string) host.Linux {
	t.Helper()
	root := t.TempDir()
	for name, text := range entries {
		file, target, isLink := strings.Cut(name, " -> ")
		full := filepath.Join(root, file)
		err := os.MkdirAll(filepath.Dir(full), 0o700)
		switch {
		case err != nil:
		case isLink:
			err = os.Symlink(target, full)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(full, 0o700)
		default:
			err = os.WriteFile(full, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return host.Linux{Root: root}
}

func TestLinuxReads(t *testing.T) {
	l, ctx := tree(t, map[string]string{
		"sys/a": "one\n", "sys/b": "two\n\n", "sys/empty": "", "sys/bare": "x", "sys/link -> a": "", "sys/dir/": "",
		"sys/large": strings.Repeat("x", 8<<20+1),
	}), t.Context()
	for path, want := range map[string]string{"/sys/a": "one", "/sys/b": "two\n", "/sys/empty": "", "/sys/bare": "x", "/sys/link": "one"} {
		if got, err := l.Read(ctx, path); got != want || err != nil {
			t.Errorf("read %s: %q, %v, want %q", path, got, err, want)
		}
	}
	if _, err := l.Read(ctx, "/sys/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read of nothing: %v", err)
	}
	if _, err := l.Read(ctx, "/sys/dir"); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("read of a directory: %v", err)
	}
	if s, err := l.Read(ctx, "/sys/large"); err == nil || s != "" {
		t.Errorf("read of too much: %d bytes, %v", len(s), err)
	}
	if got, err := l.Readlink(ctx, "/sys/link"); got != "a" || err != nil {
		t.Errorf("readlink: %q, %v", got, err)
	}
	if _, err := l.Readlink(ctx, "/sys/a"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("readlink of a file: %v", err)
	}
	if got, err := l.List(ctx, "/sys"); err != nil || !slices.Equal(got, []string{"a", "b", "bare", "dir", "empty", "large", "link"}) {
		t.Errorf("list: %q, %v", got, err)
	}
	if _, err := l.List(ctx, "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("list of nothing: %v", err)
	}
	a, err := l.Inode(ctx, "/sys/a")
	b, err2 := l.Inode(ctx, "/sys/link")
	if a == 0 || a != b || err != nil || err2 != nil {
		t.Errorf("inodes %d, %d, %v, %v", a, b, err, err2)
	}
	if _, err := l.Inode(ctx, "/sys/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("inode of nothing: %v", err)
	}
}

func TestIdentify(t *testing.T) {
	dir := "sys/bus/pci/devices/0000:01:00.0/"
	base := map[string]string{
		dir + "vendor": "0x8086\n", dir + "device": "0x10c9\n", dir + "subsystem_vendor": "0x8086\n", dir + "subsystem_device": "0xa03c\n",
		dir + "net/eth0/ifindex": "3\n", dir + "net/eth0/address": "52:54:00:00:00:01\n",
	}
	for _, tc := range []struct{ assigned, want string }{
		{"", "52:54:00:00:00:01"},    // an attribute that old kernels lack
		{"0\n", "52:54:00:00:00:01"}, // burned in
		{"1\n", ""},                  // random
		{"2\n", ""},                  // stolen from another device
		{"3\n", ""},                  // set: by a bond, or by an operator
	} {
		if base[dir+"net/eth0/addr_assign_type"] = tc.assigned; tc.assigned == "" {
			delete(base, dir+"net/eth0/addr_assign_type")
		}
		l := tree(t, base)
		id, err := host.Identify(t.Context(), l, "0000:01:00.0")
		if err != nil {
			t.Fatal(err)
		}
		inode, _ := l.Inode(t.Context(), "/"+dir)
		want := drivers.Identity{
			Vendor: "0x8086", Device: "0x10c9", Subsystem: "0x8086:0xa03c", Incarnation: inode, Netdev: 3, MAC: tc.want,
		}
		if id != want {
			t.Errorf("addr_assign_type %q: %+v, want %+v", tc.assigned, id, want)
		}
	}
	if _, err := host.Identify(t.Context(), tree(t, nil), "0000:01:00.0"); !errors.Is(err, drivers.ErrGone) {
		t.Errorf("nothing there: %v, want ErrGone", err)
	}
	if id, err := host.Identify(t.Context(), tree(t, nil), "module/vfio"); err != nil || id != (drivers.Identity{}) {
		t.Errorf("a module: %+v, %v", id, err)
	}
}

func TestDriverOf(t *testing.T) {
	l := tree(t, map[string]string{
		"sys/bus/pci/devices/0000:01:00.0/driver -> ../../../bus/pci/drivers/igb": "", "sys/bus/pci/devices/0000:02:00.0/": "",
	})
	for address, want := range map[string]string{"0000:01:00.0": "igb", "0000:02:00.0": ""} {
		if got, err := host.DriverOf(t.Context(), l, address); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", address, got, err, want)
		}
	}
	if _, err := host.DriverOf(t.Context(), l, "0000:03:00.0"); !errors.Is(err, drivers.ErrGone) {
		t.Errorf("nothing there: %v, want ErrGone", err)
	}
}

func TestWriteOnce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "attr")
	if err := os.WriteFile(file, []byte("123456"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := host.WriteOnce(file, "ab\n"); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(file); string(b) != "ab\n456" || err != nil {
		t.Errorf("%q, %v: sysfs files are not truncated", b, err)
	}
	if err := os.Symlink(file, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		filepath.Join(dir, "none"): syscall.ENOENT,
		filepath.Join(dir, "link"): syscall.ELOOP,
		dir:                        syscall.EISDIR,
		"/dev/full":                syscall.ENOSPC,
		filepath.Join(file, "x"):   syscall.ENOTDIR,
	} {
		err := host.WriteOnce(path, "x")
		var e *fs.PathError
		if !errors.Is(err, want) || !errors.As(err, &e) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "none")); err == nil {
		t.Error("a file was made")
	}
}

func TestLinuxUnknownOperation(t *testing.T) {
	if err := (host.Linux{}).Do(t.Context(), host.Call{Op: "rm"}); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("%v, want EOPNOTSUPP", err)
	}
}

func packed(t testing.TB, suffix string, image []byte) *os.File {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch suffix {
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	case ".gz":
		w = gzip.NewWriter(&b)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(image); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return fileOf(t, "m.ko"+suffix, b.Bytes())
}

func fileOf(t testing.TB, name string, content []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// maxModule is the bound in these tests.
const maxModule = 1 << 20

func TestDecompress(t *testing.T) {
	image := bytes.Repeat([]byte("\x7fELF module "), 50000)
	for _, suffix := range []string{".xz", ".zst", ".gz"} {
		f := packed(t, suffix, image)
		for range 2 { // finit_module may have read the file before
			got, err := host.Decompress(f, maxModule)
			if err != nil || !bytes.Equal(got, image) {
				t.Errorf("%s: %d bytes, %v, want %d", suffix, len(got), err, len(image))
			}
		}
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := host.Decompress(fileOf(t, "m.ko"+suffix, b[:len(b)-7]), maxModule); err == nil {
			t.Errorf("%s: cut off and no error", suffix)
		}
		if _, err := host.Decompress(fileOf(t, "m.ko"+suffix, []byte("rubbish")), maxModule); err == nil {
			t.Errorf("%s: rubbish and no error", suffix)
		}
	}
	if _, err := host.Decompress(fileOf(t, "m.ko.bz2", nil), maxModule); err == nil {
		t.Error("an unknown compression and no error")
	}
}

// TestDecompressBound is a module that would fill the memory.
func TestDecompressBound(t *testing.T) {
	for _, suffix := range []string{".xz", ".zst", ".gz"} {
		f := packed(t, suffix, make([]byte, maxModule))
		if b, err := host.Decompress(f, maxModule); err != nil || len(b) != maxModule {
			t.Errorf("%s of the largest size: %d bytes, %v", suffix, len(b), err)
		}
		f = packed(t, suffix, make([]byte, maxModule+1))
		if _, err := host.Decompress(f, maxModule); err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s of one byte more: %v", suffix, err)
		}
	}
}

func TestLastPCI(t *testing.T) {
	for path, want := range map[string]drivers.Target{
		"/devices/pci0000:00/0000:00:1c.0/0000:01:10.0/net/eth1": "0000:01:10.0",
		"/devices/pci0000:00/0000:00:06.0/virtio0/net/ens6":      "0000:00:06.0",
		"../../devices/pci0000:00/0000:00:05.0/net/ens5":         "0000:00:05.0",
		"../../devices/virtual/net/lo":                           "",
		"/devices/pci10000:e0/10000:e0:00.0":                     "10000:e0:00.0",
		"pci0000:00":                                             "",
		"":                                                       "",
	} {
		if got := host.LastPCI(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

func TestParseUevent(t *testing.T) {
	for _, tc := range []struct {
		message string
		want    host.Event
		ok      bool
	}{
		{"bind@/devices/pci0000:00/0000:00:05.0\x00ACTION=bind\x00SUBSYSTEM=pci\x00", host.Event{Target: "0000:00:05.0", What: "bind"}, true},
		{"add@/devices/pci0000:00/0000:00:05.0/net/ens5\x00SUBSYSTEM=net\x00", host.Event{Target: "0000:00:05.0", What: host.EventLink}, true},
		{"add@/devices/virtual/net/veth0\x00SUBSYSTEM=net", host.Event{What: host.EventLink}, false},
		{"add@/bus/pci/drivers/vfio-pci\x00SUBSYSTEM=drivers\x00", host.Event{Driver: "vfio-pci", What: "add"}, true},
		{"add@/bus/usb/drivers/hub\x00SUBSYSTEM=drivers\x00", host.Event{What: "add"}, false},
		{"add@/module/vfio\x00SUBSYSTEM=module\x00", host.Event{Target: "module/vfio", What: "add"}, true},
		{"add@/devices/virtual/vfio/8\x00SUBSYSTEM=vfio\x00", host.Event{What: "add"}, false},
		{"add@/devices/virtual/block/loop0\x00SUBSYSTEM=block\x00", host.Event{What: "add"}, false},
		{"add@/devices/x\x00", host.Event{What: "add"}, false},
		{"libudev\x00\xfe\xed\xca\xfe", host.Event{}, false},
		{"", host.Event{}, false},
		{"\x00\x00", host.Event{}, false},
	} {
		got, ok := host.ParseUevent([]byte(tc.message))
		if got != tc.want || ok != tc.ok {
			t.Errorf("%q: %+v, %t, want %+v, %t", tc.message, got, ok, tc.want, tc.ok)
		}
	}
}
