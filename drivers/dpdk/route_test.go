package dpdk

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"eniagent/drivers"
)

// checkRoute is what holds of every way between two states: it ends where it
// should, each hop is one write, and no bind meets an override that names
// another driver, which the kernel refuses with ENODEV.
func checkRoute(route func(from, to drivers.State) []drivers.State, from, to drivers.State) error {
	hops := route(from, to)
	if len(hops) > 3 {
		return fmt.Errorf("%d hops: an override, an unbind and a bind are three", len(hops))
	}
	if at := append([]drivers.State{from}, hops...); at[len(at)-1] != to {
		return fmt.Errorf("the way ends at %q", at[len(at)-1])
	}
	for _, hop := range hops {
		if err := checkHop(from, hop); err != nil {
			return fmt.Errorf("%q to %q: %w", from, hop, err)
		}
		from = hop
	}
	return nil
}

func checkHop(from, to drivers.State) error {
	fromDriver, fromOverride := fields(from)
	driver, override := fields(to)
	switch {
	case fromDriver == driver && fromOverride == override:
		return fmt.Errorf("nothing is written")
	case fromDriver != driver && fromOverride != override:
		return fmt.Errorf("two writes in one hop")
	case driver != none && fromDriver != driver && fromDriver != none:
		return fmt.Errorf("binds a function that has a driver")
	case driver != none && fromDriver != driver && override != none && override != driver:
		return fmt.Errorf("binds while the override names another driver")
	}
	return nil
}

func fields(s drivers.State) (driver, override string) {
	driver, override, _ = strings.Cut(strings.TrimPrefix(string(s), "driver="), " override=")
	return driver, override
}

// brokenRoute undoes a bind in the reverse order of its writes.
func brokenRoute(from, to drivers.State) []drivers.State {
	driver, override := fields(from)
	goal, goalOverride := fields(to)
	var hops []drivers.State
	add := func(d, o string) { hops = append(hops, drivers.State("driver="+d+" override="+o)) }
	if driver != none {
		add(none, override)
	}
	if goal != none {
		add(goal, override)
	}
	if override != goalOverride {
		add(goal, goalOverride)
	}
	return hops
}

func TestRevertClearsOverrideBeforeBind(t *testing.T) {
	from, to := Bound("vfio-pci"), Bound("igbvf")
	if err := checkRoute(route, from, to); err != nil {
		t.Error(err)
	}
	want := []drivers.State{"driver=vfio-pci override=-", "driver=- override=-", "driver=igbvf override=-"}
	if got := route(from, to); !slices.Equal(got, want) {
		t.Errorf("the way back is %q, want %q", got, want)
	}
	// The same check must see what the predecessors do.
	err := checkRoute(brokenRoute, from, to)
	if err == nil || !strings.Contains(err.Error(), "override names another driver") {
		t.Errorf("a way that unbinds, binds and then clears: %v, want it caught", err)
	}
}

// stateOf draws any state, or any that may be asked for.
func stateOf(legal bool) *rapid.Generator[drivers.State] {
	names := []string{none, "igb", "igbvf", "vfio-pci", "uio_pci_generic", "mlx5_core"}
	overrides := slices.Clone(names)
	if !legal {
		overrides = append(overrides, `"\x00"`, `"a b"`, `"no such"`, `"quote\""`)
	}
	return rapid.Custom(func(t *rapid.T) drivers.State {
		return drivers.State("driver=" + rapid.SampledFrom(names).Draw(t, "driver") + " override=" + rapid.SampledFrom(overrides).Draw(t, "override"))
	})
}

// bindable says whether the kernel could ever make the state by a bind.
func bindable(s drivers.State) bool {
	driver, override := fields(s)
	return driver == none || override == none || driver == override
}

func TestRouteProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := stateOf(false).Draw(t, "from")
		to := stateOf(true).Filter(bindable).Draw(t, "to")
		if err := checkRoute(DriverSpec().Hops, from, to); err != nil {
			t.Fatalf("%q to %q: %v", from, to, err)
		}
	})
}

// TestRouteOfAnyText is for what a damaged record may hold.
func TestRouteOfAnyText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := drivers.State(rapid.String().Draw(t, "from")), drivers.State(rapid.String().Draw(t, "to"))
		hops := route(from, to)
		if _, err := Parse(to); err != nil && len(hops) > 0 {
			t.Fatalf("a way leads to %q, which may not be asked for", to)
		}
		hides(from)
	})
}

func TestStateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := stateOf(true).Draw(t, "state")
		b, err := Parse(s)
		if err != nil || b.State() != s {
			t.Fatalf("%q reads as %+v (%v) and prints %q", s, b, err, b.State())
		}
	})
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		state drivers.State
		want  Binding
		ok    bool
	}{
		{"driver=igb override=-", Binding{Driver: "igb"}, true},
		{"driver=- override=-", Binding{}, true},
		{"driver=- override=vfio-pci", Binding{Override: "vfio-pci"}, true},
		{"driver=igb", Binding{}, false},
		{"override=- driver=igb", Binding{}, false},
		{"driver= override=-", Binding{}, false},
		{"driver=- override=", Binding{}, false},
		{`driver=- override="\x00"`, Binding{}, false},
		{"driver=a/b override=-", Binding{}, false},
		{"driver=.. override=-", Binding{}, false},
		{"driver=igb override=-\n", Binding{}, false},
		{"driver=igb  override=-", Binding{}, false},
		{drivers.State("driver=" + strings.Repeat("x", 65) + " override=-"), Binding{}, false},
		{"hidden", Binding{}, false},
	} {
		got, err := Parse(tc.state)
		if (err == nil) != tc.ok || got != tc.want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v, ok %t", tc.state, got, err, tc.want, tc.ok)
		}
	}
}

func TestHides(t *testing.T) {
	for state, want := range map[drivers.State]bool{
		Bound("vfio-pci"): true, Bound("igb_uio"): true, Bound("igb"): false, "driver=- override=-": true,
		"driver=igb override=vfio-pci": false, `driver=igb override="\x00"`: false, `driver=- override="\x00"`: true,
	} {
		if hides(state) != want {
			t.Errorf("%q hides the netdev: %t, want %t", state, !want, want)
		}
	}
}
