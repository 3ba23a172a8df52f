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

// rig is this machine's kernel, in a namespace with a netdev that has channels
// and one that has not.
type rig struct {
	t           *testing.T
	port, other int
}

func (r rig) wants(errno syscall.Errno, c host.Call) {
	r.t.Helper()
	c.Target = vf0
	if err := host.Allowed(c); err != nil {
		r.t.Error(err)
	}
	err := host.Linux{Root: "/"}.Do(context.Background(), c)
	if errno == 0 && err != nil || errno != 0 && !errors.Is(err, errno) {
		r.t.Errorf("%s: %v, want %v", c, err, errno)
	}
}

func (r rig) settings(which host.Setting) host.Settings {
	r.t.Helper()
	s, err := host.Linux{Root: "/"}.Settings(context.Background(), r.port, which)
	if err != nil {
		r.t.Error(err)
	}
	return s
}

// TestSettingsInNamespace sets each setting on this machine's kernel: a veth has
// channels and features, and no rings.
func TestSettingsInNamespace(t *testing.T) {
	inNetns(t, func() {
		r := rig{t: t}
		r.port = mustLink(t, &netlink.Veth{LinkAttrs: queues(named("port0")), PeerName: "port1", PeerNumTxQueues: 4, PeerNumRxQueues: 4})
		r.other = mustLink(t, &netlink.Bridge{LinkAttrs: named("other0")})
		r.altNames()
		r.channels()
		r.features()
	})
}

func (r rig) altNames() {
	name := host.Call{Op: host.OpAltName, Index: r.port, Number: 1, Value: "a name of/text"}
	r.wants(0, name)
	r.wants(syscall.EEXIST, name)
	r.wants(syscall.EEXIST, host.Call{Op: host.OpAltName, Index: r.other, Number: 1, Value: name.Value})
	r.wants(syscall.EEXIST, host.Call{Op: host.OpAltName, Index: r.port, Number: 1, Value: "other0"})
	r.wants(syscall.EINVAL, host.Call{Op: host.OpAltName, Index: r.other, Value: name.Value})
	r.wants(syscall.EINVAL, host.Call{Op: host.OpAltName, Index: r.port, Value: "port0"})
	r.wants(syscall.ENOENT, host.Call{Op: host.OpAltName, Index: r.port, Value: "nobody"})
	r.wants(syscall.ENODEV, host.Call{Op: host.OpAltName, Index: 4711, Number: 1, Value: "x"})
	if s := r.settings(host.SettingAltNames); !slices.Equal(s.AltNames, []string{name.Value}) {
		r.t.Errorf("alternative names %q", s.AltNames)
	}
	name.Number = 0
	r.wants(0, name)
	long := host.Call{Op: host.OpAltName, Target: vf0, Index: r.port, Number: 1, Value: strings.Repeat("x", 128)}
	if err := (host.Linux{Root: "/"}).Do(context.Background(), long); !errors.Is(err, syscall.ERANGE) || host.Allowed(long) == nil {
		r.t.Errorf("a name that is too long: %v, want ERANGE", err)
	}
}

func (r rig) channels() {
	r.wants(0, host.Call{Op: host.OpChannels, Index: r.port, Value: "rx=2 tx=2 combined=0"})
	r.wants(syscall.EINVAL, host.Call{Op: host.OpChannels, Index: r.port, Value: "rx=5 tx=2 combined=0"})
	r.wants(syscall.EOPNOTSUPP, host.Call{Op: host.OpChannels, Index: r.other, Value: "rx=1 tx=1 combined=0"})
	r.wants(syscall.EOPNOTSUPP, host.Call{Op: host.OpRings, Index: r.other, Value: "rx=1 mini=0 jumbo=0 tx=1"})
	now, most := host.Channels{RX: 2, TX: 2}, host.Channels{RX: 4, TX: 4}
	if s := r.settings(host.SettingChannels); s.Channels != now || s.MaxChannels != most {
		r.t.Errorf("channels %+v", s)
	}
	for _, which := range []host.Setting{host.SettingRings, host.SettingChannels, "magic"} {
		linux := host.Linux{Root: "/"}
		if _, err := linux.Settings(context.Background(), r.other, which); !errors.Is(err, syscall.EOPNOTSUPP) {
			r.t.Errorf("%s of a bridge: %v, want EOPNOTSUPP", which, err)
		}
		if _, err := linux.Settings(context.Background(), 4711, which); !errors.Is(err, syscall.ENODEV) {
			r.t.Errorf("%s of nothing: %v, want ENODEV", which, err)
		}
	}
}

// TestVFsOfWhatHasNone: what this machine's kernel answers where a driver makes
// no VFs.
func TestVFsOfWhatHasNone(t *testing.T) {
	inNetns(t, func() {
		r := rig{t: t}
		r.port = mustLink(t, &netlink.Bridge{LinkAttrs: named("port0")})
		for _, op := range host.VFOps() {
			value := map[host.Op]string{
				host.OpVFMAC: "52:54:00:00:01:00", host.OpVFVLAN: "id=5 qos=0 protocol=802.1ad", host.OpVFTrust: "on",
				host.OpVFSpoofCheck: "off", host.OpVFState: "disable", host.OpVFRate: "min=1 max=2",
			}[op]
			r.wants(syscall.EOPNOTSUPP, host.Call{Op: op, Index: r.port, Value: value})
			r.wants(syscall.ENODEV, host.Call{Op: op, Index: 4711, Value: value})
		}
		linux := host.Linux{Root: "/"}
		if _, err := linux.Settings(context.Background(), r.port, host.SettingVFs); !errors.Is(err, syscall.EOPNOTSUPP) {
			t.Errorf("VFs of a bridge: %v, want EOPNOTSUPP", err)
		}
		if _, err := linux.Settings(context.Background(), 4711, host.SettingVFs); !errors.Is(err, syscall.ENODEV) {
			t.Errorf("VFs of nothing: %v, want ENODEV", err)
		}
	})
}

// queues makes room for four of each.
func queues(a netlink.LinkAttrs) netlink.LinkAttrs {
	a.NumTxQueues, a.NumRxQueues = 4, 4
	return a
}

func (r rig) features() {
	t, port, wants := r.t, r.port, r.wants
	feature := func(name string) (f host.Feature) {
		for _, f := range r.settings(host.SettingFeatures).Features {
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
