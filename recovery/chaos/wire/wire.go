package wire

import "time"

// Names both halves must agree on.
const (
	Port   = "eniagent.rig" // Port is the name of the virtio-serial port they talk over.
	Config = "/rig.json"    // Config is where in the initramfs the guest finds its Setup.
	Tag    = "hostroot"     // Tag is the 9p mount tag of the host's root.
	Helper = "/sbin/rig"    // Helper is where the guest program can be run as a command.

	// RootDir is the upper layer of the root with systemd: what was changed in it since the disk was made.
	RootDir = "/state/root/up"
)

// Op says what a Request asks for.
type Op string

// The operations the guest knows.
const (
	Run      Op = "run"      // Run starts Args, streams its output, and is Done when it has exited.
	Signal   Op = "signal"   // Signal sends Signal to the process that request Target started.
	Read     Op = "read"     // Read returns the content of Path.
	Write    Op = "write"    // Write makes Path hold Data, and syncs it and its directory.
	Poke     Op = "poke"     // Poke writes Data to the existing Path in one write(2), as sysfs wants it.
	Readlink Op = "readlink" // Readlink returns where Path points.
	ReadDir  Op = "readdir"  // ReadDir returns the names in Path.
	Until    Op = "until"    // Until waits until Test holds for Path.
	Dmesg    Op = "dmesg"    // Dmesg returns the kernel's log.
	Sysrq    Op = "sysrq"    // Sysrq writes Data to /proc/sysrq-trigger; often nobody is left to answer.
	PowerOff Op = "poweroff" // PowerOff syncs, unmounts the disk and switches the machine off.
)

// Test is a condition on a path. Path is a pattern as filepath.Glob takes it; one match for which it holds is enough.
type Test string

// The conditions the guest can wait for.
const (
	Exists   Test = "exists"
	Gone     Test = "gone"
	Equals   Test = "equals"   // Equals wants the content, without surrounding white space, to be Want.
	Contains Test = "contains" // Contains wants Want somewhere in the content.
	LinksTo  Test = "links-to" // LinksTo wants a symbolic link whose last element is Want.
)

// Request is one thing asked of the guest. Which fields count depends on Op.
type Request struct {
	ID     uint64        `json:"id"`
	Op     Op            `json:"op"`
	Args   []string      `json:"args,omitempty"`
	Env    []string      `json:"env,omitempty"`
	Dir    string        `json:"dir,omitempty"`
	Path   string        `json:"path,omitempty"`
	Data   []byte        `json:"data,omitempty"`
	Perm   uint32        `json:"perm,omitempty"`
	Target uint64        `json:"target,omitempty"`
	Signal int           `json:"signal,omitempty"`
	Group  bool          `json:"group,omitempty"` // Group signals the whole process group.
	Test   Test          `json:"test,omitempty"`
	Want   string        `json:"want,omitempty"`
	Within time.Duration `json:"within,omitempty"`
}

// Reply is one answer, or a part of one.
type Reply struct {
	ID     uint64   `json:"id"`
	Hello  *Hello   `json:"hello,omitempty"`
	PID    int      `json:"pid,omitempty"`
	Stdout []byte   `json:"stdout,omitempty"`
	Stderr []byte   `json:"stderr,omitempty"`
	Data   []byte   `json:"data,omitempty"`
	Names  []string `json:"names,omitempty"`
	Code   int      `json:"code,omitempty"`
	Signal int      `json:"signal,omitempty"`
	Err    string   `json:"err,omitempty"`
	Errno  int      `json:"errno,omitempty"`
	Done   bool     `json:"done,omitempty"`
}

// Hello is the guest's first word: it is up.
type Hello struct {
	Kernel string        `json:"kernel"`
	BootID string        `json:"boot_id"`
	Init   time.Duration `json:"init"` // Init is how long after power-on, by the kernel's clock, /init began.
	Up     time.Duration `json:"up"`   // Up is how long after power-on the guest was ready.
}

// Setup is what the host tells the guest about its own boot.
type Setup struct {
	Load      []string `json:"load"`    // Load names modules to load at boot.
	DiskFS    string   `json:"disk_fs"` // DiskFS is the file system on the disk.
	HostRoot  bool     `json:"host_root"`
	Systemd   bool     `json:"systemd"` // Systemd makes systemd PID 1, in the root on the second disk.
	HugePages bool     `json:"huge_pages"`
	Files     []string `json:"files"` // Files are guest paths to carry over into another root.
}
