//go:build linux

package chaos

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// service is the installed agent on a node with systemd.
type service struct{ *node }

const (
	unit        = "eniagent.service"
	installed   = "/usr/local/bin/agent"
	configDir   = "/etc/eniagent"
	dropIn      = "/run/systemd/system/" + unit + ".d/test.conf"
	usual       = "--allow-without-default-route --write-timeout 2s" // flags
	installTool = sourceDir + "/deploy/systemd/install.sh"
)

// unhurried is how long these tests wait: a whole systemd on software emulation, beside other tests, can be very slow.
const unhurried = 5 * time.Minute

func newService(t *testing.T) service {
	t.Helper()
	vm := sharedSystemdVM(t)
	if said := mustRun(t, vm, "systemctl", "is-system-running"); said != "running\n" {
		t.Fatalf("the machine came up %s", said)
	}
	nics := mustNICs(t, vm)
	return service{&node{t: t, vm: vm, a: nics[0], b: nics[1]}}
}

func (s service) unhurried() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.ctx(), unhurried)
}

// try runs a program, and run one that has to succeed.
func (s service) try(args ...string) Result {
	s.t.Helper()
	ctx, cancel := s.unhurried()
	defer cancel()
	res, err := s.vm.Run(ctx, Command(args...))
	must(s.t, err)
	return res
}

func (s service) run(args ...string) string {
	s.t.Helper()
	res := s.try(args...)
	if !res.OK() {
		s.t.Fatalf("%v: %v", args, res)
	}
	return string(res.Stdout)
}

// on waits for the driver of a NIC.
func (s service) on(n NIC, driver string) {
	s.t.Helper()
	ctx, cancel := s.unhurried()
	defer cancel()
	must(s.t, s.vm.WaitLink(ctx, n.Sysfs("driver"), driver))
}

// ask changes the desired state, where the service looks for it.
func (s service) ask(entries ...string) {
	s.t.Helper()
	s.node.ask(entries...)
	s.run("cp", wanted, configDir+"/interfaces.yaml")
}

// settled waits until all is as desired.
func (s service) settled() {
	s.t.Helper()
	if res := s.try(installed, "status", "--wait", "2m"); !res.OK() {
		s.t.Fatalf("the service does not settle: %v\nits log:\n%s", res, s.log())
	}
}

func (s service) log() string {
	return s.run("journalctl", "-b", "-u", unit, "-o", "cat", "--no-pager")
}

// property is one of the unit's, as systemd has it.
func (s service) property(name string) string {
	s.t.Helper()
	return strings.TrimSpace(s.run("systemctl", "show", "--value", "-p", name, unit))
}

// becomes waits until a property of the unit has a value.
func (s service) becomes(name, want string) {
	s.t.Helper()
	ctx, cancel := s.unhurried()
	defer cancel()
	got := ""
	err := s.vm.WaitFor(ctx, name+" "+want, func(context.Context) (bool, error) {
		got = s.property(name)
		return got == want, nil
	})
	if err != nil {
		s.t.Fatalf("%v\n%s is %q; the log:\n%s", err, name, got, s.log())
	}
}

// logged waits for text in the service's log.
func (s service) logged(text string) {
	s.t.Helper()
	ctx, cancel := s.unhurried()
	defer cancel()
	if err := s.vm.WaitFor(ctx, text, func(context.Context) (bool, error) { return strings.Contains(s.log(), text), nil }); err != nil {
		s.t.Fatalf("%v\nthe log:\n%s", err, s.log())
	}
}

// footprint is everything an installation could leave behind: each name in the root with its type, mode, size and
// target, the drivers and overrides of the NICs, and the modules.
func (s service) footprint() []string {
	s.t.Helper()
	lines := strings.Split(s.run("find", "/", "-xdev", "-printf", "%y %m %s %p %l\n"), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "d ") { // a directory's size tells of its past
			f := strings.Fields(line)
			lines[i] = f[0] + " " + f[1] + " " + f[3]
		}
	}
	// Below /run systemd's own files come and go; udev's have the rig's port, whose name has the word too.
	lines = append(lines, strings.Split(s.run("find", "/run", "/tmp", "-path", "/run/udev", "-prune", "-o", "-name", "*eniagent*", "-print"), "\n")...)
	for _, n := range mustNICs(s.t, s.vm) {
		override, err := s.vm.ReadText(s.ctx(), n.Sysfs("driver_override"))
		must(s.t, err)
		lines = append(lines, fmt.Sprintf("%s driver=%s override=%s", n.Addr, n.Driver, override))
	}
	modules, err := s.vm.ReadDir(s.ctx(), "/sys/module")
	must(s.t, err)
	for _, m := range modules {
		if strings.HasPrefix(m, "vfio") || m == "irqbypass" {
			lines = append(lines, "module "+m)
		}
	}
	slices.Sort(lines)
	return lines
}

