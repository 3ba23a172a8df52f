package fuzz_test

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strings"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// FuzzIdentity: two identities differ the same way from either side, and never
// in what one of them does not know.
func FuzzIdentity(f *testing.F) {
	full := []byte{1, 1, 1, 1, 1, 1, 1, 0, 0}
	for i := range full {
		for _, v := range []byte{0, 1, 2} {
			other := append([]byte(nil), full...)
			other[i] = v
			f.Add(full, other)
			virtual := append([]byte(nil), other...)
			virtual[7], virtual[8] = 1, v
			f.Add(virtual, other)
		}
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if err := checkDifference(drivers.Identity.Difference, newIdentity(a), newIdentity(b)); err != nil {
			t.Fatal(err)
		}
	})
}

// newIdentity has one of two values in each field, or none.
func newIdentity(b []byte) drivers.Identity {
	r := &reader{b}
	word := func(a, b string) string { return []string{"", a, b}[r.byte()%3] }
	return drivers.Identity{
		Vendor: word("0x8086", "0x1d0f"), Device: word("0x10c9", "0xec20"), Subsystem: word("a", "b"), MAC: word("02:00:00:00:00:01", "02:00:00:00:00:02"),
		ENI: word("eni-1", "eni-2"), Incarnation: uint64(r.byte() % 3), Netdev: r.byte() % 3, PF: drivers.Target(word(string(pf), string(port))), PFIncarnation: uint64(r.byte() % 3),
	}
}

func checkDifference(difference func(a, b drivers.Identity) string, a, b drivers.Identity) error {
	field := difference(a, b)
	switch {
	case difference(a, a) != "":
		return fmt.Errorf("%+v differs from itself", a)
	case difference(b, a) != field:
		return fmt.Errorf("%+v and %+v differ in %q, and the other way round in %q", a, b, field, difference(b, a))
	case difference(a, drivers.Identity{}) != "":
		return fmt.Errorf("%+v differs from the unknown", a)
	}
	// Forgetting, on one side, the field that differs leaves another, or none.
	known := map[string]func(*drivers.Identity){
		"vendor": func(i *drivers.Identity) { i.Vendor = "" }, "device": func(i *drivers.Identity) { i.Device = "" },
		"subsystem": func(i *drivers.Identity) { i.Subsystem = "" }, "eni": func(i *drivers.Identity) { i.ENI = "" },
		"mac": func(i *drivers.Identity) { i.MAC = "" }, "pf": func(i *drivers.Identity) { i.PF = "" },
		"incarnation": func(i *drivers.Identity) { i.Incarnation = 0 }, "pf_incarnation": func(i *drivers.Identity) { i.PFIncarnation = 0 },
	}
	if forget := known[field]; forget != nil {
		less := a
		forget(&less)
		if difference(less, b) == field {
			return fmt.Errorf("%+v and %+v differ in %s, which one does not know", less, b, field)
		}
	} else if field != "" {
		return fmt.Errorf("there is no field %q", field)
	}
	// What differs must differ; what is the same in all that both know must not.
	differs := map[string]bool{
		"vendor": apart(a.Vendor, b.Vendor), "device": apart(a.Device, b.Device), "subsystem": apart(a.Subsystem, b.Subsystem), "eni": apart(a.ENI, b.ENI),
		"pf": apart(a.PF, b.PF), "mac": a.PF == "" && b.PF == "" && apart(a.MAC, b.MAC), "incarnation": apart(a.Incarnation, b.Incarnation),
		"pf_incarnation": apart(a.PFIncarnation, b.PFIncarnation),
	}
	for name, differ := range differs {
		if name == field && !differ || differ && field == "" {
			return fmt.Errorf("%+v and %+v: said to differ in %q, and %s differs: %t", a, b, field, name, differ)
		}
	}
	return nil
}

// apart is known on both sides, and not equal.
func apart[T comparable](a, b T) bool {
	var unknown T
	return a != unknown && b != unknown && a != b
}

