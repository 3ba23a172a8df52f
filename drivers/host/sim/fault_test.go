package sim

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

func TestFaultIsValidated(t *testing.T) {
	k := New(DefaultNode())
	err := k.Inject(Fault{Label: "numfs", Errno: syscall.EIO})
	if err == nil || !strings.Contains(err.Error(), strings.Join(FaultLabels(), ", ")) {
		t.Errorf("an unknown label: %v", err)
	}
	for _, f := range []Fault{
		{Label: "mtu"},
		{Label: "mtu", Errno: syscall.EIO, When: "later"},
		{Label: "mtu", Errno: syscall.EIO, Nth: -1},
		{Label: "read", Errno: syscall.EIO, When: After},
		{Label: "links", Noop: true},
	} {
		if err := k.Inject(Fault{Label: "mtu", Errno: syscall.EIO}, f); err == nil {
			t.Errorf("%+v was taken", f)
		}
	}
	on(t, k).must(host.Call{Op: host.OpMTU, Index: 2, Number: 1400}) // none was armed
}

// call makes a write of a label that succeeds on a node with vfio loaded.
func callOf(label string) (prepare []host.Call, c host.Call) {
	switch label {
	case "load":
		return nil, loadCall("uio")
	case "unload":
		return nil, unload("igbvf")
	case "param":
		return nil, sysfs(vfioParam, "Y")
	case "autoprobe":
		return nil, sysfs(host.Attr(pf, "sriov_drivers_autoprobe"), "0")
	case "numvfs":
		return nil, sysfs(host.Attr(pf, "sriov_numvfs"), "0")
	case "override":
		return nil, override(vf0, "vfio-pci")
	case "unbind":
		return nil, unbind("igbvf", vf0)
	case "bind":
		return []host.Call{unbind("igbvf", vf0)}, bind("igbvf", vf0)
	case "probe":
		return []host.Call{unbind("igbvf", vf0)}, probe(vf0)
	case "mtu":
		return nil, host.Call{Op: host.OpMTU, Index: 2, Number: 1400}
	case "name":
		return nil, host.Call{Op: host.OpName, Index: 4, Value: "lan0"}
	case "mac":
		return nil, host.Call{Op: host.OpMAC, Index: 4, Value: "52:54:00:00:01:00"}
	case "altname":
		return nil, host.Call{Op: host.OpAltName, Index: 2, Value: "lan", Number: 1}
	case "channels":
		return nil, host.Call{Op: host.OpChannels, Index: 4, Value: "rx=0 tx=0 combined=1"}
	case "rings":
		return nil, host.Call{Op: host.OpRings, Index: 4, Value: "rx=512 mini=0 jumbo=0 tx=512"}
	case "feature":
		return nil, host.Call{Op: host.OpFeature, Index: 4, Value: "rx-gro"}
	case "vf.mac", "vf.vlan", "vf.trust", "vf.spoofchk", "vf.state", "vf.rate":
		return nil, host.Call{Op: host.Op(label), Target: drivers.Target(vf0), Index: 3, Value: map[string]string{
			"vf.mac": "52:54:00:00:01:00", "vf.vlan": "id=5 qos=0 protocol=802.1ad", "vf.trust": "on",
			"vf.spoofchk": "off", "vf.state": "disable", "vf.rate": "min=1 max=2",
		}[label]}
	case "replace":
		return nil, replace(pools, "{}", "")
	case "sync":
		return []host.Call{replace(pools, "{}", "")}, host.Call{Op: host.OpSync, Path: pools}
	default:
		return nil, host.Call{Op: host.OpAdmin, Index: 2, Number: 0}
	}
}

func TestFaultsOfEveryLabel(t *testing.T) {
	for _, label := range host.Labels() {
		t.Run(label, func(t *testing.T) {
			for _, tc := range []struct {
				name  string
				fault Fault
				errno syscall.Errno
				done  bool
			}{
				{"before", Fault{Errno: syscall.EIO}, syscall.EIO, false},
				{"after", Fault{Errno: syscall.EIO, When: After}, syscall.EIO, true},
				{"noop", Fault{Noop: true}, 0, false},
			} {
				k, h := withVFIO(t)
				limitVFs(t, k, VFLimits{})
				prepare, c := callOf(label)
				h.must(prepare...)
				was := k.String()
				tc.fault.Label = label
				if err := k.Inject(tc.fault); err != nil {
					t.Fatal(err)
				}
				h.wants(tc.errno, c)
				if done := k.String() != was; done != tc.done {
					t.Errorf("%s: done is %t:\n%s", tc.name, done, cmp.Diff(was, k.String()))
				}
				if tc.done {
					continue
				}
				h.wants(0, c) // once only
				if k.String() == was {
					t.Errorf("%s: nothing was done the second time", tc.name)
				}
			}
		})
	}
}

