package owner

import (
	"strings"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/link"
	"eniagent/drivers/sriov"
)

// TestLinkFiles: systemd-udevd applies the first .link file, by name, that has
// the netdev, whenever that appears.
func TestLinkFiles(t *testing.T) {
	const (
		etc, run, usr = "/etc/systemd/network/", "/run/systemd/network/", "/usr/lib/systemd/network/"
		this          = "[Match]\nPath=pci-0000:02:00.0\n"
		three         = this + "[Link]\nSR-IOVVirtualFunctions=3\n"
		pfOfVF        = "[Match]\nPath=pci-0000:01:00.0\n[SR-IOV]\nVirtualFunction=1\nVLANId=7\nTrust=yes\n[SR-IOV]\nVirtualFunction=0\nVLANId=100\nTrust=yes\nMACAddress=02:00:00:00:00:01\n"
	)
	two := sriov.VFs{Autoprobe: true, Addresses: []drivers.Target{"0000:02:10.0", "0000:02:10.2"}}.State()
	for _, tc := range []struct {
		name    string
		address string
		kind    drivers.Kind
		want    drivers.State
		files   map[string]string
		says    string // "" is that nobody does
		likely  bool
	}{
		{name: "VFs", kind: sriov.KindNumVFs, want: two, files: map[string]string{etc + "10-x.link": three}, says: "SR-IOVVirtualFunctions=3"},
		{name: "as many VFs", kind: sriov.KindNumVFs, want: "autoprobe=0 count=3", files: map[string]string{etc + "10-x.link": three}},
		{name: "another's", kind: sriov.KindNumVFs, want: two, files: map[string]string{etc + "10-x.link": strings.ReplaceAll(three, "02:00.0", "03:00.0")}},
		{name: "hidden by one of the same name", kind: sriov.KindNumVFs, want: two, files: map[string]string{run + "10-x.link": three, etc + "10-x.link": "# nothing"}},
		{name: "in /run", kind: sriov.KindNumVFs, want: two, files: map[string]string{run + "10-x.link": three, usr + "10-x.link": "# nothing"}, says: run + "10-x.link"},
		{name: "an earlier one matches", kind: sriov.KindNumVFs, want: two, files: map[string]string{etc + "20-x.link": three, usr + "10-y.link": this + "[Link]\nName=x"}},
		{name: "an earlier one matches another", kind: sriov.KindNumVFs, want: two, files: map[string]string{etc + "20-x.link": three, usr + "10-y.link": "[Match]\nDriver=ixgbe*\n"}, says: "SR-IOVVirtualFunctions=3"},
		{name: "a drop-in", kind: sriov.KindNumVFs, want: two, files: map[string]string{etc + "20-x.link": this, etc + "20-x.link.d/a.conf": "[Link]\nSR-IOVVirtualFunctions=4"}, says: "SR-IOVVirtualFunctions=4"},
		{name: "a match that cannot be seen", kind: sriov.KindNumVFs, want: two, files: map[string]string{etc + "20-x.link": strings.Replace(three, "Path=", "Property=ID_PATH=", 1)}, says: "SR-IOVVirtualFunctions=3", likely: true},
		{name: "by its driver", kind: link.KindMTU, want: "1500", files: map[string]string{etc + "x.link": "[Match]\nDriver=e1000 ig*\nType=ether\n[Link]\nMTUBytes=9000"}, says: "MTUBytes=9000"},
		{name: "by another than its driver", kind: link.KindMTU, want: "1500", files: map[string]string{etc + "x.link": "[Match]\nDriver=!ig*\n[Link]\nMTUBytes=9000"}},
		{name: "by its MAC", kind: link.KindMTU, want: "1500", files: map[string]string{etc + "x.link": "[Match]\nMACAddress=52:54:00:00:00:02\n[Link]\nMTUBytes=9000"}, says: "MTUBytes=9000"},
		{name: "the same MTU", kind: link.KindMTU, want: "9000", files: map[string]string{etc + "x.link": this + "[Link]\nMTUBytes=9000"}},
		{name: "all", kind: link.KindRings, files: map[string]string{usr + "99-default.link": "[Match]\nOriginalName=*\n[Link]\nRxBufferSize=4096"}, says: "RxBufferSize=4096"},
		{name: "channels", kind: link.KindChannels, files: map[string]string{etc + "x.link": this + "[Link]\nCombinedChannels=2"}, says: "CombinedChannels=2"},
		{name: "a feature", kind: link.KindFeatures, files: map[string]string{etc + "x.link": this + "[Link]\nGenericReceiveOffload=no"}, says: "GenericReceiveOffload=no"},
		{name: "names", kind: link.KindAltNames, files: map[string]string{etc + "x.link": this + "[Link]\nAlternativeNamesPolicy=database path"}, says: "AlternativeNamesPolicy"},
		{name: "a VF's VLAN", address: vf, kind: sriov.KindVLAN, want: "id=5 qos=0 protocol=802.1Q", files: map[string]string{etc + "x.link": pfOfVF}, says: "VLANId=100"},
		{name: "a VF's trust", address: vf, kind: sriov.KindTrust, want: "off", files: map[string]string{etc + "x.link": pfOfVF}, says: "Trust=yes"},
		{name: "a VF's trust, wanted too", address: vf, kind: sriov.KindTrust, want: "on", files: map[string]string{etc + "x.link": pfOfVF}},
		{name: "a VF's MAC", address: vf, kind: sriov.KindMAC, want: "02:00:00:00:00:02", files: map[string]string{etc + "x.link": pfOfVF}, says: "MACAddress=02:00:00:00:00:01"},
		{name: "no driver", kind: dpdk.KindDriver, want: dpdk.Bound("vfio-pci"), files: map[string]string{etc + "x.link": three}},
		{name: "no link", kind: link.KindAdmin, want: link.Up, files: map[string]string{etc + "x.link": three}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.address == "" {
				tc.address = port
			}
			found := owners(t, tc.address, tc.kind, tc.want, tc.files)
			if tc.says == "" {
				if len(found) > 0 {
					t.Errorf("found %v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Name != "systemd-udevd" || !strings.Contains(found[0].Evidence, tc.says) || found[0].Known == tc.likely {
				t.Errorf("found %+v, want systemd-udevd and %q", found, tc.says)
			}
		})
	}
}

// TestARemedyIsOneThatIsTaken: driverctl's "none" is no driver to ask for.
func TestARemedyIsOneThatIsTaken(t *testing.T) {
	for says, ask := range map[string]bool{"igb": true, "vfio-pci": true, "none": false, "": false, "a b": false} {
		found := owners(t, port, dpdk.KindDriver, dpdk.Bound("uio_pci_generic"), map[string]string{"/etc/driverctl.d/pci-" + port: says})
		if len(found) != 1 || !strings.HasPrefix(found[0].Remedy, "rm /etc/driverctl.d/pci-"+port) || strings.Contains(found[0].Remedy, "ask for driver") != ask {
			t.Errorf("%q: %+v", says, found)
		}
	}
}
