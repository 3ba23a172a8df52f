package sim

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

func TestMain(m *testing.M) {
	if actAsChild() {
		return
	}
	goleak.VerifyTestMain(m)
}

// The functions of DefaultNode that tests speak of.
const (
	pf    = "0000:01:00.0"
	pf2   = "0000:02:00.0"
	vf0   = "0000:01:10.0"
	vf1   = "0000:01:10.2"
	mgmt  = "0000:00:05.0"
	noFn  = "0000:99:00.0"
	unset = "\n" // clears an override
)

// hands is a host with short words for the writes of these tests.
type hands struct {
	*testing.T
	host.Host
}

func on(t *testing.T, h host.Host) hands { return hands{t, h} }

func sysfs(path, value string) host.Call {
	return host.Call{Op: host.OpSysfs, Target: drivers.Target(strings.TrimSpace(value)), Path: path, Value: value}
}

func override(addr, value string) host.Call {
	return host.Call{Op: host.OpSysfs, Target: drivers.Target(addr), Path: host.Attr(addr, "driver_override"), Value: value}
}

func unbind(driver, addr string) host.Call { return sysfs(host.PCIDrivers+driver+"/unbind", addr) }
func bind(driver, addr string) host.Call   { return sysfs(host.PCIDrivers+driver+"/bind", addr) }
func probe(addr string) host.Call          { return sysfs(host.DriversProbe, addr) }

const vfioParam = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"

// must makes writes that succeed.
func (h hands) must(calls ...host.Call) {
	h.Helper()
	for _, c := range calls {
		if err := h.Do(context.Background(), c); err != nil {
			h.Fatalf("%s: %v", c, err)
		}
	}
}

// wants makes a write that ends with an errno, or with success when it is 0.
func (h hands) wants(errno syscall.Errno, c host.Call) {
	h.Helper()
	err := h.Do(context.Background(), c)
	if errno == 0 && err != nil || errno != 0 && !errors.Is(err, errno) {
		h.Errorf("%s: %v, want errno %d (%v)", c, err, int(errno), errno)
	}
}

func (h hands) read(path string) string {
	h.Helper()
	s, err := h.Read(context.Background(), path)
	if err != nil {
		h.Fatalf("read %s: %v", path, err)
	}
	return s
}

func (h hands) reads(want, path string) {
	h.Helper()
	if got := h.read(path); got != want {
		h.Errorf("%s is %q, want %q", path, got, want)
	}
}

func (h hands) missing(path string) {
	h.Helper()
	if _, err := h.Inode(context.Background(), path); !errors.Is(err, fs.ErrNotExist) {
		h.Errorf("%s: %v, want that it does not exist", path, err)
	}
}

// bound checks a function's driver; "" is none.
func (h hands) bound(addr, want string) {
	h.Helper()
	link, err := h.Readlink(context.Background(), host.Attr(addr, "driver"))
	got := link[strings.LastIndex(link, "/")+1:]
	if want == "" && errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil || got != want {
		h.Errorf("driver of %s is %q (%v), want %q", addr, got, err, want)
	}
}

func (h hands) lists(path string, want ...string) {
	h.Helper()
	got, err := h.List(context.Background(), path)
	if err != nil {
		h.Fatalf("list %s: %v", path, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		h.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// link is the netdev of a function.
func (h hands) link(addr string) (host.Link, bool) {
	h.Helper()
	links, err := h.Links(context.Background())
	if err != nil {
		h.Fatal(err)
	}
	for _, l := range links {
		if l.Bus == addr {
			return l, true
		}
	}
	return host.Link{}, false
}

func load(k hands, names ...string) {
	k.Helper()
	for _, name := range names {
		k.must(loadCall(name))
	}
}

func loadCall(name string) host.Call {
	for _, m := range modules() {
		if m.Name == name {
			return host.Call{Op: host.OpLoad, Target: drivers.Target("module/" + name), Path: "/lib/modules/" + DefaultNode().Release + "/" + m.Path}
		}
	}
	return host.Call{Op: host.OpLoad, Path: "/lib/modules/none/" + name}
}

func unload(name string) host.Call {
	return host.Call{Op: host.OpUnload, Target: drivers.Target("module/" + name), Value: name}
}

// withVFIO is a default node with vfio-pci loaded.
func withVFIO(t *testing.T) (*Kernel, hands) {
	t.Helper()
	k := New(DefaultNode())
	h := on(t, k)
	load(h, "vfio", "vfio_iommu_type1", "irqbypass", "vfio_pci_core", "vfio_pci")
	return k, h
}

// toVFIO is the way that an agent takes a VF.
func toVFIO(vf string) []host.Call {
	return []host.Call{override(vf, "vfio-pci"), unbind("igbvf", vf), probe(vf)}
}
