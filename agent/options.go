package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"eniagent/agent/source"
	"eniagent/agent/source/file"
	"eniagent/agent/source/kubelet"
	"eniagent/agent/source/nodeeni"
	"eniagent/drivers/host"
	"eniagent/journal"
)

// Options are the flags of `agent run`. Validate them before Run.
type Options struct {
	Source          string // of desired state, one of Origins
	ConfigFile      string // of the source that is a file
	Kubernetes      Kubernetes
	StateDir        string
	Root            string // of the host's file system, "/" on a node
	Listen          string // host:port of /healthz, /readyz and /metrics; "" for none
	Interval        time.Duration
	ShutdownTimeout time.Duration
	WriteTimeout    time.Duration
	LockTimeout     time.Duration // how long to wait for another holder of the journal
	Observe         bool
	NoIOMMU         bool
	NodeAddresses   []string // the node's own
	KeepReachable   []string // addresses whose way must not be cut
	WithoutDefault  bool     // work on a node that has no default route
	OnStop          string   // what a stop does with functions whose entries do not say: source.Retain or source.Release
	PluginFile      string   // the SR-IOV device plugin's configuration, on the host
	PodResources    string   // the kubelet's socket; "" does not ask it
	Simulate        string   // state file of a simulated kernel; "" is the real one
	LogLevel        string
	LogFormat       string
	Version         string
	Notify          func(Notice) // is told how the agent stands; may be nil
}

// DefaultMaxAttempts is how often a goal is tried before it is given up.
const DefaultMaxAttempts = 3

// DefaultOptions are what the flags say when they are not given.
func DefaultOptions() Options {
	return Options{
		Source: file.Name, ConfigFile: "/etc/eniagent/interfaces.yaml", StateDir: "/var/lib/eniagent", Root: "/",
		Listen: "127.0.0.1:9810", OnStop: source.Retain, Interval: 30 * time.Second, ShutdownTimeout: 20 * time.Second,
		WriteTimeout: 10 * time.Second, LockTimeout: 10 * time.Second, LogLevel: "info", LogFormat: "logfmt",
		Kubernetes: Kubernetes{PluginSelector: DefaultPluginSelector}, PodResources: kubelet.DefaultSocket, PluginFile: host.DefaultFiles()[0],
	}
}

// SocketPath is where a running agent answers commands.
func (o Options) SocketPath() string { return filepath.Join(o.StateDir, "agent.sock") }

// JournalDir is where the journal is.
func (o Options) JournalDir() string { return filepath.Join(o.StateDir, "journal") }

func (o Options) journalFile() string { return filepath.Join(o.JournalDir(), journal.FileName) }

// FenceDir is where the fences are.
func (o Options) FenceDir() string { return filepath.Join(o.StateDir, "fence") }

// UsageError is everything wrong with the flags, at once.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// Validate looks at every option and returns all that is wrong as one
// *UsageError, each with the flag, the value and what to give instead.
func (o Options) Validate() error {
	var p problems
	p.span("interval", o.Interval, time.Second)
	p.span("shutdown-timeout", o.ShutdownTimeout, time.Second)
	p.span("write-timeout", o.WriteTimeout, time.Second)
	p.span("lock-timeout", o.LockTimeout, 0)
	p.oneOf("source", o.Source, Origins()...)
	o.Kubernetes.validate(&p, o.Source == nodeeni.Name)
	o.validatePaths(&p)
	if o.Listen != "" && !hostPort(o.Listen) {
		p.bad("listen", o.Listen, "want host:port, such as 127.0.0.1:9810, or nothing")
	}
	o.validateAddresses(&p)
	p.oneOf("log-level", o.LogLevel, "debug", "info", "warn", "error")
	p.oneOf("on-stop", o.OnStop, source.Retain, source.Release)
	p.oneOf("log-format", o.LogFormat, "logfmt", "json")
	if len(p) > 0 {
		return &UsageError{errors.Join(p...)}
	}
	return nil
}

// ValidateAddresses is Validate of what tells the management path: an address that is
// none would protect nothing.
func (o Options) ValidateAddresses() error {
	var p problems
	if o.validateAddresses(&p); len(p) > 0 {
		return &UsageError{errors.Join(p...)}
	}
	return nil
}

func (o Options) validateAddresses(p *problems) {
	p.addresses("node-address", o.NodeAddresses)
	p.addresses("keep-reachable", o.KeepReachable)
}

