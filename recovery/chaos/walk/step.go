package walk

import (
	"fmt"
	"strconv"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// verb is what a Step does.
type verb string

const (
	setOverride  verb = "override"
	unbind       verb = "unbind"
	bind         verb = "bind"
	probe        verb = "probe"
	setVFs       verb = "numvfs"
	setAutoprobe verb = "autoprobe"
	remove       verb = "remove"
	rescan       verb = "rescan"
	setMTU       verb = "mtu"
	setAdmin     verb = "admin"
	setName      verb = "name"
	setMAC       verb = "mac"
	setAltName   verb = "altname" // number: 1 gives it, 0 takes it away
	setChannels  verb = "channels"
	setRings     verb = "rings"
	setFeature   verb = "feature"
	setPort      verb = "vf" // what a PF keeps for its VF number
	load         verb = "load"
	unload       verb = "unload"
	hold         verb = "hold"    // a program opens the vfio function
	release      verb = "release" // and ends
)

// Step is one write. It names a netdev by its function and a module file by
// its module, so that it is the same on every machine.
type Step struct {
	verb   verb
	on     string // a function or a module
	driver string // of bind and unbind; "" is the one that may be bound, or is
	value  string // of a sysfs attribute
	number int    // of mtu and admin
	op     host.Op
}

// setting is the group of settings that the step writes; "" when it writes none.
func (s Step) setting() host.Setting {
	switch s.verb {
	case setAltName:
		return host.SettingAltNames
	case setChannels:
		return host.SettingChannels
	case setRings:
		return host.SettingRings
	case setFeature:
		return host.SettingFeatures
	case setPort:
		return host.SettingVFs
	}
	return ""
}

// nowhere is an ifindex that no netdev has, and noDriver a driver that is not.
const (
	nowhere  = 4711
	noDriver = "nosuch"
)

// call is the step as a write of the machine as it is now.
func (s Step) call(release string, now state) host.Call {
	c := host.Call{Op: host.OpSysfs, Target: drivers.Target(s.on), Value: s.value}
	switch s.verb {
	case setOverride:
		c.Path = host.Attr(s.on, "driver_override")
	case setVFs:
		c.Path = host.Attr(s.on, "sriov_numvfs")
	case setAutoprobe:
		c.Path = host.Attr(s.on, "sriov_drivers_autoprobe")
	case remove:
		c.Path = host.Attr(s.on, "remove")
	case rescan:
		c.Path = "/sys/bus/pci/rescan"
	case probe:
		c.Path, c.Value = host.DriversProbe, s.on
	case bind, unbind:
		driver := s.driver
		if driver == "" && s.verb == unbind {
			driver = now.driverOf(s.on)
		} else if driver == "" {
			driver = now.naturalOf(s.on)
		}
		c.Path, c.Value = host.PCIDrivers+driver+"/"+string(s.verb), s.on
	case setMTU, setAdmin:
		c = host.Call{Op: host.Op(s.verb), Target: c.Target, Index: now.indexOf(s.on), Number: s.number}
	case setName, setMAC, setAltName, setChannels, setRings, setFeature:
		c = host.Call{Op: host.Op(s.verb), Target: c.Target, Index: now.indexOf(s.on), Value: s.value, Number: s.number}
	case setPort:
		c = host.Call{Op: s.op, Target: c.Target, Index: now.indexOf(s.on), Value: s.value, Number: s.number}
	case load:
		c = host.Call{Op: host.OpLoad, Target: drivers.Target("module/" + s.on), Path: "/lib/modules/" + release + "/" + moduleFile(s.on)}
	case unload:
		c = host.Call{Op: host.OpUnload, Target: drivers.Target("module/" + s.on), Value: s.on}
	}
	return c
}

// String is the step before it is known what it will be on a machine.
func (s Step) String() string {
	return strings.TrimSpace(fmt.Sprint(s.verb, s.op, " ", s.on, " ", s.driver, s.value, " ", s.number))
}

// told is the call without the numbers that differ between machines.
func (s Step) told(c host.Call) string {
	switch s.verb {
	case setMTU, setAdmin:
		return fmt.Sprintf("%s %s %d", s.verb, s.on, s.number)
	case setName, setMAC, setAltName, setChannels, setRings, setFeature:
		return fmt.Sprintf("%s %s %q %d", s.verb, s.on, s.value, s.number)
	case setPort:
		return fmt.Sprintf("%s %s %d %q", s.op, s.on, s.number, s.value)
	case load, unload, remove, probe, hold, release:
		return strings.TrimSpace(fmt.Sprintf("%s %s %s", s.verb, s.on, s.value))
	}
	value := c.Value
	if len(value) > 80 {
		value = value[:1] + " times " + strconv.Itoa(len(value))
	}
	return fmt.Sprintf("%s %q > %s", s.verb, value, c.Path)
}

// moduleFile is where a distribution kernel has a module.
func moduleFile(name string) string {
	for _, m := range modules() {
		if m.Name == name {
			return m.Path
		}
	}
	return "kernel/drivers/net/" + name + ".ko.xz"
}
