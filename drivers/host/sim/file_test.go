package sim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

const (
	childVar = "SIM_TEST_CHILD" // what a re-executed test binary does
	pathVar  = "SIM_TEST_PATH"
)

// actAsChild is main of a re-executed test binary. It says "ready" and goes on
// until its work is done or it is killed.
func actAsChild() bool {
	role := os.Getenv(childVar)
	if role == "" {
		return false
	}
	if err := child(role, os.Getenv(pathVar)); err != nil {
		say("error: " + err.Error())
	}
	return true
}

func say(line string) { _, _ = os.Stdout.WriteString(line + "\n") }

func child(role, path string) error {
	if role == "agent" { // has a writer child, and hangs on it
		writer := exec.CommandContext(context.Background(), os.Args[0])
		writer.Env = append(os.Environ(), childVar+"=writer")
		writer.Stdout = os.Stdout
		return writer.Run()
	}
	f, err := Open(path)
	if err != nil {
		return err
	}
	switch role {
	case "holder":
		err = f.Hold(vf0, os.Getpid())
		say("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "writer":
		say("ready")
		err = f.Do(context.Background(), unbind("vfio-pci", vf0))
	case "scribe":
		say("ready")
		for i := 0; err == nil; i++ {
			err = f.Do(context.Background(), override(vf0, fmt.Sprint("driver", i)))
		}
	case "counter":
		say("ready")
		for i := 0; i < 50 && err == nil; i++ {
			err = f.Do(context.Background(), override(vf1, fmt.Sprint(os.Getpid(), "-", i)))
		}
	}
	return err
}

// spawn runs a child and returns when it is ready, with the rest of what it
// says.
func spawn(t *testing.T, role, path string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), os.Args[0]) // Cleanup ends it
	cmd.Env = append(os.Environ(), childVar+"="+role, pathVar+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = in.Close()
		_ = cmd.Wait()
	})
	said := bufio.NewReader(out)
	if line, err := said.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("child %s says %q (%v)", role, line, err)
	}
	return cmd, said
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

func newFile(t *testing.T) (*File, hands, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "host.json")
	if err := Create(path, DefaultNode()); err != nil {
		t.Fatal(err)
	}
	f := reopen(t, path)
	h := on(t, f)
	load(h, "vfio", "irqbypass", "vfio_pci_core", "vfio_pci")
	return f, h, path
}

func reopen(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// eventually waits for a condition of the state that other processes change.
func eventually(t *testing.T, f *File, what string, cond func(*machine) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for done := false; !done; {
		changed := f.store.changed()
		if err := f.store.view(func(m *machine) { done = cond(m) }); err != nil {
			t.Fatal(err)
		}
		if ctx.Err() != nil {
			t.Fatalf("never: %s:\n%s", what, f)
		}
		if !done {
			wait(ctx, changed)
		}
	}
}

func isFenced(m *machine) bool  { return m.fenced(vf0) }
func notFenced(m *machine) bool { return !m.fenced(vf0) }

func TestFileIsTheSameKernel(t *testing.T) {
	f, h, path := newFile(t)
	h.must(toVFIO(vf0)...)
	k := New(DefaultNode())
	kh := on(t, k)
	load(kh, "vfio", "irqbypass", "vfio_pci_core", "vfio_pci")
	kh.must(toVFIO(vf0)...)
	if diff := cmp.Diff(k.String(), f.String()); diff != "" {
		t.Errorf("(-memory +file):\n%s", diff)
	}
	other := reopen(t, path)
	if diff := cmp.Diff(f.String(), other.String()); diff != "" {
		t.Errorf("two openers differ:\n%s", diff)
	}
	on(t, other).must(override(vf0, unset))
	h.reads("(null)", host.Attr(vf0, "driver_override"))
	if n, err := f.Writes(); err != nil || n != k.Writes()+1 {
		t.Errorf("%d writes (%v)", n, err)
	}
	if s, err := f.Describe(); err != nil || !strings.Contains(s, "vfio-pci") {
		t.Errorf("described as %q (%v)", s, err)
	}
	if err := f.Reboot(); err != nil {
		t.Fatal(err)
	}
	on(t, other).bound(vf0, "igbvf")
	h.missing("/sys/module/vfio")
	if err := Create(path, DefaultNode()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created over another: %v", err)
	}
}

func TestBrokenFile(t *testing.T) {
	_, _, path := newFile(t)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"empty":     "",
		"cut":       string(good[:len(good)/2]),
		"version":   strings.Replace(string(good), `"version":1`, `"version":9`, 1),
		"unknown":   strings.Replace(string(good), `"version"`, `"wersion"`, 1),
		"no driver": strings.ReplaceAll(string(good), `"driver":"igb"`, `"driver":"other"`),
	} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path)
		if !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove the file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// A write that hangs outlives the process that made it, and ends when the
