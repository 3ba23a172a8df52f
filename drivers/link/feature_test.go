package link

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// TestFeaturesOfRealDrivers: each feature that a driver lets be changed can be
// named in a state, asked for, set, and set back.
func TestFeaturesOfRealDrivers(t *testing.T) {
	for _, driver := range []string{"igb", "igbvf", "ice", "mlx5_core", "ena", "virtio_net"} {
		t.Run(driver, func(t *testing.T) {
			k := node(t, func(c *sim.Config) {
				set := *sim.IGB()
				set.Features = sim.Features(driver)
				netOf(c).Set = &set
			})
			d := NewFeatures(k)
			fresh := observe(t, d, other)
			wanted, err := parseFeatures(fresh)
			if err != nil || len(wanted) < 8 {
				t.Fatalf("%s is no state of %d features: %v", fresh, len(wanted), err)
			}
			for _, name := range slices.Sorted(maps.Keys(wanted)) {
				offAndOn(t, k, fresh, name)
			}
		})
	}
}

// offAndOn switches a feature off, and back to what it was.
func offAndOn(t *testing.T, k *sim.Kernel, fresh drivers.State, name string) {
	t.Helper()
	d, off := NewFeatures(k), wanting(fresh, map[string]bool{name: false})
	if err := errors.Join(FeaturesSpec().Legal(other, off), d.(drivers.Prechecker).Precheck(t.Context(), other, fresh, off)); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	for _, to := range []drivers.State{off, fresh} {
		if err := d.Apply(t.Context(), other, to); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWhatCannotBeReadIsNoPart: a state that is not understood is an error, and
// not taken for one without anything.
func TestWhatCannotBeReadIsNoPart(t *testing.T) {
	const junk = drivers.State("junk")
	for kind, part := range map[drivers.Kind]func(drivers.State) (drivers.State, error){
		KindFeatures: func(at drivers.State) (drivers.State, error) {
			return WithFeatures(at, map[string]bool{"rx-gro": true})
		},
		KindChannels: func(at drivers.State) (drivers.State, error) {
			return WithChannels(at, func(c *host.Channels) { c.Combined = 1 })
		},
		KindRings:    func(at drivers.State) (drivers.State, error) { return WithRings(at, func(r *host.Rings) { r.RX = 1 }) },
		KindAltNames: func(at drivers.State) (drivers.State, error) { return WithAltNames(at, "a") },
	} {
		if got, err := part(junk); err == nil {
			t.Errorf("%s: a part of %s is %s", kind, junk, got)
		}
		if got, err := part(""); err != nil || got == "" {
			t.Errorf("%s: a part of what is not there yet is %q (%v)", kind, got, err)
		}
	}
}
