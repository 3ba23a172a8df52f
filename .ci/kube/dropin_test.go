package kube

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"eniagent/agent/source/nodeeni/v1alpha1"
	"eniagent/drivers/host/sim"
)

// The three cases that the controller's own samples are of.

func plain() v1alpha1.NodeENISpec {
	return v1alpha1.NodeENISpec{SubnetIDs: []string{"subnet-08c2ddc07218f1105"}, DeviceIndex: 1, DeleteOnTermination: true, MTU: 9001}
}

func kernelPool(i int, pool string) v1alpha1.NodeENISpec {
	s := plain()
	s.DeviceIndex, s.DPDKResourceName, s.DPDKPCIAddress = i+1, pool, slot(i)
	return s
}

func forDPDK(i int, pool string) v1alpha1.NodeENISpec {
	s := kernelPool(i, pool)
	s.EnableDPDK, s.DPDKDriver = true, "vfio-pci"
	return s
}

// TestDropIn: the three cases, their changes and their ends, each on the instance
// itself, in the device plugin's file, in the API and in the journal.
func TestDropIn(t *testing.T) {
	c := requireCluster(t)
	k := newController(t, c)
	n := newNode(t, c, "drop-in", 4)
	eni := func(i int) string { return eniOf(n.name, i) }
	at := func(i int) [2]string { return [2]string{n.name, eni(i)} }
	n.start()
	k.create("plain", plain(), at(0), [2]string{"another", "eni-0ffffffffffffffff"})
	k.create("kernel", kernelPool(1, "intel.com/sriov_kernel_1"), at(1))
	k.create("dpdk", forDPDK(2, "intel.com/sriov_test_1"), at(2))

	n.has(0, "ena up 9001")
	n.has(1, "ena up 9001 intel.com/sriov_kernel_1")
	n.has(2, "vfio-pci intel.com/sriov_test_1")
	n.has(3, "ena down 1500") // nobody asks anything of it
	c.says(t, "plain", eni(0), "ena 0000:00:06.0 up Right 1")
	c.says(t, "plain", "eni-0ffffffffffffffff", "")
	c.says(t, "kernel", eni(1), "ena 0000:00:07.0 intel.com/sriov_kernel_1 up Right 1")
	a := c.says(t, "dpdk", eni(2), "vfio-pci 0000:00:08.0 intel.com/sriov_test_1 bound Right 1")
	if !a.DPDKBound || a.DPDKDriver != "vfio-pci" || a.DPDKPCIAddress != "0000:00:08.0" || a.DeviceIndex != 3 || a.AttachmentID == "" || a.SubnetCIDR == "" {
		t.Errorf("the attachment is %+v", a)
	}

	// The controller looks at it all again, and is told of nothing that changed.
	for _, name := range []string{"plain", "kernel", "dpdk"} {
		k.touch(name)
	}
	c.says(t, "plain", eni(0), "ena 0000:00:06.0 up Right 1")
	c.says(t, "dpdk", eni(2), "vfio-pci 0000:00:08.0 intel.com/sriov_test_1 bound Right 1")

	k.spec("plain", func(s *v1alpha1.NodeENISpec) { s.MTU = 1400 })
	n.has(0, "ena up 1400")
	c.says(t, "plain", eni(0), "ena 0000:00:06.0 up Right 2")
	k.spec("plain", func(s *v1alpha1.NodeENISpec) { s.Description = "says nothing to the node" })
	c.says(t, "plain", eni(0), "ena 0000:00:06.0 up Right 3")

	k.spec("kernel", func(s *v1alpha1.NodeENISpec) { s.DPDKResourceName = "sriov_renamed" }) // the plugin's own prefix
	n.has(1, "ena up 9001 intel.com/sriov_renamed")
	k.spec("kernel", func(s *v1alpha1.NodeENISpec) { s.EnableDPDK = true }) // its driver is the default
	n.has(1, "vfio-pci intel.com/sriov_renamed")
	c.says(t, "kernel", eni(1), "vfio-pci 0000:00:07.0 intel.com/sriov_renamed bound Right 3")
	k.spec("kernel", func(s *v1alpha1.NodeENISpec) { s.DPDKDriver = "uio_pci_generic" })
	n.has(1, "uio_pci_generic intel.com/sriov_renamed")
	c.says(t, "kernel", eni(1), "uio_pci_generic 0000:00:07.0 intel.com/sriov_renamed bound Right 4")
	k.spec("kernel", func(s *v1alpha1.NodeENISpec) { s.EnableDPDK, s.MTU = false, 1300 })
	n.has(1, "ena up 1300 intel.com/sriov_renamed")
	k.spec("kernel", func(s *v1alpha1.NodeENISpec) { s.DPDKResourceName = "" })
	n.has(1, "ena up 1300")
	c.says(t, "kernel", eni(1), "ena 0000:00:07.0 up Right 6")

	k.spec("dpdk", func(s *v1alpha1.NodeENISpec) { s.EnableDPDK = false })
	n.has(2, "ena up 9001 intel.com/sriov_test_1")
	c.says(t, "dpdk", eni(2), "ena 0000:00:08.0 intel.com/sriov_test_1 up Right 2")

	// A deletion gives back what there was.
	k.remove("kernel", nil)
	n.has(1, "ena down 1500")
	k.remove("plain", nil)
	n.has(0, "ena down 1500")
	k.remove("dpdk", nil)
	n.has(2, "ena down 1500")
	n.stop()
	if got, want := n.binds(1), map[string]int{"vfio-pci": 1, "uio_pci_generic": 1, "ena": 1}; !reflect.DeepEqual(got, want) {
		t.Errorf("the journal has binds %v, want %v", got, want)
	}
	if got, want := n.binds(2), map[string]int{"vfio-pci": 1, "ena": 1}; !reflect.DeepEqual(got, want) {
		t.Errorf("the journal has binds %v, want %v", got, want)
	}
}