// holder dies, whoever looks then.
func TestWriteOutlivesItsProcess(t *testing.T) {
	f, h, path := newFile(t)
	h.must(toVFIO(vf0)...)
	holder, _ := spawn(t, "holder", path)
	writer, _ := spawn(t, "writer", path)
	eventually(t, f, "the unbind blocks", isFenced)
	h.bound(vf0, "")
	kill(t, writer)
	if fenced, err := f.Fenced(vf0); err != nil || !fenced {
		t.Errorf("fenced is %t (%v) after the writer was killed", fenced, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := f.Do(ctx, bind("vfio-pci", vf0)); !errors.Is(err, drivers.ErrFenced) {
		t.Errorf("a bind behind it: %v", err)
	}
	kill(t, holder)
	if fenced, err := reopen(t, path).Fenced(vf0); err != nil || fenced {
		t.Errorf("fenced is %t (%v) after the holder was killed", fenced, err)
	}
	h.bound(vf0, "vfio-pci") // the last to queue won
}

func TestBlockedWriterWakes(t *testing.T) {
	f, h, path := newFile(t)
	h.must(toVFIO(vf0)...)
	holder, _ := spawn(t, "holder", path)
	writer, said := spawn(t, "writer", path)
	eventually(t, f, "the unbind blocks", isFenced)
	kill(t, holder)
	if rest, err := io.ReadAll(said); err != nil || len(rest) > 0 {
		t.Errorf("writer says %q (%v)", rest, err)
	}
	if err := writer.Wait(); err != nil {
		t.Error(err)
	}
	h.bound(vf0, "")
	if err := f.Hold(vf0, os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if err := f.Release(vf0, os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if err := f.Hold(vf0, 1<<30); err == nil {
		t.Error("held by no process")
	}
	eventually(t, f, "nothing is fenced", notFenced)
}

// A writer that is killed at any moment leaves a whole state.
func TestKilledWhileWriting(t *testing.T) {
	f, h, path := newFile(t)
	for range 20 {
		before, err := f.Writes()
		if err != nil {
			t.Fatal(err)
		}
		cmd, _ := spawn(t, "scribe", path)
		eventually(t, f, "the scribe writes", func(m *machine) bool { return m.Count > before+3 })
		kill(t, cmd)
		reopen(t, path)
		if got := h.read(host.Attr(vf0, "driver_override")); !strings.HasPrefix(got, "driver") {
			t.Errorf("override is %q", got)
		}
	}
}

func TestProcessesLoseNoWrite(t *testing.T) {
	f, _, path := newFile(t)
	before, _ := f.Writes()
	var kids []*bufio.Reader
	for range 3 {
		_, said := spawn(t, "counter", path)
		kids = append(kids, said)
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 25 {
				if err := f.Do(t.Context(), override(vf0, "none")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, said := range kids {
		if rest, err := io.ReadAll(said); err != nil || len(rest) > 0 {
			t.Errorf("child says %q (%v)", rest, err)
		}
	}
	if got, err := f.Writes(); err != nil || got-before != 3*50+2*25 {
		t.Errorf("%d writes (%v)", got-before, err)
	}
}

// A crash fault kills the writer and the agent whose child it is.
func TestFileCrash(t *testing.T) {
	for _, when := range []When{Before, After} {
		f, h, path := newFile(t)
		h.must(toVFIO(vf0)...)
		if err := f.Inject(Fault{Label: "unbind", Crash: true, When: when}); err != nil {
			t.Fatal(err)
		}
		agent, said := spawn(t, "agent", path)
		if _, err := io.ReadAll(said); err != nil { // both have closed it
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := agent.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("agent ended with %v", err)
		}
		h.bound(vf0, map[When]string{Before: "vfio-pci", After: ""}[when])
	}
}

func TestFileWatch(t *testing.T) {
	_, h, path := newFile(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := reopen(t, path).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h.must(unbind("igbvf", vf0))
	seen := map[string]bool{}
	for !seen["unbind"] {
		e := <-events
		if e.Target != vf0 {
			t.Errorf("event %+v", e)
		}
		seen[e.What] = true
	}
	cancel()
	for range events {
	}
}

func BenchmarkFileRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "host.json")
	f := must(path, Create(path, DefaultNode()))
	file := must(Open(f))
	b.Cleanup(func() { _ = file.Close() })
	for b.Loop() {
		if _, err := file.Read(b.Context(), host.Attr(vf0, "vendor")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFileDo(b *testing.B) {
	path := filepath.Join(b.TempDir(), "host.json")
	f := must(path, Create(path, DefaultNode()))
	file := must(Open(f))
	b.Cleanup(func() { _ = file.Close() })
	for b.Loop() {
		if err := file.Do(b.Context(), override(vf0, "igbvf")); err != nil {
			b.Fatal(err)
		}
	}
}
