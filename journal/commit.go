package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt/errors"
)

// batch is the changes that go into one commit. Whoever commits takes all that
// have gathered, so that ten callers at once pay for two.
type batch struct {
	slots   map[slot]struct{}
	labels  map[string]struct{}
	undo    []func() // of the callers that wait, to take back what did not get in
	waiters int
	settled bool
	err     error
}

func newBatch() *batch {
	return &batch{slots: map[slot]struct{}{}, labels: map[string]struct{}{}}
}

func (b *batch) label() string { return strings.Join(slices.Sorted(maps.Keys(b.labels)), "+") }

func (b *batch) add(label string, e *edit) {
	for _, s := range e.slots {
		b.slots[s] = struct{}{}
	}
	b.labels[label] = struct{}{}
}

// commitChange makes a change and returns when it is durable. A change of
// nothing costs no commit, but waits for the one it found itself in.
func (j *Journal) commitChange(ctx context.Context, label string, fn func(*edit) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for {
		b, changed, err := j.stage(label, true, fn)
		if err != nil || b == nil {
			return err
		}
		// Not given up when ctx ends: an intent whose caller has gone would
		// stay open with nobody to finish it.
		if err := j.settle(b); err != nil || changed {
			return err
		}
	}
}

// laterChange makes a change that is visible at once, rides in the next
// commit, and is flushed on its own when none comes.
func (j *Journal) laterChange(label string, fn func(*edit) error) error {
	_, _, err := j.stage(label, false, fn)
	return err
}

// stage makes a change in memory and adds it to the batch. The batch is nil
// when there is nothing to wait for.
func (j *Journal) stage(label string, wait bool, fn func(*edit) error) (b *batch, changed bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usable(); err != nil {
		return nil, false, err
	}
	e := &edit{limit: j.o.Limits.Bytes, codec: j.codec}
	if err := fn(e); err != nil {
		e.takeBack()
		return nil, false, err
	}
	b = j.pending
	if len(e.slots) == 0 {
		switch {
		case j.writing != nil:
			return j.writing, false, nil
		case b.waiters > 0:
			return b, false, nil
		}
		return nil, false, nil
	}
	b.add(label, e)
	if wait {
		b.undo = append(b.undo, e.takeBack)
		b.waiters++
	} else {
		j.flushLater()
	}
	return b, true, nil
}

// usable says why no change can be made, if none can.
func (j *Journal) usable() error {
	switch {
	case j.broken != nil:
		return j.broken
	case j.shut:
		return ErrClosed
	}
	return nil
}

// flushLater sees to it that lazy changes are durable soon. Called with mu.
func (j *Journal) flushLater() {
	if j.timer != nil || j.shut {
		return
	}
	j.timer = j.o.Owner.AfterFunc(j.o.FlushAfter, "flush", func() {
		j.mu.Lock()
		j.timer = nil
		b := j.pending
		idle := j.shut || len(b.slots) == 0
		j.mu.Unlock()
		if !idle {
			_ = j.settle(b) // on failure it stays pending, and Err tells
		}
	})
}

// settle commits the batch, unless somebody else has while we waited.
func (j *Journal) settle(b *batch) error {
	j.committing.Lock()
	defer j.committing.Unlock()
	j.mu.Lock()
	if b.settled || j.usableForCommit() != nil {
		err := b.err
		if !b.settled {
			err = j.usableForCommit()
		}
		j.mu.Unlock()
		return err
	}
	rows, manifest := j.take(b)
	j.mu.Unlock()

	start := time.Now()
	err := j.write(b.label(), rows)
	if j.o.OnCommit != nil {
		j.o.OnCommit(time.Since(start), err)
	}

	j.mu.Lock()
	defer j.mu.Unlock()
	j.writing = nil
	b.settled, b.err = true, err
	switch {
	case err == nil:
		j.manifest = manifest
	case errors.Is(err, ErrIndeterminate):
		j.broken = err
	default:
		j.putBack(b)
	}
	return err
}

// usableForCommit is usable for a change that was taken before Close.
func (j *Journal) usableForCommit() error {
	if j.abandoned {
		return ErrClosed
	}
	return j.broken
}

