package engine

import (
	"maps"
	"slices"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/journal"
	"eniagent/recovery"
)

// baselines are what release will restore, unless the journal has them already.
// Of a function found in another program's hands nothing true is known.
//
// What an operation of this journal made has none: it is given back by unmaking
// it. A VF that the baseline of its physical function lacks is such a thing, and
// so is the netdev of a function that had none before its driver was changed.
// What it has now is the agent's own doing, or the kernel's.
func (e *Engine) baselines(op journal.Operation, lost plan.Goal) []journal.Baseline {
	var bs []journal.Baseline
	known := recovery.Baselines{Specs: e.Drivers.Specs, Records: e.Journal}
	add := func(k drivers.Key, before drivers.State) {
		spec, _ := e.Drivers.Specs.Find(k.Kind)
		id := op.Identity[k.Target]
		if _, ok := known.Of(k, id); ok || before == drivers.Hidden || known.Made(k, id) {
			return
		}
		bs = append(bs, journal.Baseline{
			Key: k, State: spec.Settled(before), Class: spec.Class, Incarnation: recovery.Life(id),
			Unknown: spec.Taken != nil && spec.Taken(before),
		})
	}
	for _, c := range op.Changes {
		add(c.Key, c.Before)
	}
	for _, k := range slices.SortedFunc(maps.Keys(lost), drivers.Key.Compare) {
		add(k, lost[k])
	}
	return bs
}