// TestTwoObjectsInOnePool and one that comes and goes beside another.
func TestTwoObjectsInOnePool(t *testing.T) {
	c := requireCluster(t)
	k := newController(t, c)
	n := newNode(t, c, "one-pool", 3)
	at := func(i int) [2]string { return [2]string{n.name, eniOf(n.name, i)} }
	k.create("first", forDPDK(1, "intel.com/sriov"), at(1))
	k.create("second", forDPDK(2, "intel.com/sriov"), at(2))
	n.start()
	n.has(1, "vfio-pci intel.com/sriov")
	n.has(2, "vfio-pci intel.com/sriov")
	c.says(t, "first", eniOf(n.name, 1), "vfio-pci 0000:00:07.0 intel.com/sriov bound Right 1")
	c.says(t, "second", eniOf(n.name, 2), "vfio-pci 0000:00:08.0 intel.com/sriov bound Right 1")
	k.remove("first", nil)
	n.has(1, "ena down 1500")
	n.has(2, "vfio-pci intel.com/sriov")
	n.kill()
	k.create("first", forDPDK(1, "intel.com/sriov"), at(1))
	n.start()
	n.has(1, "vfio-pci intel.com/sriov")
	n.has(2, "vfio-pci intel.com/sriov")
	c.says(t, "first", eniOf(n.name, 1), "vfio-pci 0000:00:07.0 intel.com/sriov bound Right 1")
	n.stop()
	if got := n.binds(2); !reflect.DeepEqual(got, map[string]int{"vfio-pci": 1}) {
		t.Errorf("what nobody changed was bound %v times", got)
	}
}

// TestSeveralENIsOfSeveralNodes in one object: each node does and tells its own.
func TestSeveralENIsOfSeveralNodes(t *testing.T) {
	c := requireCluster(t)
	k := newController(t, c)
	nodes := []*node{newNode(t, c, "several-a", 3), newNode(t, c, "several-b", 3)}
	spec := plain()
	spec.EnableDPDK, spec.DPDKResourceName = true, "intel.com/both"
	spec.SubnetIDs = append(spec.SubnetIDs, "subnet-0f59b4f14737be9ad")
	spec.DPDKPCIAddress = slot(2) // it is about no one of them, and the MAC addresses are believed
	k.create("several", spec)
	for i := range 2 {
		for _, n := range nodes {
			n.start()
			k.attach("several", n.name, eniOf(n.name, i))
			n.kill()
			n.start()
			if i == 0 {
				n.kill()
			}
		}
	}
	all := func(i int, has, says string) {
		t.Helper()
		for _, n := range nodes {
			n.has(i, has)
			if says != "" {
				c.says(t, "several", eniOf(n.name, i), says)
			}
		}
	}
	all(0, "vfio-pci intel.com/both", "vfio-pci 0000:00:06.0 intel.com/both bound Right 1")
	all(1, "vfio-pci intel.com/both", "vfio-pci 0000:00:07.0 intel.com/both bound Right 1")
	all(2, "ena down 1500", "")
	// One ENI of one node goes, and nothing else.
	gone := nodes[0]
	k.detach("several", eniOf(gone.name, 0))
	gone.has(0, "ena down 1500")
	c.says(t, "several", eniOf(gone.name, 1), "vfio-pci 0000:00:07.0 intel.com/both bound Right 1")
	k.spec("several", func(s *v1alpha1.NodeENISpec) { s.EnableDPDK = false })
	all(1, "ena up 9001 intel.com/both", "ena 0000:00:07.0 intel.com/both up Right 2")
	nodes[1].has(0, "ena up 9001 intel.com/both")
	gone.has(0, "ena down 1500")
	k.remove("several", nil)
	all(0, "ena down 1500", "")
	all(1, "ena down 1500", "")
	for _, n := range nodes {
		n.stop()
		n.binds(0)
	}
}

