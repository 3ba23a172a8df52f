//go:build linux

package chaos

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// adopts takes on what another tool has bound, gives it back, and wants the
// kernel's driver to have it, with no override. It returns what was said.
func (n *node) adopts(nic NIC) (adopted, given string) {
	n.t.Helper()
	n.on(nic, "vfio-pci")
	res, err := n.vm.Agent(n.ctx(), "release", nic.Addr, "--yes", "--state-dir", StateDir, "--config", wanted)
	must(n.t, err)
	if res.Code != 4 || !strings.Contains(string(res.Stdout), "agent adopt") || n.driver(nic) != "vfio-pci" {
		n.t.Errorf("release of what was not adopted: %v", res)
	}
	adopted = n.agent(0, "adopt", "--yes", "--reason", "test", "--config", wanted)
	if !hasAll(adopted, []string{nic.Addr, "not asked for", "igb", "modalias"}) {
		n.t.Errorf("agent adopt said:\n%s", adopted)
	}
	n.on(nic, "vfio-pci")
	given = n.agent(0, "release", nic.Addr, "--yes", "--config", wanted)
	n.on(nic, "igb")
	n.override(nic, "(null)")
	if _, err := n.vm.WaitExists(n.ctx(), nic.Sysfs("net/*")); err != nil {
		n.t.Error(err)
	}
	n.agent(0, "journal", "verify")
	return adopted, given
}

// TestAdoptThePredecessors: the AWS multi-ENI controller binds by
// dpdk-devbind.py, and leaves functions in five ways.
func TestAdoptThePredecessors(t *testing.T) {
	const newID = "/sys/bus/pci/drivers/vfio-pci/new_id"
	for _, tc := range []struct {
		name  string
		leave func(*node)
		said  []string
	}{
		{"bound, the override cleared as python likes to", func(n *node) {
			n.byHand(n.a, "vfio-pci", "vfio-pci")
			must(n.t, n.vm.Poke(n.ctx(), n.a.Sysfs("driver_override"), "\x00"))
		}, []string{"may take every 8086:10c9 that has no driver", "echo 8086 10c9 > /sys/bus/pci/drivers/vfio-pci/remove_id"}},
		{"bound by new_id", func(n *node) {
			n.unbound(n.a)
			must(n.t, n.vm.Poke(n.ctx(), newID, "8086 10c9"))
		}, []string{"may take every 8086:10c9 that has no driver", "echo 8086 10c9 > /sys/bus/pci/drivers/vfio-pci/remove_id"}},
		{"killed before it cleared the override", func(n *node) {
			n.byHand(n.a, "vfio-pci", "vfio-pci")
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := predecessorsNode(t)
			defer n.home()
			tc.leave(n)
			// Refused with ENODEV where there is none.
			defer func() { _ = n.vm.Poke(n.ctx(), path.Dir(newID)+"/remove_id", "8086 10c9") }()
			if said, _ := n.adopts(n.a); !hasAll(said, tc.said) {
				t.Errorf("agent adopt says nothing of %q:\n%s", tc.said, said)
			}
		})
	}
	for _, tc := range []struct {
		name  string
		leave func(*node)
		said  []string
	}{
		{"killed between unbind and bind", func(n *node) {
			n.unbound(n.a)
			must(n.t, n.vm.Poke(n.ctx(), n.a.Sysfs("driver_override"), "vfio-pci\n"))
		}, []string{"> /sys/bus/pci/drivers_probe"}},
		{"the bind failed, the old driver is back", func(n *node) {
			must(n.t, n.vm.Poke(n.ctx(), n.a.Sysfs("driver_override"), "vfio-pci\n"))
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := predecessorsNode(t)
			defer n.home()
			tc.leave(n)
			was := n.driver(n.a)
			said := n.agent(0, "adopt", "--yes", "--config", wanted)
			if !hasAll(said, append(tc.said, n.a.Addr, "stale override", "echo > "+n.a.Sysfs("driver_override"))) {
				t.Errorf("agent adopt said:\n%s", said)
			}
			n.override(n.a, "vfio-pci")
			if now := n.driver(n.a); now != was {
				t.Errorf("agent adopt changed the driver from %q to %q", was, now)
			}
			// The remedy, as it is told.
			must(t, n.vm.Poke(n.ctx(), n.a.Sysfs("driver_override"), "\n"))
			must(t, n.vm.Poke(n.ctx(), "/sys/bus/pci/drivers_probe", n.a.Addr))
			n.on(n.a, "igb")
		})
	}
}

func predecessorsNode(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	n.withVFIO()
	n.ask(released(n.b))
	return n
}

// withVFIO has all modules of VFIO loaded, by the agent: the guest's modprobe
// knows no soft dependencies, and vfio has one on its IOMMU driver.
func (n *node) withVFIO() {
	n.t.Helper()
	if names, err := n.vm.ReadDir(n.ctx(), "/sys/bus/pci/drivers"); err != nil || slices.Contains(names, "vfio-pci") {
		must(n.t, err)
		return
	}
	n.ask(driverOf(n.b, "vfio-pci"))
	p := n.run(AgentPath)
	defer n.kill(p)
	n.settled(p)
	n.stop(p)
	n.home()
	mustRun(n.t, n.vm, Helper, "remove", StateDir)
}

// TestAdoptListsWhatThePredecessorLeft: the files that its init container and
// the agent itself write, and never remove.
func TestAdoptListsWhatThePredecessorLeft(t *testing.T) {
	n := driverctlNode(t)
	n.ask(released(n.b))
	files := []string{
		"/usr/bin/dpdk-devbind.py", "/etc/modules-load.d/dpdk.conf", "/etc/modprobe.d/dpdk.conf",
		"/etc/pcidp/config.json.backup", "/var/lib/aws-multi-eni-controller/interface-mappings.json",
	}
	for _, file := range files {
		mustRun(t, n.vm, "mkdir", "-p", path.Dir(file))
		must(t, n.vm.WriteFile(n.ctx(), file, []byte("left\n"), 0o644))
		defer mustRun(t, n.vm, Helper, "remove", file)
	}
	defer mustRun(t, n.vm, "rmdir", "--ignore-fail-on-non-empty", "/etc/pcidp", "/var/lib/aws-multi-eni-controller")
	said := n.agent(0, "adopt", "--yes", "--config", wanted)
	if !hasAll(said, append(files, "aws-multi-eni-controller", "not touched")) {
		t.Errorf("agent adopt said:\n%s", said)
	}
	for _, file := range files {
		if text, err := n.vm.ReadText(n.ctx(), file); err != nil || text != "left" {
			t.Errorf("%s has %q, %v", file, text, err)
		}
	}
}
