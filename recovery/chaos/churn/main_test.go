//go:build linux

package main

import (
	"strings"
	"testing"
)

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
