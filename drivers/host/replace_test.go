package host_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

func replaceWith(value, was string) host.Call {
	return host.Call{Op: host.OpReplace, Target: poolTarget, Path: poolFile, Value: value, Was: was}
}

var syncCall = host.Call{Op: host.OpSync, Target: poolTarget, Path: poolFile} //nolint:gochecknoglobals // a constant

// rooted is a Linux in a directory of its own, where the file's directory is,
// and the path of the file there.
func rooted(t *testing.T) (host.Linux, string) {
	t.Helper()
	root := t.TempDir()
	file := filepath.Join(root, poolFile)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	return host.Linux{Root: root}, file
}

func has(t *testing.T, file, want string) {
	t.Helper()
	if b, err := os.ReadFile(file); err != nil || string(b) != want {
		t.Errorf("%s is %q (%v), want %q", file, b, err, want)
	}
}

func alone(t *testing.T, file string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != filepath.Base(file) {
		t.Errorf("beside the file: %v (%v)", entries, err)
	}
}

// TestReplaceFile: a new file, another content, mode, owner and what a crash
// left; a file that is read byte for byte.
func TestReplaceFile(t *testing.T) {
	l, file := rooted(t)
	ctx := t.Context()
	do := func(c host.Call) {
		t.Helper()
		if err := l.Do(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Do(ctx, syncCall); err != nil {
		t.Errorf("sync of no file: %v", err)
	}
	do(replaceWith("{}\n", ""))
	has(t, file, "{}\n")
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.Chmod(file, 0o604); err != nil {
		t.Fatal(err)
	}
	owner := os.Getuid()
	if owner == 0 {
		owner = 1234
		if err := os.Chown(file, owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	left := filepath.Join(filepath.Dir(file), ".config.json.eniagent")
	if err := os.WriteFile(left, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	do(replaceWith("[]", host.Digest("{}\n")))
	do(syncCall)
	has(t, file, "[]")
	alone(t, file)
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil || st.Mode&0o7777 != 0o604 || int(st.Uid) != owner {
		t.Errorf("mode %o, owner %d (%v), want 604 and %d", st.Mode, st.Uid, err, owner)
	}
	if text, err := l.File(ctx, poolFile); err != nil || text != "[]" {
		t.Errorf("%q, %v", text, err)
	}
}

// TestReplaceKeepsTheLabel: a file that SELinux labelled stays labelled.
func TestReplaceKeepsTheLabel(t *testing.T) {
	l, file := rooted(t)
	const label, text = "security.selinux", "system_u:object_r:etc_t:s0\x00"
	if err := os.WriteFile(file, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(file, label, []byte(text), 0); err != nil {
		t.Skipf("SKIPPED: label a file: %v; run as root on a file system with labels", err)
	}
	if err := l.Do(t.Context(), replaceWith("[]", host.Digest("{}"))); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	if n, err := unix.Getxattr(file, label, got); err != nil || string(got[:n]) != text {
		t.Errorf("%q, %v", got, err)
	}
}

// TestReplaceRefuses what is not as it was, not a file, or in a directory that
// everybody writes; nothing is changed then, and nothing left.
func TestReplaceRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(file string) error
		was     string
		want    error
	}{
		"changed":          {func(f string) error { return os.WriteFile(f, []byte("theirs"), 0o644) }, host.Digest("{}"), drivers.ErrChanged},
		"come meanwhile":   {func(f string) error { return os.WriteFile(f, nil, 0o644) }, "", drivers.ErrChanged},
		"gone meanwhile":   {func(string) error { return nil }, host.Digest("{}"), drivers.ErrChanged},
		"a symbolic link":  {func(f string) error { return os.Symlink("/etc/hostname", f) }, "", syscall.ELOOP},
		"a directory":      {func(f string) error { return os.Mkdir(f, 0o755) }, "", syscall.EINVAL},
		"a pipe":           {func(f string) error { return unix.Mkfifo(f, 0o600) }, "", syscall.EINVAL},
		"no directory":     {func(f string) error { return os.Remove(filepath.Dir(f)) }, "", fs.ErrNotExist},
		"an open door":     {func(f string) error { return os.Chmod(filepath.Dir(f), 0o777) }, "", syscall.EPERM},
		"a directory link": {linked, "", syscall.ENOTDIR},
		"too large":        {func(f string) error { return os.WriteFile(f, make([]byte, host.MaxFile+1), 0o644) }, "", syscall.EFBIG},
	} {
		t.Run(name, func(t *testing.T) {
			l, file := rooted(t)
			if err := tc.prepare(file); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(file)
			if err := l.Do(t.Context(), replaceWith("[]", tc.was)); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if after, _ := os.Lstat(file); before != nil && !os.SameFile(before, after) {
				t.Error("it is another file now")
			}
			if name != "no directory" {
				alone(t, file)
			}
		})
	}
}

// linked makes the file's directory a link to another one.
func linked(file string) error {
	dir := filepath.Dir(file)
	return errors.Join(os.Rename(dir, dir+".real"), os.Symlink(dir+".real", dir))
}

// TestFileThroughPool: the child makes the write, for the files it was started
// for and no others, and says what was changed as the kernel does.
func TestFileThroughPool(t *testing.T) {
	root := t.TempDir()
	fences, err := host.OpenFences(filepath.Join(root, "fence"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "srv"), 0o755); err != nil {
		t.Fatal(err)
	}
	const file = "/srv/dp.json"
	command := []string{"/usr/bin/env", roleVar + "=linux", quickEnd, os.Args[0], root}
	open := func(files ...string) *host.Pool {
		p, err := host.NewPool(host.Linux{Root: root}, host.PoolOptions{Command: command, Fences: fences, Files: files})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	call := func(entry, value, was string) host.Call {
		return host.Call{Op: host.OpReplace, Target: drivers.Target("file/" + file + "#a/" + entry), Path: file, Value: value, Was: was}
	}
	if err := open().Do(t.Context(), call("b", "{}", "")); !errors.Is(err, drivers.ErrIllegal) {
		t.Errorf("a file that is not in the options: %v, want ErrIllegal", err)
	}
	p := open(file)
	if err := p.Do(t.Context(), call("b", "{}", "")); err != nil {
		t.Fatal(err)
	}
	err = p.Do(t.Context(), call("b", "[]", ""))
	if !errors.Is(err, drivers.ErrChanged) {
		t.Errorf("%v, want ErrChanged", err)
	}
	// Many entries at once: each write is of what was there, or refused.
	const many = 8
	var group sync.WaitGroup
	errs := make([]error, many)
	for i := range many {
		group.Go(func() { errs[i] = p.Do(context.Background(), call(strings.Repeat("x", i+1), "[1]", host.Digest("{}"))) })
	}
	group.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else if !errors.Is(err, drivers.ErrChanged) {
			t.Error(err)
		}
	}
	if made != 1 {
		t.Errorf("%d of %d writes were made of the same content", made, many)
	}
	has(t, filepath.Join(root, file), "[1]")
	alone(t, filepath.Join(root, file))
}
