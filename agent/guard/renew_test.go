package guard_test

import (
	"errors"
	"strings"
	"testing"

	"eniagent/agent/guard"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/host/sim"
)

// TestANetdevIsMadeAnewWhereNobodyUsesIt: a VF is bound anew for its MAC only
// while its netdev has no address of the host's and carries nothing.
func TestANetdevIsMadeAnewWhereNobodyUsesIt(t *testing.T) {
	const vf drivers.Target = "0000:01:10.0"
	key := func(k drivers.Kind) drivers.Key { return drivers.Key{Kind: k, Target: vf} }
	const igbvf, mac = drivers.State("driver=igbvf override=-"), drivers.State("52:54:00:00:01:00")
	observed := plan.Observed{key("driver"): drivers.Seen(igbvf), key("vf.mac"): drivers.Seen("00:00:00:00:00:00")}
	goal := plan.Goal{key("driver"): igbvf, key("vf.mac"): mac}
	for name, tc := range map[string]struct {
		node func(c *sim.Config)
		goal plan.Goal
		says string
	}{
		"unused":        {func(*sim.Config) {}, goal, ""},
		"an address":    {func(c *sim.Config) { netOf(c, vf).Addresses = []string{"192.0.2.7"} }, goal, "enp1s0v0 has the address 192.0.2.7"},
		"of IPv6's own": {func(c *sim.Config) { netOf(c, vf).Addresses = []string{"fe80::1"} }, goal, ""},
		"a VLAN": {func(c *sim.Config) {
			c.Links = append(c.Links, sim.Netdev{Name: "lan", Kind: "vlan", Lower: "enp1s0v0"})
		}, goal, "enp1s0v0 carries lan"},
		"used, and no probe": {func(c *sim.Config) { netOf(c, vf).Addresses = []string{"192.0.2.7"} }, plan.Goal{key("driver"): igbvf}, ""},
	} {
		c := sim.DefaultNode()
		tc.node(&c)
		err := guard.New(guard.Options{Host: sim.New(c), Specs: all.Specs()}).MayDrive(t.Context(), observed, tc.goal)
		if tc.says == "" && err != nil || tc.says != "" && (!errors.Is(err, drivers.ErrHeld) || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
}

func netOf(c *sim.Config, t drivers.Target) *sim.Netdev {
	for i := range c.Devices {
		if c.Devices[i].Address == string(t) {
			return c.Devices[i].Net
		}
	}
	return nil
}
