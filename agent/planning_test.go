package agent

import (
	"context"
	"encoding/json"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"eniagent/agent/guard"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/module"
	"eniagent/journal"
)

// prevented are lives of a node after which something asked for is not done, and
// what is asked then.
func prevented() map[string]func(*node) []source.Interface {
	pooled := func(driver string) []source.Interface {
		return []source.Interface{inPool(pci(portA, driver), poolX), inPool(pci(portB, driver), poolX)}
	}
	return map[string]func(*node) []source.Interface{
		"a pause": func(n *node) []source.Interface {
			n.ask(pooled("vfio-pci")...)
			n.order(Order{Targets: []string{portA}, Why: "bench"}, n.agent.Pause)
			return append(pooled("uio_pci_generic")[:1], inPool(pci(portB, "uio_pci_generic"), poolX))
		},
		"a pause of what is as asked": func(n *node) []source.Interface {
			n.ask(pooled("vfio-pci")...)
			n.order(Order{Targets: []string{portA}, Why: "bench"}, n.agent.Pause)
			return pooled("vfio-pci")
		},
		"a pause of the node": func(n *node) []source.Interface {
			n.ask(pooled("vfio-pci")...)
			n.order(Order{Why: "bench"}, n.agent.Pause)
			return pooled("uio_pci_generic")
		},
		"a pause of a VF": func(n *node) []source.Interface {
			n.ask(vfs(2, source.VF{}))
			n.order(Order{Targets: []string{vf0}, Why: "bench"}, n.agent.Pause)
			return []source.Interface{vfs(3, source.VF{})}
		},
		"a program": func(n *node) []source.Interface {
			n.ask(pooled("vfio-pci")...)
			n.t.Cleanup(n.kernel.Hold(portA))
			return pooled("uio_pci_generic")
		},
		"a quarantine": func(n *node) []source.Interface {
			n.ask(pci(portA, "vfio-pci"))
			n.quarantined()
			n.ask(pci(portA, "igb"))
			return []source.Interface{pci(portA, "igb"), pci(portB, "vfio-pci")}
		},
		"a guard": func(*node) []source.Interface {
			return []source.Interface{pci(manager, "vfio-pci"), pci(portB, "vfio-pci")}
		},
		"a goal that was given up": func(n *node) []source.Interface {
			if err := n.kernel.Inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL, Times: -1}); err != nil {
				n.t.Fatal(err)
			}
			n.ask(pci(portA, "vfio-pci"))
			settled(30 * time.Minute)
			n.expect("pci 0000:02:00.0=failed")
			return []source.Interface{pci(portA, "vfio-pci"), pci(portB, "uio_pci_generic")}
		},
		"nothing, as a reason is given": func(*node) []source.Interface {
			i := pci(manager, "vfio-pci")
			i.AllowManagementPath = "there is a console"
			return []source.Interface{i}
		},
		"drift that keeps coming back": func(n *node) []source.Interface {
			n.ask(pci(portA, "vfio-pci"))
			for range maxRepairs + 1 {
				n.unbind(portA)
				settled(2 * time.Second)
			}
			return []source.Interface{pci(portA, "vfio-pci")}
		},
	}
}

func (n *node) ask(interfaces ...source.Interface) {
	n.want(interfaces...)
	settled(5 * time.Second)
}

func (n *node) order(o Order, give func(context.Context, Order) (OrderReport, error)) {
	n.t.Helper()
	o.Who = "root"
	if _, err := give(n.t.Context(), o); err != nil {
		n.t.Fatal(err)
	}
}

// TestPlanSaysWhatRunDoes: a plan has the targets that are then written, and
// none that something prevents.
func TestPlanSaysWhatRunDoes(t *testing.T) {
	for name, life := range prevented() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				planAndRun(t, life, func(n *node, d source.Desired) PlanReport {
					if name == "drift that keeps coming back" {
						return n.agent.Plan(t.Context()) // of which only the agent knows
					}
					return n.agent.view.PlanFor(t.Context(), d)
				})
			})
		})
	}
}

// TestBrokenPlansAreCaught: the test above notices a plan that leaves out a part of
// what prevents something.
func TestBrokenPlansAreCaught(t *testing.T) {
	for _, v := range []struct {
		name   string
		lives  []string
		breaks func(*testing.T, *View)
	}{
		{"the journal", []string{"a pause", "a pause of the node", "a quarantine", "a goal that was given up"}, func(t *testing.T, v *View) {
			j, err := NoJournal(t.Context(), v.BootID)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = j.Close() })
			v.Records = j.Records
		}},
		{"the guard", []string{"a guard", "a program"}, func(_ *testing.T, v *View) { v.Guard = nil }},
	} {
		for _, name := range v.lives {
			t.Run(v.name+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					notices(t, "planned (-) and written (+)", func(tb testing.TB) {
						planAndRun(tb, prevented()[name], func(n *node, d source.Desired) PlanReport {
							view := n.agent.view
							v.breaks(t, &view)
							return view.PlanFor(t.Context(), d)
						})
					})
				})
			})
		}
	}
}

