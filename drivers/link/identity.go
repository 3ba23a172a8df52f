package link

import (
	"context"
	"fmt"
	"net"
	"strings"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// What a netdev is known by. The kernel chooses both when it makes a netdev
// again: the first ethN that is free, and for a virtual function that was given
// none a MAC address at random. Nobody asks for either; they are put back to
// what they were.
const (
	// KindName is the name of a netdev, "name=eth0".
	KindName drivers.Kind = "name"
	// KindMAC is the MAC address that a netdev uses, "52:54:00:00:00:01".
	KindMAC drivers.Kind = "mac"
)

// NameSpec is the kind name on any machine.
func NameSpec() drivers.Spec {
	return drivers.Spec{
		Kind: KindName, Class: drivers.Volatile, Netdev: true, Fresh: drivers.Default, WhenAsked: true, Restored: true,
		After: []drivers.Kind{"driver"}, Legal: legalName,
	}
}

// MACSpec is the kind mac on any machine. A driver may refuse to change the
// address while the link is up, so it comes before KindAdmin.
func MACSpec() drivers.Spec {
	return drivers.Spec{
		Kind: KindMAC, Class: drivers.Volatile, Netdev: true, Fresh: drivers.Default, WhenAsked: true, Restored: true,
		Cuts:  func(from, to drivers.State) bool { return from != drivers.Hidden && from != to },
		After: []drivers.Kind{"driver"}, Legal: legalMAC,
	}
}

// Name is the State of a netdev's name. The words before it keep a name such as
// "hidden" from being another state.
func Name(name string) drivers.State { return drivers.State("name=" + name) }

func parseName(s drivers.State) (string, error) {
	name, ok := strings.CutPrefix(string(s), "name=")
	if !ok || !host.LinkName(name) {
		return "", fmt.Errorf("%q is not the name of a network device: want 1 to 15 bytes without '/', ':', '%%' and white space: %w", s, drivers.ErrIllegal)
	}
	return name, nil
}

func legalName(t drivers.Target, to drivers.State) error {
	if _, err := parseName(to); err != nil {
		return err
	}
	return isPCI(t, KindName)
}

func legalMAC(t drivers.Target, to drivers.State) error {
	if !host.UnicastMAC(string(to)) {
		return fmt.Errorf("%q is not a unicast MAC address in lower case: %w", to, drivers.ErrIllegal)
	}
	return isPCI(t, KindMAC)
}

// NewName is the kind name on this machine.
func NewName(h host.Host) drivers.Driver {
	return ifName{netdev{
		host: h, kind: KindName, legal: legalName,
		read: func(_ context.Context, _ host.Reader, dev host.Netdev) (drivers.State, error) {
			return Name(dev.Name), nil
		},
		call: func(c host.Call, _, to drivers.State) (host.Call, error) {
			name, err := parseName(to)
			c.Op, c.Value = host.OpName, name
			return c, err
		},
	}}
}

type ifName struct{ netdev }

// Precheck wants the name to be free: ErrNotReady while another netdev has it.
func (n ifName) Precheck(ctx context.Context, t drivers.Target, _, to drivers.State) error {
	name, err := parseName(to)
	if err != nil {
		return err
	}
	links, err := n.host.Links(ctx)
	if err != nil {
		return fmt.Errorf("read the names there are: %w", err)
	}
	own, err := host.NetdevOf(ctx, n.host, string(t))
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Index != own.Index && l.Called(name) {
			return n.refuse(t, to, drivers.ErrNotReady, "rename that one: ip link set dev "+l.Name+" name NAME",
				"network device %d has the name %s now", l.Index, name)
		}
	}
	return nil
}

// NewMAC is the kind mac on this machine.
func NewMAC(h host.Host) drivers.Driver {
	return netdev{
		host: h, kind: KindMAC, legal: legalMAC,
		read: attribute("address", func(text string) (drivers.State, error) {
			mac, err := net.ParseMAC(text)
			return drivers.State(strings.ToLower(mac.String())), err
		}),
		call: func(c host.Call, _, to drivers.State) (host.Call, error) {
			c.Op, c.Value = host.OpMAC, string(to)
			return c, nil
		},
	}
}
