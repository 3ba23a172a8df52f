package sim

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// pending makes a write in the background and returns when it is blocked in
// the kernel; the result comes when it is over.
func pending(ctx context.Context, k *Kernel, c host.Call) <-chan error {
	done := make(chan error, 1)
	go func() { done <- k.Do(ctx, c) }()
	synctest.Wait()
	return done
}

func blocked(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Fatalf("it did not block: %v", err)
	default:
	}
}

func ended(t *testing.T, done <-chan error, want error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-done:
		if !errors.Is(err, want) {
			t.Errorf("it ended with %v, want %v", err, want)
		}
	default:
		t.Error("it is still blocked")
	}
}

// heldVFIO is a node whose vf0 is on vfio-pci and held by a process.
func heldVFIO(t *testing.T) (k *Kernel, h hands, release func()) {
	t.Helper()
	k, h = withVFIO(t)
	h.must(toVFIO(vf0)...)
	return k, h, k.Hold(vf0)
}

func TestHeldUnbindBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, h, release := heldVFIO(t)
		if _, err := h.Read(t.Context(), "/dev/vfio/8"); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("open of a held group: %v", err)
		}
		first := pending(t.Context(), k, unbind("vfio-pci", vf0))
		blocked(t, first)
		h.bound(vf0, "") // the link lies
		h.missing(host.PCIDrivers + "vfio-pci/" + vf0)
		h.lists("/dev/vfio", "8", "vfio")
		if fenced, _ := k.Fenced(vf0); !fenced {
			t.Error("a blocked function is not fenced")
		}
		if fenced, _ := k.Fenced(vf1); fenced {
			t.Error("another function is fenced")
		}
		// Who looks without the lock still sees it bound.
		h.wants(0, probe(vf0))
		h.wants(syscall.ENODEV, unbind("igbvf", vf0))
		// All that takes the lock queues.
		cleared := pending(t.Context(), k, override(vf0, unset))
		blocked(t, cleared)
		read := make(chan error, 1)
		go func() { _, err := k.Read(t.Context(), host.Attr(vf0, "driver_override")); read <- err }()
		synctest.Wait()
		blocked(t, read)
		h.bound(vf1, "igbvf")
		h.must(unbind("igbvf", vf1)) // another function's lock is free
		release()
		ended(t, first, nil)
		ended(t, cleared, nil)
		ended(t, read, nil)
		h.bound(vf0, "")
		h.reads("(null)", host.Attr(vf0, "driver_override"))
		h.lists("/dev/vfio", "vfio")
		if fenced, _ := k.Fenced(vf0); fenced {
			t.Error("still fenced")
		}
	})
}

// The last write to queue wins, whatever it was for.
func TestQueuedBindWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, h, release := heldVFIO(t)
		a := pending(t.Context(), k, unbind("vfio-pci", vf0))
		b := pending(t.Context(), k, bind("vfio-pci", vf0))
		c := pending(t.Context(), k, bind("vfio-pci", vf0))
		blocked(t, b)
		release()
		ended(t, a, nil)
		ended(t, b, nil)
		ended(t, c, syscall.EBUSY)
		h.bound(vf0, "vfio-pci")
	})
}

func TestQueuedUnbindTakesWhateverIsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, h, release := heldVFIO(t)
		calls := []host.Call{
			unbind("vfio-pci", vf0), override(vf0, "none"), override(vf0, "vfio-pci"), bind("vfio-pci", vf0), unbind("vfio-pci", vf0),
		}
		var done []<-chan error
		for _, c := range calls {
			done = append(done, pending(t.Context(), k, c))
		}
		release()
		for _, d := range done {
			ended(t, d, nil)
		}
		h.bound(vf0, "")
	})
}

func TestAbandonedWriteCompletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, h, release := heldVFIO(t)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := k.Do(ctx, unbind("vfio-pci", vf0))
		if !errors.Is(err, drivers.ErrFenced) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("past its deadline: %v", err)
		}
		rctx, rcancel := context.WithTimeout(t.Context(), time.Second)
		defer rcancel()
		if _, err := k.Read(rctx, host.Attr(vf0, "driver_override")); !errors.Is(err, drivers.ErrUnanswered) {
			t.Errorf("read past its deadline: %v", err)
		}
		crashed := k.Clone() // as after kill -9 of the agent
		if fenced, _ := crashed.Fenced(vf0); !fenced {
			t.Error("the write died with the agent")
		}
		release()
		if fenced, _ := k.Fenced(vf0); fenced {
			t.Error("fenced after the release")
		}
		h.must(override(vf0, unset), probe(vf0))
		h.bound(vf0, "igbvf")
		if fenced, _ := crashed.Fenced(vf0); !fenced {
			t.Error("the release of one kernel released another's function")
		}
	})
}

// Both complete when the holder exits, long after every deadline.
func TestPFBlocksOnAHeldVF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, second := range map[string]host.Call{
			"numvfs": sysfs(host.Attr(pf, "sriov_numvfs"), "0"),
			"unbind": unbind("igb", pf),
			"rmmod":  unload("igb"),
		} {
			k, h, release := heldVFIO(t)
			vf := pending(t.Context(), k, unbind("vfio-pci", vf0))
			pfDone := pending(t.Context(), k, second)
			blocked(t, pfDone)
			late := pending(t.Context(), k, bind("vfio-pci", vf0))
			blocked(t, late)
			release()
			ended(t, vf, nil)
			ended(t, pfDone, nil)
			ended(t, late, syscall.ENODEV) // the function is gone
			h.missing(host.PCIDevices + vf0)
			if got := h.read(host.Attr(pf, "sriov_numvfs")); got != "0" {
				t.Errorf("%s: numvfs is %s", name, got)
			}
		}
	})
}

func TestLoadWaitsForTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, h, release := heldVFIO(t)
		h.must(unload("igbvf"))
		a := pending(t.Context(), k, unbind("vfio-pci", vf0))
		b := pending(t.Context(), k, override(vf0, unset))
		c := pending(t.Context(), k, loadCall("igbvf")) // does not match while the override stands
		ended(t, c, nil)
		release()
		ended(t, a, nil)
		ended(t, b, nil)
		h.bound(vf0, "")
		h.bound(vf1, "igbvf")
		h.must(unload("igbvf"))
		if err := k.Inject(Fault{Label: "override", Hang: true}); err != nil {
			t.Fatal(err)
		}
		a = pending(t.Context(), k, override(vf0, "none"))
		b = pending(t.Context(), k, loadCall("igbvf"))
		blocked(t, b)
		h.reads("coming", "/sys/module/igbvf/initstate")
		h.wants(syscall.EBUSY, unload("igbvf"))
		k.Thaw()
		ended(t, a, nil)
		ended(t, b, nil)
		h.reads("live", "/sys/module/igbvf/initstate")
		h.bound(vf0, "")
	})
}

func TestUnplugOfAHeldFunctionWaits(t *testing.T) {
	k, h, release := heldVFIO(t)
	if err := k.Unplug(pf); err != nil {
		t.Fatal(err)
	}
	h.bound(vf0, "")
	h.missing(host.Attr(vf0, "physfn"))
	if err := k.Plug(igb(pf, "7", "enp1s0", "")); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("plugged over one that leaves: %v", err)
	}
	if fenced, _ := k.Fenced(vf0); !fenced {
		t.Error("not fenced")
	}
	release()
	h.missing(host.PCIDevices + pf)
	h.missing(host.PCIDevices + vf0)
}

// A held group takes no driver that does DMA on its own.
func TestHeldGroupIsNotShared(t *testing.T) {
	cfg := DefaultNode()
	for i := range cfg.Devices {
		if cfg.Devices[i].Address == vf1 {
			cfg.Devices[i].IOMMUGroup = "8"
		}
	}
	k := New(cfg)
	h := on(t, k)
	load(h, "vfio", "irqbypass", "vfio_pci_core", "vfio_pci")
	h.must(toVFIO(vf0)...)
	h.must(unbind("igbvf", vf1))
	release := k.Hold(vf0)
	h.wants(syscall.EBUSY, bind("igbvf", vf1))
	release()
	h.must(bind("igbvf", vf1))
}

func TestHolderIsFoundInProc(t *testing.T) {
	_, h, release := heldVFIO(t)
	pids, err := h.List(t.Context(), "/proc")
	if err != nil {
		t.Fatal(err)
	}
	found := ""
	for _, pid := range pids {
		if link, err := h.Readlink(t.Context(), "/proc/"+pid+"/fd/3"); err == nil && link == "/dev/vfio/8" {
			found = h.read("/proc/" + pid + "/comm")
		}
	}
	if found != "dpdk-testpmd" {
		t.Errorf("holder is %q of %v", found, pids)
	}
	release()
	if _, err := h.Read(t.Context(), "/dev/vfio/8"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("open of a free group: %v", err)
	}
}

func TestFenceRefusesAtOnce(t *testing.T) {
	cfg := DefaultNode()
	cfg.Fence = true
	k := New(cfg)
	h := on(t, k)
	load(h, "vfio", "irqbypass", "vfio_pci_core", "vfio_pci")
	h.must(toVFIO(vf0)...)
	release := k.Hold(vf0)
	if err := k.Foreign(unbind("vfio-pci", vf0)); !errors.Is(err, drivers.ErrFenced) {
		t.Fatal(err)
	}
	writes := k.Writes()
	if err := k.Do(t.Context(), override(vf0, unset)); !errors.Is(err, drivers.ErrFenced) {
		t.Errorf("a fenced target was written: %v", err)
	}
	release()
	h.reads("vfio-pci", host.Attr(vf0, "driver_override")) // nothing had queued
	if got := k.Writes(); got != writes {
		t.Errorf("%d writes, want %d", got, writes)
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, h := withVFIO(t)
		ctx, cancel := context.WithCancel(t.Context())
		events, err := k.Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		h.must(unbind("igbvf", vf0))
		want := map[host.Event]bool{{Target: vf0, What: "link"}: true, {Target: vf0, What: "unbind"}: true}
		for range len(want) {
			if e := <-events; !want[e] {
				t.Errorf("event %+v", e)
			}
		}
		for range maxEvents { // nobody reads: the kernel goes on
			h.must(bind("igbvf", vf0), unbind("igbvf", vf0))
		}
		synctest.Wait()
		lost := false
		for range 10 {
			lost = lost || (<-events).What == "lost"
			if lost {
				break
			}
			synctest.Wait()
		}
		if !lost {
			t.Error("no event says that some were lost")
		}
		cancel()
		for range events {
		}
	})
}
