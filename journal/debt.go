package journal

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"eniagent/drivers"
)

// Debt is what others must do because of what was changed, such as the restart
// of a program that reads a file only when it starts. It is kept as a standing
// order of the whole node, whose counts only grow: whoever has done it says up
// to which change, so that none that came meanwhile is taken for paid.
type Debt struct {
	What  string
	Owed  uint64    // how often it came to be owed, ever
	Paid  uint64    // up to which of these it was done
	Why   string    // it came to be owed last
	Since time.Time // the first that is not paid
	Last  time.Time // it came to be owed last; zero where an older agent wrote it
	Done  time.Time // it was paid last; zero where it never was, or an older agent wrote it
	Who   string    // paid last
	Boot  string    // for which it was owed last; "" is none
}

// Open is how many of them are not paid.
func (d Debt) Open() uint64 { return d.Owed - d.Paid }

// The facts of such an order.
const (
	factOwed  = "owed"
	factPaid  = "paid"
	factSince = "since"
	factBoot  = "boot"
	// These have the count that they are of: an agent that does not know them
	// leaves them as they are, and counts on.
	factLast = "last"
	factDone = "done"
)

// debtOf reads an order. What cannot be read counts as owed: an order that is
// there is there because something was.
func debtOf(c *Control) Debt {
	d := Debt{What: c.Action, Why: c.Why, Who: c.Who, Boot: c.Facts[factBoot]}
	var err error
	d.Owed, err = strconv.ParseUint(c.Facts[factOwed], 10, 64)
	readable := err == nil
	d.Paid, err = strconv.ParseUint(c.Facts[factPaid], 10, 64)
	if !readable || err != nil || d.Paid > d.Owed {
		d.Owed, d.Paid = max(1, d.Owed), 0
	}
	if d.Since, err = time.Parse(time.RFC3339Nano, c.Facts[factSince]); err != nil {
		d.Since = c.Created
	}
	d.Last, d.Done = timeOf(c.Facts[factLast], d.Owed), timeOf(c.Facts[factDone], d.Paid)
	return d
}

// timeOf reads when a count was reached; zero when the text is about another.
func timeOf(text string, count uint64) time.Time {
	of, at, _ := strings.Cut(text, " ")
	t, err := time.Parse(time.RFC3339Nano, at)
	if n, bad := strconv.ParseUint(of, 10, 64); err != nil || bad != nil || n != count {
		return time.Time{}
	}
	return t
}

// timeText is what timeOf reads; "" of no time.
func timeText(t time.Time, count uint64) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatUint(count, 10) + " " + t.Format(time.RFC3339Nano)
}

// Debt is what is owed of a kind; false when nothing ever was.
func (r *Records) Debt(what string) (Debt, bool) {
	c, ok := r.Control(what, "")
	if !ok {
		return Debt{}, false
	}
	return debtOf(&c), true
}

// Owe makes it owed once more, for a boot where there is one: how often that
// boot's agent starts makes no difference. A change that an operation made is
// owed by its Closing, in the same commit.
func (j *Journal) Owe(ctx context.Context, what, why, boot string) error {
	return j.commitChange(ctx, "owe", func(e *edit) error {
		if d, ok := j.control.get(debtKey(what)); ok && boot != "" && debtOf(d).Boot == boot {
			return nil
		}
		return j.owe(e, what, why, boot)
	})
}

func (j *Journal) owe(e *edit, what, why, boot string) error {
	if what == "" {
		return nil
	}
	d := Debt{What: what, Since: j.stamp()}
	if old, ok := j.control.get(debtKey(what)); ok {
		d = debtOf(old)
	}
	if d.Open() == 0 {
		d.Since = j.stamp()
	}
	d.Owed++
	d.Last = j.stamp()
	d.Why = clip(why)
	if boot != "" {
		d.Boot = boot
	}
	return j.putDebt(e, d)
}

// Pay notes that what was owed up to that count was done. What came to be owed
// since is owed still.
func (j *Journal) Pay(ctx context.Context, what string, upTo uint64, who string) (d Debt, err error) {
	err = j.commitChange(ctx, "pay", func(e *edit) error {
		old, ok := j.control.get(debtKey(what))
		if !ok {
			return fmt.Errorf("%s was never owed: %w", what, ErrUnknown)
		}
		if d = debtOf(old); upTo > d.Owed {
			return fmt.Errorf("%s %d: %d is the last that came to be owed: %w", what, upTo, d.Owed, ErrUnknown)
		}
		if upTo <= d.Paid {
			return nil
		}
		d.Paid, d.Who, d.Done = upTo, who, j.stamp()
		return j.putDebt(e, d)
	})
	return d, err
}

func debtKey(what string) string { return (&Control{Action: what}).Name() }

func (j *Journal) putDebt(e *edit, d Debt) error {
	key := debtKey(d.What)
	if j.control.newer(key) {
		return fmt.Errorf("control record %s: %w", key, ErrNewer)
	}
	c := Control{Action: d.What, Target: drivers.Target(""), Who: d.Who, Why: d.Why, Created: j.stamp(), Facts: map[string]string{}}
	if old, ok := j.control.get(key); ok {
		c.Facts, c.Created = maps.Clone(old.Facts), old.Created
	}
	c.Facts[factOwed], c.Facts[factPaid] = strconv.FormatUint(d.Owed, 10), strconv.FormatUint(d.Paid, 10)
	c.Facts[factSince] = d.Since.Format(time.RFC3339Nano)
	for fact, text := range map[string]string{
		factBoot: d.Boot, factLast: timeText(d.Last, d.Owed), factDone: timeText(d.Done, d.Paid),
	} {
		if text != "" {
			c.Facts[fact] = text
		}
	}
	// No other order may take its room: what was changed is changed.
	return put(e, j.control, key, &c, j.o.Limits.Controls+1)
}
