package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// Config is what a machine is made of.
type Config struct {
	Seed    string   `json:"seed,omitempty"` // boot ids and random MACs follow from it
	Release string   `json:"release"`        // of the kernel: the name of the module directory
	Devices []Device `json:"devices"`
	Modules []Module `json:"modules"`
	Links   []Netdev `json:"links,omitempty"` // those that are no PCI function's: lo, a bond, a VLAN
	// Routes and Rules are there while the node is up, beside the default routes of
	// its netdevs and the rules that a kernel starts with.
	Routes []Route     `json:"routes,omitempty"`
	Rules  []host.Rule `json:"rules,omitempty"`
	// Files are path to text, without the trailing newline. One whose name ends in
	// ".json" is there at the first boot, byte for byte, and may be written.
	Files map[string]string `json:"files,omitempty"`
	// Fence makes Do refuse a target that a write still holds, as host.Pool
	// does, instead of queueing behind it.
	Fence bool `json:"fence,omitempty"`
}

// Device is a PCI function. One with a PF is a virtual function: it is there
// while its PF has at least as many VFs as its place among them.
type Device struct {
	Address         string  `json:"address"`
	Vendor          string  `json:"vendor"` // "0x8086"
	Device          string  `json:"device"` // "0x10c9"
	SubsystemVendor string  `json:"subsystem_vendor,omitempty"`
	SubsystemDevice string  `json:"subsystem_device,omitempty"`
	Class           string  `json:"class"`                 // "0x020000"
	Bridge          string  `json:"bridge,omitempty"`      // the function it sits behind
	IOMMUGroup      string  `json:"iommu_group,omitempty"` // "" when there is none
	PF              string  `json:"pf,omitempty"`
	TotalVFs        int     `json:"total_vfs,omitempty"` // that its own driver can make
	BareVFs         int     `json:"bare_vfs,omitempty"`  // that the function has room for, when a driver makes fewer; 0 is TotalVFs
	NumVFs          int     `json:"num_vfs,omitempty"`   // at the first boot
	BootVFs         int     `json:"boot_vfs,omitempty"`  // at every later boot: some unit of the host makes them
	LateVFs         bool    `json:"late_vfs,omitempty"`  // First VF Offset and VF Stride read 0 while it has too few VFs for them
	Override        string  `json:"override,omitempty"`  // driver_override that the host sets at each boot
	Absent          bool    `json:"absent,omitempty"`    // an empty slot
	Net             *Netdev `json:"net,omitempty"`
}

// Netdev is what a network device is like when it has just come up.
type Netdev struct {
	Name      string   `json:"name"`
	Rename    string   `json:"rename,omitempty"` // its name when it comes again within a boot
	AltNames  []string `json:"alt_names,omitempty"`
	Kind      string   `json:"kind,omitempty"` // "", "loopback", "vlan", "bond", "bridge"
	MAC       string   `json:"mac,omitempty"`  // "" is a random one each time
	PermMAC   string   `json:"perm_mac,omitempty"`
	MTU       int      `json:"mtu,omitempty"` // bytes; 0 is 1500
	MinMTU    int      `json:"min_mtu,omitempty"`
	MaxMTU    int      `json:"max_mtu,omitempty"`
	Up        bool     `json:"up,omitempty"` // the host sets it up when it boots
	NoCarrier bool     `json:"no_carrier,omitempty"`
	NoIPv6    bool     `json:"no_ipv6,omitempty"`
	Master    string   `json:"master,omitempty"` // name of the bond or bridge that takes it at boot
	Lower     string   `json:"lower,omitempty"`  // name of the device that a VLAN sits on
	Peer      string   `json:"peer,omitempty"`   // name of the other end of a veth
	// Elsewhere is that its lower device or other end is in another network namespace.
	Elsewhere bool `json:"elsewhere,omitempty"`
	// Netns is another network namespace that it is in: there is none of it here but
	// what it does to its lower device.
	Netns string `json:"netns,omitempty"`
	// Tunnel is what it is for a tunnel, its index and that of what it is bound to
	// aside.
	Tunnel *host.Tunnel `json:"tunnel,omitempty"`
	// Defaults are the default routes that leave by it once the host has booted,
	// and Addresses the addresses it has then. Both go with the netdev.
	Defaults  []host.Default `json:"defaults,omitempty"`
	Addresses []string       `json:"addresses,omitempty"`
	// Set is what its driver gives it and lets be set, each group with its maximum;
	// a group without one is EOPNOTSUPP.
	Set  *Settings `json:"set,omitempty"`
	Nest string    `json:"nest,omitempty"` // "virtio0": the child of the function that has the netdev
}

