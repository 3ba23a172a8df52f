package plan

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"eniagent/drivers"
)

// Function is one PCI function, with the virtual ones that it makes: what is
// asked of them, what was observed of all their kinds, and what is remembered
// from before they were first touched.
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
	// Along are the keys of Before and After that are there only because their
	// netdev or VF is made anew: what they were is restored where the new one lets
	// it, and their failure is not the operation's.
	Along map[drivers.Key]bool
	// Lost is what the operation changes on its way and leads nowhere: release
	// restores it.
	Lost Goal
}

// Asked is After without what is only taken along.
func (d Draft) Asked() Goal {
	asked := maps.Clone(d.After)
	maps.DeleteFunc(asked, func(k drivers.Key, _ drivers.State) bool { return d.Along[k] })
	return asked
}

// Empty says that there is nothing to do.
func (d Draft) Empty() bool { return len(d.After) == 0 }

// Cover is the operation that brings the function to what is asked of it. When
// the netdev goes or is made anew on the way, all its attributes are in the
// operation: a revert must name them again, and so must a return to the
// kernel's driver. For those nobody asks about that is what they are now, else
// the baseline. So it is with all there is of a VF when the VFs are made anew.
// What is asked and may be moved by one of the writes (Spec.Moves) is in the
// operation too, though it is as asked now.
//
// What is asked of a netdev that the function does not have, and will not have
// then, is an error, and so is what is asked of a VF that will not be there. One
// that the driver has yet to make is drivers.ErrNotReady.
func Cover(specs drivers.Specs, f Function) (Draft, error) {
	d := Draft{Before: Goal{}, After: Goal{}}
	fates := map[drivers.Target]fate{}
	for key := range f.Observed {
		if _, ok := fates[key.Target]; !ok {
			fates[key.Target] = f.fate(specs, key.Target)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(f.Want), drivers.Key.Compare) { // what is wrong is said alike each time
		if err := f.mayHave(specs, key, fates[key.Target]); err != nil {
			return Draft{}, err
		}
		if o, want := f.Observed[key], f.Want[key]; !o.Is(want) {
			d.Before[key], d.After[key] = o.State, want
		}
	}
	if err := f.takeAlong(specs, &d, fates); err != nil {
		return Draft{}, err
	}
	f.takeMoved(specs, &d)
	d.takeRestored(specs)
	d.shorten()
	return d, nil
}

// takeAlong puts into the draft what goes, or is made anew, on the way.
func (f Function) takeAlong(specs drivers.Specs, d *Draft, fates map[drivers.Target]fate) error {
	for key, o := range f.Observed {
		at := fates[key.Target]
		if f.goes(specs, key, at) && o.Presence == drivers.Unobservable && !errors.Is(o.Err, drivers.ErrUnsupported) {
			// What is destroyed without having been seen could never be given back.
			return fmt.Errorf("%s is %s, and would be lost: %w", key, o, orUnknown(o.Err))
		}
		if f.given(specs, key, at) {
			if o.Presence == drivers.Present {
				d.lose(key, o.State) // which release puts back
			}
			continue
		}
		if to, ok := f.takenAlong(specs, key, at); ok {
			d.Before[key], d.After[key] = o.State, to
			if _, asked := f.Want[key]; f.along(specs, key) && !asked {
				d.take(key)
			}
		}
	}
	return nil
}

// takeRestored takes along what is only restored, where the draft is about more
// than that: a name that another netdev has now is waited for last.
func (d *Draft) takeRestored(specs drivers.Specs) {
	restored := func(key drivers.Key) bool {
		spec, _ := specs.Find(key.Kind)
		return spec.Restored
	}
	for key := range d.After {
		if !restored(key) && !d.Along[key] {
			for key := range d.After {
				if restored(key) {
					d.take(key)
				}
			}
			return
		}
	}
}

// given says whether a state of a netdev that is made anew follows from another
// one, that is asked for or taken along.
func (f Function) given(specs drivers.Specs, key drivers.Key, at fate) bool {
	if _, asked := f.Want[key]; asked || !at.renewed && !at.remade || at.hidden || at.gone {
		return false
	}
	for by, o := range f.Observed {
		spec, _ := specs.Find(by.Kind)
		if by.Target != key.Target || spec.Gives == nil {
			continue
		}
		want, asked := f.Want[by]
		switch {
		case asked:
		case o.Presence == drivers.Present:
			want = o.State
		default:
			want = f.Baseline[by]
		}
		// What is made anew to take one up does not keep what it was given before.
		if slices.Contains(spec.Gives(want), key.Kind) || at.probed && slices.Contains(spec.Gives(f.Observed[by].State), key.Kind) {
			return true
		}
	}
	return false
}

// mayHave says why the function cannot have what is asked of a key.
func (f Function) mayHave(specs drivers.Specs, key drivers.Key, at fate) error {
	want := f.Want[key]
	o, ok := f.Observed[key]
	if !ok || o.Presence > drivers.Concealed {
		return fmt.Errorf("%s is %s: %w", key, o, orUnknown(o.Err))
	}
	spec, _ := specs.Find(key.Kind)
	if hider, err := f.unread(specs, key.Target); spec.Netdev && err != nil && !o.Is(want) {
		return fmt.Errorf("%s could not be read: %w", hider, err)
	}
	switch concealed := o.Presence == drivers.Concealed; {
	case want == drivers.Hidden:
	case at.gone:
		return fmt.Errorf("%s=%s: there will be no such VF: %w", key, want, drivers.ErrHidden)
	case spec.Netdev && at.hidden:
		return fmt.Errorf("%s=%s: the function has no netdev: %w", key, want, drivers.ErrHidden)
	case spec.Netdev && concealed && !at.renewed && !at.remade:
		// Its driver is still at it. Whatever the netdev is when it comes is nobody's doing.
		return fmt.Errorf("%s=%s: its driver has made no netdev yet: %w", key, want, drivers.ErrNotReady)
	case spec.OfVF && at.veiled:
		return fmt.Errorf("%s=%s: its physical function will have no netdev, and keeps nothing for it then: %w: ask for its kernel driver", key, want, drivers.ErrHidden)
	case spec.OfVF && concealed && !at.remade:
		return fmt.Errorf("%s=%s: its physical function has no netdev: %w: bind its kernel driver first", key, want, drivers.ErrHidden)
	}
	return nil
}

// unread is the key on which it depends whether a function has a netdev, where
// that could not be read, and why.
func (f Function) unread(specs drivers.Specs, t drivers.Target) (drivers.Key, error) {
	for key, o := range f.Observed {
		if spec, _ := specs.Find(key.Kind); key.Target == t && spec.Hides != nil && o.Presence == drivers.Unobservable {
			return key, orUnknown(o.Err)
		}
	}
	return drivers.Key{}, nil
}

// takeMoved puts into the draft what may be moved by what the draft changes
// (Spec.Moves), and is to stay: what is asked and is so now, which is right only
// when it was observed after that, and settings that nobody asks for, which go
// back to what they were before the first such change.
func (f Function) takeMoved(specs drivers.Specs, d *Draft) {
	states := make(map[drivers.Key][]drivers.State, len(d.After))
	for key, after := range d.After {
		states[key] = []drivers.State{d.Before[key], after}
	}
	for key, o := range f.Observed {
		if _, covered := d.After[key]; covered || o.Presence != drivers.Present || !specs.Moved(key, states) {
			continue
		}
		spec, _ := specs.Find(key.Kind)
		switch want, asked := f.Want[key]; {
		case asked:
			d.Before[key], d.After[key] = o.State, want
		case spec.WhenAsked && spec.Netdev:
			d.Before[key], d.After[key] = o.State, cmp.Or(f.Baseline[key], o.State)
			d.take(key)
		}
	}
}

// Loses are the keys of those that are observed only when asked for that go, come
// back as the kernel makes them, or are moved, on the way to what is asked. They are to be
// observed before Cover drafts the operation.
func Loses(specs drivers.Specs, f Function) (keys []drivers.Key) {
	targets := map[drivers.Target]bool{}
	for key := range f.Observed {
		targets[key.Target] = true
	}
	changes := map[drivers.Key][]drivers.State{}
	for key, want := range f.Want {
		changes[key] = []drivers.State{f.Observed[key].State, want}
	}
	for t := range targets {
		at := f.fate(specs, t)
		for _, spec := range specs {
			key := drivers.Key{Kind: spec.Kind, Target: t}
			_, seen := f.Observed[key]
			if !seen && spec.WhenAsked && (f.goes(specs, key, at) || spec.Netdev && specs.Moved(key, changes)) {
				keys = append(keys, key)
			}
		}
	}
	slices.SortFunc(keys, drivers.Key.Compare)
	return keys
}

// goes says whether what a key is about goes, or is made anew.
func (f Function) goes(specs drivers.Specs, key drivers.Key, at fate) bool {
	spec, _ := specs.Find(key.Kind)
	return at.remade && (spec.Netdev || spec.OfVF || spec.Hides != nil) || at.renewed && spec.Netdev
}

// along says whether a key is one whose failure is not the operation's: one of
// which nothing is known but what the driver tells.
func (f Function) along(specs drivers.Specs, key drivers.Key) bool {
	spec, _ := specs.Find(key.Kind)
	return spec.WhenAsked && (spec.Netdev || spec.OfVF)
}

// maxAlong is how many bytes of states an operation takes along: with the rest of
// it, that fits a record of the journal.
const maxAlong = 64 << 10

func (d *Draft) take(key drivers.Key) {
	if d.Along == nil {
		d.Along = map[drivers.Key]bool{}
	}
	d.Along[key] = true
}

// Leave takes a key that is only taken along out of the draft: its device cannot
// have both that and what is asked. Release restores it.
func (d *Draft) Leave(key drivers.Key) {
	if d.Along[key] {
		d.lose(key, d.Before[key])
		delete(d.Before, key)
		delete(d.After, key)
		delete(d.Along, key)
	}
}

func (d *Draft) lose(key drivers.Key, was drivers.State) {
	if d.Lost == nil {
		d.Lost = Goal{}
	}
	d.Lost[key] = was
}

// shorten leaves what does not fit the operation to release, the longest first.
func (d *Draft) shorten() {
	size := func(k drivers.Key) int { return len(d.Before[k]) + len(d.After[k]) }
	sum := 0
	for k := range d.Along {
		sum += size(k)
	}
	keys := slices.SortedFunc(maps.Keys(d.Along), func(a, b drivers.Key) int { return cmp.Or(size(b)-size(a), a.Compare(b)) })
	for _, k := range keys {
		if sum <= maxAlong {
			return
		}
		sum -= size(k)
		d.Leave(k)
	}
}

// takenAlong is the state after of a key that an operation takes along because
// what it is about goes, or is made anew; false when it does not.
func (f Function) takenAlong(specs drivers.Specs, key drivers.Key, at fate) (drivers.State, bool) {
	spec, _ := specs.Find(key.Kind)
	o := f.Observed[key]
	if o.Presence > drivers.Concealed || !at.remade && !(at.renewed && spec.Netdev) && !(at.probed && spec.Renew != nil) {
		return "", false
	}
	want, asked := f.Want[key]
	remembered, known := f.Baseline[key]
	switch {
	case at.gone, at.hidden && spec.Netdev, at.veiled && spec.OfVF:
		return drivers.Hidden, true
	case asked:
		return want, true
	case o.Presence == drivers.Present:
		return spec.Settled(o.State), true
	}
	return remembered, known
}

func orUnknown(err error) error {
	if err == nil {
		return drivers.ErrUnknown
	}
	return err
}

// fate is what becomes of a function and of its netdev on the way to what is
// asked.
type fate struct {
	remade  bool // the function itself is made anew, or goes
	gone    bool // at the end there is no such function
	renewed bool // its netdev is made anew, or goes
	hidden  bool // at the end it has none
	veiled  bool // at the end what makes it has none, and keeps nothing for it
	probed  bool // its netdev is made anew for what only a probe takes up
}

// endsHidden says whether a function has no netdev at the end.
func (f Function) endsHidden(specs drivers.Specs, t drivers.Target) bool {
	for key, o := range f.Observed {
		spec, _ := specs.Find(key.Kind)
		if spec.Hides != nil && key.Target == t && spec.Hides(cmp.Or(f.Want[key], o.State)) {
			return true
		}
	}
	return false
}

func (f Function) fate(specs drivers.Specs, t drivers.Target) (at fate) {
	states := map[drivers.Key][]drivers.State{}
	for key, o := range f.Observed {
		if states[key] = []drivers.State{o.State}; f.Want[key] != "" {
			states[key] = append(states[key], f.Want[key])
		}
	}
	if maker, remade, ok := specs.Maker(t, states); ok {
		spec, _ := specs.Find(maker.Kind)
		end := states[maker][len(states[maker])-1]
		at.remade, at.gone, at.veiled = remade, !slices.Contains(spec.Makes(end), t), f.endsHidden(specs, maker.Target)
	}
	for key, o := range f.Observed {
		spec, _ := specs.Find(key.Kind)
		if spec.Hides == nil || key.Target != t || o.Presence == drivers.Unobservable {
			continue
		}
		end := o.State
		if want, ok := f.Want[key]; ok {
			for _, hop := range spec.Hops(o.State, want) {
				at.renewed = at.renewed || spec.Hides(hop)
			}
			end = want
		}
		at.renewed = at.renewed || spec.Hides(o.State) != spec.Hides(end)
		at.hidden = at.hidden || spec.Hides(end)
		at.probed = at.probed || spec.Renew != nil && o.Presence == drivers.Present && !spec.Hides(o.State)
	}
	at.probed = at.probed && !at.hidden && !at.remade && specs.Renews(t, states)
	at.renewed = at.renewed || at.probed
	return at
}
