package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"eniagent/agent/source"
	"eniagent/agent/source/entry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asking is a file that asks one thing, the MTU, so that files can be told apart.
func asking(mtu int) []byte {
	return fmt.Appendf(nil, "%s- {name: eth1, mtu: %d}\n", head, mtu)
}

// rig is a followed file and what it was found to say.
type rig struct {
	*testing.T
	path    string
	updates <-chan source.Update
}

func followed(t *testing.T, path string) rig {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	updates, err := New(path, Options{Settle: 2 * time.Millisecond}).Updates(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		for range updates { // until it is closed
		}
	})
	return rig{t, path, updates}
}

// until waits for an update that is right; others may come before it, as each
// change of a file has moments in between.
func (r rig) until(what string, right func(source.Update) bool) {
	r.Helper()
	deadline := time.After(5 * time.Minute)
	var last source.Update
	for {
		select {
		case u := <-r.updates:
			if (u.Desired == nil) == (u.Err == nil) {
				r.Fatalf("update with %v and %v", u.Desired, u.Err)
			}
			if last = u; right(u) {
				return
			}
		case <-deadline:
			r.Fatalf("%s: no such update; the last: %+v", what, last)
		}
	}
}

func (r rig) asks(mtu int) {
	r.Helper()
	r.until(fmt.Sprint("mtu ", mtu), func(u source.Update) bool {
		return u.Desired != nil && u.Desired.Interfaces[0].MTU == mtu && u.Desired.Object == r.path
	})
}

func (r rig) complains(about string) {
	r.Helper()
	r.until(about, func(u source.Update) bool { return u.Err != nil && strings.Contains(u.Err.Error(), about) })
}

// must ends the test at an error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path, data, 0o644))
}

func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	write(t, path+".new", data)
	must(t, os.Rename(path+".new", path))
}

func TestWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.yaml")
	write(t, path, asking(1000))
	r := followed(t, path)
	r.asks(1000)
	write(t, path, asking(1001)) // in place
	r.asks(1001)
	replace(t, path, asking(1002)) // as editors do
	r.asks(1002)
	replace(t, path, asking(1003)) // the watch outlives the first
	r.asks(1003)
	must(t, os.Truncate(path, 0))
	r.complains("empty; nothing is given back")
	write(t, path, asking(1003))
	r.asks(1003)
	must(t, os.Remove(path))
	r.complains("no such file or directory; create it")
	write(t, path, asking(1004))
	r.asks(1004)
	write(t, path, []byte("apiVersion: [\n"))
	r.complains(path + ": line 2: not YAML")
	replace(t, path, asking(1004))
	r.asks(1004)
}

func TestUnsafe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.yaml")
	write(t, path, asking(1000))
	r := followed(t, path)
	r.asks(1000)
	must(t, os.Chmod(path, 0o666))
	r.complains("mode 0666 lets others write it; run: chmod go-w " + path)
	must(t, os.Chmod(path, 0o644))
	r.asks(1000)
	must(t, os.Remove(path), os.Mkdir(path, 0o755))
	r.complains("is a directory")
	must(t, os.Remove(path), syscall.Mkfifo(path, 0o600))
	r.complains("not a regular file")
	must(t, os.Remove(path), os.Symlink(path, path))
	r.complains("too many levels of symbolic links")
	replace(t, path, asking(1001))
	r.asks(1001)
	replace(t, path, make([]byte, entry.MaxSize+1))
	r.complains("1048577 bytes: want at most 1048576")
}

type info struct {
	fs.FileInfo
	mode  fs.FileMode
	owner uint32
}

func (i info) Mode() fs.FileMode { return i.mode }
func (i info) Size() int64       { return 1 }
func (i info) Sys() any          { return &syscall.Stat_t{Uid: i.owner} }

func TestSafe(t *testing.T) {
	tests := []struct {
		info info
		want string
	}{
		{info{mode: 0o644, owner: 0}, ""},
		{info{mode: 0o600, owner: 7}, ""},
		{info{mode: 0o664, owner: 7}, "f: mode 0664 lets others write it; run: chmod go-w f"},
		{info{mode: 0o644, owner: 8}, "f: owned by user 8; run: chown 7 f"},
		{info{mode: 0o602, owner: 7}, "f: mode 0602 lets others write it; run: chmod go-w f"},
	}
	for _, tc := range tests {
		got := ""
		if err := safe("f", tc.info, 7); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("mode %o of %d: got %q, want %q", tc.info.mode, tc.info.owner, got, tc.want)
		}
	}
}

