package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func splitWords(s string) []string { return strings.Fields(s) }

func TestFlushAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := memoryPlace()
		var commits atomic.Int32
		j := p.open(t, func(o *Options) {
			o.FlushAfter = time.Second
			o.OnCommit = func(time.Duration, error) { commits.Add(1) }
		})
		a := begin(t, j, 1, "9000")
		finish(t, j, a.ID, Done)
		time.Sleep(999 * time.Millisecond)
		synctest.Wait()
		if n := commits.Load(); n != 1 {
			t.Fatalf("%d commits before its time", n)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if n := commits.Load(); n != 2 {
			t.Fatalf("%d commits, want the flush", n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := commits.Load(); n != 2 {
			t.Fatalf("%d commits while nothing happened", n)
		}
		b := begin(t, j, 1, "9001")
		finish(t, j, b.ID, Done)
		c := begin(t, j, 2, "9001") // carries it; the timer has nothing left to do
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := commits.Load(); n != 4 {
			t.Fatalf("%d commits, want 4", n)
		}
		wantOpen(t, j, c.ID)
		j.Abandon()
	})
}

// Callers that come while a commit is under way share the next one.
func TestGroupCommit(t *testing.T) {
	eachStore(t, func(t *testing.T, p *place) {
		hold := make(chan struct{})
		first := make(chan struct{})
		var once sync.Once
		var labels []string
		j := p.open(t, func(o *Options) {
			o.Fault = func(point string) error {
				labels = append(labels, point)
				once.Do(func() { close(first); <-hold })
				return nil
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() { begin(t, j, 0, "1") })
		<-first
		for i := 1; i <= 20; i++ {
			wg.Go(func() { begin(t, j, i, "1") })
		}
		for {
			j.mu.RLock()
			n := j.pending.waiters
			j.mu.RUnlock()
			if n == 20 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		close(hold)
		wg.Wait()
		if n := j.Manifest().Sequence; n != 3 { // creation, the first, all others
			t.Fatalf("%d commits, want 3", n)
		}
		if want := "[begin:before begin:after begin:before begin:after]"; fmt.Sprint(labels) != want {
			t.Fatalf("points %v, want %s", labels, want)
		}
		j.Abandon()
		if n := len(p.open(t).Operations()); n != 21 {
			t.Fatalf("%d open", n)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t, func(o *Options) { o.FlushAfter = time.Millisecond; o.Now = time.Now })
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := range 25 {
					o := begin(t, j, w*100+i%3, fmt.Sprint(i))
					_ = j.Note(o.ID, "x")
					if i%5 == 0 {
						_ = j.Reverting(context.Background(), o.ID, "x", false)
						_ = j.End(Closing{ID: o.ID, State: Reverted, Count: CountRevert})
					} else {
						_ = j.Finish(o.ID, Done, "")
					}
					j.Operations()
					j.History(3)
					j.Failures()
				}
			})
		}
		wg.Wait()
		ok(t, j.Close())
		j = p.open(t)
		wantOpen(t, j)
		if n := len(j.History(0)); n != 200 {
			t.Fatalf("%d in history", n)
		}
	})
}

// failing is a Fault that fails once, at one point, in one way.
func failing(point string, err error) func(*Options) {
	return func(o *Options) {
		failed := false
		o.Fault = func(p string) error {
			if p != point || failed {
				return nil
			}
			failed = true
			return err
		}
	}
}

func TestUnknownOutcome(t *testing.T) {
	for _, tc := range []struct {
		point   string
		err     error
		written bool
	}{
		{"begin:before", syscall.EIO, false},
		{"begin:after", syscall.EIO, true},
		{"begin:after", syscall.ENOSPC, true}, // no room, but it is there: not clean
	} {
		t.Run(fmt.Sprintf("%s %v", tc.point, tc.err), func(t *testing.T) {
			eachStore(t, func(t *testing.T, p *place) {
				j := p.open(t)
				ok(t, j.Close())
				j = p.open(t, failing(tc.point, tc.err))
				_, err := j.Begin(context.Background(), operation(1, "1"), nil)
				wantErr(t, err, ErrIndeterminate)
				wantErr(t, err, tc.err)
				wantErr(t, j.Err(), ErrIndeterminate)
				_, err = j.Begin(context.Background(), operation(2, "1"), nil)
				wantErr(t, err, ErrIndeterminate)
				wantErr(t, j.Finish(1, Done, ""), ErrIndeterminate)
				wantErr(t, j.Flush(context.Background()), ErrIndeterminate)
				wantErr(t, j.Close(), ErrIndeterminate)
				j = p.open(t)
				if got := len(j.Operations()) == 1; got != tc.written {
					t.Fatalf("written %v, want %v", got, tc.written)
				}
				begin(t, j, 2, "1")
			})
		})
	}
}

