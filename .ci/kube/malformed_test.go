package kube

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"eniagent/agent/source/nodeeni/v1alpha1"
)

// TestTheWorst that an object can say is refused on its own attachment, with what
// is wrong and what to do; the node's other interfaces go on, and its way to the
// world stays as it is.
func TestTheWorst(t *testing.T) {
	c := requireCluster(t)
	k := newController(t, c)
	n := newNode(t, c, "worst", 4)
	const way = "eni-00000000000000005"
	n.cloud.set("0a:1b:2c:3d:4e:5f", way) // the primary interface's
	n.start()
	k.create("worst-good", forDPDK(3, "intel.com/good"), [2]string{n.name, eniOf(n.name, 3)})
	n.has(3, "vfio-pci intel.com/good")
	own := eniOf(n.name, 0)
	tests := []struct {
		name   string
		eni    string
		change func(*v1alpha1.NodeENISpec)
		want   string
	}{
		{"mtu-huge", own, func(s *v1alpha1.NodeENISpec) { s.MTU = 1 << 40 }, "spec.mtu: \"1099511627776\": want 68 to 65535 bytes"},
		{"mtu-negative", own, func(s *v1alpha1.NodeENISpec) { s.MTU = -1 << 62 }, "spec.mtu"},
		{"mtu-more-than-the-device", own, func(s *v1alpha1.NodeENISpec) { s.MTU = 65535 }, "9216"},
		{"driver-unicode", own, func(s *v1alpha1.NodeENISpec) { s.EnableDPDK, s.DPDKDriver = true, "vfio☃\u202e\x00" }, "spec.dpdkDriver"},
		{"driver-path", own, func(s *v1alpha1.NodeENISpec) { s.EnableDPDK, s.DPDKDriver = true, "../../devices/0000:00:05.0/driver" }, "spec.dpdkDriver"},
		{"driver-long", own, func(s *v1alpha1.NodeENISpec) { s.EnableDPDK, s.DPDKDriver = true, strings.Repeat("v", 100_000) }, "spec.dpdkDriver"},
		{"driver-module", own, func(s *v1alpha1.NodeENISpec) { s.EnableDPDK, s.DPDKDriver = true, "vfio_pci" }, "vfio-pci"},
		{"driver-unknown", own, func(s *v1alpha1.NodeENISpec) { s.EnableDPDK, s.DPDKDriver = true, "nobody" }, "nobody"},
		{"pool-slashes", own, func(s *v1alpha1.NodeENISpec) { s.DPDKResourceName = "//" }, "spec.dpdkResourceName"},
		{"pool-json", own, func(s *v1alpha1.NodeENISpec) { s.DPDKResourceName = `intel.com/a","selectors":[{}],"x":"` }, "spec.dpdkResourceName"},
		{"pool-long", own, func(s *v1alpha1.NodeENISpec) { s.DPDKResourceName = "intel.com/" + strings.Repeat("é", 50_000) }, "spec.dpdkResourceName"},
		{"pci-name", own, func(s *v1alpha1.NodeENISpec) { s.DPDKPCIAddress = "eth1" }, "spec.dpdkPCIAddress"},
		{"pci-beyond", own, func(s *v1alpha1.NodeENISpec) { s.DPDKPCIAddress = "0000:00:20.0" }, "spec.dpdkPCIAddress"},
		{"pci-lines", own, func(s *v1alpha1.NodeENISpec) { s.DPDKPCIAddress = "0000:00:06.0\n0000:00:05.0" }, "spec.dpdkPCIAddress"},
		{"primary-pci", own, func(s *v1alpha1.NodeENISpec) { s.EnableDPDK, s.DPDKPCIAddress = true, primary }, "default route"},
		{"primary-mac", way, func(s *v1alpha1.NodeENISpec) { s.EnableDPDK = true }, "default route"},
		{"primary-mtu", way, func(*v1alpha1.NodeENISpec) {}, "default route"},
		{"bridge", own, func(s *v1alpha1.NodeENISpec) { s.EnableDPDK, s.DPDKPCIAddress = true, "0000:00:00.0" }, "no network interface"},
		{"eni-none", "", func(*v1alpha1.NodeENISpec) {}, "eniID"},
		{"eni-unicode", "eni-☃☃☃☃☃☃☃☃", func(*v1alpha1.NodeENISpec) {}, "eniID"},
		{"eni-long", "eni-" + strings.Repeat("0", 100_000), func(*v1alpha1.NodeENISpec) {}, "eniID"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			k := &controller{t: t, client: k.client}
			spec := plain()
			tc.change(&spec)
			name := "worst-" + tc.name
			k.create(name, spec)
			k.status(name, func(o *controlled) {
				o.Status.Attachments = append(o.Status.Attachments, controlledAttachment{NodeID: n.name, ENIID: tc.eni, Status: v1alpha1.Attached})
			})
			why := ""
			await(t, name, "Refused", func() string {
				o := c.get(name)
				if len(o.Status.Attachments) != 1 || len(o.Status.Attachments[0].Conditions) != 1 {
					return "nothing"
				}
				cond := o.Status.Attachments[0].Conditions[0]
				why = cond.Message
				return cond.Reason
			})
			if !strings.Contains(why, tc.want) || len(why) > 1024 || strings.ContainsAny(why, "\n\x00\u202e☃") {
				t.Errorf("its condition says %q, want it to say %q", why, tc.want)
			}
			if has := n.sees(0); has != "ena down 1500" {
				t.Errorf("the ENI is %s", has)
			}
			k.remove(name, nil)
			n.has(0, "ena down 1500")
		})
	}
	n.unharmed(c)
}

