package fuzz_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"eniagent/agent/source"
	"eniagent/agent/source/entry"
	"eniagent/agent/source/file"
	"eniagent/drivers"
	"eniagent/drivers/host"
)

// parser is file.Parse, or a broken variant of it.
type parser func(path string, data []byte) (*source.Desired, error)

// checkDesired is what must hold whatever the file says.
func checkDesired(parse parser, data []byte) error {
	const path = "/etc/x.yaml"
	d, err := parse(path, data)
	if (d == nil) == (err == nil) {
		return fmt.Errorf("desired %v and error %w", d, err)
	}
	if err != nil {
		return checkProblems(path, data, err)
	}
	if len(d.Interfaces) == 0 {
		return errors.New("accepted, and asks for nothing: that would read as a deletion")
	}
	if err := checkInterfaces(d.Interfaces); err != nil {
		return err
	}
	text := render(d.Interfaces)
	again, err := parse(path, []byte(text))
	if err != nil {
		return fmt.Errorf("what was read, written again, is not accepted: %w\n%s", err, text)
	}
	if !reflect.DeepEqual(again.Interfaces, d.Interfaces) {
		return fmt.Errorf("read as %+v, written again and read as %+v", d.Interfaces, again.Interfaces)
	}
	return nil
}

// checkProblems wants each problem to be in the file, and to say what to do.
func checkProblems(path string, data []byte, err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return fmt.Errorf("problems that are not a list: %w", err)
	}
	for i, e := range joined.Unwrap() {
		var p *source.Problem
		switch {
		case !errors.As(e, &p):
			if i != 100 || len(joined.Unwrap()) != 101 {
				return fmt.Errorf("a problem without a place: %w", e)
			}
			continue
		case p.Reason == "" || p.Line < 0 || p.Line > 1+bytes.Count(data, []byte("\n"))+bytes.Count(data, []byte("\r"))+bytes.Count(data, []byte("\u0085"))+bytes.Count(data, []byte("\u2028"))+bytes.Count(data, []byte("\u2029")):
			return fmt.Errorf("line %d, reason %q", p.Line, p.Reason)
		case strings.HasPrefix(p.Path, "interfaces[") && p.Line == 0:
			return fmt.Errorf("a field on no line: %w", e)
		}
		if text := e.Error(); !strings.HasPrefix(text, path+": ") || strings.ContainsAny(text, "\n\r\x00\x1b") || len(text) > 2000 {
			return fmt.Errorf("not one line that names the file: %q", text)
		}
	}
	return nil
}

// checkInterfaces: whatever is accepted is one function each, and only what may
// be asked.
func checkInterfaces(list []source.Interface) error {
	seen := map[source.Selector]bool{}
	for _, i := range list {
		selectors := 0
		for _, s := range []string{string(i.Selector.PCI), i.Selector.MAC, i.Selector.Name} {
			if s != "" {
				selectors++
			}
		}
		link := i.MTU != 0 || i.Up != nil || i.AltNames != nil || i.Channels != nil || i.Rings != nil || i.Features != nil
		asks := i.Driver != "" || link || i.Pool != "" || i.VFs != nil
		switch {
		case selectors != 1 || seen[i.Selector]:
			return fmt.Errorf("%+v selects nothing, several, or what another entry does", i)
		case i.Selector.PCI != "" && !i.Selector.PCI.Valid():
			return fmt.Errorf("%q is no address", i.Selector.PCI)
		case strings.ContainsAny(i.Selector.Name+i.Driver, "/ \n\x00"):
			return fmt.Errorf("%+v names something else than a netdev or a driver", i)
		case asks == (i.State == source.Released):
			return fmt.Errorf("%+v asks for nothing, or of what is given back", i)
		case !slices.Contains([]string{"", source.Retain, source.Release}, i.OnStop) || i.OnStop != "" && i.State == source.Released:
			return fmt.Errorf("%+v says %q of a stop", i, i.OnStop)
		case i.MTU != 0 && (i.MTU < 68 || i.MTU > 65535):
			return fmt.Errorf("MTU %d", i.MTU)
		case drivers.Userspace(i.Driver) && link:
			return fmt.Errorf("%+v asks a link of a function that will have none", i)
		}
		seen[i.Selector] = true
		if err := errors.Join(checkSettings(i), checkVFs(i.VFs)); err != nil {
			return err
		}
	}
	return checkPools(list)
}

