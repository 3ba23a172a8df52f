package recovery

import (
	"slices"

	"eniagent/drivers"
	"eniagent/journal"
)

// Baselines says what was there before the agent's first write, from the records
// of a journal. A baseline is never a value that an operation of the journal
// wrote: what the agent made has none, and is given back by unmaking it.
type Baselines struct {
	Specs   drivers.Specs
	Records interface {
		Baseline(k drivers.Key) (journal.Baseline, bool)
	}
}

// Of is the baseline of a key in this boot and in this life of its device; false
// where there is none.
func (b Baselines) Of(k drivers.Key, id drivers.Identity) (journal.Baseline, bool) {
	if b.Made(k, id) {
		return journal.Baseline{}, false // of a journal that took what was made for it
	}
	return b.recorded(k, id)
}

func (b Baselines) recorded(k drivers.Key, id drivers.Identity) (journal.Baseline, bool) {
	found, ok := b.Records.Baseline(k)
	if !ok || !lives(found, id) {
		return journal.Baseline{}, false
	}
	return found, true
}

// Made says that what a key belongs to was not there before the agent's first
// write: a VF that the baseline of its physical function lacks, or the netdev of
// a function that was on a driver without one.
func (b Baselines) Made(k drivers.Key, id drivers.Identity) bool {
	if b.MadeVF(k.Target, id) {
		return true
	}
	spec, _ := b.Specs.Find(k.Kind)
	if !spec.Netdev {
		return false
	}
	for _, s := range b.Specs {
		if s.Hides == nil {
			continue
		}
		if was, ok := b.recorded(drivers.Key{Kind: s.Kind, Target: k.Target}, id); ok && s.Hides(was.State) {
			return true
		}
	}
	return false
}

// MadeVF says that a function is a VF that was not there before the agent's first
// change of their number.
func (b Baselines) MadeVF(t drivers.Target, id drivers.Identity) bool {
	if id.PF == "" {
		return false
	}
	pf := drivers.Identity{Incarnation: id.PFIncarnation}
	for _, s := range b.Specs {
		if s.Makes == nil {
			continue
		}
		if was, ok := b.recorded(drivers.Key{Kind: s.Kind, Target: id.PF}, pf); ok && !slices.Contains(s.Makes(was.State), t) {
			return true
		}
	}
	return false
}

// Life is the incarnation that a baseline belongs to. A VF lives as long as its
// physical function: the agent itself makes it anew, at the same address.
func Life(id drivers.Identity) uint64 {
	if id.PF != "" {
		return id.PFIncarnation
	}
	return id.Incarnation
}

// lives says whether a baseline is of the device that is there now. Those of VFs
// had the VF's own incarnation once.
func lives(b journal.Baseline, id drivers.Identity) bool {
	life := Life(id)
	return b.Incarnation == 0 || life == 0 || b.Incarnation == life || id.PF != "" && b.Incarnation == id.Incarnation
}
