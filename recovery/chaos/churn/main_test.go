//go:build linux

package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"eniagent/recovery/chaos"
)

// TestChurnAndRelease is a short churn of one seed.
func TestChurnAndRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("not in short mode: boots a VM")
	}
	if _, err := chaos.Find(); err != nil {
		if os.Getenv("ENIAGENT_REQUIRE_VM") == "1" {
			t.Fatalf("ENIAGENT_REQUIRE_VM=1, but: %v", err)
		}
		t.Skipf("NOT TESTED ON A REAL KERNEL: %v", err)
	}
	var out bytes.Buffer
	c := churn{lasts: 30 * time.Second}
	if err := c.all(t.Context(), &out, 1, 1); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestDifferences(t *testing.T) {
	before := picture{"a mtu": "1500", "a name": "eth0", "a driver": "igb", "c driver": "igb", "c name": "eth2", "c mtu": "1500", "module vfio": "loaded"}
	after := picture{"a mtu": "9000", "a name": "eth0", "a driver": "igb", "b name": "eth1", "b driver": "igb", "b mtu": "1500", "c driver": "vfio-pci"}
	got := strings.Join(before.differences(after), "\n")
	want := `a mtu was "1500", is "9000"
b driver was not there, is "igb"
c driver was "igb", is "vfio-pci"
c name was "eth2", is not there
module vfio was "loaded", is not there`
	if got != want {
		t.Errorf("differences:\n%s\nwant:\n%s", got, want)
	}
}
