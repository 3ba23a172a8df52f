//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"

	"eniagent/recovery/chaos/wire"
)

// remote turns a reply's error into one that errors.Is knows: the guest's errno, where it had one.
func remote(r wire.Reply, op, file string) error {
	switch {
	case r.Err == "":
		return nil
	case r.Errno == 0:
		return errors.New(r.Err)
	case file == "":
		return fmt.Errorf("%s: %w", r.Err, syscall.Errno(r.Errno))
	}
	return &fs.PathError{Op: op, Path: file, Err: syscall.Errno(r.Errno)}
}

func (v *VM) call(ctx context.Context, r wire.Request) (wire.Reply, error) {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	what := string(r.Op) + " " + r.Path
	m, err := v.machine()
	if err != nil {
		return wire.Reply{}, fmt.Errorf("%s: %w", what, err)
	}
	a, err := m.call(ctx, r)
	if err != nil {
		return wire.Reply{}, v.explain(what, err)
	}
	return a, remote(a, string(r.Op), r.Path)
}

// ReadFile returns a guest file's content. Like all of these, it gives the guest's errno as the error.
func (v *VM) ReadFile(ctx context.Context, file string) ([]byte, error) {
	a, err := v.call(ctx, wire.Request{Op: wire.Read, Path: file})
	return a.Data, err
}

// ReadText is ReadFile without the surrounding white space, for the small files of sysfs.
func (v *VM) ReadText(ctx context.Context, file string) (string, error) {
	b, err := v.ReadFile(ctx, file)
	return strings.TrimSpace(string(b)), err
}

// WriteFile makes a guest file hold data, and returns when it and its directory are synced.
func (v *VM) WriteFile(ctx context.Context, file string, data []byte, perm fs.FileMode) error {
	_, err := v.call(ctx, wire.Request{Op: wire.Write, Path: file, Data: data, Perm: uint32(perm.Perm())})
	return err
}

// Poke writes a value to an existing file in one write(2), as sysfs wants it. Where the write may hang, run
// Helper's write instead: that is a process, which can be watched and killed.
func (v *VM) Poke(ctx context.Context, file, value string) error {
	_, err := v.call(ctx, wire.Request{Op: wire.Poke, Path: file, Data: []byte(value)})
	return err
}

// Readlink returns where a guest's symbolic link points.
func (v *VM) Readlink(ctx context.Context, file string) (string, error) {
	a, err := v.call(ctx, wire.Request{Op: wire.Readlink, Path: file})
	return string(a.Data), err
}

// ReadDir returns the names in a guest's directory, sorted.
func (v *VM) ReadDir(ctx context.Context, dir string) ([]string, error) {
	a, err := v.call(ctx, wire.Request{Op: wire.ReadDir, Path: dir})
	return a.Names, err
}

// Dmesg is the kernel's log since the boot.
func (v *VM) Dmesg(ctx context.Context) (string, error) {
	a, err := v.call(ctx, wire.Request{Op: wire.Dmesg})
	return string(a.Data), err
}

// WaitExists waits, in the guest, until something matches the pattern, and returns the first that does.
func (v *VM) WaitExists(ctx context.Context, pattern string) (string, error) {
	return v.untilSeen(ctx, wire.Exists, pattern, "")
}

// WaitGone waits until nothing matches the pattern.
func (v *VM) WaitGone(ctx context.Context, pattern string) error {
	return v.until(ctx, wire.Gone, pattern, "")
}

// WaitLink waits until a symbolic link's last element is base: that a device has a driver.
func (v *VM) WaitLink(ctx context.Context, file, base string) error {
	return v.until(ctx, wire.LinksTo, file, base)
}

// WaitText waits until a file's content, without surrounding white space, is text.
func (v *VM) WaitText(ctx context.Context, file, text string) error {
	return v.until(ctx, wire.Equals, file, text)
}

func (v *VM) until(ctx context.Context, t wire.Test, pattern, want string) error {
	_, err := v.untilSeen(ctx, t, pattern, want)
	return err
}

// untilSeen lets the guest wait and gives it a little less than there is: it knows what it saw last, and the host's
// deadline would say only that it passed.
func (v *VM) untilSeen(ctx context.Context, t wire.Test, pattern, want string) (string, error) {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline)
	m, err := v.machine()
	if err != nil {
		return "", fmt.Errorf("wait for %s: %w", pattern, err)
	}
	a, err := m.call(ctx, wire.Request{Op: wire.Until, Test: t, Path: pattern, Want: want, Within: left - left/10})
	if err == nil && a.Err != "" {
		err = fmt.Errorf("%s: %w", a.Err, context.DeadlineExceeded)
	}
	return string(a.Data), v.explain("wait for "+path.Clean(pattern), err)
}

// pollEvery is how often WaitFor looks.
const pollEvery = 50 * time.Millisecond

// WaitFor calls cond until it is true, has an error, or the time is up. It is for what one file does not tell.
func (v *VM) WaitFor(ctx context.Context, what string, cond func(context.Context) (bool, error)) error {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		ok, err := cond(ctx)
		if err != nil {
			return v.explain("wait for "+what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return v.explain("wait for "+what, context.Cause(ctx))
		}
	}
}