// get is an object, or an empty one.
func (c *cluster) get(name string) *v1alpha1.NodeENI {
	o := &v1alpha1.NodeENI{}
	_ = c.client.Get(context.Background(), client.ObjectKey{Name: name}, o)
	return o
}

// unharmed says that the good one of the worst tests is as it was, and that the
// primary interface is.
func (n *node) unharmed(c *cluster) {
	n.t.Helper()
	n.has(3, "vfio-pci intel.com/good")
	c.says(n.t, n.name+"-good", eniOf(n.name, 3), "vfio-pci 0000:00:09.0 intel.com/good bound Right 1")
	shown := n.must("sim", "show")
	for _, want := range []string{`(?m)^function 0000:00:05.0 inode=\d+ driver=ena override=\(null\)`, `(?m)^function 0000:00:00.0 inode=\d+ driver=- override=\(null\)`, `(?m)^link ens5 index=\d+ mtu=1500 up=true`} {
		if !regexp.MustCompile(want).MatchString(shown) {
			n.t.Errorf("the instance has not %s:\n%s", want, shown)
		}
	}
	if binds := n.binds(3); binds["vfio-pci"] != 1 || len(binds) != 1 {
		n.t.Errorf("the good one was bound %v", binds)
	}
}

// TestRivals: what two objects ask of one interface, neither gets, and both say so.
func TestRivals(t *testing.T) {
	c := requireCluster(t)
	k := newController(t, c)
	n := newNode(t, c, "rivals", 4)
	n.start()
	k.create("rivals-good", forDPDK(3, "intel.com/good"), [2]string{n.name, eniOf(n.name, 3)})
	byPCI := func(name string, i int, eni string) {
		k.create(name, forDPDK(i, "intel.com/rivals"), [2]string{n.name, eni})
	}
	byPCI("rivals-pci-a", 0, eniOf(n.name, 0))
	n.has(0, "vfio-pci intel.com/rivals")
	byPCI("rivals-pci-b", 0, "eni-0bbbbbbbbbbbbbbbb")
	refused := func(name, eni, other string) {
		t.Helper()
		await(t, name, "refused for "+other, func() string {
			for _, a := range c.get(name).Status.Attachments {
				for _, cond := range a.Conditions {
					if a.ENIID == eni && cond.Reason == "Refused" && strings.Contains(cond.Message, other) {
						return "refused for " + other
					}
				}
			}
			return told(c.get(name), eni)
		})
	}
	refused("rivals-pci-a", eniOf(n.name, 0), "rivals-pci-b")
	refused("rivals-pci-b", "eni-0bbbbbbbbbbbbbbbb", "rivals-pci-a")
	n.has(0, "vfio-pci intel.com/rivals") // as it was asked before

	k.create("rivals-mac-a", plain(), [2]string{n.name, eniOf(n.name, 1)})
	n.has(1, "ena up 9001")
	k.create("rivals-mac-b", plain(), [2]string{n.name, eniOf(n.name, 1)})
	refused("rivals-mac-a", eniOf(n.name, 1), "rivals-mac-b")
	refused("rivals-mac-b", eniOf(n.name, 1), "rivals-mac-a")

	// One by its address, the other by the address of its ENI: that they are one
	// function, only the node knows.
	byPCI("rivals-one", 2, "eni-0cccccccccccccccc")
	n.has(2, "vfio-pci intel.com/rivals")
	k.create("rivals-two", plain(), [2]string{n.name, eniOf(n.name, 2)})
	byPCI("rivals-three", 2, "eni-0dddddddddddddddd")
	refused("rivals-one", "eni-0cccccccccccccccc", "rivals-three")
	k.remove("rivals-three", nil)
	k.remove("rivals-pci-b", nil)
	k.remove("rivals-mac-b", nil)
	n.has(0, "vfio-pci intel.com/rivals")
	n.has(1, "ena up 9001")
	c.says(t, "rivals-pci-a", eniOf(n.name, 0), "vfio-pci 0000:00:06.0 intel.com/rivals bound Right 1")
	c.says(t, "rivals-mac-a", eniOf(n.name, 1), "ena 0000:00:07.0 up Right 1")
	n.stop()
	n.start()
	n.unharmed(c)
}

