package entry

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"
	"pgregory.net/rapid"

	"eniagent/agent/source"
)

// asJSON is the list of a file as an API would have it.
func asJSON(t interface{ Fatal(...any) }, text string) []byte {
	var d struct {
		Interfaces any `yaml:"interfaces"`
	}
	if err := yaml.Load([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(d.Interfaces)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever a file can say, an object of an API can, and it means the same.
func TestAListIsReadAsAFileIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfNDistinct(interfaces(), 1, 8, func(i source.Interface) source.Selector { return i.Selector }).Draw(t, "interfaces")
		got, problems := List("spec.interfaces", asJSON(t, render(t, want)))
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("-want +got:\n%s", d)
		}
	})
}

// Whatever the bytes are, there are entries or problems.
func TestAnyList(t *testing.T) {
	piece := rapid.OneOf(
		rapid.SampledFrom([]string{`"pci":`, `"name":"a"`, `"mtu":9000`, "{", "}", "[", "]", ",", ":", "null", "true", "1e3", `"\ud800"`, `"vfs":`, `"count":2`}),
		rapid.String(),
	)
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(piece).Draw(t, "pieces"), "")
		list, problems := List("spec.interfaces", []byte(text))
		if (len(list) == 0) == (len(problems) == 0) {
			t.Fatalf("got %v, %v", list, problems)
		}
		for _, p := range problems {
			if p.Line != 0 || p.Reason == "" || !strings.HasPrefix(p.Path, "spec.interfaces") {
				t.Fatalf("%+v", p)
			}
		}
	})
}

func TestListRefuses(t *testing.T) {
	const mtu = `want a number of bytes from 68 to 65535, without quotes, such as 9000`
	for _, tc := range []struct{ name, text, want string }{
		{"nothing", ``, `spec.interfaces: empty; to give interfaces back, delete the object or write "state: released" for each`},
		{"null", `null`, `spec.interfaces: empty; to give interfaces back, delete the object or write "state: released" for each`},
		{"an empty list", ` [] `, `spec.interfaces: empty; to give interfaces back, delete the object or write "state: released" for each`},
		{"a list of space", `[ ]`, `spec.interfaces: empty; to give interfaces back, delete the object or write "state: released" for each`},
		{"a mapping", `{"pci":"3b:00.1"}`, `spec.interfaces: a mapping: want a list of interfaces, each starting with "- "`},
		{"half of it", `[{"name":"a"`, `spec.interfaces: not JSON; write a list of interfaces`},
		{"very deep", strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), `spec.interfaces: not JSON; write a list of interfaces`},
		{"very much", `["` + strings.Repeat("x", MaxSize) + `"]`, `spec.interfaces: too much to be read; make several objects of it`},
		{"an mtu", `[{"name":"a","mtu":9000},{"name":"b","mtu":70000}]`, `spec.interfaces[1].mtu: 70000: ` + mtu},
		{"an mtu in quotes", `[{"name":"b","mtu":"9000"}]`, `spec.interfaces[0].mtu: "9000": ` + mtu},
		{"half a byte", `[{"name":"b","mtu":1500.5}]`, `spec.interfaces[0].mtu: 1500.5: ` + mtu},
		{"a number as a name", `[{"name":5,"mtu":1500}]`, `spec.interfaces[0].name: 5: want an interface's name: at most 127 bytes, no '/', ':' or spaces, in quotes if it looks like a number`},
		{"null for a value", `[{"name":"a","up":null}]`, `spec.interfaces[0].up: null: want true or false`},
		{"an alias of YAML", `[{"name":"a","up":"*x"}]`, `spec.interfaces[0].up: "*x": want true or false`},
		{"one twice", `[{"pci":"3b:00.1","up":true},{"pci":"0000:3B:00.1","mtu":1500}]`, `spec.interfaces[1]: pci 0000:3b:00.1 is at spec.interfaces[0] already; merge the two entries`},
		{"a field twice", `[{"pci":"3b:00.1","up":true,"up":false}]`, `spec.interfaces[0].up: given twice, first at spec.interfaces[0].up; remove one`},
		{"an index twice", `[{"name":"a","vfs":{"count":2,"overrides":[{"index":1,"up":true},{"index":1,"up":true}]}}]`, `spec.interfaces[0].vfs.overrides[1].index: 1: is at spec.interfaces[0].vfs.overrides[0] already; merge the two`},
		{"a MAC twice", `[{"name":"a","vfs":{"count":2,"overrides":[{"index":0,"mac":"52:54:00:00:01:00"},{"index":1,"mac":"52:54:00:00:01:00"}]}}]`, `spec.interfaces[0].vfs.overrides[1].mac: "52:54:00:00:01:00": is that of the VF at spec.interfaces[0].vfs.overrides[0].mac already; give each its own`},
		{"two drivers in a pool", `[{"name":"a","driver":"igb","pool":"a/b"},{"name":"b","driver":"vfio-pci","pool":"a/b"}]`, `spec.interfaces[1].pool: a/b: its function at spec.interfaces[0] is asked to be on igb, this one on vfio-pci; give one of them another pool`},
		{"another spelling", `[{"name":"a","altnames":["b"]}]`, `spec.interfaces[0]: "altnames": unknown field; did you mean altNames?`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			list, problems := List("spec.interfaces", []byte(tc.text))
			if len(list) > 0 || len(problems) != 1 || problems[0].Error() != tc.want {
				t.Errorf("got  %v, %v\nwant %s", list, problems, tc.want)
			}
		})
	}
}
