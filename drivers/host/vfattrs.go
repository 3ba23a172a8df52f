package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// VF is what a physical function keeps for one of its virtual functions, in the
// words of ip link. What its driver does not tell is "".
type VF struct {
	Index      int    `json:"index"`
	MAC        string `json:"mac,omitempty"`         // NoMAC when nobody has set one
	VLAN       string `json:"vlan,omitempty"`        // as VLAN prints it
	Trust      string `json:"trust,omitempty"`       // "on" or "off"
	SpoofCheck string `json:"spoof_check,omitempty"` // "on" or "off"
	LinkState  string `json:"link_state,omitempty"`  // "auto", "enable" or "disable"
	Rate       string `json:"rate,omitempty"`        // as Rate prints it
}

// NoMAC is the MAC of a VF that chooses one itself.
const NoMAC = "00:00:00:00:00:00"

// LinkStates are those that a VF can be given, by their numbers in
// linux/if_link.h.
func LinkStates() []string { return []string{"auto", "enable", "disable"} }

// The protocols of a VF's VLAN.
const (
	Dot1Q  = "802.1Q"
	Dot1ad = "802.1ad"
)

// VLAN is the VLAN that a VF's packets are put into; its zero value is none.
type VLAN struct {
	ID       int
	QoS      int
	Protocol string // "" is Dot1Q
}

// String is "id=100 qos=0 protocol=802.1Q", which ParseVLAN reads back. Where
// there is no VLAN its protocol means nothing, and drivers tell different ones.
func (v VLAN) String() string {
	protocol := v.Protocol
	if protocol == "" || v.ID == 0 && v.QoS == 0 {
		protocol = Dot1Q
	}
	return numbersText(vlanWords(), v.ID, v.QoS) + " protocol=" + protocol
}

func vlanWords() []string { return []string{"id", "qos"} }

// maxVLAN is the last id that is one (IEEE 802.1Q), maxQoS the highest priority.
const (
	maxVLAN = 4094
	maxQoS  = 7
)

// ParseVLAN reads what String wrote.
func ParseVLAN(s string) (VLAN, error) {
	numbers, protocol, _ := strings.Cut(s, " protocol=")
	n, err := parseNumbers(vlanWords(), numbers)
	if err != nil {
		return VLAN{}, fmt.Errorf("VLAN: %w", err)
	}
	v := VLAN{ID: n[0], QoS: n[1], Protocol: protocol}
	if v.ID > maxVLAN || v.QoS > maxQoS || protocol != Dot1Q && protocol != Dot1ad || v.String() != s {
		return VLAN{}, fmt.Errorf("VLAN: %q: want id=0 to %d, qos=0 to %d, protocol=%s or %s", s, maxVLAN, maxQoS, Dot1Q, Dot1ad)
	}
	return v, nil
}

// Rate bounds what a VF sends, in Mbit/s; 0 is no bound.
type Rate struct {
	Min int
	Max int
}

// String is "min=0 max=1000", which ParseRate reads back.
func (r Rate) String() string { return numbersText(rateWords(), r.Min, r.Max) }

func rateWords() []string { return []string{"min", "max"} }

// ParseRate reads what String wrote.
func ParseRate(s string) (Rate, error) {
	n, err := parseNumbers(rateWords(), s)
	if err != nil {
		return Rate{}, fmt.Errorf("rate: %w", err)
	}
	if n[1] != 0 && n[0] > n[1] {
		return Rate{}, fmt.Errorf("rate: %q: the minimum is above the maximum", s)
	}
	return Rate{Min: n[0], Max: n[1]}, nil
}

// VFOps are the operations that set what a physical function keeps for a VF.
func VFOps() []Op { return []Op{OpVFMAC, OpVFVLAN, OpVFTrust, OpVFSpoofCheck, OpVFState, OpVFRate} }

