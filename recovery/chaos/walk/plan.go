package walk

import (
	"context"

	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// Plan is what is to be walked: it is how a machine elsewhere is told.
type Plan struct {
	Machine Machine `json:"machine"`
	Suite   bool    `json:"suite,omitempty"` // the scenarios, and then
	Seed    uint64  `json:"seed"`            // a random walk from each of so many seeds, this one being the first
	Walks   int     `json:"walks"`
}

// Run walks all of the plan, and leaves the machine as it was found.
func (p Plan) Run(ctx context.Context, w *Walker) error {
	w.Machine = p.Machine
	if p.Suite {
		for _, s := range p.Machine.Suite() {
			if err := w.Walk(ctx, s.Name, s.Steps); err != nil {
				return err
			}
		}
	}
	for i := range p.Walks {
		seed := p.Seed + uint64(i)
		if err := w.Walk(ctx, Name(seed), p.Machine.Random(seed)); err != nil {
			return err
		}
	}
	return w.Restore(ctx)
}

// Simulate runs the plan on a simulated kernel.
func (p Plan) Simulate(ctx context.Context) (*sim.Kernel, []Line, error) {
	k := sim.New(p.Machine.Simulated())
	var trace []Line
	err := p.Run(ctx, &Walker{
		Host:    k,
		Write:   k.Do,
		Foreign: func(_ context.Context, c host.Call) error { return k.Foreign(c) },
		Hold: func(_ context.Context, addr string) (func() error, error) {
			release := k.Hold(addr)
			return func() error { release(); return nil }, nil
		},
		Tell: func(l Line) error {
			trace = append(trace, l)
			return nil
		},
	})
	return k, trace, err
}