// take makes the rows of a commit: what the batch touched as it is now, and
// the manifest of all. Called with mu; a batch that is not settled is pending.
func (j *Journal) take(b *batch) ([]write, Manifest) {
	j.pending, j.writing = newBatch(), b
	if j.timer != nil && j.timer.Stop() {
		j.timer = nil
	}
	rows := make([]write, 0, len(b.slots)+1)
	for s := range b.slots {
		rows = append(rows, write{s.bucket, s.key, j.raw(s)})
	}
	slices.SortFunc(rows, func(a, b write) int {
		return strings.Compare(a.bucket+"\x00"+a.key, b.bucket+"\x00"+b.key)
	})
	m := j.nextManifest()
	raw, err := j.codec.encode(BucketMeta, keyManifest, &m)
	if err != nil {
		panic(fmt.Sprintf("journal: manifest: %v", err)) // made of numbers and checked names only
	}
	return append(rows, write{BucketMeta, keyManifest, raw}), m
}

func (j *Journal) nextManifest() Manifest {
	m := Manifest{
		Sequence: j.manifest.Sequence + 1,
		NextID:   j.nextID,
		BootID:   j.o.BootID,
		Agent:    j.o.Version,
		Written:  j.stamp(),
		Buckets:  j.tallies(),
	}
	// Buckets that only a newer agent knows keep the tally it gave them.
	for name, t := range j.manifest.Buckets {
		if _, ok := m.Buckets[name]; !ok {
			m.Buckets[name] = t
		}
	}
	return m
}

// write runs one commit and sorts its errors: nil, ErrNoSpace when the rows
// are provably not there, ErrIndeterminate for everything else.
func (j *Journal) write(label string, rows []write) error {
	err := j.fault(label + ":before")
	if err == nil {
		err = j.store.commit(rows)
	}
	if err == nil {
		err = j.fault(label + ":after")
	}
	if err == nil {
		return nil
	}
	if isNoSpace(err) && j.absent(rows) {
		return fmt.Errorf("commit %s: %w: %w", label, ErrNoSpace, err)
	}
	return fmt.Errorf("commit %s: %w: %w", label, ErrIndeterminate, err)
}

func (j *Journal) fault(point string) error {
	if j.o.Fault == nil {
		return nil
	}
	return j.o.Fault(point)
}

// isNoSpace knows the errors of a write for which there was no room. bbolt
// flattens some to text.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, bolt.ErrMaxSizeReached) ||
		strings.HasSuffix(err.Error(), syscall.ENOSPC.Error()) || strings.HasSuffix(err.Error(), syscall.EDQUOT.Error())
}

// absent asks the store whether it still holds the manifest before this commit:
// a failed sync of the meta page leaves the new one visible.
func (j *Journal) absent(rows []write) bool {
	now, err := j.store.get(BucketMeta, keyManifest)
	if err != nil {
		return false
	}
	m, err := j.codec.decode(BucketMeta, keyManifest, now)
	if err != nil {
		return false
	}
	next, err := j.codec.decode(BucketMeta, keyManifest, rows[len(rows)-1].value)
	if err != nil {
		return false
	}
	return m.(*Manifest).Sequence+1 == next.(*Manifest).Sequence
}

// putBack returns what did not get in: callers that waited are told and their
// changes undone, lazy changes wait for the next commit. Called with mu.
func (j *Journal) putBack(b *batch) {
	for i := len(b.undo) - 1; i >= 0; i-- {
		b.undo[i]()
	}
	for s := range b.slots {
		j.pending.slots[s] = struct{}{}
	}
	j.pending.labels["retry"] = struct{}{}
	j.flushLater()
}

// Flush makes everything durable that is visible.
func (j *Journal) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for {
		j.mu.Lock()
		b, last := j.pending, j.writing == nil
		if err := j.usableForCommit(); err != nil {
			j.mu.Unlock()
			return err
		}
		if len(b.slots) == 0 {
			b = j.writing
		}
		j.mu.Unlock()
		if b == nil {
			return nil
		}
		if err := j.settle(b); err != nil || last {
			return err
		}
	}
}
