package guard_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"eniagent/agent/guard"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/link"
)

// childless is a kernel that does not tell of other network namespaces.
type childless struct {
	*sim.Kernel
	err error
}

func (c childless) Children(context.Context) ([]host.Child, error) { return nil, c.err }

// vfless is one that does not tell of VFs.
type vfless struct{ *sim.Kernel }

func (v vfless) List(ctx context.Context, path string) ([]string, error) {
	names, err := v.Kernel.List(ctx, path)
	var kept []string
	for _, n := range names {
		if !strings.HasPrefix(n, "virtfn") {
			kept = append(kept, n)
		}
	}
	return kept, err
}

// cut is a change that cuts what is above a function.
type cut struct {
	kind     drivers.Kind
	from, to drivers.State
}

func (c cut) ask(t *testing.T, g *guard.Guard, address string) error {
	t.Helper()
	key := drivers.Key{Kind: c.kind, Target: drivers.Target(address)}
	goal := g.MayDrive(t.Context(), plan.Observed{key: drivers.Seen(c.from)}, plan.Goal{key: c.to})
	step := g.MayStep(t.Context(), drivers.Step{Key: key, From: c.from, To: c.to})
	if (goal == nil) != (step == nil) {
		t.Errorf("of a goal: %v, of a step: %v", goal, step)
	}
	return step
}

func guardOf(h host.Host, allocated map[drivers.Target]string) *guard.Guard {
	return guard.New(guard.Options{
		Host: h, Specs: all.New(h).Specs,
		Allocated: func(context.Context, time.Time) (map[drivers.Target]string, error) { return allocated, nil },
	})
}

func held(err error, want string) bool {
	var r *guard.Refusal
	return errors.As(err, &r) && r.Rule == guard.InUse && errors.Is(err, drivers.ErrHeld) && strings.Contains(err.Error(), want)
}

// TestAChildInAnotherNamespaceHoldsItsParent: whatever takes the parent away, its
// link or its MTU; a child of this namespace, and a larger MTU, hold nothing.
func TestAChildInAnotherNamespaceHoldsItsParent(t *testing.T) {
	cuts := map[string]cut{
		"unbind":        {dpdk.KindDriver, dpdk.Bound("igb"), dpdk.Binding{}.State()},
		"down":          {link.KindAdmin, link.Up, link.Down},
		"a smaller MTU": {link.KindMTU, link.MTU(9000), link.MTU(1500)},
	}
	children := map[string][]sim.Netdev{
		"macvlan":           {{Name: "net1", Kind: "macvlan", Lower: nicA, Netns: "nginx (pid 17)"}},
		"ipvlan":            {{Name: "net1", Kind: "ipvlan", Lower: nicA, Netns: "nginx (pid 17)"}},
		"vlan":              {{Name: "net1", Kind: "vlan", Lower: nicA, Netns: "nginx (pid 17)"}},
		"macvlan on a VLAN": {{Name: "enp2s0.5", Kind: "vlan", Lower: nicA}, {Name: "net1", Kind: "macvlan", Lower: "enp2s0.5", Netns: "nginx (pid 17)"}},
	}
	for child, links := range children {
		for name, c := range cuts {
			t.Run(child+", "+name, func(t *testing.T) {
				c.underAChild(t, links)
			})
		}
	}
}

// use is how a VF is used.
type use struct {
	links     []sim.Netdev
	allocated map[drivers.Target]string
	program   bool
	want      string
}

// TestAVFInUseHoldsItsPF, whoever uses it.
func TestAVFInUseHoldsItsPF(t *testing.T) {
	cuts := map[string]cut{
		"unbind":        {dpdk.KindDriver, dpdk.Bound("igb"), dpdk.Binding{}.State()},
		"down":          {link.KindAdmin, link.Up, link.Down},
		"a smaller MTU": {link.KindMTU, link.MTU(9000), link.MTU(1500)},
		"rings":         {link.KindRings, "rx 256 tx 256", "rx 512 tx 512"},
	}
	uses := map[string]use{
		"a program":                   {program: true, want: "is held by"},
		"a pod that has not started":  {allocated: map[drivers.Target]string{vf: "pod media/encoder-0"}, want: "allocated to pod media/encoder-0"},
		"a pod that has its netdev":   {links: []sim.Netdev{{Name: "enp1s0v0", Netns: "nginx"}}, want: "shows no netdev here"},
		"a pod with a macvlan on top": {links: []sim.Netdev{{Name: "net1", Kind: "macvlan", Lower: "enp1s0v0", Netns: "nginx"}}, want: "sits on enp1s0v0"},
	}
	for who, use := range uses {
		for name, c := range cuts {
			t.Run(who+", "+name, func(t *testing.T) {
				c.underUse(t, use)
			})
		}
	}
}

// underUse asks about a PF one of whose VFs is in use.
func (c cut) underUse(t *testing.T, u use) {
	t.Helper()
	r := newRig(t, sim.DefaultNode())
	k := r.kernel
	for _, l := range u.links {
		if err := k.AddLink(l); err != nil {
			t.Fatal(err)
		}
	}
	if u.program {
		r.bindFrom(vf, "igbvf")
		t.Cleanup(k.Hold(vf))
	}
	if err := c.ask(t, guardOf(k, u.allocated), pf); !held(err, u.want) || !strings.Contains(err.Error(), vf) || !strings.HasPrefix(err.Error(), pf) {
		t.Errorf("not held: %v", err)
	}
	if err := larger().ask(t, guardOf(k, u.allocated), pf); err != nil {
		t.Errorf("a larger MTU: %v", err)
	}
	if err := c.ask(t, guardOf(vfless{k}, u.allocated), pf); err != nil {
		t.Errorf("the broken variant is not caught: %v", err)
	}
}

func larger() cut { return cut{link.KindMTU, link.MTU(1500), link.MTU(9000)} }

// underAChild asks about portA, which those netdevs are on.
func (c cut) underAChild(t *testing.T, links []sim.Netdev) {
	t.Helper()
	config := sim.DefaultNode()
	config.Links = append(config.Links, links...)
	k := sim.New(config)
	if err := c.ask(t, guardOf(k, nil), portA); !held(err, "net1 in the network namespace of nginx (pid 17) sits on enp2s0") {
		t.Errorf("not held: %v", err)
	}
	if err := c.ask(t, guardOf(k, nil), portB); err != nil {
		t.Errorf("the other NIC: %v", err)
	}
	if err := larger().ask(t, guardOf(k, nil), portA); err != nil {
		t.Errorf("a larger MTU: %v", err)
	}
	if err := c.ask(t, guardOf(childless{Kernel: k}, nil), portA); err != nil {
		t.Errorf("the broken variant is not caught: %v", err)
	}
	if err := c.ask(t, guardOf(childless{k, syscall.EPERM}, nil), portA); !held(err, "cannot be asked") {
		t.Errorf("where it cannot be asked: %v", err)
	}
}
