package guard_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eniagent/agent/guard"
	"eniagent/agent/plan"
	"eniagent/agent/source/kubelet"
	"eniagent/agent/source/kubelet/kubelettest"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	pf    = "0000:01:00.0"
	vf    = "0000:01:10.0"
	portA = "0000:02:00.0"
	portB = "0000:03:00.0"
)

// rig is a guard of a simulated node, and the kubelet that it asks.
type rig struct {
	t       *testing.T
	kernel  *sim.Kernel
	kubelet *kubelettest.Kubelet
	guard   *guard.Guard
}

func newRig(t *testing.T, c sim.Config) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "guard") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "kubelet.sock")
	k, err := kubelettest.Serve(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	c.Fence = true
	r := &rig{t: t, kernel: sim.New(c), kubelet: k}
	r.guard = guard.New(guard.Options{Host: r.kernel, Specs: all.New(r.kernel).Specs, Allocated: kubelet.New(socket, r.groups).Allocated})
	return r
}

func (r *rig) groups(ctx context.Context, number string) ([]drivers.Target, error) {
	return host.OpenableIn(ctx, r.kernel, number)
}

// allocate makes the functions those that a pod has.
func (r *rig) allocate(devices ...string) {
	r.kubelet.Run(kubelettest.Pod{Namespace: "media", Name: "encoder-0", Container: "dpdk", Resource: "intel.com/vf", Devices: devices})
}

// step asks about the unbind of a function from its driver.
func (r *rig) step(address string) error {
	r.t.Helper()
	return r.guard.MayStep(r.t.Context(), drivers.Step{
		Key: drivers.Key{Kind: dpdk.KindDriver, Target: drivers.Target(address)}, From: r.state(address), To: dpdk.Binding{}.State(),
	})
}

// drive asks about its way to no driver.
func (r *rig) drive(address string) error {
	r.t.Helper()
	key := drivers.Key{Kind: dpdk.KindDriver, Target: drivers.Target(address)}
	return r.guard.MayDrive(r.t.Context(), plan.Observed{key: drivers.Seen(r.state(address))}, plan.Goal{key: dpdk.Binding{}.State()})
}

func (r *rig) state(address string) drivers.State {
	r.t.Helper()
	o := dpdk.NewDriver(r.kernel).Observe(r.t.Context(), drivers.Target(address))
	if o.Presence != drivers.Present {
		r.t.Fatalf("%s is %s", address, o)
	}
	return o.State
}

// refused wants the refusal of a use, with all of want in it.
func (r *rig) refused(err error, want ...string) {
	r.t.Helper()
	var refusal *guard.Refusal
	if !errors.As(err, &refusal) || refusal.Rule != guard.InUse || !errors.Is(err, drivers.ErrHeld) {
		r.t.Fatalf("not held: %v", err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			r.t.Errorf("the refusal lacks %q: %v", w, err)
		}
	}
}

func (r *rig) allowed(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Errorf("refused: %v", err)
	}
}

// TestTheKubeletIsAskedAnewBeforeAStep: one answer does for all the goals of a
// pass, none for a step that was decided after it.
func TestTheKubeletIsAskedAnewBeforeAStep(t *testing.T) {
	r := newRig(t, sim.DefaultNode())
	began := time.Now()
	for range 20 {
		r.allowed(r.drive(portA))
	}
	if n := r.kubelet.Asked(); n > 1+int(time.Since(began)/(200*time.Millisecond)) {
		t.Errorf("the kubelet was asked %d times for 20 goals within %s", n, time.Since(began))
	}
	r.allocate(portA)
	r.refused(r.step(portA), "allocated to pod media/encoder-0", "when the pod ends")
	r.allowed(r.step(portB))
	r.allocate()
	r.allowed(r.step(portA))
}

// TestAnIOMMUGroupThatAPodHasIsHeld: a device id that is a group's number stands for
// what a program can open by it.
func TestAnIOMMUGroupThatAPodHasIsHeld(t *testing.T) {
	r := newRig(t, sim.DefaultNode())
	r.allocate("10", "11", "999")
	r.allowed(r.step(portA)) // on the kernel's driver nothing is opened by its group
	r.bind(portA)
	r.refused(r.step(portA), "allocated to pod media/encoder-0", "as IOMMU group 10", "kubectl delete pod -n media encoder-0")
	r.allocate("/dev/vfio/10")
	r.refused(r.drive(portA), "as IOMMU group 10")
	r.allocate("11")
	r.allowed(r.step(portA))
}