// checkPools: names that the device plugin takes, and one driver each.
func checkPools(list []source.Interface) error {
	pools := map[string]string{}
	for _, i := range list {
		if i.Pool == "" {
			continue
		}
		if _, err := drivers.FileEntry("/x", i.Pool); err != nil {
			return err
		}
		if other := pools[i.Pool]; other != "" && i.Driver != "" && other != i.Driver {
			return fmt.Errorf("%s is of %s and of %s", i.Pool, other, i.Driver)
		}
		if i.Driver != "" {
			pools[i.Pool] = i.Driver
		}
	}
	return nil
}

// checkSettings: what is asked beside one value is bounded, and no part of it is
// nothing.
func checkSettings(i source.Interface) error {
	if len(i.AltNames) > 16 || len(i.Features) > 64 {
		return fmt.Errorf("%d names and %d features", len(i.AltNames), len(i.Features))
	}
	for _, name := range i.AltNames {
		if name == "" || len(name) > 127 || strings.ContainsAny(name, "/:% \n\x00\x1b") {
			return fmt.Errorf("%q as an alternative name", name)
		}
	}
	for name := range i.Features {
		if name == "" || len(name) > 31 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return fmt.Errorf("%q as a feature", name)
		}
	}
	var numbers []*int
	if c := i.Channels; c != nil {
		numbers = append(numbers, c.RX, c.TX, c.Combined)
	}
	if r := i.Rings; r != nil {
		numbers = append(numbers, r.RX, r.TX, r.Mini, r.Jumbo)
	}
	asked := numbers == nil
	for _, n := range numbers {
		asked = asked || n != nil
		if n != nil && (*n < 0 || *n > 1<<20) {
			return fmt.Errorf("%d as a number of channels or descriptors", *n)
		}
	}
	if !asked {
		return fmt.Errorf("%+v asks for channels or rings, and for no number of them", i)
	}
	return nil
}

// checkVFs: of each VF is asked what one can have, and no two have one MAC.
func checkVFs(v *source.VFs) error {
	if v == nil {
		return nil
	}
	if v.Count < 0 || v.Count > 256 || len(v.Overrides) > v.Count || v.Defaults.MAC != "" {
		return fmt.Errorf("%+v", v)
	}
	macs := map[string]bool{"": false}
	for i := range v.Count {
		vf := v.Of(i)
		mac, err := net.ParseMAC(vf.MAC)
		if vf.MAC != "" && (err != nil || macs[vf.MAC] || mac[0]&1 != 0) {
			return fmt.Errorf("MAC %q of VF %d", vf.MAC, i)
		}
		macs[vf.MAC] = vf.MAC != ""
		if vf.LinkState != "" && !slices.Contains(host.LinkStates(), vf.LinkState) {
			return fmt.Errorf("link state %q of VF %d", vf.LinkState, i)
		}
		if l := vf.VLAN; l != nil && (l.ID != nil && (*l.ID < 0 || *l.ID > 4094) || l.QoS != nil && (*l.QoS < 0 || *l.QoS > 7)) {
			return fmt.Errorf("VLAN %+v of VF %d", l, i)
		}
		if least, most := vf.MinTxRate, vf.MaxTxRate; least != nil && most != nil && *most != 0 && *least > *most {
			return fmt.Errorf("rates %d and %d of VF %d", *least, *most, i)
		}
	}
	return nil
}

