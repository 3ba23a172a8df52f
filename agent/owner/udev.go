package owner

import (
	"context"
	"fmt"
	"strings"

	"eniagent/drivers/dpdk"
	"eniagent/drivers/link"
)

// udev reads the rules that somebody added on this host. A rule that names the
// function and writes the attribute is a known owner; one that names only the
// function, or writes driver_override of functions it tells by other marks, is
// a likely one.
func (s search) udev(ctx context.Context) []Owner {
	var owners []Owner
	for _, dir := range []string{"/etc/udev/rules.d", "/run/udev/rules.d"} {
		names, err := s.reader.List(ctx, dir)
		if err != nil {
			continue
		}
		for _, name := range names {
			if !strings.HasSuffix(name, ".rules") {
				continue
			}
			if o, ok := s.rulesFile(ctx, dir+"/"+name); ok {
				owners = append(owners, o)
			}
		}
	}
	return owners
}

// rulesFile is what the rules of one file say of the attribute, the strongest.
func (s search) rulesFile(ctx context.Context, file string) (Owner, bool) {
	text, err := s.reader.Read(ctx, file)
	if err != nil {
		return Owner{}, false
	}
	var found Owner
	for rule := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		if rule = strings.TrimSpace(rule); rule == "" || strings.HasPrefix(rule, "#") {
			continue
		}
		named, writes := strings.Contains(rule, s.address), s.writes(rule)
		if !named && (s.key.Kind != dpdk.KindDriver || !strings.Contains(rule, "driver_override") || namesAnother(rule)) {
			continue
		}
		known := named && writes
		if found.Name != "" && !known {
			continue
		}
		what := "sets driver_override"
		if named {
			what = "names " + s.address
		}
		found = Owner{
			Name: "udev", Evidence: fmt.Sprintf("a rule in %s %s", file, what), Known: known,
			Remedy: "take the rule out of " + file + ", then udevadm control --reload",
		}
		if known {
			break
		}
	}
	return found, found.Name != ""
}

// writes says whether a rule writes the attribute that is asked about.
func (s search) writes(rule string) bool {
	words := map[string][]string{
		string(dpdk.KindDriver): {"driver_override", "driverctl", "/bind", "/unbind", "drivers_probe", "dpdk-devbind"},
		string(link.KindMTU):    {"ATTR{mtu}", " mtu "},
		string(link.KindAdmin):  {" up\"", " down\"", "ATTR{flags}"},
	}
	for _, w := range words[string(s.key.Kind)] {
		if strings.Contains(rule, w) {
			return true
		}
	}
	return false
}

// namesAnother says whether a rule names a function by its address: if so, and
// it is not the one that is asked about, the rule is about another.
func namesAnother(rule string) bool {
	for word := range strings.FieldsFuncSeq(rule, func(r rune) bool { return strings.ContainsRune(" \t\"=,", r) }) {
		// 0000:3b:00.1, or a pattern of it
		if strings.Count(word, ":") == 2 && strings.Contains(word, ".") && !strings.ContainsAny(word, "*?[") {
			return true
		}
	}
	return false
}
