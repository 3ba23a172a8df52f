package agent

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"eniagent/agent/source"
	"eniagent/agent/state"
	"eniagent/drivers"
	"eniagent/journal"
)

// metrics of the loop. Gauges are read when they are scraped, so they cannot
// be stale.
type metrics struct {
	sourceErrors  prometheus.Counter
	sourceBad     prometheus.Gauge
	sourceRefused prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, a *Agent) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		sourceErrors: f.NewCounter(prometheus.CounterOpts{
			Name: "eniagent_source_errors_total", Help: "Times that desired state could not be read.",
		}),
		sourceBad: f.NewGauge(prometheus.GaugeOpts{
			Name: "eniagent_source_unreadable", Help: "1 while the last good desired state stands in for one that cannot be read.",
		}),
		sourceRefused: f.NewGauge(prometheus.GaugeOpts{
			Name: "eniagent_source_refused", Help: "Objects of the desired state that cannot be used, and of which nothing is taken.",
		}),
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "eniagent_plugin_restart_owed", Help: "Changes of the device plugin's file since its last restart that the agent was told of.",
	}, func() float64 {
		owed, _ := a.RestartOwed()
		return float64(owed.Owed)
	})
	if reg != nil {
		reg.MustRegister(stateCollector{a})
	}
	return m
}

// update counts what a source sent.
func (m *metrics) update(u source.Update) {
	if u.Err != nil {
		m.sourceErrors.Inc()
		m.sourceBad.Set(1)
		return
	}
	m.sourceBad.Set(0)
	m.sourceRefused.Set(float64(len(u.Desired.Refused)))
}

// stateCollector exports how things stand.
type stateCollector struct{ agent *Agent }

func descriptions() (interfaces, states, pools, open, fenced, heartbeat, ready, failures, tainted *prometheus.Desc) {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("eniagent_"+name, help, labels, nil)
	}
	return d("interfaces", "Interfaces of the desired state by condition.", "condition"),
		d("interface_states", "Interfaces of the desired state by what they are, whatever is asked of them.", "state"),
		d("pools", "Pools of the device plugin by condition.", "condition"),
		d("operations", "Operations that are not closed, by state.", "state"),
		d("fenced_targets", "Targets that a write still running in the kernel holds."),
		d("heartbeat_timestamp_seconds", "When the reconcile loop last turned."),
		d("ready", "1 when /readyz says so."),
		d("failures", "Goals that were reverted or put off."),
		d("tainted", "1 while vfio's unsafe no-IOMMU mode is on.")
}

// Describe sends the descriptions.
func (c stateCollector) Describe(ch chan<- *prometheus.Desc) {
	interfaces, states, pools, open, fenced, heartbeat, ready, failures, tainted := descriptions()
	for _, d := range []*prometheus.Desc{interfaces, states, pools, open, fenced, heartbeat, ready, failures, tainted} {
		ch <- d
	}
}

// Collect reads the agent.
func (c stateCollector) Collect(ch chan<- prometheus.Metric) {
	interfaces, states, pools, open, fenced, heartbeat, ready, failures, tainted := descriptions()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	a := c.agent
	byCondition, pooled, standing := map[Condition]int{}, map[Condition]int{}, map[state.State]int{}
	a.mu.Lock()
	for _, entry := range a.order {
		byCondition[a.reportOf(entry).Condition]++
		is, _ := a.states.get(entry)
		standing[is]++
	}
	for _, p := range a.pools {
		pooled[a.reports[p.entry].Condition]++
	}
	last := a.heartbeat
	a.mu.Unlock()
	for _, condition := range Conditions() {
		gauge(interfaces, float64(byCondition[condition]), string(condition))
		gauge(pools, float64(pooled[condition]), string(condition))
	}
	for _, is := range state.States() {
		gauge(states, float64(standing[is]), string(is))
	}
	byState, held := map[journal.OperationState]int{}, map[drivers.Target]bool{}
	for _, op := range append(a.c.Journal.Operations(), a.c.Journal.Quarantined()...) {
		byState[op.State]++
		for _, t := range op.Targets() {
			if f, err := a.c.Host.Fenced(t); err == nil && f {
				held[t] = true
			}
		}
	}
	for _, s := range []journal.OperationState{journal.Intent, journal.Reverting, journal.Quarantined} {
		gauge(open, float64(byState[s]), string(s))
	}
	gauge(fenced, float64(len(held)))
	gauge(heartbeat, float64(last.UnixNano())/float64(time.Second))
	gauge(failures, float64(len(a.c.Journal.Failures())))
	gauge(ready, truth(a.Ready() == nil))
	gauge(tainted, truth(taint(context.Background(), a.c.Host) != ""))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
