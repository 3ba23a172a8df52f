package recovery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"eniagent/drivers"
	"eniagent/journal"
)

// Host is what recovery asks of a host. It never writes.
type Host interface {
	Observe(ctx context.Context, k drivers.Key) drivers.Observation
	Identify(ctx context.Context, t drivers.Target) (drivers.Identity, error)
	Fenced(t drivers.Target) (bool, error)
}

// Env is what is known of the machine and of the rules.
type Env struct {
	Specs     drivers.Specs
	BootID    string
	MachineID string // "" is unknown
	// MaxAttempts is how often a goal is tried before it is given up.
	MaxAttempts int
	// Wanted says whether an operation is still wanted.
	Wanted func(*journal.Operation) Wanted
	// Paused says why the operation is left as it is for now; "" when it is not.
	Paused func(*journal.Operation) string
	// MayDrive is the rules that guard a host, asked about a goal before an
	// attempt at it is counted; nil asks nobody.
	MayDrive func(ctx context.Context, observed map[drivers.Key]drivers.Observation, goal map[drivers.Key]drivers.State) error
}

// Finding is one key of an operation, and what was found there.
type Finding struct {
	Change   journal.Change
	Observed drivers.Observation
	Class    Class
}

// Judgement is an open operation, what was found, and what becomes of it.
type Judgement struct {
	Operation journal.Operation
	Findings  []Finding
	Class     Class
	Epoch     Epoch
	Wanted    Wanted
	Decision  Decision
	Why       string
	// BootChanged says that the operation was begun by an earlier kernel.
	BootChanged bool
	// Fenced says that a write still runs on one of the targets, so that the
	// host was not observed.
	Fenced bool
	// Found is a digest of what was observed, by which the next recovery tells
	// whether the operation got on meanwhile.
	Found string
	// Guarded is why a rule forbids what was decided; the operation is kept then.
	Guarded error
	// Goal is what the host is driven to; nil unless the decision writes.
	Goal map[drivers.Key]drivers.State
}

// Judge observes an open operation and decides on it.
func Judge(ctx context.Context, env Env, h Host, op journal.Operation) Judgement {
	j := Judgement{Operation: op, Wanted: Unsure}
	if env.Wanted != nil {
		j.Wanted = env.Wanted(&op)
	}
	epoch, why, unread := epochOf(ctx, env, h, &op)
	j.Epoch, j.BootChanged = epoch, op.BootID != env.BootID
	judged := judgedChanges(env.Specs, &op, epoch)
	volatile := len(judged) == 0
	if volatile {
		judged = op.Changes // superseded whatever is found; shown to people
	}
	j.find(ctx, env, h, judged, unread)
	j.Decision, j.Why = Decide(Case{
		State: op.State, Class: j.Class, Epoch: epoch, Wanted: j.Wanted,
		Persistent: !volatile && classOf(env.Specs, judged[0]) == drivers.Persistent,
		Absent:     allAbsent(judged),
		Ready:      j.ready(env.Specs, &op),
		Exhausted:  op.Failed >= env.MaxAttempts,
		Crashed:    op.Crashes() >= MaxCrashes && !op.GotOn(j.Found),
	})
	if why != "" && j.Decision == Supersede {
		j.Why = why
	}
	paused := ""
	if env.Paused != nil {
		paused = env.Paused(&op)
	}
	switch {
	case paused != "":
		j.Decision, j.Why = Keep, paused
	case j.Fenced && j.Decision == Keep:
		j.Why = "a write still runs in the kernel on its target"
	case j.Decision == Replay:
		j.aim(ctx, env, op.After())
		if errors.Is(j.Guarded, drivers.ErrBarred) {
			// It will never be allowed, and half of it is of no use to anybody.
			j.Decision, j.Why, j.Guarded = Revert, "it cannot go on: "+j.Guarded.Error(), nil
			j.aim(ctx, env, op.Before())
		}
	case j.Decision == Revert:
		j.aim(ctx, env, op.Before())
	}
	return j
}

// aim sets the goal of a decision that writes, unless a rule forbids it now.
func (j *Judgement) aim(ctx context.Context, env Env, goal map[drivers.Key]drivers.State) {
	if env.MayDrive != nil {
		observed := make(map[drivers.Key]drivers.Observation, len(j.Findings))
		for _, f := range j.Findings {
			observed[f.Change.Key] = f.Observed
		}
		if err := env.MayDrive(ctx, observed, goal); err != nil {
			j.Why = fmt.Sprintf("%s would be next, and is not allowed now: %v", j.Decision, err)
			j.Decision, j.Guarded = Keep, err
			return
		}
	}
	j.Goal = goal
}

