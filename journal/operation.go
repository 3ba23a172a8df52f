package journal

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"eniagent/drivers"
)

// OperationState is where an operation stands.
type OperationState string

// The states: intent -> done, intent -> reverting -> reverted,
// intent|reverting -> superseded, any of them -> quarantined -> resolved.
const (
	Intent      OperationState = "intent"
	Reverting   OperationState = "reverting"
	Done        OperationState = "done"
	Reverted    OperationState = "reverted"
	Superseded  OperationState = "superseded"
	Quarantined OperationState = "quarantined"
	Resolved    OperationState = "resolved"
)

// Open says that the operation may have writes on the host that nobody has
// accounted for yet.
func (s OperationState) Open() bool { return s == Intent || s == Reverting }

// Closed says that nothing is left to do about the operation.
func (s OperationState) Closed() bool {
	return s == Done || s == Reverted || s == Superseded || s == Resolved
}

// Legal says whether an operation may go from s to next. Intent to Reverted
// is the close of an operation of which nothing was written.
func (s OperationState) Legal(next OperationState) bool {
	switch s {
	case Intent:
		return next == Done || next == Reverting || next == Reverted || next == Superseded || next == Quarantined
	case Reverting:
		return next == Reverted || next == Superseded || next == Quarantined
	case Quarantined:
		return next == Resolved || next == Superseded
	}
	return false
}

// Change is one key of an operation: what it was and what it shall be.
type Change struct {
	Key    drivers.Key   `json:"key"`
	Class  drivers.Class `json:"class"`
	Before drivers.State `json:"before"`
	After  drivers.State `json:"after"`
	// Along says that nobody asks for the key: what it was is restored where its
	// new netdev or VF lets it.
	Along bool `json:"along,omitempty"`
}

// Finding is what the host was found to be at one key of an operation that was
// put in quarantine. It is for people, and decides nothing.
type Finding struct {
	Key      drivers.Key `json:"key"`
	Observed string      `json:"observed"` // a drivers.Observation in words: the state, or why there is none
	Class    string      `json:"class"`    // a recovery.Class
}

// Reason says who wanted the operation.
type Reason struct {
	Source     string `json:"source"`               // "file", "release", "operator"
	Object     string `json:"object,omitempty"`     // the file's path, the resource's name
	Generation string `json:"generation,omitempty"` // of that object
	Entry      string `json:"entry,omitempty"`      // the interface entry that asked
}

// Operation is the unit of atomicity: a set of keys that go from Before to
// After together, or back. Steps are never stored; they are computed from what
// is observed.
type Operation struct {
	ID        uint64                              `json:"id"`
	State     OperationState                      `json:"state"`
	Changes   []Change                            `json:"changes"` // sorted by key, one a key
	Identity  map[drivers.Target]drivers.Identity `json:"identity,omitempty"`
	BootID    string                              `json:"boot_id"`              // of the boot it began in
	MachineID string                              `json:"machine_id,omitempty"` // "" is unknown
	Reason    Reason                              `json:"reason"`
	Attempts  int                                 `json:"attempts"`             // committed before each try
	UndoneAt  int                                 `json:"undone_at,omitempty"`  // Attempts when the revert began
	Failed    int                                 `json:"failed,omitempty"`     // tries of the present goal that ended in an error
	Spared    int                                 `json:"spared,omitempty"`     // tries of the present goal whose end says nothing about it
	Found     string                              `json:"found,omitempty"`      // digest of the host when the last try after a crash began
	Withdrawn bool                                `json:"withdrawn,omitempty"`  // undone because nobody wants it, not because it failed
	TriedIn   string                              `json:"tried_in,omitempty"`   // boot of the last try, when not BootID
	LastError string                              `json:"last_error,omitempty"` // of the last try
	Outcome   string                              `json:"outcome,omitempty"`    // why it was closed, for people
	Findings  []Finding                           `json:"findings,omitempty"`   // of the host when it was put in quarantine, at Updated
	Agent     string                              `json:"agent,omitempty"`      // version that began it
	Created   time.Time                           `json:"created"`
	Updated   time.Time                           `json:"updated"`
}

// Before is what a revert drives the host to.
func (o *Operation) Before() map[drivers.Key]drivers.State {
	m := make(map[drivers.Key]drivers.State, len(o.Changes))
	for _, c := range o.Changes {
		m[c.Key] = c.Before
	}
	return m
}

// After is what a replay drives the host to.
func (o *Operation) After() map[drivers.Key]drivers.State {
	m := make(map[drivers.Key]drivers.State, len(o.Changes))
	for _, c := range o.Changes {
		m[c.Key] = c.After
	}
	return m
}

// States are the two states of each key.
func (o *Operation) States() map[drivers.Key][]drivers.State {
	m := make(map[drivers.Key][]drivers.State, len(o.Changes))
	for _, c := range o.Changes {
		m[c.Key] = []drivers.State{c.Before, c.After}
	}
	return m
}

// Targets are the things the operation claims, sorted, each once.
func (o *Operation) Targets() []drivers.Target {
	ts := make([]drivers.Target, 0, len(o.Changes))
	for _, c := range o.Changes {
		ts = append(ts, c.Key.Target)
	}
	slices.Sort(ts)
	return slices.Compact(ts)
}

