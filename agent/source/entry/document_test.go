package entry

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"eniagent/agent/source"
)

const head = "apiVersion: eniagent/v1alpha1\ninterfaces:\n"

func ptr[T any](v T) *T { return &v }

func TestParseAccepts(t *testing.T) {
	up := source.Interface{State: source.Configured, Up: ptr(true)}
	with := func(s source.Selector) source.Interface { i := up; i.Selector = s; return i }
	tests := []struct {
		name, text string
		want       []source.Interface
	}{
		{"no domain, upper case", "- {pci: 3B:00.1, up: true}", []source.Interface{with(source.Selector{PCI: "0000:3b:00.1"})}},
		{"mac with dashes", "- {mac: 52-54-00-AB-00-01, up: true}", []source.Interface{with(source.Selector{MAC: "52:54:00:ab:00:01"})}},
		{"name of 15", "- {name: abcdefghijklmno, up: TRUE}", []source.Interface{with(source.Selector{Name: "abcdefghijklmno"})}},
		{"name in quotes", "- {name: '5', up: true}", []source.Interface{with(source.Selector{Name: "5"})}},
		{"name that YAML 1.1 took for a bool", "- {name: on, up: true}", []source.Interface{with(source.Selector{Name: "on"})}},
		{"one name, two selectors", "- {name: a, up: true}\n- {mac: 52:54:00:00:00:01, up: true}", []source.Interface{with(source.Selector{Name: "a"}), with(source.Selector{MAC: "52:54:00:00:00:01"})}},
		{"scalar alias", "- {name: a, up: &up true}\n- {name: b, up: *up}", []source.Interface{with(source.Selector{Name: "a"}), with(source.Selector{Name: "b"})}},
		{"state spelt out", "- {name: a, up: true, state: configured}", []source.Interface{with(source.Selector{Name: "a"})}},
		{"smallest mtu", "- {name: a, mtu: 68}", []source.Interface{{Selector: source.Selector{Name: "a"}, State: source.Configured, MTU: 68}}},
		{"greatest mtu", "- {name: a, mtu: 65535}", []source.Interface{{Selector: source.Selector{Name: "a"}, State: source.Configured, MTU: 65535}}},
		{"document marks, CRLF", "- {name: a, up: true}\r\n...\r\n", []source.Interface{with(source.Selector{Name: "a"})}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Document("f", []byte("---\n"+head+tc.text))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	const (
		gone  = `nothing is given back by leaving it out: write "state: released" for an interface to release`
		pci   = `want domain:bus:device.function in hex, such as "0000:3b:00.1"`
		mac   = `want the MAC address of one interface, such as 52:54:00:00:00:01`
		name  = `want an interface's name: at most 127 bytes, no '/', ':' or spaces, in quotes if it looks like a number`
		drv   = `want a driver's name as in /sys/bus/pci/drivers, such as vfio-pci`
		mtu   = `want a number of bytes from 68 to 65535, without quotes, such as 9000`
		upOr  = `want true or false`
		top   = `want a mapping with apiVersion and interfaces`
		alt   = `want a name of 1 to 127 characters, no '/', ':', '%' or spaces, not only digits, in quotes if it looks like something else`
		field = `want one of pci, mac, name, driver, up, mtu, pool, state, onStop, allowManagementPath, altNames, channels, rings, features, vfs`
	)
	tests := []struct{ name, text, want string }{
		{"empty file", "", `f: empty; ` + gone},
		{"only comments", "# nothing\n# here\n", `f: empty; ` + gone},
		{"only a mark", "---\n", `f: empty; ` + gone},
		{"null", "null\n", `f: empty; ` + gone},
		{"a list", "- pci: x\n", `f: line 1: a list: ` + top},
		{"text", "hello\n", `f: line 1: hello: ` + top},
		{"no interfaces", "apiVersion: eniagent/v1alpha1\n", `f: line 1: interfaces: missing; ` + gone},
		{"interfaces cut off", head, `f: line 2: interfaces: empty; ` + gone},
		{"interfaces an empty list", "apiVersion: eniagent/v1alpha1\ninterfaces: []\n", `f: line 2: interfaces: empty; ` + gone},
		{"interfaces a mapping", "apiVersion: eniagent/v1alpha1\ninterfaces: {a: b}\n", `f: line 2: interfaces: a mapping: want a list of interfaces, each starting with "- "`},
		{"no apiVersion", "interfaces:\n- {name: a, up: true}\n", `f: line 1: apiVersion: missing; write "apiVersion: eniagent/v1alpha1"`},
		{"other apiVersion", "interfaces:\n- {name: a, up: true}\napiVersion: v2\n", `f: line 3: apiVersion: v2: want eniagent/v1alpha1`},
		{"apiVersion a list", "apiVersion: []\ninterfaces:\n- {name: a, up: true}\n", `f: line 1: apiVersion: a list: want eniagent/v1alpha1`},
		{"misspelt top field", "apiVersion: eniagent/v1alpha1\ninterface:\n- {name: a, up: true}\n", `f: line 2: interface: unknown field; did you mean interfaces?`},
		{"wrong case", "apiversion: eniagent/v1alpha1\ninterfaces:\n- {name: a, up: true}\n", `f: line 1: apiversion: unknown field; did you mean apiVersion?`},
		{"unknown top field", "kind: Node\n" + head + "- {name: a, up: true}\n", `f: line 1: kind: unknown field; want one of apiVersion, interfaces`},
		{"duplicate top key", head + "- {name: a, up: true}\ninterfaces: []\n", `f: line 4: interfaces: given twice, first on line 2; remove one`},
		{"two documents", head + "- {name: a, up: true}\n---\n" + head, `f: line 4: a second YAML document; keep one, without "---" between`},
		{"two documents, one empty", head + "- {name: a, up: true}\n---\n", `f: line 4: a second YAML document; keep one, without "---" between`},
		{"no reason to replace", head + "- {name: a, vfs: {count: 1, replaceVFs: \" \"}}\n", `f: line 3: interfaces[0].vfs.replaceVFs: " ": want the reason, in words, for making VFs anew that somebody else has configured`},
		{"a reason that is none", head + "- {name: a, vfs: {count: 1, replaceVFs: true}}\n", `f: line 3: interfaces[0].vfs.replaceVFs: true: want the reason, in words, for making VFs anew that somebody else has configured`},
		{"no reason", head + "- {name: a, up: true, allowManagementPath: \"\"}\n", `f: line 3: interfaces[0].allowManagementPath: "": want the reason, in words, for touching the node's management path`},
		{"a stop that is neither", head + "- {name: a, up: true, onStop: keep}\n", `f: line 3: interfaces[0].onStop: keep: want retain or release; without it the flag --on-stop says it`},
		{"a stop that is a list", head + "- {name: a, up: true, onStop: [release]}\n", `f: line 3: interfaces[0].onStop: a list: want retain or release; without it the flag --on-stop says it`},
		{"a stop alone", head + "- {name: a, onStop: release}\n", `f: line 3: interfaces[0]: nothing is asked of name a; add driver, up, mtu, pool or vfs, or "state: released"`},
		{"a stop of what is released", head + "- {name: a, state: released, onStop: retain}\n", `f: line 3: interfaces[0].onStop: retain: a released interface is given back whether or not the agent stops; remove onStop`},
		{"another spelling of onStop", head + "- {name: a, up: true, on_stop: retain}\n", `f: line 3: interfaces[0]: on_stop: unknown field; did you mean onStop?`},
		{"too many", head + strings.Repeat("- {pci: a}\n", maxInterfaces+1), "f: line 2: interfaces: 2049 of them; want at most 2048, one for each function of the node"},
		{"too large", head + strings.Repeat("#", MaxSize), `f: 1048618 bytes: want at most 1048576`},
		{"not UTF-8", "apiVersion: eniagent/v1alpha1\ninter\xfffaces:\n", `f: line 2: not UTF-8 text; save the file as UTF-8`},
		{"control character", "a: \x01\n", `f: not YAML: control characters are not allowed (value: 1)`},
		{"syntax", head + "- [1\nb: 2", `f: line 4: not YAML: did not find expected ',' or ']' while parsing a flow sequence that began on line 3`},
		{"tab", head + "- name: a\n\tup: true", `f: line 4: not YAML: a tab; indent with spaces`},
		{"unknown anchor", head + "- {name: *a, up: true}\n", `f: line 3: not YAML: unknown anchor 'a' referenced`},

		{"entry is text", head + "- eth0\n", `f: line 3: interfaces[0]: eth0: want an interface: one of pci, mac, name, and what is asked of it`},
		{"entry is null", head + "-\n", `f: line 3: interfaces[0]: null: want an interface: one of pci, mac, name, and what is asked of it`},
		{"entry is a list", head + "- [a]\n", `f: line 3: interfaces[0]: a list: want an interface: one of pci, mac, name, and what is asked of it`},
		{"entry is an alias", head + "- &a {name: a, up: true}\n- *a\n", `f: line 4: interfaces[1]: *a: an alias names the same interface again; write the entry out`},
		{"merge key", head + "- &a {name: a, up: true}\n- {<<: *a, name: b}\n", `f: line 4: interfaces[1]: <<: merge keys are not read; write the fields out`},
		{"misspelt field", head + "- {name: a, mut: 9000}\n", `f: line 3: interfaces[0]: mut: unknown field; did you mean mtu?`},
		{"misspelt selector", head + "- {nam: a, up: true}\n", `f: line 3: interfaces[0]: nam: unknown field; did you mean name?`},
		{"unknown field", head + "- {name: a, vlan: 1}\n", `f: line 3: interfaces[0]: vlan: unknown field; ` + field},
		{"key is a list", head + "- {name: a, [x]: 1}\n", `f: line 3: interfaces[0]: a list: as a field's name; want one of pci, mac, name, driver, up, mtu, pool, state, onStop, allowManagementPath, altNames, channels, rings, features, vfs`},
		{"duplicate key", head + "- name: a\n  mtu: 1500\n  mtu: 9000\n", `f: line 5: interfaces[0].mtu: given twice, first on line 4; remove one`},

		{"no selector", head + "- {up: true}\n", `f: line 3: interfaces[0]: no interface is selected; add one of pci, mac, name`},
		{"two selectors", head + "- {pci: 3b:00.1, name: a, up: true}\n", `f: line 3: interfaces[0]: pci and name together; keep one of them`},
		{"bad pci", head + "- {pci: 3b:00.9, up: true}\n", `f: line 3: interfaces[0].pci: 3b:00.9: ` + pci},
		{"pci a number", head + "- {pci: 3, up: true}\n", `f: line 3: interfaces[0].pci: 3: ` + pci},
		{"pci null", head + "- {pci: , up: true}\n", `f: line 3: interfaces[0].pci: null: ` + pci},
		{"bad mac", head + "- {mac: 52:54, up: true}\n", `f: line 3: interfaces[0].mac: 52:54: ` + mac},
		{"mac of 8 bytes", head + "- {mac: 02:00:5e:10:00:00:00:01, up: true}\n", `f: line 3: interfaces[0].mac: 02:00:5e:10:00:00:00:01: ` + mac},
		{"mac multicast", head + "- {mac: 01:00:5e:00:00:01, up: true}\n", `f: line 3: interfaces[0].mac: 01:00:5e:00:00:01: ` + mac},
		{"mac all zero", head + "- {mac: \"00:00:00:00:00:00\", up: true}\n", `f: line 3: interfaces[0].mac: "00:00:00:00:00:00": ` + mac},
		{"name too long", head + "- {name: " + strings.Repeat("abcdefgh", 16) + ", up: true}\n", `f: line 3: interfaces[0].name: ` + strings.Repeat("abcdefgh", 16)[:60] + `...: ` + name},
		{"name with slash", head + "- {name: a/b, up: true}\n", `f: line 3: interfaces[0].name: a/b: ` + name},
		{"name with space", head + "- {name: a b, up: true}\n", `f: line 3: interfaces[0].name: a b: ` + name},
		{"name with line break", head + "- {name: \"a\\nb\", up: true}\n", `f: line 3: interfaces[0].name: "a\nb": ` + name},
		{"name empty", head + "- {name: '', up: true}\n", `f: line 3: interfaces[0].name: "": ` + name},
		{"name of dots", head + "- {name: .., up: true}\n", `f: line 3: interfaces[0].name: ..: ` + name},
		{"name a number", head + "- {name: 5, up: true}\n", `f: line 3: interfaces[0].name: 5: ` + name},
		{"name very long", head + "- {name: " + strings.Repeat("x", 300) + ", up: true}\n", `f: line 3: interfaces[0].name: ` + strings.Repeat("x", 60) + `...: ` + name},
		{"two entries, one pci", head + "- {pci: 0000:3B:00.1, up: true}\n- {pci: 3b:00.1, mtu: 9000}\n", `f: line 4: interfaces[1]: pci 0000:3b:00.1 is on line 3 already; merge the two entries`},
		{"two entries, one mac", head + "- {mac: 52:54:00:00:00:0a, up: true}\n- {mac: 52-54-00-00-00-0A, state: released}\n", `f: line 4: interfaces[1]: mac 52:54:00:00:00:0a is on line 3 already; merge the two entries`},

		{"mtu too small", head + "- {name: a, mtu: 67}\n", `f: line 3: interfaces[0].mtu: 67: ` + mtu},
		{"mtu too great", head + "- {name: a, mtu: 65536}\n", `f: line 3: interfaces[0].mtu: 65536: ` + mtu},
		{"mtu zero", head + "- {name: a, mtu: 0}\n", `f: line 3: interfaces[0].mtu: 0: ` + mtu},
		{"mtu in quotes", head + "- {name: a, mtu: \"9000\"}\n", `f: line 3: interfaces[0].mtu: "9000": ` + mtu},
		{"mtu octal", head + "- {name: a, mtu: 01500}\n", `f: line 3: interfaces[0].mtu: 01500: ` + mtu},
		{"mtu hex", head + "- {name: a, mtu: 0x5dc}\n", `f: line 3: interfaces[0].mtu: 0x5dc: ` + mtu},
		{"mtu float", head + "- {name: a, mtu: 1.5e3}\n", `f: line 3: interfaces[0].mtu: 1.5e3: ` + mtu},
		{"mtu huge", head + "- {name: a, mtu: 99999999999999999999}\n", `f: line 3: interfaces[0].mtu: 99999999999999999999: ` + mtu},
		{"mtu null", head + "- {name: a, mtu: }\n", `f: line 3: interfaces[0].mtu: null: ` + mtu},
		{"up of YAML 1.1", head + "- {name: a, up: yes}\n", `f: line 3: interfaces[0].up: yes: ` + upOr},
		{"up in quotes", head + "- {name: a, up: \"true\"}\n", `f: line 3: interfaces[0].up: "true": ` + upOr},
		{"driver a path", head + "- {name: a, driver: ../vfio-pci}\n", `f: line 3: interfaces[0].driver: ../vfio-pci: ` + drv},
		{"driver a bool", head + "- {name: a, driver: true}\n", `f: line 3: interfaces[0].driver: true: ` + drv},
		{"driver a mapping", head + "- {name: a, driver: {name: x}}\n", `f: line 3: interfaces[0].driver: a mapping: ` + drv},
		{"driver by its module", head + "- {name: a, driver: vfio_pci}\n", `f: line 3: interfaces[0].driver: vfio_pci: that is a module's name; the driver is vfio-pci`},
		{"userspace driver and mtu", head + "- name: a\n  driver: vfio-pci\n  mtu: 9000\n", `f: line 4: interfaces[0].driver: vfio-pci: this driver leaves no network interface to configure; remove mtu`},
		{"userspace driver, mtu and up", head + "- name: a\n  up: false\n  driver: igb_uio\n  mtu: 9000\n", `f: line 5: interfaces[0].driver: igb_uio: this driver leaves no network interface to configure; remove up, mtu`},
		{"altNames no list", head + "- {name: a, altNames: b}\n", `f: line 3: interfaces[0].altNames: b: want a list of names, such as [eni0, storage]; without any, remove the field`},
		{"altNames empty", head + "- {name: a, altNames: []}\n", `f: line 3: interfaces[0].altNames: a list: want a list of names, such as [eni0, storage]; without any, remove the field`},
		{"altNames of an alias", head + "- {name: a, altNames: &n [b]}\n- {name: c, altNames: *n}\n", `f: line 4: interfaces[1].altNames: *n: want a list of names, such as [eni0, storage]; without any, remove the field`},
		{"altName with slash", head + "- name: a\n  altNames:\n  - b\n  - c/d\n", `f: line 6: interfaces[0].altNames[1]: c/d: ` + alt},
		{"altName a number", head + "- {name: a, altNames: [5]}\n", `f: line 3: interfaces[0].altNames[0]: 5: ` + alt},
		{"altName of digits", head + "- {name: a, altNames: ['5']}\n", `f: line 3: interfaces[0].altNames[0]: "5": ` + alt},
		{"altName twice", head + "- {name: a, altNames: [b, b]}\n", `f: line 3: interfaces[0].altNames[1]: b: given twice; remove one`},
		{"altNames too many", head + "- {name: a, altNames: [" + strings.Repeat("b, ", 17) + "]}\n", `f: line 3: interfaces[0].altNames: 17 names; want at most 16`},
		{"channels a number", head + "- {name: a, channels: 4}\n", `f: line 3: interfaces[0].channels: 4: want a mapping, such as {combined: 4}; to ask for nothing, remove the field`},
		{"channels empty", head + "- {name: a, channels: {}}\n", `f: line 3: interfaces[0].channels: a mapping: want a mapping, such as {combined: 4}; to ask for nothing, remove the field`},
		{"channels below zero", head + "- {name: a, channels: {combined: -1}}\n", `f: line 3: interfaces[0].channels.combined: -1: want a number from 0 to 1048576, without quotes`},
		{"channels misspelt", head + "- {name: a, channels: {combind: 1}}\n", `f: line 3: interfaces[0].channels: combind: unknown field; did you mean combined?`},
		{"rings of zero", head + "- {name: a, rings: {rx: 0}}\n", `f: line 3: interfaces[0].rings.rx: 0: want a number from 1 to 1048576, without quotes`},
		{"rings in quotes", head + "- {name: a, rings: {tx: '512'}}\n", `f: line 3: interfaces[0].rings.tx: "512": want a number from 1 to 1048576, without quotes`},
		{"rings twice", head + "- {name: a, rings: {tx: 512, tx: 512}}\n", `f: line 3: interfaces[0].rings.tx: given twice, first on line 3; remove one`},
		{"features a list", head + "- {name: a, features: [rx-gro]}\n", `f: line 3: interfaces[0].features: a list: want a mapping, such as {tx-tcp-segmentation: false}; to ask for nothing, remove the field`},
		{"feature on", head + "- {name: a, features: {rx-gro: on}}\n", `f: line 3: interfaces[0].features.rx-gro: on: want true or false`},
		{"feature twice", head + "- {name: a, features: {rx-gro: true, rx-gro: true}}\n", `f: line 3: interfaces[0].features.rx-gro: given twice; remove one`},
		{"feature of ethtool's", head + "- {name: a, features: {tso: true}}\n", `f: line 3: interfaces[0].features.tso: that is ethtool's word for it; the kernel's is tx-tcp-segmentation, with tx-tcp6-segmentation and others beside it`},
		{"feature with a space", head + "- {name: a, features: {rx gro: true}}\n", `f: line 3: interfaces[0].features: rx gro: as a feature's name; want one that ethtool -k lists, such as tx-tcp-segmentation`},
		{"userspace driver and rings", head + "- {name: a, driver: vfio-pci, rings: {rx: 64}}\n", `f: line 3: interfaces[0].driver: vfio-pci: this driver leaves no network interface to configure; remove rings`},
		{"released with names", head + "- {name: a, state: released, altNames: [b]}\n", `f: line 3: interfaces[0].state: released: a released interface gets its baseline back; remove altNames`},
		{"bad state", head + "- {name: a, state: absent}\n", `f: line 3: interfaces[0].state: absent: want configured or released`},
		{"released with more", head + "- {name: a, state: released, driver: ena, mtu: 1500}\n", `f: line 3: interfaces[0].state: released: a released interface gets its baseline back; remove driver, mtu`},
		{"pool without a prefix", head + "- {name: a, pool: sriov}\n", `f: line 3: interfaces[0].pool: sriov: ` + wantPool},
		{"pool with a bad name", head + "- {name: a, pool: intel.com/a.b}\n", `f: line 3: interfaces[0].pool: intel.com/a.b: ` + wantPool},
		{"pool that no quota can name", head + "- {name: a, pool: " + strings.Repeat("a.", 122) + "a/b}\n", `f: line 3: interfaces[0].pool: ` + strings.Repeat("a.", 30) + `...: ` + wantPool},
		{"pool of Kubernetes' own", head + "- {name: a, pool: x.kubernetes.io/a}\n", `f: line 3: interfaces[0].pool: x.kubernetes.io/a: ` + wantPool},
		{"pool of a quota", head + "- {name: a, pool: requests.intel.com/a}\n", `f: line 3: interfaces[0].pool: requests.intel.com/a: ` + wantPool},
		{"pool that ends in a dash", head + "- {name: a, pool: intel.com/a-}\n", `f: line 3: interfaces[0].pool: intel.com/a-: ` + wantPool},
		{"pool with a bad prefix", head + "- {name: a, pool: Intel.com/a}\n", `f: line 3: interfaces[0].pool: Intel.com/a: ` + wantPool},
		{"no pool, where there is none to leave", head + "- {name: a, pool: none}\n", `f: line 3: interfaces[0].pool: none: ` + wantPool},
		{"released with a pool", head + "- {name: a, state: released, pool: a/b}\n", `f: line 3: interfaces[0].state: released: a released interface gets its baseline back; remove pool`},
		{"two drivers in a pool", head + "- {name: a, driver: igb, pool: a/b}\n- {name: b, driver: vfio-pci, pool: a/b}\n", `f: line 4: interfaces[1].pool: a/b: its function on line 3 is asked to be on igb, this one on vfio-pci; give one of them another pool`},
		{"two drivers in a pool of VFs", head + "- {name: a, vfs: {count: 3, defaults: {driver: vfio-pci, pool: a/b}, overrides: [{index: 1, driver: iavf}]}}\n", `f: line 3: interfaces[0].vfs, VF 1.pool: a/b: its function on line 3 is asked to be on vfio-pci, this one on iavf; give one of them another pool, or in its override "pool: none"`},
		{"asks for nothing", head + "- name: a\n", `f: line 3: interfaces[0]: nothing is asked of name a; add driver, up, mtu, pool or vfs, or "state: released"`},
		{"state alone", head + "- {name: a, state: configured}\n", `f: line 3: interfaces[0]: nothing is asked of name a; add driver, up, mtu, pool or vfs, or "state: released"`},

		{
			"all at once, in order", "kind: x\ninterfaces:\n- {name: a, mtu: 1, up: 1}\n- {pci: 1, up: true}\n- {up: true}\n",
			"f: line 1: kind: unknown field; want one of apiVersion, interfaces\n" +
				"f: line 1: apiVersion: missing; write \"apiVersion: eniagent/v1alpha1\"\n" +
				"f: line 3: interfaces[0].up: 1: " + upOr + "\n" +
				"f: line 3: interfaces[0].mtu: 1: " + mtu + "\n" +
				"f: line 4: interfaces[1].pci: 1: " + pci + "\n" +
				"f: line 5: interfaces[2]: no interface is selected; add one of pci, mac, name",
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			d, err := Document("f", []byte(tc.text))
			if err == nil {
				t.Fatalf("accepted: %+v", d)
			}
			if diff := cmp.Diff(lines(tc.want), lines(err.Error())); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			var p *source.Problem
			if d != nil || !errors.As(err, &p) {
				t.Errorf("got %v and %T, want nil and a Problem", d, err)
			}
		})
	}
}

// lines makes texts comparable line by line.
func lines(s string) []string { return strings.Split(s, "\n") }

// Each of these files multiplies itself when it is expanded or looked at once
// for each mention, or has very many problems.
func TestParseBombs(t *testing.T) {
	const much = MaxSize / 8
	fill := func(s string) string { return strings.Repeat(s, much/len(s)) }
	laughs := "a0: &a0 [x, x]\n"
	for i := range 60 {
		laughs += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	long := head + "- {name: &a " + strings.Repeat("x", MaxSize/2) + "}\n"
	wide := head + "- &a {" + fill("x: ,") + "}\n"
	tests := map[string]string{
		"billion laughs":   laughs,
		"deep lists":       strings.Repeat("[", MaxSize),
		"deep mappings":    strings.Repeat("{a: ", MaxSize/4),
		"deep blocks":      strings.Repeat("- ", MaxSize/2),
		"long alias":       long + fill("- {name: *a}\n"),
		"wide alias":       wide + fill("- *a\n"),
		"contains itself":  head + "- &a [*a]\n",
		"unknown fields":   head + "- {" + fill("x: ,") + "}",
		"empty entries":    head + fill("-\n"),
		"anchors":          head + "- {" + fill("&a x: ,") + "}",
		"long key":         head + "- {" + strings.Repeat("k", MaxSize/2) + ": 1}",
		"many documents":   fill("---\n"),
		"duplicate fields": head + "- {" + fill("up: 1,") + "}",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			begin := processor(t)
			_, err := Document("f", []byte(text))
			if err == nil {
				t.Fatal("accepted")
			}
			if n := len(err.Error()); n > 64<<10 {
				t.Errorf("error of %d bytes", n)
			}
			if d := processor(t) - begin; d > 30*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

// processor is the time that this process has had a processor in user mode: on a
// busy machine the time that passes says little.
func processor(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano())
}

// TestPoolsOfVFs: one VF leaves the pool of the others, or has another.
func TestPoolsOfVFs(t *testing.T) {
	d, err := Document("f", []byte(head+"- {name: a, vfs: {count: 3, defaults: {driver: vfio-pci, pool: a/b}, overrides: [{index: 0, driver: iavf, pool: none}, {index: 2, pool: c/d}]}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range 3 {
		got = append(got, d[0].VFs.Of(i).Pool)
	}
	if diff := cmp.Diff([]string{"", "a/b", "c/d"}, got); diff != "" {
		t.Error(diff)
	}
}

// A file cut anywhere is refused or asks less or other values, but never
// releases what the whole file keeps.
func TestTruncation(t *testing.T) {
	data, err := os.ReadFile("../file/testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	whole, err := Document("f", data)
	if err != nil {
		t.Fatal(err)
	}
	selected := map[source.Selector]source.Disposition{}
	for _, i := range whole {
		selected[i.Selector] = i.State
	}
	for n := range data {
		cut, err := Document("f", data[:n])
		if err != nil {
			continue
		}
		for _, i := range cut {
			if i.State == source.Released && selected[i.Selector] != source.Released {
				t.Errorf("cut at %d releases %s", n, i.Selector)
			}
		}
	}
}
