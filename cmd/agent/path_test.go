package main

import (
	"slices"
	"testing"

	"eniagent/agent"
	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host/sim"
)

// TestCommandsKnowThePath: what does the work of an agent without one is told
// the management path in the words of agent run.
func TestCommandsKnowThePath(t *testing.T) {
	for _, name := range []string{"run", "release", "resolve", "recover"} {
		c := &cli{options: agent.DefaultOptions()}
		cmd, _, err := c.root().Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		err = cmd.ParseFlags([]string{"--node-address", "10.0.0.9", "--keep-reachable", "10.9.9.9", "--allow-without-default-route"})
		if err != nil {
			t.Errorf("agent %s: %v", name, err)
		}
		o := c.options
		if !slices.Equal(o.NodeAddresses, []string{"10.0.0.9"}) || !slices.Equal(o.KeepReachable, []string{"10.9.9.9"}) || !o.WithoutDefault {
			t.Errorf("agent %s takes the flags for %v, %v, %t", name, o.NodeAddresses, o.KeepReachable, o.WithoutDefault)
		}
	}
}

// TestViewWithoutAnAgentKnowsThePath: a dry run refuses what the run would.
func TestViewWithoutAnAgentKnowsThePath(t *testing.T) {
	const port = "0000:02:00.0"
	node := sim.DefaultNode()
	for _, d := range node.Devices {
		if d.Address == port {
			d.Net.Addresses = []string{"10.0.0.9"}
		}
	}
	k := sim.New(node)
	key := drivers.Key{Kind: dpdk.KindDriver, Target: port}
	for _, own := range [][]string{nil, {"10.0.0.9"}} {
		c := &cli{options: agent.Options{NodeAddresses: own}}
		empty, err := agent.NoJournal(t.Context(), "boot")
		if err != nil {
			t.Fatal(err)
		}
		defer empty.Abandon()
		v, err := c.view(t.Context(), k, empty.Records)
		if err != nil {
			t.Fatal(err)
		}
		err = v.Guard.MayDrive(t.Context(), plan.Observed{key: drivers.Seen(dpdk.Bound("igb"))}, plan.Goal{key: dpdk.Bound("uio_pci_generic")})
		if refused := err != nil; refused != (own != nil) {
			t.Errorf("with --node-address %v: %v", own, err)
		}
	}
}
