package drivertest

import (
	"context"
	"errors"
	"path"
	"testing"

	"github.com/google/go-cmp/cmp"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// Run tries every kind of a set on its samples.
func Run(t *testing.T, drive func(host.Host) drivers.Set, samples map[drivers.Kind][]Sample) {
	for _, spec := range drive(sim.New(sim.DefaultNode())).Specs {
		t.Run(string(spec.Kind), func(t *testing.T) {
			if len(samples[spec.Kind]) == 0 {
				t.Fatalf("kind %q has no samples: add one to the table", spec.Kind)
			}
			testTotal(spec)
			for _, s := range samples[spec.Kind] {
				if s.Name == "" {
					s.Name = string(s.After)
				}
				t.Run(s.Name, func(t *testing.T) { suite{spec, s, drive}.run(t) })
			}
		})
	}
}

// suite is one sample of one kind.
type suite struct {
	spec   drivers.Spec
	sample Sample
	drive  func(host.Host) drivers.Set
}

func (s suite) run(t *testing.T) {
	t.Run("observe never writes", s.observe)
	t.Run("apply is idempotent", s.idempotent)
	t.Run("there and back", s.roundTrip)
	t.Run("illegal states write nothing", s.illegal)
	t.Run("legal takes every hop", s.legal)
	if address, ok := s.sample.Target.PCIAddress(); ok { // nothing else can be pulled out
		t.Run("a target that is gone", func(t *testing.T) { s.gone(t, address) })
	}
	t.Run("reads that fail", s.reads)
	t.Run("faults there", func(t *testing.T) { s.faults(t, s.sample.Before, s.sample.After) })
	t.Run("faults back", func(t *testing.T) { s.faults(t, s.sample.After, s.sample.Before) })
	t.Run("killed there", func(t *testing.T) { s.kills(t, s.sample.Before, s.sample.After) })
	t.Run("killed back", func(t *testing.T) { s.kills(t, s.sample.After, s.sample.Before) })
}

func (s suite) driver(t testing.TB, k *sim.Kernel) drivers.Driver {
	t.Helper()
	d, err := s.drive(k).Driver(s.spec.Kind)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// at is a machine with the key at a state, Before or After.
func (s suite) at(t testing.TB, state drivers.State) *sim.Kernel {
	t.Helper()
	k := s.sample.kernel(t)
	d := s.driver(t, k)
	if got := d.Observe(context.Background(), s.sample.Target); !got.Is(s.sample.Before) {
		t.Fatalf("the sample's machine is at %q, want %q (%v)", got, s.sample.Before, got.Err)
	}
	if state != s.sample.Before {
		s.apply(t, k, state)
	}
	return k
}

func (s suite) apply(t testing.TB, k *sim.Kernel, to drivers.State) {
	t.Helper()
	d := s.driver(t, k)
	if err := d.Apply(context.Background(), s.sample.Target, to); err != nil {
		t.Fatalf("apply %q: %v", to, err)
	}
	if got := d.Observe(context.Background(), s.sample.Target); !got.Is(to) {
		t.Fatalf("apply %q returned nil, and the host shows %q", to, got)
	}
}

func (s suite) observe(t *testing.T) {
	for _, state := range []drivers.State{s.sample.Before, s.sample.After} {
		k := s.at(t, state)
		before, writes := k.String(), k.Writes()
		got := s.driver(t, k).Observe(context.Background(), s.sample.Target)
		if !got.Is(state) {
			t.Errorf("observed %q, want %q", got, state)
		}
		if k.Writes() != writes {
			t.Errorf("observing made %d writes", k.Writes()-writes)
		}
		if diff := cmp.Diff(before, k.String()); diff != "" {
			t.Errorf("observing changed the host:\n%s", diff)
		}
	}
}

func (s suite) idempotent(t *testing.T) {
	for _, state := range []drivers.State{s.sample.Before, s.sample.After} {
		k := s.at(t, state)
		before, writes := k.String(), k.Writes()
		s.apply(t, k, state)
		if diff := cmp.Diff(before, k.String()); diff != "" {
			t.Errorf("applying %q again changed the host:\n%s", state, diff)
		}
		if k.Writes() != writes {
			t.Errorf("applying %q again made %d writes", state, k.Writes()-writes)
		}
	}
}

func (s suite) roundTrip(t *testing.T) {
	k := s.at(t, s.sample.Before)
	before := s.sample.dump(k)
	s.apply(t, k, s.sample.After)
	if s.sample.dump(k) == before {
		t.Errorf("applying %q changed nothing", s.sample.After)
	}
	s.apply(t, k, s.sample.Before)
	if diff := cmp.Diff(before, s.sample.dump(k)); diff != "" {
		t.Errorf("there and back changed the host:\n%s", diff)
	}
}

func (s suite) illegal(t *testing.T) {
	k := s.at(t, s.sample.Before)
	before, writes := k.String(), k.Writes()
	for _, state := range []drivers.State{"", "sideways", drivers.Hidden, s.sample.After + "\n", s.sample.After + " "} {
		if err := s.driver(t, k).Apply(context.Background(), s.sample.Target, state); !errors.Is(err, drivers.ErrIllegal) {
			t.Errorf("apply %q: %v, want ErrIllegal", state, err)
		}
	}
	for _, target := range []drivers.Target{"", "junk", "../../etc", "file//etc/passwd#x"} {
		if err := s.driver(t, k).Apply(context.Background(), target, s.sample.After); !errors.Is(err, drivers.ErrIllegal) {
			t.Errorf("apply to target %q: %v, want ErrIllegal", target, err)
		}
		if got := s.driver(t, k).Observe(context.Background(), target); got.Presence <= drivers.Concealed {
			t.Errorf("observed %q of target %q", got, target)
		}
	}
	if k.Writes() != writes || k.String() != before {
		t.Errorf("illegal states were written:\n%s", cmp.Diff(before, k.String()))
	}
}

func (s suite) legal(t *testing.T) {
	ends := []drivers.State{s.sample.Before, s.sample.After}
	for _, from := range ends {
		for _, to := range ends {
			hops := s.spec.Hops(from, to)
			if from != to && (len(hops) == 0 || hops[len(hops)-1] != to) {
				t.Errorf("the way from %q to %q does not end there: %q", from, to, hops)
			}
			for _, hop := range append(hops, from) {
				if err := s.spec.Legal(s.sample.Target, hop); err != nil {
					t.Errorf("%q: %v", hop, err)
				}
			}
		}
	}
}

// gone tries a function that has been pulled out, a virtual one with its
// physical one.
func (s suite) gone(t *testing.T, address string) {
	k := s.at(t, s.sample.Before)
	if physfn, err := k.Readlink(context.Background(), host.Attr(address, "physfn")); err == nil {
		address = path.Base(physfn)
	}
	if err := k.Unplug(address); err != nil {
		t.Fatal(err)
	}
	d, writes := s.driver(t, k), k.Writes()
	if got := d.Observe(context.Background(), s.sample.Target); got.Presence != drivers.Gone {
		t.Errorf("observed %q (%v), want gone", got, got.Err)
	}
	err := d.Apply(context.Background(), s.sample.Target, s.sample.After)
	if !errors.Is(err, drivers.ErrGone) {
		t.Errorf("apply: %v, want ErrGone", err)
	}
	if k.Writes() != writes {
		t.Errorf("%d writes of a target that is gone", k.Writes()-writes)
	}
}

// testTotal tries a Spec with what a damaged journal may hold; it must not panic.
func testTotal(spec drivers.Spec) {
	junk := []drivers.State{
		"", " ", "\x00", "-", "hidden", "driver=", "driver= override=", "driver=- override=\"", "driver=\xff override=\xff",
		"1500", "-1", "99999999999999999999", "up", "loaded", "driver=a override=b override=c",
	}
	for _, from := range junk {
		for _, to := range junk {
			for _, x := range junk {
				spec.Between(from, to, x)
			}
		}
		if spec.Hides != nil {
			spec.Hides(from)
		}
		for _, target := range []drivers.Target{"", "junk", "0000:01:00.0", "module/x", "param/a/b", "file//a#b"} {
			_ = spec.Legal(target, from)
		}
	}
}
