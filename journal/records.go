package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"eniagent/drivers"
)

// View is what can be asked of a journal, whether it is open in this process
// or was copied from a file.
type View interface {
	// Operations are the open ones, by number.
	Operations() []Operation
	// Quarantined are those that wait for an operator, by number.
	Quarantined() []Operation
	// History is the last n operations that were closed, newest first; all for
	// n <= 0.
	History(n int) []Operation
	Get(id uint64) (Operation, bool)
	Failure(fingerprint string) (Failure, bool)
	Failures() []Failure
	Baseline(k drivers.Key) (Baseline, bool)
	Baselines() []Baseline
	Desired(source string) (Desired, bool)
	Sources() []Desired
	Control(action string, t drivers.Target) (Control, bool)
	Controls() []Control
	Debt(what string) (Debt, bool)
	Unreadable() []Unreadable
	Degraded() (Degradation, bool)
	Meta() Meta
	Manifest() Manifest
}

// Records is the contents of a journal in memory. Reads cost no I/O and return
// copies.
type Records struct {
	bootID string // the boot that volatile baselines are asked for
	codec  codec  // of the file; set before the first record is taken in

	mu         sync.RWMutex // guards what follows
	meta       *table[Meta]
	degraded   *table[Degradation]
	open       *table[Operation]
	quarantine *table[Operation]
	done       *table[Operation]
	failures   *table[Failure]
	baselines  *table[Baseline]
	desired    *table[Desired]
	control    *table[Control]
	manifest   Manifest
	unreadable []Unreadable
	claims     map[drivers.Target]uint64 // of open and quarantined operations
	closed     map[uint64]string         // id -> key in done
	ring       uint64                    // the key that the next closed operation gets
}

// Unreadable is a record that a newer agent wrote. It is kept as it is, and
// what it is about is left alone.
type Unreadable struct {
	Bucket string
	Key    string // for people
	// Targets are what the record names, as far as can be told; an operation or
	// a standing order of which nothing can be told blocks every target.
	Targets []drivers.Target
	Err     error
}

// Covers says whether the record, an operation or a standing order, may be
// about the target.
func (u *Unreadable) Covers(t drivers.Target) bool {
	return len(u.Targets) == 0 || slices.Contains(u.Targets, t)
}

func newRecords() *Records {
	r := &Records{
		meta:       newTable[Meta](BucketMeta),
		degraded:   newTable[Degradation](BucketMeta),
		open:       newTable[Operation](BucketOpen),
		quarantine: newTable[Operation](BucketQuarantine),
		done:       newTable[Operation](BucketDone),
		failures:   newTable[Failure](BucketFailures),
		baselines:  newTable[Baseline](BucketBaseline),
		desired:    newTable[Desired](BucketDesired),
		control:    newTable[Control](BucketControl),
		claims:     map[drivers.Target]uint64{},
		closed:     map[uint64]string{},
		ring:       1,
	}
	r.open.changed = r.reclaim
	r.quarantine.changed = r.reclaim
	return r
}

// reclaim keeps the claims in step with the open and quarantined operations.
func (r *Records) reclaim(old, next *Operation) {
	if old != nil {
		for _, c := range old.Changes {
			if r.claims[c.Key.Target] == old.ID {
				delete(r.claims, c.Key.Target)
			}
		}
	}
	if next != nil {
		for _, c := range next.Changes {
			r.claims[c.Key.Target] = next.ID
		}
	}
}

// load takes in one row of the store. Only ErrCorrupt is an error; what is
// newer is remembered as unreadable.
func (r *Records) load(bucket, key string, value []byte) error {
	if !slices.Contains(buckets(), bucket) {
		return nil // of a newer agent that says older ones may go on
	}
	value = bytes.Clone(value)
	rec, err := r.codec.decode(bucket, key, value)
	if errors.Is(err, ErrNewer) && bucket == BucketMeta {
		return err
	}
	if errors.Is(err, ErrNewer) {
		r.unreadable = append(r.unreadable, r.unread(bucket, key, value, err))
		rec, err = nil, nil
	}
	if err != nil {
		return err
	}
	return r.place(bucket, key, rec, value)
}

