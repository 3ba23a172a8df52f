package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host/sim"
)

// guardFunc is a guard of goals.
type guardFunc func(goal plan.Goal) error

func (g guardFunc) MayDrive(_ context.Context, _ plan.Observed, goal plan.Goal) error { return g(goal) }
func (guardFunc) MayStep(context.Context, drivers.Step) error                         { return nil }

// guarded is a node whose every operation on a function meets the error of a
// guard, while there is one; tried counts them.
func guarded(t *testing.T) (n *node, guard *atomic.Pointer[error], tried *atomic.Int64) {
	n, guard, tried = newNode(t, sim.DefaultNode()), &atomic.Pointer[error]{}, &atomic.Int64{}
	n.start(nil)
	settled(100 * time.Millisecond)
	n.agent.engine.Guard = guardFunc(func(goal plan.Goal) error {
		if _, ok := goal[drivers.Key{Kind: dpdk.KindDriver, Target: portA}]; !ok {
			return nil
		}
		tried.Add(1)
		if err := guard.Load(); err != nil {
			return *err
		}
		return nil
	})
	return n, guard, tried
}

// storm wakes the agent again and again, as events do.
func (n *node) storm(d time.Duration) {
	for range d / (500 * time.Millisecond) {
		n.agent.Wake()
		settled(500 * time.Millisecond)
	}
}

func TestWhatKeepsBeingRefusedIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, guard, tried := guarded(t)
		defer n.halt()
		no := fmt.Errorf("a rule: %w", drivers.ErrRefused)
		guard.Store(&no)
		n.want(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		n.storm(time.Hour)
		n.expect("pci 0000:02:00.0=refused, pci 0000:03:00.0=right")
		if got := tried.Load(); got < breakerTrips+5 || got > 30 {
			t.Errorf("%d tries within an hour of events", got)
		}
		if r := n.reason(); !strings.Contains(r, "held back until 2000-01-01T0") || !strings.Contains(r, "a rule") || !strings.Contains(r, "agent retry "+portA) {
			t.Errorf("the reason is %q", r)
		}
		if open, closed := n.metric(`eniagent_breakers{state="open"}`), n.metric(`eniagent_breakers{state="closed"}`); open != 1 || closed != 0 {
			t.Errorf("%v breakers are open, %v are closed", open, closed)
		}
		if lines := n.logged("held back"); lines > 30 {
			t.Errorf("%d lines of the log say so", lines)
		}
		// A person knows better.
		guard.Store(nil)
		if cleared, err := n.agent.Retry(t.Context(), portA); err != nil || cleared != 1 {
			t.Errorf("cleared %d, %v", cleared, err)
		}
		settled(time.Second)
		n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=right")
		if open := n.metric(`eniagent_breakers{state="open"}`); open != 0 {
			t.Errorf("%v breakers are open after a success", open)
		}
	})
}

// TestHeldBackGoesOnByItself once its pause is over, with no event at all.
func TestHeldBackGoesOnByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, guard, _ := guarded(t)
		defer n.halt()
		no := fmt.Errorf("a rule: %w", drivers.ErrRefused)
		guard.Store(&no)
		n.want(pci(portA, "vfio-pci"))
		n.storm(10 * time.Second)
		guard.Store(nil)
		settled(3 * breakerPause)
		n.expect("pci 0000:02:00.0=right")
	})
}

// TestWhatIsHeldByAProgramIsNotHeldBack: it goes on as soon as it can.
func TestWhatIsHeldByAProgramIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, guard, _ := guarded(t)
		defer n.halt()
		busy := fmt.Errorf("%w: a program has it: %w", drivers.ErrRefused, syscall.EBUSY)
		guard.Store(&busy)
		n.want(pci(portA, "vfio-pci"))
		n.storm(10 * time.Minute)
		n.expect("pci 0000:02:00.0=refused")
		guard.Store(nil)
		n.storm(time.Second)
		n.expect("pci 0000:02:00.0=right")
	})
}

// strict lets an operation begin, and nothing after that.
type strict struct{ tried atomic.Int64 }

var errRule = fmt.Errorf("a rule: %w", drivers.ErrRefused)

func (s *strict) MayDrive(_ context.Context, _ plan.Observed, goal plan.Goal) error {
	key := drivers.Key{Kind: dpdk.KindDriver, Target: portA}
	if _, ok := goal[key]; !ok || s.tried.Add(1) <= 3 { // planned, begun, driven
		return nil
	}
	return errRule
}

func (s *strict) MayStep(_ context.Context, step drivers.Step) error {
	if step.Key.Target != portA {
		return nil
	}
	return errRule
}

// TestWhatStaysOpenIsLookedAtEverMoreSeldom: a rule may forbid for days what an
// operation was begun for.
func TestWhatStaysOpenIsLookedAtEverMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		settled(100 * time.Millisecond)
		g := &strict{}
		n.agent.engine.Guard, n.agent.view.Guard = g, g
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(time.Second)
		n.expect("pci 0000:02:00.0=refused")
		before := g.tried.Load()
		settled(time.Hour)
		passes := int64(time.Hour / n.agent.c.Interval)
		if tried := g.tried.Load() - before; tried < passes || tried > passes+25 {
			t.Errorf("looked at %d times within an hour, of which %d by full passes", tried, passes)
		}
		op := n.agent.c.Journal.Operations()[0]
		if op.Attempts > 3 {
			t.Errorf("%d attempts were counted", op.Attempts)
		}
	})
}

func TestChangedDesiredStateClosesABreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, guard, _ := guarded(t)
		defer n.halt()
		no := fmt.Errorf("a rule: %w", drivers.ErrRefused)
		guard.Store(&no)
		n.want(pci(portA, "vfio-pci"))
		n.storm(10 * time.Minute)
		guard.Store(nil)
		n.want(pci(portA, "uio_pci_generic"))
		settled(time.Second)
		n.expect("pci 0000:02:00.0=right")
	})
}

func TestBreakerCountsWhatTheJournalDoesNot(t *testing.T) {
	key := drivers.Key{Kind: dpdk.KindDriver, Target: portA}
	boom := errors.New("boom")
	for _, tc := range []struct {
		outcome engine.Outcome
		err     error
		opens   bool
	}{
		{engine.Done, nil, false},
		{engine.Reverted, boom, false},
		{engine.Quarantined, boom, false},
		{engine.Superseded, boom, false},
		{engine.Blocked, boom, true},
		{engine.Refused, boom, true},
		{engine.Failed, boom, true},
		{engine.Kept, boom, true},
		{engine.Kept, nil, true},
		{engine.Kept, drivers.ErrFenced, false},
		{engine.Blocked, drivers.ErrFenced, false},
		{engine.Refused, drivers.ErrNotReady, false},
		{engine.Refused, syscall.EBUSY, false},
		{engine.Refused, drivers.ErrHeld, false},
	} {
		t.Run(fmt.Sprint(tc.outcome, " ", tc.err), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreakers()
				for range breakerTrips {
					if _, _, held := b.held(key); held {
						t.Error("held back too soon")
					}
					b.run(key, func() engine.Result { return engine.Result{Outcome: tc.outcome, Err: tc.err} })
				}
				if _, _, held := b.held(key); held != tc.opens {
					t.Errorf("held back: %t, want %t", held, tc.opens)
				}
				if !tc.opens && len(b.by) > 0 {
					t.Error("what does not fail has a breaker")
				}
			})
		})
	}
}

// TestBreakerPausesGrow, are bounded, and one success ends them.
func TestBreakerPausesGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, key := newBreakers(), drivers.Key{Kind: dpdk.KindDriver, Target: portA}
		fail := func() engine.Result { return engine.Result{Outcome: engine.Failed, Err: errors.New("boom")} }
		for range breakerTrips - 1 {
			b.run(key, fail)
		}
		want := breakerPause
		for range 12 {
			b.run(key, fail)
			until, last, held := b.held(key)
			pause := time.Until(until)
			if !held || last.Err == nil || pause < want*7/10 || pause > want*13/10 {
				t.Fatalf("pause of %s, want about %s", pause, want)
			}
			if r := b.run(key, fail); r.Outcome != engine.Blocked || !errors.Is(r.Err, gobreaker.ErrOpenState) {
				t.Fatalf("an open breaker let through: %+v", r)
			}
			time.Sleep(pause)
			if b.count(gobreaker.StateHalfOpen) != 1 {
				t.Fatal("not half-open after its pause")
			}
			want = min(2*want, breakerPauseMax)
		}
		b.run(key, func() engine.Result { return engine.Result{Outcome: engine.Done} })
		if len(b.by) > 0 {
			t.Error("a success leaves a breaker behind")
		}
	})
}

func TestBreakersAreBounded(t *testing.T) {
	b := newBreakers()
	for i := range 2 * maxBreakers {
		key := drivers.Key{Kind: dpdk.KindDriver, Target: drivers.Target(fmt.Sprintf("%04x:00:00.0", i))}
		b.run(key, func() engine.Result { return engine.Result{Outcome: engine.Failed, Err: errors.New("boom")} })
	}
	if len(b.by) > maxBreakers {
		t.Errorf("%d breakers", len(b.by))
	}
}
