package sim

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"eniagent/drivers/host"
)

// Places in sysfs that links lead to.
const (
	pciRoot      = "/sys/devices/pci0000:00"
	virtualNet   = "/sys/devices/virtual/net"
	pciBus       = "/sys/bus/pci"
	pciDevices   = pciBus + "/devices"
	pciDrivers   = pciBus + "/drivers"
	netClass     = "/sys/class/net"
	uioClass     = "/sys/class/uio"
	moduleRoot   = "/sys/module"
	iommuGroups  = "/sys/kernel/iommu_groups"
	virtioDriver = "/sys/bus/virtio/drivers/virtio_net"
)

// mount hangs what follows from the state into the tree.
func (l *layout) mount() {
	for at, mount := range map[string]func(*machine) (node, bool){
		pciRoot:                           func(m *machine) (node, bool) { return m.busNode(""), true },
		virtualNet:                        func(m *machine) (node, bool) { return m.netdevsNode("", ""), true },
		pciDevices:                        (*machine).pciDevicesNode,
		pciDrivers:                        (*machine).pciDriversNode,
		host.DriversProbe:                 func(*machine) (node, bool) { return node{errno: syscall.EACCES, store: actProbe}, true },
		pciBus + "/rescan":                func(*machine) (node, bool) { return node{errno: syscall.EACCES, store: actRescan}, true },
		pciBus + "/drivers_autoprobe":     func(*machine) (node, bool) { return textNode("1") },
		virtioDriver:                      func(*machine) (node, bool) { return linksNode(virtioDriver, nil, nil), true },
		netClass:                          (*machine).netClassNode,
		uioClass:                          (*machine).uioClassNode,
		moduleRoot:                        (*machine).modulesNode,
		iommuGroups:                       (*machine).groupsNode,
		"/proc":                           (*machine).procNode,
		"/proc/modules":                   (*machine).procModules,
		"/proc/sys/kernel/osrelease":      func(m *machine) (node, bool) { return textNode(m.cfg.Release) },
		"/proc/sys/kernel/tainted":        func(m *machine) (node, bool) { return textNode(strconv.Itoa(m.taintBits())) },
		"/proc/sys/kernel/random/boot_id": func(m *machine) (node, bool) { return textNode(m.bootID()) },
		"/dev":                            (*machine).devNode,
		"/dev/vfio":                       (*machine).devVFIONode,
	} {
		l.root.put(at, &tree{mount: mount})
	}
}

func (m *machine) addresses() []string {
	addrs := make([]string, len(m.Present))
	for i, f := range m.Present {
		addrs[i] = f.Address
	}
	return addrs
}

func (m *machine) pciDevicesNode() (node, bool) {
	return dirNode(m.addresses, func(addr string) (node, bool) {
		if m.find(addr) == nil {
			return node{}, false
		}
		return linkNode(pciDevices, m.dirs[addr])
	}), true
}

// busNode is the functions behind a bridge, or on the root bus.
func (m *machine) busNode(bridge string) node {
	return dirNode(m.addresses, func(addr string) (node, bool) {
		f := m.find(addr)
		if f == nil || m.devices[addr].Bridge != bridge {
			return node{}, false
		}
		return m.functionNode(f), true
	})
}

func (m *machine) functionNode(f *function) node {
	bus, d := m.busNode(f.Address), m.devices[f.Address]
	n := dirNode(func() []string {
		names := attributes()
		if d.Net != nil {
			names = append(names, d.Net.Nest)
		}
		for i := range f.VFs {
			names = append(names, "virtfn"+strconv.Itoa(i))
		}
		return append(names, bus.names()...)
	}, func(name string) (node, bool) {
		if n, ok := m.identityNode(d, name); ok {
			return n, true
		}
		if n, ok := m.relationNode(f, d, name); ok {
			return n, true
		}
		if n, ok := m.healthNode(f, d, name); ok {
			return n, true
		}
		return bus.open(name)
	})
	n.inode = f.Inode
	return n
}

// attributes are the names in a function's directory that do not depend on its
// Config.
func attributes() []string {
	return []string{
		"class", "device", "modalias", "subsystem", "subsystem_device", "subsystem_vendor", "vendor",
		"driver", "driver_override", "iommu_group", "net", "physfn", "remove", "rescan", "uio",
		"sriov_drivers_autoprobe", "sriov_numvfs", "sriov_offset", "sriov_stride", "sriov_totalvfs", "sriov_vf_device", "config", "aer_dev_fatal", "aer_dev_nonfatal",
	}
}

