package journal

import (
	"fmt"
	"iter"
)

// row is a record in memory and its bytes. rec is nil when only a newer agent
// can read it; such a row is kept as it is.
type row[T any] struct {
	rec *T
	raw []byte
	sum digest
}

// table is the mirror of a bucket. A record in it is never changed, only
// replaced, so that it may be read after the lock is let go.
type table[T any] struct {
	bucket  string
	rows    map[string]row[T]
	bytes   int
	alien   struct{ rows, bytes int } // of those, what cannot be read
	sum     digest
	changed func(old, next *T) // may be nil
}

func newTable[T any](bucket string) *table[T] {
	return &table[T]{bucket: bucket, rows: map[string]row[T]{}}
}

func (t *table[T]) get(key string) (*T, bool) {
	r := t.rows[key]
	return r.rec, r.rec != nil
}

// newer says that there is a record under the key that cannot be read.
func (t *table[T]) newer(key string) bool {
	r, ok := t.rows[key]
	return ok && r.rec == nil
}

func (t *table[T]) raw(key string) []byte { return t.rows[key].raw }

func (t *table[T]) len() int { return len(t.rows) }

// all are the records that can be read, in no order. The loop may remove.
func (t *table[T]) all() iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		for k, r := range t.rows {
			if r.rec != nil && !yield(k, r.rec) {
				return
			}
		}
	}
}

// set replaces a row; one without bytes removes it.
func (t *table[T]) set(key string, next row[T]) {
	old, ok := t.rows[key]
	if ok {
		t.weigh(old, -1)
		t.sum.toggle(old.sum)
	}
	if next.raw == nil {
		delete(t.rows, key)
	} else {
		t.rows[key] = next
		t.weigh(next, 1)
		t.sum.toggle(next.sum)
	}
	if t.changed != nil {
		t.changed(old.rec, next.rec)
	}
}

func (t *table[T]) weigh(r row[T], sign int) {
	t.bytes += sign * len(r.raw)
	if r.rec == nil {
		t.alien.rows += sign
		t.alien.bytes += sign * len(r.raw)
	}
}

// room says whether a record of n bytes still fits. What a newer agent left,
// which nobody here may remove, must not keep this one from its work.
func (t *table[T]) room(n, most, limit int) bool {
	return len(t.rows)-t.alien.rows < most && t.bytes-t.alien.bytes+n <= limit
}

func (t *table[T]) load(key string, rec *T, raw []byte) {
	t.set(key, row[T]{rec: rec, raw: raw, sum: digestRecord(key, raw)})
}

func (t *table[T]) tally() Tally { return Tally{Count: len(t.rows), Digest: t.sum.String()} }

// slot is a place in the store.
type slot struct{ bucket, key string }

// edit is a change of the tables in the making: what to write, and how to take
// it back as long as nobody built on it.
type edit struct {
	limit int // bytes of a bucket
	codec codec
	slots []slot
	undo  []func()
}

func (e *edit) takeBack() {
	for i := len(e.undo) - 1; i >= 0; i-- {
		e.undo[i]()
	}
}

// put adds or replaces a record. Only additions are bounded: a record that is
// there must be able to go on.
func put[T any, P interface {
	*T
	record
}](e *edit, t *table[T], key string, rec P, most int) error {
	raw, err := e.codec.encode(t.bucket, key, rec)
	if err != nil {
		return err
	}
	old, ok := t.rows[key]
	if !ok && !t.room(len(raw), most, e.limit) {
		return fmt.Errorf("add %s to %d records of %d bytes: %w", keyText(t.bucket, key), len(t.rows), t.bytes, ErrFull)
	}
	t.load(key, (*T)(rec), raw)
	e.slots = append(e.slots, slot{t.bucket, key})
	e.undo = append(e.undo, func() {
		if t.rows[key].rec == (*T)(rec) {
			t.set(key, old)
		}
	})
	return nil
}

func remove[T any](e *edit, t *table[T], key string) {
	old, ok := t.rows[key]
	if !ok {
		return
	}
	t.set(key, row[T]{})
	e.slots = append(e.slots, slot{t.bucket, key})
	e.undo = append(e.undo, func() {
		if _, ok := t.rows[key]; !ok {
			t.set(key, old)
		}
	})
}
