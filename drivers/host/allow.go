package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"eniagent/drivers"
)

var (
	driverFile = regexp.MustCompile(`^/sys/bus/pci/drivers/[A-Za-z0-9_.-]{1,64}/(bind|unbind)$`)
	// No part of the path begins with a dot. The last one is the module.
	moduleFile = regexp.MustCompile(`^/lib/modules/[A-Za-z0-9_+~-][A-Za-z0-9_.+~-]{0,127}(?:/[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,63})*/([A-Za-z0-9_-]{1,64})\.ko(?:\.(?:xz|zst|gz))?$`)
	fileIs     = regexp.MustCompile(`^(/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*)+\.json$`)
	digestIs   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	overrideIs = regexp.MustCompile(`^([A-Za-z0-9_.-]{1,64}\n?|\n)$`)
)

// maxVFs is more than any one function makes.
const maxVFs = 256

// writable are the module parameters that may be written, and their values.
func writableParams() map[string][]string {
	return map[string][]string{
		SysModule + "vfio/parameters/enable_unsafe_noiommu_mode": {"Y", "N"},
	}
}

// Rules are what of the allow-list a machine's options say.
type Rules struct {
	// Files are the files that may be written, by their paths; DefaultFiles when
	// empty.
	Files []string
}

// DefaultFiles are the files that may be written where nobody says otherwise:
// the configuration of the SR-IOV device plugin.
func DefaultFiles() []string { return []string{"/etc/pcidp/config.json"} }

// WritableFile wants a path that may be among the files of Rules.
func WritableFile(file string) error {
	if _, err := drivers.FileEntry(file, "a/b"); err != nil || !fileIs.MatchString(file) {
		return fmt.Errorf("want the absolute path of a .json file, of letters, digits, '.', '_', '+' and '-', no part of which begins with a dot")
	}
	return nil
}

// Allowed is Rules.Allowed of no options.
func Allowed(c Call) error { return Rules{}.Allowed(c) }

// Allowed is the allow-list of writes, checked where the write is made: the
// child refuses what is not on it, whatever a journal record said. The
// function that a sysfs write names must be the call's target.
func (r Rules) Allowed(c Call) error {
	if err := r.allowed(c); err != nil {
		return fmt.Errorf("%s on %s: %w: %w", c, c.Target, drivers.ErrIllegal, err)
	}
	return nil
}

func (r Rules) allowed(c Call) error {
	if c.Was != "" && c.Op != OpReplace {
		return errors.New("only a file was something before")
	}
	switch c.Op {
	case OpReplace, OpSync:
		return r.allowedFile(c)
	case OpSysfs:
		return allowedSysfs(c)
	case OpMTU:
		if _, ok := c.Target.PCIAddress(); !ok || c.Index <= 0 || c.Number < 68 || c.Number > 65535 {
			return errors.New("want a PCI target, an ifindex and 68 to 65535 bytes")
		}
	case OpAdmin:
		if _, ok := c.Target.PCIAddress(); !ok || c.Index <= 0 || c.Number < 0 || c.Number > 1 {
			return errors.New("want a PCI target, an ifindex and 0 or 1")
		}
	case OpName, OpMAC, OpAltName, OpChannels, OpRings, OpFeature:
		return allowedSetting(c)
	case OpVFMAC, OpVFVLAN, OpVFTrust, OpVFSpoofCheck, OpVFState, OpVFRate:
		return allowedVF(c)
	case OpLoad:
		name, ok := c.Target.ModuleName()
		file := moduleFile.FindStringSubmatch(c.Path)
		if !ok || file == nil || strings.ReplaceAll(file[1], "-", "_") != name || !paramsAre.MatchString(c.Value) {
			return errors.New("want a module target, its file below /lib/modules and parameters on one line")
		}
	case OpUnload:
		name, ok := c.Target.ModuleName()
		if !ok || c.Value != name {
			return errors.New("want a module target and its name")
		}
	default:
		return errors.New("no such operation")
	}
	return nil
}

// paramsAre is what modprobe.d may give a module, as the kernel takes it.
var paramsAre = regexp.MustCompile(`^[\t\x20-\x7e]{0,1000}$`)

// maxAltName is ALTIFNAMSIZ without its NUL.
const maxAltName = 127