func TestBrokenDifferencesAreCaught(t *testing.T) {
	for name, broken := range map[string]func(a, b drivers.Identity) string{
		"unknown differs": func(a, b drivers.Identity) string {
			if a.MAC != b.MAC {
				return "mac"
			}
			return a.Difference(b)
		},
		"a VF's MAC counts": func(a, b drivers.Identity) string {
			if apart(a.MAC, b.MAC) {
				return "mac"
			}
			return a.Difference(b)
		},
		"one side only": func(a, b drivers.Identity) string {
			if a.PF != "" {
				b.PF = a.PF
			}
			if b.Vendor == "0x1d0f" {
				return ""
			}
			return a.Difference(b)
		},
		"the incarnation is not compared": func(a, b drivers.Identity) string {
			b.Incarnation = 0
			return a.Difference(b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for n := range 3 * 3 * 3 * 3 * 3 {
				a := newIdentity([]byte{1, 1, 1, byte(n % 3), 1, byte(n / 3 % 3), 0, byte(n / 9 % 3), 1})
				b := newIdentity([]byte{byte(n / 27 % 3), 1, 1, byte(n / 81 % 3), 1, 1, 0, 0, 1})
				if checkDifference(broken, a, b) != nil {
					return
				}
			}
			t.Error("no pair finds it")
		})
	}
}

// FuzzName: what is taken for an address, a module, a parameter or a key has
// one spelling, which is read back, and cannot leave its directory.
func FuzzName(f *testing.F) {
	for _, s := range []string{
		"0000:3b:00.1", "3b:00.1", " 3B:1F.7\n", "10000:01:00.0", "0000:3b:20.0", "0000:3b:00.8", "../../etc", "vfio-pci", "vfio_pci", "8021q", "", "-x", "a/b", "..", "a\n",
		"mtu@0000:3b:00.1", "pool@file//etc/x#a/b", "pool@file//etc/../x#a/b", "module@module/vfio", "@", "a@b", "mtu@param/a/b", "\x00@module/x", "mtu@0000:3B:00.1", "K@module/\u212a", "0000:3b:00.1\u0000",
		"mtu@module/a/b", "noiommu@param/vfio/enable_unsafe_noiommu_mode", "\u017fa", "x@file//a#", "x@file/a#b/c", "x@file//a#b/c", "x@file//a@b#c/d",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if err := checkAddress(s); err != nil {
			t.Fatal(err)
		}
		if err := checkNames(s); err != nil {
			t.Fatal(err)
		}
		if err := checkKey(s); err != nil {
			t.Fatal(err)
		}
	})
}

func checkAddress(s string) error {
	t, err := drivers.PCI(s)
	if err != nil {
		if t != "" || !strings.Contains(err.Error(), "0000:3b:00.1") {
			return fmt.Errorf("PCI(%q) is %q, and its error does not say what an address looks like: %w", s, t, err)
		}
		return nil
	}
	again, err := drivers.PCI(string(t))
	address, ok := t.PCIAddress()
	if err != nil || again != t || !ok || address != string(t) || !t.Valid() || !inside("/sys/bus/pci/devices", address) {
		return fmt.Errorf("PCI(%q) is %q, which reads as %q (%w)", s, t, again, err)
	}
	if upper, err := drivers.PCI(strings.ToUpper(string(t))); err != nil || upper != t {
		return fmt.Errorf("%q in capitals is %q (%w)", t, upper, err)
	}
	return nil
}

func checkNames(s string) error {
	if t, err := drivers.Module(s); err == nil {
		name, ok := t.ModuleName()
		again, err := drivers.Module(name)
		if !ok || err != nil || again != t || !t.Valid() || !inside("/sys/module", name) {
			return fmt.Errorf("Module(%q) is %q, which reads as %q (%w)", s, t, again, err)
		}
	}
	if t, err := drivers.Param("vfio-pci", s); err == nil {
		module, name, ok := t.ParamName()
		if !ok || module != "vfio_pci" || name != s || !t.Valid() || !inside("/sys/module/vfio_pci/parameters", name) {
			return fmt.Errorf("Param(%q) is %q", s, t)
		}
	}
	return nil
}

// inside says whether a name is a name, and its file in the directory.
func inside(dir, name string) bool {
	return path.Dir(path.Join(dir, name)) == dir && path.Base(name) == name && !strings.ContainsAny(name, "\x00\n")
}

