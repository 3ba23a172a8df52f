package host_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// quickEnd keeps the race detector from sleeping a second at each exit.
const quickEnd = "GORACE=atexit_sleep_ms=0"

// roleVar names what a re-executed test binary does; its arguments follow.
const roleVar = "HOST_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := act(role, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stdout, "error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func act(role string, args []string) error {
	dir := args[0]
	fences, err := host.OpenFences(filepath.Join(dir, "fence"))
	if err != nil {
		return err
	}
	switch role {
	case "holder":
		release, err := fences.Take(drivers.Target(args[1]))
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "ready")
		_, err = io.Copy(io.Discard, os.Stdin)
		release()
		return err
	case "serve":
		var k host.Kernel = fakeKernel{dir}
		if f, err := sim.Open(filepath.Join(dir, "sim")); err == nil {
			k = f
		}
		return host.Serve(os.Stdin, os.Stdout, k, fences, args[1])
	case "linux":
		return host.Serve(os.Stdin, os.Stdout, host.Linux{Root: dir}, fences, args[1], args[2:]...)
	case "agent":
		return actAgent(dir, fences)
	}
	return fmt.Errorf("no role %q", role)
}

// signalled is how an agent ends that was told to.
const signalled = 7

// actAgent locks what a journal would lock, and hangs in a write.
func actAgent(dir string, fences host.Fences) error {
	lock, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	// A shell's background job starts with some of them ignored.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		os.Exit(signalled)
	}()
	p, err := host.NewPool(fakeKernel{dir}, host.PoolOptions{Command: serveCommand(dir), Fences: fences, WriteTimeout: time.Hour})
	if err != nil {
		return err
	}
	return p.Do(context.Background(), override(vf0, "hang"))
}

// serveCommand makes the test binary a writer child; env tells it so,
// because a pool gives its children no environment of their own.
func serveCommand(dir string) []string {
	return []string{"/usr/bin/env", roleVar + "=serve", quickEnd, os.Args[0], dir}
}

// start runs the test binary in a role, and says what it says.
func start(t *testing.T, attr *syscall.SysProcAttr, role string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleVar+"="+role, quickEnd)
	cmd.SysProcAttr, cmd.Stderr = attr, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, bufio.NewReader(out)
}

func line(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	s, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v", s, err)
	}
	return strings.TrimSpace(s)
}

// gate is where a write of fakeKernel waits, as in the kernel.
type gate struct {
	t    *testing.T
	path string
	open *os.File
}

// newGate makes writes and reads of "hang" on a target wait.
func newGate(t *testing.T, dir string, target drivers.Target) *gate {
	t.Helper()
	g := &gate{t: t, path: filepath.Join(dir, "gate-"+string(target))}
	if err := unix.Mkfifo(g.path, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.release() })
	return g
}

// entered returns when a child waits in the gate.
func (g *gate) entered() {
	g.t.Helper()
	f, err := os.OpenFile(g.path, os.O_WRONLY, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	g.open = f
}

// release lets the child through, and whoever comes later.
func (g *gate) release() {
	_ = os.Remove(g.path)
	if g.open != nil {
		_ = g.open.Close()
		g.open = nil
	}
}

// fakeKernel is a kernel whose writes go to a log, and do what their value says.
type fakeKernel struct{ dir string }

func (fakeKernel) Children(context.Context) ([]host.Child, error) { return nil, nil }

func (k fakeKernel) note(words ...string) error {
	f, err := os.OpenFile(filepath.Join(k.dir, "log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(words, " ") + "\n")
	return errors.Join(err, f.Close())
}

// wait waits in the gate of a target where there is one.
func (k fakeKernel) wait(target string) error {
	f, err := os.Open(filepath.Join(k.dir, "gate-"+target))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return errors.Join(err, f.Close())
}

func (k fakeKernel) Do(_ context.Context, c host.Call) error {
	switch value := strings.TrimSpace(c.Value); value {
	case "hang":
		if err := k.wait(string(c.Target)); err != nil {
			return err
		}
	case "die":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	case "garble":
		fmt.Fprint(os.Stdout, "}{")
	default:
		if err, ok := namedErrors()[value]; ok {
			return fmt.Errorf("write it: %w", err)
		}
	}
	return k.note(string(c.Target), strings.TrimSpace(c.Value))
}

// namedErrors are what a write fails with by its value.
func namedErrors() map[string]error {
	return map[string]error{
		"EBUSY": unix.EBUSY, "EINVAL": unix.EINVAL, "ENODEV": unix.ENODEV, "EIO": unix.EIO, "EAGAIN": unix.EAGAIN, "ENOENT": unix.ENOENT,
		"gone": drivers.ErrGone, "unsupported": drivers.ErrUnsupported, "refused": drivers.ErrRefused,
	}
}

// Settings say which child was asked.
func (k fakeKernel) Settings(_ context.Context, index int, which host.Setting) (host.Settings, error) {
	if index == 0 {
		return host.Settings{}, unix.EOPNOTSUPP
	}
	return host.Settings{AltNames: []string{string(which)}, Rings: host.Rings{RX: index, TX: os.Getpid()}}, nil
}

// Read of driver_override is made by a child, and says which one.
func (k fakeKernel) Read(_ context.Context, path string) (string, error) {
	if strings.HasPrefix(path, host.PCIDevices) {
		address := strings.Split(strings.TrimPrefix(path, host.PCIDevices), "/")[0]
		if err := k.wait(address); err != nil {
			return "", err
		}
		return fmt.Sprint(os.Getpid()), nil
	}
	return "", os.ErrNotExist
}

func (fakeKernel) File(context.Context, string) (string, error)     { return "", os.ErrNotExist }
func (fakeKernel) Readlink(context.Context, string) (string, error) { return "", os.ErrNotExist }
func (fakeKernel) List(context.Context, string) ([]string, error)   { return nil, os.ErrNotExist }
func (fakeKernel) Inode(context.Context, string) (uint64, error)    { return 0, os.ErrNotExist }
func (fakeKernel) Network(context.Context, []string) (host.Network, error) {
	return host.Network{}, nil
}

func (fakeKernel) Links(context.Context) ([]host.Link, error) {
	return []host.Link{{Index: os.Getpid(), Name: "lo"}}, nil
}

func (fakeKernel) Watch(ctx context.Context) (<-chan host.Event, error) {
	ch := make(chan host.Event)
	go func() {
		<-ctx.Done()
		close(ch)
	}()
	return ch, nil
}
