package agent

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

// complete puts a desired state in force that has all there is.
func (n *node) complete(interfaces ...source.Interface) { n.refusing(nil, interfaces...) }

// refusing is complete but for objects that are refused.
func (n *node) refusing(refused []source.Refusal, interfaces ...source.Interface) {
	n.source.updates <- source.Update{Desired: &source.Desired{
		Source: "file", Object: "/x.yaml", Generation: generation(interfaces), Interfaces: interfaces, Complete: true, Refused: refused,
	}}
}

// ofObject says which object asks.
func ofObject(object string, i source.Interface) source.Interface {
	i.Object = object
	return i
}

// byMAC asks for portA by its MAC address.
func byMAC() source.Interface {
	return source.Interface{Selector: source.Selector{MAC: "52:54:00:00:00:02"}, State: source.Configured, Driver: "vfio-pci"}
}

func TestWhatACompleteSourceNoLongerNamesIsGivenBack(t *testing.T) {
	withNode(t, func(n *node) {
		n.complete(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right, pci 0000:03:00.0=right")
		n.source.updates <- source.Update{Err: errors.New("the API is away")}
		settled(time.Minute)
		n.driver(portA, "vfio-pci")
		n.complete(pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		n.driver(portA, "igb")
		n.driver(portB, "vfio-pci")
		n.expect("pci 0000:03:00.0=right")
		// Once it is back, nothing is left to be done, nor to be remembered.
		if writes := n.written(func() { n.complete(pci(portB, "vfio-pci")); settled(time.Minute) }); len(writes) > 0 {
			n.t.Errorf("writes after all was given back: %v", writes)
		}
	})
}

func TestADeletionWhileTheAgentIsDownIsSeenAtItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.complete(byMAC(), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		n.expect("mac 52:54:00:00:00:02=right, pci 0000:03:00.0=right")
		n.halt()
		n.start(nil)
		n.source.updates <- source.Update{Err: errors.New("the API is away")}
		settled(time.Minute)
		n.driver(portA, "vfio-pci")
		n.complete(pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		n.driver(portA, "igb")
		n.expect("pci 0000:03:00.0=right")
		n.halt()
	})
}

// TestWhatIsToBeGivenBackSurvivesARestart: the source need not say it again.
func TestWhatIsToBeGivenBackSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.complete(pci(portA, "vfio-pci"), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		free := n.kernel.Hold(portA)
		n.complete(pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		n.expect("pci 0000:03:00.0=right, pci 0000:02:00.0=held")
		n.halt()
		n.start(nil)
		n.source.updates <- source.Update{Err: errors.New("the API is away")}
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		free()
		settled(5 * time.Second)
		n.driver(portA, "igb")
		n.driver(portB, "vfio-pci")
		n.expect("pci 0000:03:00.0=right")
		n.halt()
	})
}

func TestWhatARefusedObjectAskedBeforeStays(t *testing.T) {
	withNode(t, func(n *node) {
		a := ofObject("web/eni-1", pci(portA, "vfio-pci"))
		n.complete(a, ofObject("webs/eni-2", pci(portB, "vfio-pci")))
		settled(5 * time.Second)
		n.refusing([]source.Refusal{{Object: "web", Reason: "spec.mtu: 7: want more"}})
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		n.driver(portB, "igb") // "web" is not the beginning of "webs/eni-2"
		n.expect("pci 0000:02:00.0=right")
		s := n.agent.Status(n.t.Context())
		if len(s.Source.Refused) != 1 || !s.Interfaces[0].Kept || s.Interfaces[0].Object != "web/eni-1" {
			n.t.Errorf("status does not say what is refused and kept: %+v %+v", s.Source, s.Interfaces)
		}
		if !strings.Contains(n.log.String(), "spec.mtu: 7: want more") || n.metric("eniagent_source_refused") != 1 {
			n.t.Errorf("the refusal is neither logged nor counted\n%s", n.log)
		}
		n.complete(a)
		settled(5 * time.Second)
		if s := n.agent.Status(n.t.Context()); len(s.Source.Refused) != 0 || s.Interfaces[0].Kept {
			n.t.Errorf("the refusal is over, and the status says otherwise: %+v", s.Source)
		}
		n.complete()
		settled(5 * time.Second)
		n.driver(portA, "igb")
		n.expect("")
	})
}

func TestAnotherSelectorForAFunctionGivesNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.complete(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		for _, next := range []source.Interface{byMAC(), pci(portA, "vfio-pci"), byMAC()} {
			if writes := n.written(func() { n.complete(next); settled(time.Minute) }); len(writes) > 0 {
				n.t.Errorf("the function was touched: %v", writes)
			}
			n.expect(next.Selector.String() + "=right")
		}
		// The next agent knows it too, in this boot.
		n.complete(pci(portA, "vfio-pci"))
		settled(time.Minute)
		n.halt()
		n.start(nil)
		if writes := n.written(func() { n.complete(byMAC()); settled(time.Minute) }); len(writes) > 0 {
			n.t.Errorf("the function was touched: %v", writes)
		}
		n.expect("mac 52:54:00:00:00:02=right")
		n.halt()
	})
}

// TestWhatMayBeAskedForStillIsNotGivenBack: of a function that the agent never
// saw with its netdev nobody knows the MAC address.
func TestWhatMayBeAskedForStillIsNotGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.complete(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		n.halt()
		n.store = journal.NewMemory()
		n.start(nil)
		adopted, err := n.agent.view.orderFor(t.Context(), orderAdopted, portA, "somebody", "")
		adopted.Facts[factDriver] = "igb"
		if err := errors.Join(err, n.journal.SetControl(t.Context(), adopted)); err != nil {
			t.Fatal(err)
		}
		n.complete(ofObject("nodeeni/a/eni-1", pci(portA, "vfio-pci")))
		settled(5 * time.Second)
		if writes := n.written(func() { n.complete(ofObject("nodeeni/a/eni-1", byMAC())); settled(time.Hour) }); len(writes) > 0 {
			t.Errorf("the function was touched: %v", writes)
		}
		n.expect("mac 52:54:00:00:00:02=waiting, pci 0000:02:00.0=waiting")
		const want = "its object asks for mac 52:54:00:00:00:02 now, which may be this function: it has no netdev to tell; if it is not, agent release 0000:02:00.0"
		if got := n.reasons()["nodeeni/a/eni-1 pci 0000:02:00.0"]; got != want {
			t.Errorf("the reason is %q, want %q", got, want)
		}
		n.complete(ofObject("nodeeni/a/eni-1", pci(portA, "vfio-pci")))
		settled(5 * time.Second)
		n.expect("pci 0000:02:00.0=right")
		n.halt()
	})
}

func TestWhatVanishedNeedNotBeGivenBack(t *testing.T) {
	withNode(t, func(n *node) {
		n.complete(byMAC(), pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		if err := n.kernel.Unplug(portA); err != nil {
			n.t.Fatal(err)
		}
		settled(5 * time.Second)
		n.expect("mac 52:54:00:00:00:02=waiting, pci 0000:03:00.0=right")
		n.complete(pci(portB, "vfio-pci"))
		settled(5 * time.Second)
		n.expect("pci 0000:03:00.0=right")
	})
}

// TestAMACStandsForItsFunction: while its netdev is gone, in the same boot and in
// the next.
func TestAMACStandsForItsFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.complete(byMAC())
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		n.halt()
		n.start(nil)
		n.complete(byMAC())
		settled(5 * time.Second)
		n.expect("mac 52:54:00:00:00:02=right")
		n.unbind(portA)
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci") // without a netdev to be known by
		n.halt()

		n.kernel.Reboot()
		n.start(nil)
		n.complete(byMAC())
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		n.halt()

		// In yet another boot no driver has its function yet. What is at the address
		// now may be another interface: nothing is done until that is known.
		n.kernel.Reboot()
		n.unbind(portA)
		n.start(nil)
		n.complete(byMAC())
		settled(time.Minute)
		n.driver(portA, "")
		n.expect("mac 52:54:00:00:00:02=waiting")
		n.halt()
		n.start(nil) // nor by the next agent
		n.complete(byMAC())
		settled(time.Minute)
		n.driver(portA, "")
		if err := n.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: portA, Path: host.PCIDrivers + "igb/bind", Value: portA}); err != nil {
			t.Fatal(err)
		}
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		n.expect("mac 52:54:00:00:00:02=right")
		n.halt()
	})
}

// reasons are why the entries are not as asked.
func (n *node) reasons() map[string]string {
	reasons := map[string]string{}
	for _, i := range n.agent.Status(n.t.Context()).Interfaces {
		reasons[i.Object+" "+i.Entry] = i.Reason
	}
	return reasons
}