// A ConfigMap volume: the file is a link to ..data/file, ..data is a link to a
// directory, and an update swaps ..data.
func TestConfigMap(t *testing.T) {
	dir := t.TempDir()
	publish := func(version string, data []byte) {
		must(t, os.Mkdir(filepath.Join(dir, version), 0o755))
		write(t, filepath.Join(dir, version, "f.yaml"), data)
		must(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")),
			os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	publish("..1", asking(1000))
	path := filepath.Join(dir, "f.yaml")
	must(t, os.Symlink("..data/f.yaml", path))
	r := followed(t, path)
	r.asks(1000)
	for n := 2; n < 6; n++ {
		publish(fmt.Sprint("..", n), asking(1000+n))
		must(t, os.RemoveAll(filepath.Join(dir, fmt.Sprint("..", n-1))))
		r.asks(1000 + n)
	}
	// Behind all links is a file that can change too.
	write(t, path, asking(2000))
	r.asks(2000)
}

func TestDirectories(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a", "b", "c")
	path := filepath.Join(dir, "f.yaml")
	r := followed(t, path)
	r.complains("no such file or directory")
	must(t, os.MkdirAll(dir, 0o755))
	write(t, path, asking(1000))
	r.asks(1000)
	for n := 1001; n < 1006; n++ { // made again, at once and often on the same inode
		must(t, os.RemoveAll(filepath.Join(top, "a")), os.MkdirAll(dir, 0o755))
		write(t, path, asking(n))
		r.asks(n)
	}
	must(t, os.Rename(filepath.Join(top, "a"), filepath.Join(top, "old")))
	r.complains("no such file or directory")
	must(t, os.MkdirAll(dir, 0o755))
	write(t, path, asking(1010))
	r.asks(1010)
	write(t, filepath.Join(top, "old", "b", "c", "f.yaml"), asking(1011)) // no longer ours
	must(t, os.RemoveAll(filepath.Join(top, "a")), os.Symlink("old", filepath.Join(top, "a")))
	r.asks(1011)
	write(t, path, asking(1012))
	r.asks(1012)
	must(t, os.RemoveAll(filepath.Join(top, "old")))
	write(t, filepath.Join(top, "old"), []byte("a file where a directory was"))
	r.complains("not a directory")
}

// Whatever happens to a file and the directories above it, the last word is
// heard.
func TestStorm(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		top := t.TempDir()
		dir := filepath.Join(top, "a", "b")
		path := filepath.Join(dir, "f.yaml")
		r := followed(t, path)
		done := make(chan struct{})
		// Most steps fail, as the one before left nothing to do it on.
		steps := []func(n int){
			func(n int) { _ = os.WriteFile(path, asking(n), 0o644) },
			func(n int) { _ = os.WriteFile(path+".new", asking(n), 0o644); _ = os.Rename(path+".new", path) },
			func(int) { _ = os.Remove(path) },
			func(int) { _ = os.RemoveAll(dir) },
			func(int) { _ = os.MkdirAll(dir, 0o755) },
			func(n int) { _ = os.Rename(dir, filepath.Join(top, fmt.Sprint("old", n))) },
			func(n int) { _ = os.Rename(filepath.Join(top, "a"), filepath.Join(top, fmt.Sprint("a", n))) },
			func(int) { _ = os.Mkdir(filepath.Join(top, "l"), 0o755); _ = os.Symlink("../l", dir) },
			func(int) { _ = os.Symlink("g.yaml", path) },
		}
		go func() {
			defer close(done)
			for n := range 300 {
				steps[rnd.IntN(len(steps))](1000 + n)
			}
		}()
		<-done
		must(t, os.RemoveAll(filepath.Join(top, "a")), os.MkdirAll(dir, 0o755))
		write(t, path, asking(9000))
		r.asks(9000)
		replace(t, path, asking(9001))
		r.asks(9001)
	}
}

func TestNoWatch(t *testing.T) {
	var before syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 0, Max: before.Max}))
	_, err := New("/f.yaml", Options{}).Updates(t.Context())
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before))
	if err == nil || !strings.Contains(err.Error(), "watch /f.yaml: ") || !strings.Contains(err.Error(), "fs.inotify.max_user_instances") {
		t.Errorf("got %v", err)
	}
}

// fake is a followed file in a bubble of time.
type fake struct {
	now     source.Update
	reads   atomic.Int32
	changed chan notice
	asks    chan chan struct{}
	updates chan source.Update
}

func good(generation string) source.Update {
	return source.Update{Desired: &source.Desired{Generation: generation}}
}

func begin(t *testing.T, first source.Update) *fake {
	f := &fake{now: first, changed: make(chan notice, 1), asks: make(chan chan struct{}), updates: make(chan source.Update)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		read := func() source.Update { f.reads.Add(1); return f.now }
		follow(ctx, read, f.changed, f.asks, 100*time.Millisecond, f.updates)
	}()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return f
}

