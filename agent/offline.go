package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/go-kit/log"

	"eniagent/agent/source"
	"eniagent/agent/source/file"
	"eniagent/agent/state"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// documentIn is what a journal remembers of a source's desired state.
func documentIn(d journal.Desired) (document, error) {
	var doc document
	if len(d.Document) == 0 {
		return doc, nil
	}
	if err := json.Unmarshal(d.Document, &doc); err != nil {
		return doc, fmt.Errorf("read desired state in the journal: %w", err)
	}
	return doc, nil
}

// PlanFor is what would be done if a source now asked this.
func (v View) PlanFor(ctx context.Context, desired source.Desired) PlanReport {
	src := SourceReport{Source: desired.Source, Object: desired.Object, Generation: desired.Generation, Refused: desired.Refused}
	remembered, _ := v.Records.Desired(desired.Source)
	doc, err := documentIn(remembered)
	if err != nil {
		src.Error = err.Error()
	}
	requests := v.resolve(ctx, merge(doc.Entries, desired, v.matched(v.selections(remembered))), v.selections(remembered))
	return v.asking(requests).Plan(ctx, requests, src)
}

// PlanKept is what would be done for what was last in force.
func (v View) PlanKept(ctx context.Context) PlanReport {
	d := InForce(v.Records, file.Name)
	src := SourceReport{Source: d.Source, Object: d.Object, Generation: d.Generation}
	doc, err := documentIn(d)
	if err != nil {
		src.Error = err.Error()
	}
	requests := v.resolve(ctx, doc.Entries, v.selections(d))
	return v.asking(requests).Plan(ctx, requests, src)
}

// selections are what selectors stood for, without the inodes of an earlier
// kernel, which say nothing about this one's.
func (v View) selections(d journal.Desired) []journal.Selection {
	selections := slices.Clone(d.Selections)
	if v.Records.Meta().RecoveredBoot == v.BootID {
		return selections
	}
	for i := range selections {
		selections[i].Identity.Incarnation, selections[i].Identity.PFIncarnation = 0, 0
	}
	return selections
}

// Status is how things stand while no agent runs: what the journal says was
// last in force, held against the host.
func (v View) Status(ctx context.Context) Status {
	s := Status{Mode: "stopped", BootID: v.BootID, Interfaces: []InterfaceReport{}, Operations: []OperationReport{}, Failures: v.Records.Failures()}
	if owed, ok := v.RestartOwed(); ok {
		s.PluginRestart = &owed
	}
	d := InForce(v.Records, file.Name)
	s.Source = SourceReport{Source: d.Source, Object: d.Object, Generation: d.Generation}
	for _, op := range slices.Concat(v.Records.Operations(), v.Records.Quarantined()) {
		s.Operations = append(s.Operations, OperationReport{Operation: op})
	}
	doc, err := documentIn(d)
	if err != nil {
		s.Source.Error = err.Error()
		return s
	}
	for _, r := range v.resolve(ctx, doc.Entries, v.selections(d)) {
		if r.pool != "" {
			s.Pools = append(s.Pools, poolReport(r, v.standing(ctx, r)))
			continue
		}
		s.Interfaces = append(s.Interfaces, v.standing(ctx, r))
	}
	return s
}

// standing is how one entry stands against the host.
func (v View) standing(ctx context.Context, r request) InterfaceReport {
	p := v.planEntry(ctx, r)
	report := InterfaceReport{
		Entry: r.entry, Target: r.target, Condition: p.Condition, Reason: p.Reason, Want: map[string]string{},
		Kept: r.asked.Kept, From: r.asked.From, Object: r.asked.Object,
	}
	for k, s := range r.goal {
		report.Want[string(k.Kind)] = string(s)
	}
	seen := sight{}
	if r.target != "" {
		_, observed, _ := v.examine(ctx, &r)
		seen = v.sight(ctx, r.target, observed)
		report.Observed = seen.observed
	}
	report.State = cmp.Or(v.stateOf(r, r.target, p.Condition, seen), state.Unknown)
	report.Operation = v.claimed(r.target)
	return report
}

// RecoverNow recovers without a running agent.
func RecoverNow(ctx context.Context, o Options, logger log.Logger, journalOptions func(*journal.Options)) (r RecoverReport, err error) {
	err = alone(ctx, o, logger, journalOptions, func(a *Agent) error {
		pools := a.view.unverified(ctx, a.current(ctx))
		a.duty(ctx)
		r = a.Recover(ctx, false)
		r.Pools, r.PoolsLeft = pools, a.poolsLeft(ctx) // as they were, and are
		r.Through = throughJournal
		return nil
	})
	return r, err
}

// throughJournal says that a command did its work without a running agent.
const throughJournal = "journal"

// ReleaseNow is Release without a running agent: the order is left in the
// journal for the next.
func ReleaseNow(ctx context.Context, o Options, order Order, logger log.Logger, journalOptions func(*journal.Options)) (OrderReport, error) {
	return orderNow(ctx, o, order, logger, journalOptions, (*Agent).Release)
}

