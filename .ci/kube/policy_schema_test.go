package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"eniagent/agent/source/entry"
	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
)

// offer asks the API whether it would take a policy.
func (c *cluster) offer(t *testing.T, spec string) error {
	t.Helper()
	o := &unstructured.Unstructured{}
	text := `{"apiVersion":"eniagent.dev/v1alpha1","kind":"NodeInterfacePolicy","metadata":{"name":"offer"},"spec":` + spec + `}`
	must(t, o.UnmarshalJSON([]byte(text)))
	return c.client.Create(t.Context(), o, client.DryRunAll)
}

// list is a policy's spec of interfaces that are in YAML, without its brackets.
func list(t *testing.T, text string) (spec string, interfaces []byte) {
	t.Helper()
	interfaces, err := yaml.YAMLToJSON([]byte("[" + text + "]"))
	must(t, err)
	return `{"nodeSelector":{},"interfaces":` + string(interfaces) + `}`, interfaces
}

// TestWhatAPolicyCannotSay: the API refuses it, and says where and what to write
// instead; so does the agent, which may meet an API that does not.
func TestWhatAPolicyCannotSay(t *testing.T) {
	c := requireCluster(t)
	const (
		vfs      = `{name: a, vfs: {count: 2, `
		no       = `this driver leaves no network interface to configure; remove up`
		rates    = `swap them, or ask for less`
		mac      = `want the MAC address of one interface, such as 52:54:00:00:00:01`
		pci      = `want domain:bus:device.function in hex, such as "0000:3b:00.1"`
		name     = `want an interface's name: at most 127 bytes, no '/', ':' or spaces`
		altName  = `want a name of 1 to 127 characters, no '/', ':', '%' or spaces, not only digits`
		driver   = `want a driver's name as in /sys/bus/pci/drivers, such as vfio-pci`
		pool     = `want the name of a resource of the device plugin, prefix/name, such as intel.com/sriov_dpdk`
		nothing  = `nothing is asked`
		of       = `spec.interfaces[0].`
		override = of + `vfs.overrides[0].`
	)
	for _, tc := range []struct{ name, text, path, reason string }{
		{"no interfaces", ``, "spec.interfaces", "should have at least 1 items"},
		{"text for an interface", `eth0`, "spec.interfaces[0]", "must be of type object"},
		{"no selector", `{up: true}`, "spec.interfaces[0]", "want exactly one of pci, mac, name"},
		{"two selectors", `{pci: "0000:3b:00.1", name: a, up: true}`, "spec.interfaces[0]", "add one or keep one of them"},
		{"a bad pci", `{pci: "3b:00.9", up: true}`, of + "pci", pci},
		{"a bad device of pci", `{pci: "3b:20.1", up: true}`, of + "pci", pci},
		{"a bad mac", `{mac: "52:54", up: true}`, of + "mac", mac},
		{"a multicast mac", `{mac: "01:00:5e:00:00:01", up: true}`, of + "mac", mac},
		{"a mac of zeros", `{mac: "00:00:00:00:00:00", up: true}`, of + "mac", mac},
		{"a mac of mixed dashes", `{mac: "52:54-00:00:00:01", up: true}`, of + "mac", mac},
		{"a long name", `{name: ` + strings.Repeat("abcdefgh", 16) + `, up: true}`, of + "name", "may not be more than 127"},
		{"a name with a slash", `{name: a/b, up: true}`, of + "name", name},
		{"a name with a space", `{name: "a b", up: true}`, of + "name", name},
		{"a name of a dot", `{name: ., up: true}`, of + "name", name},
		{"no name", `{name: "", up: true}`, of + "name", "at least 1 char"},
		{"one pci twice", `{pci: "3B:00.1", up: true}, {pci: "0000:3b:00.1", mtu: 9000}`, "spec.interfaces", "one pci is in several interfaces; merge them"},
		{"one mac twice", `{mac: "52:54:00:00:00:0A", up: true}, {mac: "52:54:00:00:00:0a", mtu: 9000}`, "spec.interfaces", "one mac is in several interfaces; merge them"},
		{"one name twice", `{name: a, up: true}, {name: b, up: true}, {name: a, mtu: 9000}`, "spec.interfaces", "one name is in several interfaces; merge them"},
		{"nothing", `{name: a}`, "spec.interfaces[0]", nothing},
		{"a state alone", `{name: a, state: configured}`, "spec.interfaces[0]", nothing},
		{"another state", `{name: a, state: absent}`, of + "state", `supported values: "configured", "released"`},
		{"released and more", `{name: a, state: released, mtu: 1500}`, of + "state", "a released interface gets its baseline back; remove driver"},
		{"a small mtu", `{name: a, mtu: 67}`, of + "mtu", "greater than or equal to 68"},
		{"a great mtu", `{name: a, mtu: 65536}`, of + "mtu", "less than or equal to 65535"},
		{"an mtu in quotes", `{name: a, mtu: "9000"}`, of + "mtu", "must be of type integer"},
		{"up in quotes", `{name: a, up: "true"}`, of + "up", "must be of type boolean"},
		{"a path for a driver", `{name: a, driver: ../vfio-pci}`, of + "driver", driver},
		{"no driver", `{name: a, driver: ""}`, of + "driver", driver},
		{"a driver by its module", `{name: a, driver: vfio_pci}`, of + "driver", "that is a module's name; the driver is vfio-pci"},
		{"a program's driver and an mtu", `{name: a, driver: vfio-pci, mtu: 9000}`, of + "driver", no},
		{"a program's driver and rings", `{name: a, driver: igb_uio, rings: {rx: 64}}`, of + "driver", no},
		{"a program's driver and VFs", `{name: a, driver: vfio-pci, vfs: {count: 1}}`, of + "driver", "only a kernel driver makes virtual functions"},
		{"no names", `{name: a, altNames: []}`, of + "altNames", "should have at least 1 items"},
		{"a name twice", `{name: a, altNames: [b, b]}`, of + "altNames[1]", "Duplicate value"},
		{"an alternative name with a slash", `{name: a, altNames: [b, c/d]}`, of + "altNames[1]", altName},
		{"an alternative name of digits", `{name: a, altNames: ["5"]}`, of + "altNames[0]", altName},
		{"an alternative name of dots", `{name: a, altNames: [..]}`, of + "altNames[0]", altName},
		{"many alternative names", `{name: a, altNames: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q]}`, of + "altNames", "must have at most 16 items"},
		{"no channels", `{name: a, channels: {}}`, of + "channels", nothing},
		{"channels below none", `{name: a, channels: {combined: -1}}`, of + "channels.combined", "greater than or equal to 0"},
		{"no rings", `{name: a, rings: {}}`, of + "rings", nothing},
		{"rings of nothing", `{name: a, rings: {rx: 0}}`, of + "rings.rx", "greater than or equal to 1"},
		{"great rings", `{name: a, rings: {tx: 1048577}}`, of + "rings.tx", "less than or equal to 1048576"},
		{"no features", `{name: a, features: {}}`, of + "features", "should have at least 1 properties"},
		{"a feature in quotes", `{name: a, features: {rx-gro: "on"}}`, of + "features.rx-gro", "must be of type boolean"},
		{"ethtool's word", `{name: a, features: {tso: true}}`, of + "features", "one of them is ethtool's word; want the kernel's"},
		{"a pool without a prefix", `{name: a, pool: sriov}`, of + "pool", pool},
		{"no pool, where there is none to leave", `{name: a, pool: none}`, of + "pool", pool},
		{"a pool with a bad name", `{name: a, pool: intel.com/a.b}`, of + "pool", pool},
		{"a pool of several drivers", `{name: a, pool: x/y, driver: igb}, {name: b, pool: x/y, driver: vfio-pci}`, "spec.interfaces", "interfaces of one pool are asked to be on several drivers; give one of them another pool"},
		{"no reason", `{name: a, up: true, allowManagementPath: "  "}`, of + "allowManagementPath", "want the reason, in words"},
		{"a stop that is neither", `{name: a, up: true, onStop: keep}`, of + "onStop", `supported values: "retain", "release"`},
		{"a stop alone", `{name: a, onStop: retain}`, "spec.interfaces[0]", nothing},
		{"a stop of what is released", `{name: a, state: released, onStop: retain}`, of + "onStop", "a released interface is given back whether or not the agent stops; remove onStop"},
		{"no reason to replace VFs", `{name: a, vfs: {count: 1, replaceVFs: " "}}`, of + "vfs.replaceVFs", "want the reason, in words"},
		{"VFs without a count", `{name: a, vfs: {defaults: {up: true}}}`, of + "vfs.count", "Required value"},
		{"many VFs", `{name: a, vfs: {count: 257}}`, of + "vfs.count", "less than or equal to 256"},
		{"something of no VFs", `{name: a, vfs: {count: 0, defaults: {up: true}}}`, of + "vfs", "there are to be none, so nothing can be asked of them; remove defaults and overrides"},
		{"defaults of nothing", vfs + `defaults: {}}}`, of + "vfs.defaults", nothing},
		{"a MAC for all", vfs + `defaults: {mac: "52:54:00:00:01:00"}}}`, of + "vfs.defaults.mac", "one MAC for all of them; give each its own, in overrides"},
		{"no pool for all", vfs + `defaults: {pool: none}}}`, of + "vfs.defaults.pool", "none is for overrides"},
		{"a VF of a program with an mtu", vfs + `defaults: {driver: vfio-pci, mtu: 9000}}}`, of + "vfs.defaults.driver", "remove up and mtu"},
		{"an override of a program with an mtu", vfs + `defaults: {driver: vfio-pci}, overrides: [{index: 0, mtu: 9000}]}}`, of + "vfs.overrides", "remove them, or give it a driver of the kernel"},
		{"more at least than at most", vfs + `defaults: {minTxRate: 6, maxTxRate: 5}}}`, of + "vfs.defaults.minTxRate", rates},
		{"the same of both", vfs + `defaults: {minTxRate: 6}, overrides: [{index: 1, maxTxRate: 5}]}}`, of + "vfs.overrides", rates},
		{"the same of one", vfs + `overrides: [{index: 1, minTxRate: 6, maxTxRate: 5}]}}`, of + "vfs.overrides", rates},
		{"a rate with a unit", vfs + `defaults: {maxTxRate: 10G}}}`, of + "vfs.defaults.maxTxRate", "must be of type integer"},
		{"a rate below none", vfs + `defaults: {minTxRate: -1}}}`, of + "vfs.defaults.minTxRate", "greater than or equal to 0"},
		{"an override without an index", vfs + `overrides: [{up: true}]}}`, override + "index", "Required value"},
		{"an index that is not there", vfs + `overrides: [{index: 2, up: true}]}}`, of + "vfs.overrides", "an index is not below count; VFs are counted from 0"},
		{"an index twice", vfs + `overrides: [{index: 1, up: true}, {index: 1, mtu: 1500}]}}`, of + "vfs.overrides[1]", "Duplicate value"},
		{"an override of nothing", vfs + `overrides: [{index: 1}]}}`, of + "vfs.overrides[0]", nothing},
		{"a VF's driver by its module", vfs + `overrides: [{index: 1, driver: igb-uio}]}}`, override + "driver", "that is a module's name"},
		{"a VF's pool", vfs + `overrides: [{index: 1, pool: sriov}]}}`, override + "pool", pool},
		{"a VF's pool with a bad prefix", vfs + `overrides: [{index: 1, pool: a..b/c}]}}`, override + "pool", "should match"},
		{"a VF's pool with another driver", vfs + `defaults: {driver: vfio-pci, pool: a/b}, overrides: [{index: 1, driver: iavf}]}}`, of + "vfs.overrides", `give it another pool, or "pool: none"`},
		{"a VF's MAC", vfs + `overrides: [{index: 1, mac: "01:00:5e:00:00:01"}]}}`, override + "mac", mac},
		{"an empty VLAN", vfs + `defaults: {vlan: {}}}}`, of + "vfs.defaults.vlan", "add id, such as {id: 100}"},
		{"a VLAN number", vfs + `defaults: {vlan: 100}}}`, of + "vfs.defaults.vlan", "must be of type object"},
		{"VLAN 4095", vfs + `defaults: {vlan: {id: 4095}}}}`, of + "vfs.defaults.vlan.id", "less than or equal to 4094"},
		{"QoS 8", vfs + `defaults: {vlan: {id: 1, qos: 8}}}}`, of + "vfs.defaults.vlan.qos", "less than or equal to 7"},
		{"a protocol", vfs + `defaults: {vlan: {id: 1, protocol: 802.1q}}}}`, of + "vfs.defaults.vlan.protocol", `supported values: "802.1Q", "802.1ad"`},
		{"a link that is up", vfs + `defaults: {linkState: up}}}`, of + "vfs.defaults.linkState", `supported values: "auto", "enable", "disable"`},
		{"half trusted", vfs + `defaults: {trust: maybe}}}`, of + "vfs.defaults.trust", "must be of type boolean"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec, interfaces := list(t, tc.text)
			err := c.offer(t, spec)
			if err == nil || !strings.Contains(err.Error(), tc.path+": ") || !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("the API says %v\nwant %s with %q", err, tc.path, tc.reason)
			}
			if got, problems := entry.List("spec.interfaces", interfaces); len(problems) == 0 {
				t.Errorf("the agent takes it for %+v", got)
			}
		})
	}
}