// change is one event with what a read finds from then on.
func (f *fake) change(u source.Update) {
	f.now = u
	f.changed <- notice{}
	synctest.Wait()
}

// offered is what the reader finds: a generation, an error's text, or "".
func (f *fake) offered() string {
	synctest.Wait()
	select {
	case u := <-f.updates:
		if u.Err != nil {
			return u.Err.Error()
		}
		return u.Desired.Generation
	default:
		return ""
	}
}

func (f *fake) wants(t *testing.T, want string, reads int32) {
	t.Helper()
	got := f.offered()
	if n := f.reads.Load(); got != want || n != reads {
		t.Errorf("offered %q after %d reads, want %q after %d", got, n, want, reads)
	}
}

func TestFollow(t *testing.T) {
	bad := source.Update{Err: errors.New("bad")}
	pause := func(ms int) { time.Sleep(time.Duration(ms) * time.Millisecond); synctest.Wait() }
	tests := map[string]func(*testing.T, *fake){
		"read at once": func(t *testing.T, f *fake) {
			f.wants(t, "a", 1)
			f.wants(t, "", 1)
		},
		"read when quiet": func(t *testing.T, f *fake) {
			f.wants(t, "a", 1)
			f.change(bad) // a file half written
			pause(99)
			f.change(good("b"))
			pause(99)
			f.wants(t, "", 1)
			pause(1)
			f.wants(t, "b", 2)
		},
		"read although never quiet": func(t *testing.T, f *fake) {
			f.wants(t, "a", 1)
			for range 40 {
				f.change(good("b"))
				pause(50)
			}
			f.wants(t, "b", 2)
		},
		"the same is not sent again": func(t *testing.T, f *fake) {
			f.wants(t, "a", 1)
			f.change(good("a"))
			pause(100)
			f.wants(t, "", 2)
		},
		"the same error is not sent again": func(t *testing.T, f *fake) {
			f.wants(t, "a", 1)
			f.change(bad)
			pause(100)
			f.wants(t, "bad", 2)
			f.change(bad)
			pause(100)
			f.wants(t, "", 3)
		},
		"sent again after an error": func(t *testing.T, f *fake) {
			f.wants(t, "a", 1)
			f.change(bad)
			pause(100)
			f.wants(t, "bad", 2)
			f.change(good("a"))
			pause(100)
			f.wants(t, "a", 3)
		},
		"latest wins": func(t *testing.T, f *fake) {
			f.change(good("b"))
			pause(100)
			f.change(good("c"))
			pause(100)
			f.wants(t, "c", 3)
			f.wants(t, "", 3)
		},
		"an offer is withdrawn": func(t *testing.T, f *fake) {
			f.wants(t, "a", 1)
			f.change(good("b"))
			pause(100)
			f.change(good("a"))
			pause(100)
			f.wants(t, "", 3)
		},
		"a lost watch is told": func(t *testing.T, f *fake) {
			f.wants(t, "a", 1)
			f.changed <- notice{errors.New("no watch")}
			f.wants(t, "no watch", 1)
		},
	}
	for name, run := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { run(t, begin(t, good("a"))) })
		})
	}
}

func (f *fake) ask() chan struct{} {
	a := make(chan struct{})
	f.asks <- a
	return a
}

// over says that one who asked was answered.
func over(a chan struct{}) bool {
	synctest.Wait()
	select {
	case <-a:
		return true
	default:
		return false
	}
}

// TestARefreshIsAnsweredOnceItIsTaken: whoever asks waits until what the file says then was
// read, after it was left alone, and taken.
func TestARefreshIsAnsweredOnceItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := begin(t, good("1"))
		if got := f.offered(); got != "1" {
			t.Fatal(got)
		}
		same := f.ask()
		if over(same) {
			t.Error("answered before it was read")
		}
		if time.Sleep(100 * time.Millisecond); !over(same) || f.offered() != "" {
			t.Error("nothing is new, and whoever asked waits still")
		}
		f.now = good("2") // nobody told
		early := f.ask()
		time.Sleep(50 * time.Millisecond)
		f.change(good("3"))
		late := f.ask()
		time.Sleep(99 * time.Millisecond)
		if over(early) || f.offered() != "" {
			t.Error("read while it was being written")
		}
		time.Sleep(time.Millisecond)
		if over(early) || over(late) {
			t.Error("answered before it was taken")
		}
		after := f.ask()
		if got := f.offered(); got != "3" {
			t.Errorf("offered %q", got)
		}
		if !over(early) || !over(late) || over(after) {
			t.Errorf("taken: those before are answered %t, %t, one asked after the read %t", over(early), over(late), over(after))
		}
		if time.Sleep(100 * time.Millisecond); !over(after) {
			t.Error("not answered")
		}
	})
}
