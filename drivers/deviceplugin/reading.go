package deviceplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// What the plugin does with a file, as its source has it (readConfig,
// validConfigs and initServers of cmd/sriovdp/manager.go, the device filters of
// pkg/factory, the selectors of pkg/resources). Only that is told which every
// version with lists of selectors does.

// Obstacle says which entry of the file keeps the plugin from handing out the
// functions of the target's entry, and what to do; "" is that none is known to.
// It is one that makes the plugin exit when it starts, or one before the
// target's that takes a function of it. An error is that something could not be
// read.
func Obstacle(ctx context.Context, r host.Reader, t drivers.Target) (string, error) {
	file, name, ok := t.FileEntry()
	if !ok {
		return "", fmt.Errorf("%q is no entry of a file: %w", t, drivers.ErrIllegal)
	}
	text, err := r.File(ctx, file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	d, err := Parse(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	at, err := d.ours(name)
	if err != nil || at < 0 {
		return "", err
	}
	if e := d.fatal(); e != nil {
		return fmt.Sprintf("the plugin exits when it reads %s: %v", file, e), nil
	}
	return d.taken(ctx, r, file, at)
}

// pluginName is what the plugin takes for a resourceName (ValidResourceName of
// pkg/utils): less than the kubelet does. Versions that take no '-' take no lists
// of selectors either, so that an entry of the agent is of no use to them anyway.
var pluginName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// config is an entry as the plugin decodes it.
type config struct {
	DeviceType      DeviceType      `json:"deviceType"`
	ExcludeTopology bool            `json:"excludeTopology"`
	Selectors       json.RawMessage `json:"selectors"`
}

// criteria is a selector as the plugin decodes it. other says that it also asks
// for what is not known here of a function.
type criteria struct {
	Vendors      []string `json:"vendors"`
	Devices      []string `json:"devices"`
	Drivers      []string `json:"drivers"`
	PciAddresses []string `json:"pciAddresses"`
	PfNames      []string `json:"pfNames"`
	RootDevices  []string `json:"rootDevices"`
	IsRdma       bool     `json:"isRdma"`
	VdpaType     string   `json:"vdpaType"`
	other        bool
}

func (d *Document) config(e entry) (c config, err error) {
	if err = json.Unmarshal([]byte(d.text[e.value.from:e.value.to]), &c); err != nil {
		return c, err
	}
	if c.DeviceType == "" {
		c.DeviceType = NetDevice
	}
	return c, nil
}

// netSelectors are those of an entry of net devices; nil where the plugin skips
// the entry, as it cannot read them, or where that is not known.
func (c config) netSelectors() (all []criteria) {
	var raw []json.RawMessage
	if json.Unmarshal(c.Selectors, &raw) != nil {
		raw = []json.RawMessage{c.Selectors}
	}
	for _, text := range raw {
		var s criteria
		var keys map[string]json.RawMessage
		if json.Unmarshal(text, &s) != nil || json.Unmarshal(text, &keys) != nil || keys == nil {
			return nil
		}
		for key, v := range keys {
			known := slices.ContainsFunc([]string{keyAddresses, "vendors", "devices", "drivers", "pfNames", "rootDevices"},
				func(k string) bool { return strings.EqualFold(k, key) })
			asksNothing := slices.Contains([]string{"false", "null", "[]", `""`}, string(v))
			s.other = s.other || !known && !asksNothing
		}
		all = append(all, s)
	}
	return all
}

// fatal is the first entry that makes the plugin exit; nil when none is known to.
func (d *Document) fatal() error {
	first := map[string]value{}
	for _, e := range d.entries {
		c, err := d.config(e)
		var wrong *json.UnmarshalTypeError
		switch {
		case errors.As(err, &wrong):
			return at(d.text, e.value.from, "resource %s has a bad %s (%s): correct it, or take the entry out", e.fullName(), wrong.Field, wrong.Value)
		case err != nil:
			return at(d.text, e.value.from, "resource %s: %v: correct it, or take the entry out", e.fullName(), err)
		case !slices.Contains([]DeviceType{NetDevice, Accelerator, AuxNetDevice}, c.DeviceType):
			return at(d.text, e.value.from, "resource %s has deviceType %q: want %s, %s or %s, or take the entry out",
				e.fullName(), c.DeviceType, NetDevice, Accelerator, AuxNetDevice)
		}
		selectors := c.netSelectors()
		if len(selectors) == 0 {
			continue // skipped, and not looked at any further
		}
		if !pluginName.MatchString(e.name) {
			return at(d.text, e.value.from, "resourceName %q: want letters, digits, '_' and '-': rename the resource, or take the entry out", e.name)
		}
		if before, twice := first[e.fullName()]; twice {
			return at(d.text, e.value.from, "resource %s is there already, in line %d: take one of the two out", e.fullName(), d.line(before))
		}
		first[e.fullName()] = e.value
		if c.DeviceType == NetDevice && slices.ContainsFunc(selectors, func(s criteria) bool { return s.IsRdma && s.VdpaType != "" }) {
			return at(d.text, e.value.from, "resource %s has a selector with both isRdma and vdpaType: take one of the two out", e.fullName())
		}
	}
	return nil
}

func (d *Document) line(v value) int { return strings.Count(d.text[:v.from], "\n") + 1 }

// taken says which entry before that one takes a function of it: the plugin
// gives a function to the first that selects it.
func (d *Document) taken(ctx context.Context, r host.Reader, file string, ours int) (string, error) {
	var functions []function
	for _, e := range d.entries[:ours] {
		c, err := d.config(e)
		if err != nil || c.DeviceType != NetDevice {
			continue
		}
		selectors := c.netSelectors()
		if len(selectors) > 0 && functions == nil {
			if functions, err = look(ctx, r, d.entries[ours].addresses); err != nil {
				return "", err
			}
		}
		for _, f := range functions {
			if slices.ContainsFunc(selectors, func(s criteria) bool { return s.take(f) }) {
				return fmt.Sprintf("the plugin gives %s to resource %s, which selects it earlier in %s, line %d: narrow its selectors, or move it to the end",
					f.address, e.fullName(), file, d.line(e.value)), nil
			}
		}
	}
	return "", nil
}

// function is what the plugin's selectors ask of one. Of what is no VF, pf is "".
type function struct {
	address, vendor, device, driver string
	pf, pfName                      string
	index                           int // of a VF
}

func look(ctx context.Context, r host.Reader, addresses []string) (all []function, err error) {
	for _, a := range addresses {
		id, err := host.Identify(ctx, r, drivers.Target(a))
		if errors.Is(err, drivers.ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		f := function{address: a, vendor: strings.TrimPrefix(id.Vendor, "0x"), device: strings.TrimPrefix(id.Device, "0x")}
		if f.driver, err = host.DriverOf(ctx, r, a); err != nil {
			return nil, err
		}
		if id.PF != "" {
			vfs, err := host.VFsOf(ctx, r, string(id.PF))
			if err != nil {
				return nil, err
			}
			f.pf, f.index = string(id.PF), slices.Index(vfs, drivers.Target(a))
			// A PF with several netdevs has no one name to compare.
			if dev, err := host.NetdevOf(ctx, r, f.pf); err == nil {
				f.pfName = dev.Name
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// take says that a selector is known to match a function: all of its lists do.
func (s criteria) take(f function) bool {
	has := func(list []string, text string) bool {
		return len(list) == 0 || text != "" && slices.Contains(list, text)
	}
	return !s.other && has(s.Vendors, f.vendor) && has(s.Devices, f.device) && has(s.Drivers, f.driver) &&
		has(s.PciAddresses, f.address) && amongVFs(s.PfNames, f.pfName, f.index) && amongVFs(s.RootDevices, f.pf, f.index)
}

// amongVFs says that a list of PFs, each with VFs behind '#', "eth0#0-3,7", has
// a VF. Of two items with one PF the plugin reads the first.
func amongVFs(list []string, pf string, index int) bool {
	if len(list) == 0 {
		return true
	}
	for _, item := range list {
		name, vfs, some := strings.Cut(item, "#")
		if pf == "" || index < 0 || name != pf {
			continue
		}
		return !some || inRanges(vfs, index)
	}
	return false
}

// inRanges is false from the first range on that cannot be read.
func inRanges(ranges string, index int) bool {
	for _, part := range strings.Split(ranges, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil {
			return false
		}
		if from <= index && index <= to {
			return true
		}
	}
	return false
}
