package agent

import (
	"context"
	"reflect"
	"slices"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
)

// changed notes that something of what the source may want to know has changed.
func (a *Agent) changed() {
	select {
	case a.told <- struct{}{}:
	default: // who has not looked yet will see this too
	}
}

// tell keeps a source informed of how what it asks stands, until ctx ends.
func (a *Agent) tell(ctx context.Context, to source.Reporter) {
	var last source.Report
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.told:
		}
		if report := a.standings(); !reflect.DeepEqual(report, last) {
			to.Report(report)
			last = report
		}
	}
}

// standings are how the entries stand that were looked at.
func (a *Agent) standings() source.Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	pools := map[drivers.Target]string{}
	for _, p := range a.pools {
		report := poolReport(p, a.reports[p.entry])
		for _, t := range report.Functions {
			pools[t] = report.Pool
		}
	}
	all := source.Report{Generation: a.edition.generation, Plugin: a.payer.lastPaid()}
	for _, entry := range a.order {
		if r, ok := a.reports[entry]; ok {
			is, since := a.states.get(entry)
			s := standingOf(r, pools[r.Target])
			s.State, s.StateSince = string(is), since.UTC().Truncate(time.Second)
			all.Standings = append(all.Standings, s)
		}
	}
	return all
}

func standingOf(r InterfaceReport, pool string) source.Standing {
	s := source.Standing{
		Object: r.Object, Entry: r.Entry, Target: r.Target, Condition: string(r.Condition), Reason: r.Reason, Since: r.Since,
		Pool: pool, Generation: r.generation,
	}
	if b, err := dpdk.Parse(drivers.State(r.Observed[string(dpdk.KindDriver)])); err == nil {
		s.Driver, s.Userspace = b.Driver, drivers.Userspace(b.Driver)
	}
	inPool := r.Condition == Right && r.pool != ""
	s.Settled = !slices.Contains([]Condition{Changing, Pending, Waiting}, r.Condition) && inPool == (pool != "")
	return s
}
