package deviceplugin_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/host"
)

const ours = "example.com/ours"

func state(t testing.TB, addresses ...string) drivers.State {
	t.Helper()
	s, err := deviceplugin.Pool{Addresses: addresses, Driver: "vfio-pci"}.State()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// documented is a configuration as the plugin's documentation has them: each
// type of device, selectors as object and as list, and what else there may be.
const documented = `{
    "resourceList": [{
            "resourceName": "intel_sriov_netdevice",
            "selectors": {
                "vendors": ["8086"], "devices": ["154c", "10ed"],
                "pfNames": ["ens785f0#0-3,6", "ens785f1"], "linkTypes": ["ether"], "isRdma": false
            }
        },
        {
            "resourceName": "intel_sriov_dpdk", "resourcePrefix": "intel.com",
            "selectors": [{"drivers": ["vfio-pci"], "pciAddresses": ["0000:3B:00.1"]}, {"rootDevices": ["0000:02:00.0"]}],
            "additionalInfo": {"*": {"token": "3e49019f-412f-4f02-824e-4cd195944205"}}
        },
        { "resourceName": "fpga", "deviceType": "accelerator", "selectors": {"vendors": ["8086"], "devices": ["0d90"]} },
        { "resourceName": "sf", "deviceType": "auxNetDevice", "excludeTopology": true, "selectors": [{"auxTypes": ["sf"], "pfNames": ["ens6#1"]}] }
    ],
    "unknown": {"a":1,   "a":2}, "\u00fc": "\ud83d\ude00"
}
`

// files are configurations that the plugin takes, of many hands.
func files() map[string]string {
	return map[string]string{
		"documented":         documented,
		"CRLF":               strings.ReplaceAll(documented, "\n", "\r\n"),
		"tabs":               strings.ReplaceAll(documented, "    ", "\t"),
		"no last newline":    strings.TrimSuffix(documented, "\n"),
		"one line":           `{"resourceList":[{"resourceName":"a","selectors":{}},{"resourceName":"b"}],"x":null}`,
		"one line, spaces":   `{ "resourceList" : [ {"resourceName":"a"} , {"resourceName":"b"} ] } `,
		"empty object":       `{}`,
		"empty object, wide": "{\n}\n",
		"null list":          `{"resourceList": null}`,
		"empty list":         "{\n  \"resourceList\": []\n}\n",
		"other keys":         "{\n   \"x\": [1,\n2],\n   \"y\": 1e5\n}",
		"another case":       `{"RESOURCELIST":[{"ResourceName":"a","ResourcePrefix":"b.c","Selectors":{"PCIADDRESSES":["0000:aa:00.0"]}}]}`,
		"null entry fields":  `{"resourceList":[{"resourceName":"a","resourcePrefix":null,"selectors":null}]}`,
		"escapes":            `{"resourceList":[{"resourceName":"\u0061","note":"\"},{\"\\"}]}`,
		"empty lines":        "\n\n{\n\n\"resourceList\":\n[\n\n{\"resourceName\":\"a\"}\n\n,\n{\"resourceName\":\"b\"}\n\n]\n\n}\n\n",
	}
}

// others are the texts of all entries but ours, and of the rest of the file.
func others(t testing.TB, text string) []string {
	t.Helper()
	var whole struct {
		ResourceList []json.RawMessage
	}
	if err := json.Unmarshal([]byte(text), &whole); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	var all []string
	for _, e := range whole.ResourceList {
		var named struct{ ResourcePrefix, ResourceName string }
		if err := json.Unmarshal(e, &named); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(named.ResourcePrefix, "example.com") {
			all = append(all, string(e))
		}
	}
	return all
}

func with(t testing.TB, text, name string, to drivers.State) string {
	t.Helper()
	d, err := deviceplugin.Parse(text)
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	next, err := d.With(name, to)
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return next
}

// TestEditsOfEveryFile: adding, changing and removing leaves what is not ours,
// to the byte; there and back is the same file, but for a list that was not.
func TestEditsOfEveryFile(t *testing.T) {
	for name, text := range files() {
		t.Run(name, func(t *testing.T) {
			first, second := state(t, "0000:01:10.0"), state(t, "0000:01:10.0", "0000:01:10.2")
			added := with(t, text, ours, first)
			changed := with(t, added, ours, second)
			sameForm(t, text, added)
			sameForm(t, text, changed)
			if back := with(t, changed, ours, first); back != added {
				t.Errorf("changed and back:\n%s\nwant\n%s", back, added)
			}
			back := with(t, added, ours, deviceplugin.Absent)
			if len(others(t, text)) > 0 && back != text {
				t.Errorf("added and removed:\n%s\nwant\n%s", back, text)
			}
			if len(others(t, text)) == 0 && !strings.Contains(back, `"resourceList": []`) && !strings.Contains(back, `"resourceList":[]`) {
				t.Errorf("the last one removed:\n%s", back)
			}
		})
	}
}

// sameForm wants the others as they were, and lines that end as they did.
func sameForm(t *testing.T, text, edited string) {
	t.Helper()
	if got, want := others(t, edited), others(t, text); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the others are\n%q\nwant\n%q", got, want)
	}
	if strings.Contains(text, "\r\n") && strings.Contains(strings.ReplaceAll(edited, "\r\n", ""), "\n") {
		t.Errorf("lines end in two ways:\n%q", edited)
	}
}