// renderVFs is JSON too, and the fields have the same names; what is empty there
// is not there.
func renderVFs(v *source.VFs) any {
	all := map[string]any{"count": v.Count}
	if v.Defaults != (source.VF{}) {
		all["defaults"] = v.Defaults
	}
	if v.ReplaceVFs != "" {
		all["replaceVFs"] = v.ReplaceVFs
	}
	if len(v.Overrides) > 0 {
		all["overrides"] = v.Overrides
	}
	return all
}

// inYAML gives fields the names that they have in a file.
//
//nolint:gochecknoglobals // a constant
var inYAML = strings.NewReplacer(
	`"spoof_check":`, `"spoofCheck":`, `"link_state":`, `"linkState":`, `"min_tx_rate":`, `"minTxRate":`, `"max_tx_rate":`, `"maxTxRate":`,
)

// render writes interfaces as a file; JSON's strings are YAML's.
func render(list []source.Interface) string {
	var b strings.Builder
	b.WriteString("apiVersion: eniagent/v1alpha1\ninterfaces:\n")
	for _, i := range list {
		var fields []string
		add := func(name, text string) {
			if text != "" {
				quoted, _ := json.Marshal(text)
				fields = append(fields, name+": "+string(quoted))
			}
		}
		add("pci", string(i.Selector.PCI))
		add("mac", i.Selector.MAC)
		add("name", i.Selector.Name)
		add("driver", i.Driver)
		add("pool", i.Pool)
		add("state", string(i.State))
		add("onStop", i.OnStop)
		add("allowManagementPath", i.AllowManagementPath)
		// JSON is YAML.
		addJSON := func(name string, there bool, value any) {
			if there {
				text, _ := json.Marshal(value)
				fields = append(fields, name+": "+inYAML.Replace(string(text)))
			}
		}
		addJSON("altNames", i.AltNames != nil, i.AltNames)
		addJSON("channels", i.Channels != nil, i.Channels)
		addJSON("rings", i.Rings != nil, i.Rings)
		addJSON("features", i.Features != nil, i.Features)
		if i.VFs != nil {
			addJSON("vfs", true, renderVFs(i.VFs))
		}
		if i.MTU != 0 {
			fields = append(fields, fmt.Sprintf("mtu: %d", i.MTU))
		}
		if i.Up != nil {
			fields = append(fields, fmt.Sprintf("up: %t", *i.Up))
		}
		b.WriteString("- {" + strings.Join(fields, ", ") + "}\n")
	}
	return b.String()
}