// TestWhatGoesWithAFunctionHoldsIt: a PF takes its VFs with it, and under
// vfio-pci a function takes its IOMMU group.
func TestWhatGoesWithAFunctionHoldsIt(t *testing.T) {
	c := sim.DefaultNode()
	for i := range c.Devices {
		if c.Devices[i].Address == portB {
			c.Devices[i].IOMMUGroup = "10" // portA's
		}
	}
	r := newRig(t, c)
	r.allocate(vf, portB)
	r.refused(r.step(pf), vf+", which goes with it, is allocated to pod media/encoder-0")
	r.allowed(r.step(portA)) // as long as both are the kernel's
	r.bind(portA)
	r.refused(r.step(portA), portB+", which goes with it")
	r.allocate(portA)
	r.allowed(r.step(pf))
}

// bind is another tool's.
func (r *rig) bind(address string) { r.bindFrom(address, "igb") }

func (r *rig) bindFrom(address, driver string) {
	r.t.Helper()
	for _, name := range []string{"vfio", "vfio_iommu_type1", "irqbypass", "vfio_pci_core", "vfio_pci"} {
		r.do(host.Call{Op: host.OpLoad, Target: drivers.Target("module/" + name), Path: r.module(name)})
	}
	for _, w := range [][2]string{
		{host.Attr(address, "driver_override"), "vfio-pci\n"}, {host.PCIDrivers + driver + "/unbind", address}, {host.PCIDrivers + "vfio-pci/bind", address},
	} {
		r.do(host.Call{Op: host.OpSysfs, Target: drivers.Target(address), Path: w[0], Value: w[1]})
	}
}

func (r *rig) do(c host.Call) {
	r.t.Helper()
	if err := r.kernel.Foreign(c); err != nil {
		r.t.Fatalf("%s: %v", c, err)
	}
}

func (r *rig) module(name string) string {
	c := sim.DefaultNode()
	for _, m := range c.Modules {
		if m.Name == name {
			return "/lib/modules/" + c.Release + "/" + m.Path
		}
	}
	r.t.Fatalf("no module %s", name)
	return ""
}

// TestAnOverrideThatIsNoNameIsAllocatedToo: what cannot be parsed is not free.
func TestAnOverrideThatIsNoNameIsAllocatedToo(t *testing.T) {
	r := newRig(t, sim.DefaultNode())
	r.do(host.Call{Op: host.OpSysfs, Target: portA, Path: host.Attr(portA, "driver_override"), Value: "two words\n"})
	r.allocate(portA)
	r.refused(r.step(portA), "allocated to pod media/encoder-0")
}

func TestAKubeletThatIsGoneHolds(t *testing.T) {
	r := newRig(t, sim.DefaultNode())
	r.kubelet.Stop()
	r.refused(r.drive(portA), "the kubelet does not say", "connection refused", `--pod-resources ""`)
	r.refused(r.step(portA), "the kubelet does not say")
}

// confined is a kernel that forbids a vfio group to be opened, as a container's
// device cgroup does, and shows so much of the processes.
type confined struct {
	*sim.Kernel
	errno     syscall.Errno
	namespace string
	hidden    string            // the process whose files are not shown
	links     map[string]string // open files, in the place of the kernel's own
}

func (c confined) Read(ctx context.Context, path string) (string, error) {
	if strings.HasPrefix(path, "/dev/vfio/") {
		return "", &os.PathError{Op: "open", Path: path, Err: c.errno}
	}
	return c.Kernel.Read(ctx, path)
}

func (c confined) Readlink(ctx context.Context, path string) (string, error) {
	if path == "/proc/1/ns/pid" {
		return c.namespace, nil
	}
	to, err := c.Kernel.Readlink(ctx, path)
	if as, ok := c.links[to]; ok {
		to = as
	}
	return to, err
}