// TestLayout: a new entry looks like its neighbours.
func TestLayout(t *testing.T) {
	to := state(t, "0000:01:10.0")
	for _, tc := range []struct{ text, want string }{
		{"{\n  \"resourceList\": []\n}\n", `{
  "resourceList": [
    {
      "resourceName": "ours",
      "resourcePrefix": "example.com",
      "selectors": [
        {
          "drivers": [
            "vfio-pci"
          ],
          "pciAddresses": [
            "0000:01:10.0"
          ]
        }
      ]
    }
  ]
}
`},
		{`{"resourceList":[]}`, `{"resourceList":[{"resourceName":"ours","resourcePrefix":"example.com","selectors":[{"drivers":["vfio-pci"],"pciAddresses":["0000:01:10.0"]}]}]}`},
		{"{\n\t\"resourceList\": [{\n\t\t\"resourceName\": \"a\"\n\t}]\n}", "{\n\t\"resourceList\": [{\n\t\t\"resourceName\": \"a\"\n\t},\n\t{\n\t\t\"resourceName\": \"ours\",\n\t\t\"resourcePrefix\": \"example.com\",\n\t\t\"selectors\": [\n\t\t\t{\n\t\t\t\t\"drivers\": [\n\t\t\t\t\t\"vfio-pci\"\n\t\t\t\t],\n\t\t\t\t\"pciAddresses\": [\n\t\t\t\t\t\"0000:01:10.0\"\n\t\t\t\t]\n\t\t\t}\n\t\t]\n\t}]\n}"},
	} {
		if got := with(t, tc.text, ours, to); got != tc.want {
			t.Errorf("got\n%s\nwant\n%s", got, tc.want)
		}
	}
}

// TestRefusedTexts: what the plugin would not read, or could read in two ways,
// has an error that says where.
func TestRefusedTexts(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "line 1, column 1: it is empty",
		" \n":                                   "it is empty",
		"\ufeff" + documented:                   "line 1, column 1: it begins with a byte order mark, which the plugin cannot read",
		documented[:len(documented)/2]:          "unexpected end",
		"{\n  \"resourceList\": [}":             "line 2, column 20",
		"// comment\n{}":                        "line 1, column 1",
		"{} {}":                                 "line 1, column 4",
		"{\"a\": \"\xff\"}":                     "column 8: it is not UTF-8",
		`[]`:                                    "want an object",
		`null`:                                  "want an object",
		`{"resourceList": {}}`:                  "is no list",
		`{"resourceList": [null]}`:              "is no object",
		`{"resourceList":[],"ResourceList":[]}`: "is there twice",
		`{"resourceList":[{"resourceName":"a","resourceName":"b"}]}`:                          "is there twice",
		`{"resourceList":[{"selectors":{"pciAddresses":[],"PciAddresses":[]}}]}`:              "is there twice",
		`{"resourceList":[{"resourceName":1}]}`:                                               "is no string",
		`{"resourceList":[{"selectors":[1]}]}`:                                                "selectors want",
		`{"resourceList":[{"selectors":{"pciAddresses":"0000:01:10.0"}}]}`:                    "is no list",
		`{"resourceList":[{"selectors":{"pciAddresses":[1]}}]}`:                               "is no string",
		`{"x":"` + strings.Repeat("x", host.MaxFile) + `"}`:                                   "are not edited",
		`{"resourceList": [` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `]}`: "max depth",
	} {
		if _, err := deviceplugin.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
	twice := `{"resourceList":[{"resourceName":"ours","resourcePrefix":"example.com"},{"resourceName":"ours","resourcePrefix":"example.com"}]}`
	d, err := deviceplugin.Parse(twice)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.State(ours); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("%v", err)
	}
	if _, err := d.With(ours, deviceplugin.Absent); err == nil {
		t.Error("one of two was removed")
	}
	large := `{"resourceList":[{"resourceName":"ours","resourcePrefix":"example.com","x":"` + strings.Repeat("x", 20000) + `"}]}`
	if d, err = deviceplugin.Parse(large); err != nil {
		t.Fatal(err)
	}
	if _, err := d.State(ours); err == nil || !strings.Contains(err.Error(), "can be kept") {
		t.Errorf("%v", err)
	}
}

