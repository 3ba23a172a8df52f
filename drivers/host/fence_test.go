package host_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

const (
	vf0 = drivers.Target("0000:01:10.0")
	vf1 = drivers.Target("0000:01:10.2")
	vf2 = drivers.Target("0000:01:10.4")
)

func openFences(t testing.TB, dir string) host.Fences {
	t.Helper()
	f, err := host.OpenFences(filepath.Join(dir, "fence"))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func held(t testing.TB, f host.Fences, target drivers.Target) bool {
	t.Helper()
	h, err := f.Held(target)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestFenceBetweenProcesses(t *testing.T) {
	dir := t.TempDir()
	f := openFences(t, dir)
	if held(t, f, vf0) {
		t.Error("held before anybody took it")
	}
	holder, out := start(t, nil, "holder", dir, string(vf0))
	if s := line(t, out); s != "ready" {
		t.Fatal(s)
	}
	if _, err := f.Take(vf0); !errors.Is(err, drivers.ErrFenced) {
		t.Errorf("taken twice: %v, want ErrFenced", err)
	}
	_, second := start(t, nil, "holder", dir, string(vf0))
	if s := line(t, second); !strings.HasPrefix(s, "error:") {
		t.Errorf("a second process: %q", s)
	}
	if !held(t, f, vf0) || held(t, f, vf1) {
		t.Errorf("held %t, of another target %t", held(t, f, vf0), held(t, f, vf1))
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out) // until its files are closed
	_ = holder.Wait()
	if held(t, f, vf0) {
		t.Error("held after the holder was killed")
	}
	release, err := f.Take(vf0)
	if err != nil {
		t.Fatal(err)
	}
	release()
	if held(t, f, vf0) {
		t.Error("held after release")
	}
}

// TestHeldDoesNotDisturbTake has two who ask while a third takes: a look at a
// fence must never look like a write.
func TestHeldDoesNotDisturbTake(t *testing.T) {
	f := openFences(t, t.TempDir())
	release, err := f.Take(vf0)
	if err != nil {
		t.Fatal(err)
	}
	release()
	stop := make(chan struct{})
	var askers sync.WaitGroup
	for range 2 {
		askers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = f.Held(vf0)
				}
			}
		})
	}
	for i := range 3000 {
		release, err := f.Take(vf0)
		if err != nil {
			t.Errorf("take %d: %v", i, err)
			break
		}
		if h, err := f.Held(vf0); !h || err != nil {
			t.Errorf("taken and not held: %v", err)
			break
		}
		release()
	}
	close(stop)
	askers.Wait()
}

func TestFenceNames(t *testing.T) {
	dir := t.TempDir()
	f := openFences(t, dir)
	for _, target := range []drivers.Target{
		vf0, "module/vfio", "file//etc/pcidp/config.json#intel.com/x", "..", "../../etc/passwd", "a\x00b", "owner", "",
		drivers.Target("file//" + strings.Repeat("x", 4000) + "#y"),
	} {
		release, err := f.Take(target)
		if err != nil {
			t.Errorf("%.40q: %v", target, err)
			continue
		}
		if !held(t, f, target) {
			t.Errorf("%.40q is not held", target)
		}
		release()
	}
	entries, err := os.ReadDir(filepath.Join(dir, "fence"))
	if err != nil || len(entries) != 9 {
		t.Errorf("%d fences in the directory, want 9 (%v)", len(entries), err)
	}
	outside, err := os.ReadDir(dir)
	if err != nil || len(outside) != 1 {
		t.Errorf("something beside the directory: %v, %v", outside, err)
	}
}

func TestFenceIsNoLink(t *testing.T) {
	dir := t.TempDir()
	f := openFences(t, dir)
	victim := filepath.Join(dir, "victim")
	if err := os.Symlink(victim, filepath.Join(dir, "fence", "t-"+string(vf0))); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Take(vf0); err == nil {
		t.Error("a fence that is a link was taken")
	}
	if _, err := os.Lstat(victim); err == nil {
		t.Error("a file was made through a link")
	}
}

func TestClaim(t *testing.T) {
	f := openFences(t, t.TempDir())
	if err := f.Owned("anybody"); !errors.Is(err, drivers.ErrRefused) {
		t.Errorf("nobody has claimed: %v, want ErrRefused", err)
	}
	first, err := f.Claim()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Owned(first); err != nil {
		t.Error(err)
	}
	second, err := f.Claim()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Owned(first); !errors.Is(err, drivers.ErrRefused) {
		t.Errorf("the first owner: %v, want ErrRefused", err)
	}
	if err := f.Owned(second); err != nil {
		t.Error(err)
	}
	if first == second || len(first) < 20 {
		t.Errorf("tokens %q and %q", first, second)
	}
}

// race is a writer of an agent that was replaced, and the agent that replaces
// it, step by step.
type race struct {
	t       *testing.T
	fences  host.Fences
	owner   string
	release func()
	may     bool // Owned has said yes
	free    bool // the new agent found the target free
	bad     bool // and it was written after that
}

func (r *race) step(name string) {
	switch name {
	case "take":
		release, err := r.fences.Take(vf0)
		if err != nil {
			r.t.Fatal(err)
		}
		r.release = release
	case "owned":
		r.may = r.fences.Owned(r.owner) == nil
	case "write":
		r.bad = r.bad || r.may && r.free
		if r.release != nil {
			r.release()
		}
	case "claim":
		if _, err := r.fences.Claim(); err != nil {
			r.t.Fatal(err)
		}
	case "look":
		r.free = !held(r.t, r.fences, vf0)
	}
}

// interleavings are all orders of two sequences of steps.
func interleavings(a, b []string) [][]string {
	if len(a) == 0 || len(b) == 0 {
		return [][]string{slices.Concat(a, b)}
	}
	var all [][]string
	for _, rest := range interleavings(a[1:], b) {
		all = append(all, append([]string{a[0]}, rest...))
	}
	for _, rest := range interleavings(a, b[1:]) {
		all = append(all, append([]string{b[0]}, rest...))
	}
	return all
}

// TestClaimOrder is the argument in the comment of Claim, in every order: who
// found a fence free is never surprised by a write of the agent before. Other
// orders within one side must fail, or the test shows nothing.
func TestClaimOrder(t *testing.T) {
	for _, tc := range []struct {
		name          string
		writer, agent []string
		safe          bool
	}{
		{"as it is", []string{"take", "owned", "write"}, []string{"claim", "look"}, true},
		{"the writer asks before it takes", []string{"owned", "take", "write"}, []string{"claim", "look"}, false},
		{"the agent looks before it claims", []string{"take", "owned", "write"}, []string{"look", "claim"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var bad []string
			for _, steps := range interleavings(tc.writer, tc.agent) {
				r := &race{t: t, fences: openFences(t, t.TempDir())}
				var err error
				if r.owner, err = r.fences.Claim(); err != nil {
					t.Fatal(err)
				}
				for _, s := range steps {
					r.step(s)
				}
				if r.bad {
					bad = append(bad, strings.Join(steps, " "))
				}
			}
			if (len(bad) == 0) != tc.safe {
				t.Errorf("safe %t, want %t: %q", len(bad) == 0, tc.safe, bad)
			}
		})
	}
}
