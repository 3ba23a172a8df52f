package host_test

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"eniagent/drivers/host"
)

// words are numbers as the kernel has them in an attribute.
func words(numbers ...uint32) []byte {
	var b []byte
	for _, n := range numbers {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	return b
}

// vfMessage is an RTM_NEWLINK about VFs, each a list of attributes.
func vfMessage(vfs ...[]*nl.RtAttr) []byte {
	list := nl.NewRtAttr(unix.IFLA_VFINFO_LIST, nil)
	for _, attrs := range vfs {
		info := list.AddRtAttr(nl.IFLA_VF_INFO, nil)
		for _, a := range attrs {
			info.AddChild(a)
		}
	}
	other := nl.NewRtAttr(unix.IFLA_MTU, words(1500))
	return slices.Concat(make([]byte, unix.SizeofIfInfomsg), other.Serialize(), list.Serialize())
}

func vfAttr(kind int, value []byte) *nl.RtAttr { return nl.NewRtAttr(kind, value) }

func mac(vf uint32, last byte) *nl.RtAttr {
	return vfAttr(nl.IFLA_VF_MAC, slices.Concat(words(vf), []byte{0x52, 0x54, 0, 0, 1, last}, make([]byte, 26)))
}

func vlanList(vf uint32, protocol uint16) *nl.RtAttr {
	list := nl.NewRtAttr(nl.IFLA_VF_VLAN_LIST, nil)
	list.AddRtAttr(nl.IFLA_VF_VLAN_INFO, append(binary.BigEndian.AppendUint16(words(vf, 100, 3), protocol), 0, 0))
	return list
}

// TestVFsInAMessage: each by its own index, and what a driver does not tell is
// not taken for off.
func TestVFsInAMessage(t *testing.T) {
	const untold = 0xffffffff
	got, told, err := host.ParseVFs(vfMessage(
		[]*nl.RtAttr{
			mac(0, 7), vfAttr(nl.IFLA_VF_VLAN, words(0, 100, 3)), vfAttr(nl.IFLA_VF_RATE, words(0, 10, 200)), vfAttr(nl.IFLA_VF_TX_RATE, words(0, 200)),
			vfAttr(nl.IFLA_VF_SPOOFCHK, words(0, 1)), vfAttr(nl.IFLA_VF_LINK_STATE, words(0, 2)), vfAttr(nl.IFLA_VF_TRUST, words(0, 0)), vlanList(0, unix.ETH_P_8021AD),
		},
		[]*nl.RtAttr{
			mac(2, 8), vfAttr(nl.IFLA_VF_VLAN, words(2, 0, 0)), vfAttr(nl.IFLA_VF_SPOOFCHK, words(2, untold)),
			vfAttr(nl.IFLA_VF_LINK_STATE, words(2, 9)), vfAttr(nl.IFLA_VF_TRUST, words(2, untold)), vlanList(2, 0),
		},
		[]*nl.RtAttr{mac(3, 9), vfAttr(nl.IFLA_VF_VLAN, words(3, 100, 0)), vlanList(3, 0x9100)},
	))
	want := []host.VF{
		{Index: 0, MAC: "52:54:00:00:01:07", VLAN: "id=100 qos=3 protocol=802.1ad", Trust: "off", SpoofCheck: "on", LinkState: "disable", Rate: "min=10 max=200"},
		{Index: 2, MAC: "52:54:00:00:01:08", VLAN: "id=0 qos=0 protocol=802.1Q"},
		{Index: 3, MAC: "52:54:00:00:01:09", VLAN: "id=100 qos=0 protocol=0x9100"},
	}
	if err != nil || !told || !slices.Equal(got, want) {
		t.Errorf("%+v, told %t, %v\nwant %+v", got, told, err, want)
	}
	if got, told, err := host.ParseVFs(vfMessage()); len(got) != 0 || !told || err != nil {
		t.Errorf("of a PF without VFs %v, told %t, %v", got, told, err)
	}
	if _, told, err := host.ParseVFs(make([]byte, unix.SizeofIfInfomsg)); told || err != nil {
		t.Errorf("of a link without a list: told %t, %v", told, err)
	}
}

// TestHalfAMessage: whatever is cut off, nothing is read past the end.
func TestHalfAMessage(t *testing.T) {
	whole := vfMessage([]*nl.RtAttr{mac(0, 7), vfAttr(nl.IFLA_VF_VLAN, words(0, 100, 3)), vlanList(0, unix.ETH_P_8021AD), vfAttr(nl.IFLA_VF_RATE, words(0))})
	for n := range whole {
		if vfs, _, err := host.ParseVFs(whole[:n]); err == nil && len(vfs) > 0 && vfs[0].Index != 0 {
			t.Errorf("of %d bytes: %+v", n, vfs)
		}
	}
	for n := range 40 {
		for kind := range nl.IFLA_VF_MAX + 2 {
			_, _, _ = host.ParseVFs(vfMessage([]*nl.RtAttr{vfAttr(kind, make([]byte, n))}))
		}
	}
}

// TestVFOfNoValueIsNotAsked: what is no value is refused before the kernel is.
func TestVFOfNoValueIsNotAsked(t *testing.T) {
	for _, op := range host.VFOps() {
		err := host.Linux{Root: "/"}.Do(context.Background(), host.Call{Op: op, Index: 1, Value: "junk"})
		if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "junk") {
			t.Errorf("%s: %v, want EINVAL that names it", op, err)
		}
		if host.VFValue("mtu", "1500") == nil {
			t.Error("an MTU is an attribute of a VF")
		}
	}
}
