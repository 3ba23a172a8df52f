package sim

import (
	"slices"
	"strings"

	"eniagent/drivers/host"
)

// featureNames are all that the kernel has a name for (netdev_features_strings
// of net/ethtool/common.c, Linux 6.12). Each netdev tells of all of them; what
// its driver does not have is off and fixed.
func featureNames() []string {
	return strings.Fields(`
		tx-scatter-gather tx-checksum-ipv4 tx-checksum-ip-generic tx-checksum-ipv6 highdma tx-scatter-gather-fraglist
		tx-vlan-hw-insert rx-vlan-hw-parse rx-vlan-filter tx-vlan-stag-hw-insert rx-vlan-stag-hw-parse rx-vlan-stag-filter
		vlan-challenged tx-generic-segmentation rx-gro rx-gro-hw rx-lro
		tx-tcp-segmentation tx-gso-robust tx-tcp-ecn-segmentation tx-tcp-mangleid-segmentation tx-tcp6-segmentation tx-fcoe-segmentation
		tx-gre-segmentation tx-gre-csum-segmentation tx-ipxip4-segmentation tx-ipxip6-segmentation
		tx-udp_tnl-segmentation tx-udp_tnl-csum-segmentation tx-gso-partial tx-tunnel-remcsum-segmentation
		tx-sctp-segmentation tx-esp-segmentation tx-udp-segmentation tx-gso-list tx-checksum-fcoe-crc tx-checksum-sctp
		rx-ntuple-filter rx-hashing rx-checksum tx-nocache-copy loopback rx-fcs rx-all l2-fwd-offload hw-tc-offload
		esp-hw-offload esp-tx-csum-hw-offload rx-udp_tunnel-port-offload tls-hw-tx-offload tls-hw-rx-offload tls-hw-record
		rx-gro-list macsec-hw-offload rx-udp-gro-forwarding hsr-tag-ins-offload hsr-tag-rm-offload hsr-fwd-offload hsr-dup-offload`)
}

// featureSet is what a driver makes of the kernel's features. What it does not
// name is off and fixed.
type featureSet struct {
	on, off string // that can be changed
	fixed   string // on, and cannot
}

// byKernel are those that the core lets be changed of each netdev that has
// checksums and scatter-gather (NETIF_F_SOFT_FEATURES, NETIF_F_SOFT_FEATURES_OFF,
// and tx-nocache-copy of register_netdevice).
func byKernel() featureSet {
	return featureSet{on: "tx-generic-segmentation rx-gro", off: "rx-gro-list rx-udp-gro-forwarding tx-nocache-copy"}
}

// tunnels are what igb, ice and igbvf leave to GSO partial of one outer header.
const tunnels = "tx-gre-segmentation tx-gre-csum-segmentation tx-ipxip4-segmentation tx-ipxip6-segmentation " +
	"tx-udp_tnl-segmentation tx-udp_tnl-csum-segmentation tx-gso-partial"

// featureSets are those of drivers, as their probes set hw_features and features
// (igb_main.c, igbvf/netdev.c, ice_main.c, mlx5/core/en_main.c, ena_netdev.c,
// virtio_net.c of Linux 6.12).
func featureSets() map[string]featureSet {
	return map[string]featureSet{
		"igb": {
			on: "tx-scatter-gather tx-checksum-ip-generic tx-checksum-sctp tx-tcp-segmentation tx-tcp6-segmentation tx-udp-segmentation " +
				"rx-hashing rx-checksum tx-vlan-hw-insert rx-vlan-hw-parse " + tunnels,
			off:   "rx-all",
			fixed: "highdma rx-vlan-filter",
		},
		"igbvf": {
			on:    "tx-scatter-gather tx-checksum-ip-generic tx-checksum-sctp tx-tcp-segmentation tx-tcp6-segmentation rx-checksum " + tunnels,
			fixed: "highdma rx-vlan-filter rx-vlan-hw-parse tx-vlan-hw-insert",
		},
		"ice": {
			on: "tx-scatter-gather tx-checksum-ip-generic tx-checksum-sctp tx-tcp-segmentation tx-tcp-ecn-segmentation tx-tcp6-segmentation tx-udp-segmentation " +
				"rx-hashing rx-checksum rx-ntuple-filter tx-vlan-hw-insert rx-vlan-hw-parse rx-vlan-filter hw-tc-offload " + tunnels,
			off:   "loopback rx-fcs rx-vlan-stag-hw-parse tx-vlan-stag-hw-insert rx-vlan-stag-filter",
			fixed: "highdma rx-udp_tunnel-port-offload",
		},
		"mlx5_core": {
			on: "tx-scatter-gather tx-checksum-ip-generic tx-tcp-segmentation tx-tcp6-segmentation tx-udp-segmentation tx-gso-partial " +
				"tx-gre-segmentation tx-gre-csum-segmentation tx-ipxip4-segmentation tx-ipxip6-segmentation tx-udp_tnl-segmentation tx-udp_tnl-csum-segmentation " +
				"rx-hashing rx-checksum tx-vlan-hw-insert rx-vlan-hw-parse rx-vlan-filter",
			off:   "rx-lro rx-gro-hw rx-fcs rx-all rx-ntuple-filter rx-vlan-stag-filter hw-tc-offload loopback",
			fixed: "highdma tx-vlan-stag-hw-insert rx-udp_tunnel-port-offload",
		},
		"ena": {
			on:    "tx-scatter-gather tx-checksum-ipv4 rx-hashing rx-checksum",
			fixed: "highdma",
		},
		"virtio_net": {
			on:    "tx-scatter-gather tx-checksum-ip-generic tx-tcp-segmentation tx-tcp-ecn-segmentation tx-tcp6-segmentation",
			off:   "tx-udp-segmentation",
			fixed: "highdma tx-gso-robust rx-checksum rx-vlan-filter",
		},
	}
}

// Features are those of a netdev of a driver, by name: igb, igbvf, ice,
// mlx5_core, ena or virtio_net. Of another driver they are what the kernel adds.
func Features(driver string) []host.Feature {
	has := featureSets()[driver]
	on, off, fixed := strings.Fields(has.on+" "+byKernel().on), strings.Fields(has.off+" "+byKernel().off), strings.Fields(has.fixed)
	if slices.Contains(on, featureTSO) {
		off = append(off, featureMangle) // register_netdevice lets who has the one have the other
	}
	var all []host.Feature
	for _, name := range featureNames() {
		f := host.Feature{Name: name, Fixed: !slices.Contains(on, name) && !slices.Contains(off, name)}
		f.Wanted = slices.Contains(on, name) || slices.Contains(fixed, name)
		f.Active = f.Wanted
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b host.Feature) int { return strings.Compare(a.Name, b.Name) })
	return all
}