// TestStates: entries that mean the same have one state, all that they say is
// in it, and it is brought back.
func TestStates(t *testing.T) {
	same := []string{
		`{"resourceName":"ours","resourcePrefix":"example.com","selectors":{"pciAddresses":["0000:01:10.0","0000:01:10.2"]},"excludeTopology":true}`,
		`{ "excludeTopology" : true, "Selectors":[{"PciAddresses":["0000:01:10.2","0000:01:10.0","0000:01:10.2"]}], "resourcePrefix":"example.com","resourceName":"o\u0075rs"}`,
	}
	const want = `{"excludeTopology":true,"selectors":[{"pciAddresses":["0000:01:10.0","0000:01:10.2"]}]}`
	for _, entry := range same {
		text := `{"resourceList":[` + entry + `]}`
		d, err := deviceplugin.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.State(ours); err != nil || got != want {
			t.Errorf("%s, %v", got, err)
		}
		again := with(t, with(t, text, ours, deviceplugin.Absent), ours, want)
		if d, err = deviceplugin.Parse(again); err != nil {
			t.Fatal(err)
		}
		if got, err := d.State(ours); err != nil || got != want {
			t.Errorf("brought back %s, %v", got, err)
		}
	}
	for want, p := range map[string]deviceplugin.Pool{
		"name one":    {},
		"driver's":    {Addresses: []string{"01:10.0"}, Driver: "a b"},
		"device type": {Addresses: []string{"01:10.0"}, Type: "nic"},
		"PCI address": {Addresses: []string{"eth0"}},
		"can be kept": {Addresses: manyAddresses()},
	} {
		if _, err := p.State(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	got, err := deviceplugin.Pool{Addresses: []string{"01:10.2", "0000:01:10.0"}, Type: deviceplugin.NetDevice}.State()
	if err != nil || got != `{"deviceType":"netDevice","selectors":[{"pciAddresses":["0000:01:10.0","0000:01:10.2"]}]}` {
		t.Errorf("%s, %v", got, err)
	}
}

func manyAddresses() (all []string) {
	for bus := range 16 {
		for device := range 32 {
			for function := range 8 {
				all = append(all, fmt.Sprintf("0000:%02x:%02x.%d", bus, device, function))
			}
		}
	}
	return all
}

// TestClash: what the plugin would end with, or a function in two pools.
func TestClash(t *testing.T) {
	d, err := deviceplugin.Parse(documented)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		to   drivers.State
		want string
	}{
		{ours, state(t, "0000:01:10.0"), ""},
		{ours, deviceplugin.Absent, ""},
		{"intel.com/intel_sriov_dpdk", state(t, "0000:3b:00.1"), ""},
		{ours, state(t, "0000:3b:00.1"), "in resource intel.com/intel_sriov_dpdk"},
		{"intel.com/fpga", state(t, "0000:01:10.0"), "own prefix"},
		{ours, `{"selectors":[{"vendors":["8086"]}]}`, "every function"},
		{ours, `{}`, "every function"},
		{ours, `{"selectors":1}`, "selectors want"},
	} {
		err := d.Clash(tc.name, tc.to)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

// TestRandomEdits: files of random layout, and in each ten or so random edits
// of our entries; every other entry, and what is around the list, stays to the
// byte.
func TestRandomEdits(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		f := randomFile(r)
		text := f.before + f.list + f.behind
		for range rapid.IntRange(5, 15).Draw(r, "edits") {
			name := "example.com/" + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "name")
			to := deviceplugin.Absent
			if n := rapid.IntRange(0, 3).Draw(r, "functions"); n > 0 {
				to = state(t, manyAddresses()[:n]...)
			}
			text = with(t, text, name, to)
			d, err := deviceplugin.Parse(text)
			if err != nil {
				r.Fatal(err)
			}
			if got, err := d.State(name); err != nil || got != to {
				r.Fatalf("%s is %s (%v), want %s", name, got, err, to)
			}
			if !strings.HasPrefix(text, f.before) || !strings.HasSuffix(text, f.behind) {
				r.Fatalf("what is around the list changed:\n%s", text)
			}
			if got := others(t, text); fmt.Sprint(got) != fmt.Sprint(f.entries) {
				r.Fatalf("the others are\n%q\nwant\n%q", got, f.entries)
			}
		}
	})
}

// random is a file that others wrote.
type random struct {
	before, list, behind string
	entries              []string
}

func randomFile(r *rapid.T) (f random) {
	space := rapid.SampledFrom([]string{"", " ", "\n", "\n  ", "\r\n\t", "  \n\n"})
	sp := func() string { return space.Draw(r, "space") }
	bodies := rapid.SampledFrom([]string{
		`"selectors":{"pfNames":["a#0-3"]}`, `"selectors":[{"vendors":["8086"]}, {}]`, `"additionalInfo":{"*":{"k":"}]"}}`, `"x":[1, 2e9]`, `"x":"\u003c\\"`,
	})
	for i := range rapid.IntRange(0, 5).Draw(r, "entries") {
		e := fmt.Sprintf(`{%s"resourceName"%s:"r%d",%s%s%s}`, sp(), sp(), i, sp(), bodies.Draw(r, "body"), sp())
		f.entries = append(f.entries, e)
		f.list += strings.Repeat(",", min(i, 1)) + sp() + e + sp()
	}
	f.list = "[" + f.list + "]"
	f.before = sp() + "{" + sp() + `"a": [1 ,2],` + sp() + `"resourceList":` + sp()
	f.behind = sp() + `,"z":{"y":null }` + sp() + "}" + sp()
	return f
}