// VFValue says whether an attribute of a VF can have a value.
func VFValue(op Op, value string) (err error) {
	switch op {
	case OpVFMAC:
		mac, perr := net.ParseMAC(value)
		if perr != nil || len(mac) != 6 || mac.String() != value || mac[0]&1 != 0 {
			err = fmt.Errorf("%q: want the MAC of one interface in lower case, or %s", value, NoMAC)
		}
	case OpVFVLAN:
		_, err = ParseVLAN(value)
	case OpVFTrust, OpVFSpoofCheck:
		if value != onOff(true) && value != onOff(false) {
			err = fmt.Errorf("%q: want on or off", value)
		}
	case OpVFState:
		if !slices.Contains(LinkStates(), value) {
			err = fmt.Errorf("%q: want one of %v", value, LinkStates())
		}
	case OpVFRate:
		_, err = ParseRate(value)
	default:
		err = fmt.Errorf("%q is no attribute of a VF", op)
	}
	return err
}

func allowedVF(c Call) error {
	if _, ok := c.Target.PCIAddress(); !ok || c.Index <= 0 || c.Number < 0 || c.Number >= maxVFs {
		return errors.New("want a PCI target, the ifindex of its physical function and the index of a VF")
	}
	return VFValue(c.Op, c.Value)
}

// vfText is the call as ip link has it.
func vfText(c Call) string {
	value := c.Value
	switch c.Op {
	case OpVFVLAN:
		if v, err := ParseVLAN(value); err == nil {
			value = fmt.Sprintf("%d qos %d proto %s", v.ID, v.QoS, v.Protocol)
		}
	case OpVFRate:
		if r, err := ParseRate(value); err == nil {
			return fmt.Sprintf("ip link set index %d vf %d min_tx_rate %d max_tx_rate %d", c.Index, c.Number, r.Min, r.Max)
		}
	}
	return fmt.Sprintf("ip link set index %d vf %d %s %s", c.Index, c.Number, strings.TrimPrefix(string(c.Op), "vf."), value)
}

// setVF makes one write.
func setVF(c Call) error {
	pf := byIndex(c.Index)
	if c.Op == OpVFMAC {
		mac, err := net.ParseMAC(c.Value)
		if err != nil {
			return fmt.Errorf("%w: %w", unix.EINVAL, err)
		}
		return netlink.LinkSetVfHardwareAddr(pf, c.Number, mac)
	}
	if err := VFValue(c.Op, c.Value); err != nil {
		return fmt.Errorf("%w: %w", unix.EINVAL, err)
	}
	switch c.Op {
	case OpVFVLAN:
		v, _ := ParseVLAN(c.Value)
		return netlink.LinkSetVfVlanQosProto(pf, c.Number, v.ID, v.QoS, map[string]int{Dot1Q: unix.ETH_P_8021Q, Dot1ad: unix.ETH_P_8021AD}[v.Protocol])
	case OpVFTrust:
		return netlink.LinkSetVfTrust(pf, c.Number, c.Value == onOff(true))
	case OpVFSpoofCheck:
		return netlink.LinkSetVfSpoofchk(pf, c.Number, c.Value == onOff(true))
	case OpVFState:
		return netlink.LinkSetVfState(pf, c.Number, uint32(slices.Index(LinkStates(), c.Value)))
	default:
		r, _ := ParseRate(c.Value)
		return netlink.LinkSetVfRate(pf, c.Number, r.Min, r.Max)
	}
}

// skipStats leaves out the counters of VFs (RTEXT_FILTER_SKIP_STATS of
// linux/rtnetlink.h): with them a list of many does not fit into a message.
const skipStats = 1 << 3

// readVFs asks for one link with its VFs. EOPNOTSUPP is that its driver tells
// nothing of any. It does not use netlink.LinkByIndex, which takes the place in
// the list for the index of a VF (the kernel leaves out one that its driver
// says nothing of) and what is not told for false.
func readVFs(index int) ([]VF, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(nl.RTEXT_FILTER_VF|skipStats)))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil, fmt.Errorf("VFs of netdev %d: %w", index, err)
	}
	for _, m := range messages {
		if vfs, told, err := parseVFs(m); told || err != nil {
			return vfs, err
		}
	}
	return nil, fmt.Errorf("VFs of netdev %d: %w", index, unix.EOPNOTSUPP)
}

