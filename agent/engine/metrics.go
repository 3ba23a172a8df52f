package engine

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/recovery"
)

// Metrics count what the engine does. Labels are kinds, outcomes and
// decisions, never targets or texts.
type Metrics struct {
	operations *prometheus.CounterVec
	steps      *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	decisions  *prometheus.CounterVec
}

// NewMetrics registers with reg; nil registers nowhere.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		operations: f.NewCounterVec(prometheus.CounterOpts{
			Name: "eniagent_operations_total", Help: "Operations by how they ended.",
		}, []string{"outcome"}),
		steps: f.NewCounterVec(prometheus.CounterOpts{
			Name: "eniagent_steps_total", Help: "Writes of the host by kind and result.",
		}, []string{"kind", "result"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "eniagent_step_duration_seconds", Help: "How long a write of the host took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"kind"}),
		decisions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "eniagent_recovery_decisions_total", Help: "What recovery decided on open operations.",
		}, []string{"decision"}),
	}
	for _, o := range Outcomes() {
		m.operations.WithLabelValues(string(o))
	}
	for _, d := range recovery.Decisions() {
		m.decisions.WithLabelValues(string(d))
	}
	for _, s := range all.Specs() {
		m.duration.WithLabelValues(string(s.Kind))
		for _, r := range []string{"ok", "error", "fenced"} {
			m.steps.WithLabelValues(string(s.Kind), r)
		}
	}
	return m
}

func (m *Metrics) step(kind drivers.Kind, elapsed time.Duration, err error) {
	result := "ok"
	switch {
	case errors.Is(err, drivers.ErrFenced):
		result = "fenced"
	case err != nil:
		result = "error"
	}
	m.steps.WithLabelValues(string(kind), result).Inc()
	m.duration.WithLabelValues(string(kind)).Observe(elapsed.Seconds())
}

func (m *Metrics) ended(o Outcome) { m.operations.WithLabelValues(string(o)).Inc() }

func (m *Metrics) decided(d recovery.Decision) { m.decisions.WithLabelValues(string(d)).Inc() }
