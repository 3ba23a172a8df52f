package host

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"eniagent/drivers"
)

// Fences are files in one directory, one a target. Whoever writes a target
// holds a lock on its file for as long as write(2) runs. The kernel lets go of
// it only when the task is really gone (seen on Linux 6.12 with a task in
// state D), so a fence tells of a hung write across agents and restarts, with
// no process ids stored.
//
// The lock is one of the open file description (F_OFD_SETLK of fcntl(2)), which
// lives and dies as flock's does, and which, unlike that, can be asked for
// without being taken: a look at a fence never gets in the way of a write.
type Fences struct{ dir string }

const ownerFile = "owner"

// FencesIn are the fences in a directory that need not be there, for who only
// asks about them.
func FencesIn(dir string) Fences { return Fences{dir: dir} }

// OpenFences makes the directory where it is missing.
func OpenFences(dir string) (Fences, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Fences{}, fmt.Errorf("make fence directory: %w", err)
	}
	return Fences{dir: dir}, nil
}

func (f Fences) file(t drivers.Target) string {
	name := strings.NewReplacer("/", "~", "\x00", "~").Replace(string(t))
	if len(name) > 200 {
		sum := sha256.Sum256([]byte(name))
		name = hex.EncodeToString(sum[:])
	}
	return filepath.Join(f.dir, "t-"+name)
}

// fileFence is what the writers of a file take besides the fence of its entry. A
// lock in the file's own directory would be left there for others to wonder
// about, or be one that any reader of the directory can hold.
func fileFence(path string) drivers.Target { return drivers.Target("file/" + path) }

// Take takes the fence, or returns drivers.ErrFenced at once.
func (f Fences) Take(t drivers.Target) (release func(), err error) {
	return f.lock(t, unix.F_OFD_SETLK)
}

// Wait takes the fence as soon as nobody has it.
func (f Fences) Wait(t drivers.Target) (release func(), err error) {
	return f.lock(t, unix.F_OFD_SETLKW)
}

func (f Fences) lock(t drivers.Target, how int) (release func(), err error) {
	file, err := os.OpenFile(f.file(t), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrNotExist) { // somebody removed it under the agent
		err = os.Mkdir(f.dir, 0o700)
		if err == nil || errors.Is(err, fs.ErrExist) {
			file, err = os.OpenFile(f.file(t), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open fence of %s: %w", t, err)
	}
	lock := whole()
	for {
		if err = unix.FcntlFlock(file.Fd(), how, &lock); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		// Closing lets go of the lock, and cannot fail for a file never written.
		return func() { _ = file.Close() }, nil
	}
	_ = file.Close()
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("%s: %w", t, drivers.ErrFenced)
	}
	return nil, fmt.Errorf("lock fence of %s: %w", t, err)
}

// whole is a writer's lock on all of a file.
func whole() unix.Flock_t { return unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart} }

// Held says whether somebody holds the fence, and takes nothing itself.
func (f Fences) Held(t drivers.Target) (bool, error) {
	file, err := os.OpenFile(f.file(t), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open fence of %s: %w", t, err)
	}
	lock := whole()
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, fmt.Errorf("look at fence of %s: %w", t, errors.Join(err, file.Close()))
	}
	return lock.Type != unix.F_UNLCK, file.Close()
}

// Claim makes the caller the owner of all fences to come and returns its
// token. An agent claims before it looks at any fence; a child takes a fence,
// then asks Owned, then writes. So a child that outlived its agent either sees
// the new owner and does not write, or had its fence before the new agent
// looked.
func (f Fences) Claim() (owner string, err error) {
	owner = rand.Text()
	// Written in place, always as long: a full disk takes that, and a reader sees
	// the old owner or the new one (write(2) and read(2) of one page).
	file, err := os.OpenFile(filepath.Join(f.dir, ownerFile), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", fmt.Errorf("claim fences: %w", err)
	}
	_, err = file.WriteAt([]byte(owner), 0)
	if err = errors.Join(err, file.Close()); err != nil {
		return "", fmt.Errorf("claim fences: %w", err)
	}
	return owner, nil
}

// Owned is an error unless owner made the last claim.
func (f Fences) Owned(owner string) error {
	b, err := os.ReadFile(filepath.Join(f.dir, ownerFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read owner of fences: %w: %s", drivers.ErrRefused, err.Error())
	case err != nil:
		return fmt.Errorf("read owner of fences: %w: %s", drivers.ErrStarved, err.Error())
	}
	if string(b) != owner {
		return fmt.Errorf("another agent has taken over: %w", drivers.ErrRefused)
	}
	return nil
}