// PauseNow is Pause without a running agent.
func PauseNow(ctx context.Context, o Options, order Order, logger log.Logger, journalOptions func(*journal.Options)) (OrderReport, error) {
	return orderNow(ctx, o, order, logger, journalOptions, (*Agent).Pause)
}

// ResumeNow is Resume without a running agent.
func ResumeNow(ctx context.Context, o Options, order Order, logger log.Logger, journalOptions func(*journal.Options)) (OrderReport, error) {
	return orderNow(ctx, o, order, logger, journalOptions, (*Agent).Resume)
}

// ResolveNow is Resolve without a running agent.
func ResolveNow(ctx context.Context, o Options, q Resolution, logger log.Logger, journalOptions func(*journal.Options)) (ResolveReport, error) {
	return rehearsed(ctx, o, logger, journalOptions, q.Dry, func(a *Agent, dry bool) (ResolveReport, error) {
		q.Dry = dry
		r, err := a.Resolve(ctx, q)
		r.Through = throughJournal
		return r, err
	})
}

// PluginRestartedNow is PluginRestarted without a running agent.
func PluginRestartedNow(ctx context.Context, o Options, number uint64, who string, logger log.Logger, journalOptions func(*journal.Options)) (RestartReport, error) {
	return rehearsed(ctx, o, logger, journalOptions, false, func(a *Agent, dry bool) (RestartReport, error) {
		if dry {
			_, err := a.c.Journal.Pay(ctx, deviceplugin.Restart, number, who)
			return RestartReport{}, err
		}
		return a.PluginRestarted(ctx, number, who)
	})
}

func orderNow(ctx context.Context, o Options, order Order, logger log.Logger, journalOptions func(*journal.Options),
	fn func(*Agent, context.Context, Order) (OrderReport, error),
) (OrderReport, error) {
	return rehearsed(ctx, o, logger, journalOptions, order.Dry, func(a *Agent, dry bool) (OrderReport, error) {
		a.readFile(ctx)
		order.Dry = dry
		r, err := fn(a, ctx, order)
		r.Through = throughJournal
		return r, err
	})
}

// readFile takes what the file asks now, as the next agent will: an order that
// is given now is given in the knowledge of it.
func (a *Agent) readFile(ctx context.Context) {
	if a.c.Name != file.Name {
		return
	}
	data, err := os.ReadFile(a.c.Object)
	if err != nil {
		return // as with an agent, the last good one stays in force
	}
	desired, err := file.Parse(a.c.Object, data)
	a.take(ctx, source.Update{Desired: desired, Err: err})
	a.notePermissions(a.current(ctx))
	a.notePath(ctx)
}

// alone takes the journal as an agent does, lets fn work, and lets go.
func alone(ctx context.Context, o Options, logger log.Logger, journalOptions func(*journal.Options), fn func(*Agent) error) (err error) {
	if err := o.Validate(); err != nil {
		return err
	}
	kernel, closeKernel, err := o.OpenKernel()
	if err != nil {
		return err
	}
	defer closing(&err, "simulated node", closeKernel)
	j, bootID, machineID, err := o.openJournal(ctx, kernel, nil, nil, logger, journalOptions)
	if err != nil {
		return err
	}
	defer closing(&err, "journal", j.Close)
	pool, err := o.openPool(kernel, nil, logger)
	if err != nil {
		return err
	}
	defer closing(&err, "writer children", pool.Close)
	return o.workAlone(ctx, j, pool, bootID, machineID, logger, fn)
}

// workAlone lets fn work with an agent that follows nothing.
func (o Options) workAlone(ctx context.Context, j *journal.Journal, h host.Host, bootID, machineID string, logger log.Logger, fn func(*Agent) error) error {
	last := InForce(j, file.Name)
	if last.Source == file.Name {
		last.Object = o.ConfigFile
	}
	a := New(Config{
		Journal: j, Host: h, Name: last.Source, Object: last.Object, Logger: logger, Version: o.Version,
		BootID: bootID, MachineID: machineID, NoIOMMU: o.NoIOMMU, Observe: o.Observe, Interval: o.Interval,
		Own: o.NodeAddresses, Reach: o.KeepReachable, WithoutDefault: o.WithoutDefault, Allocated: o.Allocated(h),
		PluginFile: o.PluginFile,
	})
	defer a.stop()
	if err := a.newBoot(ctx); err != nil {
		return err
	}
	a.restore()
	a.notePermissions(a.current(ctx))
	a.notePath(ctx)
	return fn(a)
}

// flushed is long enough that a journal in memory never commits by itself.
const flushed = time.Hour

// NoJournal is the empty journal of a host that has none yet.
func NoJournal(ctx context.Context, bootID string) (*journal.Journal, error) {
	j, err := journal.OpenMemory(ctx, journal.NewMemory(), journal.Options{BootID: bootID, FlushAfter: flushed})
	if err != nil {
		return nil, fmt.Errorf("open an empty journal: %w", err)
	}
	return j, nil
}
