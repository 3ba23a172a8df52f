package module

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

func TestByAlias(t *testing.T) {
	const port = "0000:3b:00.0"
	const modalias = "pci:v00008086d000010C9sv00008086sd0000A03Cbc02sc00i00"
	for _, tc := range []struct {
		name, alias, builtin string
		files                map[string]string
		want                 string
	}{
		{name: "one", alias: "# comment\nalias pci:v00008086d000010C9sv*sd*bc*sc*i* igb\nalias pci:v00008086d000010CAsv*sd*bc*sc*i* igbvf", want: "igb"},
		{name: "by class", alias: "alias pci:v*d*sv*sd*bc02sc00i* ethernet", want: "ethernet"},
		{name: "several", alias: "alias pci:v00008086d*sv*sd*bc*sc*i* b\nalias pci:v00008086d000010C9sv*sd*bc*sc*i* a\nalias pci:v00008086d000010C9sv*sd*bc*sc*i* a", want: "a b"},
		{name: "vfio's own prefix", alias: "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci"},
		{name: "a userspace driver", alias: "alias pci:v*d*sv*sd*bc*sc*i* igb_uio"},
		{name: "malformed and others", alias: "alias pci:[v igb\nalias usb:v* x\nalias\noptions pci:v* y"},
		{name: "none", alias: ""},
		{name: "built in", builtin: "igb.file=x\x00igb.alias=pci:v00008086d000010C9sv*sd*bc*sc*i*\x00igb.alias=net:x", want: "igb"},
		{
			name: "another name", alias: "alias pci:v*d*sv*sd*bc*sc*i* virtio_pci",
			files: map[string]string{host.PCIDrivers + "virtio-pci/bind": ""}, want: "virtio-pci",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := installed("", "", "")
			r.files[host.Attr(port, "modalias")], r.files[dir+"modules.alias"] = modalias, tc.alias
			if tc.builtin != "" {
				r.files[dir+"modules.builtin.modinfo"] = tc.builtin
			}
			for file, text := range tc.files {
				r.files[file] = text
			}
			got, err := ByAlias(t.Context(), r, port)
			if err != nil || strings.Join(got, " ") != tc.want {
				t.Errorf("%q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestByAliasUnread(t *testing.T) {
	r := installed("", "", "")
	if _, err := ByAlias(t.Context(), r, "module/igb"); !errors.Is(err, drivers.ErrIllegal) {
		t.Errorf("%v, want ErrIllegal", err)
	}
	if _, err := ByAlias(t.Context(), r, "0000:3b:00.0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want ErrNotExist", err)
	}
	r.files[host.Attr("0000:3b:00.0", "modalias")] = "pci:v"
	for _, file := range []string{"modules.alias", "modules.builtin.modinfo"} {
		r.fail[dir+file] = syscall.EIO
		if _, err := ByAlias(t.Context(), r, "0000:3b:00.0"); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v, want EIO", file, err)
		}
		delete(r.fail, dir+file)
	}
}

// TestByAliasIsWhatTheKernelBinds holds it against the simulated kernel: the
// driver that has a function at boot is the one its alias names.
func TestByAliasIsWhatTheKernelBinds(t *testing.T) {
	k := sim.New(sim.DefaultNode())
	functions, err := k.List(t.Context(), strings.TrimSuffix(host.PCIDevices, "/"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range functions {
		driver, err := host.DriverOf(t.Context(), k, f)
		if err != nil || driver == "" || driver == "pcieport" { // built in, of which the node has no index
			continue
		}
		if got, err := ByAlias(t.Context(), k, drivers.Target(f)); err != nil || len(got) != 1 || got[0] != driver {
			t.Errorf("%s: %q, %v; the kernel has it on %s", f, got, err, driver)
		}
	}
}
