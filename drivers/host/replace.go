package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"eniagent/drivers"
)

// File is the content of a regular file, byte for byte.
func (l Linux) File(_ context.Context, path string) (string, error) {
	f, err := openFile(l.path(path))
	if err != nil {
		return "", err
	}
	content, err := content(f)
	return content, errors.Join(err, f.Close())
}

// openFile opens a regular file for reading. What is not one, such as a pipe,
// is not waited for.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it is no regular file: %w", unix.EINVAL)}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func content(f *os.File) (string, error) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, MaxFile+1))
	if err == nil && len(b) > MaxFile {
		err = &fs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("it has more than %d bytes: %w", MaxFile, unix.EFBIG)}
	}
	return string(b), err
}

// replace gives a file another content by a new file that takes its name. A
// library for atomic files would not do: what is there is compared with what
// the new content was made from directly before the rename, the directory is
// synced by a call of its own that recovery makes too, and a crash can be put
// before and after each step.
//
// Whoever writes the file without asking anybody can still come between the
// comparison and the rename; a file has no lock that all its writers know.
func replace(path, value, was string) (err error) {
	if err := safeDir(filepath.Dir(path)); err != nil {
		return err
	}
	old, err := unchanged(path, was)
	if err != nil {
		return err
	}
	if old != nil {
		defer func() { err = errors.Join(err, old.Close()) }()
	}
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".eniagent")
	if err := fill(temp, value, old); err != nil {
		return errors.Join(err, discard(temp))
	}
	again, err := unchanged(path, was)
	if err != nil {
		return errors.Join(err, discard(temp))
	}
	if again != nil {
		defer func() { err = errors.Join(err, again.Close()) }()
	}
	CrashPoint("replace-rename:before")
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, discard(temp))
	}
	CrashPoint("replace-rename:after")
	return nil
}

// safeDir wants a directory in which nobody else can swap names.
func safeDir(path string) error {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return &fs.PathError{Op: "write below", Path: path, Err: fmt.Errorf("it is no directory itself: %w", unix.ENOTDIR)}
	case info.Mode().Perm()&0o002 != 0:
		return &fs.PathError{Op: "write below", Path: path, Err: fmt.Errorf("everybody may write there: %w", unix.EPERM)}
	}
	return nil
}

// unchanged opens a file whose content has the digest; nil is that there is
// none, as was "" says.
func unchanged(path, was string) (*os.File, error) {
	f, err := openFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if was == "" {
			return nil, nil
		}
		return nil, &fs.PathError{Op: "replace", Path: path, Err: fmt.Errorf("it is gone: %w", drivers.ErrChanged)}
	}
	if err != nil {
		return nil, err
	}
	text, err := content(f)
	if err == nil && (was == "" || Digest(text) != was) {
		err = &fs.PathError{Op: "replace", Path: path, Err: drivers.ErrChanged}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// fill makes a file with the content, durable but for its name, that whoever
// may read the old one may read. One that a crash has left is made anew.
func fill(temp, value string, old *os.File) (err error) {
	if err := discard(temp); err != nil {
		return err
	}
	CrashPoint("replace-create:before")
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	CrashPoint("replace-create:after")
	if _, err := f.WriteAt([]byte(value), 0); err != nil {
		return err
	}
	CrashPoint("replace-write:after")
	if err := inherit(f, old); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	CrashPoint("replace-sync:after")
	return nil
}

// label is where SELinux keeps a file's label.
const label = "security.selinux"

// inherit gives a new file the owner, the mode and the label of the old one.
func inherit(f, old *os.File) error {
	if old == nil {
		return f.Chmod(0o644)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(old.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	// Changing the owner takes mode bits away, so it comes first.
	if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := f.Chmod(fs.FileMode(st.Mode & 0o777)); err != nil {
		return err
	}
	return copyLabel(int(f.Fd()), int(old.Fd()))
}

func copyLabel(to, from int) error {
	text := make([]byte, 4096)
	n, err := unix.Fgetxattr(from, label, text)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err == nil {
		err = unix.Fsetxattr(to, label, text[:n], 0)
	}
	return os.NewSyscallError("copy "+label, err)
}

func discard(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncFile makes durable what a file holds and that it has its name, or that
// there is none.
func syncFile(path string) error {
	if err := syncOne(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	CrashPoint("sync-file:after")
	if err := syncOne(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncOne(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