// TestAnAttachmentOfWhatIsGone is told, by MAC address and by PCI address, and does
// not touch the others.
func TestAnAttachmentOfWhatIsGone(t *testing.T) {
	c := requireCluster(t)
	k := newController(t, c)
	n := newNode(t, c, "stale", 2)
	const old = "eni-0dddddddddddddddd"
	k.create("stale-mac", plain(), [2]string{n.name, old})
	k.create("stale-pci", forDPDK(7, "intel.com/stale"), [2]string{n.name, "eni-0eeeeeeeeeeeeeeee"})
	k.create("alive", forDPDK(1, "intel.com/alive"), [2]string{n.name, eniOf(n.name, 1)})
	n.start()
	n.has(1, "vfio-pci intel.com/alive")
	a := c.says(t, "stale-mac", old, "Refused 1")
	if m := a.Conditions[0].Message; !strings.Contains(m, "instance metadata do not know it") {
		t.Errorf("its condition says %q", m)
	}
	a = c.says(t, "stale-pci", "eni-0eeeeeeeeeeeeeeee", "gone Waiting 1")
	if m := a.Conditions[0].Message; !strings.Contains(m, "0000:00:0d.0") {
		t.Errorf("its condition says %q", m)
	}
	// It was only late: the ENI comes.
	n.cloud.set(macOf(n.name, 0), old)
	n.has(0, "ena up 9001")
	c.says(t, "stale-mac", old, "ena 0000:00:06.0 up Right 1")
	k.remove("stale-pci", nil)
	k.remove("stale-mac", nil)
	n.has(0, "ena down 1500")
	n.has(1, "vfio-pci intel.com/alive")
}

// TestAnENIThatIsTakenWhileBound as the controller takes it: with no word to the
// node, before, while and after that gives it back.
func TestAnENIThatIsTakenWhileBound(t *testing.T) {
	c := requireCluster(t)
	k := newController(t, c)
	n := newNode(t, c, "taken", 4)
	at := func(i int) [2]string { return [2]string{n.name, eniOf(n.name, i)} }
	n.start()
	for i := range 4 {
		k.create(fmt.Sprintf("taken-%d", i), forDPDK(i, "intel.com/taken"), at(i))
	}
	for i := range 4 {
		n.has(i, "vfio-pci intel.com/taken")
	}
	// By hand: the object stays, and says so.
	n.unplug(0)
	n.has(0, "gone")
	c.says(t, "taken-0", eniOf(n.name, 0), "gone Waiting 1")
	// The controller sees it, and drops the attachment.
	k.detach("taken-0", eniOf(n.name, 0))
	// With its object, at once; and the agent dies at that moment.
	k.remove("taken-1", func() { n.unplug(1) })
	n.kill()
	k.remove("taken-2", func() { n.unplug(2) })
	n.start()
	for i := range 3 {
		n.has(i, "gone")
	}
	n.has(3, "vfio-pci intel.com/taken")
	// Another ENI comes to the slot of one that is gone: it is nobody's yet.
	other := eniOf("another", 1)
	n.change(func(f *sim.File) error { return f.Plug(function("another", 1)) })
	n.cloud.set(macOf("another", 1), other)
	await(t, "the interfaces of the agent", "[nodeeni/taken-3/"+eniOf(n.name, 3)+"]", n.objects)
	n.has(1, "ena down 1500")
	k.create("taken-again", plain(), [2]string{n.name, other})
	n.has(1, "ena up 9001")
	c.says(t, "taken-again", other, "ena 0000:00:07.0 up Right 1")
	n.stop()
	if got := n.binds(3); !reflect.DeepEqual(got, map[string]int{"vfio-pci": 1}) {
		t.Errorf("what nobody changed was bound %v times", got)
	}
	n.binds(1)
}

// TestKilledAtWork: the agent dies at random moments while objects change under
// it, and the last one brings all of it right.
func TestKilledAtWork(t *testing.T) {
	c := requireCluster(t)
	k := newController(t, c)
	n := newNode(t, c, "killed", 3)
	for i := range 3 {
		k.create(fmt.Sprintf("killed-%d", i), forDPDK(i, "intel.com/killed"), [2]string{n.name, eniOf(n.name, i)})
	}
	const rounds = 12
	for round := range rounds {
		n.start()
		for i := range 3 {
			k.spec(fmt.Sprintf("killed-%d", i), func(s *v1alpha1.NodeENISpec) {
				s.EnableDPDK = (round+i)%2 == 0
				s.MTU = 1400 + 100*((round+i)%3)
			})
		}
		// An agent takes some hundred milliseconds to begin, and as long for all of it.
		time.Sleep(time.Duration(round) * 80 * time.Millisecond)
		n.kill()
	}
	n.start()
	for i := range 3 {
		// The last round was an odd one.
		has, says := "vfio-pci", "vfio-pci %s intel.com/killed bound Right %d"
		if (rounds-1+i)%2 == 1 {
			has, says = fmt.Sprintf("ena up %d", 1400+100*((rounds-1+i)%3)), "ena %s intel.com/killed up Right %d"
		}
		n.has(i, has+" intel.com/killed")
		c.says(t, fmt.Sprintf("killed-%d", i), eniOf(n.name, i), fmt.Sprintf(says, slot(i), rounds+1))
	}
	n.stop()
	n.binds(0)
}
