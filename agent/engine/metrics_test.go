package engine_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"eniagent/agent/engine"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
	"eniagent/recovery"
)

// samples are the counts of a registry, by name and labels: of a histogram, how
// often it was told.
func samples(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "eniagent_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			counts[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return counts
}

// TestSeriesAreThereFromTheStart: what was never counted reads zero, so that
// an alert can tell it from what is not measured.
func TestSeriesAreThereFromTheStart(t *testing.T) {
	reg := prometheus.NewRegistry()
	engine.NewMetrics(reg)
	want := map[string]float64{}
	for _, o := range engine.Outcomes() {
		want[fmt.Sprintf("operations_total %s", o)] = 0
	}
	for _, d := range recovery.Decisions() {
		want[fmt.Sprintf("recovery_decisions_total %s", d)] = 0
	}
	for _, s := range all.Specs() {
		want[fmt.Sprintf("step_duration_seconds %s", s.Kind)] = 0
		for _, result := range []string{"ok", "error", "fenced"} {
			want[fmt.Sprintf("steps_total %s %s", s.Kind, result)] = 0
		}
	}
	if d := cmp.Diff(want, samples(t, reg)); d != "" {
		t.Error(d)
	}
}

// stuck is a driver whose writes do not come back.
type stuck struct{ drivers.Driver }

func (stuck) Apply(context.Context, drivers.Target, drivers.State) error { return drivers.ErrFenced }

func TestMetrics(t *testing.T) {
	bind := func(w *world, e *engine.Engine) {
		e.Run(context.Background(), w.bindDraft(), journal.Reason{Source: "test"})
	}
	for _, tc := range []struct {
		name  string
		fault sim.Fault
		do    func(*world, *engine.Engine)
		want  map[string]float64 // what is not zero
	}{
		{"done", sim.Fault{}, bind, map[string]float64{
			"operations_total done": 1, "steps_total driver ok": 3, "step_duration_seconds driver": 3,
		}},
		{"reverted", sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL}, bind, map[string]float64{
			"operations_total reverted": 1, "steps_total driver ok": 4, "steps_total driver error": 1, "step_duration_seconds driver": 5,
		}},
		{"fenced", sim.Fault{}, func(w *world, e *engine.Engine) {
			e.Drivers.Drivers["driver"] = stuck{e.Drivers.Drivers["driver"]}
			bind(w, e)
		}, map[string]float64{
			"operations_total kept": 1, "steps_total driver fenced": 1, "step_duration_seconds driver": 1,
		}},
		{"kept is decided once until something else is", sim.Fault{}, keptTwice, map[string]float64{
			"operations_total kept": 7, "recovery_decisions_total keep": 3, "recovery_decisions_total replay": 1,
			"steps_total driver ok": 1, "step_duration_seconds driver": 1,
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, reg := newWorld(t), prometheus.NewRegistry()
			w.wrong = func(o *engine.Options) { o.Metrics = engine.NewMetrics(reg) }
			if tc.fault.Label != "" {
				w.inject(tc.fault)
			}
			j, e := w.open()
			defer j.Abandon()
			tc.do(w, e)
			got := samples(t, reg)
			maps.DeleteFunc(got, func(_ string, v float64) bool { return v == 0 })
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("%s\n%s", d, &w.log)
			}
		})
	}
}

// keptTwice is an operation that waits for one guard, then for another, tries
// again, and then waits for the other as before.
func keptTwice(w *world, e *engine.Engine) {
	draft := w.bindDraft()
	halfway := late{"driver=- override=vfio-pci"}
	e.Guard = halfway
	r := e.Run(context.Background(), draft, journal.Reason{Source: "test"})
	for _, g := range []engine.Guard{refusing{}, refusing{}, &gate{}, &gate{}, halfway, &gate{}} {
		e.Guard = g
		e.Resume(context.Background(), w.env(draft.After), r.Operation)
	}
}

// gate is a guard that lets through a goal so many times, and counts who asks.
type gate struct {
	may          int
	goals, steps int
}

func (g *gate) MayDrive(context.Context, plan.Observed, plan.Goal) error {
	g.goals++
	if g.goals > g.may {
		return fmt.Errorf("%w: %w", drivers.ErrRefused, drivers.ErrHeld)
	}
	return nil
}

func (g *gate) MayStep(context.Context, drivers.Step) error {
	g.steps++
	return nil
}
