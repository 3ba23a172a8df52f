package journal

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// preflight reads the file without bbolt and says whether bbolt may.
func preflight(path string) error {
	f, err := openRead(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	im, err := readImage(f)
	if err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	// One bad meta page is what a power cut in the middle of a commit leaves:
	// the other is a legal journal. A bad page that claims to be newer is not.
	if im.bad != nil && errors.Is(im.bad, ErrNewer) {
		return fmt.Errorf("check %s: %w", path, im.bad)
	}
	if err := im.check(func(string, string, []byte) error { return nil }); err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	return nil
}

// openRead opens a regular file for reading; a FIFO must not make it hang.
func openRead(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotExist, err)
	}
	if err != nil {
		return nil, explain(err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, explain(err)
	}
	if !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, fmt.Errorf("%s is not a regular file but %s: %w", path, info.Mode().Type(), ErrUnsafe)
	}
	return f, nil
}
