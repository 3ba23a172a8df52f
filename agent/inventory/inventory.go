package inventory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// Function is one PCI network function.
type Function struct {
	Address  drivers.Target `json:"address"`
	ID       string         `json:"id"` // vendor:device, "8086:10c9"
	Driver   string         `json:"driver,omitempty"`
	Override string         `json:"override,omitempty"`
	Group    string         `json:"iommu_group,omitempty"`
	Role     string         `json:"role"` // "pf", "vf" or "" for a function without SR-IOV
	PF       drivers.Target `json:"pf,omitempty"`
	VFs      int            `json:"vfs,omitempty"`       // there are
	TotalVFs int            `json:"total_vfs,omitempty"` // there may be
	Netdev   string         `json:"netdev,omitempty"`
	MAC      string         `json:"mac,omitempty"`
	MTU      int            `json:"mtu,omitempty"`
	Link     string         `json:"link,omitempty"` // "up", "down", "up, no carrier"
	// InUse says by whom, as far as can be seen: programs that hold the vfio or
	// uio device, or "bond0" where the netdev belongs to something.
	InUse   string `json:"in_use,omitempty"`
	Problem string `json:"problem,omitempty"` // what could not be read
}

// classNetwork is the base class of network controllers (PCI Code and ID
// Assignment Specification).
const classNetwork = "0x02"

// List reads all network functions, by address.
func List(ctx context.Context, h host.Host) ([]Function, error) {
	addresses, err := h.List(ctx, strings.TrimSuffix(host.PCIDevices, "/"))
	if err != nil {
		return nil, fmt.Errorf("list PCI functions: %w", err)
	}
	links, linksErr := h.Links(ctx)
	byIndex := map[int]host.Link{}
	for _, l := range links {
		byIndex[l.Index] = l
	}
	holders := host.HoldersOf(ctx, h)
	functions := []Function{}
	for _, a := range addresses {
		class, err := h.Read(ctx, host.Attr(a, "class"))
		if err != nil || !strings.HasPrefix(class, classNetwork) {
			continue // not a network function, or gone since it was listed
		}
		f := read(ctx, h, a, byIndex)
		if f.InUse == "" {
			if node, err := host.NodeOf(ctx, h, string(f.Address), f.Driver); err == nil {
				f.InUse = strings.Join(holders[node], ", ")
			}
		}
		if linksErr != nil && f.Netdev != "" {
			f.Problem = linksErr.Error()
		}
		functions = append(functions, f)
	}
	return functions, nil
}

func read(ctx context.Context, h host.Host, address string, links map[int]host.Link) Function {
	problem := ""
	attr := func(name string) string {
		s, err := h.Read(ctx, host.Attr(address, name))
		if err != nil && !missing(err) && problem == "" {
			problem = err.Error()
		}
		if err != nil {
			return ""
		}
		return s
	}
	number := func(name string) int {
		n, err := strconv.Atoi(attr(name))
		if err != nil {
			return 0
		}
		return n
	}
	base := func(name string) string {
		link, err := h.Readlink(ctx, host.Attr(address, name))
		if err != nil {
			return ""
		}
		return path.Base(link)
	}
	f := Function{
		Address: drivers.Target(address), Driver: base("driver"), Group: base("iommu_group"),
		ID:       strings.TrimPrefix(attr("vendor"), "0x") + ":" + strings.TrimPrefix(attr("device"), "0x"),
		TotalVFs: number("sriov_totalvfs"), PF: drivers.Target(base("physfn")),
	}
	switch {
	case f.PF != "":
		f.Role = "vf"
	case f.TotalVFs > 0:
		f.Role, f.VFs = "pf", number("sriov_numvfs")
	}
	if held, err := h.Fenced(f.Address); err == nil && held {
		f.Problem = "a write still runs in the kernel on it"
		return f
	}
	if f.Override = attr("driver_override"); f.Override == "(null)" {
		f.Override = ""
	}
	f.Problem = problem
	dev, err := host.NetdevOf(ctx, h, address)
	if err != nil {
		f.Problem = err.Error()
	}
	if l, ok := links[dev.Index]; ok && dev.Name != "" {
		f.netdev(l, links)
	}
	return f
}

func (f *Function) netdev(l host.Link, links map[int]host.Link) {
	f.Netdev, f.MAC, f.MTU = l.Name, l.PermMAC, l.MTU
	if f.MAC == "" {
		f.MAC = l.MAC
	}
	switch {
	case !l.Up:
		f.Link = "down"
	case l.Oper == "down" || l.Oper == "lower-layer-down":
		f.Link = "up, no carrier"
	default:
		f.Link = "up"
	}
	if m, ok := links[l.Master]; ok && l.Master != 0 {
		f.InUse = "member of " + m.Name
	}
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
