package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockName is the file whose lock makes one agent the owner of the directory.
// The lock of bbolt is on the journal itself, which is replaced when damaged,
// and which must be judged before bbolt sees it.
const lockName = "journal.lock"

type lock struct{ file *os.File }

// takeLock waits for the lock and writes our pid into its file, for those who
// cannot see it in /proc/locks.
func takeLock(ctx context.Context, dir string, timeout time.Duration) (*lock, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, syscall.ELOOP) {
		return nil, violation(path, "is a symbolic link", "remove it")
	}
	if err != nil {
		return nil, explain(err)
	}
	info, err := f.Stat()
	if err == nil {
		err = waitLock(ctx, f, unix.LOCK_EX, timeout)
	}
	if errors.Is(err, ErrLocked) {
		err = lockedError(path, info)
	}
	if err == nil {
		err = writePID(f)
	}
	if err != nil {
		return nil, errors.Join(explain(err), f.Close())
	}
	return &lock{f}, nil
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	// A full disk must not keep the agent from its journal.
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil && !isNoSpace(err) {
		return err
	}
	return nil
}

// release unlocks before it closes: a child that is being forked may hold the
// descriptor for a moment longer.
func (l *lock) release() {
	_ = unix.Flock(int(l.file.Fd()), unix.LOCK_UN)
	_ = l.file.Close()
}

// waitLock tries until the lock is had, the time is up or ctx ends.
func waitLock(ctx context.Context, f *os.File, how int, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if time.Now().After(deadline) {
			return ErrLocked
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", f.Name(), ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lockedError names the holder as well as it can be known.
func lockedError(path string, info os.FileInfo) error {
	pid := holder(info)
	if pid == 0 && filepath.Base(path) == lockName {
		if b, err := os.ReadFile(path); err == nil {
			pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		}
	}
	if pid == 0 {
		return fmt.Errorf("%s: %w (find it with: fuser %s)", path, ErrLocked, path)
	}
	name := ""
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
		name = " (" + strings.TrimSpace(string(b)) + ")"
	}
	return fmt.Errorf("%s: %w: pid %d%s; stop it first", path, ErrLocked, pid, name)
}

// holder is the pid that the kernel shows as holding a flock on the file, 0
// when it shows none: the holder may be in another PID namespace.
func holder(info os.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)
	for line := range strings.Lines(string(b)) {
		// "1: FLOCK  ADVISORY  WRITE 1234 fe:00:56 0 EOF"
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || f[5] != want {
			continue
		}
		if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 {
			return pid
		}
	}
	return 0
}
