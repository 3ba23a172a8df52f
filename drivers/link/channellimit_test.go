package link

import (
	"errors"
	"strings"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// TestChannelLimitsAtTheGoal: what counts is the limit once the operation has
// made its VFs, or has taken them away.
func TestChannelLimitsAtTheGoal(t *testing.T) {
	makes := func(n int) []drivers.Beside {
		return []drivers.Beside{{Key: drivers.Key{Kind: "numvfs", Target: other}, Made: n}}
	}
	d := NewChannels(node(t, nil)).(drivers.BesidePrechecker)
	for _, tc := range []struct {
		name   string
		t      drivers.Target
		to     drivers.State
		beside []drivers.Beside
		says   string // "" is that it may be
	}{
		{"no VFs", other, "rx=0 tx=0 combined=4", nil, ""},
		{"with VFs that come", other, "rx=0 tx=0 combined=4", makes(2), "enp2s0 has at most 2 combined channels while it has 2 VFs, not 4 (ask for at most 2, or for no VFs)"},
		{"few enough for those that come", other, "rx=0 tx=0 combined=2", makes(2), ""},
		{"with VFs that are there", pf, "rx=0 tx=0 combined=4", nil, "while it has 2 VFs, not 4"},
		{"with other VFs", pf, "rx=0 tx=0 combined=4", makes(5), "while it has 5 VFs, not 4"},
		{"without the VFs that go", pf, "rx=0 tx=0 combined=4", makes(0), ""},
	} {
		err := d.PrecheckBeside(t.Context(), tc.t, "", tc.to, tc.beside)
		if (tc.says == "") != (err == nil) || err != nil && (!errors.Is(err, drivers.ErrRefused) || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.says)
		}
	}
}

// TestAChannelLimitIsFound: where only the device knows its limit with VFs, one
// try is enough, and says which it was.
func TestAChannelLimitIsFound(t *testing.T) {
	k := node(t, func(c *sim.Config) {
		for i := range c.Modules {
			for j := range c.Modules[i].Drivers {
				if d := &c.Modules[i].Drivers[j]; d.Name == "igb" {
					d.Name = "qede"
				}
			}
		}
	})
	d := NewChannels(k)
	if err := k.Foreign(host.Call{Op: host.OpSysfs, Target: pf, Path: host.Attr(string(pf), "sriov_numvfs"), Value: "0"}); err != nil {
		t.Fatal(err)
	}
	const four = drivers.State("rx=0 tx=0 combined=4")
	makes := []drivers.Beside{{Key: drivers.Key{Kind: "numvfs", Target: pf}, Made: 2}}
	check := func() error { return d.(drivers.BesidePrechecker).PrecheckBeside(t.Context(), pf, four, four, makes) }
	if err := check(); err != nil {
		t.Fatalf("refused before it was tried: %v", err)
	}
	if err := k.Foreign(host.Call{Op: host.OpSysfs, Target: pf, Path: host.Attr(string(pf), "sriov_numvfs"), Value: "2"}); err != nil {
		t.Fatal(err)
	}
	err := d.Apply(t.Context(), pf, four)
	if !errors.Is(err, drivers.ErrRefused) || !strings.Contains(err.Error(), "at most 2 combined channels while it has 2 VFs, not 4") {
		t.Errorf("%v, want the limit", err)
	}
	if err := k.Foreign(host.Call{Op: host.OpSysfs, Target: pf, Path: host.Attr(string(pf), "sriov_numvfs"), Value: "0"}); err != nil {
		t.Fatal(err)
	}
	if err := check(); !errors.Is(err, drivers.ErrRefused) || !strings.Contains(err.Error(), "while it has 2 VFs") {
		t.Errorf("tried once and not refused: %v", err)
	}
}
