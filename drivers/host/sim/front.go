package sim

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/supervise"
)

// store keeps a machine: in memory for a Kernel, in a file for a File.
type store interface {
	// view is for looking only.
	view(fn func(*machine)) error
	// update is for changing; what has changed is kept even when fn fails.
	update(fn func(*machine) error) error
	// changed is closed when the machine may have changed. It is asked for
	// before looking, so that no change is missed.
	changed() <-chan struct{}
}

// front is what Kernel and File share: host.Host and the hands of the test on
// top of a store.
type front struct {
	// Hook is called before and after each write of the agent, with nothing
	// locked, so that it can Clone the kernel.
	Hook func(Point)
	// CrashFunc is called where a Fault has Crash. When it returns, the write
	// goes on.
	CrashFunc func(Point)

	store store
}

var _ host.Host = (*front)(nil)

// Read is host.Reader. It blocks where the attribute takes the device_lock.
func (f *front) Read(ctx context.Context, path string) (string, error) {
	var text string
	err := f.look(ctx, "read", path, func(m *machine) (syscall.Errno, bool) {
		n, errno := m.resolve(path, true)
		if errno == 0 && n.locks && n.function.Owner != 0 {
			return 0, false
		}
		text = n.text
		switch {
		case errno != 0:
			return errno, true
		case n.kind == kindDir:
			return syscall.EISDIR, true
		case n.kind == kindDevice && m.busy(path):
			return syscall.EBUSY, true
		case n.kind == kindDevice:
			return syscall.EINVAL, true
		}
		return n.errno, true
	})
	if err != nil {
		return "", err
	}
	return text, nil
}

// File is host.Reader.
func (f *front) File(ctx context.Context, path string) (text string, err error) {
	err = f.look(ctx, "read", path, func(m *machine) (errno syscall.Errno, over bool) {
		text, errno = m.file(path)
		return errno, true
	})
	if err != nil {
		return "", err
	}
	return text, nil
}

// Readlink is host.Reader.
func (f *front) Readlink(ctx context.Context, path string) (string, error) {
	var text string
	err := f.look(ctx, "readlink", path, func(m *machine) (syscall.Errno, bool) {
		n, errno := m.resolve(path, false)
		if errno == 0 && n.kind != kindLink {
			errno = syscall.EINVAL
		}
		text = n.text
		return errno, true
	})
	return text, err
}

// List is host.Reader.
func (f *front) List(ctx context.Context, path string) (names []string, err error) {
	err = f.look(ctx, "readdir", path, func(m *machine) (errno syscall.Errno, over bool) {
		names, errno = m.list(path)
		return errno, true
	})
	return names, err
}

// Inode is host.Reader.
func (f *front) Inode(ctx context.Context, path string) (inode uint64, err error) {
	err = f.look(ctx, "stat", path, func(m *machine) (errno syscall.Errno, over bool) {
		inode, errno = m.inode(path)
		return errno, true
	})
	return inode, err
}

// Links is host.Reader.
func (f *front) Links(ctx context.Context) (links []host.Link, err error) {
	err = f.look(ctx, "getlink", "", func(m *machine) (syscall.Errno, bool) {
		links = m.links()
		return 0, true
	})
	return links, err
}

// Settings is host.Reader.
func (f *front) Settings(ctx context.Context, index int, which host.Setting) (s host.Settings, err error) {
	err = f.look(ctx, "ethtool", string(which), func(m *machine) (errno syscall.Errno, over bool) {
		s, errno = m.settings(index, which)
		return errno, true
	})
	return s, err
}

// look makes one read, with its faults, and waits while it says that it is not
// over.
func (f *front) look(ctx context.Context, op, path string, read func(*machine) (syscall.Errno, bool)) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", op, path, err)
	}
	label := LabelRead
	if op == "getlink" {
		label = LabelLinks
	}
	var errno syscall.Errno
	faulty, over := false, false
	err := f.store.view(func(m *machine) {
		if faulty = len(m.Faults) > 0 && m.waits(label, path); !faulty {
			errno, over = read(m)
		}
	})
	if err == nil && faulty {
		errno, err = f.readFault(ctx, label, path)
		over = errno != 0
	}
	if err == nil && !over {
		errno, err = f.lookAgain(ctx, read)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", op, path, err)
	case errno != 0:
		return pathError(op, path, errno)
	}
	return nil
}

// lookAgain reads whenever something has changed, until the read is over.
func (f *front) lookAgain(ctx context.Context, read func(*machine) (syscall.Errno, bool)) (errno syscall.Errno, err error) {
	for over := false; !over; {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("%w: %w", drivers.ErrUnanswered, err)
		}
		changed := f.store.changed()
		if err := f.store.view(func(m *machine) { errno, over = read(m) }); err != nil {
			return 0, err
		}
		if !over {
			wait(ctx, changed)
		}
	}
	return errno, nil
}