func (o Options) validatePaths(p *problems) {
	for _, v := range []struct{ flag, path string }{
		{"config", o.ConfigFile}, {"state-dir", o.StateDir}, {"root", o.Root}, {"simulate-state", o.Simulate},
	} {
		if v.path == "" && v.flag == "simulate-state" {
			continue
		}
		if v.flag != "state-dir" && filepath.Dir(v.path) == filepath.Clean(o.StateDir) {
			continue // what is wrong with the way there is said once
		}
		if err := CheckPath(v.path); err != nil {
			p.bad(v.flag, v.path, "%v", err)
		}
	}
	if long := len(o.PodResources) - maxSocketPath; long > 0 {
		p.bad("pod-resources", o.PodResources, "is %d bytes too long for a socket", long)
	}
	if o.PodResources != "" && !filepath.IsAbs(o.PodResources) {
		p.bad("pod-resources", o.PodResources, "want an absolute path, or nothing where no kubelet is to be asked")
	}
	if err := host.WritableFile(o.PluginFile); err != nil {
		p.bad("device-plugin-config", o.PluginFile, "%v", err)
	}
	if err := checkOwner(o.StateDir); err != nil {
		p.bad("state-dir", o.StateDir, "%v", err)
	}
	if err := checkConfig(o.ConfigFile); err != nil {
		p.bad("config", o.ConfigFile, "%v", err)
	}
	if long := len(o.SocketPath()) - maxSocketPath; long > 0 {
		p.bad("state-dir", o.StateDir, "is %d bytes too long for the control socket in it", long)
	}
}

// problems are what is wrong with the flags.
type problems []error

func (p *problems) bad(flag string, value any, format string, args ...any) {
	*p = append(*p, fmt.Errorf("--%s %v: %s", flag, value, fmt.Sprintf(format, args...)))
}

func (p *problems) span(flag string, d, low time.Duration) {
	if high := 10 * time.Minute; d < low || d > high {
		p.bad(flag, d, "want %s to %s", low, high)
	}
}

func (p *problems) addresses(flag string, addresses []string) {
	for _, a := range addresses {
		if net.ParseIP(a) == nil {
			p.bad(flag, a, "want an IP address, such as 10.0.0.5 or fd00::5")
		}
	}
}

func (p *problems) oneOf(flag, value string, want ...string) {
	if !slices.Contains(want, value) {
		p.bad(flag, value, "want one of %s", strings.Join(want, ", "))
	}
}

// maxSocketPath is sizeof(sun_path) without its NUL, unix(7).
const maxSocketPath = 107

func hostPort(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n <= 65535
}

// checkConfig wants a file that only root and the agent's user can write, where
// it exists: it is an instruction list for a root process. It may be a link, as
// in a volume of Kubernetes.
func checkConfig(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil // told by the source, which waits for it
	case !info.Mode().IsRegular():
		return errors.New("is not a file")
	case info.Mode()&0o022 != 0:
		return fmt.Errorf("can be written by others (mode %04o): chmod go-w %s", info.Mode().Perm(), path)
	}
	return checkUser(path, info)
}

// CheckPath wants a path that names one place, and the same one tomorrow:
// absolute, clean, and without a symbolic link on the way.
func CheckPath(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return errors.New("want an absolute path")
	case slices.Contains(strings.Split(path, "/"), ".."):
		return errors.New("want a path without '..' in it")
	}
	for at := filepath.Clean(path); at != "/"; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case info.Mode()&fs.ModeSymlink != 0 && at != filepath.Clean(path):
			return fmt.Errorf("%s is a symbolic link: give the path it leads to", at)
		}
	}
	return nil
}

// checkOwner wants a directory that nobody else can write, where it exists.
func checkOwner(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		return errors.New("is a symbolic link: give the path it leads to")
	case !info.IsDir():
		return errors.New("is not a directory")
	case info.Mode()&0o022 != 0:
		return fmt.Errorf("can be written by others (mode %04o): chmod go-w %s", info.Mode().Perm(), dir)
	}
	return checkUser(dir, info)
}

func checkUser(path string, info fs.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() && st.Uid != 0 {
		return fmt.Errorf("belongs to user %d: want root or the agent's own user; chown root %s", st.Uid, path)
	}
	return nil
}
