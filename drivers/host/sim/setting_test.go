package sim

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"eniagent/drivers/host"
)

// indexOf is the ifindex of a netdev of the kernel.
func indexOf(t *testing.T, k *Kernel, name string) int {
	t.Helper()
	var index int
	k.change(func(m *machine) { index = m.indexOf(name) })
	if index == 0 {
		t.Fatalf("no netdev %s", name)
	}
	return index
}

// TestSettingErrnos is what the checks of net/ethtool/ioctl.c and
// net/core/rtnetlink.c, and the driver behind them, answer.
func TestSettingErrnos(t *testing.T) {
	k := New(DefaultNode())
	port, with, vf, plain := indexOf(t, k, "enp2s0"), indexOf(t, k, "enp1s0"), indexOf(t, k, "enp1s0v0"), indexOf(t, k, "ens5")
	for _, tc := range []struct {
		name  string
		call  host.Call
		errno syscall.Errno
	}{
		{"channels", host.Call{Op: host.OpChannels, Index: port, Value: "rx=0 tx=0 combined=8"}, 0},
		{"channels above the maximum", host.Call{Op: host.OpChannels, Index: port, Value: "rx=0 tx=0 combined=9"}, syscall.EINVAL},
		{"no channels", host.Call{Op: host.OpChannels, Index: port, Value: "rx=0 tx=0 combined=0"}, syscall.EINVAL},
		{"separate channels", host.Call{Op: host.OpChannels, Index: port, Value: "rx=1 tx=1 combined=0"}, syscall.EINVAL},
		{"channels of a PF with VFs", host.Call{Op: host.OpChannels, Index: with, Value: "rx=0 tx=0 combined=3"}, syscall.EINVAL},
		{"channels that igbvf lacks", host.Call{Op: host.OpChannels, Index: vf, Value: "rx=0 tx=0 combined=1"}, syscall.EOPNOTSUPP},
		{"rings", host.Call{Op: host.OpRings, Index: vf, Value: "rx=4096 mini=0 jumbo=0 tx=64"}, 0},
		{"rings above the maximum", host.Call{Op: host.OpRings, Index: port, Value: "rx=4097 mini=0 jumbo=0 tx=256"}, syscall.EINVAL},
		{"mini rings", host.Call{Op: host.OpRings, Index: port, Value: "rx=256 mini=1 jumbo=0 tx=256"}, syscall.EINVAL},
		{"rings of another NIC", host.Call{Op: host.OpRings, Index: plain, Value: "rx=256 mini=0 jumbo=0 tx=256"}, syscall.EOPNOTSUPP},
		{"rings of nothing", host.Call{Op: host.OpRings, Index: 99, Value: "rx=256 mini=0 jumbo=0 tx=256"}, syscall.ENODEV},
		{"a feature", host.Call{Op: host.OpFeature, Index: port, Value: "rx-gro"}, 0},
		{"a fixed feature", host.Call{Op: host.OpFeature, Index: port, Value: "highdma"}, 0},
		{"no such feature", host.Call{Op: host.OpFeature, Index: port, Value: "tx-magic"}, syscall.EOPNOTSUPP},
		{"a name", host.Call{Op: host.OpAltName, Index: port, Value: "lan", Number: 1}, 0},
		{"a name again", host.Call{Op: host.OpAltName, Index: port, Value: "lan", Number: 1}, syscall.EEXIST},
		{"another's name", host.Call{Op: host.OpAltName, Index: port, Value: "ens5", Number: 1}, syscall.EEXIST},
		{"another's alternative name", host.Call{Op: host.OpAltName, Index: port, Value: "enp0s5", Number: 1}, syscall.EEXIST},
		{"no such name to take", host.Call{Op: host.OpAltName, Index: port, Value: "wan"}, syscall.ENOENT},
		{"another's name to take", host.Call{Op: host.OpAltName, Index: port, Value: "enp0s5"}, syscall.EINVAL},
		{"its own first name to take", host.Call{Op: host.OpAltName, Index: port, Value: "enp2s0"}, syscall.EINVAL},
		{"a name that is too long", host.Call{Op: host.OpAltName, Index: port, Value: strings.Repeat("x", 128), Number: 1}, syscall.ERANGE},
		{"a name of nothing", host.Call{Op: host.OpAltName, Index: 99, Value: "x", Number: 1}, syscall.ENODEV},
	} {
		t.Run(tc.name, func(t *testing.T) { on(t, k).wants(tc.errno, tc.call) })
	}
}

func settingsOf(t *testing.T, k *Kernel, name string, which host.Setting) host.Settings {
	t.Helper()
	s, err := k.Settings(t.Context(), indexOf(t, k, name), which)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDriversRoundRings: igb enlarges and rounds up, and reports success.
func TestDriversRoundRings(t *testing.T) {
	k := New(DefaultNode())
	on(t, k).must(host.Call{Op: host.OpRings, Index: indexOf(t, k, "enp2s0"), Value: "rx=100 mini=0 jumbo=0 tx=1"})
	if got := settingsOf(t, k, "enp2s0", host.SettingRings).Rings; got != (host.Rings{RX: 104, TX: 64}) {
		t.Errorf("rings are %v", got)
	}
}

// TestChannelsFollowVFs: igb has fewer while there are VFs.
func TestChannelsFollowVFs(t *testing.T) {
	k := New(DefaultNode())
	if s := settingsOf(t, k, "enp1s0", host.SettingChannels); s.Channels.Combined != 2 || s.MaxChannels.Combined != 2 {
		t.Errorf("with VFs %+v", s)
	}
	on(t, k).must(sysfs(host.Attr(pf, "sriov_numvfs"), "0"))
	if s := settingsOf(t, k, "enp1s0", host.SettingChannels); s.Channels.Combined != 4 || s.MaxChannels.Combined != 8 {
		t.Errorf("without VFs %+v", s)
	}
}

// TestFeaturesNeedEachOther: what is wanted stays, what needs it is not active.
func TestFeaturesNeedEachOther(t *testing.T) {
	k := New(DefaultNode())
	index := indexOf(t, k, "enp2s0")
	clone := k.Clone()
	on(t, k).must(host.Call{Op: host.OpFeature, Index: index, Value: featureCsum})
	feature := func(k *Kernel, name string) host.Feature {
		fs := settingsOf(t, k, "enp2s0", host.SettingFeatures).Features
		return fs[slices.IndexFunc(fs, func(f host.Feature) bool { return f.Name == name })]
	}
	if f := feature(k, featureTSO); !f.Wanted || f.Active {
		t.Errorf("segmentation without checksums: %+v", f)
	}
	if f := feature(clone, featureCsum); !f.Wanted {
		t.Error("a clone's features changed too")
	}
	on(t, k).must(host.Call{Op: host.OpFeature, Index: index, Value: featureCsum, Number: 1})
	if f := feature(k, featureTSO); !f.Active {
		t.Errorf("segmentation with checksums: %+v", f)
	}
}
