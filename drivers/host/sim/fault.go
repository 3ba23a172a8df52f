package sim

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"eniagent/drivers/host"
)

// When is on which side of a write something happens.
type When string

// The sides. "" is Before.
const (
	Before When = "before"
	After  When = "after"
)

// Point is one boundary of one write of the agent.
type Point struct {
	Call  host.Call
	Label string
	When  When
	N     int // the write's number, from 1
}

// String names the point for the messages of tests: "before 3 unbind".
func (p Point) String() string { return fmt.Sprintf("%s %d %s", p.When, p.N, p.Label) }

// The labels of faults besides those of writes.
const (
	LabelRead  = "read"  // Read, Readlink, List, Inode
	LabelLinks = "links" // Links
)

// Fault is something that goes wrong, by the label of what it happens to.
type Fault struct {
	Label string `json:"label"`
	Path  string `json:"path,omitempty"`  // only where the path, target or value has this in it
	Nth   int    `json:"nth,omitempty"`   // which of those to come, 1 being the next; 0 is 1
	Times int    `json:"times,omitempty"` // how often from then on; 0 is 1, -1 for ever
	When  When   `json:"when,omitempty"`  // Before: nothing is done. After: it is done, and then goes wrong

	Errno syscall.Errno `json:"errno,omitempty"` // it fails with this
	Noop  bool          `json:"noop,omitempty"`  // it reports success and does nothing
	Hang  bool          `json:"hang,omitempty"`  // a write does not come back until Thaw, a read until its ctx ends
	Slow  time.Duration `json:"slow,omitempty"`  // it takes this long
	Crash bool          `json:"crash,omitempty"` // whoever made it dies
}

// armed is a fault that waits for its turn.
type armed struct {
	Fault
	Seen int `json:"seen,omitempty"`
}

// FaultLabels are all the labels that a Fault may have.
func FaultLabels() []string { return append(host.Labels(), LabelRead, LabelLinks) }

// Errno is the system's error of a name such as EBUSY.
func Errno(name string) (syscall.Errno, bool) {
	for e := syscall.Errno(1); name != "" && e < 200; e++ {
		if unix.ErrnoName(e) == name {
			return e, true
		}
	}
	return 0, false
}

func (f Fault) validate() error {
	isRead := f.Label == LabelRead || f.Label == LabelLinks
	switch {
	case !slices.Contains(FaultLabels(), f.Label):
		return fmt.Errorf("no fault label %q: there are %s", f.Label, strings.Join(FaultLabels(), ", "))
	case f.When != "" && f.When != Before && f.When != After:
		return fmt.Errorf("fault %s: when is %q: want %q or %q", f.Label, f.When, Before, After)
	case f.Nth < 0 || f.Times < -1 || f.Slow < 0:
		return fmt.Errorf("fault %s: negative nth, times or slow", f.Label)
	case f.Errno == 0 && !f.Noop && !f.Hang && f.Slow == 0 && !f.Crash:
		return fmt.Errorf("fault %s: nothing goes wrong: want errno, noop, hang, slow or crash", f.Label)
	case isRead && (f.When == After || f.Noop):
		return fmt.Errorf("fault %s: a read has no after and no noop", f.Label)
	}
	return nil
}

// inject arms faults, all or none.
func (m *machine) inject(faults []Fault) error {
	for _, f := range faults {
		if err := f.validate(); err != nil {
			return err
		}
	}
	for _, f := range faults {
		if f.When == "" {
			f.When = Before
		}
		f.Nth, f.Times = max(f.Nth, 1), f.Times+boolInt(f.Times == 0)
		m.Faults = append(m.Faults, armed{Fault: f})
	}
	m.dirty = true
	return nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// concerns says whether a fault may happen to what has this label and text.
func (f Fault) concerns(label, text string) bool {
	return f.Label == label && strings.Contains(text, f.Path)
}

// waits says whether any fault counts what has this label and text.
func (m *machine) waits(label, text string) bool {
	return slices.ContainsFunc(m.Faults, func(a armed) bool { return a.concerns(label, text) })
}

// takeFault counts what is about to happen, and is the fault whose turn it is.
func (m *machine) takeFault(label, text string) Fault {
	var taken Fault
	for i := range m.Faults {
		a := &m.Faults[i]
		if !a.concerns(label, text) {
			continue
		}
		m.dirty = true
		a.Seen++
		if a.Seen < a.Nth || taken.Label != "" {
			continue
		}
		taken = a.Fault
		if a.Times > 0 {
			a.Times--
		}
	}
	m.Faults = slices.DeleteFunc(m.Faults, func(a armed) bool { return a.Times == 0 })
	return taken
}

// faultText is what Fault.Path is looked for in.
func faultText(c host.Call) string { return c.Path + " " + string(c.Target) + " " + c.Value }
