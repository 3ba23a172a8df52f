package file

import (
	"context"
	"errors"
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
	// Within is how long a read may take; 0 is 5 s. What takes longer, as on a
	// network file system whose server is away, is an Update with Err, and tried
	// again ever more seldom, until a read ends in time.
	Within time.Duration
}

const (
	defaultSettle = 100 * time.Millisecond
	patience      = 20 // Settles that a busy file is waited for
	defaultWithin = 5 * time.Second
	// slowest is the longest pause between reads that hang.
	slowest = 5 * time.Minute
)

// File is the source that follows one file.
type File struct {
	path           string
	settle, within time.Duration
	asks           chan chan struct{} // closed once what the file says was taken
}

// New is the source of the file at path, which need not exist yet.
func New(path string, o Options) *File {
	if o.Settle <= 0 {
		o.Settle = defaultSettle
	}
	if o.Within <= 0 {
		o.Within = defaultWithin
	}
	return &File{path: path, settle: o.Settle, within: o.Within, asks: make(chan chan struct{})}
}

// Refresh returns once the reader of the updates has taken what the file says now, or
// ctx's cause when it ends before.
func (f *File) Refresh(ctx context.Context) error {
	taken := make(chan struct{})
	select {
	case f.asks <- taken:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-taken:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
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
	w, err := newWatch(path)
	if err != nil {
		return nil, err
	}
	changed := make(chan notice, 1)
	owner := supervise.Of(ctx)
	watching, ended := make(chan error, 1), make(chan struct{})
	// It looks paths up, which may hang as a read may: nothing waits for it for ever.
	owner.AfterFunc(0, "file watch", func() {
		defer close(ended)
		w.run(ctx, watching, changed)
	})
	// The watch begins before the first read, so that no change falls between.
	if err := within(f.within, watching); err != nil && !errors.Is(err, errSlow) {
		return nil, err
	}
	updates := make(chan source.Update)
	owner.Go("file", func() {
		defer close(updates)
		r := reader{path: path, read: Read, within: f.within, owner: owner}
		follow(ctx, func() source.Update { return r.update(ctx) }, changed, f.asks, f.settle, updates)
		_ = within(f.within, ended) // for who looks whether all has ended
	})
	return updates, nil
}

// follow reads at once and whenever changed says so, after the file was left
// alone for a while, and offers what is new. Something newer replaces an offer
// that nobody has taken; what was taken last is not offered again. Each of asks is
// a change that may not have been told yet, and is closed once what was read after
// it is taken.
func follow(ctx context.Context, read func() source.Update, changed <-chan notice, asks <-chan chan struct{}, settle time.Duration, updates chan<- source.Update) {
	var (
		newest   = read()
		taken    source.Update
		offer    = updates // nil while there is nothing new
		first    time.Time // of the changes not read yet
		asked    []chan struct{}
		answered []chan struct{} // of them, those that were read for
	)
	quiet := time.NewTimer(settle)
	quiet.Stop()
	defer quiet.Stop()
	pause := settle
	consider := func(u source.Update) {
		newest, offer = u, updates
		if !errors.Is(u.Err, errSlow) {
			pause = settle
		} else { // nothing may tell when it can be read
			pause = min(2*pause, slowest)
			quiet.Reset(pause)
		}
		if same(newest, taken) {
			offer = nil
		}
	}
	readSoon := func() {
		if first.IsZero() {
			first = time.Now()
		}
		quiet.Reset(min(settle, time.Until(first.Add(patience*settle))))
	}
	consider(newest)
	for {
		if offer == nil {
			for _, a := range answered {
				close(a)
			}
			answered = nil
		}
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
			readSoon()
		case a := <-asks:
			asked = append(asked, a)
			readSoon()
		case <-quiet.C:
			first = time.Time{}
			answered, asked = append(answered, asked...), nil
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
