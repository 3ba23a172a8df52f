package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	"eniagent/drivers"
)

// Reader reads a host. Paths are absolute and as the host's own processes see
// them ("/sys/bus/pci/devices/..."). A path that is not there is fs.ErrNotExist.
type Reader interface {
	// Read is the content of a small file, without its trailing newline. Of a
	// PCI function's "config" it is the first four bytes, in hexadecimal.
	Read(ctx context.Context, path string) (string, error)
	// File is the content of a regular file, byte for byte, of MaxFile bytes at
	// most. A symbolic link is not followed: that is ELOOP.
	File(ctx context.Context, path string) (string, error)
	// Readlink is the text of a symbolic link.
	Readlink(ctx context.Context, path string) (string, error)
	// List is the sorted names in a directory.
	List(ctx context.Context, path string) ([]string, error)
	// Inode is the inode number of the file that path names, links followed.
	Inode(ctx context.Context, path string) (uint64, error)
	// Links are the network devices of the host's namespace.
	Links(ctx context.Context) ([]Link, error)
	// Children are the netdevs in other network namespaces that sit on one of the
	// host's.
	Children(ctx context.Context) ([]Child, error)
	// Settings is one group of the settings of netdev index. EOPNOTSUPP is that
	// its driver has none of them, ENODEV that there is no such netdev.
	Settings(ctx context.Context, index int, which Setting) (Settings, error)
	// Network is the links and how the host reaches the world; to are addresses
	// whose way is asked for.
	Network(ctx context.Context, to []string) (Network, error)
}

// Kernel is a Reader that can be written and watched: Linux, or a simulated one.
type Kernel interface {
	Reader
	// Do makes one write. An error carries the kernel's errno. A write may
	// block for as long as the kernel does, whatever becomes of ctx.
	Do(ctx context.Context, c Call) error
	// Watch sends an Event for whatever may have changed, until ctx ends; then
	// the channel is closed.
	Watch(ctx context.Context) (<-chan Event, error)
}

// Host is what the agent uses: a Kernel whose writes have a deadline. Its Do
// returns drivers.ErrFenced when the target is held by a write that still
// runs, or when ctx or the deadline ended before this one did: then the write
// is still running, and the target stays fenced until it is over.
type Host interface {
	Kernel
	// Fenced says whether a write still runs on the target, whoever began it.
	// A read that hangs is none: it is drivers.ErrUnanswered to who made it.
	Fenced(t drivers.Target) (bool, error)
}

// Event says that a target, or which drivers there are, may have changed. One
// that names neither concerns nobody, unless it is lost.
type Event struct {
	Target drivers.Target // a PCI function or a module
	Driver string         `json:",omitempty"` // a PCI driver that came or went
	What   string         // "add", "remove", "bind", "unbind", "change", "unfenced", EventLink, EventLost
}

const (
	// EventLink is about no more than the netdev of its target.
	EventLink = "link"
	// EventLost says that events were lost: everything may have changed.
	EventLost = "lost"
)

// Link is a network device, as RTM_GETLINK and ethtool tell of it.
type Link struct {
	Index    int      `json:"index"`
	Name     string   `json:"name"`
	AltNames []string `json:"alt_names,omitempty"`
	Kind     string   `json:"kind,omitempty"` // "", "vlan", "bond", "bridge", ...
	Up       bool     `json:"up"`             // IFF_UP, the administrative state
	Oper     string   `json:"oper"`           // "up", "down", "unknown", ...
	MTU      int      `json:"mtu"`            // bytes
	MinMTU   int      `json:"min_mtu,omitempty"`
	MaxMTU   int      `json:"max_mtu,omitempty"`
	MAC      string   `json:"mac,omitempty"`
	PermMAC  string   `json:"perm_mac,omitempty"` // burned in; "" when the device has none
	Master   int      `json:"master,omitempty"`   // ifindex of the bond or bridge it belongs to
	Lower    int      `json:"lower,omitempty"`    // ifindex of the device a VLAN or macvlan sits on
	Peer     int      `json:"peer,omitempty"`     // ifindex of the other end of a veth
	// Elsewhere says that what it sits on, or its other end, is in another network
	// namespace.
	Elsewhere bool   `json:"elsewhere,omitempty"`
	Bus       string `json:"bus,omitempty"`  // ethtool's bus-info: the PCI address of a NIC
	IPv6      bool   `json:"ipv6,omitempty"` // IPv6 is enabled on it
}

// Called says whether the name, or an alternative one, is that of the device.
func (l Link) Called(name string) bool { return l.Name == name || slices.Contains(l.AltNames, name) }

// Op is what a Call does.
type Op string

// The operations on a host. There are no others: a writer child refuses what
// it does not know.
const (
	OpSysfs    Op = "sysfs"    // write Value to the sysfs attribute Path, in one write(2)
	OpMTU      Op = "mtu"      // set the MTU of netdev Index to Number bytes
	OpAdmin    Op = "admin"    // set netdev Index administratively up (Number 1) or down (0)
	OpName     Op = "name"     // rename netdev Index to Value
	OpMAC      Op = "mac"      // set the MAC address of netdev Index to Value, in lower case
	OpAltName  Op = "altname"  // give netdev Index the alternative name Value (Number 1) or take it away (0)
	OpChannels Op = "channels" // set the channels of netdev Index to Value, as Channels prints them
	OpRings    Op = "rings"    // set the rings of netdev Index to Value, as Rings prints them
	OpFeature  Op = "feature"  // want feature Value of netdev Index on (Number 1) or off (0)
	OpLoad     Op = "load"     // load the module file Path with the parameters Value
	OpUnload   Op = "unload"   // unload the module Value, never waiting for its users
	// OpReplace gives the file Path the content Value, as a whole or not at all,
	// if its content still has the Digest Was ("" is that there is no such file).
	// It is not durable before OpSync.
	OpReplace Op = "replace"
	OpSync    Op = "sync" // make the file Path, and that it is there or not, durable

	// Those of VFs let netdev Index, a physical function's, give VF Number the Value
	// that VF has for it.
	OpVFMAC        Op = "vf.mac"
	OpVFVLAN       Op = "vf.vlan"
	OpVFTrust      Op = "vf.trust"
	OpVFSpoofCheck Op = "vf.spoofchk"
	OpVFState      Op = "vf.state"
	OpVFRate       Op = "vf.rate"
)

