package file

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"eniagent/agent/source"
)

const head = "apiVersion: eniagent/v1alpha1\ninterfaces:\n"

func ptr[T any](v T) *T { return &v }

func TestExample(t *testing.T) {
	data, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("example.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	want := &source.Desired{
		Source: "file", Object: "example.yaml", Generation: hex.EncodeToString(sum[:]),
		Interfaces: []source.Interface{
			{Selector: source.Selector{PCI: "0000:3b:00.1"}, State: source.Configured, Driver: "vfio-pci"},
			{Selector: source.Selector{PCI: "0000:3b:00.2"}, State: source.Configured, Driver: "vfio-pci", Pool: "intel.com/sriov_dpdk"},
			{Selector: source.Selector{MAC: "52:54:00:00:00:01"}, State: source.Configured, Up: ptr(true), MTU: 9000},
			{Selector: source.Selector{Name: "eth1"}, State: source.Configured, Driver: "ena", Up: ptr(false)},
			{Selector: source.Selector{Name: "eth2"}, State: source.Released},
			{
				Selector: source.Selector{Name: "eth4"}, State: source.Configured, AltNames: []string{"storage0"},
				Channels: &source.Channels{Combined: ptr(4)}, Rings: &source.Rings{RX: ptr(1024), TX: ptr(1024)},
				Features: map[string]bool{"tx-tcp-segmentation": false},
			},
			{Selector: source.Selector{PCI: "0000:5e:00.0"}, State: source.Configured, VFs: &source.VFs{
				Count: 4,
				Defaults: source.VF{Driver: "vfio-pci", Port: source.Port{
					VLAN: &source.VLAN{ID: ptr(100), QoS: ptr(0), Protocol: "802.1Q"}, Trust: ptr(false), SpoofCheck: ptr(true), LinkState: "auto", MaxTxRate: ptr(1000),
				}},
				Overrides:  []source.Override{{VF: source.VF{Port: source.Port{MAC: "52:54:00:00:01:00", VLAN: &source.VLAN{ID: ptr(200)}}}}},
				ReplaceVFs: "the rack's new layout",
			}},
			{Selector: source.Selector{Name: "eth3"}, State: source.Configured, MTU: 9000, AllowManagementPath: "the whole rack goes to jumbo frames tonight"},
			{Selector: source.Selector{Name: "eth5"}, State: source.Configured, Driver: "vfio-pci", OnStop: source.Release},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}
