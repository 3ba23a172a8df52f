package dpdk

import (
	"fmt"
	"regexp"
	"strings"

	"eniagent/drivers"
)

// none is how a State prints the lack of a driver or of an override. It cannot
// be a driver's name; "none" can, and as an override means "bind to nothing".
const none = "-"

var driverName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

// Binding is the State of the driver kind, taken apart. An empty field is no
// driver, no override.
type Binding struct {
	Driver   string
	Override string
}

// State is "driver=vfio-pci override=vfio-pci", with "-" for none. An override
// that could not be a driver's name is quoted.
func (b Binding) State() drivers.State {
	word := func(s string) string {
		switch {
		case s == "":
			return none
		case driverName.MatchString(s):
			return s
		default:
			return fmt.Sprintf("%q", s)
		}
	}
	return drivers.State("driver=" + word(b.Driver) + " override=" + word(b.Override))
}

// Parse reads a State that may be written: names only. A State with a quoted
// override can be observed, and never asked for.
func Parse(s drivers.State) (Binding, error) {
	rest, ok := strings.CutPrefix(string(s), "driver=")
	driver, override, ok2 := strings.Cut(rest, " override=")
	if !ok || !ok2 {
		return Binding{}, fmt.Errorf("%q is not a driver state: want driver=NAME override=NAME", s)
	}
	for _, name := range []string{driver, override} {
		if name != none && !driverName.MatchString(name) {
			return Binding{}, fmt.Errorf("%q is not a driver's name in %q", name, s)
		}
	}
	b := Binding{Driver: driver, Override: override}
	if driver == none {
		b.Driver = ""
	}
	if override == none {
		b.Override = ""
	}
	return b, nil
}

// Bound is the State in which the driver has the function: with its override
// for a driver that takes any function, without one for the others.
func Bound(driver string) drivers.State {
	if drivers.Bare(driver) {
		return Binding{Driver: driver, Override: driver}.State()
	}
	return Binding{Driver: driver}.State()
}

// route is override first, then no driver, then the driver wanted: each hop is
// one write. Where the goal's override names another driver than it has (a
// stale one that was found so), it is set last, because nothing could be bound
// against it. A state that cannot be parsed can be left, not reached.
func route(from, to drivers.State) []drivers.State {
	goal, err := Parse(to)
	if err != nil {
		return nil
	}
	at, err := Parse(from)
	if err != nil {
		at = Binding{Driver: foreignDriver(from), Override: "?"}
	}
	var hops []drivers.State
	hop := func(driver, override string) {
		if next := (Binding{Driver: driver, Override: override}); next != at {
			at = next
			hops = append(hops, at.State())
		}
	}
	if at.Driver != goal.Driver {
		during := goal.Override
		if goal.Driver != "" && during != goal.Driver {
			during = ""
		}
		hop(at.Driver, during)
		hop("", during)
		hop(goal.Driver, during)
	}
	hop(goal.Driver, goal.Override)
	return hops
}

// foreignDriver is the driver in a State whose override is not a name.
func foreignDriver(s drivers.State) string {
	driver, _, _ := strings.Cut(strings.TrimPrefix(string(s), "driver="), " ")
	if driver == none || s == drivers.Hidden {
		return ""
	}
	return driver
}

// hides says that the function has no netdev in this state.
func hides(s drivers.State) bool {
	driver := foreignDriver(s)
	return driver == "" || drivers.Bare(driver)
}

// driverless is the state without the driver that a function has.
func driverless(s drivers.State) drivers.State {
	b, err := Parse(s)
	if err != nil {
		return s // what could not be written is not left for its own sake
	}
	b.Driver = ""
	return b.State()
}

// cuts says that the function loses the driver it has.
func cuts(from, to drivers.State) bool {
	driver := foreignDriver(from)
	return driver != "" && driver != foreignDriver(to)
}

// taken says that a userspace driver has the function.
func taken(s drivers.State) bool { return drivers.Userspace(foreignDriver(s)) }

func legal(t drivers.Target, to drivers.State) error {
	if _, ok := t.PCIAddress(); !ok {
		return fmt.Errorf("target %q of driver: %w", t, drivers.ErrIllegal)
	}
	if _, err := Parse(to); err != nil {
		return fmt.Errorf("%w: %w", drivers.ErrIllegal, err)
	}
	return nil
}
