package deviceplugin_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

const (
	file   = "/etc/pcidp/config.json"
	target = drivers.Target("file/" + file + "#" + ours)
)

func node(t *testing.T, text string) *sim.Kernel {
	t.Helper()
	k := sim.New(sim.DefaultNode())
	if err := k.WriteFile(file, text); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestATornFileIsLeftAlone: it is not absent, says where it is torn and what to
// do, and nothing writes it.
func TestATornFileIsLeftAlone(t *testing.T) {
	for _, text := range []string{"", "\n", documented[:200], "{\"resourceList\": [\n{]", `{"resourceList": 1}`} {
		k := node(t, text)
		d := deviceplugin.New(k)
		o := d.Observe(t.Context(), target)
		if o.Presence != drivers.Unobservable || !strings.Contains(o.Err.Error(), file+": line ") || !strings.Contains(o.Err.Error(), "repair the file") {
			t.Errorf("%.20q: observed %q (%v)", text, o, o.Err)
		}
		for _, to := range []drivers.State{deviceplugin.Absent, state(t, "0000:01:10.0")} {
			if err := d.Apply(t.Context(), target, to); err == nil {
				t.Errorf("%.20q: %s was applied", text, to)
			}
			err := d.(drivers.Prechecker).Precheck(t.Context(), target, deviceplugin.Absent, to)
			if !errors.Is(err, drivers.ErrRefused) {
				t.Errorf("%.20q: precheck %v, want ErrRefused", text, err)
			}
		}
		if got, err := k.File(t.Context(), file); err != nil || got != text || k.Writes() != 0 {
			t.Errorf("%.20q became %q after %d writes (%v)", text, got, k.Writes(), err)
		}
	}
}

// TestPrecheck refuses with the reason and the remedy.
func TestPrecheck(t *testing.T) {
	k := node(t, documented)
	p := deviceplugin.New(k).(drivers.Prechecker)
	one := state(t, "0000:01:10.0")
	for _, tc := range []struct {
		name     string
		target   drivers.Target
		from, to drivers.State
		want     string
	}{
		{"fine", target, deviceplugin.Absent, one, ""},
		{"a foreign entry", "file/" + file + "#intel.com/intel_sriov_dpdk", deviceplugin.Absent, one, "not the agent's"},
		{"the plugin's prefix", "file/" + file + "#intel.com/fpga", deviceplugin.Absent, one, "own prefix"},
		{"a function of another", target, deviceplugin.Absent, state(t, "0000:3b:00.1"), "in resource intel.com/intel_sriov_dpdk"},
		{"every function", target, deviceplugin.Absent, "{}", "every function"},
		{"no state", target, deviceplugin.Absent, "x", "no state"},
		{"no JSON file", "file//etc/passwd#a/b", deviceplugin.Absent, one, ".json"},
	} {
		err := p.Precheck(t.Context(), tc.target, tc.from, tc.to)
		if (err == nil) != (tc.want == "") || err != nil && (!errors.Is(err, drivers.ErrRefused) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

// TestRemedies: what a person can do is said.
func TestRemedies(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		syscall.EROFS: "ConfigMap", syscall.EBUSY: "mount its directory", syscall.EPERM: "chmod o-w", syscall.ENOSPC: "make room", syscall.ENOENT: "mkdir",
	} {
		k := node(t, documented)
		if err := k.Inject(sim.Fault{Label: "replace", Errno: errno}, sim.Fault{Label: "sync", Errno: errno}); err != nil {
			t.Fatal(err)
		}
		d := deviceplugin.New(k)
		err := d.Apply(t.Context(), target, state(t, "0000:01:10.0"))
		if synced := d.(drivers.Syncer).Sync(t.Context(), target); !errors.Is(err, errno) || !errors.Is(synced, errno) ||
			!strings.Contains(err.Error(), want) || !strings.Contains(synced.Error(), want) {
			t.Errorf("%v; %v; want %q", err, synced, want)
		}
	}
	k := node(t, documented)
	if err := k.Inject(sim.Fault{Label: sim.LabelRead, Errno: syscall.ELOOP}); err != nil {
		t.Fatal(err)
	}
	if o := deviceplugin.New(k).Observe(t.Context(), target); o.Err == nil || !strings.Contains(o.Err.Error(), "symbolic link") {
		t.Errorf("%v", o.Err)
	}
}

// another is a host on which another program writes the file directly before
// the agent's write.
type another struct {
	host.Host
	write func()
}

func (a another) Do(ctx context.Context, c host.Call) error {
	a.write()
	return a.Host.Do(ctx, c)
}

// TestAnotherWriterIsNotOverwritten: its write stays, and the next try edits
// what it wrote.
func TestAnotherWriterIsNotOverwritten(t *testing.T) {
	k := node(t, documented)
	theirs := strings.Replace(documented, "fpga", "theirs", 1)
	h := another{k, func() {
		if err := k.WriteFile(file, theirs); err != nil {
			t.Error(err)
		}
	}}
	to := state(t, "0000:01:10.0")
	if err := deviceplugin.New(h).Apply(t.Context(), target, to); !errors.Is(err, drivers.ErrChanged) {
		t.Errorf("%v, want ErrChanged", err)
	}
	if got, err := k.File(t.Context(), file); err != nil || got != theirs {
		t.Errorf("%s (%v)", got, err)
	}
	d := deviceplugin.New(k)
	if err := d.Apply(t.Context(), target, to); err != nil {
		t.Fatal(err)
	}
	if got, err := k.File(t.Context(), file); err != nil || got != with(t, theirs, ours, to) || !d.Observe(t.Context(), target).Is(to) {
		t.Errorf("%s (%v)", got, err)
	}
}

// TestManyPoolsAtOnce: no edit is lost, and none refused for another of ours.
func TestManyPoolsAtOnce(t *testing.T) {
	k := node(t, documented)
	d := deviceplugin.New(k)
	var group sync.WaitGroup
	targets := map[drivers.Target]drivers.State{}
	for i, name := range strings.Fields("a b c d e f g h") {
		targets[drivers.Target("file/"+file+"#example.com/"+name)] = state(t, manyAddresses()[i])
	}
	for at, to := range targets {
		group.Go(func() {
			if err := d.Apply(context.Background(), at, to); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for at, to := range targets {
		if o := d.Observe(t.Context(), at); !o.Is(to) {
			t.Errorf("%s is %s (%v), want %s", at, o, o.Err, to)
		}
	}
}
