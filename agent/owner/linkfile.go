package owner

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/link"
	"eniagent/drivers/sriov"
)

// linkDirs is where systemd-udevd looks for .link files. A file hides one of the
// same name in a later directory (systemd.link(5)).
func linkDirs() []string {
	return []string{"/etc/systemd/network", "/run/systemd/network", "/usr/local/lib/systemd/network", "/usr/lib/systemd/network", "/lib/systemd/network"}
}

// linkSettings are what a .link file sets, by kind, in its section [Link] or, of
// a VF, [SR-IOV].
func linkSettings(k drivers.Kind) []string {
	return map[drivers.Kind][]string{
		sriov.KindNumVFs:  {"SR-IOVVirtualFunctions"},
		link.KindMTU:      {"MTUBytes"},
		link.KindAltNames: {"AlternativeName", "AlternativeNamesPolicy"},
		link.KindChannels: {"RxChannels", "TxChannels", "OtherChannels", "CombinedChannels"},
		link.KindRings:    {"RxBufferSize", "RxMiniBufferSize", "RxJumboBufferSize", "TxBufferSize"},
		link.KindFeatures: {
			"ReceiveChecksumOffload", "TransmitChecksumOffload", "TCPSegmentationOffload", "TCP6SegmentationOffload", "GenericSegmentationOffload",
			"GenericReceiveOffload", "GenericReceiveOffloadHardware", "LargeReceiveOffload", "ReceiveVLANCTAGHardwareAcceleration",
			"TransmitVLANCTAGHardwareAcceleration", "ReceiveVLANCTAGFilter", "TransmitVLANSTAGHardwareAcceleration", "NTupleFilter",
		},
		sriov.KindMAC:        {"MACAddress"},
		sriov.KindVLAN:       {"VLANId", "QualityOfService", "VLANProtocol"},
		sriov.KindTrust:      {"Trust"},
		sriov.KindSpoofCheck: {"MACSpoofCheck"},
		sriov.KindLinkState:  {"LinkState"},
	}[k]
}

// linkFile is the .link file that systemd-udevd applies to the function's netdev
// whenever it appears: the first, by name, whose [Match] has it. What a VF gets
// is in its physical function's.
func (s search) linkFile(ctx context.Context) []Owner {
	settings := linkSettings(s.key.Kind)
	if settings == nil {
		return nil
	}
	address, vf := s.address, -1
	if strings.HasPrefix(string(s.key.Kind), "vf.") {
		physfn, err := s.reader.Readlink(ctx, host.Attr(s.address, "physfn"))
		if err != nil {
			return nil
		}
		address = path.Base(physfn)
		all, err := host.VFsOf(ctx, s.reader, address)
		if vf = slices.Index(all, s.key.Target); err != nil || vf < 0 {
			return nil
		}
	}
	dev, err := host.NetdevOf(ctx, s.reader, address)
	if err != nil || dev.Name == "" {
		return nil
	}
	driver, _ := host.DriverOf(ctx, s.reader, address) // none matches none
	m := matcher{mac: dev.MAC, path: "pci-" + address, driver: driver}
	sure := true
	for _, file := range s.linkFiles(ctx) {
		text := s.unit(ctx, file)
		fits := m.fits(text)
		if fits == no {
			continue
		}
		sure = sure && fits == yes
		if what, ok := s.sets(text, vf, settings); ok {
			return []Owner{{
				Name: "systemd-udevd", Evidence: fmt.Sprintf("%s sets %s", file, what), Known: sure,
				Remedy: fmt.Sprintf("take %s out of %s, or ask for the same here", what, file),
			}}
		}
		if fits == yes {
			return nil // only the first that matches is applied
		}
	}
	return nil
}

// linkFiles are the .link files in the order in which they are tried.
func (s search) linkFiles(ctx context.Context) []string {
	byName := map[string]string{}
	for _, dir := range linkDirs() {
		names, err := s.reader.List(ctx, dir)
		if err != nil {
			continue
		}
		for _, name := range names {
			if _, hidden := byName[name]; !hidden && strings.HasSuffix(name, ".link") {
				byName[name] = dir + "/" + name
			}
		}
	}
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)
	files := make([]string, 0, len(names))
	for _, name := range names {
		files = append(files, byName[name])
	}
	return files
}

