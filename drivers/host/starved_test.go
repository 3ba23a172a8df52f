package host_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// TestWhatThePoolLacks is told as the agent's own means, and not as the answer
// of the write that it could not make.
func TestWhatThePoolLacks(t *testing.T) {
	t.Run("a process", func(t *testing.T) {
		dir := t.TempDir()
		f, err := host.OpenFences(dir)
		if err != nil {
			t.Fatal(err)
		}
		p, err := host.NewPool(fakeKernel{dir}, host.PoolOptions{Command: []string{filepath.Join(dir, "none")}, Fences: f})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = p.Close() }()
		if err := p.Do(context.Background(), override(vf0, "igb")); !errors.Is(err, drivers.ErrStarved) {
			t.Errorf("a write says %v", err)
		}
		if _, err := p.Links(context.Background()); !errors.Is(err, drivers.ErrStarved) {
			t.Errorf("a read says %v", err)
		}
	})
	t.Run("a fence", func(t *testing.T) {
		r := newPool(t, t.TempDir())
		r.writer(t)
		// A directory where the fence's file would be: it cannot be opened for writing.
		if err := os.Mkdir(filepath.Join(r.dir, "fence", "t-"+string(vf0)), 0o700); err != nil {
			t.Fatal(err)
		}
		err := r.Do(context.Background(), override(vf0, "igb"))
		if !errors.Is(err, drivers.ErrStarved) || errors.Is(err, drivers.ErrRefused) || errors.Is(err, syscall.EISDIR) {
			t.Errorf("a write says %v", err)
		}
	})
}
