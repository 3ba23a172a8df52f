package agent

import (
	"context"
	"slices"

	"github.com/go-kit/log/level"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/link"
	"eniagent/drivers/sriov"
)

// What comes to the management path because the agent set a link up, gave a
// function a driver or made a VF, such as by a router advertisement, was not what
// the node was reached by before. So it may be given back. That is kept with what
// is remembered of the path: a node that starts with it in place cannot tell.
const (
	factOrigin  = "origin"
	originAgent = "agent"
)

// opened says that a function is on the management path because of what the
// agent did in this boot, and was on it by nothing else before.
func (v View) opened(t drivers.Target) bool {
	c, known := v.Records.Control(onPath, t)
	return (!known || c.Facts[factOrigin] == originAgent) && v.brought(t)
}

// brought says that a function could carry nothing before the agent changed it
// or its physical function.
func (v View) brought(t drivers.Target) bool {
	for _, b := range v.Records.Baselines() {
		if _, ok := v.Records.Baseline(b.Key); !ok {
			continue // of another boot
		}
		switch {
		case b.Key.Kind == sriov.KindNumVFs:
			if b.Key.Target == t || v.makesNow(b.Key, t) && !slices.Contains(madeBy(v.Drivers.Specs, b.State), t) {
				return true
			}
		case b.Key.Target != t:
		case b.Key.Kind == link.KindAdmin && b.State == link.Down, b.Key.Kind == dpdk.KindDriver && hidesNetdev(v.Drivers.Specs, b.State):
			return true
		}
	}
	return false
}

// makesNow says that a VF is one that a physical function with a baseline has.
func (v View) makesNow(pf drivers.Key, vf drivers.Target) bool {
	o := v.observer().Observe(context.Background(), pf)
	return o.Presence == drivers.Present && slices.Contains(madeBy(v.Drivers.Specs, o.State), vf)
}

func madeBy(specs drivers.Specs, s drivers.State) []drivers.Target {
	spec, ok := specs.Find(sriov.KindNumVFs)
	if !ok {
		return nil
	}
	return spec.Makes(s)
}

func hidesNetdev(specs drivers.Specs, s drivers.State) bool {
	spec, ok := specs.Find(dpdk.KindDriver)
	return ok && spec.Hides(s)
}

// stateBefore is what a state was before the agent's first change of it.
func (v View) stateBefore(k drivers.Key) (drivers.State, bool) {
	b, ok := v.Records.Baseline(k)
	return b.State, ok
}

// orderAllows is the reason that an order to release gives for a function of the
// management path; "" when it gives none.
func (v View) orderAllows(t drivers.Target) string {
	c, _ := v.Records.Control(orderReleased, t)
	return c.Facts[factAllowed]
}

// forgetOpened forgets that a function was on the management path when what the
// agent opened has been given back.
func (a *Agent) forgetOpened(ctx context.Context, t drivers.Target) {
	if c, known := a.c.Journal.Control(onPath, t); !known || c.Facts[factOrigin] != originAgent {
		return
	}
	if _, err := a.c.Journal.ClearControl(ctx, onPath, t); err != nil {
		level.Warn(a.logger).Log("target", t, "err", err, "msg", "not forgotten that a released function was on the management path")
	}
}
