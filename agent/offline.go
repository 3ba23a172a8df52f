package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/go-kit/log"

	"eniagent/agent/source"
	"eniagent/journal"
)

// interfacesIn is what a journal remembers of a source's desired state.
func interfacesIn(d journal.Desired) (document, error) {
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
	src := SourceReport{Source: desired.Source, Object: desired.Object, Generation: desired.Generation}
	remembered, _ := v.Records.Desired(desired.Source)
	interfaces := desired.Interfaces
	if doc, err := interfacesIn(remembered); err == nil {
		interfaces, _ = merge(doc.Interfaces, desired.Interfaces)
	}
	return v.Plan(ctx, v.resolve(ctx, interfaces, v.selections(remembered)), src)
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

func (v View) resolve(ctx context.Context, interfaces []source.Interface, remembered []journal.Selection) []request {
	r := resolver{host: v.Host, records: v.Records, noIOMMU: v.NoIOMMU, bootID: v.BootID}
	return r.resolve(ctx, interfaces, remembered)
}

// Status is how things stand while no agent runs: what the journal says was
// last in force, held against the host.
func (v View) Status(ctx context.Context, name string) Status {
	s := Status{Mode: "stopped", BootID: v.BootID, Interfaces: []InterfaceReport{}, Operations: []OperationReport{}, Failures: v.Records.Failures()}
	d, _ := v.Records.Desired(name)
	s.Source = SourceReport{Source: name, Object: d.Object, Generation: d.Generation}
	for _, op := range slices.Concat(v.Records.Operations(), v.Records.Quarantined()) {
		s.Operations = append(s.Operations, OperationReport{Operation: op})
	}
	doc, err := interfacesIn(d)
	if err != nil {
		s.Source.Error = err.Error()
		return s
	}
	for _, r := range v.resolve(ctx, doc.Interfaces, v.selections(d)) {
		s.Interfaces = append(s.Interfaces, v.standing(ctx, r, slices.Contains(doc.Kept, r.entry)))
	}
	return s
}

// standing is how one entry stands against the host.
func (v View) standing(ctx context.Context, r request, kept bool) InterfaceReport {
	p := v.planEntry(ctx, r)
	report := InterfaceReport{
		Entry: r.entry, Target: r.target, Condition: p.Condition, Reason: p.Reason, Kept: kept, Want: map[string]string{},
	}
	for k, s := range r.goal {
		report.Want[string(k.Kind)] = string(s)
	}
	if r.target != "" {
		_, observed, _ := v.examine(ctx, r)
		report.Observed = describe(observed)
	}
	_, report.Operation = v.claimed(r.target)
	return report
}

// RecoverNow recovers without a running agent: it takes the journal, carries
// out what recovery decides, and lets go.
func RecoverNow(ctx context.Context, o Options, logger log.Logger, journalOptions func(*journal.Options)) (r RecoverReport, err error) {
	if err := o.Validate(); err != nil {
		return r, err
	}
	kernel, closeKernel, err := o.OpenKernel()
	if err != nil {
		return r, err
	}
	defer closing(&err, "simulated node", closeKernel)
	j, bootID, machineID, err := o.openJournal(ctx, kernel, nil, logger, journalOptions)
	if err != nil {
		return r, err
	}
	defer closing(&err, "journal", j.Close)
	pool, err := o.openPool(kernel, logger)
	if err != nil {
		return r, err
	}
	defer closing(&err, "writer children", pool.Close)
	a := New(Config{
		Journal: j, Host: pool, Name: "file", Logger: logger, Version: o.Version,
		BootID: bootID, MachineID: machineID, NoIOMMU: o.NoIOMMU, Interval: o.Interval,
	})
	defer a.workers.Wait()
	if err := a.newBoot(ctx); err != nil {
		return r, err
	}
	r = a.Recover(ctx, false)
	r.Through = "journal"
	return r, nil
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