// reboot is an orderly one, by systemd.
func (s service) reboot() {
	s.t.Helper()
	_, err := s.vm.Start(s.ctx(), Command("systemctl", "reboot"))
	must(s.t, err)
	off, cancel := s.unhurried()
	defer cancel()
	must(s.t, s.vm.AwaitOff(off))
	must(s.t, s.vm.Boot(s.ctx()))
}

func (s service) flags(flags string) {
	s.t.Helper()
	must(s.t, s.vm.WriteFile(s.ctx(), configDir+"/agent.env", []byte("AGENT_FLAGS="+flags+"\n"), 0o600))
}

// TestSystemdService is the agent's life on a node without Kubernetes: installed, enabled, killed, hung, stopped,
// rebooted, given back, uninstalled, and nothing is left.
func TestSystemdService(t *testing.T) {
	s := newService(t)
	before := s.footprint()

	for range 2 { // the second is an update
		if said := s.run(installTool, "install"); !strings.Contains(said, "systemctl enable --now eniagent") {
			t.Errorf("install does not tell what is next:\n%s", said)
		}
	}
	s.run(installed, "validate", configDir+"/interfaces.yaml.example")
	s.flags(usual)
	s.ask(driverOf(s.a, "vfio-pci"))
	s.run("systemctl", "enable", "--now", "eniagent")
	if said := s.run("systemctl", "is-active", "eniagent"); said != "active\n" {
		t.Errorf("is-active: %s", said)
	}
	s.settled()
	s.on(s.a, "vfio-pci")
	s.becomes("StatusText", "ready; 1 interface: 1 right")
	s.isConfined()

	t.Run("killed", s.with(service.isRestarted))
	t.Run("other deaths", s.with(service.comesBackFromEachDeath))
	t.Run("wrong flags", s.with(service.staysDownWithWrongFlags))
	t.Run("a held function is seen from the sandbox", s.with(service.namesHolders))
	t.Run("an unbind that hangs", s.with(service.survivesAHungUnbind))

	s.run("systemctl", "stop", "eniagent")
	s.becomes("ActiveState", "inactive")
	s.on(s.a, "vfio-pci")
	s.override(s.a, "vfio-pci")

	s.reboot()
	s.settled()
	s.on(s.a, "vfio-pci")
	t.Logf("rebooted: %+v, active since %s", s.vm.LastBoot(), s.property("ActiveEnterTimestampMonotonic"))

	res := s.try(installTool, "uninstall")
	if res.Code != 1 || !strings.Contains(string(res.Stderr), installed+" release --all") {
		t.Errorf("uninstall with a function taken: %v", res)
	}
	s.becomes("ActiveState", "active")
	s.settled()
	s.on(s.a, "vfio-pci")

	s.releasesAll()
	s.on(s.a, "igb")
	if said := s.run(installTool, "uninstall"); !strings.Contains(said, "Your configuration is still in /etc/eniagent") {
		t.Errorf("uninstall: %s", said)
	}
	s.run("rm", "-r", configDir) // what this test wrote
	if diff := difference(before, s.footprint()); diff != "" {
		t.Errorf("left behind (+) or taken away (-):\n%s", diff)
	}
	if res := s.try("systemctl", "status", "eniagent"); res.Code != 4 {
		t.Errorf("systemd still knows the unit: %v", res)
	}
}

// releasesAll gives the command as often as it says that something is still pending: on a slow machine it stops
// waiting before the agent is done.
func (s service) releasesAll() {
	s.t.Helper()
	ctx, cancel := s.unhurried()
	defer cancel()
	var last Result
	must(s.t, s.vm.WaitFor(ctx, "release --all", func(context.Context) (bool, error) {
		last = s.try(installed, "release", "--all", "--yes")
		return last.Code != 3, nil
	}))
	if !last.OK() {
		s.t.Fatalf("release --all: %v", last)
	}
}

// with makes a subtest of a part, whose failures are then its own.
func (s service) with(part func(service)) func(*testing.T) {
	return func(t *testing.T) {
		n := *s.node
		n.t = t
		part(service{&n})
	}
}