// desiredSeeds are files that are right, files that are wrong in each way, and
// bombs.
func desiredSeeds(t testing.TB) [][]byte {
	example, err := os.ReadFile(filepath.Join("..", "agent", "source", "file", "testdata", "example.yaml"))
	must(t, err)
	const head = "apiVersion: eniagent/v1alpha1\ninterfaces:\n"
	bomb := head + "- &a {name: a, up: true}\n"
	for c := 'b'; c < 'z'; c++ {
		bomb += fmt.Sprintf("- &%c [%s]\n", c, strings.Repeat(fmt.Sprintf("*%c, ", c-1), 9))
	}
	seeds := [][]byte{example, []byte(bomb)}
	for _, s := range []string{
		"", "\n", "---\n", "...\n", "a", "- a", "a: b", "{", "[", "\t", "\xff", "\x00", "%YAML 9.9\n---\n", "apiVersion: eniagent/v1alpha1\n", "interfaces: []\n",
		head, head + "- {}", head + "- a", head + "- *a", head + "- [a]", head + "x: y\n", head + "- {name: a, up: true}\n---\n" + head,
		"apiVersion: v2\ninterfaces: [{name: a, up: true}]\n", "apiversion: eniagent/v1alpha1\ninterface: x\n", "<<: {a: b}\n" + head, "? [a]\n: b\n",
		head + strings.Repeat("- {name: a, up: true}\n", 120),
		head + "- " + strings.Repeat("[", 5000), strings.Repeat("a: {", 5000), head + "- name: &x " + strings.Repeat("y", 300) + "\n  up: *x\n",
		head + "- &a {name: a, up: true}\n- *a\n", "apiVersion: eniagent/v1alpha1\napiVersion: eniagent/v1alpha1\ninterfaces: x\n", "interfaces: {}\n",
		head + "\t- a\n", head + "- {name: 'a\n\n  , up: true}\n", head + "- {name: \"a\\q\"}\n", strings.Repeat("#", 1<<20+1),
		"apiVersion: &v eniagent/v1alpha1\ninterfaces:\n- {name: a, driver: &d ena}\n- {name: b, driver: *d}\n",
	} {
		seeds = append(seeds, []byte(s))
	}
	many := head
	for i := range 2049 {
		many += fmt.Sprintf("- {name: n%d, up: true}\n", i)
	}
	seeds = append(seeds, []byte(many))
	for _, entry := range []string{
		"name: a, up: true", "name: '5', mtu: 9000", "name: 5, up: true", "pci: 3b:00.1, driver: vfio-pci", "pci: 3B:00.1, up: FALSE", "mac: 52-54-00-00-00-01, state: released",
		"mac: 01:00:00:00:00:00, up: true", "mac: '00:00:00:00:00:00', up: true", "name: a, mac: 52:54:00:00:00:01, up: true", "up: true", "name: a",
		"name: a, state: released, up: true", "name: a, state: gone", "name: a, driver: vfio_pci", "name: a, driver: vfio-pci, mtu: 1500", "name: a, driver: ../x",
		"name: a, mtu: 67", "name: a, mtu: 65536", "name: a, mtu: 0700", "name: a, mtu: 1_500", "name: a, mtu: '1500'", "name: a, mtu: 1e3", "name: a, up: yes", "name: a, up: null",
		"name: a/b, up: true", "name: .., up: true", "name: \"a\\u0007\", up: true", "name: aaaaaaaaaaaaaaaa, up: true", "nme: a, up: true", "name: a, name: b, up: true",
		"name: a, up: true, allowManagementPath: ' why '", "name: a, up: true, allowManagementPath: ' '", "name: a, up: true, onStop: release", "name: a, vfs: {count: 1}, onStop: retain",
		"name: a, up: true, onStop: keep", "name: a, onStop: [release]", "name: a, onStop: retain", "name: a, state: released, onStop: release", "name: a, up: !!str true", "name: !!binary YQ==, up: true",
		"<<: *x, name: a", "name: a, driver: \"\\e[31m\"", "[x]: a, up: true", "name: {a: b}, up: true", "name: a, driver: ''", "name: a, allowManagementPath: \"a\\nb\", mtu: 1500", "pci: 0000:3b:00.9, up: true",
		"name: a, altNames: [eni0, 'b c', 5, '5', eni0]", "name: a, altNames: []", "name: a, altNames: [x, y]", "name: a, altNames: *x", "name: a, altNames: {x: y}",
		"name: a, channels: {combined: 4}", "name: a, channels: {rx: 0, tx: -1, combind: 2}", "name: a, channels: 4", "name: a, rings: {rx: 1024, tx: 1024}", "name: a, rings: {rx: 0x400}",
		"name: a, rings: {}", "name: a, features: {tx-tcp-segmentation: false, rx-gro: true}", "name: a, features: {tso: on, <<: *x}", "name: a, features: {[x]: true}", "name: a, state: released, rings: {rx: 64}",
		"name: a, vfs: {count: 2, defaults: {vlan: {id: 100, qos: 3, protocol: 802.1ad}, trust: true}, overrides: [{index: 1, mac: 52-54-00-00-01-01, vlan: {id: 0}}]}",
		"name: a, vfs: {count: 2, defaults: {minTxRate: 5, spoofCheck: FALSE}, overrides: [{index: 0, maxTxRate: 4, linkState: auto}]}", "name: a, vfs: {count: 0}",
		"name: a, vfs: {count: 2, overrides: [{index: 0, mac: 52:54:00:00:01:00}, {index: 1, mac: 52:54:00:00:01:00}]}", "name: a, vfs: {count: 1, defaults: {vlan: {}, mac: 52:54:00:00:01:00}}",
	} {
		seeds = append(seeds, []byte(head+"- {"+entry+"}\n"))
	}
	return seeds
}