// Keys are the keys of the operation, in order.
func (o *Operation) Keys() []drivers.Key {
	ks := make([]drivers.Key, 0, len(o.Changes))
	for _, c := range o.Changes {
		ks = append(ks, c.Key)
	}
	return ks
}

// Tries is how often the present goal was tried: After, or, once reverting,
// Before.
func (o *Operation) Tries() int { return o.Attempts - o.UndoneAt }

// Crashes are the tries of the present goal whose end nobody recorded: the
// agent was killed, the machine went down, or a write hung, while they were
// made. The try that is being made now is one of them until it ends.
func (o *Operation) Crashes() int { return o.Tries() - o.Failed - o.Spared }

// GotOn says that the host, of which found is a digest, is no longer as it was
// when the last try after a crash began.
func (o *Operation) GotOn(found string) bool { return found != "" && o.Found != "" && o.Found != found }

// LastBoot is the boot in which the operation was last tried.
func (o *Operation) LastBoot() string {
	if o.TriedIn != "" {
		return o.TriedIn
	}
	return o.BootID
}

// Fingerprint names the goal whatever its operation's number: the kinds,
// targets and states after that are asked for. Failures are counted under it.
func (o *Operation) Fingerprint() string {
	var s strings.Builder
	for _, c := range o.Changes {
		if !c.Along {
			fmt.Fprintf(&s, "%s=%q\n", c.Key, string(c.After))
		}
	}
	return digestText(s.String())
}

// clone shares nothing with o that anybody changes.
func (o *Operation) clone() Operation {
	c := *o
	c.Changes = slices.Clone(o.Changes)
	c.Findings = slices.Clone(o.Findings)
	c.Identity = maps.Clone(o.Identity)
	return c
}

// String is the operation in one line, for errors.
func (o *Operation) String() string {
	return fmt.Sprintf("operation %d (%s, %s)", o.ID, o.State, o.Reason.Source)
}

// validate is the rules of the record, whoever made it.
func (o *Operation) validate() error {
	switch {
	case o.ID == 0:
		return fmt.Errorf("operation without a number: %w", ErrInvalid)
	case !o.State.Open() && !o.State.Closed() && o.State != Quarantined:
		return fmt.Errorf("operation state %q: %w", o.State, ErrInvalid)
	case len(o.Changes) == 0 || len(o.Changes) > maxChanges:
		return fmt.Errorf("operation of %d changes: want 1 to %d: %w", len(o.Changes), maxChanges, ErrInvalid)
	case o.Attempts < 0 || o.Attempts > maxCount:
		return fmt.Errorf("%d attempts: %w", o.Attempts, ErrInvalid)
	case o.UndoneAt < 0 || o.UndoneAt > o.Attempts:
		return fmt.Errorf("undone at attempt %d of %d: %w", o.UndoneAt, o.Attempts, ErrInvalid)
	case o.Failed < 0 || o.Spared < 0 || o.Failed > o.Tries() || o.Spared > o.Tries()-o.Failed:
		return fmt.Errorf("%d failed and %d spared tries of %d: %w", o.Failed, o.Spared, o.Tries(), ErrInvalid)
	}
	for i, c := range o.Changes {
		if err := c.validate(); err != nil {
			return err
		}
		if i > 0 && o.Changes[i-1].Key.Compare(c.Key) >= 0 {
			return fmt.Errorf("change of %s is out of order or there twice: %w", c.Key, ErrInvalid)
		}
	}
	if err := firstError(o.validateIdentity(), o.validateFindings()); err != nil {
		return err
	}
	return firstError(
		checkText("source", o.Reason.Source, 1, maxName),
		checkText("object", o.Reason.Object, 0, maxText),
		checkText("generation", o.Reason.Generation, 0, maxName),
		checkText("entry", o.Reason.Entry, 0, maxName),
		checkText("boot id", o.BootID, 0, maxName),
		checkText("machine id", o.MachineID, 0, maxName),
		checkText("tried_in", o.TriedIn, 0, maxName),
		checkText("found", o.Found, 0, maxName),
		checkText("last error", o.LastError, 0, maxText),
		checkText("outcome", o.Outcome, 0, maxText),
		checkText("agent", o.Agent, 0, maxName),
		checkTime("created", o.Created),
		checkTime("updated", o.Updated),
	)
}

func (o *Operation) validateFindings() error {
	if len(o.Findings) > maxChanges {
		return fmt.Errorf("%d findings: %w", len(o.Findings), ErrInvalid)
	}
	for _, f := range o.Findings {
		if err := firstError(
			checkKey(f.Key),
			checkText("finding", f.Observed, 0, maxState),
			checkText("class of a finding", f.Class, 0, maxName),
		); err != nil {
			return err
		}
	}
	return nil
}

func (o *Operation) validateIdentity() error {
	if len(o.Identity) > maxChanges {
		return fmt.Errorf("%d identities: %w", len(o.Identity), ErrInvalid)
	}
	for t, id := range o.Identity {
		if err := firstError(checkTarget(t), checkIdentity(id)); err != nil {
			return err
		}
	}
	return nil
}

func (c Change) validate() error {
	return firstError(
		checkKey(c.Key),
		checkClass(c.Class),
		checkText("state before", string(c.Before), 0, maxState),
		checkText("state after", string(c.After), 0, maxState),
	)
}
