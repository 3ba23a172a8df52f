package owner

import (
	"fmt"
	"strings"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/drivers/link"
)

const (
	port = "0000:02:00.0"
	vf   = "0000:01:10.0"
)

// owners are those of an attribute on the default node with some more files;
// "#" in a path is the ifindex of the port's netdev.
func owners(t *testing.T, address string, kind drivers.Kind, want drivers.State, files map[string]string) []Owner {
	t.Helper()
	k := sim.New(sim.DefaultNode())
	n, err := host.NetdevOf(t.Context(), k, port)
	if err != nil {
		t.Fatal(err)
	}
	err = k.Edit(func(c *sim.Config) error {
		for path, text := range files {
			c.Files[strings.ReplaceAll(path, "#", fmt.Sprint(n.Index))] = text
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return Of(t.Context(), k, drivers.Key{Kind: kind, Target: drivers.Target(address)}, want)
}

func TestOf(t *testing.T) {
	vfio := dpdk.Bound("vfio-pci")
	for _, tc := range []struct {
		name    string
		address string
		kind    drivers.Kind
		want    drivers.State
		files   map[string]string
		owner   string // "" is nobody
		likely  bool
	}{
		{name: "nobody", kind: link.KindMTU},
		{name: "NetworkManager manages it", kind: link.KindMTU, owner: "NetworkManager", files: map[string]string{
			"/run/NetworkManager/devices/#": "[device]\nmanaged=true\nnm-owned=0",
		}},
		{name: "NetworkManager made it", kind: link.KindAdmin, owner: "NetworkManager", files: map[string]string{
			"/run/NetworkManager/devices/#": "[device]\nnm-owned=1",
		}},
		{name: "NetworkManager leaves it alone", kind: link.KindMTU, files: map[string]string{
			"/run/NetworkManager/devices/#": "[device]\nmanaged=false\nnm-owned=0",
		}},
		{name: "NetworkManager manages another", kind: link.KindMTU, files: map[string]string{
			"/run/NetworkManager/devices/99": "[device]\nmanaged=true",
		}},
		{name: "NetworkManager binds no drivers", kind: dpdk.KindDriver, want: vfio, files: map[string]string{
			"/run/NetworkManager/devices/#": "[device]\nmanaged=true",
		}},
		{name: "networkd configured it", kind: link.KindMTU, owner: "systemd-networkd", files: map[string]string{
			"/run/systemd/netif/links/#": "# This is private data. Do not parse.\nADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/10.network",
		}},
		{name: "networkd is at it", kind: link.KindAdmin, owner: "systemd-networkd", files: map[string]string{
			"/run/systemd/netif/links/#": "SETUP=configuring",
		}},
		{name: "networkd leaves it alone", kind: link.KindMTU, files: map[string]string{
			"/run/systemd/netif/links/#": "ADMIN_STATE=unmanaged",
		}},
		{name: "driverctl", kind: dpdk.KindDriver, want: vfio, owner: "driverctl", files: map[string]string{
			"/etc/driverctl.d/pci-" + port: "igb",
		}},
		{name: "driverctl, older", kind: dpdk.KindDriver, want: vfio, owner: "driverctl", files: map[string]string{
			"/etc/driverctl.d/" + port: "igb",
		}},
		{name: "driverctl wants the same", kind: dpdk.KindDriver, want: vfio, files: map[string]string{
			"/etc/driverctl.d/pci-" + port: "vfio-pci",
		}},
		{name: "driverctl has another", kind: dpdk.KindDriver, want: vfio, files: map[string]string{
			"/etc/driverctl.d/pci-0000:03:00.0": "igb",
		}},
		{name: "the operator's PF", kind: link.KindMTU, owner: "sriov-network-operator", files: map[string]string{
			"/etc/sriov-operator/pci/" + port: "{}",
		}},
		{name: "the operator's VF", address: vf, kind: dpdk.KindDriver, want: vfio, owner: "sriov-network-operator", files: map[string]string{
			"/etc/sriov-operator/pci/0000:01:00.0": "{}",
		}},
		{name: "a rule for this driver", kind: dpdk.KindDriver, want: vfio, owner: "udev", files: map[string]string{
			"/etc/udev/rules.d/10-x.rules": "# hello\nACTION==\"add\", KERNEL==\"" + port + "\", \\\n  ATTR{driver_override}=\"igb\"",
		}},
		{name: "a rule of this boot", kind: dpdk.KindDriver, want: vfio, owner: "udev", files: map[string]string{
			"/run/udev/rules.d/10-x.rules": "KERNEL==\"" + port + "\", RUN+=\"/usr/sbin/driverctl load-override $kernel\"",
		}},
		{name: "a rule for this MTU", kind: link.KindMTU, owner: "udev", files: map[string]string{
			"/etc/udev/rules.d/10-x.rules": "SUBSYSTEM==\"net\", KERNELS==\"" + port + "\", ATTR{mtu}=\"1400\"",
		}},
		{name: "a rule that only names it", kind: link.KindMTU, owner: "udev", likely: true, files: map[string]string{
			"/etc/udev/rules.d/10-x.rules": "SUBSYSTEM==\"net\", KERNELS==\"" + port + "\", NAME=\"dpdk0\"",
		}},
		{name: "a rule for a model", kind: dpdk.KindDriver, want: vfio, owner: "udev", likely: true, files: map[string]string{
			"/etc/udev/rules.d/10-x.rules": "ATTR{device}==\"0x10c9\", ATTR{driver_override}=\"igb\"",
		}},
		{name: "a rule for another", kind: dpdk.KindDriver, want: vfio, files: map[string]string{
			"/etc/udev/rules.d/10-x.rules": "KERNEL==\"0000:03:00.0\", ATTR{driver_override}=\"igb\"",
		}},
		{name: "a rule that is commented out", kind: dpdk.KindDriver, want: vfio, files: map[string]string{
			"/etc/udev/rules.d/10-x.rules": "# KERNEL==\"" + port + "\", ATTR{driver_override}=\"igb\"",
		}},
		{name: "a loop", kind: dpdk.KindDriver, want: vfio, owner: "driverctl", likely: true, files: map[string]string{
			"/proc/77/cmdline": "bash\x00-c\x00while :; do driverctl --nosave set-override " + port + " igb; done\x00",
		}},
		{name: "a tool that takes the short address", kind: dpdk.KindDriver, want: vfio, owner: "dpdk-devbind", likely: true, files: map[string]string{
			"/proc/77/cmdline": "python3\x00/usr/bin/dpdk-devbind.py\x00-b\x00igb\x00" + strings.TrimPrefix(port, "0000:") + "\x00",
		}},
		{name: "a tool for another function", kind: dpdk.KindDriver, want: vfio, files: map[string]string{
			"/proc/77/cmdline": "bash\x00/usr/sbin/driverctl\x00set-override\x000000:03:00.0\x00igb\x00",
		}},
		{name: "a program that uses it", kind: dpdk.KindDriver, want: vfio, files: map[string]string{
			"/proc/77/cmdline": "dpdk-testpmd\x00-a\x00" + port + "\x00",
		}},
		{name: "a tool that binds does not set the MTU", kind: link.KindMTU, files: map[string]string{
			"/proc/77/cmdline": "driverctl\x00set-override\x00" + port + "\x00igb\x00",
		}},
		{name: "no rule", kind: dpdk.KindDriver, want: vfio, files: map[string]string{
			"/etc/udev/rules.d/10-x.rules.off": "KERNEL==\"" + port + "\", ATTR{driver_override}=\"igb\"",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			address := tc.address
			if address == "" {
				address = port
			}
			found := owners(t, address, tc.kind, tc.want, tc.files)
			switch {
			case tc.owner == "" && len(found) > 0:
				t.Errorf("owners %v, want none", found)
			case tc.owner == "":
			case len(found) != 1 || found[0].Name != tc.owner || found[0].Known == tc.likely:
				t.Errorf("owners %+v, want %s (known: %t)", found, tc.owner, !tc.likely)
			case found[0].Remedy == "" || found[0].Evidence == "":
				t.Errorf("%+v says neither where it was found nor what to do", found[0])
			}
		})
	}
}

// TestAnOverrideThatDriverctlLeaves: of the kernel's driver, on the function
// that has it.
func TestAnOverrideThatDriverctlLeaves(t *testing.T) {
	k := sim.New(sim.DefaultNode())
	driver, err := host.DriverOf(t.Context(), k, port)
	if err != nil {
		t.Fatal(err)
	}
	for override, want := range map[string]string{driver: "driverctl", "vfio-pci": "", "": ""} {
		err := k.Do(t.Context(), host.Call{
			Op: host.OpSysfs, Target: port, Path: host.Attr(port, "driver_override"), Value: override + "\n",
		})
		if err != nil {
			t.Fatal(err)
		}
		name := ""
		for _, o := range Of(t.Context(), k, drivers.Key{Kind: dpdk.KindDriver, Target: port}, dpdk.Bound("vfio-pci")) {
			name += o.Name
			if o.Known {
				t.Errorf("%s is known, by a guess", o)
			}
		}
		if name != want {
			t.Errorf("with override %q the owner is %q, want %q", override, name, want)
		}
	}
}

// TestKnownOwnersComeFirst: the policy is read off the first.
func TestKnownOwnersComeFirst(t *testing.T) {
	found := owners(t, port, dpdk.KindDriver, dpdk.Bound("vfio-pci"), map[string]string{
		"/etc/udev/rules.d/10-x.rules":  "KERNEL==\"" + port + "\", NAME=\"dpdk0\"",
		"/etc/udev/rules.d/20-x.rules":  "KERNEL==\"" + port + "\", ATTR{driver_override}=\"igb\"",
		"/etc/driverctl.d/pci-" + port:  "igb",
		"/run/udev/rules.d/99-no.rules": "",
	})
	var names []string
	for _, o := range found {
		names = append(names, fmt.Sprintf("%s %t", o.Name, o.Known))
	}
	if got, want := strings.Join(names, ", "), "driverctl true, udev true, udev false"; got != want {
		t.Errorf("owners %s, want %s", got, want)
	}
}
