package supervise

import (
	"bytes"
	"context"
	"errors"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestAPanicIsToldToTheOwner, with the path of who panicked and where, and ends nothing.
func TestAPanicIsToldToTheOwner(t *testing.T) {
	told := make(chan error, 3)
	g := New("agent", func(err error) { told <- err }).Below("reconcile")
	g.Go("worker", func() { panic("boom") })
	g.AfterFunc(0, "timer", func() { panic(errors.New("bang")) })
	Of(g.In(context.Background())).Go("source", func() { _ = []int{}[len(told)+cap(told)] })
	g.Wait()
	seen := map[string]string{}
	for range 3 {
		var p *Panic
		if err := <-told; !errors.As(err, &p) {
			t.Fatalf("told %v", err)
		}
		if !strings.Contains(p.Stack, "supervise_test.go") || !strings.HasPrefix(p.Error(), "panic in "+p.Owner+": ") {
			t.Errorf("it does not say where: %v", p)
		}
		seen[p.Owner] = strings.SplitN(p.Error(), "\n", 2)[0]
	}
	for _, want := range []string{
		"panic in agent/reconcile/worker: boom", "panic in agent/reconcile/timer: bang",
		"panic in agent/reconcile/source: runtime error: index out of range",
	} {
		owner, _, _ := strings.Cut(strings.TrimPrefix(want, "panic in "), ":")
		if !strings.HasPrefix(seen[owner], want) {
			t.Errorf("got %q, want %q", seen[owner], want)
		}
	}
}

// TestContain: what the function returns is returned, and a panic instead of it.
func TestContain(t *testing.T) {
	want := errors.New("ended")
	done := make(chan struct{})
	new(Group).Go("test", func() { // its labels stay with the goroutine
		defer close(done)
		if err := Contain("a", func() error { return want }); !errors.Is(err, want) {
			t.Errorf("got %v", err)
		}
		var p *Panic
		if err := Contain("a/b", func() error { panic(want) }); !errors.As(err, &p) || p.Owner != "a/b" {
			t.Errorf("got %v", err)
		}
	})
	<-done
}

// TestWaitAndTimers: Wait is for goroutines, and not for a timer that has yet to fire.
func TestWaitAndTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		var mu sync.Mutex
		ran := 0
		count := func() { mu.Lock(); defer mu.Unlock(); ran++ }
		late := g.AfterFunc(time.Hour, "late", count)
		g.Go("now", count)
		g.Wait()
		if ran != 1 || !late.Stop() {
			t.Errorf("%d ran", ran)
		}
		g.AfterFunc(time.Second, "soon", count)
		time.Sleep(time.Second)
		synctest.Wait()
		if ran != 2 {
			t.Errorf("%d ran", ran)
		}
	})
}

// TestADumpNamesTheOwner, also of what a library starts from one of the goroutines.
func TestADumpNamesTheOwner(t *testing.T) {
	release, started := make(chan struct{}), make(chan struct{}, 2)
	g := New("agent/reconcile", func(err error) { t.Error(err) })
	stand := func() { started <- struct{}{}; <-release }
	g.Go("worker 0000:02:00.0", func() {
		go stand() // as a library does
		stand()
	})
	<-started
	<-started
	var dump bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&dump, 1); err != nil {
		t.Fatal(err)
	}
	close(release)
	g.Wait()
	if n := strings.Count(dump.String(), `labels: {"owner":"agent/reconcile/worker 0000:02:00.0"}`); n == 0 {
		t.Errorf("no goroutine has an owner in:\n%s", dump.String())
	}
}
