package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// Features that others need, or that need others (netdev_fix_features).
const (
	featureCsum    = "tx-checksum-ip-generic"
	featureSG      = "tx-scatter-gather"
	featureTSO     = "tx-tcp-segmentation"
	featureMangle  = "tx-tcp-mangleid-segmentation"
	featurePartial = "tx-gso-partial"
)

// needs are the features without which one is not active; of some words, any of
// those between the bars will do.
func needs(feature string) []string {
	switch feature {
	case featureTSO:
		return []string{featureSG, featureCsum + "|tx-checksum-ipv4"}
	case "tx-tcp6-segmentation":
		return []string{featureSG, featureCsum + "|tx-checksum-ipv6"}
	case "tx-generic-segmentation":
		return []string{featureSG}
	case featureMangle:
		return []string{featureTSO}
	}
	if feature != featurePartial && slices.Contains(strings.Fields(tunnels), feature) {
		return []string{featurePartial}
	}
	return nil
}

// settings is one group of a netdev's settings.
func (m *machine) settings(index int, which host.Setting) (s host.Settings, errno syscall.Errno) {
	n := m.netdev(index)
	if n == nil {
		return s, syscall.ENODEV
	}
	switch which {
	case host.SettingAltNames:
		return host.Settings{AltNames: slices.Clone(n.AltNames)}, 0
	case host.SettingChannels:
		if n.Set.MaxChannels == (host.Channels{}) {
			return s, syscall.EOPNOTSUPP
		}
		return host.Settings{Channels: n.Set.Channels, MaxChannels: m.maxChannels(n)}, 0
	case host.SettingRings:
		if n.Set.MaxRings == (host.Rings{}) {
			return s, syscall.EOPNOTSUPP
		}
		return host.Settings{Rings: n.Set.Rings, MaxRings: n.Set.MaxRings}, 0
	case host.SettingVFs:
		s.VFs, errno = m.keptVFs(n)
		return s, errno
	case host.SettingFeatures:
		return host.Settings{Features: slices.Clone(n.Set.Features)}, 0
	}
	return s, syscall.EOPNOTSUPP
}

// maxChannels is what the driver says now.
func (m *machine) maxChannels(n *netdev) host.Channels {
	limit := n.Set.MaxChannels
	if f := m.find(n.Bus); f != nil && f.VFs > 0 && n.Set.MaxWithVFs > 0 {
		limit.Combined = n.Set.MaxWithVFs
	}
	return limit
}

// requeue is what igb does when it makes or takes away VFs: it counts its
// queues anew (igb_init_queue_configuration).
func (m *machine) requeue(f *function) {
	n, d := m.netdevOf(f.Address), m.devices[f.Address]
	if n == nil || d.Net == nil || d.Net.Set == nil || n.Set.MaxWithVFs == 0 {
		return
	}
	n.Set.Channels = d.Net.Set.Channels
	n.Set.Channels.Combined = min(n.Set.Channels.Combined, m.maxChannels(n).Combined)
}

// setSetting is a write of one setting.
func (m *machine) setSetting(c host.Call) syscall.Errno {
	n := m.netdev(c.Index)
	if n == nil {
		return syscall.ENODEV
	}
	before := m.settingsText(n)
	var errno syscall.Errno
	switch c.Op {
	case host.OpAltName:
		errno = m.setAltName(n, c.Value, c.Number == 1)
	case host.OpChannels:
		errno = m.setChannels(n, c.Value)
	case host.OpRings:
		errno = n.setRings(c.Value)
	default:
		errno = n.setFeature(c.Value, c.Number == 1)
	}
	if m.settingsText(n) != before {
		m.event(drivers.Target(n.Bus), "link")
	}
	return errno
}

