package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/go-kit/log/level"

	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/host"
	"eniagent/drivers/module"
	"eniagent/journal"
)

// rest are the baselines of what the agent changed beside functions, modules
// and their parameters, in an order to give them back: parameters first, then
// the module that was loaded last.
func (v View) rest() []journal.Baseline {
	bs := slices.DeleteFunc(v.Records.Baselines(), func(b journal.Baseline) bool {
		_, valid := v.Records.Baseline(b.Key)
		_, pci := b.Key.Target.PCIAddress()
		return pci || !valid || b.Unknown || b.Key.Kind == deviceplugin.Kind
	})
	slices.SortStableFunc(bs, func(a, b journal.Baseline) int {
		if am, bm := a.Key.Kind == module.Kind, b.Key.Kind == module.Kind; am != bm {
			if am {
				return 1
			}
			return -1
		}
		return cmp.Compare(b.Created.UnixNano(), a.Created.UnixNano())
	})
	return bs
}

// restEntries are what giving back the rest would do.
func (a *Agent) restEntries(ctx context.Context, o Order) []OrderEntry {
	var entries []OrderEntry
	if !o.All || o.Cancel {
		return nil
	}
	for _, t := range a.view.ownPools() {
		if now := a.view.observer().Observe(ctx, poolKey(t)); !now.Is(deviceplugin.Absent) {
			entries = append(entries, OrderEntry{Target: t, Condition: Pending, Steps: []StepReport{
				{Kind: deviceplugin.Kind, Target: t, From: drivers.State(now.String()), To: deviceplugin.Absent},
			}})
		}
	}
	for _, b := range a.view.rest() {
		e := OrderEntry{Target: b.Key.Target, Condition: Released, Steps: []StepReport{}}
		if now := a.view.observer().Observe(ctx, b.Key); !now.Is(b.State) {
			e.Condition = Pending
			e.Steps = append(e.Steps, StepReport{Kind: b.Key.Kind, Target: b.Key.Target, From: drivers.State(now.String()), To: b.State})
		}
		entries = append(entries, e)
	}
	return entries
}

// orderRest keeps that everything is to be given back, with what the functions
// needed: a function that has to wait takes that along when its turn has come.
func (a *Agent) orderRest(ctx context.Context, o Order) error {
	if !o.All || len(a.view.rest()) == 0 {
		return nil
	}
	if c, ok := a.c.Journal.Control(orderRest, ""); ok && o.stands(&c) {
		return nil
	}
	return a.c.Journal.SetControl(ctx, journal.Control{Action: orderRest, Who: o.Who, Why: o.Why, Facts: o.facts()})
}

// endRest ends that order.
func (a *Agent) endRest(ctx context.Context, why string) {
	if _, ok := a.c.Journal.Control(orderRest, ""); !ok {
		return
	}
	_, err := a.c.Journal.ClearControl(ctx, orderRest, "")
	level.Info(a.logger).Log("why", why, "err", err, "msg", "order to give back modules is over")
}

// restTarget is what a worker is on that gives back the rest.
const restTarget drivers.Target = orderRest

// claimRest keeps others from giving back the rest until the returned func is
// called.
func (a *Agent) claimRest() (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy[restTarget] {
		return func() {}
	}
	a.busy[restTarget] = true
	return func() { a.free([]drivers.Target{restTarget}) }
}

// followRest gives back the rest once the last function is back.
func (a *Agent) followRest(ctx context.Context, requests []request) {
	c, ok := a.c.Journal.Control(orderRest, "")
	if !ok || a.readOnly() || slices.ContainsFunc(requests, func(r request) bool {
		return r.pool == "" && r.target != "" && !(r.released() && r.letGo())
	}) {
		return
	}
	a.employ(ctx, []drivers.Target{restTarget}, false, func() { a.returnRest(ctx, c.Why) })
}

