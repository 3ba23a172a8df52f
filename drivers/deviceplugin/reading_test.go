package deviceplugin_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// mine is the entry of the target; its function is VF 0 of enp1s0, an Intel
// 82576 on igbvf.
const mine = `{"resourceName": "ours", "resourcePrefix": "example.com", "selectors": [{"pciAddresses": ["0000:01:10.0"]}]}`

func list(entries ...string) string {
	return "{\"resourceList\": [\n" + strings.Join(entries, ",\n") + "\n]}\n"
}

func obstacle(t *testing.T, text string) string {
	t.Helper()
	why, err := deviceplugin.Obstacle(t.Context(), node(t, text), target)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return why
}

// TestAnEarlierEntryThatTakesAFunction: only what is known to match is told, and
// only where it comes first.
func TestAnEarlierEntryThatTakesAFunction(t *testing.T) {
	for _, wrong := range wrongTakers(func(text string) string { return obstacle(t, text) }) {
		t.Error(wrong)
	}
}

// TestBrokenTakersAreCaught: the test above notices a reader that takes a rule of
// the plugin's for another. Each is the same reader of what that one would have
// made of the file.
func TestBrokenTakersAreCaught(t *testing.T) {
	rewriting := func(pattern, to string) func(string) string {
		r := regexp.MustCompile(pattern)
		return func(text string) string { return r.ReplaceAllString(text, to) }
	}
	for name, breaks := range map[string]func(string) string{
		"no entry takes any": rewriting(`"selectors": `, `"selector": `),
		"one behind takes it, too": func(text string) string {
			others, behind := strings.CutPrefix(text, "{\"resourceList\": [\n"+mine+",\n")
			if !behind {
				return text
			}
			return list(strings.TrimSuffix(others, "\n]}\n"), mine)
		},
		"only the first selector counts":   rewriting(`"selectors": \[(\{[^}]*\}), .*?\}\]`, `"selectors": $1`),
		"keys have one spelling":           rewriting(`VENDORS`, `nothing`),
		"an identifier is a number":        rewriting(`0x`, ``),
		"what is false is asked":           rewriting(`"isRdma": false`, `"isRdma": true`),
		"what is not known is not asked":   rewriting(`, "isRdma": true`, ``),
		"a type is that of net devices":    rewriting(`"deviceType": "[^"]*", `, ``),
		"each item of one PF counts":       rewriting(`"enp1s0#1", "enp1s0#0"`, `"enp1s0#1,0"`),
		"a range that is none is skipped":  rewriting(`#x,`, `#`),
		"a range ends before its last":     rewriting(`#3,0-1`, `#3`),
		"all VFs of a PF are in each item": rewriting(`#[^"]*"`, `"`),
	} {
		if len(wrongTakers(func(text string) string { return obstacle(t, breaks(text)) })) == 0 {
			t.Errorf("%s: not noticed", name)
		}
	}
}

// wrongTakers is what is wrong with how an obstacle is told.
func wrongTakers(obstacle func(text string) string) (wrong []string) {
	for selectors, takes := range map[string]bool{
		`{}`:                    true,
		`{"vendors": ["8086"]}`: true,
		`[{"vendors": ["15b3"]}, {"VENDORS": ["8086"], "devices": ["10ca"]}]`: true,
		`{"vendors": ["8086"], "isRdma": false, "linkTypes": []}`:             true,
		`{"drivers": ["igbvf"]}`:                  true,
		`{"pfNames": ["enp1s0"]}`:                 true,
		`{"pfNames": ["enp1s0#3,0-1"]}`:           true,
		`{"rootDevices": ["0000:01:00.0#0"]}`:     true,
		`{"vendors": ["0x8086"]}`:                 false, // the plugin compares texts
		`{"vendors": ["15b3"]}`:                   false,
		`{"vendors": ["8086"], "devices": ["1"]}`: false,
		`{"drivers": ["vfio-pci"]}`:               false,
		`{"pfNames": ["enp2s0"]}`:                 false,
		`{"pfNames": ["enp1s0#1-3"]}`:             false,
		`{"pfNames": ["enp1s0#x,0"]}`:             false, // cannot be read
		`{"pfNames": ["enp1s0#1", "enp1s0#0"]}`:   false, // the first of one PF counts
		`{"rootDevices": ["0000:02:00.0"]}`:       false,
		`{"vendors": ["8086"], "isRdma": true}`:   false, // may be
		`{"linkTypes": ["ether"]}`:                false,
		`{"vendors": "8086"}`:                     false, // the plugin skips the entry
		`[]`:                                      false,
		`null`:                                    false,
	} {
		other := `{"resourceName": "other", "selectors": ` + selectors + `}`
		why := obstacle(list(other, mine))
		if told := strings.Contains(why, "gives 0000:01:10.0 to resource intel.com/other") && strings.Contains(why, "line 2: narrow its selectors"); told != takes || (why != "") != takes {
			wrong = append(wrong, fmt.Sprintf("%s: %q, takes it: %v", selectors, why, takes))
		}
		if why := obstacle(list(mine, other)); why != "" {
			wrong = append(wrong, fmt.Sprintf("%s behind ours: %q", selectors, why))
		}
		for _, of := range []string{"accelerator", "auxNetDevice"} {
			if why := obstacle(list(strings.Replace(other, "{", `{"deviceType": "`+of+`", `, 1), mine)); why != "" {
				wrong = append(wrong, fmt.Sprintf("%s of %s: %q", selectors, of, why))
			}
		}
	}
	return wrong
}

