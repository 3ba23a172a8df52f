package agent

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// rename is somebody else's.
func (n *node) rename(address, name string) {
	n.t.Helper()
	dev, err := host.NetdevOf(n.t.Context(), n.kernel, address)
	if err == nil {
		err = n.kernel.Foreign(host.Call{Op: host.OpName, Target: drivers.Target(address), Index: dev.Index, Value: name})
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// called is the name of a function's netdev.
func (n *node) called(address string) string {
	n.t.Helper()
	dev, err := host.NetdevOf(n.t.Context(), n.kernel, address)
	if err != nil {
		n.t.Fatal(err)
	}
	return dev.Name
}

// swappedNames releases two functions whose netdevs have each other's name, with a kill
// at a boundary of that, and says what they are called then; spoil is done before.
func swappedNames(t *testing.T, boundary int, spoil func(*node)) (a, b string, killed bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		for _, driver := range []string{"vfio-pci", "igb"} {
			n.want(pci(portA, driver), pci(portB, driver))
			settled(20 * time.Second)
		}
		n.rename(portA, "between") // as the kernel may name them when it makes them again
		n.rename(portB, "enp2s0")
		n.rename(portA, "enp3s0")
		spoil(n)
		var left *image
		seen := 0
		at := serially(func(string) {
			if seen++; seen == boundary {
				left = &image{kernel: n.kernel.Clone(), store: n.store.Clone()}
			}
		})
		n.kernel.Hook = func(p sim.Point) { at(p.Label) }
		n.release(Order{All: true})
		n.kernel.Hook = nil
		if killed = left != nil; killed {
			n.halt()
			n = &node{t: t, kernel: left.kernel, store: left.store}
			n.start(nil)
			settled(time.Minute)
			n.release(Order{All: true})
		}
		settled(time.Minute)
		if a, b = n.called(portA), n.called(portB); a == "enp2s0" && b == "enp3s0" {
			n.nothingLeft()
		}
		n.halt()
	})
	return a, b, killed
}

// TestSwappedNamesAreGivenBack: netdevs that have each other's name get their own again,
// whenever the agent is killed on the way.
func TestSwappedNamesAreGivenBack(t *testing.T) {
	killed := true
	for boundary := 1; killed; boundary++ {
		var a, b string
		if a, b, killed = swappedNames(t, boundary, func(*node) {}); a != "enp2s0" || b != "enp3s0" {
			t.Errorf("boundary %d: they are called %s and %s", boundary, a, b)
		}
		if !killed && boundary < 10 {
			t.Errorf("only %d boundaries", boundary)
		}
	}
}

// TestBrokenNamesStaySwapped where there is no name to take in between.
func TestBrokenNamesStaySwapped(t *testing.T) {
	a, b, _ := swappedNames(t, 0, func(n *node) {
		dev, err := host.NetdevOf(n.t.Context(), n.kernel, portA)
		if err == nil {
			err = n.kernel.AddLink(sim.Netdev{Name: fmt.Sprintf("rename%d", dev.Index)})
		}
		if err != nil {
			n.t.Fatal(err)
		}
	})
	if a != "enp3s0" || b != "enp2s0" {
		t.Errorf("they are called %s and %s: the test above shows nothing", a, b)
	}
}