// difference is what sorted lists do not have in common.
func difference(before, after []string) string {
	var out strings.Builder
	for _, l := range before {
		if strings.HasPrefix(l, "module ") {
			continue // another test had it loaded; the reboot took it
		}
		if _, ok := slices.BinarySearch(after, l); !ok {
			fmt.Fprintf(&out, "- %s\n", l)
		}
	}
	for _, l := range after {
		if _, ok := slices.BinarySearch(before, l); !ok {
			fmt.Fprintf(&out, "+ %s\n", l)
		}
	}
	return out.String()
}

// isConfined holds what the process may do against what the unit says it needs, and systemd's own verdict against a
// bound.
func (s service) isConfined() {
	s.t.Helper()
	const want = 1<<2 | 1<<12 | 1<<16 | 1<<19 // DAC_READ_SEARCH, NET_ADMIN, SYS_MODULE, SYS_PTRACE: capability.h
	status, err := s.vm.ReadText(s.ctx(), "/proc/"+s.property("MainPID")+"/status")
	must(s.t, err)
	for _, line := range []string{fmt.Sprintf("CapEff:\t%016x", want), fmt.Sprintf("CapBnd:\t%016x", want), "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, line+"\n") {
			s.t.Errorf("the process's status has no %q:\n%s", line, status)
		}
	}
	if mode := s.run("stat", "-c", "%a", "/var/lib/eniagent"); mode != "700\n" {
		s.t.Errorf("the state directory has mode %s", mode)
	}
	said := s.run("systemd-analyze", "security", "--no-pager", unit)
	m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(said)
	if m == nil {
		s.t.Fatalf("systemd-analyze security: %s", said)
	}
	s.t.Log(m[0])
	if exposure, err := strconv.ParseFloat(m[1], 64); err != nil || exposure > 4 {
		s.t.Errorf("%s, %v; the unit was made for 4.0 or less:\n%s", m[0], err, said)
	}
}

// isRestarted: SIGKILL of the main process is followed by a new one.
func (s service) isRestarted() {
	pid := s.property("MainPID")
	s.run("systemctl", "kill", "-s", "KILL", "--kill-whom", "main", unit)
	s.becomes("NRestarts", "1")
	s.becomes("ActiveState", "active")
	if now := s.property("MainPID"); now == pid || now == "0" {
		s.t.Errorf("the main process is %s, it was %s", now, pid)
	}
	s.settled()
	s.on(s.a, "vfio-pci")
}

// comesBackFromEachDeath: the Go runtime ends a process with status 2 after a panic and after the signals that systemd
// sends to a service that hangs.
func (s service) comesBackFromEachDeath() {
	for _, signal := range []string{"QUIT", "ABRT", "SEGV"} {
		s.dies("SIG"+signal, func() { s.run("systemctl", "kill", "-s", signal, "--kill-whom", "main", unit) })
	}

	s.dropIn("[Service]", "WatchdogSec=20s")
	s.run("systemctl", "restart", unit)
	s.settled()
	s.dies("the watchdog", func() {
		s.run("systemctl", "kill", "-s", "STOP", "--kill-whom", "main", unit)
		s.logged("Watchdog timeout") // systemd sends SIGABRT, and SIGCONT so that it arrives
	})
	if !strings.Contains(s.log(), "status=2") {
		s.t.Errorf("no death was by the Go runtime, so this shows nothing; the log:\n%s", s.log())
	}

	s.dropIn("[Service]", "ExecStart=", "ExecStart="+crashing+" run $AGENT_FLAGS", "Environment=ENIAGENT_CRASH=unbind:before:1 ENIAGENT_CRASH_HOW=panic")
	s.run("systemctl", "restart", unit)
	s.settled()
	s.run("rm", "-r", path.Dir(dropIn)) // who comes after it is to live
	s.run("systemctl", "daemon-reload")
	s.dies("a panic", func() { s.ask(driverOf(s.a, "igb")) })
	s.logged("injected at unbind:before")
	s.on(s.a, "igb")
	s.ask(driverOf(s.a, "vfio-pci"))
	s.settled()
}

// dies has the service die, and holds that systemd starts it again and that all is as desired then.
func (s service) dies(of string, kill func()) {
	s.t.Helper()
	restarts, pid := s.property("NRestarts"), s.property("MainPID")
	kill()
	n, err := strconv.Atoi(restarts)
	must(s.t, err)
	s.becomes("NRestarts", strconv.Itoa(n+1))
	s.becomes("ActiveState", "active")
	if now := s.property("MainPID"); now == pid || now == "0" {
		s.t.Errorf("%s: the main process is %s, it was %s", of, now, pid)
	}
	s.settled()
}

