package source

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"eniagent/drivers"
)

// Selector picks one PCI function. Exactly one field is set.
type Selector struct {
	PCI  drivers.Target `json:"pci,omitempty"`  // canonical address
	MAC  string         `json:"mac,omitempty"`  // lower case, colons; matched with the permanent MAC first
	Name string         `json:"name,omitempty"` // netdev name or alternative name
}

// String is the selector as a person writes it: "pci 0000:3b:00.1".
func (s Selector) String() string {
	switch {
	case s.PCI != "":
		return "pci " + string(s.PCI)
	case s.MAC != "":
		return "mac " + s.MAC
	default:
		return "name " + s.Name
	}
}

// Disposition is whether an interface is configured or given back.
type Disposition string

// The dispositions.
const (
	Configured Disposition = "configured"
	Released   Disposition = "released" // its baseline is restored, then it is left alone
)

// Interface is what is asked of one function. A nil or empty field asks for
// nothing: the attribute is left as it is.
type Interface struct {
	Selector Selector `json:"selector"`
	// Object names what asks it, in a source that is made of objects; "" in one
	// that is read as a whole.
	Object string      `json:"object,omitempty"`
	State  Disposition `json:"state"`
	Up     *bool       `json:"up,omitempty"`
	MTU    int         `json:"mtu,omitempty"` // bytes; 0 asks for nothing
	// AltNames are names that the interface shall have too. Those that others gave
	// it stay.
	AltNames []string        `json:"alt_names,omitempty"`
	Channels *Channels       `json:"channels,omitempty"`
	Rings    *Rings          `json:"rings,omitempty"`
	Features map[string]bool `json:"features,omitempty"` // by the kernel's names, "tx-tcp-segmentation"
	Driver   string          `json:"driver,omitempty"`   // the driver's name as in /sys/bus/pci/drivers
	VFs      *VFs            `json:"vfs,omitempty"`      // nil leaves their number as it is
	Pool     string          `json:"pool,omitempty"`     // of the device plugin, "intel.com/sriov"
	// Port is what is asked of the physical function for this one. No source says
	// it so: it comes from the VFs of that function's entry.
	Port *Port `json:"port,omitempty"`
	// AllowManagementPath is the reason for touching the function although it is
	// on the node's management path; "" forbids it.
	AllowManagementPath string `json:"allow_management_path,omitempty"`
	// OnStop is what a stop of the agent does with the function: Retain or Release;
	// "" is what its flag says.
	OnStop string `json:"on_stop,omitempty"`
}

// What a stop of the agent does with a function.
const (
	Retain  = "retain"  // it stays as it is
	Release = "release" // it is given back until the next start
)

// Asks is what is asked of the function while the agent runs: another one is an
// entry that reads anew.
func (i Interface) Asks() Interface {
	i.OnStop = ""
	return i
}

// VFs is what is asked of the virtual functions of a physical one. When they
// are made, one of which nothing is asked gets the driver that the kernel has
// for it.
type VFs struct {
	Count     int        `json:"count"` // 0 asks for none
	Defaults  VF         `json:"defaults"`
	Overrides []Override `json:"overrides,omitempty"` // by ascending index, each once
	// ReplaceVFs is the reason for making anew, with another count, VFs that
	// somebody else has configured; "" forbids it.
	ReplaceVFs string `json:"replace_vfs,omitempty"`
}

// VF is what is asked of one virtual function; a nil or empty field asks for
// nothing.
type VF struct {
	Up     *bool  `json:"up,omitempty"`
	MTU    int    `json:"mtu,omitempty"` // bytes
	Driver string `json:"driver,omitempty"`
	Pool   string `json:"pool,omitempty"` // NoPool, in an override, is none
	Port
}

// Port is what is asked of the physical function for a virtual one, whatever
// that is bound to.
type Port struct {
	MAC        string `json:"mac,omitempty"` // lower case, colons; of one VF only
	VLAN       *VLAN  `json:"vlan,omitempty"`
	Trust      *bool  `json:"trust,omitempty"`
	SpoofCheck *bool  `json:"spoof_check,omitempty"`
	LinkState  string `json:"link_state,omitempty"`  // "auto", "enable", "disable"
	MinTxRate  *int   `json:"min_tx_rate,omitempty"` // Mbit/s; 0 is none
	MaxTxRate  *int   `json:"max_tx_rate,omitempty"` // Mbit/s; 0 is none
}

// VLAN is the VLAN asked for, each field of which may be nil or empty: as it is.
type VLAN struct {
	ID       *int   `json:"id,omitempty"` // 0 is none
	QoS      *int   `json:"qos,omitempty"`
	Protocol string `json:"protocol,omitempty"` // "802.1Q" or "802.1ad"
}