func TestWhatAPolicyCannotSelect(t *testing.T) {
	c := requireCluster(t)
	const expression = `{"matchExpressions":[{"key":"a","operator":`
	for _, tc := range []struct{ name, selector, path, reason string }{
		{"nothing said", ``, "spec.nodeSelector", "Required value"},
		{"a number", `{"matchLabels":{"a":1}}`, "spec.nodeSelector.matchLabels.a", "must be of type string"},
		{"a bad value", `{"matchLabels":{"a":"b c"}}`, "spec.nodeSelector.matchLabels.a", "should match"},
		{"another operator", expression + `"Gt","values":["1"]}]}`, "spec.nodeSelector.matchExpressions[0].operator", `supported values: "In", "NotIn", "Exists", "DoesNotExist"`},
		{"in nothing", expression + `"In"}]}`, "spec.nodeSelector.matchExpressions[0]", "add or remove values"},
		{"there with values", expression + `"Exists","values":["1"]}]}`, "spec.nodeSelector.matchExpressions[0]", "add or remove values"},
		{"a bad key", `{"matchExpressions":[{"key":"a b","operator":"Exists"}]}`, "spec.nodeSelector.matchExpressions[0].key", "should match"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := `{"interfaces":[{"name":"a","up":true}]}`
			if tc.selector != "" {
				spec = `{"nodeSelector":` + tc.selector + `,"interfaces":[{"name":"a","up":true}]}`
			}
			err := c.offer(t, spec)
			if err == nil || !strings.Contains(err.Error(), tc.path+": ") || !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("the API says %v\nwant %s with %q", err, tc.path, tc.reason)
			}
		})
	}
}