// Route is a route whose netdevs are named. It is there while one of them is up.
type Route struct {
	To     string         `json:"to"`               // "default" is of IPv4
	Table  int            `json:"table,omitempty"`  // 0 is main
	Metric int            `json:"metric,omitempty"` // the lowest is taken
	Dev    []string       `json:"dev,omitempty"`
	Kind   host.RouteKind `json:"kind,omitempty"`
}

// Settings are the settings that a netdev comes up with, and their limits.
type Settings struct {
	host.Settings
	// MaxWithVFs bounds the combined channels while the function has VFs.
	MaxWithVFs int `json:"max_with_vfs,omitempty"`
	// MinRing is what a ring is enlarged to, RingStep what its size is rounded up
	// to a multiple of; 0 is any.
	MinRing  int `json:"min_ring,omitempty"`
	RingStep int `json:"ring_step,omitempty"`
}

// Module is a kernel module, or a built-in.
type Module struct {
	Name      string   `json:"name"`           // as in /sys/module
	Path      string   `json:"path,omitempty"` // below the module directory: "kernel/drivers/vfio/vfio.ko.xz"
	Builtin   bool     `json:"builtin,omitempty"`
	Boot      bool     `json:"boot,omitempty"` // loaded when the host boots
	OutOfTree bool     `json:"out_of_tree,omitempty"`
	Needs     []string `json:"needs,omitempty"` // modules whose symbols it uses
	SoftPre   []string `json:"soft_pre,omitempty"`
	SoftPost  []string `json:"soft_post,omitempty"`
	Drivers   []Driver `json:"drivers,omitempty"`
	Params    []Param  `json:"params,omitempty"`
}

// Driver is a PCI driver that a module registers.
type Driver struct {
	Name  string   `json:"name"`
	Match []string `json:"match,omitempty"` // "8086:10c9" or "class:0604"; none is by override only
	Makes Makes    `json:"makes,omitempty"`
	// RefusesOthers is what its probe says of a function that Match has not, which
	// it meets by an override only: EINVAL of igb_probe for a VF, ENODEV of
	// pcie_portdrv_probe for what is no port. 0 is that it takes it.
	RefusesOthers syscall.Errno `json:"refuses_others,omitempty"`
	// RandomIsPermanent is that it tells a MAC that it has made up as the
	// device's permanent one (igbvf_reset copies it to perm_addr).
	RandomIsPermanent bool `json:"random_is_permanent,omitempty"`
	// StubVFs is that it makes VFs and leaves them when it goes, with no netdev to
	// set anything of them (pci_sriov_configure_simple).
	StubVFs bool `json:"stub_vfs,omitempty"`
	// VFs is what it lets be set of the VFs that it makes; nil is nothing.
	VFs *VFLimits `json:"vfs,omitempty"`
}

// Makes is what a function has once it is bound to a driver.
type Makes string

// What drivers make of a function.
const (
	MakesNothing Makes = ""
	MakesNet     Makes = "net"  // the netdev of its Config
	MakesVFIO    Makes = "vfio" // a node in /dev/vfio
	MakesUIO     Makes = "uio"  // /dev/uioN
)

