package sim

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

// Ailment is what is wrong with a function without anybody having written
// anything. Counters are as they read, not what is added to them.
type Ailment struct {
	Dead     bool `json:"dead,omitempty"`      // its config space reads as all ones
	Fatal    int  `json:"fatal,omitempty"`     // of its AER counters
	NonFatal int  `json:"non_fatal,omitempty"` // of its AER counters
	NoNode   bool `json:"no_node,omitempty"`   // its vfio group, or its uio device, has no node in /dev
	Speed    int  `json:"speed,omitempty"`     // of its link, Mb/s; 0 is 1000, -1 unknown
	RxErrors int  `json:"rx_errors,omitempty"`
	TxErrors int  `json:"tx_errors,omitempty"`
}

// Ail makes a function ail, or well with the zero Ailment.
func (f *front) Ail(addr string, a Ailment) error {
	return f.store.update(func(m *machine) error {
		fn := m.find(addr)
		if fn == nil {
			return fmt.Errorf("ail %s: %w", addr, syscall.ENODEV)
		}
		if fn.Ail = nil; a != (Ailment{}) {
			fn.Ail = &a
		}
		m.dirty = true
		return nil
	})
}

// ailment is that of a function; the zero one when it is well, or nil.
func (f *function) ailment() Ailment {
	if f == nil || f.Ail == nil {
		return Ailment{}
	}
	return *f.Ail
}

// healthNode is an attribute that tells how a function is.
func (m *machine) healthNode(f *function, d *Device, name string) (node, bool) {
	a := f.ailment()
	switch name {
	case "config":
		// Of a VF the two are ffff, alive or not: SR-IOV specification 3.4.1.1.
		if a.Dead || m.find(d.PF) != nil {
			return textNode("ffffffff")
		}
		return textNode(littleEndian(d.Vendor) + littleEndian(d.Device))
	case "aer_dev_fatal":
		return textNode(fmt.Sprintf("Undefined 0\nDLP %d\nTOTAL_ERR_FATAL %d", a.Fatal, a.Fatal))
	case "aer_dev_nonfatal":
		return textNode(fmt.Sprintf("Undefined 0\nCmpltTO %d\nTOTAL_ERR_NONFATAL %d", a.NonFatal, a.NonFatal))
	}
	return node{}, false
}

// littleEndian is an id as config space has it, "8680" for "0x8086".
func littleEndian(id string) string {
	id = strings.TrimPrefix(id, "0x")
	id = strings.Repeat("0", max(0, 4-len(id))) + id
	return id[2:] + id[:2]
}

// speedNode is as __ethtool_get_link_ksettings has it: nothing while down, and
// unknown without a carrier.
func (m *machine) speedNode(n *netdev) node {
	a := m.find(n.Bus).ailment()
	switch {
	case !n.Up:
		return node{errno: syscall.EINVAL}
	case n.Dark:
		return node{text: "-1"}
	case a.Speed != 0:
		return node{text: strconv.Itoa(a.Speed)}
	}
	return node{text: "1000"}
}

// statisticsNode has the error counters of a netdev.
func (m *machine) statisticsNode(n *netdev) node {
	a := m.find(n.Bus).ailment()
	return filesNode([]string{"rx_errors", "tx_errors"}, func(name string) (string, bool) {
		count, ok := map[string]int{"rx_errors": a.RxErrors, "tx_errors": a.TxErrors}[name]
		return strconv.Itoa(count), ok
	})
}
