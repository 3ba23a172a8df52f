//go:build guest

// The tests that want more of a kernel than every machine has: the VM tests
// build them with the tag and run them in the guest.

package host_test

import (
	"os"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestDummyAndVLAN(t *testing.T) {
	inNetns(t, func() {
		dummy, err := tryLink(&netlink.Dummy{LinkAttrs: named("dummy0")})
		if err != nil {
			t.Errorf("make a dummy: %v", err)
			return
		}
		under := named("vlan0.7") // a dot in the name, as VLANs have
		under.ParentIndex = dummy
		vlan, err := tryLink(&netlink.Vlan{LinkAttrs: under, VlanId: 7})
		if err != nil {
			t.Errorf("make a VLAN: %v", err)
			return
		}
		links := dump(t)
		if d := byName(t, links, "dummy0"); d.Index != dummy || d.Kind != "dummy" || d.MinMTU != 0 || d.MaxMTU != 0 {
			t.Errorf("dummy0 is %+v", d) // it takes any MTU
		}
		if v := byName(t, links, "vlan0.7"); v.Index != vlan || v.Kind != "vlan" || v.Lower != dummy || v.MaxMTU != 65535 {
			t.Errorf("vlan0.7 is %+v", v)
		}
	})
}

// TestIPv6OfLinks is what sysctl says of each link.
func TestIPv6OfLinks(t *testing.T) {
	inNetns(t, func() {
		mustLink(t, &netlink.Bridge{LinkAttrs: named("br0")})
		if !byName(t, dump(t), "br0").IPv6 {
			t.Error("br0 has no IPv6")
		}
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/br0/disable_ipv6", []byte("1"), 0); err != nil {
			t.Errorf("switch IPv6 off: %v", err)
			return
		}
		if byName(t, dump(t), "br0").IPv6 {
			t.Error("br0 still has IPv6")
		}
	})
}