// planAndRun holds a plan against what is then written.
func planAndRun(t testing.TB, life func(*node) []source.Interface, planOf func(*node, source.Desired) PlanReport) {
	t.Helper()
	n := newNode(t, sim.DefaultNode())
	n.start(withPlugin)
	asked := life(n)
	planned := planOf(n, source.Desired{Source: "file", Object: "/x.yaml", Interfaces: asked})
	want, written := targetsOfPlan(planned), n.writtenFor(asked...)
	if diff := cmp.Diff(want, written); diff != "" {
		t.Errorf("planned (-) and written (+):\n%s\n%+v\n%s", diff, planned.Entries, n.log)
	}
	n.halt()
}

func targetsOfPlan(p PlanReport) map[drivers.Target]bool {
	targets := map[drivers.Target]bool{}
	for _, e := range p.Entries {
		for _, s := range e.Steps {
			targets[s.Target] = true
		}
	}
	return targets
}

// writtenFor are the targets that are written once something is asked.
func (n *node) writtenFor(asked ...source.Interface) map[drivers.Target]bool {
	targets := map[drivers.Target]bool{}
	note := serially(func(target string) { targets[drivers.Target(target)] = true })
	n.kernel.Hook = func(p sim.Point) {
		if p.When == sim.Before {
			note(string(p.Call.Target))
		}
	}
	n.want(asked...)
	settled(20 * time.Second)
	n.kernel.Hook = nil
	return targets
}

// TestAPlanIsTheSameWithAndWithoutAnAgent that runs.
func TestAPlanIsTheSameWithAndWithoutAnAgent(t *testing.T) {
	for name, life := range prevented() {
		if name == "drift that keeps coming back" {
			continue // the agent's own memory: the next one repairs it
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, sim.DefaultNode())
				n.start(withPlugin)
				d := source.Desired{Source: "file", Object: "/x.yaml", Generation: "g", Interfaces: life(n)}
				through := n.agent.view.PlanFor(t.Context(), d)
				n.halt()
				offline := n.offline().PlanFor(t.Context(), d)
				if diff := cmp.Diff(lines(t, through), lines(t, offline)); diff != "" {
					t.Errorf("through the agent (-) and without one (+):\n%s", diff)
				}
			})
		})
	}
}

// offline is the view of a command while no agent runs.
func (n *node) offline() View {
	n.t.Helper()
	bootID, err := host.BootID(n.t.Context(), n.kernel)
	if err != nil {
		n.t.Fatal(err)
	}
	j, err := journal.OpenMemory(n.t.Context(), n.store.Clone(), journal.Options{BootID: bootID, MachineID: "m"})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = j.Close() })
	v := View{
		Records: j.Records, Drivers: all.New(n.kernel), Host: n.kernel, BootID: bootID, MachineID: "m",
		MaxAttempts: DefaultMaxAttempts, PluginFile: pluginFile, Rules: guard.Options{},
	}
	v.Guard = v.NewGuard(v.Rules)
	return v
}

func lines(t *testing.T, p PlanReport) []string {
	t.Helper()
	var all []string
	for _, e := range p.Entries {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
	}
	return all
}

// TestPlanCountsEachModuleOnce, with the first entry that is not prevented.
func TestPlanCountsEachModuleOnce(t *testing.T) {
	n := newNode(t, sim.DefaultNode())
	v := n.offline()
	asked := func(i ...source.Interface) []StepReport {
		var steps []StepReport
		for _, e := range v.PlanFor(t.Context(), source.Desired{Source: "file", Interfaces: i}).Entries {
			steps = append(steps, slices.DeleteFunc(e.Steps, func(s StepReport) bool { return s.Kind != module.Kind })...)
		}
		return steps
	}
	alone := asked(pci(portA, "vfio-pci"))
	if len(alone) == 0 {
		t.Fatal("one function needs no module")
	}
	for name, entries := range map[string][]source.Interface{
		"two functions":               {pci(portA, "vfio-pci"), pci(portB, "vfio-pci")},
		"the first is refused":        {pci(manager, "vfio-pci"), pci(portB, "vfio-pci")},
		"the first is not there":      {pci("0000:77:00.0", "vfio-pci"), pci(portB, "vfio-pci")},
		"the first is asked twice":    {pci(portA, "vfio-pci"), pci(portA, "igb"), pci(portB, "vfio-pci")},
		"VFs that are still to be":    {vfs(2, source.VF{Driver: "vfio-pci"}), pci(portB, "vfio-pci")},
		"VFs behind another function": {pci(portB, "vfio-pci"), vfs(2, source.VF{Driver: "vfio-pci"})},
	} {
		if got := asked(entries...); !cmp.Equal(got, alone) {
			t.Errorf("%s: %v, want %v", name, got, alone)
		}
	}
}
