package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/link"
)

// nameGoal is the name that a request is to give back to a netdev.
type nameGoal struct {
	request int
	key     drivers.Key
	to      drivers.State
}

// partNames lets netdevs that wait for each other's name have them: the first of them
// takes another one in between, as udev does. The kernel gives out names anew when it
// makes netdevs again, and so it may swap them.
func (v View) partNames(ctx context.Context, requests []request, s scope) {
	goals := map[drivers.Target]nameGoal{}
	for i, r := range requests {
		for key, to := range r.goal {
			if key.Kind == link.KindName && to != drivers.Hidden && r.err == nil && s.of(r) {
				goals[key.Target] = nameGoal{i, key, to}
			}
		}
	}
	if len(goals) < 2 {
		return
	}
	links, err := v.Host.Links(ctx)
	if err != nil {
		return // each is told so when it is looked at
	}
	by, has := map[drivers.State]drivers.Target{}, map[drivers.Target]host.Link{}
	for _, l := range links {
		if t := host.FunctionOf(ctx, v.Host, l); t != "" {
			by[link.Name(l.Name)], has[t] = t, l
		}
	}
	waits := map[drivers.Target]drivers.Target{}
	for t, g := range goals {
		if holder := by[g.to]; holder != "" && holder != t && has[t].Index != 0 {
			waits[t] = holder
		}
	}
	for _, t := range slices.Sorted(maps.Keys(waits)) {
		between := fmt.Sprintf("rename%d", has[t].Index)
		taken := slices.ContainsFunc(links, func(l host.Link) bool { return l.Called(between) })
		if firstInCircle(waits, t) != t || taken {
			continue
		}
		r := &requests[goals[t].request]
		r.aim(goals[t].key, link.Name(between))
		r.later = fmt.Sprintf("it gets the name %s once %s, which waits for the one that it has, has given it up", goals[t].to, waits[t])
		r.unread = true // looked at again soon
	}
}
