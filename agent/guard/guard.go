package guard

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
)

// Rule names what forbids a write.
type Rule string

// The rules.
const (
	Management Rule = "management-path"
	NoDefault  Rule = "no-default-route"
	InUse      Rule = "in-use"
	Group      Rule = "iommu-group"
)

// Rules are all of them, for metrics.
func Rules() []Rule { return []Rule{Management, NoDefault, InUse, Group} }

// Refusal is why a write may not be made, and what can be done.
type Refusal struct {
	Rule   Rule
	Target drivers.Target
	Why    string
	Remedy string
}

// Error is "0000:00:05.0: refused by management-path: ... (...)".
func (r *Refusal) Error() string {
	return fmt.Sprintf("%s: refused by %s: %s (%s)", r.Target, r.Rule, r.Why, r.Remedy)
}

// Unwrap is drivers.ErrRefused, with drivers.ErrHeld where it passes by itself
// and drivers.ErrBarred where it does not.
func (r *Refusal) Unwrap() []error {
	if r.Rule == Group {
		return []error{drivers.ErrRefused, drivers.ErrBarred}
	}
	if r.Rule == InUse || r.Rule == NoDefault {
		return []error{drivers.ErrRefused, drivers.ErrHeld}
	}
	return []error{drivers.ErrRefused}
}

// Options are what a Guard works with.
type Options struct {
	Host  host.Host
	Specs drivers.Specs
	// Own are the node's own addresses, and Reach those that must stay
	// reachable, such as the API server's.
	Own, Reach []string
	// WithoutDefault allows taking netdevs away while there is no default route.
	WithoutDefault bool
	// Remembered are targets once seen on the management path, and why; a
	// target's netdev may be gone, or its routes not be there yet.
	Remembered func() map[drivers.Target]string
	// Opened says that a target came to the management path by what the agent did
	// to it, and Baseline what a state was before that; both may be nil.
	Opened   func(drivers.Target) bool
	Baseline func(drivers.Key) (drivers.State, bool)
	// Allowed is the reason given for touching a target of the management path;
	// "" when none is.
	Allowed func(drivers.Target) string
	// Wanted says whether desired state gives the function to vfio-pci too.
	Wanted func(drivers.Target) bool
	// Allocated are the functions that are allocated to pods, and to which, by
	// an answer no older than since; nil where there is no kubelet.
	Allocated func(ctx context.Context, since time.Time) (map[drivers.Target]string, error)
	// Restores says that the function was given to a program by an earlier boot
	// and has not been touched in this one: what the pod was allocated is what
	// the write brings back. May be nil.
	Restores func(drivers.Target) bool
	Registry prometheus.Registerer // may be nil
}

// Guard is the engine's guard.
type Guard struct {
	o        Options
	refusals *prometheus.CounterVec
}

// New makes a Guard.
func New(o Options) *Guard {
	g := &Guard{o: o, refusals: promauto.With(o.Registry).NewCounterVec(prometheus.CounterOpts{
		Name: "eniagent_refusals_total", Help: "Writes that a rule refused, by rule.",
	}, []string{"rule"})}
	for _, r := range Rules() {
		g.refusals.WithLabelValues(string(r))
	}
	return g
}

func (g *Guard) refuse(rule Rule, t drivers.Target, remedy, why string, args ...any) error {
	g.refusals.WithLabelValues(string(rule)).Inc()
	return &Refusal{Rule: rule, Target: t, Why: fmt.Sprintf(why, args...), Remedy: remedy}
}

// lately is how old the kubelet's answer may be where a goal is judged: one
// serves the functions of a pass. Before a step it may not be old at all.
const lately = 250 * time.Millisecond

// MayDrive asks all rules about a goal.
func (g *Guard) MayDrive(ctx context.Context, observed plan.Observed, goal plan.Goal) error {
	for _, key := range slices.SortedFunc(maps.Keys(goal), drivers.Key.Compare) {
		from, to := observed[key].State, goal[key]
		spec, ok := g.o.Specs.Find(key.Kind)
		if !ok || from == to || to == drivers.Hidden {
			continue
		}
		if from != drivers.Hidden { // a VF that is still to be made has no group yet
			if err := g.group(ctx, key, to, goal, time.Now().Add(-lately)); err != nil {
				return err
			}
		}
		if err := g.isolates(ctx, spec, key, to, goal); err != nil {
			return err
		}
		if err := g.ofAPod(ctx, spec, key.Target, from, time.Now().Add(-lately)); err != nil {
			return err
		}
		if spec.Cuts == nil || !spec.Cuts(from, to) {
			continue
		}
		if err := g.mayCut(ctx, spec, key, from, to, time.Now().Add(-lately)); err != nil {
			return err
		}
	}
	return g.mayRenew(ctx, observed, goal)
}

