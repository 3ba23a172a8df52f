package journal

import (
	"context"
	"fmt"
	"slices"
	"time"

	"eniagent/drivers"
)

// Baseline is what release restores a key to.
type Baseline struct {
	Key   drivers.Key   `json:"key"`
	State drivers.State `json:"state"`
	Class drivers.Class `json:"class"`
	// BootID and Incarnation say in which life of the host and of the device a
	// volatile state was seen; persistent ones are seen once and for all.
	BootID      string `json:"boot_id,omitempty"`
	Incarnation uint64 `json:"incarnation,omitempty"` // 0 is unknown
	// Unknown says that the agent found somebody else's hand here already, so
	// that nothing true can be restored and release must ask.
	Unknown bool      `json:"unknown,omitempty"`
	Created time.Time `json:"created"`
}

func (b *Baseline) validate() error {
	return firstError(
		checkKey(b.Key),
		checkClass(b.Class),
		checkText("state", string(b.State), 0, maxState),
		checkText("boot id", b.BootID, 0, maxName),
		checkTime("created", b.Created),
	)
}

// covers says whether b, already there, is the baseline that next would be: a
// persistent one always, a volatile one in the same boot and incarnation.
func (b *Baseline) covers(next *Baseline) bool {
	if b.Class == drivers.Persistent {
		return true
	}
	same := b.Incarnation == next.Incarnation || b.Incarnation == 0 || next.Incarnation == 0
	return same && b.BootID == next.BootID
}

// keepBaselines adds to the edit the baselines that are not there yet.
func (j *Journal) keepBaselines(e *edit, bs []Baseline) error {
	for _, b := range bs {
		if b.BootID == "" {
			b.BootID = j.o.BootID
		}
		if old, ok := j.baselines.get(b.Key.String()); ok && old.covers(&b) {
			continue
		}
		if err := j.putBaseline(e, b); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) putBaseline(e *edit, b Baseline) error {
	key := b.Key.String()
	if j.baselines.newer(key) {
		return fmt.Errorf("baseline of %s: %w", key, ErrNewer)
	}
	if b.Created.IsZero() {
		b.Created = j.o.Now()
	}
	b.Created = stamp(b.Created)
	return put(e, j.baselines, key, &b, j.o.Limits.Baselines)
}

// DropBaselines forgets the baselines that drop says are no longer true: those
// of another boot, of a device that came anew, of a disk that was cloned.
func (j *Journal) DropBaselines(ctx context.Context, drop func(Baseline) bool) (int, error) {
	n := 0
	err := j.commitChange(ctx, "baseline", func(e *edit) error {
		n = 0
		for key, b := range j.baselines.all() {
			if drop(*b) {
				remove(e, j.baselines, key)
				n++
			}
		}
		return nil
	})
	return n, err
}

// Baseline is what release restores a key to. A volatile one of another boot
// is not returned: that kernel is gone.
func (r *Records) Baseline(k drivers.Key) (Baseline, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	b, ok := r.baselines.get(k.String())
	if !ok || (b.Class == drivers.Volatile && b.BootID != r.bootID) {
		return Baseline{}, false
	}
	return *b, true
}

// Baselines are all baselines, those of other boots too, by key.
func (r *Records) Baselines() []Baseline {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var bs []Baseline
	for _, b := range r.baselines.all() {
		bs = append(bs, *b)
	}
	slices.SortFunc(bs, func(a, b Baseline) int { return a.Key.Compare(b.Key) })
	return bs
}
