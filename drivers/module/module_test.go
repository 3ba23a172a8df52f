package module

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// fakeReader is a file system of a few files; fail has the errors of others.
type fakeReader struct {
	files map[string]string
	fail  map[string]error
}

func (fakeReader) Children(context.Context) ([]host.Child, error) { return nil, nil }

func (f fakeReader) Read(_ context.Context, path string) (string, error) {
	if err := f.fail[path]; err != nil {
		return "", err
	}
	s, ok := f.files[path]
	if !ok {
		return "", fs.ErrNotExist
	}
	return s, nil
}

func (f fakeReader) Inode(_ context.Context, path string) (uint64, error) {
	if err := f.fail[path]; err != nil {
		return 0, err
	}
	for file := range f.files {
		if file == path || strings.HasPrefix(file, path+"/") {
			return 1, nil
		}
	}
	return 0, fs.ErrNotExist
}

func (fakeReader) File(context.Context, string) (string, error)     { return "", fs.ErrNotExist }
func (fakeReader) Readlink(context.Context, string) (string, error) { return "", fs.ErrNotExist }
func (fakeReader) List(context.Context, string) ([]string, error)   { return nil, fs.ErrNotExist }
func (fakeReader) Network(context.Context, []string) (host.Network, error) {
	return host.Network{}, nil
}

func (fakeReader) Settings(context.Context, int, host.Setting) (host.Settings, error) {
	return host.Settings{}, syscall.EOPNOTSUPP
}

func (fakeReader) Links(context.Context) ([]host.Link, error)       { return nil, nil }
func (fakeReader) Do(context.Context, host.Call) error              { return syscall.ENOSYS }
func (fakeReader) Watch(context.Context) (<-chan host.Event, error) { return nil, nil }
func (fakeReader) Fenced(drivers.Target) (bool, error)              { return false, nil }

const (
	release = "6.1.0"
	dir     = "/lib/modules/" + release + "/"
)

func installed(dep, softdep, builtin string) fakeReader {
	files := map[string]string{"/proc/sys/kernel/osrelease": release, dir + "modules.dep": dep}
	if softdep != "" {
		files[dir+"modules.softdep"] = softdep
	}
	if builtin != "" {
		files[dir+"modules.builtin"] = builtin
	}
	return fakeReader{files: files, fail: map[string]error{}}
}

const vfioDep = `kernel/drivers/vfio/vfio.ko.xz:
kernel/drivers/vfio/vfio_iommu_type1.ko.zst: kernel/drivers/vfio/vfio.ko.xz
kernel/virt/lib/irqbypass.ko.gz:
kernel/drivers/vfio/pci/vfio-pci-core.ko: kernel/virt/lib/irqbypass.ko.gz kernel/drivers/vfio/vfio.ko.xz
kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/pci/vfio-pci-core.ko kernel/virt/lib/irqbypass.ko.gz kernel/drivers/vfio/vfio.ko.xz`

func TestClosure(t *testing.T) {
	for _, tc := range []struct {
		name, dep, softdep, builtin, module string
		want                                string
		err                                 error
	}{
		{
			name: "dependencies before, soft ones after", module: "vfio-pci", dep: vfioDep, softdep: "# soft\nsoftdep vfio post: vfio_iommu_type1",
			want: "vfio vfio_iommu_type1 irqbypass vfio_pci_core vfio_pci",
		},
		{name: "no softdep file", module: "vfio_pci", dep: vfioDep, want: "vfio irqbypass vfio_pci_core vfio_pci"},
		{name: "built in", module: "vfio-pci", dep: vfioDep, builtin: "kernel/drivers/vfio/pci/vfio-pci.ko", want: ""},
		{
			name: "a dependency is built in", module: "b", dep: "b.ko: \n", softdep: "softdep b pre: a", builtin: "kernel/a.ko", want: "b",
		},
		{name: "missing", module: "igb_uio", dep: vfioDep, err: drivers.ErrUnsupported},
		{name: "missing soft ones", module: "b", dep: "b.ko:", softdep: "softdep b pre: x y post: z", want: "b"},
		{name: "soft ones on both sides", module: "b", dep: "a.ko:\nb.ko:\nc.ko:", softdep: "softdep b pre: a post: c", want: "a b c"},
		{name: "a ring of dependencies", module: "a", dep: "a.ko: b.ko\nb.ko: a.ko", want: "b a"},
		{name: "a ring of soft ones", module: "a", dep: "a.ko:\nb.ko:", softdep: "softdep a pre: b\nsoftdep b pre: a", want: "b a"},
		{name: "itself", module: "a", dep: "a.ko: a.ko", want: "a"},
		{name: "noise", module: "a", dep: "no colon\n\n:\na.ko:", softdep: "softdep\nalias a b\nsoftdep x", want: "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Closure(t.Context(), installed(tc.dep, tc.softdep, tc.builtin), tc.module)
			if !errors.Is(err, tc.err) {
				t.Fatalf("%v, want %v", err, tc.err)
			}
			var names []string
			for _, target := range got {
				name, _ := target.ModuleName()
				names = append(names, name)
			}
			if s := strings.Join(names, " "); s != tc.want {
				t.Errorf("load %q, want %q", s, tc.want)
			}
		})
	}
}

