//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"eniagent/recovery/chaos/wire"
)

// Where things are in the guest.
const (
	AgentPath = "/bin/agent"   // AgentPath is Config.Agent in the guest.
	DiskDir   = "/state"       // DiskDir is where the disk is mounted.
	StateDir  = "/state/agent" // StateDir is for the agent's journal; it survives a power cut.
	RootDir   = wire.RootDir   // RootDir has what was changed in the root of a machine with Systemd.
	Helper    = wire.Helper    // Helper is the rig's own tools: "hold ADDR", "write PATH VALUE".
)

// The addresses of the uplink's network, which are QEMU's. The guest has to set its own.
const (
	HostAddr  = "10.0.2.2"
	GuestAddr = "10.0.2.15/24"
)

// maxPorts is how many root ports have a fixed place on the root bus.
const maxPorts = 15

// Config describes a machine. The zero value is one without NICs.
type Config struct {
	NICs      int               // NICs is how many igb PFs it boots with; they are behind ports 0 to NICs-1.
	FreePorts int               // FreePorts is how many ports more there are, for PlugNIC.
	Uplink    bool              // Uplink is a virtio NIC more, through which the guest reaches what listens on the host's loopback, at HostAddr.
	NoIOMMU   bool              // NoIOMMU leaves the IOMMU out.
	Disk      string            // Disk is the disk's image, made when it does not exist. Empty: made and removed with the VM.
	DiskFS    string            // DiskFS is ext4 or xfs; ext4 when empty.
	WriteLog  string            // WriteLog is a file for the log of all that the disk is told to write, in the format of dm-log-writes.
	CPUs      int               // CPUs is 2 when zero.
	Memory    int               // Memory is in MiB, 1024 when zero.
	HugePages int               // HugePages is how many pages of 2 MiB the kernel sets aside of Memory.
	HostRoot  bool              // HostRoot gives the guest every program of the host.
	Systemd   bool              // Systemd makes a real systemd PID 1, with udev, in a root whose changes are on the disk.
	Agent     string            // Agent is the host's path of a static binary for AgentPath.
	Files     map[string]string // Files are more files: guest path to host path. Their modes come along.
	Modules   []string          // Modules are more modules for the guest's /lib/modules, with what they need.
	Load      []string          // Load are modules to load at boot, igb and igbvf when nil.
	Cmdline   string            // Cmdline is appended to the kernel's command line.
	Log       io.Writer         // Log gets the console. Writes to it are never concurrent.
}

// nodeModules are the modules a node may be asked to load, beside those a boot needs.
func nodeModules() []string {
	return []string{
		"virtio_blk", "crc32c_generic", "crc32c_intel", "ext4", "xfs", "9p", "9pnet_virtio", "overlay",
		"igb", "igbvf", "vfio", "vfio_pci", "vfio_pci_core", "vfio_iommu_type1", "irqbypass",
		"uio", "uio_pci_generic", "pci_pf_stub", "dummy", "bonding", "8021q", "macvlan", "bridge", "veth", "virtio_net",
		"openvswitch", "ipvlan", "vrf", "team", "team_mode_roundrobin", "vxlan", "geneve", "ip_gre", "ipip", "wireguard", "tun", "macsec",
	}
}

func (c Config) withDefaults() Config {
	if c.DiskFS == "" {
		c.DiskFS = "ext4"
	}
	if c.CPUs == 0 {
		c.CPUs = 2
	}
	if c.Memory == 0 {
		c.Memory = 1024
	}
	if c.Load == nil {
		c.Load = []string{"igb", "igbvf"}
	}
	if c.Uplink {
		c.Load = append(slices.Clone(c.Load), "virtio_net")
	}
	if c.Log == nil {
		c.Log = io.Discard
	}
	return c
}

func (c Config) check() error {
	if n := c.NICs + c.FreePorts; n > maxPorts {
		return fmt.Errorf("%d NICs and free ports are more than the %d there can be", n, maxPorts)
	}
	if !slices.Contains([]string{"ext4", "xfs"}, c.DiskFS) {
		return fmt.Errorf("no such disk file system: %s; use ext4 or xfs", c.DiskFS)
	}
	if c.Systemd && c.HostRoot {
		return errors.New("a root with systemd and the host's root exclude each other; leave one out")
	}
	// The kernel and the initramfs want their part too.
	if 2*c.HugePages+256 > c.Memory {
		return fmt.Errorf("%d huge pages do not fit in %d MiB; raise Memory", c.HugePages, c.Memory)
	}
	return nil
}

// files are all files of the host that go into the guest, by guest path.
func (c Config) files() map[string]string {
	all := map[string]string{}
	for guest, host := range c.Files {
		all[guest] = host
	}
	if c.Agent != "" {
		all[AgentPath] = c.Agent
	}
	return all
}

// accel is TCG unless somebody who knows the machine says otherwise. That /dev/kvm opens proves nothing: nested KVM
// was seen to create a VM and then fail on the kernel's first wide instruction. One thread for all CPUs costs less
// than a second a boot, and with more of them QEMU 10 was seen to abort in iotlb_to_section while VFs went away.
func accel() string {
	if a := os.Getenv("ENIAGENT_VM_ACCEL"); a != "" {
		return a
	}
	return "tcg,thread=single"
}

// Program is what Config.Files needs to have a program of this machine in the guest's /bin: it, and the libraries that
// it is linked to.
func Program(ctx context.Context, name string) (map[string]string, error) {
	file, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	said, err := exec.CommandContext(ctx, "ldd", file).Output()
	if err != nil {
		return nil, fmt.Errorf("list the libraries of %s: %w", file, err)
	}
	files := map[string]string{"/bin/" + name: file}
	for word := range strings.FieldsSeq(string(said)) {
		if strings.HasPrefix(word, "/") {
			files[word] = word
		}
	}
	return files, nil
}