// isLeftAlone wants that nothing is looked at over and over.
func (n *node) isLeftAlone() {
	n.t.Helper()
	busy := 0
	for range 10 {
		time.Sleep(time.Second)
		if at, ok := n.agent.agenda.next(); ok && time.Until(at) <= pace {
			busy++
		}
	}
	if busy > 2 {
		n.t.Errorf("%d times of 10 something was about to be looked at", busy)
	}
}

// TestTwoObjectsThatMeanOneFunction: their source cannot know it, and the agent
// does what the source would: neither is taken, both are named.
func TestTwoObjectsThatMeanOneFunction(t *testing.T) {
	withNode(t, func(n *node) {
		eni := ofObject("nodeeni/a/eni-1", byMAC())
		policy := ofObject("nodeinterfacepolicy/b/"+portA, pci(portA, "igb"))
		n.complete(eni)
		settled(5 * time.Second)
		n.driver(portA, "vfio-pci")
		if writes := n.written(func() { n.complete(eni, policy); settled(time.Minute) }); len(writes) > 0 {
			t.Errorf("the function was touched: %v", writes)
		}
		n.expect("mac 52:54:00:00:00:02=refused, pci 0000:02:00.0=refused")
		n.isLeftAlone()
		for _, i := range n.agent.Status(t.Context()).Interfaces {
			if i.State != "bound" {
				t.Errorf("%s is %s", i.Entry, i.State)
			}
		}
		const want = "0000:02:00.0 is asked for by 2 entries (mac 52:54:00:00:00:02 of nodeeni/a/eni-1, pci 0000:02:00.0 of nodeinterfacepolicy/b/0000:02:00.0): keep one"
		for name, reason := range n.reasons() {
			if reason != want {
				t.Errorf("%s is refused for %q, want %q", name, reason, want)
			}
		}
		if writes := n.written(func() { n.complete(eni); settled(time.Minute) }); len(writes) > 0 {
			t.Errorf("one object went, and the function was touched: %v", writes)
		}
		n.expect("mac 52:54:00:00:00:02=right")
	})
}

// TestAConflictLeavesThePool: what one object asked before the other came stays
// as it is, and so does what is published.
func TestAConflictLeavesThePool(t *testing.T) {
	withNodeOf(t, withPlugin, func(n *node) {
		eni := ofObject("nodeeni/a/eni-1", inPool(byMAC(), poolX))
		policy := ofObject("nodeinterfacepolicy/b/"+portA, inPool(pci(portA, "vfio-pci"), poolY))
		n.complete(eni)
		settled(5 * time.Second)
		n.expectPool(poolX, portA)
		if writes := n.written(func() { n.complete(eni, policy); settled(time.Minute) }); len(writes) > 0 {
			t.Errorf("writes: %v", writes)
		}
		n.expect("mac 52:54:00:00:00:02=refused, pci 0000:02:00.0=refused")
		n.expectPool(poolX, portA)
		n.expectPool(poolY)
		n.complete(policy)
		settled(5 * time.Second)
		n.expectPool(poolX)
		n.expectPool(poolY, portA)
	})
}

// TestAVFThatAnotherObjectMeans: the VFs of an entry are its object's.
func TestAVFThatAnotherObjectMeans(t *testing.T) {
	withNode(t, func(n *node) {
		of := "nodeinterfacepolicy/b/" + maker
		n.complete(ofObject(of, vfs(2, dpdkVF())), ofObject("nodeeni/a/eni-1", pci(vf1, "igbvf")))
		settled(10 * time.Second)
		n.driver(vf0, "vfio-pci")
		n.expect("pci 0000:01:00.0=right, pci 0000:01:00.0 vf 0=right, pci 0000:01:00.0 vf 1=refused, pci 0000:01:10.2=refused")
		const want = "0000:01:10.2 is asked for by 2 entries (pci 0000:01:00.0 vf 1 of nodeinterfacepolicy/b/0000:01:00.0, pci 0000:01:10.2 of nodeeni/a/eni-1): keep one"
		reasons := n.reasons()
		if got := reasons[of+" pci 0000:01:00.0 vf 1"]; got != want {
			t.Errorf("refused for %q, want %q; all are %v", got, want, reasons)
		}
		if got := reasons["nodeeni/a/eni-1 pci 0000:01:10.2"]; got != want {
			t.Errorf("refused for %q, want %q", got, want)
		}
	})
}
