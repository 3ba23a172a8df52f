package journal

import (
	"errors"
	"testing"
	"time"
)

const restart = "plugin-restart"

// TestADebtIsOwedWithItsOperation: whichever commit a crash comes before or
// behind, an operation that is closed is owed for, and one that is open is not.
func TestADebtIsOwedWithItsOperation(t *testing.T) {
	for _, end := range []func(*Journal, uint64) error{
		func(j *Journal, id uint64) error { return j.End(Closing{ID: id, State: Done, Owes: restart}) },
		func(j *Journal, id uint64) error { return j.Quarantine(t.Context(), id, "foreign", restart) },
	} {
		m := NewMemory()
		var crashes []*Memory
		o := testOptions(nil)
		o.Fault = func(string) error {
			crashes = append(crashes, m.Clone())
			return nil
		}
		j, err := OpenMemory(t.Context(), m, o)
		ok(t, err)
		op := begin(t, j, 1, "9000")
		ok(t, end(j, op.ID))
		ok(t, j.Owe(t.Context(), "another", "why", "")) // rides with it, or comes after
		ok(t, j.Close())
		crashes = append(crashes, m.Clone())
		for i, m := range crashes {
			j, err := OpenMemory(t.Context(), m, testOptions(nil))
			ok(t, err)
			now, there := j.Get(op.ID)
			d, _ := j.Debt(restart)
			if closed := there && !now.State.Open(); closed != (d.Open() == 1) || d.Owed > 1 {
				t.Errorf("crash %d: operation is %q, and owed is %d", i, now.State, d.Owed)
			}
			j.Abandon()
		}
	}
}

// TestPay: up to a count, and no more than came to be owed.
func TestPay(t *testing.T) {
	m := NewMemory()
	j, err := OpenMemory(t.Context(), m, testOptions(nil))
	ok(t, err)
	if _, err := j.Pay(t.Context(), restart, 0, "root"); !errors.Is(err, ErrUnknown) {
		t.Errorf("paid what was never owed: %v", err)
	}
	for range 3 {
		ok(t, j.Owe(t.Context(), restart, "changed", ""))
	}
	d, err := j.Pay(t.Context(), restart, 2, "root")
	if err != nil || d.Open() != 1 || d.Who != "root" || d.Why != "changed" {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := j.Pay(t.Context(), restart, 4, "root"); !errors.Is(err, ErrUnknown) {
		t.Errorf("paid ahead: %v", err)
	}
	if d, err = j.Pay(t.Context(), restart, 1, "root"); err != nil || d.Open() != 1 {
		t.Errorf("an older count takes back: %+v, %v", d, err)
	}
	ok(t, j.Close())
	j, err = OpenMemory(t.Context(), m, testOptions(nil))
	ok(t, err)
	if d, _ = j.Debt(restart); d.Open() != 1 {
		t.Errorf("after a restart %+v", d)
	}
	j.Abandon()
}

// TestADebtHasRoom where every other order has not.
func TestADebtHasRoom(t *testing.T) {
	o := testOptions(nil)
	o.Limits.Controls = 1
	j, err := OpenMemory(t.Context(), NewMemory(), o)
	ok(t, err)
	defer j.Abandon()
	ok(t, j.SetControl(t.Context(), Control{Action: "paused"}))
	if err := j.SetControl(t.Context(), Control{Action: "released"}); !errors.Is(err, ErrFull) {
		t.Fatalf("%v, want ErrFull", err)
	}
	op := begin(t, j, 1, "9000")
	ok(t, j.End(Closing{ID: op.ID, State: Done, Owes: restart}))
}

// TestAnOrderThatCannotBeReadIsOwed: it is there because something was.
func TestAnOrderThatCannotBeReadIsOwed(t *testing.T) {
	for _, facts := range []map[string]string{nil, {"owed": "x"}, {"owed": "2", "paid": "9"}, {"owed": "-1", "paid": "1"}} {
		if d := debtOf(&Control{Action: restart, Facts: facts}); d.Open() == 0 {
			t.Errorf("%v: %+v", facts, d)
		}
	}
}

// TestADebtHasItsTimes: of the first that is not paid, of the last, and of the
// payment. An agent that knows neither of the latter leaves none that is wrong.
func TestADebtHasItsTimes(t *testing.T) {
	m, now := NewMemory(), time.Date(2026, 1, 1, 0, 0, 0, 5, time.UTC)
	o := testOptions(nil)
	o.Now = func() time.Time { return now }
	j, err := OpenMemory(t.Context(), m, o)
	ok(t, err)
	owe := func() time.Time {
		now = now.Add(time.Minute)
		ok(t, j.Owe(t.Context(), restart, "changed", ""))
		return now
	}
	first := owe()
	owe()
	last := owe()
	expect := func(since, last, done time.Time) {
		t.Helper()
		if d, _ := j.Debt(restart); !d.Since.Equal(since) || !d.Last.Equal(last) || !d.Done.Equal(done) {
			t.Errorf("%+v, want %s, %s, %s", d, since, last, done)
		}
	}
	expect(first, last, time.Time{})
	now = now.Add(time.Hour)
	_, err = j.Pay(t.Context(), restart, 2, "root")
	ok(t, err)
	ok(t, j.Close())
	j, err = OpenMemory(t.Context(), m, o)
	ok(t, err)
	paid := last.Add(time.Hour)
	expect(first, last, paid)
	c, _ := j.Control(restart, "")
	c.Facts["owed"] = "4" // by an older agent
	ok(t, j.SetControl(t.Context(), c))
	expect(first, time.Time{}, paid)
	c.Facts["paid"] = "4"
	ok(t, j.SetControl(t.Context(), c))
	expect(first, time.Time{}, time.Time{})
	again := owe()
	expect(again, again, time.Time{})
	j.Abandon()
}
