package sim

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// limitVFs makes igb another driver.
func limitVFs(t *testing.T, k *Kernel, to VFLimits) {
	t.Helper()
	err := k.Edit(func(c *Config) error {
		for i, m := range c.Modules {
			c.Modules[i].Drivers = slices.Clone(m.Drivers)
			for n := range m.Drivers {
				if m.Drivers[n].VFs != nil {
					c.Modules[i].Drivers[n].VFs = &to
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// vfCall sets something of a VF of the netdev.
func vfCall(op host.Op, index, vf int, value string) host.Call {
	return host.Call{Op: op, Target: drivers.Target(vf0), Index: index, Number: vf, Value: value}
}

func keptOf(t *testing.T, k *Kernel, index int) []host.VF {
	t.Helper()
	s, err := k.Settings(t.Context(), index, host.SettingVFs)
	if err != nil {
		t.Fatal(err)
	}
	return s.VFs
}

// TestVFErrnos is what do_setvfinfo of net/core/rtnetlink.c, and igb behind it,
// answer.
func TestVFErrnos(t *testing.T) {
	k := New(DefaultNode())
	with, without, vf, ena := indexOf(t, k, "enp1s0"), indexOf(t, k, "enp2s0"), indexOf(t, k, "enp1s0v0"), indexOf(t, k, "ens5")
	up := host.Call{Op: host.OpAdmin, Index: with, Number: 1}
	for _, tc := range []struct {
		name    string
		prepare []host.Call
		call    host.Call
		errno   syscall.Errno
	}{
		{"a MAC", nil, vfCall(host.OpVFMAC, with, 1, "52:54:00:00:01:01"), 0},
		{"none again", nil, vfCall(host.OpVFMAC, with, 1, host.NoMAC), 0},
		{"a MAC of many", nil, vfCall(host.OpVFMAC, with, 1, "01:00:5e:00:00:01"), syscall.EINVAL},
		{"a VF that there is not", nil, vfCall(host.OpVFMAC, with, 2, "52:54:00:00:01:01"), syscall.EINVAL},
		{"a VLAN", nil, vfCall(host.OpVFVLAN, with, 0, "id=100 qos=7 protocol=802.1Q"), 0},
		{"a VLAN of a provider", nil, vfCall(host.OpVFVLAN, with, 0, "id=100 qos=7 protocol=802.1ad"), syscall.EPROTONOSUPPORT},
		{"trust", nil, vfCall(host.OpVFTrust, with, 0, "on"), 0},
		{"checks", nil, vfCall(host.OpVFSpoofCheck, with, 0, "off"), 0},
		{"checks of no VFs", nil, vfCall(host.OpVFSpoofCheck, without, 0, "off"), syscall.EOPNOTSUPP},
		{"trust of no VFs", nil, vfCall(host.OpVFTrust, without, 0, "on"), syscall.EINVAL},
		{"a link state", nil, vfCall(host.OpVFState, with, 0, "disable"), syscall.EOPNOTSUPP},
		{"a rate without a link", nil, vfCall(host.OpVFRate, with, 0, "min=0 max=100"), syscall.EINVAL},
		{"a rate", []host.Call{up}, vfCall(host.OpVFRate, with, 0, "min=0 max=1000"), 0},
		{"a rate above the link's", nil, vfCall(host.OpVFRate, with, 0, "min=0 max=1001"), syscall.EINVAL},
		{"a lowest rate", nil, vfCall(host.OpVFRate, with, 0, "min=1 max=100"), syscall.EINVAL},
		{"of a VF's netdev", nil, vfCall(host.OpVFTrust, vf, 0, "on"), syscall.EOPNOTSUPP},
		{"of another NIC", nil, vfCall(host.OpVFTrust, ena, 0, "on"), syscall.EOPNOTSUPP},
		{"of nothing", nil, vfCall(host.OpVFTrust, 99, 0, "on"), syscall.ENODEV},
	} {
		t.Run(tc.name, func(t *testing.T) {
			on(t, k).must(tc.prepare...)
			on(t, k).wants(tc.errno, tc.call)
		})
	}
	want := "[{0 00:00:00:00:00:00 id=100 qos=7 protocol=802.1Q on off auto min=0 max=1000} {1 00:00:00:00:00:00 id=0 qos=0 protocol=802.1Q off on auto min=0 max=0}]"
	if got := fmt.Sprint(keptOf(t, k, with)); got != want {
		t.Errorf("kept %s\nwant %s", got, want)
	}
	for _, index := range []int{vf, ena} {
		if _, err := k.Settings(t.Context(), index, host.SettingVFs); err == nil {
			t.Errorf("netdev %d tells of VFs", index)
		}
	}
	limitVFs(t, k, VFLimits{})
	on(t, k).must(vfCall(host.OpVFState, with, 0, "disable"), vfCall(host.OpVFRate, with, 0, "min=5 max=40000"), vfCall(host.OpVFVLAN, with, 0, "id=1 qos=0 protocol=802.1ad"))
}

// TestWhatIsKeptForVFs outlives their drivers, and neither a change of their
// number nor the driver of their PF.
func TestWhatIsKeptForVFs(t *testing.T) {
	k, h := withVFIO(t)
	index := indexOf(t, k, "enp1s0")
	fresh := fmt.Sprint(keptOf(t, k, index))
	set := vfCall(host.OpVFVLAN, index, 0, "id=100 qos=0 protocol=802.1Q")
	h.must(set)
	h.must(toVFIO(vf0)...)
	h.must(host.Call{Op: host.OpAdmin, Index: index, Number: 1}, host.Call{Op: host.OpAdmin, Index: index})
	if got := keptOf(t, k, index)[0].VLAN; got != set.Value || !strings.Contains(k.String(), `vf0.vlan="id=100`) {
		t.Errorf("after a rebind of the VF %s\n%s", got, k)
	}
	h.must(sysfs(host.Attr(pf, "sriov_numvfs"), "0"))
	if got := keptOf(t, k, index); len(got) != 0 {
		t.Errorf("without VFs %v", got)
	}
	h.must(sysfs(host.Attr(pf, "sriov_numvfs"), "2"))
	if got := fmt.Sprint(keptOf(t, k, index)); got != fresh {
		t.Errorf("VFs that were made anew have %s, want %s", got, fresh)
	}
	h.must(set, unbind("igb", pf), bind("igb", pf), sysfs(host.Attr(pf, "sriov_numvfs"), "2"))
	if got := fmt.Sprint(keptOf(t, k, indexOf(t, k, "enp1s0"))); got != fresh {
		t.Errorf("after the PF's driver %s, want %s", got, fresh)
	}
}

// TestAVFTakesItsMAC when its driver is probed, from a PF that is up; without one
// it makes one up, and its PF shows that.
func TestAVFTakesItsMAC(t *testing.T) {
	k := New(DefaultNode())
	h, index := on(t, k), indexOf(t, k, "enp1s0")
	const mac = "52:54:00:00:01:00"
	probed := func() host.Link {
		t.Helper()
		h.must(unbind("igbvf", vf0), bind("igbvf", vf0))
		l, ok := h.link(vf0)
		if !ok {
			t.Fatal("it has no netdev")
		}
		return l
	}
	h.must(vfCall(host.OpVFMAC, index, 0, mac))
	if l, _ := h.link(vf0); l.MAC == mac {
		t.Error("a netdev that is there takes another MAC")
	}
	if l := probed(); l.MAC == mac {
		t.Error("a PF that is down tells a MAC")
	}
	h.must(host.Call{Op: host.OpAdmin, Index: index, Number: 1})
	l := probed()
	if l.MAC != mac || l.PermMAC != mac {
		t.Errorf("it has %s, permanent %s", l.MAC, l.PermMAC)
	}
	h.reads("0", host.SysNet+l.Name+"/addr_assign_type")
	h.must(vfCall(host.OpVFMAC, index, 0, host.NoMAC))
	if l := probed(); l.MAC == mac || keptOf(t, k, index)[0].MAC != l.MAC {
		t.Errorf("without one it has %s, and its PF shows %s", l.MAC, keptOf(t, k, index)[0].MAC)
	}
}
