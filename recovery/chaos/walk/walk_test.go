package walk

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

func machine() Machine {
	return Machine{Release: "6.12.95+deb12-amd64", PFs: [2]PF{
		{Address: "0000:01:00.0", Bridge: "0000:00:10.0", MAC: "52:54:00:00:00:01"},
		{Address: "0000:02:00.0", Bridge: "0000:00:11.0", MAC: "52:54:00:00:00:02"},
	}}
}

// other is a kernel that does one kind of write otherwise.
type other struct {
	*sim.Kernel
	do func(*sim.Kernel, host.Call) error
}

func (o other) write(ctx context.Context, c host.Call) error {
	if fenced, _ := o.Fenced(c.Target); fenced || strings.Contains(o.String(), "hold ") {
		return o.Kernel.Do(ctx, c)
	}
	return o.do(o.Kernel, c)
}

// trace walks the plan on a kernel whose writes are made by do.
func trace(t *testing.T, p Plan, do func(*sim.Kernel, host.Call) error) []Line {
	t.Helper()
	k := sim.New(p.Machine.Simulated())
	var lines []Line
	if err := p.Run(t.Context(), &Walker{
		Host:    k,
		Write:   other{k, do}.write,
		Foreign: func(_ context.Context, c host.Call) error { return do(k, c) },
		Hold: func(_ context.Context, addr string) (func() error, error) {
			release := k.Hold(addr)
			return func() error { release(); return nil }, nil
		},
		Tell: func(l Line) error {
			lines = append(lines, l)
			return nil
		},
	}); err != nil {
		t.Fatal(err)
	}
	return lines
}

func same(k *sim.Kernel, c host.Call) error { return k.Foreign(c) }

// TestAWalkIsItsSeed: one machine walks it twice alike, and what it has done
// does not show in the next walk.
func TestAWalkIsItsSeed(t *testing.T) {
	m := machine()
	long := Plan{Machine: m, Suite: true, Seed: 1, Walks: 60}
	_, once, err := long.Simulate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	steps, found := Compare(trace(t, long, same), once)
	for _, d := range found {
		t.Error(d)
	}
	want := 60 * Steps
	for _, s := range m.Suite() {
		want += len(s.Steps)
	}
	if steps != want {
		t.Errorf("compared %d steps, want %d", steps, want)
	}
	_, alone, err := Plan{Machine: m, Seed: 40, Walks: 1}.Simulate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := byWalk(once)[Name(40)]; !slices.EqualFunc(got, alone, sameLine) {
		t.Errorf("seed 40 after other walks:\n%v\nalone:\n%v", got, alone)
	}
}

func sameLine(a, b Line) bool {
	return a.Call == b.Call && a.Outcome == b.Outcome && slices.Equal(a.Changed, b.Changed)
}

// TestRandomWalksReachEverything: each verb comes out well, and each but those
// that cannot fail with an errno of its own.
func TestRandomWalksReachEverything(t *testing.T) {
	_, lines, err := Plan{Machine: machine(), Seed: 1, Walks: 150}.Simulate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	came := map[string]int{}
	for _, l := range lines {
		verb, _, _ := strings.Cut(l.Call, " ")
		came[verb+" "+l.Outcome]++
	}
	for _, want := range []string{
		"override ok", "override EINVAL", "override ENOENT", "unbind ok", "unbind ENODEV", "unbind ENOENT", "bind ok", "bind ENODEV", "bind EBUSY",
		"bind ENOENT", "probe ok", "probe ENODEV", "numvfs ok", "numvfs EBUSY", "numvfs ERANGE", "numvfs EINVAL", "numvfs ENOENT", "autoprobe ok",
		"autoprobe EINVAL", "autoprobe ENOENT", "mtu ok", "mtu EINVAL", "mtu ENODEV", "admin ok", "admin ENODEV", "load EEXIST", "load ENOENT",
		"load ok", "unload ok", "unload EAGAIN", "unload ENOENT", "remove ok", "rescan ok",
	} {
		if came[want] == 0 {
			t.Errorf("no %s in 150 walks: %v", want, came)
		}
	}
}