// FuzzDesiredFile: whatever the bytes, they are a desired state as a whole or
// problems that a person can mend, soon.
func FuzzDesiredFile(f *testing.F) {
	for _, b := range desiredSeeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		defer deadline()()
		if err := checkDesired(file.Parse, b); err != nil {
			t.Fatal(err)
		}
	})
}

// checkList is what must hold of a list in an object of an API, whatever it says:
// it has problems, or a file of it says the same.
func checkList(data []byte) error {
	const path = "spec.interfaces"
	list, problems := entry.List(path, data)
	if (len(list) == 0) == (len(problems) == 0) {
		return fmt.Errorf("list %v and problems %v", list, problems)
	}
	for _, p := range problems {
		if p.Line != 0 || p.Reason == "" || !strings.HasPrefix(p.Path, path) || strings.ContainsAny(p.Error(), "\n\r\x00\x1b") || len(p.Error()) > 2000 {
			return fmt.Errorf("problem on line %d, at %q: %w", p.Line, p.Path, p)
		}
	}
	if len(problems) > 0 {
		return nil
	}
	if err := checkInterfaces(list); err != nil {
		return err
	}
	text := render(list)
	again, err := entry.Document("/etc/x.yaml", []byte(text))
	if err != nil || !reflect.DeepEqual(again, list) {
		return fmt.Errorf("read as %+v, from a file as %+v: %w\n%s", list, again, err, text)
	}
	return nil
}

// FuzzDesiredList: whatever an object of an API has for a list of entries.
func FuzzDesiredList(f *testing.F) {
	for _, b := range desiredSeeds(f) {
		var file struct {
			Interfaces any `yaml:"interfaces"`
		}
		if yaml.Load(b, &file) != nil {
			continue
		}
		if list, err := json.Marshal(file.Interfaces); err == nil {
			f.Add(list)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		defer deadline()()
		if err := checkList(b); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBrokenParsersAreCaught(t *testing.T) {
	kept := func(change func(*source.Desired)) parser {
		return func(path string, data []byte) (*source.Desired, error) {
			d, err := file.Parse(path, data)
			if d != nil {
				change(d)
			}
			return d, err
		}
	}
	for name, parse := range map[string]parser{
		"empty is accepted": func(path string, data []byte) (*source.Desired, error) {
			if len(bytes.TrimSpace(data)) == 0 {
				return &source.Desired{}, nil
			}
			return file.Parse(path, data)
		},
		"an error names no file": func(_ string, data []byte) (*source.Desired, error) { return file.Parse("", data) },
		"one error for all": func(path string, data []byte) (*source.Desired, error) {
			d, err := file.Parse(path, data)
			if err != nil {
				err = fmt.Errorf("%s: cannot be read", path)
			}
			return d, err
		},
		"released and asked":     kept(func(d *source.Desired) { d.Interfaces[0].State = source.Released }),
		"a stop that is neither": kept(func(d *source.Desired) { d.Interfaces[0].OnStop = "keep" }),
		"entries out of order": kept(func(d *source.Desired) {
			if n := len(d.Interfaces); n > 1 {
				d.Interfaces[0], d.Interfaces[n-1] = d.Interfaces[n-1], d.Interfaces[0]
			}
		}),
		"the same function twice": kept(func(d *source.Desired) { d.Interfaces = append(d.Interfaces, d.Interfaces[0]) }),
	} {
		t.Run(name, func(t *testing.T) {
			for _, b := range desiredSeeds(t) {
				if checkDesired(parse, b) != nil {
					return
				}
			}
			t.Error("no seed finds it")
		})
	}
}