func TestFaultNthTimesPath(t *testing.T) {
	h := on(t, New(DefaultNode()))
	k := h.Host.(*Kernel)
	if err := k.Inject(Fault{Label: "override", Path: vf0, Nth: 2, Times: 2, Errno: syscall.EIO}); err != nil {
		t.Fatal(err)
	}
	h.must(override(vf1, "none"), override(vf0, "none"), override(vf1, "none"))
	h.wants(syscall.EIO, override(vf0, "none"))
	h.must(override(vf1, "none"))
	h.wants(syscall.EIO, override(vf0, "none"))
	h.must(override(vf0, "none"))
	if err := k.Inject(Fault{Label: "links", Times: -1, Errno: syscall.EINTR}, Fault{Label: "read", Path: "numvfs", Errno: syscall.EIO}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := k.Links(t.Context()); !errors.Is(err, syscall.EINTR) {
			t.Errorf("links: %v", err)
		}
	}
	h.reads("0x8086", host.Attr(pf, "vendor"))
	if _, err := k.Read(t.Context(), host.Attr(pf, "sriov_numvfs")); !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v", err)
	}
	h.reads("2", host.Attr(pf, "sriov_numvfs"))
	if err := k.ClearFaults(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Links(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestHangAndSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, h := withVFIO(t)
		if err := k.Inject(
			Fault{Label: "unbind", Hang: true},
			Fault{Label: "mtu", Slow: 2 * time.Second},
			Fault{Label: "read", Path: "vendor", Hang: true},
			Fault{Label: "read", Path: "class", Slow: time.Second},
		); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := k.Do(ctx, unbind("igbvf", vf0)); !errors.Is(err, drivers.ErrFenced) {
			t.Errorf("hung unbind: %v", err)
		}
		queued := pending(t.Context(), k, override(vf0, "none"))
		blocked(t, queued)
		k.Thaw()
		ended(t, queued, nil)
		h.bound(vf0, "")

		start := time.Now()
		h.must(host.Call{Op: host.OpMTU, Index: 2, Number: 1400})
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("slow write took %v", took)
		}
		h.read(host.Attr(pf, "class"))
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("slow read took %v", took-2*time.Second)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.Read(ctx, host.Attr(pf, "vendor")); !errors.Is(err, drivers.ErrUnanswered) {
			t.Errorf("hung read: %v", err)
		}
		// A slow write that nobody waits for any more is done all the same.
		if err := k.Inject(Fault{Label: "mtu", Slow: time.Minute}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := k.Do(ctx, host.Call{Op: host.OpMTU, Index: 2, Number: 1300}); !errors.Is(err, drivers.ErrFenced) {
			t.Errorf("slow write: %v", err)
		}
		h.reads("1400", "/sys/class/net/ens5/mtu")
		clone := k.Clone()
		time.Sleep(time.Hour) // of the bubble's own clock
		h.reads("1300", "/sys/class/net/ens5/mtu")
		on(t, clone).reads("1300", "/sys/class/net/ens5/mtu")
	})
}

// A crash engine sees every boundary, and can clone the kernel there.
func TestHookAndCrash(t *testing.T) {
	k, h := withVFIO(t)
	start := k.Writes()
	var points []string
	var states []*Kernel
	k.Hook = func(p Point) {
		points = append(points, p.Label+" "+string(p.When))
		states = append(states, k.Clone())
	}
	h.must(toVFIO(vf0)...)
	if err := k.Foreign(probe(vf1)); err != nil {
		t.Fatal(err)
	}
	want := []string{"override before", "override after", "unbind before", "unbind after", "probe before", "probe after"}
	if diff := cmp.Diff(want, points); diff != "" {
		t.Errorf("points (-want +got):\n%s", diff)
	}
	var bound []string
	for _, s := range states {
		link, _ := s.Readlink(t.Context(), host.Attr(vf0, "driver"))
		bound = append(bound, link[strings.LastIndex(link, "/")+1:])
	}
	if want := []string{"igbvf", "igbvf", "igbvf", "", "", "vfio-pci"}; !slices.Equal(bound, want) {
		t.Errorf("drivers at the boundaries are %q", bound)
	}
	if got := k.Writes() - start; got != 3 {
		t.Errorf("%d writes", got)
	}
	k.Hook = nil
	var crashes []string
	k.CrashFunc = func(p Point) { crashes = append(crashes, p.String()) }
	if err := k.Inject(Fault{Label: "override", Crash: true}, Fault{Label: "unbind", Crash: true, When: After}); err != nil {
		t.Fatal(err)
	}
	h.must(override(vf0, unset), unbind("vfio-pci", vf0))
	if want := []string{"before 9 override", "after 10 unbind"}; !slices.Equal(crashes, want) {
		t.Errorf("crashes are %q", crashes)
	}
}

func BenchmarkClone(b *testing.B) {
	k := New(DefaultNode())
	for b.Loop() {
		k.Clone()
	}
}

func BenchmarkRead(b *testing.B) {
	k := New(DefaultNode())
	for b.Loop() {
		if _, err := k.Read(b.Context(), host.Attr(vf0, "vendor")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReboot(b *testing.B) {
	k := New(DefaultNode())
	for b.Loop() {
		k.Reboot()
	}
}

func BenchmarkRebind(b *testing.B) {
	k := New(DefaultNode())
	for b.Loop() {
		for _, c := range []host.Call{unbind("igbvf", vf0), override(vf0, "igbvf"), probe(vf0), override(vf0, unset)} {
			if err := k.Do(b.Context(), c); err != nil {
				b.Fatal(err)
			}
		}
	}
}
