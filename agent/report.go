package agent

import (
	"time"

	"eniagent/agent/source"
	"eniagent/agent/state"
	"eniagent/drivers"
	"eniagent/journal"
	"eniagent/recovery"
)

// Condition is the word for how an interface stands against what is asked of it.
// What it is itself is its state.State.
type Condition string

// The conditions.
const (
	Right       Condition = "right"       // the host is as asked
	Changing    Condition = "changing"    // an operation is open on it
	Pending     Condition = "pending"     // something is to be done and will be
	Waiting     Condition = "waiting"     // nothing answers to the selector now
	Refused     Condition = "refused"     // a rule or the device forbids it
	Held        Condition = "held"        // in use; goes on by itself when it no longer is
	Fenced      Condition = "fenced"      // a write still runs in the kernel on it
	Failed      Condition = "failed"      // given up until desired state changes or an operator clears it
	Quarantined Condition = "quarantined" // hands off until a person decides
	Released    Condition = "released"    // given back and left alone
	Paused      Condition = "paused"      // an operator said to leave it as it is
	Degraded    Condition = "degraded"    // as asked but not healthy, or changed by another hand and left so
)

// Conditions are all of them, for metrics.
func Conditions() []Condition {
	return []Condition{Right, Changing, Pending, Waiting, Refused, Held, Fenced, Failed, Quarantined, Released, Paused, Degraded}
}

// InterfaceReport is one entry of the desired state and how it stands.
type InterfaceReport struct {
	Entry     string         `json:"entry"`            // the selector, "pci 0000:3b:00.1"
	Target    drivers.Target `json:"target,omitempty"` // what it stands for
	Condition Condition      `json:"condition"`
	Reason    string         `json:"reason,omitempty"`
	Since     time.Time      `json:"since,omitzero"`
	// State is what the interface is, whatever is asked of it.
	State      state.State       `json:"state"`
	StateSince time.Time         `json:"state_since,omitzero"`
	Want       map[string]string `json:"want,omitempty"`     // by kind
	Observed   map[string]string `json:"observed,omitempty"` // by kind
	Operation  uint64            `json:"operation,omitempty"`
	// Kept says that the entry is no longer in the source and was not released
	// there either, so it stays in force or, where the source is one that says when
	// it has told all, is being given back.
	Kept bool `json:"kept,omitempty"`
	// From is the source that asked it, where that is not where desired state
	// comes from now.
	From string `json:"from,omitempty"`
	// Object is what of the source asks it, where the source is made of objects.
	Object string `json:"object,omitempty"`

	generation string // of the desired state that it was looked at with
	revision   int    // of its entries
	pool       string // that it shall be in
}

// PoolReport is one pool of the device plugin, and how it stands.
type PoolReport struct {
	Pool      string           `json:"pool"` // "intel.com/sriov"
	File      string           `json:"file,omitempty"`
	Condition Condition        `json:"condition"`
	Reason    string           `json:"reason,omitempty"`
	Since     time.Time        `json:"since,omitzero"`
	Functions []drivers.Target `json:"functions"` // that its entry names now
	Operation uint64           `json:"operation,omitempty"`
}

// SourceReport is where desired state comes from and how that stands.
type SourceReport struct {
	Source     string `json:"source"`
	Object     string `json:"object"`
	Generation string `json:"generation,omitempty"` // in force
	Error      string `json:"error,omitempty"`      // why a newer one is not
	// Refused are the objects of the source of which nothing is taken, and why.
	Refused []source.Refusal `json:"refused,omitempty"`
}

// Status is what `agent status` prints.
type Status struct {
	Version    string            `json:"version"`
	Mode       string            `json:"mode"` // "reconcile", "observe", "degraded", "stopped"
	Ready      bool              `json:"ready"`
	NotReady   string            `json:"not_ready,omitempty"` // why
	BootID     string            `json:"boot_id"`
	Started    time.Time         `json:"started,omitzero"`
	Heartbeat  time.Time         `json:"heartbeat,omitzero"`
	Source     SourceReport      `json:"source"`
	Interfaces []InterfaceReport `json:"interfaces"`
	Pools      []PoolReport      `json:"pools,omitempty"`
	Operations []OperationReport `json:"operations"` // open and quarantined
	// PluginRestart is what the device plugin is owed, if anything.
	PluginRestart *RestartReport    `json:"plugin_restart,omitempty"`
	Failures      []journal.Failure `json:"failures,omitempty"`
	Tainted       string            `json:"tainted,omitempty"` // by what the agent did or was asked to
}

// OperationReport is one operation of the journal.
type OperationReport struct {
	journal.Operation
	Fenced bool `json:"fenced,omitempty"`
}

// StepReport is one write that would be made.
type StepReport struct {
	Kind   drivers.Kind   `json:"kind"`
	Target drivers.Target `json:"target"`
	From   drivers.State  `json:"from"`
	To     drivers.State  `json:"to"`
}