// section is a section of a unit file; of a setting that is there twice the last
// counts.
type section struct {
	name string
	set  map[string]string
}

// unit is a .link file with its drop-ins (NAME.link.d/*.conf).
func (s search) unit(ctx context.Context, file string) (all []section) {
	text, err := s.reader.Read(ctx, file)
	if err != nil {
		return nil
	}
	all = sections(text)
	dropIns := map[string]string{}
	for _, dir := range linkDirs() {
		names, err := s.reader.List(ctx, dir+"/"+path.Base(file)+".d")
		if err != nil {
			continue
		}
		for _, name := range names {
			if _, hidden := dropIns[name]; !hidden && strings.HasSuffix(name, ".conf") {
				dropIns[name] = dir + "/" + path.Base(file) + ".d/" + name
			}
		}
	}
	names := make([]string, 0, len(dropIns))
	for name := range dropIns {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if text, err := s.reader.Read(ctx, dropIns[name]); err == nil {
			all = append(all, sections(text)...)
		}
	}
	return all
}

func sections(text string) (all []section) {
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		switch {
		case line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			all = append(all, section{name: line[1 : len(line)-1], set: map[string]string{}})
		case ok && len(all) > 0:
			all[len(all)-1].set[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return all
}

// sets is what a file sets of the attribute, and whether that is another value
// than the one that is wanted here.
func (s search) sets(unit []section, vf int, settings []string) (string, bool) {
	in := "Link"
	if vf >= 0 {
		in = "SR-IOV"
	}
	for _, sec := range slices.Backward(unit) {
		if sec.name != in || vf >= 0 && sec.set["VirtualFunction"] != strconv.Itoa(vf) {
			continue
		}
		for _, name := range settings {
			if value := sec.set[name]; value != "" && !s.wants(value) {
				return name + "=" + value, true
			}
		}
	}
	return "", false
}

// wants says whether a value of a .link file is what is wanted here, too.
func (s search) wants(value string) bool {
	switch s.key.Kind {
	case sriov.KindNumVFs:
		vfs, err := sriov.Parse(s.want)
		return err == nil && strconv.Itoa(max(len(vfs.Addresses), vfs.Count)) == value
	case link.KindMTU, sriov.KindMAC:
		return strings.EqualFold(string(s.want), value)
	case sriov.KindTrust, sriov.KindSpoofCheck:
		on := slices.Contains([]string{"yes", "true", "on", "1"}, strings.ToLower(value))
		return string(s.want) == map[bool]string{true: "on", false: "off"}[on]
	}
	return false
}

// fit says whether a netdev matches.
type fit int

const (
	no    fit = iota
	maybe     // what it is matched by cannot be seen here
	yes
)

// matcher is what [Match] is held against.
type matcher struct{ mac, path, driver string }

func (m matcher) fits(unit []section) fit {
	if len(unit) == 0 {
		return no // empty, or a link to /dev/null: it only hides another
	}
	worst := yes
	for _, sec := range unit {
		if sec.name != "Match" {
			continue
		}
		for name, value := range sec.set {
			worst = min(worst, m.one(name, value))
		}
	}
	return worst
}

func (m matcher) one(name, value string) fit {
	patterns := strings.Fields(value)
	if value == "" || value == "*" {
		return yes
	}
	switch name {
	case "MACAddress", "PermanentMACAddress":
		return sure(slices.ContainsFunc(patterns, func(p string) bool { return strings.EqualFold(p, m.mac) }))
	case "Path":
		return globs(patterns, m.path)
	case "Driver":
		return globs(patterns, m.driver)
	case "Type":
		return globs(patterns, "ether")
	}
	return maybe
}

func sure(is bool) fit {
	if is {
		return yes
	}
	return no
}

// globs holds a list of patterns against a text; "!" before the first turns it
// round.
func globs(patterns []string, text string) fit {
	first, not := strings.CutPrefix(patterns[0], "!")
	patterns = append([]string{first}, patterns[1:]...)
	hit := slices.ContainsFunc(patterns, func(p string) bool { ok, err := path.Match(p, text); return err == nil && ok })
	return sure(hit != not)
}