func checkKey(s string) error {
	k, err := drivers.ParseKey(s)
	if err != nil {
		if k != (drivers.Key{}) {
			return fmt.Errorf("key %+v and error %w", k, err)
		}
		return nil
	}
	again, err := drivers.ParseKey(k.String())
	if err != nil || again != k || k.String() != s || k.Kind == "" || !k.Target.Valid() || k.Compare(again) != 0 {
		return fmt.Errorf("%q reads as %+v, which reads as %+v (%w)", s, k, again, err)
	}
	b, err := json.Marshal(map[drivers.Key]int{k: 1})
	var back map[drivers.Key]int
	if err == nil {
		err = json.Unmarshal(b, &back)
	}
	if strings.ToValidUTF8(s, "") == s && (err != nil || back[k] != 1) {
		return fmt.Errorf("%q as JSON is %s, which reads as %v (%w)", s, b, back, err)
	}
	return nil
}

// FuzzAllowed: whatever the allow-list accepts is one of the few writes there
// are, and about the call's own target.
func FuzzAllowed(f *testing.F) {
	address := string(vf)
	paths := []string{
		host.Attr(address, "driver_override"), host.PCIDrivers + "vfio-pci/bind", host.PCIDrivers + "igb/unbind", host.DriversProbe,
		"/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "/lib/modules/6.1/kernel/x.ko.xz", "/lib/modules/6.1/x.ko",
		host.PCIDrivers + "../bind", host.PCIDrivers + "../../../../etc/passwd/bind", host.PCIDrivers + "a/../b/bind", host.PCIDrivers + "/bind", host.PCIDrivers + "igb/bind\x00",
		host.PCIDrivers + "igb/module/../bind", host.PCIDrivers + "igb/module/bind", host.PCIDrivers + "igb/" + address + "/driver_override", host.Attr(address, "physfn/driver_override"),
		host.Attr(string(pf), "driver_override"), host.Attr(address, "driver/unbind"), host.Attr(address, "remove"), "/sys/bus/pci/devices/" + address + "/../" + address + "/driver_override",
		"//sys/bus/pci/drivers_probe", "/sys/bus/pci/./drivers_probe", "/sys/bus/pci/drivers_probe/", "/sys/class/net/eth0/device/driver_override", "sys/bus/pci/drivers_probe",
		"/lib/modules/../x.ko", "/lib/modules/6.1/../../../tmp/x.ko", "/lib/modules/6.1/.x/x.ko", "/lib/modules/6.1/x.ko/..", "/lib/modules/6.1/x.ko\n", "/tmp/x.ko",
	}
	for _, op := range []host.Op{host.OpSysfs, host.OpMTU, host.OpAdmin, host.OpLoad, host.OpUnload, host.OpReplace, host.OpSync, "rm"} {
		for _, p := range append(paths, "/etc/pcidp/config.json", "/etc/passwd", "/etc/pcidp/../x.json") {
			f.Add(string(op), "file/"+p+"#a/b", p, "{}", 0, 0)
			f.Add(string(op), "file/"+p+"#a/b", p, "", 0, 0)
			f.Add(string(op), address, p, address, 3, 1500)
			f.Add(string(op), address, p, "vfio-pci\n", 3, 1)
			f.Add(string(op), "module/x", p, "", 0, 0)
			f.Add(string(op), string(noIOMMU), p, "Y", -1, 67)
			f.Add(string(op), "module/x", p, "x", 65536, 65536)
		}
	}
	f.Fuzz(func(t *testing.T, op, target, file, value string, index, number int) {
		c := host.Call{Op: host.Op(op), Target: drivers.Target(target), Path: file, Value: value, Index: index, Number: number}
		if err := checkAllowed(host.Allowed, c); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
	})
}

var (
	probeOrBind = regexp.MustCompile(`\A/sys/bus/pci/(drivers_probe|drivers/[^/\x00-\x20]+/(bind|unbind))\z`)
	moduleFile  = regexp.MustCompile(`\A/lib/modules/[^/\x00-\x20]+(/[^/\x00-\x20]+)*/([^/\x00-\x20.]+)\.ko(\.[a-z]+)?\z`)
)

