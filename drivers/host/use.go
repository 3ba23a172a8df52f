package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"

	"eniagent/drivers"
)

// FunctionOf is the PCI function behind a link; "" when there is none.
func FunctionOf(ctx context.Context, r Reader, l Link) drivers.Target {
	for _, p := range []string{SysNet + l.Name, SysNet + l.Name + "/device"} {
		if device, err := r.Readlink(ctx, p); err == nil {
			if t := LastPCI(device); t != "" {
				return t
			}
		}
	}
	t := drivers.Target(l.Bus)
	if _, ok := t.PCIAddress(); ok {
		return t
	}
	return ""
}

// Member is a function of an IOMMU group.
type Member struct {
	Address string
	Driver  string // "" when it has none
	Bridge  bool   // bridges do not count for the group's viability
}

// Viable says that a member does not keep a group from programs: the drivers
// that let go of its DMA (driver_managed_dma) are pci-stub, and vfio-pci and its
// variants for single devices, such as mlx5_vfio_pci.
func (m Member) Viable() bool {
	return m.Bridge || m.Driver == "" || m.Driver == "pci-stub" || strings.Contains(m.Driver, "vfio")
}

// classBridge is the class of PCI-to-PCI bridges, whatever their interface.
const classBridge = "0x0604"

// GroupOf are the members of a function's IOMMU group, itself included; none
// when it has no group.
func GroupOf(ctx context.Context, r Reader, address string) ([]Member, error) {
	group, err := r.Readlink(ctx, Attr(address, "iommu_group"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read IOMMU group of %s: %w", address, err)
	}
	addresses, err := r.List(ctx, iommuGroups+path.Base(group)+"/devices")
	if err != nil {
		return nil, fmt.Errorf("list IOMMU group of %s: %w", address, err)
	}
	var members []Member
	for _, a := range addresses {
		driver, err := DriverOf(ctx, r, a)
		if err != nil && !errors.Is(err, drivers.ErrGone) {
			return nil, err
		}
		class, err := r.Read(ctx, Attr(a, "class"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read class of %s: %w", a, err)
		}
		members = append(members, Member{Address: a, Driver: driver, Bridge: strings.HasPrefix(class, classBridge)})
	}
	return members, nil
}

// OpenableIn are the functions of an IOMMU group, by its number, that a program
// can open by it: those on vfio-pci. None when there is no such group.
func OpenableIn(ctx context.Context, r Reader, number string) ([]drivers.Target, error) {
	addresses, err := r.List(ctx, iommuGroups+number+"/devices")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list IOMMU group %s: %w", number, err)
	}
	var functions []drivers.Target
	for _, a := range addresses {
		driver, err := DriverOf(ctx, r, a)
		if err != nil && !errors.Is(err, drivers.ErrGone) {
			return nil, err
		}
		if t, notPCI := drivers.PCI(a); notPCI == nil && driver == "vfio-pci" {
			functions = append(functions, t)
		}
	}
	return functions, nil
}

const iommuGroups = "/sys/kernel/iommu_groups/"

// NodeOf is the device node that a program opens to use a function on a
// userspace driver; "" when there is none.
func NodeOf(ctx context.Context, r Reader, address, driver string) (string, error) {
	if driver == "vfio-pci" {
		group, err := r.Readlink(ctx, Attr(address, "iommu_group"))
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("read IOMMU group of %s: %w", address, err)
		}
		return "/dev/vfio/" + path.Base(group), nil
	}
	names, err := r.List(ctx, Attr(address, "uio"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("list uio of %s: %w", address, err)
	}
	return "/dev/" + names[0], nil
}

// HoldersOf finds who has a vfio or uio node open, by node: "dpdk-testpmd (pid
// 17, pod 6f1c...)". Processes that this one may not look into are not seen.
func HoldersOf(ctx context.Context, r Reader) map[string][]string {
	holders, _ := AllHoldersOf(ctx, r)
	return holders
}

// everyPID is the first PID namespace of a kernel, PROC_PID_INIT_INO in
// include/linux/proc_ns.h: a /proc of it has every process.
const everyPID = "pid:[4026531836]"

// AllHoldersOf is HoldersOf, and whether that is everybody: no process is in
// another PID namespace, or hides what it has open.
func AllHoldersOf(ctx context.Context, r Reader) (holders map[string][]string, all bool) {
	holders = map[string][]string{}
	pids, err := r.List(ctx, "/proc")
	if err != nil {
		return holders, false
	}
	namespace, err := r.Readlink(ctx, "/proc/1/ns/pid")
	all = err == nil && namespace == everyPID
	for _, pid := range pids {
		if _, err := strconv.Atoi(pid); err != nil {
			continue
		}
		nodes, seen := opened(ctx, r, pid)
		all = all && seen
		for _, node := range nodes {
			holders[node] = append(holders[node], holder(ctx, r, pid))
		}
	}
	return holders, all
}

// opened are the vfio and uio nodes that a process has open, and whether all of
// them are seen. One that has ended has none.
func opened(ctx context.Context, r Reader, pid string) (nodes []string, all bool) {
	fds, err := r.List(ctx, "/proc/"+pid+"/fd")
	if err != nil {
		return nil, ended(err)
	}
	all = true
	for _, fd := range fds {
		to, err := r.Readlink(ctx, "/proc/"+pid+"/fd/"+fd)
		if err != nil {
			all = all && ended(err)
			continue
		}
		// In the process's own view: a container may have the node's /dev elsewhere.
		at := strings.Index(to, "/dev/")
		if at < 0 {
			continue
		}
		to = strings.TrimSuffix(to[at:], " (deleted)")
		if (strings.HasPrefix(to, "/dev/vfio/") || strings.HasPrefix(to, "/dev/uio")) && to != "/dev/vfio/vfio" {
			nodes = append(nodes, to)
		}
	}
	return nodes, all
}

// ended says that a process, or what it had open, is gone by now.
func ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

func holder(ctx context.Context, r Reader, pid string) string {
	name, err := r.Read(ctx, "/proc/"+pid+"/comm")
	if err != nil {
		name = "?"
	}
	where := "pid " + pid
	if cgroup, err := r.Read(ctx, "/proc/"+pid+"/cgroup"); err == nil {
		where += podIn(cgroup)
	}
	return name + " (" + where + ")"
}

// podIn reads the pod's uid out of a cgroup path: the kubelet names its groups
// "pod<uid>" (cgroupfs) or "kubepods-...-pod<uid>.slice" (systemd).
func podIn(cgroup string) string {
	for part := range strings.FieldsFuncSeq(cgroup, func(r rune) bool { return r == '/' || r == '\n' }) {
		at := strings.LastIndex(part, "pod")
		if at < 0 || !strings.Contains(cgroup, "kubepods") || strings.HasPrefix(part[at:], "pods") {
			continue
		}
		uid := strings.TrimSuffix(part[at+len("pod"):], ".slice")
		if len(uid) >= 32 {
			return ", pod " + strings.ReplaceAll(uid, "_", "-")
		}
	}
	return ""
}