// mayCut asks the rules about a write that cuts the function, and with it those
// that it makes.
func (g *Guard) mayCut(ctx context.Context, spec drivers.Spec, key drivers.Key, from, to drivers.State, since time.Time) error {
	back := g.givesBack(spec, key, from, to)
	if err := g.path(ctx, spec, key, from, back); err != nil {
		return err
	}
	if spec.Makes != nil {
		return g.mayUnmake(ctx, key.Target, spec.Makes(from), back, since)
	}
	if err := g.inUse(ctx, spec, key.Target, from, since); err != nil {
		return err
	}
	return g.above(ctx, spec, key, from, to, since)
}

// mayUnmake asks the rules about functions that go with what makes them.
func (g *Guard) mayUnmake(ctx context.Context, maker drivers.Target, made []drivers.Target, back bool, since time.Time) error {
	driver, _ := g.o.Specs.Find(dpdk.KindDriver)
	for _, t := range made {
		name, err := host.DriverOf(ctx, g.o.Host, string(t))
		if err != nil {
			return err
		}
		if name == "" {
			continue
		}
		bound := dpdk.Bound(name)
		if !g.allowed(maker) {
			if err := g.path(ctx, driver, drivers.Key{Kind: driver.Kind, Target: t}, bound, back); err != nil {
				return err
			}
		}
		if err := g.inUse(ctx, driver, t, bound, since); err != nil {
			return err
		}
	}
	return nil
}

// MayStep asks once more, directly before a write that cuts: whatever was true
// when the goal was set may have changed.
func (g *Guard) MayStep(ctx context.Context, s drivers.Step) error {
	spec, ok := g.o.Specs.Find(s.Key.Kind)
	if !ok {
		return nil
	}
	if err := g.group(ctx, s.Key, s.To, nil, time.Now()); err != nil {
		return err
	}
	if err := g.ofAPod(ctx, spec, s.Key.Target, s.From, time.Now()); err != nil {
		return err
	}
	if spec.Cuts == nil || !spec.Cuts(s.From, s.To) {
		return nil
	}
	return g.mayCut(ctx, spec, s.Key, s.From, s.To, time.Now())
}

// givesBack says that a change leads to what was there before the agent's own.
func (g *Guard) givesBack(spec drivers.Spec, key drivers.Key, from, to drivers.State) bool {
	if g.o.Baseline == nil {
		return false
	}
	before, ok := g.o.Baseline(key)
	return ok && (before == to || slices.Contains(spec.Hops(from, before), to))
}

func (g *Guard) allowed(t drivers.Target) bool { return g.o.Allowed != nil && g.o.Allowed(t) != "" }

// Allowing is the guard with a reason for the management path that is not kept
// anywhere yet.
func (g *Guard) Allowing(reason func(drivers.Target) string) *Guard {
	also := *g
	also.o.Allowed = func(t drivers.Target) string {
		if r := reason(t); r != "" || g.o.Allowed == nil {
			return r
		}
		return g.o.Allowed(t)
	}
	return &also
}

// wayOut is what can be done about a function of the management path.
func wayOut(t drivers.Target) string {
	return fmt.Sprintf("set allowManagementPath with a reason on its entry, if you mean it; to give it back: agent release %s --allow-management-path REASON", t)
}

// path is the rules of the management path, for a function that has a netdev.
// What only leads there since the agent opened it may be given back.
func (g *Guard) path(ctx context.Context, spec drivers.Spec, key drivers.Key, from drivers.State, back bool) error {
	if spec.Hides != nil && spec.Hides(from) || g.allowed(key.Target) {
		return nil
	}
	network, err := g.o.Host.Network(ctx, g.o.Reach)
	if err != nil {
		return fmt.Errorf("read the management path: %w", err)
	}
	c, protected := g.Protected(ctx, network)[key.Target]
	own := back && !c.Must && g.o.Opened != nil && g.o.Opened(key.Target)
	if protected && !own {
		return g.refuse(Management, key.Target, wayOut(key.Target), "%s", c)
	}
	if g.o.Remembered != nil && !own {
		if why, ok := g.o.Remembered()[key.Target]; ok {
			return g.refuse(Management, key.Target, wayOut(key.Target), "it has carried %s", why)
		}
	}
	if len(network.Defaults) == 0 && !g.o.WithoutDefault && spec.Hides != nil {
		return g.refuse(NoDefault, key.Target, "it goes on by itself once there is one; --allow-without-default-route on a node that has none",
			"the node has no default route yet, so its management path cannot be told")
	}
	return nil
}
