//go:build linux

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestBoot(t *testing.T) {
	vm := sharedVM(t)
	t.Logf("booted: %+v", vm.LastBoot())
	groups := map[string]bool{}
	nics := mustNICs(t, vm)
	if len(nics) != 2 {
		t.Fatalf("got %d NICs, want 2", len(nics))
	}
	for _, n := range nics {
		if n.Driver != "igb" || n.Netdev == "" || n.Group == "" || groups[n.Group] {
			t.Errorf("got %+v, want it bound to igb, with an interface and a group of its own", n)
		}
		groups[n.Group] = true
		mac, err := vm.ReadText(t.Context(), n.Sysfs("net", n.Netdev, "address"))
		must(t, err)
		if mac != n.MAC {
			t.Errorf("port %d: got the NIC with MAC %s, want %s", n.Port, mac, n.MAC)
		}
		total, err := vm.ReadText(t.Context(), n.Sysfs("sriov_totalvfs"))
		must(t, err)
		if total != "7" {
			t.Errorf("port %d: got sriov_totalvfs %s, want 7", n.Port, total)
		}
	}
	id, err := vm.ReadText(t.Context(), "/etc/machine-id")
	must(t, err)
	if len(id) != 32 {
		t.Errorf("got machine-id %q, want 32 digits", id)
	}
}

func TestCommands(t *testing.T) {
	vm, ctx := sharedVM(t), t.Context()

	// Every byte value survives both ways, in more than one frame, with others talking at the same time.
	blob := bytes.Repeat([]byte("\x00\xff\n\r{}\"é"), 40_000)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			file := fmt.Sprintf("/tmp/blob%d", i)
			if err := vm.WriteFile(ctx, file, blob, 0o600); err != nil {
				t.Error(err)
				return
			}
			got, err := vm.ReadFile(ctx, file)
			if err != nil || !bytes.Equal(got, blob) {
				t.Errorf("blob %d: got %d bytes and error %v, want the %d written", i, len(got), err, len(blob))
			}
		})
	}
	wg.Wait()

	_, err := vm.ReadFile(ctx, "/no/such")
	wantIs(t, "read what is not there", err, fs.ErrNotExist)
	wantIs(t, "poke what is not there", vm.Poke(ctx, "/no/such", "1"), syscall.ENOENT)
	wantIs(t, "unbind what is not bound", vm.Poke(ctx, "/sys/bus/pci/drivers/igb/unbind", "0000:7f:00.0"), syscall.ENODEV)
	_, err = vm.Run(ctx, Command("/no/such"))
	wantIs(t, "run what is not there", err, fs.ErrNotExist)

	if out := mustRun(t, vm, Helper, "write", "/proc/sys/kernel/hostname", "x"); out != "" {
		t.Errorf("write: got output %q, want none", out)
	}
	res, err := vm.Run(ctx, Command(Helper, "nonsense"))
	must(t, err)
	if res.Code != 1 || !strings.Contains(string(res.Stderr), "usage") {
		t.Errorf("nonsense: got %v, want usage and exit status 1", res)
	}

	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	err = vm.WaitText(short, "/proc/sys/kernel/hostname", "never")
	wantIs(t, "wait for what does not come", err, context.DeadlineExceeded)
	if !strings.Contains(fmt.Sprint(err), `last seen: "x"`) {
		t.Errorf("got error %v, want it to tell what was seen last", err)
	}
}

func TestPowerCut(t *testing.T) {
	vm, ctx := sharedVM(t), t.Context()
	before := vm.LastBoot().ID
	must(t, vm.WriteFile(ctx, DiskDir+"/kept", []byte("kept"), 0o600))
	must(t, vm.WriteFile(ctx, "/run/lost", []byte("lost"), 0o600))
	held, err := vm.Start(ctx, Command("/bin/ip", "monitor", "link")) // goes on for as long as there is power
	must(t, err)

	must(t, vm.PowerCut())
	if vm.Running() {
		t.Error("got a running VM after the power cut")
	}
	_, err = vm.ReadFile(ctx, "/proc/version")
	wantIs(t, "read without power", err, ErrDown)
	_, err = held.Wait(ctx)
	wantIs(t, "wait for a program without power", err, ErrDown)

	must(t, vm.Boot(ctx))
	t.Logf("booted again: %+v", vm.LastBoot())
	got, err := vm.ReadText(ctx, DiskDir+"/kept")
	must(t, err)
	if got != "kept" {
		t.Errorf("got %q on the disk, want what was written before the power cut", got)
	}
	_, err = vm.ReadFile(ctx, "/run/lost")
	wantIs(t, "what was in memory only", err, fs.ErrNotExist)
	_, err = vm.ReadDir(ctx, "/sys/module/vfio")
	wantIs(t, "VFIO is not loaded at boot", err, fs.ErrNotExist)
	if after := vm.LastBoot().ID; after == before || after == "" {
		t.Errorf("got boot_id %s twice", after)
	}
}