// returnRest gives back the modules and parameters, once no function needs
// them. A module that something else uses by now is left to it.
func (a *Agent) returnRest(ctx context.Context, why string) (entries []OrderEntry) {
	if c, ok := a.view.paused(); ok {
		return []OrderEntry{{Condition: Paused, Reason: pausedText(c), Steps: []StepReport{}}}
	}
	entries = a.returnPools(ctx, func(request) bool { return true })
	select {
	case a.modules <- struct{}{}:
		defer func() { <-a.modules }()
	case <-ctx.Done():
		return entries
	}
	left := a.view.rest()
	for progress := true; progress; {
		progress = false
		// A module is free once those that use it are gone: again, until none is.
		left = slices.DeleteFunc(left, func(b journal.Baseline) bool {
			if a.usersOf(ctx, b.Key) != "" {
				return false
			}
			entries, progress = append(entries, a.returnOne(ctx, b, why)), true
			return true
		})
	}
	for _, b := range left {
		entries = append(entries, OrderEntry{
			Target: b.Key.Target, Condition: Released, Steps: []StepReport{},
			Reason: "left loaded: " + a.usersOf(ctx, b.Key),
		})
	}
	if !slices.ContainsFunc(entries, func(e OrderEntry) bool { return e.Condition != Released }) {
		a.endRest(ctx, "all is given back")
	}
	return entries
}

// givenBackWhole says that all functions of a pool are given back.
func givenBackWhole(r request) bool {
	return len(r.members) > 0 && !slices.ContainsFunc(r.members, func(m request) bool { return !m.released() })
}

// returnPools withdraws the pools, of which no function is left.
func (a *Agent) returnPools(ctx context.Context, which func(request) bool) (entries []OrderEntry) {
	for _, r := range a.current(ctx) {
		if r.pool == "" || !slices.Contains(a.view.ownPools(), r.target) || !which(r) {
			continue
		}
		if r.err == nil {
			a.beside(r.target, func() { a.settlePool(ctx, r) })
		}
		e := OrderEntry{Target: r.target, Condition: Released, Steps: []StepReport{}}
		if slices.Contains(a.view.ownPools(), r.target) {
			e.Condition, e.Reason = Pending, fmt.Sprintf("it is %s", a.view.observer().Observe(ctx, poolKey(r.target)))
			if r.err != nil {
				e.Reason = r.err.Error()
			}
		}
		entries = append(entries, e)
	}
	return entries
}

// usersOf says who uses a module that is loaded; "" when nobody does.
func (a *Agent) usersOf(ctx context.Context, k drivers.Key) string {
	name, ok := k.Target.ModuleName()
	if !ok || !a.view.observer().Observe(ctx, k).Is(module.Loaded) {
		return ""
	}
	n, err := a.c.Host.Read(ctx, host.SysModule+name+"/refcnt")
	switch {
	case err != nil:
		return "the kernel does not say whether it is in use, so it cannot be unloaded"
	case n != "0":
		return fmt.Sprintf("it has %s users", n)
	}
	return ""
}

func (a *Agent) returnOne(ctx context.Context, b journal.Baseline, why string) OrderEntry {
	e := OrderEntry{Target: b.Key.Target, Condition: Released, Steps: []StepReport{}}
	now := a.view.observer().Observe(ctx, b.Key)
	if !now.Is(b.State) {
		if now.Presence != drivers.Present {
			e.Condition, e.Reason = Pending, fmt.Sprintf("%s is %s", b.Key, now)
			return e
		}
		e.result(a.engine.Run(ctx, draftOf(b.Key, now.State, b.State), journal.Reason{Source: ReleaseSource, Object: why}))
	}
	if e.Condition == Released {
		_, err := a.c.Journal.DropBaselines(ctx, func(d journal.Baseline) bool { return d.Key == b.Key })
		level.Info(a.logger).Log("target", b.Key.Target, "err", err, "msg", "given back")
	}
	return e
}
