package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	tempSuffix  = ".new"
	asideSuffix = ".corrupt-"
	maxAside    = 3
)

// saved is what could be brought over from a damaged journal.
type saved struct {
	records  *Records
	meta     Meta
	degraded *Degradation
	manifest *Manifest // nil when it was lost
	count    int
	lost     []string
	newer    error // the journal belongs to a newer agent
	format   int   // the newest of what decoded

	have map[slot]bool
	ids  map[uint64]bool
}

// salvage keeps every row that decodes, those of a newer agent as they are.
// older are rows of the commit before; they only fill gaps. One of its open
// operations may long be done: recovery looks at the host and finds out.
func salvage(c codec, newest, older []write) *saved {
	s := &saved{records: newRecords(), format: 1, have: map[slot]bool{}, ids: map[uint64]bool{}}
	s.records.codec = c
	for _, w := range inOrder(newest) {
		if err := s.offer(w); err != nil {
			s.lost = append(s.lost, fmt.Sprintf("%s: %v", keyText(w.bucket, w.key), err))
		}
	}
	if s.manifest == nil && len(older) > 0 {
		s.lost = append(s.lost, "the last commit: what it changed may be as it was before")
	}
	for _, w := range inOrder(older) {
		_ = s.offer(w) // counted against the manifest
	}
	s.conclude()
	return s
}

// offer takes a row in, unless the place or the operation is there already.
func (s *saved) offer(w write) error {
	at := slot{w.bucket, w.key}
	if s.have[at] || !slices.Contains(buckets(), w.bucket) {
		return nil
	}
	rec, err := s.records.codec.decode(w.bucket, w.key, w.value)
	if errors.Is(err, ErrNewer) && w.bucket == BucketMeta {
		s.newer = err
	}
	if err == nil {
		s.format = max(s.format, int(w.value[len(magic)]))
	}
	if m, ok := rec.(*Manifest); ok {
		s.have[at], s.manifest = true, m
		return nil
	}
	o, _ := rec.(*Operation)
	if o != nil && s.ids[o.ID] {
		return nil
	}
	if err := s.records.load(w.bucket, w.key, w.value); err != nil {
		return err
	}
	s.have[at] = true
	if o != nil {
		s.ids[o.ID] = true
	}
	return nil
}

// inOrder sorts open and quarantined operations before closed ones, so that of
// two that say different things about one number the careful one is kept.
func inOrder(rows []write) []write {
	rows = slices.Clone(rows)
	rank := func(w write) int { return slices.Index(buckets(), w.bucket) }
	slices.SortStableFunc(rows, func(a, b write) int {
		if c := rank(a) - rank(b); c != 0 {
			return c
		}
		return strings.Compare(a.key, b.key)
	})
	return rows
}

// conclude counts, against the manifest when there is one, what is missing.
func (s *saved) conclude() {
	r, m := s.records, s.manifest
	if old, ok := r.meta.get(keyMeta); ok {
		s.meta = *old
		if old.MinReader > r.codec.newest() {
			s.newer = fmt.Errorf("journal of format %d: %w", old.Format, ErrNewer)
		}
	}
	if d, ok := r.degraded.get(keyDegraded); ok {
		s.degraded = d
	}
	r.meta, r.degraded = newTable[Meta](BucketMeta), newTable[Degradation](BucketMeta)
	next := uint64(1)
	for id := range s.ids {
		next = max(next, id+1)
	}
	have := r.tallies()
	if m != nil {
		next = max(next, m.NextID)
		r.manifest.Sequence = m.Sequence
	} else {
		s.lost = append(s.lost, "the manifest: how much is missing is unknown")
	}
	r.manifest.NextID = next
	for _, name := range buckets()[1:] {
		s.count += have[name].Count
		switch {
		case m == nil || m.Buckets[name] == have[name]:
		case m.Buckets[name].Count != have[name].Count:
			s.lost = append(s.lost, fmt.Sprintf("%s: %d of %d records saved", name, have[name].Count, m.Buckets[name].Count))
		default:
			s.lost = append(s.lost, name+": some records are as they were a commit before")
		}
	}
	if m == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(m.Buckets)) {
		if n := m.Buckets[name].Count; n > 0 && !slices.Contains(buckets(), name) {
			s.lost = append(s.lost, fmt.Sprintf("%s: %d records, of a newer agent", name, n))
		}
	}
}

