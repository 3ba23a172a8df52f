package plan

import (
	"fmt"

	"eniagent/drivers"
)

// Function is one PCI function: what is asked of it, what was observed of all
// its kinds, and what is remembered of it from before it was first touched.
type Function struct {
	Target   drivers.Target
	Want     Goal
	Observed Observed
	Baseline Goal
}

// Draft is an operation before it is begun. It is empty when nothing differs.
type Draft struct {
	Before Goal
	After  Goal
}

// Empty says that there is nothing to do.
func (d Draft) Empty() bool { return len(d.After) == 0 }

// Cover is the operation that brings the function to what is asked of it. When
// the netdev goes or is made anew on the way, all its attributes are in the
// operation: a revert must name them again, and so must a return to the
// kernel's driver. For those nobody asks about that is what they are now, else
// the baseline.
//
// What is asked of a netdev that the function does not have, and will not have
// then, is an error.
func Cover(specs drivers.Specs, f Function) (Draft, error) {
	d := Draft{Before: Goal{}, After: Goal{}}
	add := func(key drivers.Key, after drivers.State) {
		d.Before[key], d.After[key] = f.Observed[key].State, after
	}
	remade, hidden := f.netdev(specs)
	for key, want := range f.Want {
		o, ok := f.Observed[key]
		if !ok || o.Presence > drivers.Concealed {
			return Draft{}, fmt.Errorf("%s is %s: %w", key, o, orUnknown(o.Err))
		}
		spec, _ := specs.Find(key.Kind)
		if spec.Netdev && hidden && want != drivers.Hidden {
			return Draft{}, fmt.Errorf("%s=%s: the function has no netdev: %w", key, want, drivers.ErrHidden)
		}
		if !o.Is(want) {
			add(key, want)
		}
	}
	if !remade {
		return d, nil
	}
	for key, o := range f.Observed {
		spec, _ := specs.Find(key.Kind)
		if !spec.Netdev || o.Presence > drivers.Concealed {
			continue
		}
		want, asked := f.Want[key]
		remembered, known := f.Baseline[key]
		switch {
		case hidden:
			add(key, drivers.Hidden)
		case asked:
			add(key, want)
		case o.Presence == drivers.Present:
			add(key, o.State)
		case known:
			add(key, remembered)
		}
	}
	return d, nil
}

func orUnknown(err error) error {
	if err == nil {
		return drivers.ErrUnknown
	}
	return err
}

// netdev says whether the netdev is made anew on the way to what is asked, and
// whether the function has none at its end.
func (f Function) netdev(specs drivers.Specs) (remade, hidden bool) {
	for key, o := range f.Observed {
		spec, _ := specs.Find(key.Kind)
		if spec.Hides == nil {
			continue
		}
		end := o.State
		if want, ok := f.Want[key]; ok {
			for _, hop := range spec.Hops(o.State, want) {
				remade = remade || spec.Hides(hop)
			}
			end = want
		}
		remade = remade || spec.Hides(o.State) != spec.Hides(end)
		hidden = hidden || spec.Hides(end)
	}
	return remade, hidden
}