func allowedSetting(c Call) error {
	_, ok := c.Target.PCIAddress()
	onOrOff := c.Number == 0 || c.Number == 1
	var err error
	switch {
	case !ok || c.Index <= 0 || !onOrOff:
		return errors.New("want a PCI target, an ifindex, and 0 or 1")
	case c.Op == OpName && !LinkName(c.Value):
		err = errors.New("want the name of a network device")
	case c.Op == OpMAC && !UnicastMAC(c.Value):
		err = errors.New("want a unicast MAC address in lower case")
	case c.Op == OpChannels:
		_, err = ParseChannels(c.Value)
	case c.Op == OpRings:
		_, err = ParseRings(c.Value)
	case c.Op == OpFeature && !drivers.FeatureName(c.Value):
		err = errors.New("want a feature's name")
	case c.Op == OpAltName && !AltName(c.Value):
		err = errors.New("want an alternative name")
	}
	return err
}

// LinkName says whether a netdev can have the name (dev_valid_name: 1 to
// IFNAMSIZ-1 bytes, no '/', ':' or white space). "%" is left out: the kernel
// takes a name with "%d" in it for a pattern.
func LinkName(name string) bool {
	return name != "" && len(name) < 16 && name != "." && name != ".." && !strings.ContainsAny(name, "/:%\x00 \t\n\v\f\r")
}

// UnicastMAC says whether mac is an address of six bytes that a netdev can use
// (is_valid_ether_addr), in lower case.
func UnicastMAC(mac string) bool {
	hw, err := net.ParseMAC(mac)
	return err == nil && len(hw) == 6 && hw.String() == mac && hw[0]&1 == 0 && mac != NoMAC
}

// AltName says whether a netdev can have the alternative name: the kernel takes
// any text that fits. What is not UTF-8 does not cross the pipe as it is.
func AltName(name string) bool {
	return name != "" && len(name) <= maxAltName && utf8.ValidString(name) && !strings.Contains(name, "\x00")
}

// allowedFile lets only files be written that the options name, as their entry's
// target does, and only with what is JSON: nothing else ever makes sense there.
func (r Rules) allowedFile(c Call) error {
	files := r.Files
	if len(files) == 0 {
		files = DefaultFiles()
	}
	file, _, ok := c.Target.FileEntry()
	switch {
	case !ok || file != c.Path:
		return errors.New("want an entry of that file as target")
	case !fileIs.MatchString(c.Path) || !slices.Contains(files, c.Path):
		return fmt.Errorf("the file is none of %q", files)
	case c.Op == OpSync && c.Value == "":
		return nil
	case c.Op == OpSync || len(c.Value) > MaxFile || !json.Valid([]byte(strings.TrimPrefix(c.Value, "\ufeff"))):
		return fmt.Errorf("want JSON of at most %d bytes", MaxFile)
	case c.Was != "" && !digestIs.MatchString(c.Was):
		return errors.New("want the digest of what is there")
	}
	return nil
}

func allowedSysfs(c Call) error {
	if path.Clean(c.Path) != c.Path {
		return errors.New("the path is not clean")
	}
	if values, ok := writableParams()[c.Path]; ok {
		module, name, ok := c.Target.ParamName()
		if !ok || c.Path != SysModule+module+"/parameters/"+name || !slices.Contains(values, c.Value) {
			return fmt.Errorf("want the parameter's target and one of %q", values)
		}
		return nil
	}
	address, ok := c.Target.PCIAddress()
	if !ok {
		return errors.New("want a PCI target")
	}
	switch {
	case c.Path == Attr(address, "driver_override"):
		if !overrideIs.MatchString(c.Value) {
			return errors.New("want a driver's name, or a newline to clear it")
		}
		return nil
	case c.Path == Attr(address, "sriov_drivers_autoprobe"):
		if c.Value != "0" && c.Value != "1" {
			return errors.New("want 0 or 1")
		}
		return nil
	case c.Path == Attr(address, "sriov_numvfs"):
		if n, err := strconv.Atoi(c.Value); err != nil || n < 0 || n > maxVFs || strconv.Itoa(n) != c.Value {
			return errors.New("want a number of VFs")
		}
		return nil
	case c.Path == DriversProbe, driverFile.MatchString(c.Path):
		if c.Value != address {
			return errors.New("the value must be the target's address")
		}
		return nil
	}
	return errors.New("the path is not one the agent writes")
}