// staysDownWithWrongFlags: another try would change nothing.
func (s service) staysDownWithWrongFlags() {
	s.flags("--no-such-flag")
	if res := s.try("systemctl", "restart", unit); res.OK() {
		s.t.Error("the service starts with a flag that does not exist")
	}
	s.becomes("ActiveState", "failed")
	if status, n := s.property("ExecMainStatus"), s.property("NRestarts"); status != "64" || n != "0" {
		s.t.Errorf("it ended with %s, and was started again %s times", status, n)
	}
	s.flags(usual)
	s.run("systemctl", "restart", unit)
	s.settled()
	s.on(s.a, "vfio-pci")
}

// dropIn sets what the unit does not have.
func (s service) dropIn(lines ...string) {
	s.t.Helper()
	s.run("mkdir", "-p", path.Dir(dropIn))
	must(s.t, s.vm.WriteFile(s.ctx(), dropIn, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	s.run("systemctl", "daemon-reload")
}

// namesHolders: with the capabilities that are left, the agent sees that a program of another user, to whom the group
// was given, holds the function, and which.
func (s service) namesHolders() {
	s.run("chown", "1234", "/dev/vfio/"+s.a.Group)
	holder := s.hold(s.a, "setpriv", "--reuid=1234", "--regid=1234", "--clear-groups")
	s.ask(driverOf(s.a, "igb"))
	s.logged("rig (pid")
	s.on(s.a, "vfio-pci")
	s.ask(driverOf(s.a, "vfio-pci"))
	s.letGo(holder)
	s.settled()
}

// hold starts a program that opens the function; as is what it is started through.
func (s service) hold(n NIC, as ...string) *Proc {
	s.t.Helper()
	p, err := s.vm.Start(s.ctx(), Command(append(as, Helper, "hold", n.Addr)...))
	must(s.t, err)
	must(s.t, p.Expect(s.ctx(), "held\n"))
	return p
}

func (s service) letGo(p *Proc) {
	s.t.Helper()
	must(s.t, p.Signal(s.ctx(), syscall.SIGTERM))
	_, err := p.Wait(s.ctx())
	must(s.t, err)
}

// survivesAHungUnbind is why the unit has KillMode=process: a child hangs in the kernel, and neither a restart nor a
// stop waits for it or fails.
func (s service) survivesAHungUnbind() {
	// The program opens the device between the guard's last look and the write: the agent with crash points stops there.
	s.dropIn("[Service]", "ExecStart=", "ExecStart="+crashing+" run $AGENT_FLAGS",
		"Environment=ENIAGENT_CRASH=unbind:before:1 ENIAGENT_CRASH_HOW=wait", "PrivateTmp=no")
	s.run("systemctl", "restart", "eniagent")
	s.ask(driverOf(s.a, "igb"))
	s.logged("stopped at ")
	holder := s.hold(s.a)
	must(s.t, s.vm.WriteFile(s.ctx(), "/tmp/go-on", nil, 0o600))
	s.logged("hangs in the kernel")
	s.run("rm", "-r", path.Dir(dropIn), "/tmp/go-on")
	s.run("systemctl", "daemon-reload")

	s.ask(driverOf(s.a, "igb"), linkOf(s.b, 2500))
	began := time.Now()
	s.run("systemctl", "restart", "eniagent")
	s.t.Logf("restarted in %v with a write that hangs", time.Since(began))
	s.becomes("StatusText", "ready; 2 interfaces: 1 right, 1 fenced")
	must(s.t, s.vm.WaitText(s.ctx(), s.b.Sysfs("net", s.b.Netdev, "mtu"), "2500"))

	s.run("systemctl", "stop", "eniagent")
	if strings.Contains(s.log(), "timed out") {
		s.t.Errorf("systemd waited for the child that hangs; the log:\n%s", s.log())
	}
	if state, result := s.property("ActiveState"), s.property("Result"); state != "inactive" || result != "success" {
		s.t.Errorf("after the stop it is %s with result %s; the log:\n%s", state, result, s.log())
	}
	if left, err := s.vm.ReadText(s.ctx(), "/sys/fs/cgroup"+s.property("ControlGroup")+"/cgroup.procs"); err != nil || left == "" {
		s.t.Errorf("no child hangs any more, so this shows nothing: %v", err)
	}
	s.run("systemctl", "start", "eniagent")
	s.letGo(holder)
	s.on(s.a, "igb")
	s.settled()
	s.override(s.a, "(null)")
	s.ask(driverOf(s.a, "vfio-pci"), released(s.b))
	s.on(s.a, "vfio-pci")
	s.settled()
}