func TestNoSpace(t *testing.T) {
	ctx := context.Background()
	eachStore(t, func(t *testing.T, p *place) {
		full := false
		j := p.open(t, func(o *Options) {
			o.Fault = func(point string) error {
				if full && strings.HasSuffix(point, ":before") {
					return fmt.Errorf("write: %w", syscall.ENOSPC)
				}
				return nil
			}
		})
		a, b := begin(t, j, 1, "1"), begin(t, j, 2, "1")
		ok(t, j.SetDesired(ctx, Desired{Source: "file", Generation: "1"}))
		finish(t, j, b.ID, Done)
		before := snapshotOf(j)
		full = true
		_, err := j.Begin(ctx, operation(3, "1"), []Baseline{{Key: mtu(3), Class: "volatile"}}, Closing{ID: a.ID, State: Done})
		wantErr(t, err, ErrNoSpace)
		_, err = j.Attempt(ctx, a.ID)
		wantErr(t, err, ErrNoSpace)
		wantErr(t, j.Reverting(ctx, a.ID, "x", false), ErrNoSpace)
		wantErr(t, j.Quarantine(ctx, a.ID, "x"), ErrNoSpace)
		wantErr(t, j.SetDesired(ctx, Desired{Source: "file", Generation: "2"}), ErrNoSpace)
		wantErr(t, j.Flush(ctx), ErrNoSpace)
		if d := cmp.Diff(before, snapshotOf(j)); d != "" {
			t.Fatalf("failed changes left traces: %s", d)
		}
		ok(t, j.Err())
		full = false
		c := begin(t, j, 3, "1")
		j.Abandon()
		j = p.open(t)
		wantOpen(t, j, a.ID, c.ID) // b's completion waited, and rode along
	})
}

// A lazy change that finds no room is tried again by itself.
func TestNoSpaceRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := memoryPlace()
		var tries atomic.Int32
		j := p.open(t, func(o *Options) {
			o.FlushAfter = time.Second
			o.Fault = func(point string) error {
				if strings.Contains(point, "finish:before") || strings.Contains(point, "retry:before") {
					if tries.Add(1) < 4 {
						return syscall.ENOSPC
					}
				}
				return nil
			}
		})
		a := begin(t, j, 1, "1")
		finish(t, j, a.ID, Done)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := tries.Load(); n != 4 {
			t.Fatalf("%d tries", n)
		}
		j.Abandon()
		wantOpen(t, p.open(t))
	})
}

func TestClosed(t *testing.T) {
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		ok(t, j.Close())
		ok(t, j.Close())
		_, err := j.Begin(context.Background(), operation(1, "1"), nil)
		wantErr(t, err, ErrClosed)
		wantErr(t, j.Note(1, "x"), ErrClosed)
	})
}

func TestEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		_, err := j.Begin(ctx, operation(1, "1"), nil)
		wantErr(t, err, context.Canceled)
		wantErr(t, j.Flush(ctx), context.Canceled)
		wantOpen(t, j)
	})
}

func TestOnCommit(t *testing.T) {
	var errs []error
	p := memoryPlace()
	j := p.open(t, failing("begin:before", errors.New("boom")), func(o *Options) {
		o.OnCommit = func(_ time.Duration, err error) { errs = append(errs, err) }
	})
	_, _ = j.Begin(context.Background(), operation(1, "1"), nil)
	if len(errs) != 1 || !errors.Is(errs[0], ErrIndeterminate) {
		t.Fatal(errs)
	}
}

// Crash at every boundary of a short life, as another package's crash engine
// does it: what is there was asked for, and everything acknowledged is there.
func TestCrashAtEveryBoundary(t *testing.T) {
	p := memoryPlace()
	type crash struct {
		at    string
		store *Memory
		acked []uint64
	}
	var crashes []crash
	var acked []uint64
	j := p.open(t, func(o *Options) {
		o.Fault = func(point string) error {
			crashes = append(crashes, crash{point, p.mem.Clone(), append([]uint64(nil), acked...)})
			return nil
		}
	})
	for i := range 10 {
		o := begin(t, j, i%3, fmt.Sprint(i))
		acked = append(acked, o.ID)
		ok(t, j.Reverting(context.Background(), o.ID, "x", false))
		finish(t, j, o.ID, Reverted)
	}
	for _, c := range crashes {
		r, err := OpenMemory(context.Background(), c.store, testOptions(nil))
		ok(t, err)
		if _, degraded := r.Degraded(); degraded {
			t.Fatalf("degraded at %s", c.at)
		}
		for _, id := range c.acked {
			if _, found := r.Get(id); !found {
				t.Fatalf("operation %d is lost at %s", id, c.at)
			}
		}
		r.Abandon()
	}
	if len(crashes) != 40 {
		t.Fatalf("%d boundaries", len(crashes))
	}
}

// TestRemovedUnderTheAgent: a file without a name keeps nothing for the next
// start, so nothing may be begun on the strength of it.
func TestRemovedUnderTheAgent(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(path string) error{
		"removed": os.Remove,
		"replaced": func(path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600))
		},
		"with its directory": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			p := filePlace(t)
			j := p.open(t)
			begin(t, j, 1, "1")
			ok(t, take(filepath.Join(p.dir, FileName)))
			_, err := j.Begin(context.Background(), operation(2, "1"), nil)
			wantErr(t, err, ErrRemoved)
			wantErr(t, err, ErrIndeterminate)
			wantErr(t, j.Err(), ErrIndeterminate)
			wantErr(t, j.Close(), ErrIndeterminate)
		})
	}
}