func TestHotPlug(t *testing.T) {
	vm, ctx := sharedVM(t), t.Context()
	n, err := vm.PlugNIC(ctx, 2, "52:54:00:00:aa:01")
	must(t, err)
	must(t, vm.WaitLink(ctx, n.Sysfs("driver"), "igb"))
	file, err := vm.WaitExists(ctx, n.Sysfs("net/*/address"))
	must(t, err)
	must(t, vm.WaitText(ctx, file, n.MAC))
	if got := len(mustNICs(t, vm)); got != 3 {
		t.Errorf("got %d NICs, want 3", got)
	}
	must(t, vm.UnplugNIC(ctx, 2))
	must(t, vm.WaitGone(ctx, n.Sysfs()))
	if got := len(mustNICs(t, vm)); got != 2 {
		t.Errorf("got %d NICs, want 2", got)
	}
	must(t, vm.SetLink(ctx, 1, false))
	must(t, vm.SetLink(ctx, 1, true))
}

// TestHangingUnbind is why the rig exists: an unbind that no signal ends. See drivers/vfio/vfio_main.c,
// vfio_unregister_group_dev.
func TestHangingUnbind(t *testing.T) {
	vm, ctx := sharedVM(t), t.Context()
	pf := mustNICs(t, vm)[0]
	must(t, vm.Poke(ctx, pf.Sysfs("sriov_numvfs"), "1"))
	vf := strings.TrimSuffix(pf.Addr, "00.0") + "10.0"
	must(t, vm.WaitLink(ctx, Sysfs(vf, "driver"), "igbvf"))

	mustRun(t, vm, "modprobe", "vfio-pci")
	mustRun(t, vm, "modprobe", "vfio_iommu_type1")
	must(t, vm.Poke(ctx, Sysfs(vf, "driver/unbind"), vf))
	must(t, vm.Poke(ctx, Sysfs(vf, "driver_override"), "vfio-pci"))
	must(t, vm.Poke(ctx, "/sys/bus/pci/drivers_probe", vf))
	must(t, vm.WaitLink(ctx, Sysfs(vf, "driver"), "vfio-pci"))

	holder, err := vm.Start(ctx, Command(Helper, "hold", vf))
	must(t, err)
	must(t, holder.Expect(ctx, "held\n"))

	unbind, err := vm.Start(ctx, Command(Helper, "write", "/sys/bus/pci/drivers/vfio-pci/unbind", vf))
	must(t, err)
	must(t, unbind.AwaitIn(ctx, "vfio_unregister_group_dev"))
	must(t, unbind.Signal(ctx, syscall.SIGKILL))
	must(t, unbind.AwaitState(ctx, "D"))
	if unbind.Ended() {
		t.Fatal("SIGKILL ended the unbind")
	}

	must(t, holder.Signal(ctx, syscall.SIGTERM))
	res, err := holder.Wait(ctx)
	must(t, err)
	if !res.OK() {
		t.Errorf("holder: got %v, want success", res)
	}
	res, err = unbind.Wait(ctx)
	must(t, err)
	if res.Signal != syscall.SIGKILL {
		t.Errorf("unbind: got %v, want it killed at last", res)
	}
	must(t, vm.WaitGone(ctx, Sysfs(vf, "driver")))
	must(t, vm.Poke(ctx, pf.Sysfs("sriov_numvfs"), "0"))
	must(t, vm.WaitGone(ctx, Sysfs(vf)))
}