// epochOf compares the boot, the machine and the devices of an operation with
// what is there now. What cannot be read of a device tells it from no other:
// then nothing that is observed may be taken for the operation's.
func epochOf(ctx context.Context, env Env, h Host, op *journal.Operation) (e Epoch, why string, unread error) {
	if op.MachineID != "" && env.MachineID != "" && op.MachineID != env.MachineID {
		return OtherMachine, "", nil
	}
	if op.BootID != env.BootID {
		return NewBoot, "the machine was booted anew since", nil
	}
	for _, t := range slices.Sorted(maps.Keys(op.Identity)) {
		recorded := op.Identity[t]
		now, err := h.Identify(ctx, t)
		switch {
		case errors.Is(err, drivers.ErrGone):
			continue // the observation says so too
		case err != nil:
			unread = err
			continue
		}
		if field := recorded.Difference(now); field != "" {
			return NewBoot, fmt.Sprintf("%s is another device than it was: its %s differs", t, field), nil
		}
	}
	return SameBoot, "", unread
}

// Over says whether what a quarantined operation was about is no more: all of
// it was volatile, and the boot or the device is another now.
func Over(ctx context.Context, env Env, h Host, op *journal.Operation) (why string, over bool) {
	epoch, why, _ := epochOf(ctx, env, h, op)
	if epoch == SameBoot || len(judgedChanges(env.Specs, op, epoch)) > 0 {
		return "", false
	}
	if why == "" {
		why = "the journal comes from another machine"
	}
	return why, true
}

// judgedChanges are the changes that the epoch leaves to judge: in a new boot
// the persistent ones, as the others died with the old kernel.
func judgedChanges(specs drivers.Specs, op *journal.Operation, epoch Epoch) []journal.Change {
	if epoch == SameBoot {
		return op.Changes
	}
	var persistent []journal.Change
	for _, c := range op.Changes {
		if classOf(specs, c) == drivers.Persistent {
			persistent = append(persistent, c)
		}
	}
	return persistent
}

// classOf is the class of a change's kind. The record's word counts where the
// kind is not known: a record cannot make a link survive a reboot.
func classOf(specs drivers.Specs, c journal.Change) drivers.Class {
	if spec, ok := specs.Find(c.Key.Kind); ok {
		return spec.Class
	}
	return c.Class
}

// find observes and classifies, unless a fence says that what could be read
// would lie, or it is unread whose it is.
func (j *Judgement) find(ctx context.Context, env Env, h Host, judged []journal.Change, unread error) {
	view := j.Operation
	view.Changes = judged
	blind := fenced(h, view.Targets())
	if j.Fenced = errors.Is(blind, drivers.ErrFenced); blind == nil {
		blind = unread
	}
	var classes []Class
	for _, c := range judged {
		f := Finding{Change: c, Observed: drivers.Observation{Presence: drivers.Unobservable, Err: blind}}
		if blind == nil {
			f.Observed = h.Observe(ctx, c.Key)
		}
		f.Class = Classify(env.Specs, &view, c, f.Observed)
		classes = append(classes, f.Class)
		j.Findings = append(j.Findings, f)
	}
	j.Class = Whole(env.Specs, &view, classes)
	j.Found = digestOf(j.Findings)
}

// digestOf is what was found, in a few bytes; "" when it could not be observed.
func digestOf(findings []Finding) string {
	h := sha256.New()
	for _, f := range findings {
		if f.Observed.Presence == drivers.Unobservable {
			return ""
		}
		fmt.Fprintf(h, "%s=%q\n", f.Change.Key, f.Observed.String())
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func fenced(h Host, targets []drivers.Target) error {
	for _, t := range targets {
		held, err := h.Fenced(t)
		if err != nil {
			return err
		}
		if held {
			return fmt.Errorf("%s: %w", t, drivers.ErrFenced)
		}
	}
	return nil
}

func allAbsent(changes []journal.Change) bool {
	for _, c := range changes {
		if c.Before != Absent {
			return false
		}
	}
	return true
}

// Absent is the state before of a file entry that was not there.
const Absent drivers.State = "absent"

// ready says whether every volatile key of the operation, which its persistent
// keys depend on, is at its After.
func (j *Judgement) ready(specs drivers.Specs, op *journal.Operation) bool {
	if j.Epoch == SameBoot {
		return true
	}
	for _, c := range op.Changes {
		if classOf(specs, c) == drivers.Volatile {
			return false // it died with the old kernel, and was not made anew yet
		}
	}
	return true
}

// WantedBy answers Env.Wanted from the goals that are known to be desired; nil
// goals are not known.
func WantedBy(goals map[drivers.Key]drivers.State) func(*journal.Operation) Wanted {
	return func(op *journal.Operation) Wanted {
		if goals == nil {
			return Unsure
		}
		asked := false
		for _, c := range op.Changes {
			goal, ok := goals[c.Key]
			switch {
			case ok && goal != c.After:
				return Withdrawn
			case ok:
				asked = true
			}
		}
		if asked {
			return StillWanted
		}
		return Withdrawn
	}
}