// over is p in the place of another, field by field.
func (p Port) over(o Port) Port {
	p.MAC, p.LinkState = cmp.Or(p.MAC, o.MAC), cmp.Or(p.LinkState, o.LinkState)
	p.Trust, p.SpoofCheck = cmp.Or(p.Trust, o.Trust), cmp.Or(p.SpoofCheck, o.SpoofCheck)
	p.MinTxRate, p.MaxTxRate = cmp.Or(p.MinTxRate, o.MinTxRate), cmp.Or(p.MaxTxRate, o.MaxTxRate)
	if p.VLAN == nil || o.VLAN == nil {
		p.VLAN = cmp.Or(p.VLAN, o.VLAN)
		return p
	}
	p.VLAN = &VLAN{
		ID: cmp.Or(p.VLAN.ID, o.VLAN.ID), QoS: cmp.Or(p.VLAN.QoS, o.VLAN.QoS), Protocol: cmp.Or(p.VLAN.Protocol, o.VLAN.Protocol),
	}
	return p
}

// NoPool is what an override says of a VF that is not in the pool of the others.
const NoPool = "none"

// Override is what is asked of the VF with an index, in the place of the
// defaults, field by field.
type Override struct {
	Index int `json:"index"`
	VF
}

// Of is what is asked of the VF with an index.
func (v VFs) Of(index int) VF {
	vf := v.Defaults
	for _, o := range v.Overrides {
		if o.Index != index {
			continue
		}
		if o.Driver != "" {
			vf.Driver = o.Driver
		}
		if o.Up != nil {
			vf.Up = o.Up
		}
		if o.MTU != 0 {
			vf.MTU = o.MTU
		}
		if o.Pool != "" {
			vf.Pool = o.Pool
		}
		if drivers.Bare(o.Driver) {
			vf.Up, vf.MTU = nil, 0 // no netdev for the defaults to be of
		}
		vf.Port = o.over(vf.Port)
	}
	if vf.Pool == NoPool {
		vf.Pool = ""
	}
	return vf
}

// Channels are the queues asked for, each of which may be nil: as it is.
type Channels struct {
	RX       *int `json:"rx,omitempty"`
	TX       *int `json:"tx,omitempty"`
	Combined *int `json:"combined,omitempty"`
}

// Rings are the sizes asked for in descriptors, each of which may be nil: as it is.
type Rings struct {
	RX    *int `json:"rx,omitempty"`
	Mini  *int `json:"mini,omitempty"`
	Jumbo *int `json:"jumbo,omitempty"`
	TX    *int `json:"tx,omitempty"`
}

// Desired is everything one source asks. What a file asks is valid as a whole;
// of objects, those that are not are refused and the others hold.
type Desired struct {
	Source     string      `json:"source"`     // "file"
	Object     string      `json:"object"`     // its path
	Generation string      `json:"generation"` // digest of what was read
	Interfaces []Interface `json:"interfaces"` // in the order of the source
	// Complete says that nothing was left out: what this source asked before, also
	// before the agent's last start, and neither names nor refuses now, is to be
	// given back. Only who was told all there is, and that it is all, may say so.
	Complete bool `json:"complete,omitempty"`
	// Refused are the objects of which nothing is taken. What they asked before
	// stays in force.
	Refused []Refusal `json:"refused,omitempty"`
}

// Refusal is an object of a source that cannot be used, and why.
type Refusal struct {
	Object string `json:"object"` // as in Interface, or the part before a '/', for all that begin with it
	Reason string `json:"reason"` // field, value, what to write instead
}

// Covers says whether the refusal is about what an object asked.
func (r Refusal) Covers(object string) bool {
	return object == r.Object || strings.HasPrefix(object, r.Object+"/")
}

// Refuses says whether a refusal is about what an object asked.
func (d Desired) Refuses(object string) bool {
	return slices.ContainsFunc(d.Refused, func(r Refusal) bool { return r.Covers(object) })
}

// Update is one message of a source: a new Desired, or why there is none.
type Update struct {
	Desired *Desired
	Err     error // the last good desired state stays in force
}

// Source sends an Update at its start and whenever what it reads may have
// changed, latest wins: a reader that is slow finds only the newest.
type Source interface {
	Updates(ctx context.Context) (<-chan Update, error)
}

// Problem is one thing wrong with a source, placed so that an editor can jump
// to it.
type Problem struct {
	Line   int    // 1-based; 0 when it has none
	Path   string // "interfaces[2].mtu"
	Value  string // what was found
	Reason string // what is wrong and what to write instead
}

// Error is "line 7: interfaces[2].mtu: 70000: want 68 to 65535 bytes".
func (p *Problem) Error() string {
	s := ""
	if p.Line > 0 {
		s = fmt.Sprintf("line %d: ", p.Line)
	}
	if p.Path != "" {
		s += p.Path + ": "
	}
	if p.Value != "" {
		s += p.Value + ": "
	}
	return s + p.Reason
}
