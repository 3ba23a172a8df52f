//go:build guest

// The walker on the kernel that it runs on, which the VM tests start in the
// guest. As elsewhere, writes are made by a child of the same binary.

package walk

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// planVar has the Plan, and the trace goes to standard output. With serveArg
// the binary is the writer child.
const (
	planVar  = "ENIAGENT_WALK_PLAN"
	serveArg = "serve"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == serveArg {
		fences, err := host.OpenFences(os.Args[2])
		if err == nil {
			err = host.Serve(os.Stdin, os.Stdout, host.Linux{Root: "/"}, fences, os.Args[3])
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// linux is this kernel: written to through a pool, as the agent does, and
// looked at directly, because nothing here hangs.
type linux struct {
	host.Linux
	pool *host.Pool
}

func (l linux) Fenced(t drivers.Target) (bool, error) { return l.pool.Fenced(t) }

// holdVFIO starts the rig's program that opens a function as DPDK does.
func holdVFIO(ctx context.Context, addr string) (func() error, error) {
	cmd := exec.CommandContext(ctx, "/sbin/rig", "hold", addr)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if said, err := bufio.NewReader(out).ReadString('\n'); err != nil || said != "held\n" {
		return nil, fmt.Errorf("hold %s: it said %q: %w", addr, said, errors.Join(err, cmd.Wait()))
	}
	return func() error { return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()) }, nil
}

func TestWalkHere(t *testing.T) {
	var plan Plan
	if err := json.Unmarshal([]byte(os.Getenv(planVar)), &plan); err != nil {
		t.Fatalf("%s: %v", planVar, err)
	}
	dir := t.TempDir()
	fences, err := host.OpenFences(dir)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Emulated, and on a busy machine, a write takes its time.
	pool, err := host.NewPool(host.Linux{Root: "/"}, host.PoolOptions{
		Command: []string{self, serveArg, dir}, Fences: fences, WriteTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pool.Close() }()
	trace := json.NewEncoder(os.Stdout)
	direct := host.Linux{Root: "/"}
	w := &Walker{
		Host: linux{direct, pool}, Write: pool.Do, Foreign: direct.Do, Hold: holdVFIO,
		Tell: func(l Line) error { return trace.Encode(l) },
	}
	if err := plan.Run(t.Context(), w); err != nil {
		t.Fatal(err)
	}
}