// parseVFs finds the VFs in a message about a link; told says whether it has a
// list of them.
func parseVFs(message []byte) (vfs []VF, told bool, err error) {
	if len(message) < unix.SizeofIfInfomsg {
		return nil, false, fmt.Errorf("decode link: %d bytes", len(message))
	}
	attrs, err := nl.ParseRouteAttr(message[unix.SizeofIfInfomsg:])
	if err != nil {
		return nil, false, fmt.Errorf("decode link: %w", err)
	}
	for _, a := range attrs {
		if a.Attr.Type&nl.NLA_TYPE_MASK != unix.IFLA_VFINFO_LIST {
			continue
		}
		told = true
		list, err := nl.ParseRouteAttr(a.Value)
		if err != nil {
			return nil, told, fmt.Errorf("decode VFs: %w", err)
		}
		for _, info := range list {
			vf, err := parseVF(info.Value)
			if err != nil {
				return nil, told, fmt.Errorf("decode VFs: %w", err)
			}
			if vf.Index >= 0 {
				vfs = append(vfs, vf)
			}
		}
	}
	return vfs, told, nil
}

// parseVF reads what is told of one VF; its index is -1 when nothing is.
func parseVF(info []byte) (VF, error) {
	attrs, err := nl.ParseRouteAttr(info)
	if err != nil {
		return VF{}, err
	}
	vf, vlan, hasVLAN := VF{Index: -1}, VLAN{}, false
	for _, a := range attrs {
		hasVLAN = vf.read(a.Attr.Type&nl.NLA_TYPE_MASK, a.Value, &vlan) || hasVLAN
	}
	if hasVLAN {
		vf.VLAN = vlan.String()
	}
	return vf, nil
}

// read takes in one attribute, which begins with the index of its VF (struct
// ifla_vf_mac and those after it in linux/if_link.h). It says whether that was
// one of the VLAN.
func (v *VF) read(kind uint16, value []byte, vlan *VLAN) (isVLAN bool) {
	word := func(i int) (uint32, bool) {
		if len(value) < 4*(i+1) {
			return 0, false
		}
		return nl.NativeEndian().Uint32(value[4*i:]), true
	}
	first, ok := word(1)
	if !ok {
		return false
	}
	second, _ := word(2)
	if kind != nl.IFLA_VF_VLAN_LIST {
		index, _ := word(0)
		v.Index = int(index)
	}
	switch kind {
	case nl.IFLA_VF_MAC:
		if len(value) >= 10 {
			v.MAC = net.HardwareAddr(value[4:10]).String()
		}
	case nl.IFLA_VF_VLAN:
		vlan.ID, vlan.QoS = int(first), int(second)
		return true
	case nl.IFLA_VF_VLAN_LIST:
		vlan.Protocol = vlanProtocol(value)
	case nl.IFLA_VF_SPOOFCHK:
		v.SpoofCheck = told(first)
	case nl.IFLA_VF_TRUST:
		v.Trust = told(first)
	case nl.IFLA_VF_LINK_STATE:
		if int(first) < len(LinkStates()) {
			v.LinkState = LinkStates()[first]
		}
	case nl.IFLA_VF_RATE:
		v.Rate = Rate{Min: int(first), Max: int(second)}.String()
	}
	return false
}

// told is a switch, which the kernel presets to -1 before it asks the driver
// (rtnl_fill_vfinfo).
func told(setting uint32) string {
	if setting > 1 {
		return ""
	}
	return onOff(setting == 1)
}

// vlanProtocol is that of the first VLAN of a list; a number where it is neither
// of those that are known.
func vlanProtocol(list []byte) string {
	attrs, err := nl.ParseRouteAttr(list)
	if err != nil || len(attrs) == 0 || len(attrs[0].Value) < nl.SizeofVfVlanInfo-2 {
		return ""
	}
	switch protocol := binary.BigEndian.Uint16(attrs[0].Value[nl.SizeofVfVlan:]); protocol {
	case unix.ETH_P_8021Q, 0:
		return Dot1Q
	case unix.ETH_P_8021AD:
		return Dot1ad
	default:
		return "0x" + strconv.FormatUint(uint64(protocol), 16)
	}
}
