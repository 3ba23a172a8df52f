package link

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// KindFeatures is what a netdev is asked to do for the processor (ethtool -k),
// by the kernel's names.
const KindFeatures drivers.Kind = "features"

// FeaturesSpec is the kind features on any machine. Its state is what is wanted
// of each feature that can be changed, and not what is active: switching one off
// makes those inactive that need it, and no hop could be foreseen. That what was
// asked is active too is looked at after the write. Some drivers reset the
// netdev for some features.
func FeaturesSpec() drivers.Spec {
	return drivers.Spec{
		Kind: KindFeatures, Class: drivers.Volatile, Netdev: true, Fresh: drivers.Default, WhenAsked: true,
		Cuts: changes, After: []drivers.Kind{"driver", KindRings}, Legal: legalFeatures, Route: routeFeatures,
	}
}

// Features is the State in which these are wanted on or off: "a=on b=off".
func Features(wanted map[string]bool) drivers.State {
	if len(wanted) == 0 {
		return none
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		words = append(words, name+"="+map[bool]string{true: "on", false: "off"}[wanted[name]])
	}
	return drivers.State(strings.Join(words, " "))
}

func parseFeatures(s drivers.State) (map[string]bool, error) {
	wanted := map[string]bool{}
	if s == none {
		return wanted, nil
	}
	for word := range strings.SplitSeq(string(s), " ") {
		name, is, _ := strings.Cut(word, "=")
		if !drivers.FeatureName(name) || is != "on" && is != "off" {
			return nil, fmt.Errorf("%q is no feature: want its name, and =on or =off", word)
		}
		wanted[name] = is == "on"
	}
	if Features(wanted) != s {
		return nil, fmt.Errorf("%q is no list of features: want them sorted, each once", s)
	}
	return wanted, nil
}

func legalFeatures(t drivers.Target, to drivers.State) error {
	if _, err := parseFeatures(to); err != nil {
		return fmt.Errorf("%w: %w", drivers.ErrIllegal, err)
	}
	if to == none {
		return fmt.Errorf("no features: %w", drivers.ErrIllegal)
	}
	return isPCI(t, KindFeatures)
}

// WithFeatures is the state at with some of its features changed; where there is
// no netdev yet (at is ""), these alone.
func WithFeatures(at drivers.State, asked map[string]bool) (drivers.State, error) {
	wanted := map[string]bool{}
	if at != "" && at != drivers.Hidden {
		var err error
		if wanted, err = parseFeatures(at); err != nil {
			return "", err
		}
	}
	maps.Copy(wanted, asked)
	return Features(wanted), nil
}

// FeaturesBack is the state at in which those of names are as in the state to, as
// far as both have them.
func FeaturesBack(at, to drivers.State, names []string) (drivers.State, error) {
	wanted, err := parseFeatures(at)
	if err != nil {
		return "", err
	}
	were, err := parseFeatures(to)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		was, known := were[name]
		if _, is := wanted[name]; is && known {
			wanted[name] = was
		}
	}
	return Features(wanted), nil
}

// before orders features so that one comes after those that it needs.
func before(a, b string) int {
	rank := func(name string) int {
		switch {
		case strings.Contains(name, "checksum"):
			return 0
		case strings.Contains(name, "scatter-gather"):
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
}

// routeFeatures switches on what is off and then off what is on, in the opposite
// order: so that going back from any state on the way passes through states on
// the way. Where the two do not have the same features, the last hop is one that
// no write makes.
func routeFeatures(from, to drivers.State) []drivers.State {
	has, err := parseFeatures(from)
	want, err2 := parseFeatures(to)
	if err != nil || err2 != nil {
		return []drivers.State{to}
	}
	var hops []drivers.State
	hop := func(name string, on bool) {
		if now, known := has[name]; known && now != on && want[name] == on {
			has[name] = on
			hops = append(hops, Features(has))
		}
	}
	names := slices.SortedFunc(maps.Keys(want), before)
	for _, name := range names {
		hop(name, true)
	}
	for _, name := range slices.Backward(names) {
		hop(name, false)
	}
	if !maps.Equal(has, want) {
		hops = append(hops, to)
	}
	return hops
}

// NewFeatures is the kind features on this machine.
func NewFeatures(h host.Host) drivers.Driver {
	return features{netdev{
		host: h, kind: KindFeatures, legal: legalFeatures, hops: routeFeatures,
		read: setting(host.SettingFeatures, func(s host.Settings) drivers.State { return Features(changeable(s)) }),
		call: callFeature,
	}}
}

// changeable are the features that are not fixed, and what is wanted of them.
func changeable(s host.Settings) map[string]bool {
	wanted := map[string]bool{}
	for _, f := range s.Features {
		if !f.Fixed {
			wanted[f.Name] = f.Wanted
		}
	}
	return wanted
}

// callFeature is the write of a hop, which changes one feature.
func callFeature(c host.Call, from, to drivers.State) (host.Call, error) {
	has, err := parseFeatures(from)
	if err != nil {
		return c, err
	}
	want, err := parseFeatures(to)
	if err != nil {
		return c, err
	}
	c.Op = host.OpFeature
	for name, on := range want {
		now, known := has[name]
		if !known {
			return c, fmt.Errorf("%w: %s cannot be changed here", drivers.ErrUnsupported, name)
		}
		if now != on {
			c.Value = name
			if on {
				c.Number = 1
			}
		}
	}
	if c.Value == "" {
		return c, fmt.Errorf("%w: the device has other features than there were", drivers.ErrUnsupported)
	}
	return c, nil
}

type features struct{ netdev }

// Apply wants what was changed to be so in fact: the kernel takes a wish that
// the driver, or a feature that is off, leaves without effect.
func (f features) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	was, _ := parseFeatures(f.Observe(ctx, t).State)
	if err := f.bring(ctx, t, to); err != nil {
		return err
	}
	want, err := parseFeatures(to)
	if err != nil || maps.Equal(was, want) {
		return err
	}
	fault := func(err error, remedy string) error {
		return &drivers.Error{Key: drivers.Key{Kind: f.kind, Target: t}, Do: "read back", Err: err, Remedy: remedy}
	}
	_, s, err := f.current(ctx, t, host.SettingFeatures)
	if err != nil {
		return fault(err, "")
	}
	for _, is := range s.Features {
		if on, asked := want[is.Name]; asked && was[is.Name] != on && is.Active != on {
			return fault(fmt.Errorf("%s is wanted %t and is not so: %w, %w", is.Name, on, drivers.ErrUnverified, drivers.ErrUnsupported),
				"look with ethtool -k which feature it needs, and ask for that too")
		}
	}
	return nil
}

// Precheck refuses what is fixed, and what the kernel has no name for.
func (f features) Precheck(ctx context.Context, t drivers.Target, _, to drivers.State) error {
	want, err := parseFeatures(to)
	if err != nil {
		return err
	}
	dev, s, err := f.current(ctx, t, host.SettingFeatures)
	if err != nil || dev.Name == "" {
		return err
	}
	has := changeable(s)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, ok := has[name]; ok {
			continue
		}
		at := slices.IndexFunc(s.Features, func(f host.Feature) bool { return f.Name == name })
		if at < 0 {
			return f.refuse(t, to, drivers.ErrUnsupported, "take it off features, or ask for one that ethtool -k lists by the kernel's name",
				"%s has no feature %s", dev.Name, name)
		}
		return f.refuse(t, to, drivers.ErrRefused, "take it off features", "%s of %s is fixed: it is always %s",
			name, dev.Name, map[bool]string{true: "on", false: "off"}[s.Features[at].Active])
	}
	return nil
}
