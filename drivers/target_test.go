package drivers_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"eniagent/drivers"
)

func TestPCI(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"0000:3b:00.1", "0000:3b:00.1"},
		{"3b:00.1", "0000:3b:00.1"},
		{"0000:3B:1F.7", "0000:3b:1f.7"},
		{" 0000:3b:00.1\n", "0000:3b:00.1"},
		{"10000:01:00.0", "10000:01:00.0"},
		{"0000:3b:20.0", ""},
		{"0000:3b:00.8", ""},
		{"000:3b:00.1", ""},
		{"0000:3b:00", ""},
		{"0000:3b:00.1/..", ""},
		{"../../etc", ""},
		{"eth0", ""},
		{"", ""},
	} {
		got, err := drivers.PCI(tc.in)
		if string(got) != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("PCI(%q) = %q, %v, want %q", tc.in, got, err, tc.want)
		}
		if err != nil && !strings.Contains(err.Error(), "0000:3b:00.1") {
			t.Errorf("%v does not say what an address looks like", err)
		}
	}
}

func TestModuleAndParam(t *testing.T) {
	for in, want := range map[string]drivers.Target{
		"vfio-pci": "module/vfio_pci", "8021q": "module/8021q", "": "", "-x": "", "a/b": "", "..": "", "a b": "", "a\n": "",
		strings.Repeat("x", 56): "",
	} {
		got, err := drivers.Module(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Module(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	got, err := drivers.Param("vfio-pci", "ids")
	if got != "param/vfio_pci/ids" || err != nil {
		t.Errorf("Param = %q, %v", got, err)
	}
	for _, bad := range [][2]string{{"", "x"}, {"x", ""}, {"..", "x"}, {"x", "../y"}} {
		if got, err := drivers.Param(bad[0], bad[1]); err == nil {
			t.Errorf("Param(%q) = %q", bad, got)
		}
	}
}

// TestTargetForms: a target has one form at most.
func TestTargetForms(t *testing.T) {
	for target, want := range map[drivers.Target]string{
		"0000:3b:00.1": "pci", "module/vfio": "module", "param/vfio/x": "param", "file//etc/a#b.c/d": "file", "file//etc/a#b": "", "file//etc/a#b/c#d": "",
		"file//etc/../a#b/c": "", "file//etc//a#b/c": "", "file//#b/c": "", "file//a\n#b/c": "", "file//etc/a#B/c": "", "file//etc/a#b/": "", "file//etc/a#b/c.d": "",
		"": "", "module/": "", "module/a/b": "", "module/../x": "", "param/a": "", "param/a/b/c": "", "file/etc/a#b": "", "file//etc/a": "",
		"file//etc/a#": "", "0000:3b:00.1\n": "", "0000:3B:00.1": "",
	} {
		var forms []string
		if _, ok := target.PCIAddress(); ok {
			forms = append(forms, "pci")
		}
		if _, ok := target.ModuleName(); ok {
			forms = append(forms, "module")
		}
		if _, _, ok := target.ParamName(); ok {
			forms = append(forms, "param")
		}
		if _, _, ok := target.FileEntry(); ok {
			forms = append(forms, "file")
		}
		if got := strings.Join(forms, " "); got != want || target.Valid() != (want != "") {
			t.Errorf("%q is %q, valid %t, want %q", target, got, target.Valid(), want)
		}
	}
}

// TestFileEntry: what makes a target is what it reads as, and a refusal says
// what was wanted.
func TestFileEntry(t *testing.T) {
	long := strings.Repeat("a.", 126) + "a"
	for _, entry := range []string{"intel.com/sriov", "a/B_-9", "k8s.example-1.org/x", long + "/x", "a/" + strings.Repeat("x", 63)} {
		target, err := drivers.FileEntry("/etc/pcidp/config.json", entry)
		file, got, ok := target.FileEntry()
		if err != nil || !ok || file != "/etc/pcidp/config.json" || got != entry || !target.Valid() {
			t.Errorf("%q is %q: %q %q %t (%v)", entry, target, file, got, ok, err)
		}
	}
	for _, entry := range []string{
		"", "sriov", "/sriov", "intel.com/", "Intel.com/x", "-a/x", "a-/x", "a..b/x", ".a/x", "a/x y", "a/x\n", "a/\u00e9", "a/b/c",
		long + "a/x", "a/" + strings.Repeat("x", 64),
	} {
		if target, err := drivers.FileEntry("/etc/pcidp/config.json", entry); err == nil || !strings.Contains(err.Error(), "prefix/name") {
			t.Errorf("%q is %q (%v)", entry, target, err)
		}
	}
	for _, file := range []string{"", "etc/x", "/etc/../x", "/etc//x", "/etc/x/", "/etc/a#b", "/etc/\x00", "/"} {
		if target, err := drivers.FileEntry(file, "a/b"); err == nil || !strings.Contains(err.Error(), "absolute") {
			t.Errorf("%q is %q (%v)", file, target, err)
		}
	}
}

func TestKeyJSON(t *testing.T) {
	in := map[drivers.Key]drivers.State{{Kind: "mtu", Target: "0000:3b:00.1"}: "9000"}
	b, err := json.Marshal(in)
	if err != nil || string(b) != `{"mtu@0000:3b:00.1":"9000"}` {
		t.Fatalf("%s, %v", b, err)
	}
	out := map[drivers.Key]drivers.State{}
	if err := json.Unmarshal(b, &out); err != nil || out[drivers.Key{Kind: "mtu", Target: "0000:3b:00.1"}] != "9000" {
		t.Errorf("%v, %v", out, err)
	}
	for _, bad := range []string{`{"mtu":"1"}`, `{"@0000:3b:00.1":"1"}`, `{"mtu@eth0":"1"}`} {
		if err := json.Unmarshal([]byte(bad), &out); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestKeyCompare(t *testing.T) {
	keys := []drivers.Key{{Kind: "mtu", Target: "b"}, {Kind: "admin", Target: "b"}, {Kind: "z", Target: "a"}}
	slices.SortFunc(keys, drivers.Key.Compare)
	if got := fmt.Sprint(keys); got != "[z@a admin@b mtu@b]" {
		t.Error(got)
	}
	if keys[0].Compare(keys[0]) != 0 {
		t.Error("a key differs from itself")
	}
}

func TestError(t *testing.T) {
	e := &drivers.Error{Key: drivers.Key{Kind: "mtu", Target: "0000:3b:00.1"}, Do: "set", Err: fs.ErrNotExist}
	if got := e.Error(); got != "mtu@0000:3b:00.1 set: file does not exist" {
		t.Error(got)
	}
	e.Remedy = "plug it in"
	if !strings.HasSuffix(e.Error(), " (plug it in)") || !errors.Is(e, fs.ErrNotExist) {
		t.Error(e)
	}
}