// checkAllowed says what is wrong with a call that was accepted.
func checkAllowed(allowed func(host.Call) error, c host.Call) error {
	if allowed(c) != nil {
		return nil
	}
	address, function := c.Target.PCIAddress()
	name, module := c.Target.ModuleName()
	if (c.Op == host.OpSysfs || c.Op == host.OpLoad) && (!strings.HasPrefix(c.Path, "/") || path.Clean(c.Path) != c.Path || strings.Contains(c.Path, "/.")) {
		return fmt.Errorf("a path that leads elsewhere")
	}
	ok := false
	switch c.Op {
	case host.OpSysfs:
		switch c.Path {
		case host.Attr(address, "driver_override"):
			ok = function && len(c.Value) > 0 && len(c.Value) < 128 && !strings.ContainsAny(strings.TrimSuffix(c.Value, "\n"), "/\n\x00 ")
		case "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode":
			ok = c.Target == noIOMMU && (c.Value == "Y" || c.Value == "N")
		default:
			ok = function && probeOrBind.MatchString(c.Path) && c.Value == address
		}
	case host.OpMTU:
		ok = function && c.Index > 0 && c.Number >= 68 && c.Number <= 65535
	case host.OpAdmin:
		ok = function && c.Index > 0 && (c.Number == 0 || c.Number == 1)
	case host.OpLoad:
		m := moduleFile.FindStringSubmatch(c.Path)
		ok = module && m != nil && strings.ReplaceAll(m[2], "-", "_") == strings.ReplaceAll(name, "-", "_") && oneLine(c.Value)
	case host.OpReplace, host.OpSync:
		file, _, entry := c.Target.FileEntry()
		ok = entry && file == c.Path && c.Path == "/etc/pcidp/config.json" &&
			(c.Op == host.OpSync) == (c.Value == "") && (c.Value == "" || json.Valid([]byte(strings.TrimPrefix(c.Value, "\ufeff"))))
	case host.OpUnload:
		ok = module && c.Value == name && inside("/sys/module", name)
	}
	if !ok {
		return fmt.Errorf("accepted, and is none of the writes that there are")
	}
	return nil
}

// oneLine says whether parameters of a module are one line of ASCII.
func oneLine(parameters string) bool {
	return len(parameters) <= 1000 && !strings.ContainsFunc(parameters, func(r rune) bool { return r != '\t' && (r < ' ' || r > '~') })
}

func TestBrokenAllowListsAreCaught(t *testing.T) {
	elsewhere := func(c host.Call) host.Call { c.Path = path.Clean(c.Path); return c }
	for name, tc := range map[string]struct {
		allowed func(host.Call) error
		c       host.Call
	}{
		"the path is cleaned first": {
			func(c host.Call) error { return host.Allowed(elsewhere(c)) },
			host.Call{Op: host.OpSysfs, Target: vf, Path: host.PCIDrivers + "a/../b/bind", Value: string(vf)},
		},
		"the target is not compared": {
			func(c host.Call) error { c.Target = drivers.Target(c.Value); return host.Allowed(c) },
			host.Call{Op: host.OpSysfs, Target: pf, Path: host.DriversProbe, Value: string(vf)},
		},
		"another function's attribute": {
			func(c host.Call) error {
				c.Path = host.Attr(string(c.Target), path.Base(c.Path))
				return host.Allowed(c)
			},
			host.Call{Op: host.OpSysfs, Target: vf, Path: host.Attr(string(pf), "driver_override"), Value: "x"},
		},
		"the file is the target's": {
			func(c host.Call) error { c.Path, _, _ = c.Target.FileEntry(); return host.Allowed(c) },
			host.Call{Op: host.OpSync, Target: "file//etc/pcidp/config.json#a/b", Path: "/etc/passwd"},
		},
		"parameters on a second line": {
			func(c host.Call) error { c.Value, _, _ = strings.Cut(c.Value, "\n"); return host.Allowed(c) },
			host.Call{Op: host.OpLoad, Target: "module/x", Path: "/lib/modules/6.1/x.ko", Value: "a=1\nb=2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tc.allowed(tc.c); err != nil {
				t.Fatalf("the variant is not broken: %v", err)
			}
			if checkAllowed(tc.allowed, tc.c) == nil {
				t.Error("not found")
			}
		})
	}
}