// TestClosureUnread: an index that cannot be read is not one that is not there.
func TestClosureUnread(t *testing.T) {
	for _, file := range []string{"modules.dep", "modules.softdep", "modules.builtin"} {
		r := installed("a.ko:", "", "")
		r.fail[dir+file] = syscall.EIO
		if _, err := Closure(t.Context(), r, "a"); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s cannot be read: %v, want EIO", file, err)
		}
	}
}

func TestObserve(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		fail  map[string]error
		want  drivers.Observation
	}{
		{name: "live", files: map[string]string{"/sys/module/vfio/initstate": "live"}, want: drivers.Seen(Loaded)},
		{name: "coming", files: map[string]string{"/sys/module/vfio/initstate": "coming"}, want: drivers.Observation{Presence: drivers.Unobservable}},
		{name: "going", files: map[string]string{"/sys/module/vfio/initstate": "going"}, want: drivers.Observation{Presence: drivers.Unobservable}},
		{name: "absent", want: drivers.Seen(Absent)},
		{name: "built in, with parameters", files: map[string]string{"/sys/module/vfio/parameters/x": "N"}, want: drivers.Seen(Loaded)},
		{name: "built in, without", files: map[string]string{dir + "modules.builtin": "kernel/vfio.ko"}, want: drivers.Seen(Loaded)},
		{name: "no module directory", files: map[string]string{dir + "modules.dep": ""}, want: drivers.Seen(Absent)},
		{name: "initstate fails", fail: map[string]error{"/sys/module/vfio/initstate": syscall.EIO}, want: drivers.Observation{Presence: drivers.Unobservable}},
		{name: "directory fails", fail: map[string]error{"/sys/module/vfio": syscall.EIO}, want: drivers.Observation{Presence: drivers.Unobservable}},
		{name: "index fails", fail: map[string]error{dir + "modules.builtin": syscall.EIO}, want: drivers.Observation{Presence: drivers.Unobservable}},
		{name: "no index", fail: map[string]error{dir + "modules.dep": fs.ErrNotExist}, want: drivers.Seen(Absent)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := installed("vfio.ko:", "", "")
			for file, text := range tc.files {
				r.files[file] = text
			}
			for file, err := range tc.fail {
				r.fail[file] = err
			}
			got := New(r).Observe(t.Context(), "module/vfio")
			if got.Presence != tc.want.Presence || got.State != tc.want.State {
				t.Errorf("observed %q (%v), want %q", got, got.Err, tc.want)
			}
			if (got.Presence == drivers.Unobservable) != (got.Err != nil) {
				t.Errorf("unobservable without a reason: %+v", got)
			}
		})
	}
}

// TestComing is a module whose load has not come back.
func TestComing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the deadline comes when nothing else can happen
		k := sim.New(sim.DefaultNode())
		if err := k.Inject(sim.Fault{Label: "load", Hang: true}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := New(k).Apply(ctx, "module/uio", Loaded); !errors.Is(err, drivers.ErrFenced) {
			t.Fatalf("%v, want ErrFenced", err)
		}
		if fenced, err := k.Fenced("module/uio"); !fenced || err != nil {
			t.Errorf("fenced %t, %v", fenced, err)
		}
		k.Thaw()
		if got := New(k).Observe(t.Context(), "module/uio"); !got.Is(Loaded) {
			t.Errorf("after all: %q", got)
		}
	})
}

