package link

import (
	"context"
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

// KindAltNames is the alternative names of a netdev.
const KindAltNames drivers.Kind = "altnames"

// AltNamesSpec is the kind altnames on any machine. A fresh netdev has those
// that udev gives it.
func AltNamesSpec() drivers.Spec {
	return drivers.Spec{
		Kind: KindAltNames, Class: drivers.Volatile, Netdev: true, Fresh: drivers.Default, WhenAsked: true,
		After: []drivers.Kind{"driver", KindName}, Legal: legalAltNames, Route: routeAltNames,
	}
}

// plainName is a name that needs no quotes in a state.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.@+-]*$`)

// AltNames is the State of a netdev with these alternative names: "[eni0 lan]",
// sorted, quoted where they are odd.
func AltNames(names ...string) drivers.State {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	words := make([]string, len(names))
	for i, name := range names {
		words[i] = name
		if !plainName.MatchString(name) {
			words[i] = strconv.Quote(name)
		}
	}
	return drivers.State("[" + strings.Join(words, " ") + "]")
}

func parseAltNames(s drivers.State) ([]string, error) {
	var names []string
	list := strings.TrimSuffix(strings.TrimPrefix(string(s), "["), "]")
	for rest := list; rest != ""; rest = strings.TrimPrefix(rest, " ") {
		word, _, _ := strings.Cut(rest, " ")
		name := word
		if quoted, err := strconv.QuotedPrefix(rest); err == nil {
			word = quoted
			name, _ = strconv.Unquote(quoted)
		}
		if !host.AltName(name) {
			return nil, fmt.Errorf("%q is no alternative name: want 1 to 127 bytes of text", name)
		}
		names, rest = append(names, name), strings.TrimPrefix(rest, word)
	}
	if AltNames(names...) != s {
		return nil, fmt.Errorf("%q is no list of alternative names: want them sorted, with a space between", s)
	}
	return names, nil
}

func legalAltNames(t drivers.Target, to drivers.State) error {
	if _, err := parseAltNames(to); err != nil {
		return fmt.Errorf("%w: %w", drivers.ErrIllegal, err)
	}
	return isPCI(t, KindAltNames)
}

// WithAltNames is the state at with names besides: those that others gave stay.
func WithAltNames(at drivers.State, names ...string) (drivers.State, error) {
	if at == "" || at == drivers.Hidden {
		return AltNames(names...), nil
	}
	has, err := parseAltNames(at)
	return AltNames(append(has, names...)...), err
}

// AltNamesBack is the state at without those of names that the state to does not
// have.
func AltNamesBack(at, to drivers.State, names []string) (drivers.State, error) {
	has, err := parseAltNames(at)
	if err != nil {
		return "", err
	}
	had, err := parseAltNames(to)
	if err != nil {
		return "", err
	}
	return AltNames(slices.DeleteFunc(has, func(name string) bool {
		return slices.Contains(names, name) && !slices.Contains(had, name)
	})...), nil
}

// routeAltNames adds what is missing and then takes away what is too much, the
// last first: so that going back from any state on the way passes through
// states on the way.
func routeAltNames(from, to drivers.State) []drivers.State {
	has, err := parseAltNames(from)
	want, err2 := parseAltNames(to)
	if err != nil || err2 != nil {
		return []drivers.State{to}
	}
	var hops []drivers.State
	for _, name := range want {
		if !slices.Contains(has, name) {
			has = append(has, name)
			hops = append(hops, AltNames(has...))
		}
	}
	for _, name := range slices.Backward(slices.Sorted(slices.Values(has))) {
		if !slices.Contains(want, name) {
			has = slices.DeleteFunc(has, func(s string) bool { return s == name })
			hops = append(hops, AltNames(has...))
		}
	}
	return hops
}

// NewAltNames is the kind altnames on this machine.
func NewAltNames(h host.Host) drivers.Driver {
	return altNames{netdev{
		host: h, kind: KindAltNames, legal: legalAltNames, hops: routeAltNames,
		read: setting(host.SettingAltNames, func(s host.Settings) drivers.State { return AltNames(s.AltNames...) }),
		call: callAltName,
	}}
}

// callAltName is the write of a hop, which adds one name or takes one away.
func callAltName(c host.Call, from, to drivers.State) (host.Call, error) {
	has, err := parseAltNames(from)
	if err != nil {
		return c, err
	}
	want, err := parseAltNames(to)
	if err != nil {
		return c, err
	}
	c.Op = host.OpAltName
	for _, name := range want {
		if !slices.Contains(has, name) {
			c.Value, c.Number = name, 1
			return c, nil
		}
	}
	for _, name := range has {
		if !slices.Contains(want, name) {
			c.Value = name
		}
	}
	return c, nil
}

type altNames struct{ netdev }

// Precheck refuses a name that is taken, and waits for udev: a netdev that it
// has not seen to gets names of its own in a moment.
func (a altNames) Precheck(ctx context.Context, t drivers.Target, from, to drivers.State) error {
	want, err := parseAltNames(to)
	if err != nil {
		return err
	}
	links, err := a.host.Links(ctx)
	if err != nil {
		return fmt.Errorf("read the names there are: %w", err)
	}
	own, err := host.NetdevOf(ctx, a.host, string(t))
	if err != nil {
		return err
	}
	has, _ := parseAltNames(from)
	for _, name := range want {
		if slices.Contains(has, name) {
			continue
		}
		for _, l := range links {
			switch {
			case l.Index == own.Index && l.Name == name:
				return a.refuse(t, to, drivers.ErrRefused, "take it off altNames", "%s is the name of the interface already", name)
			case l.Index != own.Index && (l.Name == name || slices.Contains(l.AltNames, name)):
				return a.refuse(t, to, drivers.ErrRefused, "ask for another name, or take it from that one", "%s has the name %s", l.Name, name)
			}
		}
	}
	if own.Name != "" && a.awaitsUdev(ctx, own) {
		return a.refuse(t, to, fmt.Errorf("%w, %w", drivers.ErrRefused, drivers.ErrHeld), "it goes on by itself once udev has",
			"udev has not named %s yet", own.Name)
	}
	return nil
}

// awaitsUdev says whether there is a udev that has not dealt with the netdev: it
// keeps a file of each that it has.
func (a altNames) awaitsUdev(ctx context.Context, dev host.Netdev) bool {
	if _, err := a.host.Inode(ctx, "/run/udev/control"); err != nil {
		return false
	}
	_, err := a.host.Inode(ctx, "/run/udev/data/n"+strconv.Itoa(dev.Index))
	return errors.Is(err, fs.ErrNotExist)
}
