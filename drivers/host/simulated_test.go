package host_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// simulated is a pool over a simulated kernel in a file, as --simulate has it.
func simulated(t testing.TB) (*poolRig, *sim.File) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "sim")
	c := sim.DefaultNode()
	for i := range c.Modules {
		c.Modules[i].Boot = c.Modules[i].Boot || c.Modules[i].Name == "vfio_pci"
	}
	if err := sim.Create(path, c); err != nil {
		t.Fatal(err)
	}
	f, err := sim.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	r := newPool(t, dir)
	r.Kernel = f
	return r, f
}

// TestUnbindOfHeldFunction is the hang that the pool is for: the unbind of a
// vfio function that a process holds open.
func TestUnbindOfHeldFunction(t *testing.T) {
	r, f := simulated(t)
	d := dpdk.NewDriver(r)
	if err := d.Apply(t.Context(), vf0, dpdk.Bound("vfio-pci")); err != nil {
		t.Fatal(err)
	}
	if err := f.Hold(string(vf0), os.Getpid()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- d.Apply(ctx, vf0, dpdk.Bound("igbvf")) }()
	eventually(t, "the unbind hangs", func() bool { return strings.Contains(f.String(), "leaving") })
	if !held(t, r.fences, vf0) {
		t.Error("nobody holds the fence")
	}
	cancel()
	if err := <-done; !errors.Is(err, drivers.ErrFenced) {
		t.Errorf("%v, want ErrFenced", err)
	}
	// The driver link is gone already, and would lie.
	if o := d.Observe(t.Context(), vf0); o.Presence != drivers.Unobservable || !errors.Is(o.Err, drivers.ErrFenced) {
		t.Errorf("observed %q (%v), want fenced", o, o.Err)
	}
	if err := d.Apply(t.Context(), vf1, dpdk.Bound("vfio-pci")); err != nil {
		t.Errorf("another target: %v", err)
	}
	if err := f.Release(string(vf0), os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if e := <-r.returned; e.target != vf0 || e.what != "unbind" || e.err != nil {
		t.Errorf("came back as %+v", e)
	}
	if o := d.Observe(t.Context(), vf0); !o.Is("driver=- override=-") {
		t.Errorf("after the late completion %q (%v)", o, o.Err)
	}
	if err := d.Apply(t.Context(), vf0, dpdk.Bound("igbvf")); err != nil {
		t.Error(err)
	}
}

// TestKernelErrorsThroughPool holds the errnos of a bind against those without
// a pool.
func TestKernelErrorsThroughPool(t *testing.T) {
	r, f := simulated(t)
	for _, c := range []host.Call{
		sysfs(vf0, "/sys/bus/pci/drivers/nosuch/bind", string(vf0)),
		sysfs(vf0, "/sys/bus/pci/drivers/vfio-pci/bind", string(vf0)),
		sysfs(vf0, "/sys/bus/pci/drivers/igbvf/bind", string(vf0)),
		{Op: host.OpMTU, Target: vf0, Index: 4711, Number: 1500},
		{Op: host.OpLoad, Target: "module/x", Path: "/lib/modules/6.1/x.ko"},
		{Op: host.OpUnload, Target: "module/vfio", Value: "vfio"},
	} {
		direct, through := f.Do(t.Context(), c), r.Do(t.Context(), c)
		if direct == nil || through == nil || direct.Error() != through.Error() || !errors.Is(through, errors.Unwrap(direct)) {
			t.Errorf("%s: %v, through the pool %v", c, direct, through)
		}
	}
}
