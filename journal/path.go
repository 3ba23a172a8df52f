package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The journal is an instruction list for a root process, so nobody else may be
// able to write it or to move another into its place: each directory on the
// way belongs to root or to this user and is not writable for others.

// explain adds to an error of the system the one that callers look for.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w (run as the owner, or as root)", ErrPermission, err)
	case isNoSpace(err):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// violation says what is wrong with a path, and the command that mends it.
func violation(path, wrong, remedy string) error {
	return fmt.Errorf("%s %s (%s): %w", path, wrong, remedy, ErrUnsafe)
}

// prepareDir makes the directory where it is missing and checks all of the way.
func prepareDir(dir string) (warnings []string, err error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, explain(err)
	}
	if uid := owner(info); uid != os.Geteuid() {
		return nil, violation(dir, fmt.Sprintf("belongs to uid %d, not to %d", uid, os.Geteuid()), fmt.Sprintf("chown %d %s", os.Geteuid(), dir))
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, violation(dir, fmt.Sprintf("has mode %04o", perm), "chmod 0700 "+dir)
	} else if perm != 0o700 {
		return nil, fmt.Errorf("%s has mode %04o (chmod 0700 %s): %w", dir, perm, dir, ErrReadOnly)
	}
	return checkFileSystem(dir)
}

// makeDir checks the way to dir from the root down, and makes what is missing,
// each directory durable in the one above it before the next.
func makeDir(dir string) error {
	path := "/"
	for _, name := range strings.Split(strings.TrimPrefix(filepath.Clean(dir), "/"), "/") {
		above := path
		path = filepath.Join(path, name)
		info, err := os.Lstat(path)
		if errors.Is(err, os.ErrNotExist) {
			err = makeOne(path, above, path == dir)
			if err == nil {
				info, err = os.Lstat(path)
			}
		}
		if err != nil {
			return explain(err)
		}
		if err := checkElement(path, info); err != nil {
			return err
		}
	}
	return nil
}

func makeOne(path, above string, last bool) error {
	mode := os.FileMode(0o755)
	if last {
		mode = 0o700
	}
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		return err
	}
	return syncDir(above)
}

func checkElement(path string, info os.FileInfo) error {
	uid, mode := owner(info), info.Mode()
	switch {
	case mode&os.ModeSymlink != 0:
		leadsTo, err := filepath.EvalSymlinks(path)
		if err != nil {
			leadsTo = "the directory it points to"
		}
		return violation(path, "is a symbolic link", "use "+leadsTo+" instead")
	case !mode.IsDir():
		return violation(path, "is not a directory", "move it away")
	case uid != 0 && uid != os.Geteuid():
		return violation(path, fmt.Sprintf("belongs to uid %d, not to root or %d", uid, os.Geteuid()), "chown root "+path)
	case mode.Perm()&0o022 != 0 && mode&os.ModeSticky == 0:
		return violation(path, fmt.Sprintf("has mode %04o: others may write", mode.Perm()), "chmod go-w "+path)
	}
	return nil
}

// checkFile wants the journal file to be this user's alone.
func checkFile(path string) (os.FileInfo, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, explain(err)
	}
	uid, mode := owner(info), info.Mode()
	switch {
	case mode&os.ModeSymlink != 0:
		return nil, violation(path, "is a symbolic link", "move it away")
	case !mode.IsRegular():
		return nil, violation(path, "is not a regular file", "move it away")
	case uid != os.Geteuid():
		return nil, violation(path, fmt.Sprintf("belongs to uid %d, not to %d", uid, os.Geteuid()), fmt.Sprintf("chown %d %s", os.Geteuid(), path))
	case mode.Perm()&0o077 != 0:
		return nil, violation(path, fmt.Sprintf("has mode %04o", mode.Perm()), "chmod 0600 "+path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink != 1 {
		return nil, violation(path, fmt.Sprintf("has %d hard links", st.Nlink), "find the others with: find / -xdev -samefile "+path)
	}
	return info, nil
}

func owner(info os.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// checkFileSystem refuses file systems whose locks or syncs do not hold across
// machines, and warns of those that do not last.
func checkFileSystem(dir string) (warnings []string, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("statfs %s: %w", dir, explain(err))
	}
	return judgeFileSystem(dir, uint32(st.Type))
}

func judgeFileSystem(dir string, kind uint32) (warnings []string, err error) {
	switch kind {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC:
		return nil, violation(dir, fmt.Sprintf("is on a network file system (%#x)", kind), "use a local disk")
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return []string{dir + " is in memory: the journal is lost on reboot"}, nil
	case unix.OVERLAYFS_SUPER_MAGIC:
		return []string{dir + " is on an overlay: the journal is lost with its container"}, nil
	}
	return nil, nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", explain(err))
	}
	defer func() { _ = f.Close() }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, explain(err))
	}
	return nil
}

// syncAbove makes the way to a directory durable: an agent that was killed may
// have made it and not come to that.
func syncAbove(dir string) error {
	for dir != "/" {
		dir = filepath.Dir(dir)
		// What this user cannot read another one made.
		if err := syncDir(dir); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}
