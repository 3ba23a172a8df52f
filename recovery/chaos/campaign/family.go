//go:build linux

package main

import (
	"context"
	"fmt"
	"path"
	"time"
)

// family is operations that lead to where the next one of them begins, and how
// each is cut off.
type family struct {
	name        string
	kinds       []kind
	ends        []string
	pace, whole time.Duration // between changes of mind, and how long these go on at most
	rare        bool          // it has many labels, so each of them meets each end a third as often
}

// kind is an operation that is crashed: from what to what, and what must be
// true of the node once it is there.
type kind struct {
	name     string
	from, to func(*node) string
	right    func(context.Context, *node) error
}

// ends are all the ways in which a run is cut off.
func ends() []string { return []string{"SIGKILL", "power cut", "sysrq b", "panic"} }

func families() []family {
	on := func(driver string) func(*node) string {
		return func(n *node) string { return fmt.Sprintf("{pci: %q, driver: %s}", n.a.Addr, driver) }
	}
	link := func(up bool, mtu int) func(*node) string {
		return func(n *node) string { return fmt.Sprintf("{pci: %q, driver: igb, up: %t, mtu: %d}", n.a.Addr, up, mtu) }
	}
	return []family{
		{"driver", []kind{
			{"bind", link(true, 4000), on("vfio-pci"), isOn("vfio-pci")},
			{"unbind", on("vfio-pci"), link(true, 4000), isOn("igb")},
		}, ends(), 150 * time.Millisecond, 4 * time.Second, false},
		{"link", []kind{{"link", link(false, 1500), link(true, 4000), isOn("igb")}}, ends(), 150 * time.Millisecond, 4 * time.Second, false},
		{"vfs", []kind{
			{"VFs made", vfs(0), vfs(2), hasVFs(2)},
			{"VFs changed", vfs(2), vfs(3), hasVFs(3)},
			{"VFs removed", vfs(3), vfs(0), hasVFs(0)},
		}, []string{"SIGKILL", "power cut"}, 2 * time.Second, 12 * time.Second, true},
	}
}

// roundsOf is how often each label of a family meets each end.
func (c *campaign) roundsOf(f family) int {
	if f.rare {
		return max(1, c.rounds/3)
	}
	return c.rounds
}

// isOn wants the function on a driver.
func isOn(driver string) func(context.Context, *node) error {
	return func(ctx context.Context, n *node) error { return n.driverIs(ctx, n.a.Addr, driver) }
}

func (n *node) driverIs(ctx context.Context, address, driver string) error {
	link, err := n.vm.Readlink(ctx, "/sys/bus/pci/devices/"+address+"/driver")
	if err == nil && path.Base(link) != driver {
		err = fmt.Errorf("%s is on %s, not on %s", address, link, driver)
	}
	return err
}

// vfs asks for so many VFs for DPDK, but for the second, which has a link, and a
// MAC and a VLAN of its own.
func vfs(count int) func(*node) string {
	return func(n *node) string {
		if count == 0 {
			return fmt.Sprintf("{pci: %q, up: true, vfs: {count: 0}}", n.a.Addr)
		}
		return fmt.Sprintf("{pci: %q, up: true, vfs: {count: %d, defaults: {driver: vfio-pci, trust: true}, overrides: [%s]}}",
			n.a.Addr, count, "{index: 1, driver: igbvf, mtu: 1400, mac: \"52:54:00:01:00:01\", vlan: {id: 100}}")
	}
}

// hasVFs wants so many, each on its driver, and the switch for VFs that nobody
// asks for as the kernel has it.
func hasVFs(count int) func(context.Context, *node) error {
	return func(ctx context.Context, n *node) error {
		for what, want := range map[string]string{"sriov_numvfs": fmt.Sprint(count), "sriov_drivers_autoprobe": "1"} {
			is, err := n.vm.ReadText(ctx, n.a.Sysfs(what))
			if err == nil && is != want {
				err = fmt.Errorf("%s is %q, not %s", what, is, want)
			}
			if err != nil {
				return err
			}
		}
		for i := range count {
			link, err := n.vm.Readlink(ctx, n.a.Sysfs(fmt.Sprintf("virtfn%d", i)))
			if err != nil {
				return err
			}
			driver := "vfio-pci"
			if i == 1 {
				driver = "igbvf"
			}
			if err := n.driverIs(ctx, path.Base(link), driver); err != nil {
				return err
			}
		}
		return nil
	}
}