// Param is a parameter of a module.
type Param struct {
	Name     string `json:"name"`
	Default  string `json:"default"` // "Y" or "N" when Bool
	Bool     bool   `json:"bool,omitempty"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Validate says what is wrong with a machine that cannot be.
func (c Config) Validate() error {
	if c.Release == "" {
		return fmt.Errorf("config has no kernel release")
	}
	seen := map[string]bool{}
	for _, d := range c.Devices {
		if err := d.validate(c); err != nil {
			return fmt.Errorf("device %q: %w", d.Address, err)
		}
		if seen[d.Address] {
			return fmt.Errorf("device %q: there are two of them", d.Address)
		}
		seen[d.Address] = true
	}
	for _, r := range c.Routes {
		if _, err := r.prefix(); err != nil {
			return fmt.Errorf("route %q: %w", r.To, err)
		}
	}
	for _, m := range c.Modules {
		if _, err := drivers.Module(m.Name); err != nil {
			return err
		}
		for _, need := range m.Needs {
			if !slices.ContainsFunc(c.Modules, func(o Module) bool { return moduleName(o.Name) == moduleName(need) }) {
				return fmt.Errorf("module %q: needs %q, which is not in the config", m.Name, need)
			}
		}
	}
	return nil
}

func (d Device) validate(c Config) error {
	if t, err := drivers.PCI(d.Address); err != nil || string(t) != d.Address {
		return fmt.Errorf("address is not domain:bus:device.function in lower case")
	}
	for _, other := range []string{d.PF, d.Bridge} {
		if other != "" && !slices.ContainsFunc(c.Devices, func(o Device) bool { return o.Address == other && o.PF == "" && other != d.Address }) {
			return fmt.Errorf("function %q, which it names, is not in the config", other)
		}
	}
	return nil
}

// copy is a Config that shares nothing that its owner may change.
func (c Config) copy() Config {
	c.Devices = slices.Clone(c.Devices)
	for i := range c.Devices {
		if n := c.Devices[i].Net; n != nil {
			net := *n
			c.Devices[i].Net = &net
		}
	}
	c.Modules = slices.Clone(c.Modules)
	c.Links = slices.Clone(c.Links)
	c.Files = maps.Clone(c.Files)
	return c
}

// modalias is the function's name for udev and depmod.
func (d *Device) modalias() string {
	class := strings.TrimPrefix(d.Class, "0x")
	for len(class) < 6 {
		class = "0" + class
	}
	return fmt.Sprintf("pci:v%sd%ssv%ssd%sbc%ssc%si%s", wide(d.Vendor), wide(d.Device), wide(d.SubsystemVendor), wide(d.SubsystemDevice),
		strings.ToUpper(class[:2]), strings.ToUpper(class[2:4]), strings.ToUpper(class[4:6]))
}

// wide is a hexadecimal id as modalias has it: eight digits, upper case.
func wide(id string) string {
	id = strings.ToUpper(strings.TrimPrefix(id, "0x"))
	return strings.Repeat("0", max(0, 8-len(id))) + id
}

// takes says whether the driver's table has the function's ids.
func (d *Driver) takes(f *Device) bool {
	for _, id := range d.Match {
		if class, ok := strings.CutPrefix(id, "class:"); ok {
			if strings.HasPrefix(f.Class, "0x"+class) {
				return true
			}
			continue
		}
		vendor, device, _ := strings.Cut(id, ":")
		if strings.HasSuffix(f.Vendor, vendor) && strings.HasSuffix(f.Device, device) {
			return true
		}
	}
	return false
}

// alias is the pattern for modules.alias of one entry of Match.
func alias(id string) string {
	if class, ok := strings.CutPrefix(id, "class:"); ok {
		class = strings.ToUpper(class)
		return fmt.Sprintf("pci:v*d*sv*sd*bc%ssc%si*", class[:2], class[2:])
	}
	vendor, device, _ := strings.Cut(id, ":")
	return fmt.Sprintf("pci:v%sd%ssv*sd*bc*sc*i*", wide(vendor), wide(device))
}

// moduleName is a module's name as in /sys/module.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }
