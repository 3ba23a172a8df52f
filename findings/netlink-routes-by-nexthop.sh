#!/usr/bin/env bash
# github.com/vishvananda/netlink v1.3.1 lists a route that names a nexthop object without any netdev, gateway or error
# once net.ipv4.nexthop_compat_mode is 0 (Linux 5.8 and later): the kernel then sends RTA_NH_ID and no RTA_OIF, and the
# package does not know RTA_NH_ID. Its list of rules has no action either: a prohibit rule looks like one that looks up
# table 0. Whoever asks it by which netdev a node reaches the world is told: by none.
# Wants root (a network namespace), Go and iproute2. Seen on Linux 6.18; fails when that has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

func main() {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	for _, r := range routes {
		if r.Dst != nil && r.Dst.String() == "0.0.0.0/0" {
			fmt.Printf("default: netdev %d, gateway %v, hops %d, error %v\n", r.LinkIndex, r.Gw, len(r.MultiPath), err)
		}
	}
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	for _, r := range rules {
		if r.Priority == 77 {
			fmt.Printf("rule 77: table %d, type %d, error %v\n", r.Table, r.Type, err)
		}
	}
}
GO
cat >go.mod <<'GO'
module finding

go 1.24

require github.com/vishvananda/netlink v1.3.1
GO
go mod tidy >/dev/null 2>&1
CGO_ENABLED=0 go build -o list .
said=$(unshare -n bash -c '
	set -e
	ip link add a0 type veth peer name a1
	ip link set a0 up; ip link set a1 up
	ip addr add 10.1.0.2/24 dev a0
	ip nexthop add id 5 via 10.1.0.1 dev a0
	ip route add default nhid 5
	ip rule add priority 77 to 192.0.2.0/24 prohibit
	./list
	sysctl -q -w net.ipv4.nexthop_compat_mode=0
	echo compat 0; ./list
	ip route show default; ip rule show priority 77
')
echo "$said"
grep -q '^default: netdev [1-9]' <<<"$said"
grep -A1 '^compat 0' <<<"$said" | grep -q '^default: netdev 0, gateway <nil>, hops 0, error <nil>'
grep -q '^default nhid 5 via 10.1.0.1 dev a0' <<<"$said" || grep -q '^default nhid 5' <<<"$said"
grep -q '^rule 77: table 0, type 0, error <nil>' <<<"$said"
grep -q '^77:.*prohibit' <<<"$said"
echo "as found: the route leads nowhere, and the rule has no action"