// identityNode is an attribute that never changes.
func (m *machine) identityNode(d *Device, name string) (node, bool) {
	switch name {
	case "vendor":
		return textNode(d.Vendor)
	case "device":
		return textNode(d.Device)
	case "subsystem_vendor":
		return textNode(orZero(d.SubsystemVendor))
	case "subsystem_device":
		return textNode(orZero(d.SubsystemDevice))
	case "class":
		return textNode(d.Class)
	case "modalias":
		return textNode(d.modalias())
	case "subsystem":
		return linkNode(m.dirs[d.Address], pciBus)
	}
	return node{}, false
}

func orZero(id string) string {
	if id == "" {
		return "0x0000"
	}
	return id
}

// relationNode is an attribute that depends on what the function is bound to
// and related to.
func (m *machine) relationNode(f *function, d *Device, name string) (node, bool) {
	dir := m.dirs[f.Address]
	switch name {
	case "driver_override":
		n := node{text: "(null)", store: actOverride, function: f, locks: true}
		if f.Override != nil {
			n.text = *f.Override
		}
		return n, true
	case "driver":
		return linkIf(f.Driver != "" && !f.Leaving, dir, pciDrivers+"/"+f.Driver)
	case "iommu_group":
		return linkIf(m.group(f) != "", dir, iommuGroups+"/"+m.group(f))
	case "remove", "rescan":
		// A VF has neither (pci_dev_hp_attrs_are_visible of drivers/pci/pci-sysfs.c).
		return node{errno: syscall.EACCES, store: map[string]act{"remove": actRemove, "rescan": actRescan}[name], function: f}, d.PF == ""
	case "net":
		n := m.netdevOf(f.Address)
		return m.netdevsNode(f.Address, dir), n != nil && n.Nest == ""
	case "physfn":
		return linkIf(m.find(d.PF) != nil && !f.Removing, dir, m.dirs[d.PF])
	case "uio":
		return m.uioNode(f), f.UIO != ""
	}
	if vf, ok := strings.CutPrefix(name, "virtfn"); ok {
		return m.virtfnNode(f, dir, vf)
	}
	if strings.HasPrefix(name, "sriov_") && d.TotalVFs > 0 {
		return m.sriovNode(f, name)
	}
	if n := m.netdevOf(f.Address); n != nil && n.Nest == name && name != "" {
		return m.nestNode(f, dir+"/"+name), true
	}
	return node{}, false
}

func linkIf(there bool, from, to string) (node, bool) {
	if !there {
		return node{}, false
	}
	return linkNode(from, to)
}

func (m *machine) virtfnNode(f *function, dir, number string) (node, bool) {
	addrs := m.vfs(f.Address)
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 || i >= min(f.VFs, len(addrs)) {
		return node{}, false
	}
	vf := m.find(addrs[i])
	return linkIf(vf != nil && !vf.Removing, dir, m.dirs[addrs[i]])
}

func (m *machine) sriovNode(f *function, name string) (node, bool) {
	switch name {
	case "sriov_totalvfs":
		return textNode(strconv.Itoa(m.totalVFs(f)))
	case "sriov_offset", "sriov_stride":
		return m.routingNode(f, name)
	case "sriov_vf_device": // as PCI_VENDOR_ID, without 0x
		vfs := m.vfs(f.Address)
		if len(vfs) == 0 {
			return textNode("0")
		}
		return textNode(strings.TrimPrefix(m.devices[vfs[0]].Device, "0x"))
	case "sriov_numvfs":
		return node{text: strconv.Itoa(f.VFs), store: actNumVFs, function: f}, true
	case "sriov_drivers_autoprobe":
		return node{text: map[bool]string{false: "1", true: "0"}[f.NoProbe], store: actAutoprobe, function: f}, true
	}
	return node{}, false
}

// routingNode is how the addresses of the VFs follow from the PF's.
func (m *machine) routingNode(f *function, name string) (node, bool) {
	ids := []int{routingID(f.Address)}
	for _, vf := range m.vfs(f.Address) {
		ids = append(ids, routingID(vf))
	}
	if m.devices[f.Address].LateVFs { // legal by the PCIe specification, 9.3.3.9
		ids = ids[:min(len(ids), 1+f.VFs)]
	}
	n := 0
	switch {
	case len(ids) < 2:
	case name == "sriov_offset":
		n = ids[1] - ids[0]
	case len(ids) > 2:
		n = ids[2] - ids[1]
	}
	return textNode(strconv.Itoa(n))
}

