package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"syscall"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/host"
)

var (
	errUnobservable = errors.New("the host cannot be observed there")
	errGuarded      = errors.New("held back")
	errUnsynced     = errors.New("what is there is not durable yet")
)

func permanentErrors() []error {
	return []error{
		drivers.ErrRefused, drivers.ErrUnsupported, drivers.ErrIllegal, fs.ErrNotExist,
		syscall.EINVAL, syscall.ENODEV, syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENOEXEC,
		syscall.EKEYREJECTED, syscall.ERANGE,
	}
}

// Observer is the reading half of the engine: what recovery, plans, status and
// dry runs see of the host.
type Observer struct {
	Drivers drivers.Set
	Host    host.Host
	// Made is which function makes a target that no function tells of now; nil
	// knows of none.
	Made func(drivers.Target) (drivers.Target, bool)
}

// Observe reads one key. A target that a write still holds is not read.
func (o Observer) Observe(ctx context.Context, k drivers.Key) drivers.Observation {
	d, err := o.Drivers.Driver(k.Kind)
	if err != nil {
		return drivers.Observation{Presence: drivers.Unobservable, Err: err}
	}
	held, err := o.Fenced(k.Target)
	if err == nil && held {
		err = fmt.Errorf("%s: %w", k.Target, drivers.ErrFenced)
	}
	if err != nil {
		return drivers.Observation{Presence: drivers.Unobservable, Err: err}
	}
	seen := d.Observe(ctx, k.Target)
	if seen.Presence != drivers.Gone {
		return seen
	}
	// A VF that its PF does not make now is hidden by that, not gone.
	switch _, made, err := o.maker(ctx, k.Target); {
	case err != nil:
		return drivers.Observation{Presence: drivers.Unobservable, Err: err}
	case made:
		return drivers.Seen(drivers.Hidden)
	}
	return seen
}

// Identify reads what tells the target from another at the same address. Of a
// VF that its PF does not make now that is the PF.
func (o Observer) Identify(ctx context.Context, t drivers.Target) (drivers.Identity, error) {
	id, err := host.Identify(ctx, o.Host, t)
	if !errors.Is(err, drivers.ErrGone) {
		return id, err
	}
	pf, made, makerErr := o.maker(ctx, t)
	if makerErr != nil || !made {
		return id, errors.Join(err, makerErr)
	}
	now, err := host.Identify(ctx, o.Host, pf)
	return drivers.Identity{PF: pf, PFIncarnation: now.Incarnation}, err
}

// Fenced says whether a write still runs on the target.
func (o Observer) Fenced(t drivers.Target) (bool, error) { return o.Host.Fenced(t) }

// All observes every key of a goal.
func (o Observer) All(ctx context.Context, goal plan.Goal) plan.Observed {
	seen := make(plan.Observed, len(goal))
	for k := range goal {
		seen[k] = o.Observe(ctx, k)
	}
	return seen
}

// Precheck asks the drivers whether they would refuse the goal: of what is not
// at it, and of what may be moved from it on the way.
func (o Observer) Precheck(ctx context.Context, observed plan.Observed, goal plan.Goal) error {
	for _, key := range slices.SortedFunc(maps.Keys(goal), drivers.Key.Compare) {
		to, from := goal[key], observed[key].State
		d, err := o.Drivers.Driver(key.Kind)
		if err != nil {
			return err
		}
		spec, _ := o.Drivers.Specs.Find(key.Kind)
		beside := o.beside(key, observed, goal)
		if to == drivers.Hidden || to == from && len(beside) == 0 || from == drivers.Hidden && !spec.Netdev {
			continue // of a VF that is still to be made nothing can be asked
		}
		switch p := d.(type) {
		case drivers.BesidePrechecker:
			err = p.PrecheckBeside(ctx, key.Target, from, to, beside)
		case drivers.Companion:
			err = p.PrecheckWith(ctx, key.Target, from, to, with(key.Target, goal))
		case drivers.Prechecker:
			if to != from {
				err = p.Precheck(ctx, key.Target, from, to)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// beside are the changes on the way to a goal that may move a key.
func (o Observer) beside(k drivers.Key, observed plan.Observed, goal plan.Goal) []drivers.Beside {
	var all []drivers.Beside
	for by, to := range goal {
		from := observed[by].State
		if !o.Drivers.Specs.Moved(k, map[drivers.Key][]drivers.State{by: {from, to}}) {
			continue
		}
		b := drivers.Beside{Key: by, From: from, To: to}
		if spec, _ := o.Drivers.Specs.Find(by.Kind); spec.Makes != nil {
			b.Made = len(spec.Makes(to))
		}
		all = append(all, b)
	}
	return all
}

// with is what another kind of a target is to get.
func with(t drivers.Target, goal plan.Goal) func(drivers.Kind) (drivers.State, bool) {
	return func(k drivers.Kind) (drivers.State, bool) {
		s, ok := goal[drivers.Key{Kind: k, Target: t}]
		return s, ok
	}
}

// Observer is the engine's own.
func (e *Engine) Observer() Observer {
	return Observer{Drivers: e.Drivers, Host: e.Host, Made: Made(e.Drivers.Specs, e.Journal.Records, e.Journal.BootID())}
}
