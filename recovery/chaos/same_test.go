//go:build linux

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"eniagent/recovery/chaos/walk"
)

// walksVar is how many random walks there are. seedVar is the seed of the first, and leaves the scenarios out:
// `ENIAGENT_WALKS=1 ENIAGENT_WALK_SEED=N` repeats one walk. recordVar is a file for what the real kernel did.
const (
	walksVar  = "ENIAGENT_WALKS"
	seedVar   = "ENIAGENT_WALK_SEED"
	recordVar = "ENIAGENT_WALK_RECORD"
	someWalks = 30
)

// TestSimulatorIsTheKernel makes the same writes on the simulated kernel and on this one, and compares errno by errno
// and state by state.
func TestSimulatorIsTheKernel(t *testing.T) {
	vm := sharedVM(t)
	plan := walk.Plan{Machine: walkedMachine(t, vm), Walks: int(number(t, walksVar, someWalks)), Seed: number(t, seedVar, 1)}
	plan.Suite = os.Getenv(seedVar) == ""
	silent(t, vm)
	began := time.Now()
	walked := walkInGuest(t, vm, plan)
	took := time.Since(began)
	if file := os.Getenv(recordVar); file != "" {
		var b bytes.Buffer
		must(t, walk.Record{Plan: plan, Lines: walked}.Write(&b))
		must(t, os.WriteFile(file, b.Bytes(), 0o644))
	}
	_, simulated, err := plan.Simulate(t.Context())
	must(t, err)
	steps, differences := walk.Compare(walked, simulated)
	for _, d := range differences {
		t.Errorf("the simulated kernel differs from the real one: %s", d)
	}
	t.Logf("%d walks in %v on the real kernel", plan.Walks, took)
	t.Logf("evidence: simulator against the real kernel | scenarios + random ten-step walks (seed %d) | %d | %d", plan.Seed, steps, len(differences))
}

// silent keeps the guest from sending by itself, which IPv6 does on every link that comes up: igbvf resets a VF that
// loses its link with something left to send, and a close that meets its reset_task waits for ever (igbvf_close warns
// of it, drivers/net/ethernet/intel/igbvf/netdev.c:1780).
func silent(t *testing.T, vm *VM) {
	t.Helper()
	set := func(ctx context.Context, to string) {
		for _, which := range []string{"all", "default"} {
			must(t, vm.Poke(ctx, "/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", to))
		}
	}
	set(t.Context(), "1")
	t.Cleanup(func() { set(context.WithoutCancel(t.Context()), "0") })
}

func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text, ok := os.LookupEnv(name)
	if !ok {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 32)
	must(t, err)
	return n
}

func walkedMachine(t *testing.T, vm *VM) walk.Machine {
	t.Helper()
	m := walk.Machine{Release: vm.LastBoot().Kernel}
	for i, n := range mustNICs(t, vm) {
		m.PFs[i] = walk.PF{Address: n.Addr, Bridge: portAddr(n.Port), MAC: n.MAC}
	}
	return m
}

// walkInGuest runs the plan on the guest's kernel, through the agent's own seam.
func walkInGuest(t *testing.T, vm *VM, plan walk.Plan) []walk.Line {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "walk.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags=guest", "-trimpath", "-ldflags=-s -w", "-o", binary, "eniagent/recovery/chaos/walk")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the walker: %v\n%s", err, said)
	}
	data, err := os.ReadFile(binary)
	must(t, err)
	must(t, vm.WriteFile(t.Context(), "/tmp/walk.test", data, 0o700))
	asked, err := json.Marshal(plan)
	must(t, err)
	// Generous: so long a walk as this takes on a busy machine, and a reset.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute+time.Duration(plan.Walks)*10*time.Second)
	defer cancel()
	res, err := vm.Run(ctx, Cmd{Args: []string{"/tmp/walk.test", "-test.run=TestWalkHere", "-test.timeout=0"}, Env: []string{"ENIAGENT_WALK_PLAN=" + string(asked)}})
	lines, said := traceOf(t, res.Stdout)
	if err = errors.Join(err, ctx.Err()); err != nil || !res.OK() {
		t.Errorf("the walk in the guest ended after %d lines: %v, exit status %d\n%s%s", len(lines), err, res.Code, said, res.Stderr)
	}
	return lines
}

// traceOf parts the trace from what a test binary says besides.
func traceOf(t *testing.T, stdout []byte) (lines []walk.Line, said string) {
	t.Helper()
	for text := range bytes.Lines(stdout) {
		if !strings.HasPrefix(string(text), "{") {
			said += string(text)
			continue
		}
		var l walk.Line
		must(t, json.Unmarshal(text, &l))
		lines = append(lines, l)
	}
	return lines, said
}