// TestWhatAPolicyCanSay: all that a file can, and as much as fits into an object.
func TestWhatAPolicyCanSay(t *testing.T) {
	c := requireCluster(t)
	text, err := os.ReadFile(filepath.Join(root, "agent/source/file/testdata/example.yaml"))
	must(t, err)
	var file struct {
		Interfaces json.RawMessage `json:"interfaces"`
	}
	must(t, yaml.Unmarshal(text, &file))
	override := `{"index":%d,"driver":"iavf","up":true,"mtu":9000,"pool":"none","vlan":{"id":5,"qos":1,"protocol":"802.1ad"},"trust":true,"linkState":"auto","minTxRate":1,"maxTxRate":2}`
	var overrides, interfaces []string
	for i := range 80 {
		overrides = append(overrides, fmt.Sprintf(override, i))
	}
	for i := range 64 {
		interfaces = append(interfaces, fmt.Sprintf(`{"pci":"0000:%02x:00.0","pool":"example.com/pool","driver":"ixgbe","vfs":{"count":256,"defaults":{"driver":"iavf","pool":"x/y"},"overrides":[%s]}}`,
			i, strings.Join(overrides, ",")))
	}
	for name, spec := range map[string]string{
		"the example of a file": `{"nodeSelector":{"matchLabels":{"a":""},"matchExpressions":[{"key":"example.com/b","operator":"NotIn","values":["c","d"]},{"key":"e","operator":"Exists"}]},"interfaces":` + string(file.Interfaces) + `}`,
		"much":                  `{"nodeSelector":{},"interfaces":[` + strings.Join(interfaces, ",") + `]}`,
		"short and upper case":  `{"nodeSelector":{},"interfaces":[{"pci":"3B:00.1","up":true},{"mac":"52-54-00-AB-00-01","mtu":68},{"mac":"5254.00ab.0002","mtu":68},{"name":"on","features":{"rx-gro":true}}]}`,
		"no VFs":                `{"nodeSelector":{},"interfaces":[{"name":"a","vfs":{"count":0}}]}`,
		"rates without a limit": `{"nodeSelector":{},"interfaces":[{"name":"a","vfs":{"count":1,"defaults":{"minTxRate":7},"overrides":[{"index":0,"maxTxRate":0}]}}]}`,
		"a driver and no pool":  `{"nodeSelector":{},"interfaces":[{"name":"a","vfs":{"count":1,"defaults":{"driver":"vfio-pci","pool":"a/b"},"overrides":[{"index":0,"driver":"iavf","pool":"none","up":true}]}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			begun := time.Now()
			if err := c.offer(t, spec); err != nil {
				t.Errorf("the API refuses it: %v", err)
			}
			t.Logf("%d bytes: the API took %s", len(spec), time.Since(begun))
			var body struct {
				Interfaces json.RawMessage `json:"interfaces"`
			}
			must(t, json.Unmarshal([]byte(spec), &body))
			if _, problems := entry.List("spec.interfaces", body.Interfaces); len(problems) > 0 {
				t.Errorf("the agent refuses it: %v", problems)
			}
		})
	}
}

// TestThePolicyExamples are what their files say, and what kubectl shows of them.
func TestThePolicyExamples(t *testing.T) {
	c := requireCluster(t)
	file := filepath.Join(root, "deploy/kubernetes/examples/policy.yaml")
	c.kubectl(t, "", "apply", "--validate=strict", "-f", file)
	t.Cleanup(func() {
		must(t, c.client.DeleteAllOf(context.Background(), &policyv1alpha1.NodeInterfacePolicy{}))
	})
	table := c.kubectl(t, "", "get", "nip")
	lines := strings.Split(strings.TrimSpace(table), "\n")
	if head := strings.Join(strings.Fields(lines[0]), " "); head != "NAME NODES PCI DRIVER VFS FIRST NODE READY AGE" || len(lines) != 3 {
		t.Errorf("kubectl get nip shows\n%s", table)
	}
	text, err := os.ReadFile(file)
	must(t, err)
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		var o struct {
			Spec struct {
				Interfaces json.RawMessage `json:"interfaces"`
			} `json:"spec"`
		}
		must(t, yaml.Unmarshal([]byte(document), &o))
		if _, problems := entry.List("spec.interfaces", o.Spec.Interfaces); len(problems) > 0 {
			t.Errorf("the agent refuses it: %v", problems)
		}
	}
}