// place puts a decoded record into its table; rec is nil for an unreadable one.
func (r *Records) place(bucket, key string, rec record, value []byte) error {
	switch bucket {
	case BucketOpen, BucketQuarantine:
		o, _ := rec.(*Operation)
		if err := r.checkClaims(o); err != nil {
			return err
		}
		if bucket == BucketOpen {
			r.open.load(key, o, value)
		} else {
			r.quarantine.load(key, o, value)
		}
	case BucketDone:
		o, _ := rec.(*Operation)
		r.loadDone(key, o, value)
	case BucketFailures:
		f, _ := rec.(*Failure)
		r.failures.load(key, f, value)
	case BucketBaseline:
		b, _ := rec.(*Baseline)
		r.baselines.load(key, b, value)
	case BucketDesired:
		d, _ := rec.(*Desired)
		r.desired.load(key, d, value)
	case BucketControl:
		c, _ := rec.(*Control)
		r.control.load(key, c, value)
	case BucketMeta:
		r.placeMeta(key, rec, value)
	}
	return nil
}

func (r *Records) placeMeta(key string, rec record, value []byte) {
	switch rec := rec.(type) {
	case *Meta:
		r.meta.load(key, rec, value)
	case *Degradation:
		r.degraded.load(key, rec, value)
	case *Manifest:
		r.manifest = *rec
	}
}

func (r *Records) loadDone(key string, o *Operation, value []byte) {
	r.done.load(key, o, value)
	if o != nil {
		r.closed[o.ID] = key
	}
	if len(key) != 8 {
		return
	}
	r.ring = max(r.ring, binary.BigEndian.Uint64([]byte(key))+1)
}

// checkClaims finds two operations on one target, which no writer leaves.
func (r *Records) checkClaims(o *Operation) error {
	if o == nil {
		return nil
	}
	for _, c := range o.Changes {
		if id, ok := r.claims[c.Key.Target]; ok && id != o.ID {
			return fmt.Errorf("operations %d and %d both claim %s: %w", id, o.ID, c.Key.Target, ErrCorrupt)
		}
	}
	return nil
}

// unread finds out what a record of a newer agent is about, which it may still
// say in words that this one knows.
func (r *Records) unread(bucket, key string, value []byte, err error) Unreadable {
	u := Unreadable{Bucket: bucket, Key: keyText(bucket, key), Err: err}
	if _, name, ok := strings.Cut(key, "@"); ok && bucket == BucketControl && drivers.Target(name).Valid() {
		u.Targets = append(u.Targets, drivers.Target(name))
	}
	f, _ := r.codec.unseal(bucket, key, value)
	if f.codec != codecJSON || f.kind != kindOperation || len(f.payload) > maxDesired {
		return u
	}
	var o struct {
		Changes []struct {
			Key drivers.Key `json:"key"`
		} `json:"changes"`
	}
	if json.Unmarshal(f.payload, &o) != nil {
		return u
	}
	for _, c := range o.Changes {
		if c.Key.Target.Valid() {
			u.Targets = append(u.Targets, c.Key.Target)
		}
	}
	slices.Sort(u.Targets)
	u.Targets = slices.Compact(u.Targets)
	return u
}

// tallies are the sums of all buckets as they are in memory.
func (r *Records) tallies() map[string]Tally {
	meta := r.meta.sum
	meta.toggle(r.degraded.sum)
	return map[string]Tally{
		BucketMeta:       {Count: r.meta.len() + r.degraded.len(), Digest: meta.String()},
		BucketOpen:       r.open.tally(),
		BucketQuarantine: r.quarantine.tally(),
		BucketDone:       r.done.tally(),
		BucketFailures:   r.failures.tally(),
		BucketBaseline:   r.baselines.tally(),
		BucketDesired:    r.desired.tally(),
		BucketControl:    r.control.tally(),
	}
}

// verify holds the whole against what no single record can tell.
func (r *Records) verify() error {
	m, ok := r.meta.get(keyMeta)
	if !ok || r.manifest.Sequence == 0 {
		return fmt.Errorf("no meta record or no manifest: %w", ErrCorrupt)
	}
	if newest := r.codec.newest(); m.MinReader > newest {
		return fmt.Errorf("journal of format %d wants an agent that reads %d, this one reads %d: %w", m.Format, m.MinReader, newest, ErrNewer)
	}
	have := r.tallies()
	for _, name := range buckets() {
		if want := r.manifest.Buckets[name]; want != have[name] {
			return fmt.Errorf("bucket %s holds %d records (%s), its manifest says %d (%s): %w",
				name, have[name].Count, have[name].Digest, want.Count, want.Digest, ErrCorrupt)
		}
	}
	return r.verifyNumbers()
}

