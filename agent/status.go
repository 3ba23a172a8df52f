package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"

	"eniagent/agent/engine"
	"eniagent/agent/source"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// Status is how everything stands.
func (a *Agent) Status(ctx context.Context) Status {
	s := Status{
		Version: a.c.Version, Mode: "reconcile", BootID: a.c.BootID, Started: a.started.UTC().Truncate(time.Second),
		Interfaces: []InterfaceReport{}, Operations: []OperationReport{}, Failures: a.c.Journal.Failures(),
	}
	if a.c.Observe {
		s.Mode = "observe"
	}
	if _, degraded := a.c.Journal.Degraded(); degraded || a.c.Journal.Err() != nil {
		s.Mode = "degraded"
	}
	if err := a.Ready(); err != nil {
		s.NotReady = err.Error()
	} else {
		s.Ready = true
	}
	for _, op := range slices.Concat(a.c.Journal.Operations(), a.c.Journal.Quarantined()) {
		report := OperationReport{Operation: op}
		for _, t := range op.Targets() {
			held, err := a.c.Host.Fenced(t)
			report.Fenced = report.Fenced || held && err == nil
		}
		s.Operations = append(s.Operations, report)
	}
	s.Tainted = taint(ctx, a.c.Host)
	if owed, ok := a.RestartOwed(); ok {
		s.PluginRestart = &owed
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Heartbeat, s.Source = a.heartbeat.UTC(), a.source
	for _, entry := range a.order {
		r := a.reportOf(entry)
		r.State, r.StateSince = a.states.get(entry)
		s.Interfaces = append(s.Interfaces, r)
	}
	for _, p := range a.pools {
		r, ok := a.reports[p.entry]
		if !ok {
			r = InterfaceReport{Condition: Pending, Reason: "not looked at yet"}
		}
		s.Pools = append(s.Pools, poolReport(p, r))
	}
	return s
}

// errBehind is why a status is not one of what is asked now.
var errBehind = errors.New("what the source asks now was not read yet")

// FreshStatus is the status once what the source asks now is in force. One that cannot be
// had with this patience says that it is not ready.
func (a *Agent) FreshStatus(ctx context.Context, patience time.Duration) Status {
	within, cancel := context.WithTimeout(ctx, patience)
	err := a.catchUp(within)
	cancel()
	s := a.Status(ctx)
	if err != nil && s.Ready {
		s.Ready, s.NotReady = false, errBehind.Error()
	}
	return s
}

// catchUp returns once what the source asks now is in force, where the source can be asked.
func (a *Agent) catchUp(ctx context.Context) error {
	r, ok := a.c.Source.(source.Refresher)
	if !ok {
		return nil
	}
	if err := r.Refresh(ctx); err != nil {
		return err
	}
	select {
	case a.turns <- struct{}{}: // the loop has put in force what it took before
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// taint says by what a host's kernel is tainted that the agent may be asked to
// do; "" when it is not.
func taint(ctx context.Context, h host.Reader) string {
	v, err := h.Read(ctx, host.SysModule+"vfio/parameters/enable_unsafe_noiommu_mode")
	if err != nil || v != "Y" {
		return ""
	}
	return string(dpdk.KindNoIOMMU) + ": vfio's unsafe mode is on, programs can reach all memory by DMA"
}

// Healthy is nil while the loop has a heartbeat. A fenced target does not
// touch it: the loop waits for the host no longer than a read may take.
func (a *Agent) Healthy() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if age := time.Since(a.heartbeat); age > 30*time.Second {
		return fmt.Errorf("the reconcile loop has had no heartbeat for %s", age.Round(time.Second))
	}
	return nil
}

// Ready is nil once recovery has dealt with every operation that was open at
// the start, desired state is known and was looked at, and the journal takes
// records.
func (a *Agent) Ready() error {
	if err := a.c.Journal.Err(); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if d, degraded := a.c.Journal.Degraded(); degraded {
		return errors.New(lossText(d))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case len(a.unjudged) > 0:
		return fmt.Errorf("recovery has %d operations to deal with", len(a.unjudged))
	case len(a.unsafe) > 0:
		return fmt.Errorf("%s names what is not as asked, and is to be withdrawn", poolNames(slices.Sorted(maps.Keys(a.unsafe))))
	case a.source.Generation == "" && a.source.Error != "":
		return errors.New(a.source.Error)
	case a.source.Generation == "":
		return errNothing
	case !a.passed:
		return errors.New("the host was not looked at yet")
	case a.unkept != nil:
		return a.unkept
	}
	return nil
}

// Recover judges the open operations and, unless it is a dry run, carries the
// decisions out now, where no worker is on them already.
func (a *Agent) Recover(ctx context.Context, dry bool) RecoverReport {
	report := a.view.Recover(ctx, "agent")
	if dry {
		return report
	}
	if err := a.mayWrite(); err != nil {
		var damaged *DamagedError
		report.NotDone, report.Damaged = err.Error(), errors.As(err, &damaged)
		return report
	}
	report.DryRun = false
	done := make([]chan RecoverEntry, len(report.Entries))
	for i, planned := range report.Entries {
		done[i] = make(chan RecoverEntry, 1)
		if c, ok := a.view.paused(planned.Targets...); ok {
			planned.Outcome, planned.Error = string(engine.Kept), pausedText(c)
			done[i] <- planned
			continue
		}
		began := a.work(ctx, planned.Targets, func() { done[i] <- a.recoverOne(ctx, planned) })
		if !began {
			planned.Outcome, planned.Error = string(engine.Blocked), "the agent is at work on it"
			done[i] <- planned
		}
	}
	for i := range done {
		select {
		case report.Entries[i] = <-done[i]:
		case <-ctx.Done():
			report.Entries[i].Error = context.Cause(ctx).Error()
		}
	}
	if len(report.Pools) > 0 {
		for _, r := range a.current(ctx) {
			if r.pool != "" && r.err == nil {
				a.beside(r.target, func() { a.withdraw(ctx, r) })
			}
		}
		report.PoolsLeft = a.poolsLeft(ctx)
	}
	a.view.quarantine(ctx, &report) // some may be new
	report.Left = a.view.left(report)
	a.Wake()
	return report
}

// poolsLeft are the pools that still name what is not as asked.
func (a *Agent) poolsLeft(ctx context.Context) (left []string) {
	for _, p := range a.view.unverified(ctx, a.current(ctx)) {
		left = append(left, p.Entry)
	}
	return left
}

// recoverOne carries out what recovery decides on one operation, which may be
// something else than was planned a moment ago.
func (a *Agent) recoverOne(ctx context.Context, planned RecoverEntry) RecoverEntry {
	j, result := a.engine.Resume(ctx, a.view.env(), planned.Operation)
	if j.Decision != "" {
		planned = a.view.recoverEntry(j)
	}
	planned.Outcome = string(result.Outcome)
	if result.Err != nil {
		planned.Error = result.Err.Error()
	}
	return planned
}

// Acknowledge takes on that a damaged journal was replaced, and what was lost.
func (a *Agent) Acknowledge(ctx context.Context, who, why string) error {
	err := a.c.Journal.Acknowledge(ctx, who, why)
	level.Warn(a.logger).Log("why", why, "err", err, "msg", "loss of the journal acknowledged")
	if err == nil {
		a.duty(context.WithoutCancel(ctx)) // which nothing was written for before
	}
	a.Wake()
	return err
}

// DamagedError is why nothing is written while nobody has taken on that a damaged journal
// was replaced.
type DamagedError struct{ Text string }

func (e *DamagedError) Error() string { return e.Text }

// lossText is for whoever finds that a damaged journal was replaced: where it is,
// what its loss means, and how it goes on.
func lossText(d journal.Degradation) string {
	s := "journal was unusable: " + d.Reason
	if d.Aside != "" {
		s += "; the damaged file is kept as " + d.Aside
	}
	s += fmt.Sprintf("; %d of its records were saved", d.Saved)
	if len(d.Lost) > 0 {
		s += ", lost are: " + strings.Join(d.Lost, ", ")
	}
	return s + "; baselines that are lost cannot be restored by a release any more; nothing is written until somebody takes that on: agent journal acknowledge --reason TEXT"
}