// readFault is what a fault does to a read.
func (f *front) readFault(ctx context.Context, label, path string) (syscall.Errno, error) {
	var fault Fault
	err := f.store.update(func(m *machine) error {
		fault = m.takeFault(label, path)
		return nil
	})
	if err != nil {
		return 0, err
	}
	if fault.Crash {
		f.crash(Point{Label: label, When: Before, Call: host.Call{Path: path}})
	}
	if fault.Hang {
		<-ctx.Done()
	}
	if fault.Slow > 0 {
		t := time.NewTimer(fault.Slow)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return fault.Errno, nil
}

func wait(ctx context.Context, changed <-chan struct{}) {
	select {
	case <-changed:
	case <-ctx.Done():
	}
}

// Do is host.Host.
func (f *front) Do(ctx context.Context, c host.Call) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	p := Point{Call: c, Label: c.Label(), When: Before}
	fault, err := f.announce(&p)
	if err != nil {
		return err
	}
	if f.Hook != nil {
		f.Hook(p)
	}
	if fault.Crash && fault.When == Before {
		f.crash(p)
	}
	errno, err := f.call(ctx, c, fault)
	if err != nil {
		return err
	}
	p.When = After
	if fault.Crash && fault.When == After {
		f.crash(p)
	}
	if f.Hook != nil {
		f.Hook(p)
	}
	return callError(c, errno)
}

// announce counts the write and takes its fault.
func (f *front) announce(p *Point) (fault Fault, err error) {
	err = f.store.update(func(m *machine) error {
		if m.cfg.Fence && m.fenced(p.Call.Target) {
			return fmt.Errorf("%s: %w", p.Call, drivers.ErrFenced)
		}
		m.Count++
		m.dirty = true
		p.N = m.Count
		if len(m.Faults) > 0 {
			fault = m.takeFault(p.Label, faultText(p.Call))
		}
		return nil
	})
	return fault, err
}

// call makes a write and waits for its end, or for the end of ctx: then the
// write goes on without its caller.
func (f *front) call(ctx context.Context, c host.Call, fault Fault) (errno syscall.Errno, err error) {
	var seq uint64
	over, waiting := false, false
	submit := func(m *machine) error {
		seq = m.submit(c, fault)
		errno, over, waiting = m.take(seq)
		return nil
	}
	if err := f.store.update(submit); err != nil || over {
		return errno, err
	}
	if fault.Slow > 0 {
		new(supervise.Group).AfterFunc(fault.Slow, "simulated kernel", f.settle)
	}
	for {
		changed := f.store.changed()
		ended := ctx.Err() != nil
		err := f.store.update(func(m *machine) error {
			m.settle()
			if errno, over, waiting = m.take(seq); waiting && ended {
				m.abandon(seq)
			}
			return nil
		})
		switch {
		case err != nil || over:
			return errno, err
		case !waiting:
			return 0, fmt.Errorf("%s: the host rebooted meanwhile: %w", c, drivers.ErrFenced)
		case ended:
			return 0, fmt.Errorf("%s: %w: %w", c, drivers.ErrFenced, ctx.Err())
		}
		wait(ctx, changed)
	}
}

func (f *front) settle() {
	// A store that cannot be had now is tried again by whoever looks next.
	_ = f.store.update(func(m *machine) error {
		m.settle()
		return nil
	})
}

func (f *front) crash(p Point) {
	if f.CrashFunc != nil {
		f.CrashFunc(p)
	}
}

// Fenced is host.Host.
func (f *front) Fenced(t drivers.Target) (fenced bool, err error) {
	err = f.store.view(func(m *machine) { fenced = m.fenced(t) })
	return fenced, err
}

// callError is the error of a write as Linux returns it.
func callError(c host.Call, errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	switch c.Op {
	case host.OpSysfs:
		return pathError("write", c.Path, errno)
	case host.OpReplace, host.OpSync:
		if errno == errChanged {
			return fmt.Errorf("%s: %w", c, drivers.ErrChanged)
		}
		return pathError(string(c.Op), c.Path, errno)
	case host.OpLoad:
		return pathError("finit_module", c.Path, errno)
	case host.OpUnload:
		return os.NewSyscallError("delete_module", errno)
	case host.OpChannels, host.OpRings, host.OpFeature:
		return os.NewSyscallError("ethtool "+string(c.Op), errno)
	default:
		return os.NewSyscallError("netlink "+string(c.Op), errno)
	}
}

func pathError(op, path string, errno syscall.Errno) error {
	return &fs.PathError{Op: op, Path: path, Err: errno}
}
