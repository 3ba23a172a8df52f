package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
)

// inUse refuses to take a driver from a function that somebody uses. What the
// kubelet says of that was asked after since.
func (g *Guard) inUse(ctx context.Context, spec drivers.Spec, t drivers.Target, from drivers.State, since time.Time) error {
	if spec.Hides == nil {
		return nil // the link's own kinds take nothing from a program
	}
	binding, err := dpdk.Parse(from)
	if restores := err == nil && g.restores(t, binding.Driver); !restores {
		if err := g.allocated(ctx, t, since); err != nil {
			return err
		}
	}
	if err != nil {
		return nil //nolint:nilerr // a foreign override; the driver itself says what it is when it is left
	}
	if drivers.Userspace(binding.Driver) {
		return g.held(ctx, t, binding.Driver)
	}
	if drivers.Bare(binding.Driver) {
		return nil // it has no netdev that could be elsewhere
	}
	dev, err := host.NetdevOf(ctx, g.o.Host, string(t))
	if err != nil {
		return err
	}
	if dev.Name != "" {
		return g.parent(ctx, t, dev)
	}
	class, err := g.o.Host.Read(ctx, host.Attr(string(t), "class"))
	if err != nil || !strings.HasPrefix(class, "0x02") {
		return nil //nolint:nilerr // no network function, or gone: then the write says so
	}
	return g.refuse(InUse, t, "it goes on by itself when the netdev is back in the host's namespace",
		"driver %s is bound and shows no netdev here: it is in another network namespace, such as a pod's", binding.Driver)
}

// restores says whether a pod waits for what is written to a function: it
// outlives a reboot with its allocation, the function's driver does not.
func (g *Guard) restores(t drivers.Target, driver string) bool {
	return !drivers.Userspace(driver) && g.o.Restores != nil && g.o.Restores(t)
}

// ofAPod refuses to change what a physical function keeps for a virtual one
// that a pod has: a network plugin sets it for its pods (sriov-cni does), and
// puts it back when they end.
func (g *Guard) ofAPod(ctx context.Context, spec drivers.Spec, t drivers.Target, from drivers.State, since time.Time) error {
	if !spec.OfVF || from == drivers.Hidden || g.o.Allocated == nil {
		return nil
	}
	driver, err := host.DriverOf(ctx, g.o.Host, string(t))
	if err != nil || g.restores(t, driver) {
		return err
	}
	return g.allocated(ctx, t, since)
}

// allocated refuses what would take a function from the pod that the kubelet
// has allocated it to, whether or not the pod has opened it yet.
func (g *Guard) allocated(ctx context.Context, t drivers.Target, since time.Time) error {
	if g.o.Allocated == nil {
		return nil
	}
	allocated, err := g.o.Allocated(ctx, since)
	if err != nil {
		return g.refuse(InUse, t, `it goes on by itself once the kubelet answers; --pod-resources "" where there is none any more`,
			"the kubelet does not say what is allocated: %v", err)
	}
	if len(allocated) == 0 {
		return nil
	}
	too, err := g.goWith(ctx, t)
	if err != nil {
		return err
	}
	for _, f := range append([]drivers.Target{t}, too...) {
		pod, ok := allocated[f]
		switch {
		case ok && f == t:
			return g.refuse(InUse, t, whenItEnds(pod), "allocated to %s", pod)
		case ok:
			return g.refuse(InUse, t, whenItEnds(pod), "%s, which goes with it, is allocated to %s", f, pod)
		}
	}
	return nil
}

// whenItEnds is the way out, of a pod that has completed too: a kubelet before
// Kubernetes 1.34 lists it until it is deleted, and does not say that it has
// (KubeletPodResourcesListUseActivePods).
func whenItEnds(pod string) string {
	way := "it goes on by itself when the pod ends"
	named, _, _ := strings.Cut(strings.TrimPrefix(pod, "pod "), ",")
	if namespace, name, ok := strings.Cut(named, "/"); ok {
		way += fmt.Sprintf("; if it has completed, a kubelet before 1.34 wants: kubectl delete pod -n %s %s", namespace, name)
	}
	return way
}

// goWith are the functions that no program can use any more once this one has
// lost its driver: its VFs, and what shares its IOMMU group under vfio-pci.
func (g *Guard) goWith(ctx context.Context, t drivers.Target) ([]drivers.Target, error) {
	too, err := g.vfsOf(ctx, t)
	if err != nil {
		return nil, err
	}
	driver, err := host.DriverOf(ctx, g.o.Host, string(t))
	if err != nil || driver != "vfio-pci" {
		return too, err
	}
	members, err := host.GroupOf(ctx, g.o.Host, string(t))
	for _, m := range members {
		too = append(too, drivers.Target(m.Address))
	}
	return too, err
}

// held asks the kernel whether a program holds a function on a userspace
// driver: opening a vfio group that is open already is EBUSY
// (drivers/vfio/group.c), whoever holds it and from whatever namespace. The
// device cgroup of a container forbids that (EPERM), whatever its capabilities;
// then it is what all processes of the machine have open that tells.
func (g *Guard) held(ctx context.Context, t drivers.Target, driver string) error {
	node, err := host.NodeOf(ctx, g.o.Host, string(t), driver)
	if err != nil || node == "" {
		return err
	}
	known, all := host.AllHoldersOf(ctx, g.o.Host)
	who := known[node]
	// A device that is opened by its own node is not in the group's.
	if own, err := g.o.Host.List(ctx, host.Attr(string(t), "vfio-dev")); err == nil {
		for _, name := range own {
			who = append(who, known["/dev/vfio/devices/"+name]...)
		}
	}
	holders := strings.Join(who, ", ")
	if driver == "vfio-pci" {
		_, err = g.o.Host.Read(ctx, node)
	}
	switch {
	case errors.Is(err, syscall.EBUSY), holders != "":
		if holders == "" {
			holders = "a program that cannot be seen from here"
		}
		return g.refuse(InUse, t, "it goes on by itself when the program ends", "%s is held by %s", path.Base(node), holders)
	case errors.Is(err, syscall.EPERM) && all:
	case errors.Is(err, fs.ErrPermission):
		return g.refuse(InUse, t, "run the agent with CAP_DAC_READ_SEARCH, or as root; in a container, with the host's PIDs and CAP_SYS_PTRACE", "whether %s is held cannot be asked: %v", path.Base(node), err)
	}
	return nil // no node, so nobody can have opened it, or free
}