// TestHugeObjects of other nodes, and of this one: they cost no more than their
// reading, and one that says too much of this node is refused.
func TestHugeObjects(t *testing.T) {
	c := requireCluster(t)
	k := newController(t, c)
	n := newNode(t, c, "huge", 4)
	n.start()
	k.create("huge-good", forDPDK(3, "intel.com/good"), [2]string{n.name, eniOf(n.name, 3)})
	k.create("huge-others", plain())
	k.status("huge-others", func(o *controlled) {
		for i := range 2000 {
			o.Status.Attachments = append(o.Status.Attachments, attachment(fmt.Sprintf("other-%d", i), fmt.Sprintf("eni-%017d", i), o.Spec))
		}
		o.Status.Attachments = append(o.Status.Attachments, attachment(n.name, eniOf(n.name, 1), o.Spec))
	})
	n.has(1, "ena up 9001")
	c.says(t, "huge-others", eniOf(n.name, 1), "ena 0000:00:07.0 up Right 1")
	k.create("huge-own", plain())
	k.status("huge-own", func(o *controlled) {
		for i := range 300 {
			o.Status.Attachments = append(o.Status.Attachments, attachment(n.name, fmt.Sprintf("eni-%017d", i), o.Spec))
		}
	})
	await(t, "huge-own", "300 refused", func() string {
		refused := 0
		for _, a := range c.get("huge-own").Status.Attachments {
			if len(a.Conditions) == 1 && a.Conditions[0].Reason == "Refused" && strings.Contains(a.Conditions[0].Message, "300 of this node") {
				refused++
			}
		}
		return fmt.Sprintf("%d refused", refused)
	})
	// An ENI twice is one ENI.
	k.create("huge-twice", plain())
	k.status("huge-twice", func(o *controlled) {
		for range 3 {
			o.Status.Attachments = append(o.Status.Attachments, attachment(n.name, eniOf(n.name, 0), o.Spec))
		}
	})
	n.has(0, "ena up 9001")
	c.says(t, "huge-twice", eniOf(n.name, 0), "ena 0000:00:06.0 up Right 1")
	for range 10 {
		k.touch("huge-others")
	}
	peak := n.peak()
	t.Logf("at most %d MB of memory", peak>>10)
	if peak > 128<<10 {
		t.Errorf("the agent had %d KB of memory", peak)
	}
	n.unharmed(c)
}

// peak is the most memory that the agent's process had, in KB.
func (n *node) peak() int {
	n.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.agent.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		n.t.Fatalf("no peak in\n%s", b)
	}
	kb, err := strconv.Atoi(string(m[1]))
	if err != nil {
		n.t.Fatal(err)
	}
	return kb
}