// MaxFile bounds a file that is read byte for byte, and one that is written.
const MaxFile = 1 << 20

// Digest tells one content of a file from another.
func Digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// Call is one write of the host. Target is whose fence it takes.
type Call struct {
	Op     Op             `json:"op"`
	Target drivers.Target `json:"target"`
	Path   string         `json:"path,omitempty"`
	Value  string         `json:"value,omitempty"`
	Was    string         `json:"was,omitempty"`
	Index  int            `json:"index,omitempty"`
	Number int            `json:"number,omitempty"`
}

// Label names the call for faults, crash points and metrics: "autoprobe",
// "numvfs", "override", "unbind", "bind", "probe", "param", "name", "mac", "mtu", "altname",
// "channels", "rings", "feature", "admin", "load", "unload", "replace", "sync",
// "vf.mac", "vf.vlan", "vf.trust", "vf.spoofchk", "vf.state", "vf.rate".
func (c Call) Label() string {
	if c.Op != OpSysfs {
		return string(c.Op)
	}
	switch base := path.Base(c.Path); base {
	case "driver_override":
		return "override"
	case "drivers_probe":
		return "probe"
	case "sriov_numvfs":
		return "numvfs"
	case "sriov_drivers_autoprobe":
		return "autoprobe"
	case "unbind", "bind":
		return base
	default:
		if strings.Contains(c.Path, "/parameters/") {
			return "param"
		}
		return base
	}
}

// Labels are all the labels there are, in the order in which a bind meets them.
func Labels() []string {
	return []string{
		"load", "param", "autoprobe", "numvfs", "vf.mac", "vf.vlan", "vf.trust", "vf.spoofchk", "vf.state",
		"override", "unbind", "bind", "probe",
		"name", "mac", "mtu", "altname", "channels", "rings", "feature", "admin", "vf.rate", "unload", "replace", "sync",
	}
}

// String is the call as a shell line would be, for logs and plans.
func (c Call) String() string {
	switch c.Op {
	case OpSysfs:
		return fmt.Sprintf("echo %q > %s", c.Value, c.Path)
	case OpMTU:
		return fmt.Sprintf("ip link set index %d mtu %d", c.Index, c.Number)
	case OpName:
		return fmt.Sprintf("ip link set index %d name %s", c.Index, c.Value)
	case OpMAC:
		return fmt.Sprintf("ip link set index %d address %s", c.Index, c.Value)
	case OpAdmin:
		return fmt.Sprintf("ip link set index %d %s", c.Index, map[int]string{0: "down", 1: "up"}[c.Number])
	case OpAltName:
		return fmt.Sprintf("ip link property %s index %d altname %q", map[int]string{0: "del", 1: "add"}[c.Number], c.Index, c.Value)
	case OpChannels:
		return fmt.Sprintf("ethtool -L index %d %s", c.Index, c.Value)
	case OpRings:
		return fmt.Sprintf("ethtool -G index %d %s", c.Index, c.Value)
	case OpFeature:
		return fmt.Sprintf("ethtool -K index %d %s %s", c.Index, c.Value, onOff(c.Number == 1))
	case OpVFMAC, OpVFVLAN, OpVFTrust, OpVFSpoofCheck, OpVFState, OpVFRate:
		return vfText(c)
	case OpLoad:
		return strings.TrimSpace(fmt.Sprintf("insmod %s %s", c.Path, c.Value))
	case OpReplace:
		return fmt.Sprintf("replace %s with %d bytes", c.Path, len(c.Value))
	case OpSync:
		return "sync " + c.Path
	default:
		return fmt.Sprintf("%s %s", c.Op, c.Value)
	}
}

// The places that more than one kind reads.
const (
	PCIDevices   = "/sys/bus/pci/devices/"
	PCIDrivers   = "/sys/bus/pci/drivers/"
	DriversProbe = "/sys/bus/pci/drivers_probe"
	SysModule    = "/sys/module/"
	SysNet       = "/sys/class/net/"
)

// Attr is the path of an attribute of a PCI function.
func Attr(address, name string) string { return PCIDevices + address + "/" + name }

// BootID is the kernel's random id of this boot.
func BootID(ctx context.Context, r Reader) (string, error) {
	id, err := r.Read(ctx, "/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return id, nil
}

// MachineID is the host's machine id; "" when the host has none, which is
// unknown and not an error.
func MachineID(ctx context.Context, r Reader) string {
	id, err := r.Read(ctx, "/etc/machine-id")
	if err != nil || id == "uninitialized" {
		return ""
	}
	return id
}

// KernelRelease is the running kernel's release, the name of its module directory.
func KernelRelease(ctx context.Context, r Reader) (string, error) {
	rel, err := r.Read(ctx, "/proc/sys/kernel/osrelease")
	if err != nil {
		return "", fmt.Errorf("read kernel release: %w", err)
	}
	return rel, nil
}
