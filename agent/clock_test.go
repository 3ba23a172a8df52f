package agent

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

func TestPutOffUntil(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	began := now.Add(-time.Minute)
	failure := func(updated time.Time, pause time.Duration) journal.Failure {
		return journal.Failure{Updated: updated, Until: updated.Add(pause)}
	}
	for _, tc := range []struct {
		name string
		f    journal.Failure
		want time.Time
	}{
		{"no pause", journal.Failure{Updated: now}, time.Time{}},
		{"a pause", failure(now.Add(-time.Minute), 10*time.Minute), now.Add(9 * time.Minute)},
		{"a pause that is over", failure(now.Add(-time.Hour), 10*time.Minute), time.Time{}},
		{"the clock set back a day, a short pause", failure(now.Add(24*time.Hour), 20*time.Second), time.Time{}},
		{"the clock set back a day, a long pause", failure(now.Add(24*time.Hour), 10*time.Minute), began.Add(10 * time.Minute)},
		{"the clock set back to 1970", failure(now.AddDate(50, 0, 0), 24*time.Hour), began.Add(24 * time.Hour)},
		{"a pause that nobody makes", failure(now.Add(-time.Minute), 9000*time.Hour), now.Add(-time.Minute).Add(longestPause)},
		{"an end before its beginning, from the future", failure(now.Add(time.Hour), -2*time.Hour), time.Time{}},
	} {
		if got := putOffUntil(tc.f, began, now); !got.Equal(tc.want) {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestWithin(t *testing.T) {
	now := time.Now()
	for age, want := range map[time.Duration]bool{0: true, time.Minute: true, time.Hour: false, -time.Second: false, -24 * time.Hour: false} {
		if got := within(now.Add(-age), now, 10*time.Minute); got != want {
			t.Errorf("%s ago: %t", age, got)
		}
	}
}

// TestAClockThatIsSetBackFreezesNothing: what was put off for seconds is tried
// again after seconds, though its record is from tomorrow, and drift that was
// repaired tomorrow is no reason to leave the next one alone.
func TestAClockThatIsSetBackFreezesNothing(t *testing.T) {
	setBack(t, nil, func(t *testing.T, check func(testing.TB)) { check(t) })
}

// TestBrokenClockFreezes: the test above notices an agent that waits for the times
// of records as such.
func TestBrokenClockFreezes(t *testing.T) {
	waits := func(a *Agent) { a.started = a.started.Add(24 * time.Hour) }
	setBack(t, waits, func(t *testing.T, check func(testing.TB)) { notices(t, "0000:02:00.0=pending", check) })
}

// setBack lives tomorrow and then, with the same journal, today, which is judged.
func setBack(t *testing.T, breaks func(*Agent), judge func(t *testing.T, check func(testing.TB))) {
	t.Helper()
	store := journal.NewMemory()
	tomorrow := func(n *node) {
		n.store = store
		time.Sleep(24 * time.Hour)
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		tomorrow(n)
		if err := n.kernel.Inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL, Times: -1}); err != nil {
			t.Fatal(err)
		}
		n.start(nil)
		port := pci("0000:03:00.0", "")
		port.MTU = 4000
		n.want(pci(portA, "vfio-pci"), port)
		settled(8 * time.Second) // the second revert, put off for 20 s
		for range maxRepairs {
			n.mtuByHand("0000:03:00.0", 2000)
			settled(5 * time.Second)
		}
		n.halt()
		if f := n.journal.Failures(); len(f) != 1 || f[0].Until.IsZero() {
			t.Fatalf("%+v", f)
		}
	})
	today := func(t testing.TB) {
		n := newNode(t, sim.DefaultNode())
		n.store, n.breaks = store, breaks
		n.start(nil)
		defer n.halt()
		port := pci("0000:03:00.0", "")
		port.MTU = 4000
		n.want(pci(portA, "vfio-pci"), port)
		settled(2 * time.Minute)
		n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=degraded") // as after any restart
		settled(quiet)
		n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=right")
		n.mtuByHand("0000:03:00.0", 2000)
		settled(time.Minute)
		n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=right")
	}
	synctest.Test(t, func(t *testing.T) { judge(t, today) })
}

func (n *node) mtuByHand(address string, mtu int) {
	n.t.Helper()
	dev, err := host.NetdevOf(n.t.Context(), n.kernel, address)
	if err == nil {
		err = n.kernel.Foreign(host.Call{Op: host.OpMTU, Target: drivers.Target(address), Index: dev.Index, Number: mtu})
	}
	if err != nil {
		n.t.Fatal(err)
	}
}
