package agent

import (
	"fmt"
	"slices"
	"strings"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/sriov"
)

// mayReplace refuses another number of VFs while there are some that somebody
// else has configured: all of them are destroyed on the way, with what uses them,
// and those above the new number stay away. The entry may give a reason.
func (v View) mayReplace(r *request, observed plan.Observed, d plan.Draft) error {
	key := drivers.Key{Kind: sriov.KindNumVFs, Target: r.target}
	after, changes := d.After[key]
	if !changes || r.released() || r.asked.VFs == nil || r.asked.VFs.ReplaceVFs != "" {
		return nil
	}
	spec, _ := v.Drivers.Specs.Find(key.Kind)
	now := spec.Makes(observed[key].State)
	if slices.Equal(now, spec.Makes(after)) {
		return nil
	}
	var theirs []string
	for i, t := range now {
		if has := v.configured(r, t, observed); len(has) > 0 {
			theirs = append(theirs, fmt.Sprintf("VF %d, %s, has %s", i, t, strings.Join(has, ", ")))
		}
	}
	if len(theirs) == 0 {
		return nil
	}
	return fmt.Errorf("%w: vfs.count %d of %s makes all its VFs anew, and somebody else has configured some (%s): ask for the %d that there are, or give the reason in vfs.replaceVFs",
		drivers.ErrRefused, r.asked.VFs.Count, r.target, strings.Join(theirs, "; "), len(now))
}

// configured is what somebody else has set of a VF and nobody asks for. A MAC
// alone is nothing of the kind: a physical function may give one to each VF
// itself.
func (v View) configured(r *request, t drivers.Target, observed plan.Observed) (has []string) {
	id := drivers.Identity{PF: r.target, PFIncarnation: r.identity.Incarnation}
	if v.baselines().MadeVF(t, id) {
		return nil
	}
	for _, spec := range v.Drivers.Specs {
		k := drivers.Key{Kind: spec.Kind, Target: t}
		o, seen := observed[k]
		_, asked := r.goal[k]
		b, touched := v.baseline(k, id)
		if !seen || o.Presence != drivers.Present || asked || touched && b.State != o.State {
			continue
		}
		unset, known := sriov.Unset(k.Kind)
		switch {
		case k.Kind == dpdk.KindDriver && spec.Taken(o.State):
			has = append(has, string(o.State))
		case known && k.Kind != sriov.KindMAC && o.State != unset && spec.Legal(t, o.State) == nil:
			has = append(has, fmt.Sprintf("%s %s", k.Kind, o.State))
		}
	}
	return has
}
