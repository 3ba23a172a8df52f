package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/host"
)

// A read that failed is no answer. Whatever could not be read is what it was last
// read to be, until a read says otherwise: nothing is withdrawn, dropped or given
// back for it.
//
// Much of what resolves an entry asks only whether something is there, and to such
// a question a read that failed looks like a no. So the view's host notes, with
// the context of a question, each read that failed on the way to its answer
// (noting), and whoever asked holds the whole answer for unread then. That holds
// for code that drops the error of a read, too.

// Attentive is a host that notes the reads that failed: what a View looks through.
func Attentive(h host.Host) host.Host { return attentive{h} }

type attentive struct{ host.Host }

// noted is where the failed reads of one question are noted.
type noted struct {
	above *noted // of the question that this one is a part of
	mu    sync.Mutex
	err   error // of the first
}

type notedKey struct{}

// noting begins a question: what fails to be read with the context is noted.
func noting(ctx context.Context) (context.Context, *noted) {
	above, _ := ctx.Value(notedKey{}).(*noted)
	n := &noted{above: above}
	return context.WithValue(ctx, notedKey{}, n), n
}

// failed is the first read of the question that failed; nil when none did.
func (n *noted) failed() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

func (n *noted) add(err error) {
	for ; n != nil; n = n.above {
		n.mu.Lock()
		if n.err == nil {
			n.err = err
		}
		n.mu.Unlock()
	}
}

// note notes the error of a read, unless it is an answer.
func note(ctx context.Context, err error) {
	if err == nil || isAnswer(err) {
		return
	}
	n, _ := ctx.Value(notedKey{}).(*noted)
	n.add(err)
}

// isAnswer says that an error of a read tells what is there: no such file, or
// nothing that can be read like this.
func isAnswer(err error) bool {
	for _, answer := range []error{fs.ErrNotExist, syscall.ENOTDIR, syscall.EINVAL, syscall.EOPNOTSUPP} {
		if errors.Is(err, answer) {
			return true
		}
	}
	return false
}

// Read notes a failure.
func (a attentive) Read(ctx context.Context, path string) (string, error) {
	s, err := a.Host.Read(ctx, path)
	note(ctx, err)
	return s, err
}

// File notes a failure.
func (a attentive) File(ctx context.Context, path string) (string, error) {
	s, err := a.Host.File(ctx, path)
	note(ctx, err)
	return s, err
}

// Readlink notes a failure.
func (a attentive) Readlink(ctx context.Context, path string) (string, error) {
	s, err := a.Host.Readlink(ctx, path)
	note(ctx, err)
	return s, err
}

// List notes a failure.
func (a attentive) List(ctx context.Context, path string) ([]string, error) {
	names, err := a.Host.List(ctx, path)
	note(ctx, err)
	return names, err
}

// Inode notes a failure.
func (a attentive) Inode(ctx context.Context, path string) (uint64, error) {
	inode, err := a.Host.Inode(ctx, path)
	note(ctx, err)
	return inode, err
}

// Links notes a failure.
func (a attentive) Links(ctx context.Context) ([]host.Link, error) {
	links, err := a.Host.Links(ctx)
	note(ctx, err)
	return links, err
}

// Settings notes a failure; that there is no such netdev is an answer.
func (a attentive) Settings(ctx context.Context, index int, which host.Setting) (host.Settings, error) {
	s, err := a.Host.Settings(ctx, index, which)
	if !errors.Is(err, syscall.ENODEV) {
		note(ctx, err)
	}
	return s, err
}

// Network notes a failure.
func (a attentive) Network(ctx context.Context, to []string) (host.Network, error) {
	n, err := a.Host.Network(ctx, to)
	note(ctx, err)
	return n, err
}

// unreadable leaves a request alone until what it asks about can be read.
func (r *request) unreadable(err error) {
	if !errors.Is(err, errUnseen) {
		err = fmt.Errorf("%w: %w", errUnseen, err)
	}
	r.cannot(Waiting, err)
	r.unread, r.identity = true, drivers.Identity{}
}

// lastVFs are the virtual functions that a physical one was last asked to have.
func (v View) lastVFs(pf drivers.Target) []drivers.Target {
	for _, d := range v.Records.Sources() {
		for _, g := range d.Goals {
			if spec, ok := v.Drivers.Specs.Find(g.Key.Kind); ok && g.Key.Target == pf && spec.Makes != nil {
				return spec.Makes(g.State)
			}
		}
	}
	return nil
}

// unseenIn says that some of what was looked at could not be read.
func unseenIn(observed plan.Observed) bool {
	for _, o := range observed {
		if o.Presence == drivers.Unobservable {
			return true
		}
	}
	return false
}
