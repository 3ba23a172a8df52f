package journal

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"eniagent/drivers"
)

// Desired is the last good desired state of one source, so that the node is
// kept right while the file is broken or the API is away.
type Desired struct {
	Source     string          `json:"source"`
	Object     string          `json:"object,omitempty"`
	Generation string          `json:"generation,omitempty"`
	Document   json.RawMessage `json:"document,omitempty"` // as the source gave it, compacted
	Goals      []Goal          `json:"goals,omitempty"`    // sorted by key
	Selections []Selection     `json:"selections,omitempty"`
	Updated    time.Time       `json:"updated"`
}

// Goal is one key's desired state and the entry of the document that asks it.
type Goal struct {
	Key   drivers.Key   `json:"key"`
	State drivers.State `json:"state"`
	Entry string        `json:"entry,omitempty"`
}

// Selection remembers which host thing a selector ("mac 02:...", "name eth1")
// stood for when it could last be seen, because a function on vfio-pci has
// neither.
type Selection struct {
	Selector string           `json:"selector"`
	Target   drivers.Target   `json:"target"`
	Identity drivers.Identity `json:"identity,omitzero"`
}

func (d *Desired) validate() error {
	if len(d.Goals) > maxGoals || len(d.Selections) > maxGoals {
		return fmt.Errorf("%d goals, %d selections: at most %d: %w", len(d.Goals), len(d.Selections), maxGoals, ErrInvalid)
	}
	if len(d.Document) > maxDocument || (d.Document != nil && !json.Valid(d.Document)) {
		return fmt.Errorf("document of %d bytes is not JSON or larger than %d: %w", len(d.Document), maxDocument, ErrInvalid)
	}
	for i, g := range d.Goals {
		err := firstError(checkKey(g.Key), checkText("state", string(g.State), 0, maxState), checkText("entry", g.Entry, 0, maxName))
		if err != nil {
			return err
		}
		if i > 0 && d.Goals[i-1].Key.Compare(g.Key) >= 0 {
			return fmt.Errorf("goal %s is out of order or there twice: %w", g.Key, ErrInvalid)
		}
	}
	for i, s := range d.Selections {
		err := firstError(checkText("selector", s.Selector, 1, maxText), checkTarget(s.Target), checkIdentity(s.Identity))
		if err != nil {
			return err
		}
		if i > 0 && d.Selections[i-1].Selector >= s.Selector {
			return fmt.Errorf("selector %q is out of order or there twice: %w", s.Selector, ErrInvalid)
		}
	}
	return firstError(
		checkText("source", d.Source, 1, maxName),
		checkText("object", d.Object, 0, maxText),
		checkText("generation", d.Generation, 0, maxName),
		checkText("document", string(d.Document), 0, maxDocument),
		checkTime("updated", d.Updated),
	)
}

// normal is d as it is kept: sorted, compact, sharing nothing.
func (d Desired) normal() (Desired, error) {
	d = d.clone()
	slices.SortStableFunc(d.Goals, func(a, b Goal) int { return a.Key.Compare(b.Key) })
	slices.SortStableFunc(d.Selections, func(a, b Selection) int { return cmp.Compare(a.Selector, b.Selector) })
	if len(d.Goals) == 0 {
		d.Goals = nil
	}
	if len(d.Selections) == 0 {
		d.Selections = nil
	}
	if len(d.Document) == 0 {
		d.Document = nil
		return d, nil
	}
	var b bytes.Buffer
	if err := json.Compact(&b, d.Document); err != nil {
		return d, fmt.Errorf("document of source %q: %w: %w", d.Source, ErrInvalid, err)
	}
	d.Document = b.Bytes()
	return d, nil
}

func (d *Desired) clone() Desired {
	c := *d
	c.Document = slices.Clone(d.Document)
	c.Goals = slices.Clone(d.Goals)
	c.Selections = slices.Clone(d.Selections)
	return c
}

// SetDesired keeps the desired state of a source. It is durable before it
// returns, and costs no commit when nothing but the time differs.
func (j *Journal) SetDesired(ctx context.Context, d Desired) error {
	d, err := d.normal()
	if err != nil {
		return err
	}
	return j.commitChange(ctx, "desired", func(e *edit) error {
		old, ok := j.desired.get(d.Source)
		if j.desired.newer(d.Source) {
			return fmt.Errorf("desired state of %q: %w", d.Source, ErrNewer)
		}
		d := d
		if ok {
			// Compared as written, with the time that is there.
			d.Updated = old.Updated
			raw, err := e.codec.encode(BucketDesired, d.Source, &d)
			if err != nil {
				return err
			}
			if bytes.Equal(raw, j.desired.raw(d.Source)) {
				return nil
			}
		}
		d.Updated = j.stamp()
		return put(e, j.desired, d.Source, &d, j.o.Limits.Sources)
	})
}

// DropDesired forgets a source that is no longer configured. Empty, missing or
// unreachable is not a reason to call it.
func (j *Journal) DropDesired(ctx context.Context, source string) error {
	return j.commitChange(ctx, "desired", func(e *edit) error {
		if _, ok := j.desired.get(source); ok {
			remove(e, j.desired, source)
		}
		return nil
	})
}

// Desired is the last good desired state of a source.
func (r *Records) Desired(source string) (Desired, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	d, ok := r.desired.get(source)
	if !ok {
		return Desired{}, false
	}
	return d.clone(), true
}

// Sources is the desired state of all sources, by name.
func (r *Records) Sources() []Desired {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var ds []Desired
	for _, d := range r.desired.all() {
		ds = append(ds, d.clone())
	}
	slices.SortFunc(ds, func(a, b Desired) int { return cmp.Compare(a.Source, b.Source) })
	return ds
}
