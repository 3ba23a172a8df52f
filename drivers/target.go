package drivers

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Target is the stable identity of one host thing. A PCI function is its
// address ("0000:3b:00.1"); everything else carries a prefix: "module/vfio-pci",
// "param/vfio/enable_unsafe_noiommu_mode",
// "file//etc/pcidp/config.json#intel.com/sriov". Never a netdev name: those
// vanish when a function is bound to vfio-pci, and move when udev renames them.
type Target string

const (
	modulePrefix = "module/"
	paramPrefix  = "param/"
	filePrefix   = "file/"
)

var (
	pciAddress = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
	moduleName = regexp.MustCompile(`^[a-z0-9A-Z][a-z0-9A-Z_-]{0,54}$`)
	filePath   = regexp.MustCompile(`^/[^#\x00-\x1f\x7f]+$`)
	// An entry is a resource's name as Kubernetes has it: a DNS subdomain and a
	// name.
	fileEntry = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*/[a-zA-Z0-9_-]{1,63}$`)
)

// maxFile is how many characters there may be behind the first '/'. The expression
// does not say it: that would be a thousand states, in each process that starts.
const maxFile = 1000

// maxPrefix is the length of the longest DNS subdomain.
const maxPrefix = 253

// PCI is the Target of a PCI function. The address is taken in any case and
// may lack its domain ("3b:00.1"); anything else is an error that says what an
// address looks like.
func PCI(address string) (Target, error) {
	a := strings.ToLower(strings.TrimSpace(address))
	if strings.Count(a, ":") == 1 {
		a = "0000:" + a
	}
	if !pciAddress.MatchString(a) {
		return "", fmt.Errorf("%q is not a PCI address: want domain:bus:device.function in hex, such as 0000:3b:00.1", address)
	}
	return Target(a), nil
}

// Module is the Target of a kernel module. "_" and "-" are one character to
// the kernel, so names are kept with "_", as in /sys/module.
func Module(name string) (Target, error) {
	if !moduleName.MatchString(name) {
		return "", fmt.Errorf("%q is not a module name: want letters, digits, '-' and '_'", name)
	}
	return Target(modulePrefix + strings.ReplaceAll(name, "-", "_")), nil
}

// Param is the Target of a parameter of a loaded kernel module.
func Param(module, name string) (Target, error) {
	for _, s := range []string{module, name} {
		if !moduleName.MatchString(s) {
			return "", fmt.Errorf("%q is not a module or parameter name: want letters, digits, '-' and '_'", s)
		}
	}
	return Target(paramPrefix + strings.ReplaceAll(module, "-", "_") + "/" + name), nil
}

// FileEntry is the Target of an entry of a file, such as a pool in the
// configuration of the SR-IOV device plugin. The path is absolute and clean, the
// entry "prefix/name".
func FileEntry(file, entry string) (Target, error) {
	if !isFile(file) {
		return "", fmt.Errorf("%q is not a path of a file: want an absolute one without '.', '..' and '#', such as /etc/pcidp/config.json", file)
	}
	if !isEntry(entry) {
		return "", fmt.Errorf("%q is not a resource's name: want prefix/name, a DNS subdomain and letters, digits, '-' and '_', such as intel.com/sriov", entry)
	}
	return Target(filePrefix + file + "#" + entry), nil
}

func isFile(file string) bool {
	return utf8.RuneCountInString(file) <= 1+maxFile && filePath.MatchString(file) && path.Clean(file) == file
}

func isEntry(entry string) bool {
	return fileEntry.MatchString(entry) && strings.IndexByte(entry, '/') <= maxPrefix
}

// PCIAddress is the address of a PCI function, and whether t is one.
func (t Target) PCIAddress() (string, bool) {
	return string(t), pciAddress.MatchString(string(t))
}

// ModuleName is the name of a module as in /sys/module, and whether t is one.
func (t Target) ModuleName() (string, bool) {
	name, ok := strings.CutPrefix(string(t), modulePrefix)
	return name, ok && moduleName.MatchString(name)
}

// ParamName is the module and parameter that t names, and whether t is one.
func (t Target) ParamName() (module, name string, ok bool) {
	rest, ok := strings.CutPrefix(string(t), paramPrefix)
	if !ok {
		return "", "", false
	}
	module, name, ok = strings.Cut(rest, "/")
	return module, name, ok && moduleName.MatchString(module) && moduleName.MatchString(name)
}

// FileEntry is the file and the entry in it that t names, and whether t is one.
func (t Target) FileEntry() (file, entry string, ok bool) {
	rest, ok := strings.CutPrefix(string(t), filePrefix)
	if !ok {
		return "", "", false
	}
	file, entry, ok = strings.Cut(rest, "#")
	return file, entry, ok && isFile(file) && isEntry(entry)
}

// Valid says whether t has one of the forms above; a record read back from a
// disk may hold anything.
func (t Target) Valid() bool {
	_, pci := t.PCIAddress()
	_, module := t.ModuleName()
	_, _, param := t.ParamName()
	_, _, file := t.FileEntry()
	return pci || module || param || file
}

// Kind names an attribute of a Target: "driver", "mtu", "admin".
type Kind string

// Key is one attribute of one host thing, the unit that has a State.
type Key struct {
	Kind   Kind
	Target Target
}

// String is the key's text, "mtu@0000:3b:00.1", which ParseKey reads back.
func (k Key) String() string { return string(k.Kind) + "@" + string(k.Target) }

// MarshalText makes a Key a JSON map key.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (k *Key) UnmarshalText(b []byte) error {
	key, err := ParseKey(string(b))
	if err != nil {
		return err
	}
	*k = key
	return nil
}

// ParseKey reads a key's text.
func ParseKey(s string) (Key, error) {
	kind, target, ok := strings.Cut(s, "@")
	k := Key{Kind: Kind(kind), Target: Target(target)}
	if !ok || kind == "" || !k.Target.Valid() {
		return Key{}, fmt.Errorf("%q is not a key: want kind@target, such as mtu@0000:3b:00.1", s)
	}
	return k, nil
}

// Compare orders keys by target, then by kind, for output and for digests.
func (k Key) Compare(o Key) int {
	if c := strings.Compare(string(k.Target), string(o.Target)); c != 0 {
		return c
	}
	return strings.Compare(string(k.Kind), string(o.Kind))
}
