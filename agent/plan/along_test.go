package plan_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
)

// TestLosesWhatGoesWithTheNetdevAndTheVFs, what is moved,
// and nothing of what stays.
func TestLosesWhatGoesWithTheNetdevAndTheVFs(t *testing.T) {
	link := []drivers.Kind{"altnames", "channels", "features", "mac", "name", "rings"}
	vf := append([]drivers.Kind{"vf.mac", "vf.rate", "vf.spoofchk", "vf.state", "vf.trust", "vf.vlan"}, link...)
	moved := []drivers.Kind{"channels", "features", "rings"} // of the physical function, by making VFs
	for name, tc := range map[string]struct {
		from plan.Observed
		want plan.Goal
		is   map[drivers.Target][]drivers.Kind
	}{
		"a bind":           {observed(igb, "9000", "up"), plan.Goal{key("driver"): vfio}, map[drivers.Target][]drivers.Kind{nic: link}},
		"a return":         {observed(vfio, drivers.Hidden, drivers.Hidden), plan.Goal{key("driver"): igb}, map[drivers.Target][]drivers.Kind{nic: link}},
		"an MTU":           {observed(igb, "9000", "up"), plan.Goal{key("mtu"): "1500"}, nil},
		"as many VFs":      {withVF(), plan.Goal{key("numvfs"): vfs(first)}, nil},
		"more VFs":         {withVF(), plan.Goal{key("numvfs"): vfs(first, second)}, map[drivers.Target][]drivers.Kind{nic: moved, first: vf, second: vf}},
		"a driver of a VF": {withVF(), plan.Goal{of(first, "driver"): vfio}, map[drivers.Target][]drivers.Kind{first: link}},
	} {
		t.Run(name, func(t *testing.T) {
			want, got := map[drivers.Key]bool{}, map[drivers.Key]bool{}
			for target, kinds := range tc.is {
				for _, k := range kinds {
					want[of(target, k)] = true
				}
			}
			for _, k := range plan.Loses(all.Specs(), plan.Function{Target: nic, Want: tc.want, Observed: tc.from}) {
				got[k] = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestCoverTakesSettingsAlong without asking for them, unless they are asked for.
func TestCoverTakesSettingsAlong(t *testing.T) {
	from := withVF()
	rings, vlan := of(first, "rings"), of(first, "vf.vlan")
	from[rings], from[vlan] = drivers.Seen("rx=512 mini=0 jumbo=0 tx=256"), drivers.Seen("id=7 qos=0 protocol=802.1Q")
	want := plan.Goal{key("numvfs"): vfs(first, second), vlan: "id=9 qos=0 protocol=802.1Q"}
	d, err := plan.Cover(all.Specs(), plan.Function{Target: nic, Want: want, Observed: from})
	if err != nil {
		t.Fatal(err)
	}
	if d.After[rings] != from[rings].State || !d.Along[rings] || d.Asked()[rings] != "" {
		t.Errorf("rings: %+v", d)
	}
	if d.Before[vlan] != from[vlan].State || d.After[vlan] != want[vlan] || d.Along[vlan] || d.Asked()[vlan] != want[vlan] {
		t.Errorf("VLAN: %+v", d)
	}
	from[rings] = drivers.Observation{Presence: drivers.Unobservable, Err: drivers.ErrFenced}
	if d, err := plan.Cover(all.Specs(), plan.Function{Target: nic, Want: want, Observed: from}); err == nil {
		t.Errorf("what could not be seen is destroyed: %+v", d)
	}
}

// TestCoverLeavesWhatAStubDoesNotKeep: a physical function that has no netdev at the
// end keeps nothing for VFs that are made anew; what is asked of that is refused.
func TestCoverLeavesWhatAStubDoesNotKeep(t *testing.T) {
	from, vlan := withVF(), of(first, "vf.vlan")
	from[vlan] = drivers.Seen("id=7 qos=0 protocol=802.1Q")
	f := plan.Function{Target: nic, Observed: from, Want: plan.Goal{
		key("driver"): "driver=pci-pf-stub override=pci-pf-stub", key("numvfs"): vfs(first, second),
	}}
	d, err := plan.Cover(all.Specs(), f)
	if err != nil {
		t.Fatal(err)
	}
	if d.Before[vlan] != from[vlan].State || d.After[vlan] != drivers.Hidden {
		t.Errorf("VLAN: %+v", d)
	}
	f.Want[vlan] = "id=9 qos=0 protocol=802.1Q"
	if _, err := plan.Cover(all.Specs(), f); !errors.Is(err, drivers.ErrHidden) || !strings.Contains(err.Error(), "its physical function will have no netdev") {
		t.Errorf("VLAN asked for: %v", err)
	}
}

// TestALongOperationIsShortened: what does not fit a record is left to release.
func TestALongOperationIsShortened(t *testing.T) {
	from, many := plan.Observed{}, []drivers.Target{}
	for i := range 128 {
		vf := drivers.Target(fmt.Sprintf("0000:03:%02x.%d", i/8, i%8))
		many = append(many, vf)
		from[of(vf, "driver")] = drivers.Seen("driver=igbvf override=-")
		from[of(vf, "features")] = drivers.Seen(drivers.State("a-" + strings.Repeat("x", 1000) + "=on"))
		from[of(vf, "vf.trust")] = drivers.Seen("on")
	}
	from[key("numvfs")] = drivers.Seen(vfs(many...))
	d, err := plan.Cover(all.Specs(), plan.Function{Target: nic, Want: plan.Goal{key("numvfs"): vfs(many[1:]...)}, Observed: from})
	if err != nil {
		t.Fatal(err)
	}
	size, trusted := 0, 0
	for k, after := range d.After {
		size += len(d.Before[k]) + len(after)
		if k.Kind == "vf.trust" {
			trusted++
		}
	}
	if size > 100<<10 || trusted != len(many) {
		t.Errorf("%d bytes of states, %d of %d VFs trusted", size, trusted, len(many))
	}
	for k, o := range from {
		if _, in := d.Before[k]; !in && d.Lost[k] != o.State && k.Kind != "numvfs" {
			t.Errorf("%s is nowhere", k)
		}
	}
}
