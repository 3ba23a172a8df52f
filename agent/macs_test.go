package agent

import (
	"slices"
	"strings"
	"testing"

	"eniagent/agent/plan"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/sriov"
)

const (
	ourMAC   = "02:00:00:00:00:01"
	theirMAC = "02:00:00:00:00:02"
)

// asking are requests of VFs of one physical function for MACs; "" asks for none.
func asking(macs ...string) []request {
	var requests []request
	for i, mac := range macs {
		t := []drivers.Target{"0000:01:10.0", "0000:01:10.2", "0000:01:10.4"}[i]
		r := request{
			target: t, entry: "pci " + string(t), goal: plan.Goal{}, identity: drivers.Identity{PF: "0000:01:00.0"},
			asked: entry{Interface: source.Interface{Object: "object-" + string(t[len(t)-1])}},
		}
		if mac != "" {
			r.asked.Port = &source.Port{MAC: mac}
			r.goal[drivers.Key{Kind: sriov.KindMAC, Target: t}] = drivers.State(mac)
		}
		requests = append(requests, r)
	}
	return requests
}

// TestAMACIsAskedForOnce: by entries that know nothing of each other, as of two
// objects, and of none of the node's NICs.
func TestAMACIsAskedForOnce(t *testing.T) {
	v := View{Host: sim.New(sim.DefaultNode())}
	for name, tc := range map[string]struct {
		asked []string
		says  []string // of each; "" is that it may be
	}{
		"each its own": {[]string{ourMAC, theirMAC}, []string{"", ""}},
		"one asks":     {[]string{ourMAC, ""}, []string{"", ""}},
		"both ask": {[]string{ourMAC, ourMAC, theirMAC}, []string{
			"asked for by 2 entries (pci 0000:01:10.0 of object-0, pci 0000:01:10.2 of object-2)", "asked for by 2 entries (pci 0000:01:10.0", "",
		}},
		"the management NIC's": {[]string{"0a:1b:2c:3d:4e:5f", theirMAC}, []string{"is that of ens5 0000:00:05.0", ""}},
		"its PF's":             {[]string{"52:54:00:00:00:01"}, []string{"is that of enp1s0 0000:01:00.0"}},
	} {
		requests := asking(tc.asked...)
		v.refuseSharedMACs(t.Context(), requests)
		for i, r := range requests {
			said := ""
			if r.err != nil {
				said = r.err.Error()
			}
			if want := tc.says[i]; (want == "") != (said == "") || !strings.Contains(said, want) || said != "" && r.condition != Refused {
				t.Errorf("%s: %s is %q %q, want %q", name, r.entry, r.condition, said, want)
			}
		}
	}
}

// TestAMACGoesOverInOrder: who has it gives it up before another one gets it,
// round a circle too; what no entry stands for keeps it.
func TestAMACGoesOverInOrder(t *testing.T) {
	for name, tc := range map[string]struct {
		has, asked []string
		goals      []string // "" is none of a MAC
		waits      []bool
	}{
		"free":                    {[]string{"", ""}, []string{ourMAC, ""}, []string{ourMAC, ""}, []bool{false, false}},
		"has it already":          {[]string{ourMAC, ""}, []string{ourMAC, ""}, []string{ourMAC, ""}, []bool{false, false}},
		"moved":                   {[]string{ourMAC, ""}, []string{"", ourMAC}, []string{host.NoMAC, ""}, []bool{false, true}},
		"moved on":                {[]string{ourMAC, ""}, []string{theirMAC, ourMAC}, []string{theirMAC, ""}, []bool{false, true}},
		"both have it":            {[]string{ourMAC, ourMAC}, []string{"", ourMAC}, []string{host.NoMAC, ourMAC}, []bool{false, false}},
		"exchanged":               {[]string{ourMAC, theirMAC}, []string{theirMAC, ourMAC}, []string{host.NoMAC, ""}, []bool{false, true}},
		"no entry stands for who": {[]string{"", ourMAC}, []string{ourMAC}, []string{""}, []bool{true}},
	} {
		k := sim.New(sim.DefaultNode())
		dev, err := host.NetdevOf(t.Context(), k, "0000:01:00.0")
		if err != nil {
			t.Fatal(err)
		}
		for i, mac := range tc.has {
			if mac != "" {
				if err := k.Foreign(host.Call{Op: host.OpVFMAC, Target: "0000:01:10.0", Index: dev.Index, Number: i, Value: mac}); err != nil {
					t.Fatal(err)
				}
			}
		}
		v := View{Host: k, Drivers: all.New(k), Records: emptyRecords(t)}
		requests := asking(tc.asked...)
		v.moveMACs(t.Context(), requests, everything())
		var goals []string
		var waits []bool
		for _, r := range requests {
			goals = append(goals, string(r.goal[drivers.Key{Kind: sriov.KindMAC, Target: r.target}]))
			waits = append(waits, r.err != nil)
		}
		if !slices.Equal(goals, tc.goals) || !slices.Equal(waits, tc.waits) {
			t.Errorf("%s: goals %q, waiting %v; want %q, %v", name, goals, waits, tc.goals, tc.waits)
		}
	}
}