func (c confined) List(ctx context.Context, path string) ([]string, error) {
	names, err := c.Kernel.List(ctx, path)
	switch {
	case path == "/proc" && c.hidden != "":
		names = append(names, c.hidden)
	case path == "/proc/"+c.hidden+"/fd":
		return nil, &os.PathError{Op: "open", Path: path, Err: syscall.EACCES}
	case strings.HasSuffix(path, portA+"/vfio-dev"):
		return []string{"vfio0"}, nil
	}
	return names, err
}

// TestInAContainerTheProcessesTellWhoHoldsAFunction: all of them, or the answer
// is no.
func TestInAContainerTheProcessesTellWhoHoldsAFunction(t *testing.T) {
	const every, some = "pid:[4026531836]", "pid:[4026532188]"
	for _, tc := range []struct {
		name string
		as   confined
		held bool
		want string // of the refusal; "" is none
	}{
		{"free", confined{errno: syscall.EPERM, namespace: every}, false, ""},
		{"held", confined{errno: syscall.EPERM, namespace: every}, true, "is held by"},
		{"held, the node's /dev is elsewhere", confined{errno: syscall.EPERM, namespace: every, links: map[string]string{"/dev/vfio/10": "/host/dev/vfio/10"}}, true, "is held by"},
		{"held by the device's own node", confined{errno: syscall.EPERM, namespace: every, links: map[string]string{"/dev/vfio/10": "/dev/vfio/devices/vfio0"}}, true, "is held by"},
		{"held, its node is deleted", confined{errno: syscall.EPERM, namespace: every, links: map[string]string{"/dev/vfio/10": "/dev/vfio/10 (deleted)"}}, true, "is held by"},
		{"another PID namespace", confined{errno: syscall.EPERM, namespace: some}, false, "cannot be asked"},
		{"a process that is hidden", confined{errno: syscall.EPERM, namespace: every, hidden: "4711"}, false, "cannot be asked"},
		{"no capability", confined{errno: syscall.EACCES, namespace: every}, false, "cannot be asked"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := sim.DefaultNode()
			for i := range c.Devices {
				if c.Devices[i].Address == portA {
					c.Devices[i].IOMMUGroup = "10"
				}
			}
			r := newRig(t, c)
			r.bind(portA)
			if tc.held {
				t.Cleanup(r.kernel.Hold(portA))
			}
			tc.as.Kernel = r.kernel
			r.guard = guard.New(guard.Options{Host: tc.as, Specs: all.New(r.kernel).Specs})
			err := r.step(portA)
			if tc.want == "" {
				r.allowed(err)
			} else {
				r.refused(err, tc.want)
			}
		})
	}
}

// TestWantedCountsOnlyIfItCanFollow: the other function of the group is wanted
// for a program as well, and may not leave its driver.
func TestWantedCountsOnlyIfItCanFollow(t *testing.T) {
	for name, tc := range map[string]struct {
		other, want string
	}{
		"it carries the default route": {manager, "it cannot follow: 0000:00:05.0: refused by management-path"},
		"a pod has it":                 {portB, "allocated to pod media/encoder-0"},
		"it may":                       {portB, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := sim.DefaultNode()
			for i := range c.Devices {
				if a := c.Devices[i].Address; a == portA || a == tc.other {
					c.Devices[i].IOMMUGroup = "10"
				}
			}
			k := sim.New(c)
			g := guard.New(guard.Options{
				Host: k, Specs: all.New(k).Specs, Wanted: func(drivers.Target) bool { return true },
				Allocated: func(context.Context, time.Time) (map[drivers.Target]string, error) {
					if name == "a pod has it" {
						return map[drivers.Target]string{portB: "pod media/encoder-0"}, nil
					}
					return map[drivers.Target]string{}, nil
				},
			})
			err := cut{dpdk.KindDriver, dpdk.Bound("igb"), dpdk.Bound("vfio-pci")}.ask(t, g, portA)
			var refusal *guard.Refusal
			if tc.want == "" && err != nil || tc.want != "" && (!errors.As(err, &refusal) || refusal.Rule != guard.Group || !errors.Is(err, drivers.ErrBarred) || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("want %q, got %v", tc.want, err)
			}
		})
	}
}
