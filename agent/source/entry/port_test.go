package entry

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"eniagent/agent/source"
)

func TestParsePorts(t *testing.T) {
	got, err := Document("f", []byte(head+`- pci: "0000:3b:00.0"
  vfs:
    count: 3
    defaults: {driver: vfio-pci, vlan: {id: 100, qos: 3, protocol: 802.1ad}, trust: true, maxTxRate: 500}
    overrides:
      - {index: 2, mac: 52-54-00-00-01-0A, spoofCheck: false, vlan: {id: 0}}
      - {index: 0, linkState: disable, trust: false, minTxRate: 0, maxTxRate: 0}
`))
	if err != nil {
		t.Fatal(err)
	}
	yes, no, none, hundred, three, most := true, false, 0, 100, 3, 500
	provider := &source.VLAN{ID: &hundred, QoS: &three, Protocol: "802.1ad"}
	want := []source.VF{
		{Driver: "vfio-pci", Port: source.Port{VLAN: provider, Trust: &no, LinkState: "disable", MinTxRate: &none, MaxTxRate: &none}},
		{Driver: "vfio-pci", Port: source.Port{VLAN: provider, Trust: &yes, MaxTxRate: &most}},
		{Driver: "vfio-pci", Port: source.Port{
			MAC: "52:54:00:00:01:0a", VLAN: &source.VLAN{ID: &none, QoS: &three, Protocol: "802.1ad"}, Trust: &yes, SpoofCheck: &no, MaxTxRate: &most,
		}},
	}
	for i, w := range want {
		if d := cmp.Diff(w, got[0].VFs.Of(i)); d != "" {
			t.Errorf("VF %d, -want +got:\n%s", i, d)
		}
	}
}

func TestParseRefusesPorts(t *testing.T) {
	const (
		defaults = `vfs: {count: 2, defaults: {`
		in       = `f: line 3: interfaces[0].vfs.`
		asks     = `driver, up, mtu, pool, mac, vlan, trust, spoofCheck, linkState, minTxRate, maxTxRate`
		rate     = `want a number of Mbit/s from 0 to 1048576, without quotes; 0 is none`
	)
	for _, tc := range []struct{ name, text, want string }{
		{"nothing", defaults + "}}", in + "defaults: nothing is asked; add " + asks + ", or remove it"},
		{"a MAC of many", defaults + "mac: 01:00:5e:00:00:01}}", in + "defaults.mac: 01:00:5e:00:00:01: want the MAC address of one interface, such as 52:54:00:00:00:01"},
		{"a MAC of none", "vfs: {count: 2, overrides: [{index: 0, mac: '00:00:00:00:00:00'}]}", in + `overrides[0].mac: "00:00:00:00:00:00": want the MAC address of one interface, such as 52:54:00:00:00:01`},
		{"a MAC for all", defaults + "mac: 52:54:00:00:01:00}}", in + "defaults.mac: one MAC for all of them; give each its own, in overrides"},
		{"a MAC twice", "vfs:\n    count: 2\n    overrides:\n      - {index: 0, mac: 52:54:00:00:01:00}\n      - {index: 1, mac: 52-54-00-00-01-00}", `f: line 8: interfaces[0].vfs.overrides[1].mac: 52-54-00-00-01-00: is that of the VF on line 7 already; give each its own`},
		{"a MAC of two entries", "vfs: {count: 1, overrides: [{index: 0, mac: 52:54:00:00:01:00}]}}\n- {name: b, vfs: {count: 1, overrides: [{index: 0, mac: 52:54:00:00:01:00}]}", `f: line 4: interfaces[1].vfs.overrides[0].mac: 52:54:00:00:01:00: is that of the VF on line 3 already; give each its own`},
		{"a VLAN number", defaults + "vlan: 100}}", in + "defaults.vlan: 100: want a mapping, such as {id: 100}; to ask for none, write {id: 0, qos: 0}"},
		{"an empty VLAN", defaults + "vlan: {}}}", in + "defaults.vlan: a mapping: want a mapping, such as {id: 100}; to ask for none, write {id: 0, qos: 0}"},
		{"VLAN 4095", defaults + "vlan: {id: 4095}}}", in + "defaults.vlan.id: 4095: want the number of a VLAN from 1 to 4094, without quotes; 0 is none"},
		{"VLAN in quotes", defaults + "vlan: {id: '1'}}}", in + `defaults.vlan.id: "1": want the number of a VLAN from 1 to 4094, without quotes; 0 is none`},
		{"QoS 8", defaults + "vlan: {id: 1, qos: 8}}}", in + "defaults.vlan.qos: 8: want a priority from 0 to 7, without quotes"},
		{"a protocol", defaults + "vlan: {id: 1, protocol: 802.1q}}}", in + "defaults.vlan.protocol: 802.1q: want one of 802.1Q, 802.1ad"},
		{"half trusted", defaults + "trust: maybe}}", in + "defaults.trust: maybe: want true or false"},
		{"on", defaults + "spoofCheck: on}}", in + "defaults.spoofCheck: on: want true or false"},
		{"a link that is up", defaults + "linkState: up}}", in + "defaults.linkState: up: want one of auto, enable, disable"},
		{"a rate with a unit", defaults + "maxTxRate: 10G}}", in + "defaults.maxTxRate: 10G: " + rate},
		{"a rate below none", defaults + "minTxRate: -1}}", in + "defaults.minTxRate: -1: " + rate},
		{"more at least than at most", defaults + "minTxRate: 6, maxTxRate: 5}}", in + "defaults: minTxRate 6 is above maxTxRate 5; swap them, or ask for less"},
		{"the same of both", "vfs: {count: 2, defaults: {minTxRate: 6}, overrides: [{index: 1, maxTxRate: 5}]}", in + "overrides: index 1: minTxRate 6 is above maxTxRate 5; swap them, or ask for less"},
		{"another spelling", defaults + "spoof_check: true}}", in + "defaults: spoof_check: unknown field; did you mean spoofCheck?"},
		{"outside of VFs", "trust: true", `f: line 3: interfaces[0]: trust: unknown field; want one of pci, mac, name, driver, up, mtu, pool, state, onStop, allowManagementPath, altNames, channels, rings, features, vfs`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			open, end := "- {name: a, ", "}\n"
			if tc.name == "a MAC twice" {
				open, end = "- name: a\n  ", "\n"
			}
			_, err := Document("f", []byte(head+open+tc.text+end))
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}
