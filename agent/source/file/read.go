package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"eniagent/agent/source"
	"eniagent/agent/source/entry"
)

// Read reads and parses the file once. It refuses a file that somebody without
// the agent's rights could have written, as its content becomes host writes.
func Read(path string) (*source.Desired, error) {
	data, err := content(path, func(info fs.FileInfo) error { return safe(path, info, os.Geteuid()) })
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Content is what the file says, whoever may write it: for who writes nothing
// because of it.
func Content(path string) ([]byte, error) {
	return content(path, func(info fs.FileInfo) error { return readable(path, info) })
}

func content(path string, judge func(fs.FileInfo) error) ([]byte, error) {
	// Without O_NONBLOCK the open of a FIFO would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, remedy(err))
	}
	// For what looks regular and waits all the same, such as /proc/kmsg: the caller
	// has given up by then.
	_ = f.SetReadDeadline(time.Now().Add(defaultWithin))
	data, err := judgedContent(f, judge)
	return data, errors.Join(err, f.Close())
}

func judgedContent(f *os.File, judge func(fs.FileInfo) error) ([]byte, error) {
	// The open file is judged, not the path: that may be another file by now.
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := judge(info); err != nil {
		return nil, err
	}
	// One byte more than is legal, so that Parse sees a file that still grows.
	data, err := io.ReadAll(io.LimitReader(f, entry.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, remedy(err))
	}
	return data, nil
}

// safe judges what kind of file it is and who may write it.
func safe(path string, info fs.FileInfo, euid int) error {
	if err := readable(path, info); err != nil {
		return err
	}
	owner := -1
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = int(st.Uid)
	}
	switch mode := info.Mode(); {
	case mode.Perm()&0o022 != 0:
		return fmt.Errorf("%s: mode %#o lets others write it; run: chmod go-w %s", path, mode.Perm(), path)
	case owner != 0 && owner != euid:
		return fmt.Errorf("%s: owned by user %d; run: chown %d %s", path, owner, euid, path)
	}
	return nil
}

// readable judges whether it is a file that can be read to its end.
func readable(path string, info fs.FileInfo) error {
	switch mode := info.Mode(); {
	case mode.IsDir():
		return fmt.Errorf("%s: is a directory; name the file in it", path)
	case !mode.IsRegular():
		return fmt.Errorf("%s: not a regular file; write the desired state to one", path)
	case info.Size() > entry.MaxSize:
		return fmt.Errorf("%s: %d bytes: want at most %d", path, info.Size(), entry.MaxSize)
	}
	return nil
}

// remedy is what to do about an error of the system, behind a semicolon.
func remedy(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "; create it (nothing is given back while it is missing)"
	case errors.Is(err, fs.ErrPermission):
		return "; let the agent's user read it"
	case errors.Is(err, syscall.ENOTDIR):
		return "; correct the path: something on the way to it is no directory"
	}
	return ""
}