func (s StepReport) key() drivers.Key { return drivers.Key{Kind: s.Kind, Target: s.Target} }

func reportSteps(steps []drivers.Step) []StepReport {
	reports := make([]StepReport, 0, len(steps))
	for _, s := range steps {
		reports = append(reports, StepReport{Kind: s.Key.Kind, Target: s.Key.Target, From: s.From, To: s.To})
	}
	return reports
}

// PlanEntry is what would be done for one entry of the desired state.
type PlanEntry struct {
	Entry     string         `json:"entry"`
	Target    drivers.Target `json:"target,omitempty"`
	Condition Condition      `json:"condition"`
	Reason    string         `json:"reason,omitempty"`
	Steps     []StepReport   `json:"steps"`
}

// PlanReport is what `agent plan` prints.
type PlanReport struct {
	Source  SourceReport `json:"source"`
	Entries []PlanEntry  `json:"entries"`
}

// Changes is how many writes the plan would make.
func (p PlanReport) Changes() int {
	n := 0
	for _, e := range p.Entries {
		n += len(e.Steps)
	}
	return n
}

// KeyReport is one key of an open operation and what was found there.
type KeyReport struct {
	Key      drivers.Key    `json:"key"`
	Before   drivers.State  `json:"before"`
	After    drivers.State  `json:"after"`
	Observed string         `json:"observed"`
	Class    recovery.Class `json:"class"`
	// Found is what Observed was when the operation was put in quarantine; "" is
	// not known.
	Found string `json:"found,omitempty"`
}

// QuarantineEntry is an operation that a person is to decide on: what was found
// then and now, and what each way out would write.
type QuarantineEntry struct {
	Operation uint64           `json:"operation"`
	Targets   []drivers.Target `json:"targets"`
	Created   time.Time        `json:"created"`
	Since     time.Time        `json:"since"`
	Attempts  int              `json:"attempts"`
	Reason    journal.Reason   `json:"reason"`
	Why       string           `json:"why"`
	Keys      []KeyReport      `json:"keys"`
	Ways      []WayOut         `json:"ways"` // accept, replay, revert
}

// WayOut is one way to decide on an operation in quarantine.
type WayOut struct {
	How   string       `json:"how"`   // "accept", "replay", "revert"
	Steps []StepReport `json:"steps"` // that would be written at once
	Error string       `json:"error,omitempty"`
	Note  string       `json:"note,omitempty"` // what comes after that
}

// RecoverEntry is an open operation, what was found, what becomes of it and
// why. Outcome is set when it was carried out and not only planned.
type RecoverEntry struct {
	Operation uint64                 `json:"operation"`
	State     journal.OperationState `json:"state"`
	Targets   []drivers.Target       `json:"targets"`
	Created   time.Time              `json:"created"`
	Attempts  int                    `json:"attempts"`
	Reason    journal.Reason         `json:"reason"`
	Epoch     recovery.Epoch         `json:"epoch"`
	Class     recovery.Class         `json:"class"`
	Wanted    recovery.Wanted        `json:"wanted"`
	Decision  recovery.Decision      `json:"decision"`
	Why       string                 `json:"why"`
	Keys      []KeyReport            `json:"keys"`
	Steps     []StepReport           `json:"steps"`
	LastError string                 `json:"last_error,omitempty"`
	Outcome   string                 `json:"outcome,omitempty"`
	Error     string                 `json:"error,omitempty"`
}

// RecoverReport is what `agent recover` prints.
type RecoverReport struct {
	DryRun      bool           `json:"dry_run"`
	NotDone     string         `json:"not_done,omitempty"` // why what was to be done was not
	Damaged     bool           `json:"damaged,omitempty"`  // that is because of a damaged journal
	Through     string         `json:"through"`            // "agent", "journal" or "copy"
	BootID      string         `json:"boot_id"`
	Entries     []RecoverEntry `json:"entries"`
	Quarantined []uint64       `json:"quarantined,omitempty"`
	// InQuarantine tells of each of Quarantined what a person must know to decide.
	InQuarantine []QuarantineEntry `json:"in_quarantine,omitempty"`
	Unreadable   []string          `json:"unreadable,omitempty"`
	Left         []Unfinished      `json:"left,omitempty"`
	// Pools are those of the agent that name a function that is not as asked, and
	// what is withdrawn of them before anything else.
	Pools []PlanEntry `json:"pools,omitempty"`
	// PoolsLeft are those of which that could not be done, by their names.
	PoolsLeft []string `json:"pools_left,omitempty"`
}

// Unfinished is what stands in an older agent's way after recovery: an operation
// that stays open, one in quarantine, or one that only a newer agent can read.
type Unfinished struct {
	Operation uint64 `json:"operation,omitempty"`
	Record    string `json:"record,omitempty"` // where there is no number
	Why       string `json:"why"`
	Person    bool   `json:"person"` // it goes on by nothing but a person's doing
}
