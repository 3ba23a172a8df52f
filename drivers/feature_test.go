package drivers_test

import (
	"strings"
	"testing"

	"eniagent/drivers"
)

// TestFeatureName: what fits is taken, also a name that no kernel has yet; what
// could not be told from the rest of a state is not.
func TestFeatureName(t *testing.T) {
	for name, want := range map[string]bool{
		"rx-gro": true, "tx-udp_tnl-csum-segmentation": true, "tx-checksum-ip-generic": true, "New.Name/1": true, strings.Repeat("x", 31): true,
		"": false, strings.Repeat("x", 32): false, "rx gro": false, "rx-gro=on": false, "rx-gro\n": false, "rx-gr\u00f6": false, "\x00": false,
	} {
		if drivers.FeatureName(name) != want {
			t.Errorf("%q is a name: %t, want %t", name, !want, want)
		}
	}
}
