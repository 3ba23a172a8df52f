//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"eniagent/recovery/chaos/wire"
)

// poke is one open, one write(2), one close: a sysfs store sees exactly the bytes given, once.
func poke(file string, data []byte) error {
	fd, err := unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: file, Err: err}
	}
	n, err := unix.Write(fd, data)
	if err == nil && n != len(data) {
		err = io.ErrShortWrite
	}
	if err != nil {
		_ = unix.Close(fd)
		return &os.PathError{Op: "write", Path: file, Err: err}
	}
	if err := unix.Close(fd); err != nil {
		return &os.PathError{Op: "close", Path: file, Err: err}
	}
	return nil
}

// inode prints the inode of a file, links followed.
func inode(file string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return &os.PathError{Op: "stat", Path: file, Err: err}
	}
	_, err := fmt.Fprintln(os.Stdout, st.Ino)
	return err
}

// writeFile returns when the content and the name have reached the disk.
func writeFile(file string, data []byte, perm os.FileMode) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, syncIfDisk(f), f.Close()); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(syncIfDisk(dir), dir.Close())
}

// syncIfDisk lets pass that some file systems have nothing to sync.
func syncIfDisk(f *os.File) error {
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = e.Name()
	}
	return list, nil
}

// pollEvery is short, because what is waited for is mostly a few milliseconds away, and not so short that polling
// takes the CPU from it.
const pollEvery = 10 * time.Millisecond

// until waits for a condition and returns what it saw last: the path, content or link.
func until(test wire.Test, pattern, want string, within time.Duration) (string, error) {
	deadline := time.Now().Add(within)
	for {
		seen, ok := check(test, pattern, want)
		if ok {
			return seen, nil
		}
		if time.Now().After(deadline) {
			return seen, fmt.Errorf("%s is not so after %v: %s %s (last seen: %q): %w",
				test, within, pattern, want, seen, unix.ETIMEDOUT)
		}
		time.Sleep(pollEvery)
	}
}

func check(test wire.Test, pattern, want string) (string, bool) {
	matches, _ := filepath.Glob(pattern)
	if test == wire.Gone {
		return strings.Join(matches, " "), len(matches) == 0
	}
	if test == wire.Exists {
		return strings.Join(matches[:min(1, len(matches))], ""), len(matches) > 0
	}
	// Any match will do: of a program's threads it is not known which one is in the kernel.
	var seen string
	for _, file := range matches {
		var ok bool
		if seen, ok = holds(test, file, want); ok {
			return seen, true
		}
	}
	return seen, false
}

func holds(test wire.Test, file, want string) (string, bool) {
	if test == wire.LinksTo {
		link, err := os.Readlink(file)
		return link, err == nil && filepath.Base(link) == want
	}
	raw, err := os.ReadFile(file)
	seen := strings.TrimSpace(string(raw))
	if test == wire.Equals {
		return seen, err == nil && seen == want
	}
	return seen, err == nil && strings.Contains(string(raw), want)
}

func dmesg() ([]byte, error) {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return nil, fmt.Errorf("size the kernel's log: %w", err)
	}
	buf := make([]byte, size)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		return nil, fmt.Errorf("read the kernel's log: %w", err)
	}
	return buf[:n], nil
}
