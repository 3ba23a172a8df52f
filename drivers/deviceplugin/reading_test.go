package deviceplugin_test

import (
	"context"
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
		why := obstacle(t, list(other, mine))
		if told := strings.Contains(why, "gives 0000:01:10.0 to resource intel.com/other") && strings.Contains(why, "line 2: narrow its selectors"); told != takes || (why != "") != takes {
			t.Errorf("%s: %q, takes it: %v", selectors, why, takes)
		}
		if why := obstacle(t, list(mine, other)); why != "" {
			t.Errorf("%s behind ours: %q", selectors, why)
		}
		for _, of := range []string{"accelerator", "auxNetDevice"} {
			if why := obstacle(t, list(strings.Replace(other, "{", `{"deviceType": "`+of+`", `, 1), mine)); why != "" {
				t.Errorf("%s of %s: %q", selectors, of, why)
			}
		}
	}
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
