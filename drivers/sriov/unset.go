package sriov

import (
	"eniagent/drivers"
	"eniagent/drivers/host"
)

// Unset is what a physical function keeps for a virtual one of which nobody has
// set that attribute: the structures that drivers keep for VFs begin as zeros
// (igb_vf_data, i40e_vf, ice_vf). False where drivers differ: spoof checking.
func Unset(kind drivers.Kind) (drivers.State, bool) {
	switch kind {
	case KindMAC:
		return host.NoMAC, true
	case KindVLAN:
		return drivers.State(host.VLAN{Protocol: host.Dot1Q}.String()), true
	case KindTrust:
		return "off", true
	case KindLinkState:
		return "auto", true
	case KindRate:
		return drivers.State(host.Rate{}.String()), true
	}
	return "", false
}
