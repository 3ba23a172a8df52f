package link

import (
	"fmt"
	"strconv"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// KindAdmin is the administrative state of a netdev.
const KindAdmin drivers.Kind = "admin"

// The states of KindAdmin.
const (
	Up   drivers.State = "up"
	Down drivers.State = "down"
)

const iffUp = 1 // linux/if.h

// AdminSpec is the kind admin on any machine. It comes after mtu, channels
// and rings, because many drivers reset a link that is up to change them.
func AdminSpec() drivers.Spec {
	return drivers.Spec{
		Kind: KindAdmin, Class: drivers.Volatile, Netdev: true, Fresh: Down,
		Cuts:  func(_, to drivers.State) bool { return to == Down },
		After: []drivers.Kind{"driver", KindName, KindMAC, KindMTU, KindChannels, KindRings, KindFeatures}, Legal: legalAdmin,
	}
}

func legalAdmin(t drivers.Target, to drivers.State) error {
	if _, ok := t.PCIAddress(); !ok || to != Up && to != Down {
		return fmt.Errorf("%s=%q of admin: %w", t, to, drivers.ErrIllegal)
	}
	return nil
}

// NewAdmin is the kind admin on this machine.
func NewAdmin(h host.Host) drivers.Driver {
	return netdev{
		host: h, kind: KindAdmin, legal: legalAdmin,
		read: attribute("flags", func(text string) (drivers.State, error) {
			flags, err := strconv.ParseUint(text, 0, 32)
			if err != nil {
				return "", err
			}
			if flags&iffUp != 0 {
				return Up, nil
			}
			return Down, nil
		}),
		call: func(c host.Call, _, to drivers.State) (host.Call, error) {
			c.Op = host.OpAdmin
			if to == Up {
				c.Number = 1
			}
			return c, nil
		},
	}
}
