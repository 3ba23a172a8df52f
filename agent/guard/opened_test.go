package guard_test

import (
	"testing"

	"eniagent/agent/guard"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/link"
)

// TestOnlyWhatTheAgentOpenedIsGivenBack: each condition for it is left out once,
// and a guard without it would let the NIC go down.
func TestOnlyWhatTheAgentOpenedIsGivenBack(t *testing.T) {
	type world struct {
		opened     bool
		before     drivers.State
		only       bool // there is no other default route
		remembered bool
		reach      bool
	}
	given := world{opened: true, before: link.Down}
	for name, tc := range map[string]struct {
		change func(*world)
		free   bool
	}{
		"opened by the agent, and given back": {func(*world) {}, true},
		"remembered, too":                     {func(w *world) { w.remembered = true }, true},
		"opened by others":                    {func(w *world) { w.opened = false }, false},
		"not given back":                      {func(w *world) { w.before = link.Up }, false},
		"no baseline":                         {func(w *world) { w.before = "" }, false},
		"the only default route":              {func(w *world) { w.only = true }, false},
		"the way to what must stay reachable": {func(w *world) { w.reach = true }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := given
			tc.change(&w)
			c := sim.DefaultNode()
			c.Devices[1].Net.Defaults = nil
			if !w.only {
				c.Devices[1].Net.Defaults = []host.Default{{Family: "IPv4", Table: 254}}
			}
			c.Links = append(c.Links, sim.Netdev{Name: "enp2s0.5", Kind: "vlan", Lower: nicA, Up: true, Defaults: []host.Default{{Family: "IPv6", Table: 254}}})
			k := sim.New(c)
			o := guard.Options{
				Host: k, Specs: all.New(k).Specs,
				Opened:     func(t drivers.Target) bool { return w.opened && t == portA },
				Baseline:   func(drivers.Key) (drivers.State, bool) { return w.before, w.before != "" },
				Remembered: func() map[drivers.Target]string { return nil },
			}
			if w.remembered {
				o.Remembered = func() map[drivers.Target]string { return map[drivers.Target]string{portA: "a default route"} }
			}
			if w.reach {
				o.Reach = []string{"2001:db8::1"}
			}
			err := cut{link.KindAdmin, link.Up, link.Down}.ask(t, guard.New(o), portA)
			if (err == nil) != tc.free {
				t.Errorf("free: %t, want %t: %v", err == nil, tc.free, err)
			}
		})
	}
}
