package journal

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"eniagent/drivers"
)

// Control is a standing order that outranks every source until it is
// cancelled: a target is paused or released. A Debt is kept as one, too.
type Control struct {
	Action string `json:"action"` // "paused", "released", ...: lower-case letters, digits, '-', '_'
	// Target is what it holds for; "" is the whole node.
	Target  drivers.Target    `json:"target,omitempty"`
	Who     string            `json:"who,omitempty"`
	Why     string            `json:"why,omitempty"`
	Facts   map[string]string `json:"facts,omitempty"` // what the action needs to remember
	Created time.Time         `json:"created"`
}

// Name is the key that the record is kept under.
func (c *Control) Name() string { return c.Action + "@" + string(c.Target) }

func (c *Control) validate() error {
	if !isName(c.Action) {
		return fmt.Errorf("action %q: want lower-case letters, digits, '-' and '_': %w", c.Action, ErrInvalid)
	}
	if c.Target != "" {
		if err := checkTarget(c.Target); err != nil {
			return err
		}
	}
	if len(c.Facts) > maxFacts {
		return fmt.Errorf("%d facts: at most %d: %w", len(c.Facts), maxFacts, ErrInvalid)
	}
	for k, v := range c.Facts {
		if err := firstError(checkText("fact", k, 1, maxName), checkText("fact "+k, v, 0, maxText)); err != nil {
			return err
		}
	}
	return firstError(
		checkText("who", c.Who, 0, maxName),
		checkText("why", c.Why, 0, maxText),
		checkTime("created", c.Created),
	)
}

func (c *Control) clone() Control {
	d := *c
	d.Facts = maps.Clone(c.Facts)
	return d
}

// SetControl gives a standing order, or replaces the one for the same action
// and target. Giving the same order again costs no commit.
func (j *Journal) SetControl(ctx context.Context, c Control) error {
	c = c.clone()
	return j.commitChange(ctx, "control", func(e *edit) error {
		old, ok := j.control.get(c.Name())
		if j.control.newer(c.Name()) {
			return fmt.Errorf("control record %s: %w", c.Name(), ErrNewer)
		}
		if ok && old.Who == c.Who && old.Why == c.Why && maps.Equal(old.Facts, c.Facts) {
			return nil
		}
		c := c
		c.Created = j.stamp()
		if ok && old.Who == c.Who && old.Why == c.Why {
			c.Created = old.Created // the same order, of which more is known
		}
		return put(e, j.control, c.Name(), &c, j.o.Limits.Controls)
	})
}

// ClearControl cancels a standing order; false when there was none.
func (j *Journal) ClearControl(ctx context.Context, action string, t drivers.Target) (bool, error) {
	name := (&Control{Action: action, Target: t}).Name()
	found := false
	err := j.commitChange(ctx, "control", func(e *edit) error {
		if j.control.newer(name) {
			return fmt.Errorf("control record %s: %w", name, ErrNewer)
		}
		if _, found = j.control.get(name); found {
			remove(e, j.control, name)
		}
		return nil
	})
	return found, err
}

// Control is the standing order of that action for that target ("" is the
// whole node).
func (r *Records) Control(action string, t drivers.Target) (Control, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	c, ok := r.control.get((&Control{Action: action, Target: t}).Name())
	if !ok {
		return Control{}, false
	}
	return c.clone(), true
}

// Controls are all standing orders, by action and target.
func (r *Records) Controls() []Control {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var cs []Control
	for _, c := range r.control.all() {
		cs = append(cs, c.clone())
	}
	slices.SortFunc(cs, func(a, b Control) int { return cmp.Compare(a.Name(), b.Name()) })
	return cs
}
