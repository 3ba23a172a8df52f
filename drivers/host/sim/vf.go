package sim

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// VFLimits is what a driver does not let be set of the VFs of its functions; its
// zero value is a driver that lets everything be set.
type VFLimits struct {
	NoLinkState bool `json:"no_link_state,omitempty"` // EOPNOTSUPP
	Only8021Q   bool `json:"only_8021q,omitempty"`    // EPROTONOSUPPORT for another protocol
	NoMinRate   bool `json:"no_min_rate,omitempty"`   // EINVAL
	// Speed is that of the link in Mbit/s, without which no rate can be set, nor
	// one above it; 0 is a driver that does not ask.
	Speed int `json:"speed,omitempty"`
}

// kept is what the driver of a PF keeps for one of its VFs.
type kept struct {
	host.VF
	ByPF bool `json:"by_pf,omitempty"` // the MAC was set, and is not the VF's own choice
}

// freshVFs are n as igb_enable_sriov makes them.
func freshVFs(n int) []kept {
	all := make([]kept, n)
	for i := range all {
		all[i].VF = host.VF{
			Index: i, MAC: host.NoMAC, VLAN: host.VLAN{}.String(), Trust: "off", SpoofCheck: "on",
			LinkState: host.LinkStates()[0], Rate: host.Rate{}.String(),
		}
	}
	return all
}

// vfLimits is what the driver behind a netdev lets be set of VFs; nil where it
// has nothing to set.
func (m *machine) vfLimits(n *netdev) (*function, *VFLimits) {
	f := m.find(n.Bus)
	if f == nil || f.Driver == "" || m.devices[f.Address].PF != "" {
		return nil, nil
	}
	return f, m.drivers[f.Driver].VFs
}

// keptVFs are the VFs as RTM_GETLINK tells of them.
func (m *machine) keptVFs(n *netdev) ([]host.VF, syscall.Errno) {
	f, limits := m.vfLimits(n)
	if limits == nil {
		return nil, syscall.EOPNOTSUPP
	}
	var all []host.VF
	for _, k := range f.Kept {
		all = append(all, k.VF)
	}
	return all, 0
}

// setVF is do_setvfinfo, and the ndo_set_vf_* of the driver behind it.
func (m *machine) setVF(c host.Call) syscall.Errno {
	n := m.netdev(c.Index)
	if n == nil {
		return syscall.ENODEV
	}
	f, limits := m.vfLimits(n)
	switch {
	case limits == nil, c.Op == host.OpVFState && limits.NoLinkState:
		return syscall.EOPNOTSUPP
	case c.Op == host.OpVFSpoofCheck && len(f.Kept) == 0:
		return syscall.EOPNOTSUPP // igb_ndo_set_vf_spoofchk
	case c.Number < 0 || c.Number >= len(f.Kept):
		return syscall.EINVAL
	}
	vf := f.Kept[c.Number]
	if errno := vf.set(n, limits, c); errno != 0 {
		return errno
	}
	f.Kept = slices.Clone(f.Kept)
	f.Kept[c.Number] = vf
	m.dirty = true
	if n.Up { // netdev_state_change tells of no other
		m.event(drivers.Target(n.Bus), host.EventLink)
	}
	return 0
}

func (k *kept) set(n *netdev, limits *VFLimits, c host.Call) syscall.Errno {
	switch c.Op {
	case host.OpVFMAC:
		mac, err := net.ParseMAC(c.Value)
		if err != nil || mac[0]&1 != 0 {
			return syscall.EINVAL
		}
		k.MAC, k.ByPF = mac.String(), mac.String() != host.NoMAC
	case host.OpVFVLAN:
		v, err := host.ParseVLAN(c.Value)
		switch {
		case err != nil:
			return syscall.EINVAL
		case limits.Only8021Q && v.Protocol != host.Dot1Q:
			return syscall.EPROTONOSUPPORT
		}
		k.VLAN = v.String()
	case host.OpVFTrust:
		k.Trust = c.Value
	case host.OpVFSpoofCheck:
		k.SpoofCheck = c.Value
	case host.OpVFState:
		k.LinkState = c.Value
	default:
		r, err := host.ParseRate(c.Value)
		linked := n.Up && !n.Dark
		if err != nil || limits.NoMinRate && r.Min != 0 || limits.Speed > 0 && (!linked || r.Max > limits.Speed) {
			return syscall.EINVAL
		}
		k.Rate = r.String()
	}
	return 0
}

// keptFor is what the PF of a VF keeps for it, to be changed; false where there
// is no such PF, or it is down and its driver answers no VF.
func (m *machine) keptFor(vf string) (*kept, bool) {
	pf := m.find(m.devices[vf].PF)
	if pf == nil || pf.Driver == "" {
		return nil, false
	}
	at := slices.Index(m.vfs(pf.Address), vf)
	n := m.netdevOf(pf.Address)
	if n == nil || !n.Up || at < 0 || at >= len(pf.Kept) {
		return nil, false
	}
	pf.Kept = slices.Clone(pf.Kept)
	return &pf.Kept[at], true
}

// askMAC is what igbvf does when it is probed: it asks its PF for a MAC, and
// tells it the one that it has made up when there is none. A PF that is down
// does not answer.
func (m *machine) askMAC(f *function, dev *netdev) {
	kept, up := m.keptFor(f.Address)
	switch {
	case !up || !dev.Random:
	case kept.ByPF:
		dev.MAC, dev.PermMAC, dev.Random = kept.MAC, kept.MAC, false
	default:
		kept.MAC = dev.MAC
	}
}

// keptText is what is kept for VFs and is not as at first, for the machine's
// text.
func (f *function) keptText() string {
	var words strings.Builder
	for i, fresh := range freshVFs(len(f.Kept)) {
		k := f.Kept[i]
		for _, w := range []struct{ name, is, was string }{
			{"mac", k.MAC, fresh.MAC},
			{"vlan", k.VLAN, fresh.VLAN},
			{"trust", k.Trust, fresh.Trust},
			{"spoofchk", k.SpoofCheck, fresh.SpoofCheck},
			{"state", k.LinkState, fresh.LinkState},
			{"rate", k.Rate, fresh.Rate},
		} {
			if w.is != w.was {
				fmt.Fprintf(&words, " vf%d.%s=%q", i, w.name, w.is)
			}
		}
	}
	return words.String()
}
