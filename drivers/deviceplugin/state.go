package deviceplugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
)

// Kind is an entry of the device plugin's configuration.
const Kind drivers.Kind = "pool"

// Absent is that there is no such entry.
const Absent drivers.State = "absent"

// maxState bounds an entry, so that an operation with it fits into a record of
// the journal.
const maxState = 12 << 10

// Spec is the kind on any machine.
func Spec() drivers.Spec {
	return drivers.Spec{
		Kind: Kind, Class: drivers.Persistent, After: []drivers.Kind{dpdk.KindDriver}, Legal: legal,
		Names: Functions, Owes: Restart,
	}
}

// Restart is what a change owes: the plugin reads its file when it starts.
const Restart = "plugin-restart"

// Functions are those that a state of the kind names by their PCI address,
// sorted, each once.
func Functions(s drivers.State) (all []drivers.Target) {
	var entry struct {
		Selectors []struct {
			Addresses []string `json:"pciAddresses"`
		} `json:"selectors"`
	}
	if s == Absent || json.Unmarshal([]byte(s), &entry) != nil {
		return nil
	}
	for _, selector := range entry.Selectors {
		for _, a := range selector.Addresses {
			if t, err := drivers.PCI(a); err == nil {
				all = append(all, t)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func legal(t drivers.Target, to drivers.State) error {
	file, _, ok := t.FileEntry()
	if !ok || path.Ext(file) != ".json" {
		return fmt.Errorf("%q is no entry of a .json file: %w", t, drivers.ErrIllegal)
	}
	if to == Absent {
		return nil
	}
	if canonical, err := canonical(string(to)); err != nil || canonical != to {
		return fmt.Errorf("%.100q is no state of pool %s: %w", to, t, drivers.ErrIllegal)
	}
	return nil
}

// DeviceType is what the functions of a pool are.
type DeviceType string

// The types that the plugin knows.
const (
	NetDevice    DeviceType = "netDevice"
	Accelerator  DeviceType = "accelerator"
	AuxNetDevice DeviceType = "auxNetDevice"
)

// Pool is what the agent asks of an entry.
type Pool struct {
	Addresses []string   // of PCI functions; in any order, one at least
	Driver    string     // that they are bound to; "" is whichever
	Type      DeviceType // "" is netDevice
}

var driverName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// State is the pool as the state of its entry.
func (p Pool) State() (drivers.State, error) {
	if len(p.Addresses) == 0 {
		return "", fmt.Errorf("addresses are empty: name one PCI function at least, or every function of the node is in the pool")
	}
	if p.Driver != "" && !driverName.MatchString(p.Driver) {
		return "", fmt.Errorf("driver %q is not a driver's name: want letters, digits, '_', '.' and '-'", p.Driver)
	}
	if !slices.Contains([]DeviceType{"", NetDevice, Accelerator, AuxNetDevice}, p.Type) {
		return "", fmt.Errorf("device type %q: want %s, %s or %s", p.Type, NetDevice, Accelerator, AuxNetDevice)
	}
	var addresses []any
	for _, a := range p.Addresses {
		t, err := drivers.PCI(a)
		if err != nil {
			return "", err
		}
		addresses = append(addresses, string(t))
	}
	selector := map[string]any{keyAddresses: addresses}
	if p.Driver != "" {
		selector["drivers"] = []any{p.Driver}
	}
	entry := map[string]any{keySelectors: selector}
	if p.Type != "" {
		entry["deviceType"] = string(p.Type)
	}
	return spell(entry)
}

// The keys that mean something here, as the plugin's documentation has them.
const (
	keyList      = "resourceList"
	keyName      = "resourceName"
	keyPrefix    = "resourcePrefix"
	keySelectors = "selectors"
	keyAddresses = "pciAddresses"
)

// entryKeys and selectorKeys are those that the plugin knows, for their
// spelling: it takes them in any case.
func entryKeys() []string {
	return []string{keyName, keyPrefix, keySelectors, "deviceType", "excludeTopology", "additionalInfo"}
}

func selectorKeys() []string {
	return []string{
		keyAddresses, "vendors", "devices", "drivers", "acpiIndexes", "pfNames", "rootDevices", "linkTypes",
		"ddpProfiles", "isRdma", "needVhostNet", "vdpaType", "auxTypes", "pKeys",
	}
}

// canonical is an entry's text as a state.
func canonical(text string) (drivers.State, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber() // 1.0 stays what it is
	var entry map[string]any
	if err := d.Decode(&entry); err != nil {
		return "", err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("there is something after it")
	}
	if entry == nil {
		return "", fmt.Errorf("it is null")
	}
	return spell(entry)
}

// spell gives an entry the one spelling that a state has.
func spell(entry map[string]any) (drivers.State, error) {
	entry = respell(entry, entryKeys())
	delete(entry, keyName)
	delete(entry, keyPrefix)
	if one, ok := entry[keySelectors].(map[string]any); ok {
		entry[keySelectors] = []any{one}
	}
	if all, ok := entry[keySelectors].([]any); ok {
		for i := range all {
			if s, ok := all[i].(map[string]any); ok {
				s = respell(s, selectorKeys())
				if addresses, ok := s[keyAddresses].([]any); ok {
					s[keyAddresses] = ordered(addresses)
				}
				all[i] = s
			}
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(entry); err != nil {
		return "", err
	}
	text := strings.TrimSuffix(b.String(), "\n")
	if len(text) > maxState {
		return "", fmt.Errorf("the entry has %d bytes: at most %d can be kept", len(text), maxState)
	}
	return drivers.State(text), nil
}

func respell(object map[string]any, keys []string) map[string]any {
	spelled := make(map[string]any, len(object))
	for _, key := range slices.Sorted(maps.Keys(object)) {
		name := key
		if at := slices.IndexFunc(keys, func(k string) bool { return strings.EqualFold(k, key) }); at >= 0 {
			name = keys[at]
		}
		spelled[name] = object[key]
	}
	return spelled
}

// ordered are addresses sorted, each once, in lower case. What is no list of
// texts is left as it is.
func ordered(addresses []any) []any {
	var texts []string
	for _, a := range addresses {
		text, ok := a.(string)
		if !ok {
			return addresses
		}
		texts = append(texts, sameAddress(text))
	}
	slices.Sort(texts)
	sorted := []any{}
	for _, text := range slices.Compact(texts) {
		sorted = append(sorted, text)
	}
	return sorted
}

// sameAddress is one spelling of an address; the plugin compares texts.
func sameAddress(text string) string {
	if t, err := drivers.PCI(text); err == nil {
		return string(t)
	}
	return text
}