// rows are the contents of the journal that takes over.
func (s *saved) rows(o Options, reason, aside string) []write {
	now := stamp(o.Now())
	meta := s.meta
	if meta.Format == 0 {
		meta = Meta{MachineID: o.MachineID, Created: now, Agent: o.Version}
	}
	meta.Format, meta.MinReader = s.format, s.format
	s.records.codec = s.records.codec.writing(s.format)
	d := &Degradation{Reason: clip(reason), Aside: aside, Saved: s.count, Since: now}
	if old := s.degraded; old != nil && old.Acknowledged.IsZero() {
		d.Since = old.Since
		d.Lost = append(d.Lost, old.Lost...)
	}
	for _, l := range s.lost {
		d.Lost = append(d.Lost, shorten(l))
	}
	if n := len(d.Lost) - maxLost; n > 0 {
		d.Lost = append(d.Lost[:maxLost], fmt.Sprintf("and %d more", n))
	}
	return s.records.sealed(o, meta, d, s.records.manifest)
}

func shorten(s string) string {
	if len(s) > maxName {
		s = s[:maxName]
	}
	return strings.ToValidUTF8(s, "")
}

// replace puts a fresh journal, with what was saved, in the place of a damaged
// one. At every instant the path holds one of the two: the damaged file gets
// its second name first, and the fresh one is complete before it is moved over.
func replace(ctx context.Context, o Options, path string, cause error) ([]string, error) {
	s, err := o.codec.salvage(path)
	if err != nil {
		return nil, fmt.Errorf("salvage %s: %w", path, err)
	}
	if s.newer != nil {
		return nil, fmt.Errorf("%s is damaged (%s), and %w", path, cause.Error(), s.newer)
	}
	aside, err := asideName(o, path)
	if err != nil {
		return nil, err
	}
	temp, warnings, err := createTemp(path, s.rows(o, cause.Error(), aside), o)
	if err != nil {
		return nil, err
	}
	// A scan that cannot pass a fresh journal says nothing about the other.
	if err := runScan(ctx, o, temp); err != nil {
		_ = os.Remove(temp)
		// Wrapped, either would say that the journal is damaged.
		return nil, fmt.Errorf("%s seems damaged (%s), but the scan fails on a fresh journal too: %s", path, cause.Error(), err.Error())
	}
	if err := os.Link(path, aside); err != nil {
		return nil, fmt.Errorf("keep the damaged journal aside: %w", explain(err))
	}
	// Before its first name is given to another file, or a power cut could leave
	// it without any.
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := os.Rename(temp, path); err != nil {
		return nil, fmt.Errorf("replace the damaged journal: %w", explain(err))
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	warnings = append(warnings, fmt.Sprintf("journal was unusable and is kept as %s: %v", aside, cause))
	return warnings, pruneAsides(path, aside)
}

// salvage reads what it can, page by page, without bbolt: no map of the
// file, no panic, no circle.
func (c codec) salvage(path string) (*saved, error) {
	f, err := openRead(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	im, err := readImage(f)
	if errors.Is(err, syscall.ENOMEM) {
		return nil, err
	}
	if err != nil {
		return salvage(c, nil, nil), nil // nothing to be had without a meta page
	}
	newest, damaged, err := im.collect(im.metas[0])
	var older []write
	if err == nil && damaged && len(im.metas) > 1 {
		older, _, err = im.collect(im.metas[1])
	}
	if err != nil {
		return nil, err
	}
	return salvage(c, newest, older), nil
}

// asideName is journal.db.corrupt-<unix time>-<n>, free.
func asideName(o Options, path string) (string, error) {
	for n := range 1000 {
		name := fmt.Sprintf("%s%s%d-%d", path, asideSuffix, o.Now().Unix(), n)
		if _, err := os.Lstat(name); errors.Is(err, os.ErrNotExist) {
			return name, nil
		}
	}
	return "", fmt.Errorf("no free name beside %s", path)
}

func asides(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, explain(err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(path)+asideSuffix) {
			names = append(names, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	// By age as the names tell it: the number before the dash has ten digits
	// until the year 2286.
	slices.Sort(names)
	return names, nil
}

// pruneAsides keeps the newest damaged files, the one just made in any case.
func pruneAsides(path, keep string) error {
	names, err := asides(path)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == keep })
	for len(names) > maxAside-1 {
		if err := os.Remove(names[0]); err != nil {
			return fmt.Errorf("remove the oldest damaged journal: %w", explain(err))
		}
		names = names[1:]
	}
	return nil
}

// removeLeftovers undoes what a crash in create or replace leaves: a temporary
// file, or a second name of a journal that has not been replaced yet.
func removeLeftovers(path string) error {
	if err := os.Remove(path + tempSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove leftover: %w", explain(err))
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil // whoever opens it tells
	}
	names, err := asides(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if other, err := os.Lstat(name); err == nil && os.SameFile(info, other) {
			if err := os.Remove(name); err != nil {
				return fmt.Errorf("remove leftover: %w", explain(err))
			}
		}
	}
	return nil
}
