package host

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Attentive is h, and notes the reads that failed for whoever asked by Noting. That
// something is not there, or cannot be read like this, is an answer and no failure.
func Attentive(h Host) Host { return attentive{h} }

type attentive struct{ Host }

// Noted are the reads of one question that failed.
type Noted struct {
	above *Noted // of the question that this one is a part of
	mu    sync.Mutex
	errs  []error
}

type notedKey struct{}

// Noting begins a question: what an Attentive host fails to read with the context is
// noted, also where the code on the way drops the error.
func Noting(ctx context.Context) (context.Context, *Noted) {
	above, _ := ctx.Value(notedKey{}).(*Noted)
	n := &Noted{above: above}
	return context.WithValue(ctx, notedKey{}, n), n
}

// Failed is the first read of the question that failed; nil when none did.
func (n *Noted) Failed() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.errs) == 0 {
		return nil
	}
	return n.errs[0]
}

// Caused says that an error is that of one of these reads.
func (n *Noted) Caused(err error) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.errs, func(failed error) bool { return errors.Is(err, failed) })
}

func (n *Noted) add(err error) {
	for ; n != nil; n = n.above {
		n.mu.Lock()
		n.errs = append(n.errs, err)
		n.mu.Unlock()
	}
}

// note notes the error of a read, unless it is an answer.
func note(ctx context.Context, path string, err error) {
	if err == nil || isAnswer(err) || asks(path) {
		return
	}
	n, _ := ctx.Value(notedKey{}).(*Noted)
	n.add(err)
}

// asks says that a path is read to learn who uses a device: there EBUSY and a
// process that has ended are the answer (HoldersOf).
func asks(path string) bool {
	pid, ok := strings.CutPrefix(path, "/proc/")
	return strings.HasPrefix(path, "/dev/") || ok && pid != "" && pid[0] >= '0' && pid[0] <= '9'
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
	note(ctx, path, err)
	return s, err
}

// File notes a failure.
func (a attentive) File(ctx context.Context, path string) (string, error) {
	s, err := a.Host.File(ctx, path)
	note(ctx, path, err)
	return s, err
}

// Readlink notes a failure.
func (a attentive) Readlink(ctx context.Context, path string) (string, error) {
	s, err := a.Host.Readlink(ctx, path)
	note(ctx, path, err)
	return s, err
}

// List notes a failure.
func (a attentive) List(ctx context.Context, path string) ([]string, error) {
	names, err := a.Host.List(ctx, path)
	note(ctx, path, err)
	return names, err
}

// Inode notes a failure.
func (a attentive) Inode(ctx context.Context, path string) (uint64, error) {
	inode, err := a.Host.Inode(ctx, path)
	note(ctx, path, err)
	return inode, err
}

// Links notes a failure.
func (a attentive) Links(ctx context.Context) ([]Link, error) {
	links, err := a.Host.Links(ctx)
	note(ctx, "", err)
	return links, err
}

// Settings notes a failure. That a netdev which was there a moment ago is not there is
// none less: it is looked at again.
func (a attentive) Settings(ctx context.Context, index int, which Setting) (Settings, error) {
	s, err := a.Host.Settings(ctx, index, which)
	note(ctx, "", err)
	return s, err
}

// Network notes a failure.
func (a attentive) Network(ctx context.Context, to []string) (Network, error) {
	n, err := a.Host.Network(ctx, to)
	note(ctx, "", err)
	return n, err
}
