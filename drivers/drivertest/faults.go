package drivertest

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host/sim"
)

func errnos() []syscall.Errno {
	return []syscall.Errno{
		syscall.EBUSY, syscall.EINVAL, syscall.ENODEV, syscall.EIO, syscall.EAGAIN,
		syscall.ENOENT, syscall.EEXIST, syscall.EPERM,
	}
}

// way is the writes that lead from one state to another: label and number of
// that label.
func (s suite) way(t testing.TB, from, to drivers.State) (points []sim.Fault) {
	t.Helper()
	k := s.at(t, from)
	nth := map[string]int{}
	k.Hook = func(p sim.Point) {
		if p.When == sim.Before {
			nth[p.Label]++
			points = append(points, sim.Fault{Label: p.Label, Nth: nth[p.Label]})
		}
	}
	s.apply(t, k, to)
	if len(points) == 0 {
		t.Fatalf("no write leads from %q to %q", from, to)
	}
	return points
}

// faults lets every write on the way go wrong in every manner.
func (s suite) faults(t *testing.T, from, to drivers.State) {
	origin := s.at(t, from)
	for _, point := range s.way(t, from, to) {
		for _, f := range manners(point) {
			k := origin.Clone()
			if err := k.Inject(f); err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprintf("%s %d %s errno=%d noop=%t", f.When, f.Nth, f.Label, f.Errno, f.Noop)
			err := s.driver(t, k).Apply(context.Background(), s.sample.Target, to)
			if ferr := k.ClearFaults(); ferr != nil {
				t.Fatal(ferr)
			}
			s.judge(t, name, k, err, to)
		}
	}
}

func manners(at sim.Fault) []sim.Fault {
	at.When = sim.Before
	noop := at
	noop.Noop = true
	fs := []sim.Fault{noop}
	for _, errno := range errnos() {
		for _, when := range []sim.When{sim.Before, sim.After} {
			f := at
			f.Errno, f.When = errno, when
			fs = append(fs, f)
		}
	}
	return fs
}

// judge looks at what a fault has left: the error names the key, nil means
// that the host shows the goal, what is there is one of the states that the
// Spec explains, and the next try reaches the goal.
func (s suite) judge(t *testing.T, name string, k *sim.Kernel, err error, to drivers.State) {
	t.Helper()
	got := s.driver(t, k).Observe(context.Background(), s.sample.Target)
	var named *drivers.Error
	switch {
	case err == nil && !got.Is(to):
		t.Errorf("%s: nil, and the host shows %q, want %q", name, got, to)
	case err != nil && !errors.As(err, &named):
		t.Errorf("%s: %v is no drivers.Error", name, err)
	case err != nil && named.Key != drivers.Key{Kind: s.spec.Kind, Target: s.sample.Target}:
		t.Errorf("%s: the error names %s", name, named.Key)
	}
	if !s.explained(got) {
		t.Errorf("%s: left %q (%v), which the Spec does not explain", name, got, got.Err)
	}
	if err := s.driver(t, k).Apply(context.Background(), s.sample.Target, to); err != nil {
		t.Errorf("%s: the next try: %v\n%s", name, err, k)
	} else if got := s.driver(t, k).Observe(context.Background(), s.sample.Target); !got.Is(to) {
		t.Errorf("%s: after the next try %q, want %q", name, got, to)
	}
}

func (s suite) explained(o drivers.Observation) bool {
	before, after := s.sample.Before, s.sample.After
	switch {
	case o.Is(before), o.Is(after):
		return true
	case o.Presence == drivers.Concealed:
		return s.spec.Netdev
	case o.Presence != drivers.Present:
		return false
	}
	return s.spec.Between(before, after, o.State) || s.spec.Netdev && o.State == s.spec.Fresh
}

// kills tries the machine as it is when the agent dies at each boundary.
func (s suite) kills(t *testing.T, from, to drivers.State) {
	k := s.at(t, from)
	left := map[string]*sim.Kernel{}
	k.Hook = func(p sim.Point) { left[p.String()] = k.Clone() }
	s.apply(t, k, to)
	for name, k := range left {
		for _, goal := range []drivers.State{s.sample.Before, s.sample.After} {
			s.judge(t, name, k.Clone(), errKilled(s), goal)
		}
	}
}

func errKilled(s suite) error {
	return &drivers.Error{Key: drivers.Key{Kind: s.spec.Kind, Target: s.sample.Target}, Err: errors.New("killed")}
}

// reads lets every read of an observation fail: what cannot be read is never
// taken for what it is not.
func (s suite) reads(t *testing.T) {
	for _, state := range []drivers.State{s.sample.Before, s.sample.After} {
		origin := s.at(t, state)
		for nth := 1; nth < 40; nth++ {
			k := origin.Clone()
			if err := k.Inject(sim.Fault{Label: sim.LabelRead, Nth: nth, Errno: syscall.EIO}); err != nil {
				t.Fatal(err)
			}
			got := s.driver(t, k).Observe(context.Background(), s.sample.Target)
			if !got.Is(state) && (got.Presence != drivers.Unobservable || got.Err == nil) {
				t.Errorf("read %d fails: observed %q (%v), want %q or unobservable", nth, got, got.Err, state)
			}
			s.unread(t, origin, nth)
		}
	}
}

// unread tries Apply while a read fails: it may fail, and leaves nothing that
// the Spec does not explain.
func (s suite) unread(t *testing.T, origin *sim.Kernel, nth int) {
	t.Helper()
	for _, to := range []drivers.State{s.sample.Before, s.sample.After} {
		k := origin.Clone()
		if err := k.Inject(sim.Fault{Label: sim.LabelRead, Nth: nth, Errno: syscall.EIO}); err != nil {
			t.Fatal(err)
		}
		err := s.driver(t, k).Apply(context.Background(), s.sample.Target, to)
		if cerr := k.ClearFaults(); cerr != nil {
			t.Fatal(cerr)
		}
		s.judge(t, fmt.Sprintf("read %d fails", nth), k, err, to)
	}
}
