package host_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"eniagent/drivers/host"
)

// TestSettingsInNamespace sets each setting on this machine's kernel: a veth has
// channels and features, and no rings.
func TestSettingsInNamespace(t *testing.T) {
	inNetns(t, func() {
		port := mustLink(t, &netlink.Veth{LinkAttrs: queues(named("port0")), PeerName: "port1", PeerNumTxQueues: 4, PeerNumRxQueues: 4})
		other := mustLink(t, &netlink.Bridge{LinkAttrs: named("other0")})
		linux := host.Linux{Root: "/"}
		wants := func(errno syscall.Errno, c host.Call) {
			t.Helper()
			c.Target = vf0
			if err := host.Allowed(c); err != nil {
				t.Error(err)
			}
			err := linux.Do(context.Background(), c)
			if errno == 0 && err != nil || errno != 0 && !errors.Is(err, errno) {
				t.Errorf("%s: %v, want %v", c, err, errno)
			}
		}
		settings := func(index int, which host.Setting) host.Settings {
			t.Helper()
			s, err := linux.Settings(context.Background(), index, which)
			if err != nil {
				t.Error(err)
			}
			return s
		}
		name := host.Call{Op: host.OpAltName, Index: port, Number: 1, Value: "a name of/text"}
		wants(0, name)
		wants(syscall.EEXIST, name)
		wants(syscall.EEXIST, host.Call{Op: host.OpAltName, Index: other, Number: 1, Value: name.Value})
		wants(syscall.EEXIST, host.Call{Op: host.OpAltName, Index: port, Number: 1, Value: "other0"})
		wants(syscall.EINVAL, host.Call{Op: host.OpAltName, Index: other, Value: name.Value})
		wants(syscall.EINVAL, host.Call{Op: host.OpAltName, Index: port, Value: "port0"})
		wants(syscall.ENOENT, host.Call{Op: host.OpAltName, Index: port, Value: "nobody"})
		wants(syscall.ENODEV, host.Call{Op: host.OpAltName, Index: 4711, Number: 1, Value: "x"})
		if s := settings(port, host.SettingAltNames); !slices.Equal(s.AltNames, []string{name.Value}) {
			t.Errorf("alternative names %q", s.AltNames)
		}
		name.Number = 0
		wants(0, name)
		long := host.Call{Op: host.OpAltName, Target: vf0, Index: port, Number: 1, Value: strings.Repeat("x", 128)}
		if err := linux.Do(context.Background(), long); !errors.Is(err, syscall.ERANGE) || host.Allowed(long) == nil {
			t.Errorf("a name that is too long: %v, want ERANGE", err)
		}

		wants(0, host.Call{Op: host.OpChannels, Index: port, Value: "rx=2 tx=2 combined=0"})
		wants(syscall.EINVAL, host.Call{Op: host.OpChannels, Index: port, Value: "rx=5 tx=2 combined=0"})
		wants(syscall.EOPNOTSUPP, host.Call{Op: host.OpChannels, Index: other, Value: "rx=1 tx=1 combined=0"})
		want := host.Settings{Channels: host.Channels{RX: 2, TX: 2}, MaxChannels: host.Channels{RX: 4, TX: 4}}
		if s := settings(port, host.SettingChannels); s.Channels != want.Channels || s.MaxChannels != want.MaxChannels {
			t.Errorf("channels %+v", s)
		}
		wants(syscall.EOPNOTSUPP, host.Call{Op: host.OpRings, Index: other, Value: "rx=1 mini=0 jumbo=0 tx=1"})
		for _, which := range []host.Setting{host.SettingRings, host.SettingChannels, "magic"} {
			if _, err := linux.Settings(context.Background(), other, which); !errors.Is(err, syscall.EOPNOTSUPP) {
				t.Errorf("%s of a bridge: %v, want EOPNOTSUPP", which, err)
			}
			if _, err := linux.Settings(context.Background(), 4711, which); !errors.Is(err, syscall.ENODEV) {
				t.Errorf("%s of nothing: %v, want ENODEV", which, err)
			}
		}
		testFeatures(t, port, wants, settings)
	})
}

// queues makes room for four of each.
func queues(a netlink.LinkAttrs) netlink.LinkAttrs {
	a.NumTxQueues, a.NumRxQueues = 4, 4
	return a
}

func testFeatures(t *testing.T, port int, wants func(syscall.Errno, host.Call), settings func(int, host.Setting) host.Settings) {
	t.Helper()
	feature := func(name string) (f host.Feature) {
		for _, f := range settings(port, host.SettingFeatures).Features {
			if f.Name == name {
				return f
			}
		}
		t.Errorf("no feature %s", name)
		return f
	}
	const csum, tso = "tx-checksum-ip-generic", "tx-tcp-segmentation"
	if f := feature(tso); !f.Wanted || !f.Active || f.Fixed {
		t.Errorf("at first %+v", f)
	}
	wants(0, host.Call{Op: host.OpFeature, Index: port, Value: csum})
	if f := feature(csum); f.Wanted || f.Active {
		t.Errorf("off it is %+v", f)
	}
	if f := feature(tso); !f.Wanted || f.Active {
		t.Errorf("without checksums it is %+v, want it wanted and not active", f)
	}
	wants(0, host.Call{Op: host.OpFeature, Index: port, Value: csum, Number: 1})
	if f := feature(tso); !f.Active {
		t.Errorf("with checksums it is %+v", f)
	}
	if f := feature("loopback"); !f.Fixed {
		t.Errorf("loopback is %+v, want it fixed", f)
	}
	wants(0, host.Call{Op: host.OpFeature, Index: port, Value: "loopback"})
	wants(syscall.EOPNOTSUPP, host.Call{Op: host.OpFeature, Index: port, Value: "tx-magic"})
}
