package journal

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is what a journal promises, in the fewest words: the state of each
// operation that callers see, and that which a crash leaves.
type model struct {
	seen, durable map[uint64]OperationState
	targets       map[uint64]int
}

func (m *model) commit() { m.durable = maps.Clone(m.seen) }

func (m *model) in(states ...OperationState) []uint64 {
	var ids []uint64
	for _, id := range slices.Sorted(maps.Keys(m.seen)) {
		if slices.Contains(states, m.seen[id]) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (m *model) claimed(n int) bool {
	return slices.ContainsFunc(m.in(Intent, Reverting, Quarantined), func(id uint64) bool { return m.targets[id] == n })
}

// walk is a random life of a journal: verbs, full disks and crashes.
type walk struct {
	m    model
	p    *place
	j    *Journal
	full bool
}

func (w *walk) open(t *rapid.T) {
	j, err := w.p.try(func(o *Options) {
		o.FlushAfter = time.Hour
		o.Fault = func(point string) error {
			if w.full && point[len(point)-6:] == "before" {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	w.j = j
}

// did takes the outcome of a durable verb into the model.
func (w *walk) did(t *rapid.T, err error, change func()) {
	switch {
	case err == nil:
		change()
		w.m.commit()
	case !w.full:
		t.Fatal(err)
	}
}

func (w *walk) pick(t *rapid.T, states ...OperationState) uint64 {
	ids := w.m.in(states...)
	if len(ids) == 0 {
		t.Skip("none")
	}
	return rapid.SampledFrom(ids).Draw(t, "id")
}

func (w *walk) check(t *rapid.T) {
	have := map[uint64]OperationState{}
	for _, os := range [][]Operation{w.j.Operations(), w.j.Quarantined(), w.j.History(0)} {
		for _, o := range os {
			have[o.ID] = o.State
		}
	}
	if fmt.Sprint(have) != fmt.Sprint(w.m.seen) {
		t.Fatalf("journal has %v, model %v", have, w.m.seen)
	}
}

func TestModel(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		w := &walk{m: model{map[uint64]OperationState{}, map[uint64]OperationState{}, map[uint64]int{}}, p: memoryPlace()}
		w.open(t)
		defer func() { w.j.Abandon() }()
		t.Repeat(map[string]func(*rapid.T){
			"": w.check,
			"begin": func(t *rapid.T) {
				n := rapid.IntRange(0, 5).Draw(t, "target")
				o, err := w.j.Begin(ctx, operation(n, "9000"), []Baseline{{Key: mtu(n), Class: "volatile"}})
				if w.m.claimed(n) != (err != nil && !w.full) && !w.full {
					t.Fatalf("claimed %v, error %v", w.m.claimed(n), err)
				}
				if err == nil {
					w.m.seen[o.ID], w.m.targets[o.ID] = Intent, n
					w.m.commit()
				}
			},
			"attempt": func(t *rapid.T) {
				_, err := w.j.Attempt(ctx, w.pick(t, Intent, Reverting))
				w.did(t, err, func() {})
			},
			"reverting": func(t *rapid.T) {
				id := w.pick(t, Intent)
				w.did(t, w.j.Reverting(ctx, id, "x", false), func() { w.m.seen[id] = Reverting })
			},
			"quarantine": func(t *rapid.T) {
				id := w.pick(t, Intent, Reverting)
				w.did(t, w.j.Quarantine(ctx, id, "x"), func() { w.m.seen[id] = Quarantined })
			},
			"resolve": func(t *rapid.T) {
				id := w.pick(t, Quarantined)
				w.did(t, w.j.Resolve(ctx, id, "x", "y", "z"), func() { w.m.seen[id] = Resolved })
			},
			"end": func(t *rapid.T) {
				id := w.pick(t, Intent, Reverting, Quarantined)
				s := rapid.SampledFrom([]OperationState{Done, Reverted, Superseded}).Draw(t, "state")
				c := rapid.SampledFrom([]Count{CountNothing, CountRevert, CountPanic}).Draw(t, "count")
				err := w.j.End(Closing{ID: id, State: s, Count: c})
				if legal := w.m.seen[id].Legal(s); legal != (err == nil) {
					t.Fatalf("%s to %s: %v", w.m.seen[id], s, err)
				} else if legal {
					w.m.seen[id] = s
				}
			},
			"flush": func(t *rapid.T) { w.did(t, w.j.Flush(ctx), func() {}) },
			"disk":  func(t *rapid.T) { w.full = rapid.Bool().Draw(t, "full") },
			"crash": func(t *rapid.T) {
				w.j.Abandon()
				w.open(t)
				w.m.seen = maps.Clone(w.m.durable)
				if _, degraded := w.j.Degraded(); degraded {
					t.Fatal("degraded")
				}
			},
		})
	})
}
