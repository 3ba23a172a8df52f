package agent

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/sony/gobreaker/v2"

	"eniagent/agent/health"
	"eniagent/drivers/all"
)

// driftTotal counts drift, by kind.
func driftTotal(reg prometheus.Registerer) *prometheus.CounterVec {
	c := promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "eniagent_drift_total", Help: "Changes by another hand of what was as desired.",
	}, []string{"kind"})
	for _, s := range all.Specs() {
		c.WithLabelValues(string(s.Kind))
	}
	return c
}

// watchMetrics are the gauges of what the agent watches besides the journal.
func watchMetrics(reg prometheus.Registerer, a *Agent) {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "eniagent_drift_targets", Help: "Functions that another hand changed and that are not repaired.",
	}, func() float64 { return float64(a.drifts.count()) })
	for _, s := range []gobreaker.State{gobreaker.StateClosed, gobreaker.StateHalfOpen, gobreaker.StateOpen} {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "eniagent_breakers", Help: "Kinds of targets whose operations keep failing to begin, by state: open ones are held back.",
			ConstLabels: prometheus.Labels{"state": s.String()},
		}, func() float64 { return float64(a.breakers.count(s)) })
	}
	for _, reason := range health.Reasons() {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "eniagent_unhealthy", Help: "Functions that are as asked and not healthy, by what ails them.",
			ConstLabels: prometheus.Labels{"reason": string(reason)},
		}, func() float64 { return float64(a.health.Ailing(reason)) })
	}
}