// routingID is the bus, device and function of an address as one number.
func routingID(address string) int {
	var domain, bus, device, fn int
	if _, err := fmt.Sscanf(address, "%x:%x:%x.%x", &domain, &bus, &device, &fn); err != nil {
		return 0
	}
	return bus<<8 | device<<3 | fn
}

// nestNode is the child of a function that has its netdev, as a virtio NIC has
// one.
func (m *machine) nestNode(f *function, dir string) node {
	return dirNode(func() []string { return []string{"driver", "net"} }, func(name string) (node, bool) {
		switch name {
		case "driver":
			return linkNode(dir, virtioDriver)
		case "net":
			return m.netdevsNode(f.Address, dir), true
		}
		return node{}, false
	})
}

func (m *machine) pciDriversNode() (node, bool) {
	return dirNode(func() []string { return m.Drivers }, func(name string) (node, bool) {
		if !slices.Contains(m.Drivers, name) {
			return node{}, false
		}
		return m.driverNode(name), true
	}), true
}

func (m *machine) driverNode(driver string) node {
	dir := pciDrivers + "/" + driver
	return dirNode(func() []string { return append(m.addresses(), "bind", "unbind", "module") }, func(name string) (node, bool) {
		switch name {
		case "bind":
			return node{errno: syscall.EACCES, store: actBind, driver: driver}, true
		case "unbind":
			return node{errno: syscall.EACCES, store: actUnbind, driver: driver}, true
		case "module":
			return linkNode(dir, moduleRoot+"/"+m.owners[driver].Name)
		}
		f := m.find(name)
		return linkIf(f != nil && f.Driver == driver && !f.Leaving, dir, m.dirs[name])
	})
}

func (m *machine) modulesNode() (node, bool) {
	return dirNode(func() []string {
		var names []string
		for _, l := range m.Loaded {
			names = append(names, l.Name)
		}
		return names
	}, func(name string) (node, bool) {
		l := m.module(name)
		if l == nil {
			return node{}, false
		}
		return m.moduleNode(l), true
	}), true
}

func (m *machine) moduleNode(l *loaded) node {
	dir, mod := moduleRoot+"/"+l.Name, m.modules[l.Name]
	names := []string{"drivers", "holders", "initstate", "parameters", "refcnt"}
	return dirNode(func() []string { return names }, func(name string) (node, bool) {
		switch name {
		case "initstate":
			return node{text: l.State}, !mod.Builtin
		case "refcnt":
			return node{text: strconv.Itoa(m.references(l.Name))}, !mod.Builtin
		case "holders":
			return linksNode(dir+"/holders", m.holders(l.Name), func(name string) string { return moduleRoot + "/" + name }), !mod.Builtin
		case "parameters":
			return m.paramsNode(l, mod), len(mod.Params) > 0
		case "drivers":
			var drivers []string
			for _, d := range mod.Drivers {
				drivers = append(drivers, "pci:"+d.Name)
			}
			return linksNode(dir+"/drivers", drivers, func(name string) string { return pciDrivers + "/" + strings.TrimPrefix(name, "pci:") }), len(drivers) > 0
		}
		return node{}, false
	})
}

func (m *machine) paramsNode(l *loaded, mod *Module) node {
	return dirNode(func() []string { return slices.Collect(maps.Keys(l.Params)) }, func(name string) (node, bool) {
		at := slices.IndexFunc(mod.Params, func(p Param) bool { return p.Name == name })
		if at < 0 {
			return node{}, false
		}
		n := node{text: l.Params[name], module: l.Name, param: name}
		if !mod.Params[at].ReadOnly {
			n.store = actParam
		}
		return n, true
	})
}

func (m *machine) groupsNode() (node, bool) {
	gs := m.groups()
	return dirNode(func() []string { return slices.Collect(maps.Keys(gs)) }, func(group string) (node, bool) {
		addrs, ok := gs[group]
		if !ok {
			return node{}, false
		}
		return m.groupNode(group, addrs), true
	}), len(gs) > 0
}

func (m *machine) groupNode(group string, addrs []string) node {
	dir := iommuGroups + "/" + group + "/devices"
	noIOMMU := m.find(addrs[0]).NoIOMMU != ""
	return dirNode(func() []string { return []string{"devices", "name", "type"} }, func(name string) (node, bool) {
		switch name {
		case "devices":
			return linksNode(dir, addrs, func(addr string) string { return m.dirs[addr] }), true
		case "name":
			return node{text: "vfio-noiommu"}, noIOMMU
		case "type":
			return node{text: "DMA"}, !noIOMMU
		}
		return node{}, false
	})
}
