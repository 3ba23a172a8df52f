package file

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"eniagent/agent/source"
	"eniagent/agent/source/entry"
	"eniagent/supervise"
)

// Name is the source's.
const Name = "file"

// MaxSize is how many bytes a file may have.
const MaxSize = entry.MaxSize

// Options are what can be left out.
type Options struct {
	// Settle is how long the file must be left alone before it is read again;
	// 0 is 100 ms. One that changes all the time is read every 20 of these.
	Settle time.Duration
}

const (
	defaultSettle = 100 * time.Millisecond
	patience      = 20 // Settles that a busy file is waited for
)

// File is the source that follows one file.
type File struct {
	path   string
	settle time.Duration
}

// New is the source of the file at path, which need not exist yet.
func New(path string, o Options) *File {
	if o.Settle <= 0 {
		o.Settle = defaultSettle
	}
	return &File{path: path, settle: o.Settle}
}

// Updates sends what the file says now and then each change of it. A file that
// cannot be used is an Update with Err. The channel is closed, and everything
// behind it has ended, some moments after ctx has. Updates fails only when the
// kernel gives no change events.
func (f *File) Updates(ctx context.Context) (<-chan source.Update, error) {
	path, err := filepath.Abs(f.path)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", f.path, err)
	}
	// The watch begins before the first read, so that no change falls between.
	w, err := newWatch(path)
	if err != nil {
		return nil, err
	}
	changed := make(chan notice, 1)
	ended := make(chan struct{})
	owner := supervise.Of(ctx)
	owner.Go("file watch", func() {
		defer close(ended)
		w.run(ctx, changed)
	})
	updates := make(chan source.Update)
	owner.Go("file", func() {
		defer close(updates)
		read := func() source.Update {
			d, err := Read(path)
			return source.Update{Desired: d, Err: err}
		}
		follow(ctx, read, changed, f.settle, updates)
		<-ended
	})
	return updates, nil
}

// follow reads at once and whenever changed says so, after the file was left
// alone for a while, and offers what is new. Something newer replaces an offer
// that nobody has taken; what was taken last is not offered again.
func follow(ctx context.Context, read func() source.Update, changed <-chan notice, settle time.Duration, updates chan<- source.Update) {
	var (
		newest = read()
		taken  source.Update
		offer  = updates // nil while there is nothing new
		first  time.Time // of the changes not read yet
	)
	quiet := time.NewTimer(settle)
	quiet.Stop()
	defer quiet.Stop()
	consider := func(u source.Update) {
		newest, offer = u, updates
		if same(newest, taken) {
			offer = nil
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case offer <- newest:
			taken, offer = newest, nil
		case n := <-changed:
			if n.err != nil {
				consider(source.Update{Err: n.err})
				continue
			}
			if first.IsZero() {
				first = time.Now()
			}
			quiet.Reset(min(settle, time.Until(first.Add(patience*settle))))
		case <-quiet.C:
			first = time.Time{}
			consider(read())
		}
	}
}

// same says that two updates tell the reader the same.
func same(a, b source.Update) bool {
	switch {
	case a.Err != nil && b.Err != nil:
		return a.Err.Error() == b.Err.Error()
	case a.Desired != nil && b.Desired != nil:
		return a.Desired.Generation == b.Desired.Generation
	}
	return false
}
