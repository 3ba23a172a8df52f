#!/usr/bin/env bash
# A macvlan child that was moved to another network namespace leaves no trace on its parent: of all that
# github.com/vishvananda/netlink v1.3.1 tells of the parent's link, nothing differs with and without the child but the
# promiscuity count, which a capture raises too (and which a NIC that filters addresses does not need). In the namespace
# of the parent no link names it as parent, and the kernel deletes the parent at once, with the child that is up
# elsewhere, with no error. Whoever asks the kernel whether a netdev is free must look into every namespace.
# Wants root (network namespaces), the kernel's macvlan and veth, Go. Seen on Linux 6.18; fails when that has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// told is what the kernel says of the parent but for its counts, and how many links name it as theirs.
func told() (string, int) {
	a := *must(netlink.LinkByName("a0")).Attrs()
	a.Statistics, a.Xdp, a.Promisc = nil, nil, 0
	children := 0
	for _, l := range must(netlink.LinkList()) {
		if l.Type() == "macvlan" && l.Attrs().ParentIndex == a.Index {
			children++
		}
	}
	return fmt.Sprintf("%+v", a), children
}

func main() {
	runtime.LockOSThread()
	here := must(netns.Get())
	elsewhere := must(netns.New()) // and this thread is in it
	if err := netns.Set(here); err != nil {
		panic(err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a0"}, PeerName: "a1"}
	if err := netlink.LinkAdd(veth); err != nil {
		panic(err)
	}
	for _, name := range []string{"a0", "a1"} {
		if err := netlink.LinkSetUp(must(netlink.LinkByName(name))); err != nil {
			panic(err)
		}
	}
	parent := must(netlink.LinkByName("a0"))
	for ; parent.Attrs().OperState != netlink.OperUp; parent = must(netlink.LinkByName("a0")) {
		time.Sleep(10 * time.Millisecond)
	}
	before, _ := told()
	child := &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "m0", ParentIndex: parent.Attrs().Index}, Mode: netlink.MACVLAN_MODE_BRIDGE}
	if err := netlink.LinkAdd(child); err != nil {
		panic(err)
	}
	_, beside := told()
	if err := netlink.LinkSetNsFd(must(netlink.LinkByName("m0")), int(elsewhere)); err != nil {
		panic(err)
	}
	there := must(netlink.NewHandleAt(elsewhere))
	if err := there.LinkSetUp(must(there.LinkByName("m0"))); err != nil {
		panic(err)
	}
	after, away := told()
	fmt.Printf("children told: %d beside the parent, %d elsewhere; the parent's link is told alike: %t\n", beside, away, before == after)
	fmt.Println("delete the parent:", netlink.LinkDel(parent))
	for range 100 {
		if _, err := there.LinkByName("m0"); err != nil {
			fmt.Println("the child:", err)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Println("the child is there")
}
GO
cat >go.mod <<'GO'
module finding

go 1.24

require (
	github.com/vishvananda/netlink v1.3.1
	github.com/vishvananda/netns v0.0.5
)
GO
go mod tidy >/dev/null 2>&1
CGO_ENABLED=0 go build -o ask .
said=$(unshare -n ./ask)
echo "$said"
grep -q '^children told: 1 beside the parent, 0 elsewhere; the parent.s link is told alike: true$' <<<"$said"
grep -q '^delete the parent: <nil>$' <<<"$said"
grep -q '^the child: Link not found$' <<<"$said"
