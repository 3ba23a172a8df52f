package journal

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"eniagent/drivers"
)

// Failure counts what went wrong with a goal, under its fingerprint, across
// operations and boots. Any success of the goal clears it.
type Failure struct {
	Fingerprint string        `json:"fingerprint"`
	Keys        []drivers.Key `json:"keys"`              // of the goal, sorted
	Reverts     int           `json:"reverts,omitempty"` // times the goal was given up and undone
	Panics      int           `json:"panics,omitempty"`  // boots in a row that ended while it was tried
	LastError   string        `json:"last_error,omitempty"`
	LastBoot    string        `json:"last_boot,omitempty"` // that the last panic ended
	Until       time.Time     `json:"until,omitzero"`      // not to be tried before
	Updated     time.Time     `json:"updated"`
}

func (f *Failure) validate() error {
	if len(f.Fingerprint) != digestLength {
		return fmt.Errorf("fingerprint %q: %w", f.Fingerprint, ErrInvalid)
	}
	if len(f.Keys) == 0 || len(f.Keys) > maxChanges {
		return fmt.Errorf("failure of %d keys: %w", len(f.Keys), ErrInvalid)
	}
	for i, k := range f.Keys {
		if err := checkKey(k); err != nil {
			return err
		}
		if i > 0 && f.Keys[i-1].Compare(k) >= 0 {
			return fmt.Errorf("key %s is out of order or there twice: %w", k, ErrInvalid)
		}
	}
	if f.Reverts < 0 || f.Reverts > maxCount || f.Panics < 0 || f.Panics > maxCount {
		return fmt.Errorf("%d reverts, %d panics: %w", f.Reverts, f.Panics, ErrInvalid)
	}
	return firstError(
		checkText("fingerprint", f.Fingerprint, 1, maxName),
		checkText("last error", f.LastError, 0, maxText),
		checkText("last boot", f.LastBoot, 0, maxName),
		checkTime("updated", f.Updated),
	)
}

// Count is what the end of an operation says about its goal.
type Count string

// The counts.
const (
	CountNothing Count = ""
	CountRevert  Count = "revert" // the goal could not be reached and was undone
	CountPanic   Count = "panic"  // the boot ended while the goal was tried
)

// count adds to the failures of an operation's goal. A panic is counted once
// for the boot it happened in, however often recovery starts over.
func (j *Journal) count(e *edit, o *Operation, what Count, cause string, until time.Time) error {
	if what == CountNothing {
		return nil
	}
	f := Failure{Fingerprint: o.Fingerprint(), Keys: o.Keys()}
	old, ok := j.failures.get(f.Fingerprint)
	if ok {
		f = *old
	}
	if j.failures.newer(f.Fingerprint) {
		return nil
	}
	switch {
	case what == CountRevert:
		f.Reverts++
	case ok && old.Panics > 0 && old.LastBoot == o.LastBoot():
		return nil
	default:
		f.Panics++
		f.LastBoot = o.LastBoot()
	}
	f.LastError = clip(cause)
	f.Until = stamp(until)
	f.Updated = j.stamp()
	if !ok && !j.failures.room(0, j.o.Limits.Failures, j.o.Limits.Bytes) {
		j.forgetOldestFailure(e)
	}
	return put(e, j.failures, f.Fingerprint, &f, j.o.Limits.Failures)
}

func (j *Journal) forgetOldestFailure(e *edit) {
	var oldest *Failure
	for _, f := range j.failures.all() {
		if oldest == nil || f.Updated.Before(oldest.Updated) {
			oldest = f
		}
	}
	if oldest != nil {
		remove(e, j.failures, oldest.Fingerprint)
	}
}

// ClearFailures forgets failures, by command or because the goal changed.
func (j *Journal) ClearFailures(ctx context.Context, forget func(Failure) bool) (int, error) {
	n := 0
	err := j.commitChange(ctx, "failure", func(e *edit) error {
		for key, f := range j.failures.all() {
			if forget(f.clone()) {
				remove(e, j.failures, key)
				n++
			}
		}
		return nil
	})
	return n, err
}

func (f *Failure) clone() Failure {
	c := *f
	c.Keys = slices.Clone(f.Keys)
	return c
}

// Failure is what is counted under a fingerprint.
func (r *Records) Failure(fingerprint string) (Failure, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	f, ok := r.failures.get(fingerprint)
	if !ok {
		return Failure{}, false
	}
	return f.clone(), true
}

// Failures are all failures, by fingerprint.
func (r *Records) Failures() []Failure {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var fs []Failure
	for _, f := range r.failures.all() {
		fs = append(fs, f.clone())
	}
	slices.SortFunc(fs, func(a, b Failure) int { return cmp.Compare(a.Fingerprint, b.Fingerprint) })
	return fs
}