func (r *Records) verifyNumbers() error {
	seen := map[uint64]string{}
	for _, t := range []*table[Operation]{r.open, r.quarantine, r.done} {
		for _, o := range t.all() {
			if other, twice := seen[o.ID]; twice {
				return fmt.Errorf("operation %d is in both %s and %s: %w", o.ID, other, t.bucket, ErrCorrupt)
			}
			seen[o.ID] = t.bucket
			if o.ID >= r.manifest.NextID {
				return fmt.Errorf("operation %d in %s, but the next number is %d: %w", o.ID, t.bucket, r.manifest.NextID, ErrCorrupt)
			}
		}
	}
	return nil
}

// raw is the bytes that belong into a place of the store; nil is absence.
func (r *Records) raw(s slot) []byte {
	switch s.bucket {
	case BucketOpen:
		return r.open.raw(s.key)
	case BucketQuarantine:
		return r.quarantine.raw(s.key)
	case BucketDone:
		return r.done.raw(s.key)
	case BucketFailures:
		return r.failures.raw(s.key)
	case BucketBaseline:
		return r.baselines.raw(s.key)
	case BucketDesired:
		return r.desired.raw(s.key)
	case BucketControl:
		return r.control.raw(s.key)
	}
	if s.key == keyDegraded {
		return r.degraded.raw(s.key)
	}
	return r.meta.raw(s.key)
}

func sorted(t *table[Operation]) []Operation {
	var os []Operation
	for _, o := range t.all() {
		os = append(os, o.clone())
	}
	slices.SortFunc(os, func(a, b Operation) int { return cmp.Compare(a.ID, b.ID) })
	return os
}

// Operations are the open ones, by number.
func (r *Records) Operations() []Operation {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return sorted(r.open)
}

// Quarantined are those that wait for an operator, by number.
func (r *Records) Quarantined() []Operation {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return sorted(r.quarantine)
}

// BootID is the boot that volatile records are held against: the one that the
// journal was opened in, of a copy the one it was written in.
func (r *Records) BootID() string { return r.bootID }

// History is the last n operations that were closed, newest first; all for
// n <= 0.
func (r *Records) History(n int) []Operation {
	r.mu.RLock()
	defer r.mu.RUnlock()
	keys := slices.Sorted(maps.Keys(r.done.rows))
	var os []Operation
	for _, key := range slices.Backward(keys) {
		if n > 0 && len(os) == n {
			break
		}
		if o, ok := r.done.get(key); ok {
			os = append(os, o.clone())
		}
	}
	return os
}

// Get is the operation of that number, wherever it stands.
func (r *Records) Get(id uint64) (Operation, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, t := range []*table[Operation]{r.open, r.quarantine} {
		if o, ok := t.get(idKey(id)); ok {
			return o.clone(), true
		}
	}
	if o, ok := r.done.get(r.closed[id]); ok {
		return o.clone(), true
	}
	return Operation{}, false
}

// blocking is the record of a newer agent because of which nothing may be
// begun on t.
func (r *Records) blocking(t drivers.Target) *Unreadable {
	for i, u := range r.unreadable {
		switch u.Bucket {
		case BucketOpen, BucketQuarantine, BucketControl:
			if u.Covers(t) {
				return &r.unreadable[i]
			}
		}
	}
	return nil
}

// Unreadable are the records that only a newer agent can read.
func (r *Records) Unreadable() []Unreadable {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Clone(r.unreadable)
}

// Degraded says whether the journal was once unusable and nobody has
// acknowledged what was lost.
func (r *Records) Degraded() (Degradation, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	d, ok := r.degraded.get(keyDegraded)
	if !ok {
		return Degradation{}, false
	}
	c := *d
	c.Lost = slices.Clone(d.Lost)
	return c, d.Acknowledged.IsZero()
}

// Meta says whose journal this is.
func (r *Records) Meta() Meta {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if m, ok := r.meta.get(keyMeta); ok {
		return *m
	}
	return Meta{}
}

// Manifest is what the last commit said of itself.
func (r *Records) Manifest() Manifest {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.manifest // its map is replaced, never changed
}
