package agent

import (
	"context"
	"slices"
	"strings"

	"eniagent/agent/health"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/link"
	"eniagent/drivers/sriov"
)

// reportRight reports a function that is as asked, and what ails it all the
// same. That is told and nothing else: it is no reason to touch the function.
func (a *Agent) reportRight(ctx context.Context, r request, observed plan.Observed) {
	v := a.health.Look(ctx, a.c.Host, healthOf(r, observed))
	condition, reason := Right, strings.Join(slices.Concat(r.notes, v.Notes), "; ")
	if len(v.Findings) > 0 {
		var texts []string
		for _, f := range v.Findings {
			texts = append(texts, f.Text)
		}
		condition, reason = Degraded, "as asked, but "+strings.Join(texts, "; and ")
	}
	if !v.Again.IsZero() {
		a.wakeAt(v.Again, r.target)
	}
	a.report(r, condition, reason, a.view.sight(ctx, r.target, observed), 0)
}

// healthOf is what is looked at of a function that is as asked.
func healthOf(r request, observed plan.Observed) health.Function {
	f := health.Function{Target: r.target, Incarnation: r.identity.Incarnation}
	if b, err := dpdk.Parse(observed[drivers.Key{Kind: dpdk.KindDriver, Target: r.target}].State); err == nil {
		f.Driver = b.Driver
	}
	f.Up = r.goal[drivers.Key{Kind: link.KindAdmin, Target: r.target}] == link.Up
	state, asked := r.goal[drivers.Key{Kind: sriov.KindLinkState, Target: r.target}]
	f.OwnLink = asked && string(state) != host.LinkStates()[0] // "auto" is that of the physical function
	return f
}
