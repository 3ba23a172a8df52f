package agent

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	words "eniagent/agent/source/entry"
	"eniagent/agent/source/file"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

func ofMAC(mac string) source.Interface {
	return source.Interface{Selector: source.Selector{MAC: mac}, State: source.Configured, MTU: 9000}
}

// TestWhatNeverMatchedGoesWithItsEntry: nothing was done for it, whatever it asked
// for; what matched once is kept, also by an agent that starts then.
func TestWhatNeverMatchedGoesWithItsEntry(t *testing.T) {
	released := ofMAC("02:00:00:00:00:02")
	released.State, released.MTU = source.Released, 0
	absent := pci("0000:7f:00.0", "vfio-pci")
	for _, restarted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, sim.DefaultNode())
			n.start(nil)
			defer func() { n.halt() }()
			port := source.Interface{Selector: source.Selector{Name: "enp3s0"}, State: source.Configured, MTU: 4000}
			n.want(pci(portA, ""), port, ofMAC("02:00:00:00:00:01"), released, absent)
			settled(5 * time.Second)
			n.expect("pci 0000:02:00.0=right, name enp3s0=right, mac 02:00:00:00:00:01=waiting, mac 02:00:00:00:00:02=waiting, pci 0000:7f:00.0=waiting")
			if restarted {
				n.halt()
				n.start(nil)
			}
			n.want(pci(portA, ""))
			settled(5 * time.Second)
			n.expect("pci 0000:02:00.0=right, name enp3s0=right")
			if e := entriesOf(n); len(e) != 2 || !e[1].Kept {
				t.Errorf("the journal keeps %+v", e)
			}
		})
	}
}

func entriesOf(n *node) []entry {
	doc, err := documentIn(InForce(n.journal, "file"))
	if err != nil {
		n.t.Fatal(err)
	}
	return doc.Entries
}

// TestValidateAndRunShareOneLimit: what a file may have is what the journal takes,
// with room for entries that are kept; and a document that is too large, from
// whatever source, leaves the last good one, and the next that fits is taken at
// once.
func TestValidateAndRunShareOneLimit(t *testing.T) {
	many := func(n int) []source.Interface {
		list := make([]source.Interface, 0, n)
		for i := range n {
			e := ofMAC(fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256))
			e.AllowManagementPath = strings.Repeat("r", 200)
			list = append(list, e)
		}
		return list
	}
	text := func(list []source.Interface) []byte {
		var b strings.Builder
		b.WriteString("apiVersion: eniagent/v1alpha1\ninterfaces:\n")
		for _, i := range list {
			fmt.Fprintf(&b, "- {mac: \"%s\", mtu: 9000, allowManagementPath: %s}\n", i.Selector.MAC, i.AllowManagementPath)
		}
		return []byte(b.String())
	}
	most := 0
	for n := 100; n <= 2000; n += 100 {
		if _, err := file.Parse("f", text(many(n))); err == nil {
			most = n
		} else if !strings.Contains(err.Error(), fmt.Sprintf("want at most %d", words.MaxKept)) {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(append(many(most), pci(portA, ""))...)
		settled(5 * time.Second)
		if s := n.agent.Status(t.Context()); s.Source.Error != "" || len(s.Interfaces) != most+1 || len(entriesOf(n)) != most+1 {
			t.Errorf("%d entries, which a file may have: %q, %d are looked at", most, s.Source.Error, len(s.Interfaces))
		}
		n.want(append(many(2000), pci(portA, ""))...)
		settled(5 * time.Second)
		if s := n.agent.Status(t.Context()); !strings.Contains(s.Source.Error, fmt.Sprint(journal.MaxDocument)) || len(s.Interfaces) != most+1 {
			t.Errorf("too many: %q, %d are looked at", s.Source.Error, len(s.Interfaces))
		}
		small := pci(portA, "")
		small.MTU = 4000
		n.want(small)
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right")
		if s := n.agent.Status(t.Context()); s.Source.Error != "" {
			t.Error(s.Source.Error)
		}
		n.has("enp2s0", "mtu=4000")
		if log := n.log.String(); strings.Contains(log, "level=error") {
			t.Error(log)
		}
	})
}