// TestSomebodyElseLoads is a module that comes between the look and the load.
func TestSomebodyElseLoads(t *testing.T) {
	k := sim.New(sim.DefaultNode())
	k.Hook = func(p sim.Point) {
		if p.When == sim.Before {
			_ = k.Foreign(p.Call)
		}
	}
	if err := New(k).Apply(t.Context(), "module/uio", Loaded); err != nil {
		t.Errorf("EEXIST: %v, want nil", err)
	}
}

func TestRemedies(t *testing.T) {
	for _, tc := range []struct {
		to     drivers.State
		errno  syscall.Errno
		remedy string
	}{
		{Loaded, syscall.EPERM, "CAP_SYS_MODULE"},
		{Loaded, syscall.EKEYREJECTED, "signed"},
		{Loaded, syscall.EBADMSG, "signed"},
		{Loaded, syscall.ENOENT, "symbol"},
		{Loaded, syscall.ENOEXEC, "another kernel"},
		{Loaded, syscall.EIO, ""},
		{Absent, syscall.ENOENT, "built into the kernel"},
		{Absent, syscall.EWOULDBLOCK, "in use"},
		{Absent, syscall.EBUSY, "in use"},
	} {
		k := sim.New(sim.DefaultNode())
		if tc.to == Absent {
			if err := New(k).Apply(t.Context(), "module/uio", Loaded); err != nil {
				t.Fatal(err)
			}
		}
		label := map[drivers.State]string{Loaded: "load", Absent: "unload"}[tc.to]
		if err := k.Inject(sim.Fault{Label: label, Errno: tc.errno}); err != nil {
			t.Fatal(err)
		}
		var e *drivers.Error
		err := New(k).Apply(t.Context(), "module/uio", tc.to)
		if !errors.As(err, &e) || !errors.Is(err, tc.errno) || e.Do != label {
			t.Errorf("%s %v: %v", label, tc.errno, err)
			continue
		}
		if !strings.Contains(e.Remedy, tc.remedy) || (tc.remedy == "") != (e.Remedy == "") {
			t.Errorf("%s %v: the remedy is %q, want %q", label, tc.errno, e.Remedy, tc.remedy)
		}
	}
}

func TestMissingModule(t *testing.T) {
	k := sim.New(sim.DefaultNode())
	if err := New(k).Apply(t.Context(), "module/nosuch", Loaded); !errors.Is(err, drivers.ErrUnsupported) {
		t.Errorf("%v, want ErrUnsupported", err)
	}
}

// TestOrderLoads loads every module of the node in the order that Closure has.
func TestOrderLoads(t *testing.T) {
	for _, m := range sim.DefaultNode().Modules {
		k := sim.New(sim.DefaultNode())
		order, err := Closure(t.Context(), k, m.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range order {
			if err := New(k).Apply(t.Context(), target, Loaded); err != nil {
				t.Errorf("closure of %s is %s: %v", m.Name, order, err)
			}
		}
		if slices.Contains(order, "module/vfio") && !slices.Contains(order, "module/vfio_iommu_type1") {
			t.Errorf("closure of %s has no vfio_iommu_type1: %s", m.Name, order)
		}
	}
}

// TestUnloadSparesDevices: the kernel would unload a driver from under its
// devices.
func TestUnloadSparesDevices(t *testing.T) {
	k := sim.New(sim.DefaultNode())
	before := k.String()
	err := New(k).Apply(t.Context(), "module/ena", Absent)
	if !errors.Is(err, drivers.ErrRefused) || !strings.Contains(err.Error(), "ena has device 0000:00:05.0") {
		t.Errorf("%v, want it refused for its device", err)
	}
	if k.String() != before || k.Writes() != 0 {
		t.Errorf("it was written all the same:\n%s", k)
	}
	unread := sim.Fault{Label: sim.LabelRead, Path: "/sys/bus/pci/drivers/ena", Errno: syscall.EIO}
	if err := k.Inject(unread); err != nil {
		t.Fatal(err)
	}
	if err := New(k).Apply(t.Context(), "module/ena", Absent); !errors.Is(err, syscall.EIO) || k.Writes() != 0 {
		t.Errorf("%v, %d writes, although its devices could not be read", err, k.Writes())
	}
}
