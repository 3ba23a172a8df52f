package file

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"eniagent/agent/source"
	"eniagent/supervise"
)

// errSlow is returned when a read, or what it takes to watch, does not end in time.
var errSlow = errors.New("it takes too long")

// maxStuck bounds the reads that hang: each holds a thread until the kernel lets
// go of it.
const maxStuck = 64

// reader reads a file, each time in a goroutine of its own, which is left to
// itself when it hangs. What can hang is any call on a file system whose server
// is away, and a read of files that look regular and are not, such as /proc/kmsg.
type reader struct {
	path   string
	read   func(path string) (*source.Desired, error)
	within time.Duration
	owner  *supervise.Group
	stuck  atomic.Int32
}

// update reads the file, or says that this takes too long.
func (r *reader) update(ctx context.Context) source.Update {
	if n := r.stuck.Load(); n >= maxStuck {
		return source.Update{Err: fmt.Errorf("%s: %w: %d reads of it hang", r.path, errSlow, n)}
	}
	r.stuck.Add(1)
	done := make(chan source.Update, 1)
	r.owner.AfterFunc(0, "file read", func() {
		defer r.stuck.Add(-1)
		d, err := r.read(r.path)
		done <- source.Update{Desired: d, Err: err}
	})
	late := time.NewTimer(r.within)
	defer late.Stop()
	select {
	case u := <-done:
		return u
	case <-ctx.Done():
		return source.Update{Err: context.Cause(ctx)}
	case <-late.C:
		return source.Update{Err: fmt.Errorf("%s: %w: not read within %s; see whether its file system answers, or name a file on this node", r.path, errSlow, r.within)}
	}
}

// within is what a channel gives in time, or errSlow.
func within[T any](d time.Duration, from <-chan T) error {
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case v := <-from:
		err, _ := any(v).(error)
		return err
	case <-late.C:
		return errSlow
	}
}