// TestAnEntryThatMakesThePluginExit, wherever it is in the file.
func TestAnEntryThatMakesThePluginExit(t *testing.T) {
	const nobody = `"selectors": {"vendors": ["15b3"]}}`
	for entry, want := range map[string]string{
		`{"resourceName": "a_B1", ` + nobody:                                                                   "",
		`{"resourceName": "ours", ` + nobody:                                                                   "", // intel.com/ours
		`{"resourceName": "a-b", ` + nobody:                                                                    "",
		`{"resourceName": "a.b", ` + nobody:                                                                    `resourceName "a.b": want letters, digits, '_' and '-'`,
		`{"resourceName": "", ` + nobody:                                                                       `resourceName "": want`,
		`{"resourceName": "a/b", ` + nobody:                                                                    `resourceName "a/b": want`,
		`{"resourceName": "a/b", "selectors": []}`:                                                             "", // skipped with a warning
		`{"resourceName": "a", "deviceType": null, ` + nobody:                                                  "",
		`{"resourceName": "a", "deviceType": "netdevice", ` + nobody:                                           `deviceType "netdevice": want netDevice`,
		`{"resourceName": "a", "deviceType": "gpu", "selectors": []}`:                                          `deviceType "gpu"`,
		`{"resourceName": "a", "excludeTopology": "yes", ` + nobody:                                            "bad excludeTopology (string)",
		`{"resourceName": "b", ` + nobody + `, {"resourceName": "b", "resourcePrefix": "intel.com", ` + nobody: "resource intel.com/b is there already, in line",
		`{"resourceName": "b", ` + nobody + `, {"resourceName": "b", "resourcePrefix": "else.com", ` + nobody:  "",
		`{"resourceName": "a", "selectors": {"isRdma": true, "vdpaType": "vhost"}}`:                            "both isRdma and vdpaType",
	} {
		for _, text := range []string{list(entry, mine), list(mine, entry)} {
			why := obstacle(t, text)
			if (why == "") != (want == "") || !strings.Contains(why, want) || want != "" && !strings.Contains(why, "the plugin exits when it reads "+file+": line ") {
				t.Errorf("%s: %q, want %q", text, why, want)
			}
		}
	}
}

// TestNoObstacleOfWhatIsNotThere: no file, no entry of ours, no function.
func TestNoObstacleOfWhatIsNotThere(t *testing.T) {
	all := `{"resourceName": "all", "selectors": {}}`
	for _, text := range []string{list(all), list(all, strings.Replace(mine, "01:10.0", "09:00.0", 1))} {
		if why := obstacle(t, text); why != "" {
			t.Errorf("%s: %q", text, why)
		}
	}
	if why, err := deviceplugin.Obstacle(t.Context(), sim.New(sim.DefaultNode()), target); why != "" || err != nil {
		t.Errorf("without a file: %q (%v)", why, err)
	}
}

// unread is a host with one link that cannot be read.
type unread struct{ host.Reader }

func (u unread) Readlink(ctx context.Context, path string) (string, error) {
	if strings.HasSuffix(path, "/driver") {
		return "", syscall.EIO
	}
	return u.Reader.Readlink(ctx, path)
}

// TestAnObstacleThatCannotBeLookedAt is an error, not that there is none.
func TestAnObstacleThatCannotBeLookedAt(t *testing.T) {
	k := node(t, list(`{"resourceName": "other", "selectors": {"drivers": ["igbvf"]}}`, mine))
	if why, err := deviceplugin.Obstacle(t.Context(), unread{k}, target); err == nil {
		t.Errorf("%q, want an error", why)
	}
	if _, err := deviceplugin.Obstacle(t.Context(), k, drivers.Target("0000:01:10.0")); err == nil {
		t.Error("a function is no entry of a file")
	}
}
