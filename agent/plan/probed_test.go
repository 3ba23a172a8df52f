package plan_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
)

// TestAMACIsSetForAProbe: a VF's driver reads its MAC when it is probed, so that
// it is bound anew for another one; where it has the MAC already, or no netdev, it
// is not.
func TestAMACIsSetForAProbe(t *testing.T) {
	const (
		igbvf drivers.State = "driver=igbvf override=-"
		mac   drivers.State = "52:54:00:00:01:00"
		no    drivers.State = "00:00:00:00:00:00"
		stale drivers.State = "52:54:00:00:01:00 netdev=fe:00:00:00:00:01"
		has   drivers.State = "52:54:00:00:01:07 netdev=52:54:00:00:01:00"
	)
	anew := "driver: driver=igbvf override=- > driver=- override=-\n"
	bound := "driver: driver=- override=- > driver=igbvf override=-\nmtu: 1500 > 1400\n"
	without := slices.Clone(all.Specs())
	for i := range without {
		without[i].Probed = nil
	}
	for name, tc := range map[string]struct {
		driver, mtu, mac, want drivers.State
		steps                  string
		broken                 string // what is done where nothing is known of probes
	}{
		"another MAC":                    {igbvf, "1400", no, mac, anew + "vf.mac: 00:00:00:00:00:00 > 52:54:00:00:01:00\n" + bound, "vf.mac: 00:00:00:00:00:00 > 52:54:00:00:01:00\n"},
		"its netdev has another one":     {igbvf, "1400", stale, mac, anew + bound, "vf.mac: " + string(stale) + " > 52:54:00:00:01:00\n"},
		"its netdev has it":              {igbvf, "1400", has, mac, "vf.mac: " + string(has) + " > 52:54:00:00:01:00\n", ""},
		"as it is":                       {igbvf, "1400", mac, mac, "", ""},
		"a state that is left":           {igbvf, "1400", mac, stale, "", ""},
		"on a driver without a netdev":   {vfio, drivers.Hidden, no, mac, "vf.mac: 00:00:00:00:00:00 > 52:54:00:00:01:00\n", ""},
		"half-way: unbound, and written": {"driver=- override=-", drivers.Hidden, mac, mac, "", ""},
	} {
		observed := plan.Observed{
			key("driver"): drivers.Seen(tc.driver), key("mtu"): drivers.Seen(tc.mtu), key("vf.mac"): drivers.Seen(tc.mac),
		}
		steps := func(specs drivers.Specs) string {
			d, err := plan.Cover(specs, plan.Function{Target: nic, Want: plan.Goal{key("vf.mac"): tc.want}, Observed: observed})
			if err != nil {
				t.Fatal(err)
			}
			s, err := plan.Order(specs, observed, d.After)
			if err != nil {
				t.Fatal(err)
			}
			return lines(s)
		}
		if diff := cmp.Diff(tc.steps, steps(all.Specs())); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if tc.broken != "" {
			if got := steps(without); got == tc.steps {
				t.Errorf("%s: without knowing of probes the steps are the same:\n%s", name, got)
			}
		}
	}
}