// setAltName is rtnl_alt_ifname.
func (m *machine) setAltName(n *netdev, name string, add bool) syscall.Errno {
	other := m.named(name)
	switch {
	case len(name) == 0 || len(name) > 127:
		return syscall.ERANGE // ifla_policy
	case add && other != nil:
		return syscall.EEXIST
	case add:
		n.AltNames = append(slices.Clone(n.AltNames), name)
	case other == nil:
		return syscall.ENOENT
	case other.Index != n.Index || n.Name == name:
		return syscall.EINVAL
	default:
		n.AltNames = slices.DeleteFunc(slices.Clone(n.AltNames), func(s string) bool { return s == name })
	}
	return 0
}

// setChannels is ethtool_set_channels, and igb_set_channels behind it.
func (m *machine) setChannels(n *netdev, value string) syscall.Errno {
	if n.Set.MaxChannels == (host.Channels{}) {
		return syscall.EOPNOTSUPP
	}
	want, err := host.ParseChannels(value)
	limit := m.maxChannels(n)
	if err != nil || want.RX > limit.RX || want.TX > limit.TX || want.Combined > limit.Combined {
		return syscall.EINVAL
	}
	n.Set.Channels = want
	return 0
}

// setRings is ethtool_set_ringparam. A driver enlarges and rounds what it takes,
// and says nothing of it.
func (n *netdev) setRings(value string) syscall.Errno {
	if n.Set.MaxRings == (host.Rings{}) {
		return syscall.EOPNOTSUPP
	}
	want, err := host.ParseRings(value)
	limit := n.Set.MaxRings
	if err != nil || want.RX > limit.RX || want.Mini > limit.Mini || want.Jumbo > limit.Jumbo || want.TX > limit.TX {
		return syscall.EINVAL
	}
	n.Set.Rings = host.Rings{RX: n.Set.ring(want.RX), Mini: want.Mini, Jumbo: want.Jumbo, TX: n.Set.ring(want.TX)}
	return 0
}

func (s Settings) ring(size int) int {
	step := cmp.Or(s.RingStep, 1)
	return (max(size, s.MinRing) + step - 1) / step * step
}

// setFeature is ethtool_set_features: what is fixed stays, and that is no error.
func (n *netdev) setFeature(name string, on bool) syscall.Errno {
	at := slices.IndexFunc(n.Set.Features, func(f host.Feature) bool { return f.Name == name })
	if at < 0 {
		return syscall.EOPNOTSUPP
	}
	if n.Set.Features[at].Fixed {
		return 0
	}
	n.Set.Features = slices.Clone(n.Set.Features)
	n.Set.Features[at].Wanted = on
	wanted := map[string]bool{}
	for _, f := range n.Set.Features {
		wanted[f.Name] = f.Wanted
	}
	for i := range n.Set.Features {
		f := &n.Set.Features[i]
		f.Active = f.Wanted && !slices.ContainsFunc(needs(f.Name), func(others string) bool {
			return !slices.ContainsFunc(strings.Split(others, "|"), func(other string) bool { return wanted[other] })
		})
	}
	return 0
}

// settingsText is the settings for the machine's text: of the features those
// that are not as the driver gave them.
func (m *machine) settingsText(n *netdev) string {
	var words strings.Builder
	for _, name := range slices.Sorted(slices.Values(n.AltNames)) {
		fmt.Fprintf(&words, " alt=%q", name)
	}
	if n.Set.MaxChannels != (host.Channels{}) {
		fmt.Fprintf(&words, " channels=%q", n.Set.Channels)
	}
	if n.Set.MaxRings != (host.Rings{}) {
		fmt.Fprintf(&words, " rings=%q", n.Set.Rings)
	}
	var fresh []host.Feature
	if d := m.devices[n.Bus]; d != nil && d.Net != nil && d.Net.Set != nil {
		fresh = d.Net.Set.Features
	}
	for _, to := range []struct {
		word string
		on   bool
	}{{"on", true}, {"off", false}} {
		var names []string
		for i, f := range n.Set.Features {
			if i < len(fresh) && f.Wanted == to.on && fresh[i].Wanted != to.on {
				names = append(names, f.Name)
			}
		}
		if len(names) > 0 {
			fmt.Fprintf(&words, " %s=%s", to.word, strings.Join(names, ","))
		}
	}
	return words.String()
}
