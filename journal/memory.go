package journal

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Memory is a store that survives a journal but not the process, for crash
// tests by the million. Everything above the store is the same code as with a
// file. A second OpenMemory on the same Memory sees what was committed.
type Memory struct {
	mu      sync.Mutex
	buckets map[string]map[string][]byte
	shared  map[string]bool // the bucket's map belongs to a clone as well
}

// NewMemory is an empty store.
func NewMemory() *Memory {
	return &Memory{buckets: map[string]map[string][]byte{}, shared: map[string]bool{}}
}

// Clone is a copy of the store as it is now, as a crash would leave it. It
// costs one map of the buckets; their contents are shared until one side
// writes.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := NewMemory()
	for name, rows := range m.buckets {
		c.buckets[name] = rows
		c.shared[name] = true
		m.shared[name] = true
	}
	return c
}

// Become makes the store what another is, as a disk that had not written what
// it said it had.
func (m *Memory) Become(o *Memory) {
	c := o.Clone()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.buckets, m.shared = c.buckets, c.shared
}

// Put writes a raw value, nil to remove it, behind the journal's back: tests
// use it to damage a store.
func (m *Memory) Put(bucket, key string, value []byte) {
	_ = m.commit([]write{{bucket, key, value}})
}

// Rows hands out every row, for tests that compare or damage stores. fn must not
// call the store.
func (m *Memory) Rows(fn func(bucket, key string, value []byte)) {
	_ = m.load(func(bucket, key string, value []byte) error {
		fn(bucket, key, value)
		return nil
	})
}

func (m *Memory) load(fn func(bucket, key string, value []byte) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range buckets() {
		b := m.buckets[name]
		for _, key := range slices.Sorted(maps.Keys(b)) {
			if err := fn(name, key, b[key]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Memory) commit(rows []write) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range rows {
		b := m.own(w.bucket)
		if w.value == nil {
			delete(b, w.key)
		} else {
			b[w.key] = w.value
		}
	}
	return nil
}

// own is the map of a bucket that no clone looks at.
func (m *Memory) own(name string) map[string][]byte {
	b := m.buckets[name]
	switch {
	case b == nil:
		b = map[string][]byte{}
	case m.shared[name]:
		b = maps.Clone(b)
	}
	m.buckets[name], m.shared[name] = b, false
	return b
}

func (m *Memory) get(bucket, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.buckets[bucket][key], nil
}

func (m *Memory) size() int64 {
	n := 0
	m.Rows(func(bucket, key string, value []byte) { n += len(bucket) + len(key) + len(value) })
	return int64(n)
}

func (m *Memory) close() error { return nil }

func (m *Memory) empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.buckets) == 0
}

// rows are all rows, for a salvage.
func (m *Memory) rows() []write {
	var all []write
	m.Rows(func(bucket, key string, value []byte) { all = append(all, write{bucket, key, value}) })
	return all
}

// OpenMemory opens the journal in m, a fresh one when m is empty. Damage is
// treated as in a file: what decodes is kept and the journal is degraded.
func OpenMemory(ctx context.Context, m *Memory, o Options) (*Journal, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	if m.empty() {
		if err := m.commit(freshRows(o)); err != nil {
			return nil, fmt.Errorf("create journal: %w", err)
		}
	}
	r, err := readRecords(o.codec, m.load)
	if damaged(err) {
		s := salvage(o.codec, m.rows(), nil)
		if s.newer != nil {
			return nil, fmt.Errorf("open journal: %w", s.newer)
		}
		m.mu.Lock()
		m.buckets, m.shared = map[string]map[string][]byte{}, map[string]bool{}
		m.mu.Unlock()
		if err := m.commit(s.rows(o, err.Error(), "")); err != nil {
			return nil, fmt.Errorf("create journal from what was saved: %w", err)
		}
		r, err = readRecords(o.codec, m.load)
	}
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return newJournal(o, m, r), nil
}