// TestCompareFinds what differs in one errno, in one state, and in a walk that
// was cut short.
func TestCompareFinds(t *testing.T) {
	plan := Plan{Machine: machine(), Suite: true, Seed: 1, Walks: 5}
	_, right, err := plan.Simulate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		do   func(*sim.Kernel, host.Call) error
		says string
	}{
		"an errno": {func(k *sim.Kernel, c host.Call) error {
			err := k.Foreign(c)
			if err != nil && strings.HasSuffix(c.Path, "/sriov_numvfs") && strings.Contains(err.Error(), syscall.EBUSY.Error()) {
				return syscall.EAGAIN
			}
			return err
		}, "EAGAIN"},
		"a write that does nothing": {func(k *sim.Kernel, c host.Call) error {
			if c.Op == host.OpMTU && c.Number == 1600 {
				return nil
			}
			return k.Foreign(c)
		}, "mtu=1600"},
		"a write that does more": {func(k *sim.Kernel, c host.Call) error {
			err := k.Foreign(c)
			if c.Label() == "autoprobe" && c.Value == "off" {
				_ = k.Foreign(Step{verb: setOverride, on: "0000:02:00.0", value: "none"}.call("", state{}))
			}
			return err
		}, "override=none"},
	} {
		t.Run(name, func(t *testing.T) {
			_, found := Compare(trace(t, plan, tc.do), right)
			if len(found) == 0 || !strings.Contains(found[0].String(), tc.says) || strings.Count(found[0].String(), "\n") < 4 {
				t.Errorf("found %v, want one that says %s", found, tc.says)
			}
		})
	}
	if _, found := Compare(right[:len(right)-1], right); len(found) != 1 || !strings.Contains(found[0].String(), "(nothing)") {
		t.Errorf("a trace cut short: %v", found)
	}
}

// TestResetSaysWhatItCannotDo instead of walking from somewhere else.
func TestResetSaysWhatItCannotDo(t *testing.T) {
	k := sim.New(machine().Simulated())
	for _, index := range []int{2, 3} { // lo is 1
		if err := k.Foreign(host.Call{Op: host.OpAdmin, Index: index, Number: 1}); err != nil {
			t.Fatal(err)
		}
	}
	w := &Walker{Machine: machine(), Host: k, Write: func(_ context.Context, c host.Call) error {
		if c.Op == host.OpAdmin {
			return nil
		}
		return k.Foreign(c)
	}, Foreign: func(_ context.Context, c host.Call) error { return k.Foreign(c) }}
	if err := w.Walk(t.Context(), "none", nil); !errors.Is(err, errReset) || !strings.Contains(err.Error(), "admin 0000:01:00.0") {
		t.Errorf("%v, want that a link is still up", err)
	}
}

// TestTheSimulatorIsTheRecordedKernel holds the simulator against what a real
// kernel did. Where the walks have changed, record them anew:
// ENIAGENT_WALK_RECORD=$PWD/recovery/chaos/walk/testdata/linux-6.12.jsonl go test ./recovery/chaos -run TestSimulatorIsTheKernel.
func TestTheSimulatorIsTheRecordedKernel(t *testing.T) {
	f, err := os.Open("testdata/linux-6.12.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r, err := ReadRecord(f)
	if err != nil {
		t.Fatal(err)
	}
	_, simulated, err := r.Plan.Simulate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	recorded := byWalk(r.Lines)
	for name := range byWalk(simulated) {
		if recorded[name] == nil {
			t.Errorf("%q is newer than the record: record anew, see above", name)
		}
	}
	simulated = slices.DeleteFunc(simulated, func(l Line) bool { return recorded[l.Walk] == nil })
	steps, found := Compare(r.Lines, simulated)
	for _, d := range found {
		t.Errorf("the simulated kernel differs from the recorded one: %s", d)
	}
	if steps < 300 {
		t.Errorf("the record has %d steps only", steps)
	}
}
