package owner

import (
	"context"
	"fmt"
	"path"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/link"
)

// Owner is another writer of an attribute.
type Owner struct {
	Name     string // of the program, "NetworkManager"
	Evidence string // where it says so, and what
	Remedy   string // how to make it let go
	// Known says that the evidence is about this very attribute. Without it the
	// owner is only the likely one.
	Known bool
}

// String is the owner and the evidence, for one line.
func (o Owner) String() string { return fmt.Sprintf("%s (%s)", o.Name, o.Evidence) }

// Of are those that write an attribute of a function, the known ones first.
// One that wants of it what is wanted here is none: it would have left it alone.
func Of(ctx context.Context, r host.Reader, key drivers.Key, want drivers.State) []Owner {
	address, ok := key.Target.PCIAddress()
	if !ok {
		return nil
	}
	s := search{reader: r, address: address, key: key, want: want}
	var known, likely []Owner
	for _, look := range []func(context.Context) []Owner{
		s.networkManager, s.networkd, s.driverctl, s.operator, s.linkFile, s.udev, s.processes, s.overridden,
	} {
		for _, o := range look(ctx) {
			if o.Known {
				known = append(known, o)
			} else {
				likely = append(likely, o)
			}
		}
	}
	return append(known, likely...)
}

// search is one question.
type search struct {
	reader  host.Reader
	address string
	key     drivers.Key
	want    drivers.State
}

// isLink says that the attribute is one of the netdev's.
func (s search) isLink() bool { return s.key.Kind == link.KindMTU || s.key.Kind == link.KindAdmin }

// settings are the "key=value" lines of a file; nil when it cannot be read.
func (s search) settings(ctx context.Context, file string) map[string]string {
	text, err := s.reader.Read(ctx, file)
	if err != nil {
		return nil
	}
	m := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			m[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return m
}

// netdev is the function's netdev, and whether it has one.
func (s search) netdev(ctx context.Context) (host.Netdev, bool) {
	n, err := host.NetdevOf(ctx, s.reader, s.address)
	return n, err == nil && n.Name != ""
}

// networkManager keeps a file for each device (NMConfigDeviceStateData in its
// src/core/nm-config.c): managed is left out while it is not known, and
// nm-owned marks what it made itself.
func (s search) networkManager(ctx context.Context) []Owner {
	n, ok := s.netdev(ctx)
	if !ok || !s.isLink() {
		return nil
	}
	file := fmt.Sprintf("/run/NetworkManager/devices/%d", n.Index)
	state := s.settings(ctx, file)
	yes := func(name string) bool { return state[name] == "true" || state[name] == "1" }
	if !yes("managed") && !yes("nm-owned") {
		return nil
	}
	return []Owner{{
		Name: "NetworkManager", Evidence: fmt.Sprintf("%s says that it manages %s", file, n.Name), Known: true,
		Remedy: fmt.Sprintf("nmcli device set %s managed no, and unmanaged-devices= in its configuration; or set %s in its connection", n.Name, s.key.Kind),
	}}
}

// networkd keeps a file for each link. A link that is pending or unmanaged has
// no .network file.
func (s search) networkd(ctx context.Context) []Owner {
	n, ok := s.netdev(ctx)
	if !ok || !s.isLink() {
		return nil
	}
	file := fmt.Sprintf("/run/systemd/netif/links/%d", n.Index)
	state := s.settings(ctx, file)
	admin := state["ADMIN_STATE"]
	if admin == "" {
		admin = state["SETUP"]
	}
	if admin != "configured" && admin != "configuring" {
		return nil
	}
	by := state["NETWORK_FILE"]
	if by == "" {
		by = "its .network file"
	}
	return []Owner{{
		Name: "systemd-networkd", Evidence: fmt.Sprintf("%s says that %s is %s", file, n.Name, admin), Known: true,
		Remedy: fmt.Sprintf("set Unmanaged=yes in %s, or the same %s there", by, s.key.Kind),
	}}
}

// driverctl keeps the driver of each function it binds in a file of its own,
// which its udev rule reads again whenever the function appears.
func (s search) driverctl(ctx context.Context) []Owner {
	if s.key.Kind != dpdk.KindDriver {
		return nil
	}
	for _, name := range []string{"pci-" + s.address, s.address} {
		file := "/etc/driverctl.d/" + name
		text, err := s.reader.Read(ctx, file)
		if err != nil {
			continue
		}
		says := strings.TrimSpace(text)
		if b, err := dpdk.Parse(s.want); err == nil && b.Driver == says {
			return nil
		}
		remedy := "rm " + file
		// "none" is how driverctl keeps every driver away: no driver to ask for.
		if _, err := dpdk.Parse(dpdk.Bound(says)); err == nil && says != "none" && says != "" {
			remedy += ", or ask for driver " + says + " here too"
		}
		return []Owner{{Name: "driverctl", Evidence: fmt.Sprintf("%s says %s", file, says), Known: true, Remedy: remedy}}
	}
	return nil
}

// operator is the sriov-network-operator, which marks the physical functions
// that it has configured; their virtual functions are its as well.
func (s search) operator(ctx context.Context) []Owner {
	functions := []string{s.address}
	if pf, err := s.reader.Readlink(ctx, host.Attr(s.address, "physfn")); err == nil {
		functions = append(functions, path.Base(pf))
	}
	for _, address := range functions {
		file := "/etc/sriov-operator/pci/" + address
		if _, err := s.reader.Inode(ctx, file); err != nil {
			continue
		}
		return []Owner{{
			Name: "sriov-network-operator", Evidence: file + " is its mark", Known: true,
			Remedy: "take the function out of every SriovNetworkNodePolicy, then rm " + file,
		}}
	}
	return nil
}
