package kube

import (
	"context"
	"fmt"
	"reflect"
	"syscall"
	"testing"

	rbac "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"eniagent/agent/source/nodeeni/v1alpha1"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// unbind is some other tool's, of an ENI that is on vfio-pci.
func (n *node) unbind(i int) {
	n.t.Helper()
	n.change(func(f *sim.File) error {
		return f.Foreign(host.Call{Op: host.OpSysfs, Target: drivers.Target(slot(i)), Path: host.PCIDrivers + "vfio-pci/unbind", Value: slot(i)})
	})
}

// absence is a way for the API to be away.
type absence struct {
	name  string
	begin func(t *testing.T, c *cluster, n *node) (end func())
}

func absences() []absence {
	return []absence{
		{"line", func(_ *testing.T, _ *cluster, n *node) func() {
			n.line.set(true)
			return func() { n.line.set(false) }
		}},
		{"paused", func(t *testing.T, c *cluster, n *node) func() {
			pid := c.pid(t)
			must(t, syscall.Kill(pid, syscall.SIGSTOP))
			return func() {
				n.line.cut() // as its end of a hung connection would be, after a while
				must(t, syscall.Kill(pid, syscall.SIGCONT))
			}
		}},
		{"killed", func(t *testing.T, c *cluster, _ *node) func() { return c.kill(t) }},
	}
}

// TestTheAPIIsAwayAtWork: it goes while functions are bound and given back, and
// comes again; between, another tool meddles and the agent dies. Nothing is given
// back that was not to be, and all is done, once.
func TestTheAPIIsAwayAtWork(t *testing.T) {
	c := requireCluster(t)
	for _, away := range absences() {
		t.Run(away.name, func(t *testing.T) {
			k := newController(t, c)
			n := newNode(t, c, "away-"+away.name, 4)
			name := func(i int) string { return fmt.Sprintf("away-%s-%d", away.name, i) }
			n.start()
			for i := range 3 {
				k.create(name(i), forDPDK(i, "intel.com/away"), [2]string{n.name, eniOf(n.name, i)})
			}
			for i := range 3 {
				n.has(i, "vfio-pci intel.com/away")
			}

			// It goes as soon as it has said three things.
			k.spec(name(0), func(s *v1alpha1.NodeENISpec) { s.EnableDPDK = false })
			k.create(name(3), forDPDK(3, "intel.com/away"), [2]string{n.name, eniOf(n.name, 3)})
			k.remove(name(1), nil)
			back := away.begin(t, c, n)
			n.unbind(2)
			n.has(2, "vfio-pci intel.com/away")
			n.kill()
			n.unbind(2)
			n.start()
			n.has(2, "vfio-pci intel.com/away")
			back()

			n.has(0, "ena up 9001 intel.com/away")
			n.has(1, "ena down 1500")
			n.has(3, "vfio-pci intel.com/away")
			for i, says := range map[int]string{0: "ena %s intel.com/away up Right 2", 2: "vfio-pci %s intel.com/away bound Right 1", 3: "vfio-pci %s intel.com/away bound Right 1"} {
				c.says(t, name(i), eniOf(n.name, i), fmt.Sprintf(says, slot(i)))
			}
			n.stop()
			for i, want := range []map[string]int{{"vfio-pci": 1, "ena": 1}, {"vfio-pci": 1, "ena": 1}, {"vfio-pci": 3}, {"vfio-pci": 1}} {
				if got := n.binds(i); !reflect.DeepEqual(got, want) {
					t.Errorf("%s was bound %v, want %v", slot(i), got, want)
				}
			}
		})
	}
}

// TestNoAPIAtTheStart: what was asked before is kept right from the journal, and
// what was asked and taken back meanwhile is done once the API is there.
func TestNoAPIAtTheStart(t *testing.T) {
	c := requireCluster(t)
	k := newController(t, c)
	n := newNode(t, c, "alone", 3)
	n.start()
	for i := range 2 {
		k.create(fmt.Sprintf("alone-%d", i), forDPDK(i, "intel.com/alone"), [2]string{n.name, eniOf(n.name, i)})
	}
	for i := range 2 {
		n.has(i, "vfio-pci intel.com/alone")
	}
	n.stop()
	n.line.set(true)
	k.remove("alone-1", nil)
	k.create("alone-2", forDPDK(2, "intel.com/alone"), [2]string{n.name, eniOf(n.name, 2)})
	n.unbind(0)
	n.start()
	n.has(0, "vfio-pci intel.com/alone")
	n.stands("nodeeni/alone-1/"+eniOf(n.name, 1), "right")
	n.kill()
	n.start()
	// The instance starts anew: what is to be bound is bound without the API.
	n.kill()
	n.change(func(f *sim.File) error { return f.Reboot() })
	n.start()
	for i := range 2 {
		n.has(i, "vfio-pci intel.com/alone")
	}
	n.has(2, "ena down 1500")
	n.line.set(false)
	n.has(1, "ena down 1500")
	n.has(2, "vfio-pci intel.com/alone")
	n.has(0, "vfio-pci intel.com/alone")
	c.says(t, "alone-0", eniOf(n.name, 0), "vfio-pci 0000:00:06.0 intel.com/alone bound Right 1")
	n.stop()
	n.binds(1)
}

// TestForbidden: the agent's role goes and comes, and the node stays as it is.
func TestForbidden(t *testing.T) {
	c := requireCluster(t)
	k := newController(t, c)
	n := newNode(t, c, "forbidden", 2)
	user, err := c.env.AddUser(envtest.User{Name: "eniagent-forbidden"}, nil)
	must(t, err)
	kubeconfig, err := user.KubeConfig()
	must(t, err)
	n.reach(kubeconfig)
	k.create("forbidden-0", forDPDK(0, "intel.com/forbidden"), [2]string{n.name, eniOf(n.name, 0)})
	n.start()
	n.stands("", "")
	n.has(0, "ena down 1500")
	role := &rbac.ClusterRole{Rules: []rbac.PolicyRule{
		{APIGroups: []string{v1alpha1.Group}, Resources: []string{v1alpha1.Resource}, Verbs: []string{"list", "watch"}},
		{APIGroups: []string{v1alpha1.Group}, Resources: []string{v1alpha1.Resource + "/status"}, Verbs: []string{"patch"}},
	}}
	role.Name = "eniagent-forbidden"
	must(t, c.client.Create(t.Context(), role))
	t.Cleanup(func() { must(t, c.client.Delete(context.Background(), role)) })
	bind := func() *rbac.ClusterRoleBinding {
		b := &rbac.ClusterRoleBinding{
			RoleRef:  rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects: []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.UserKind, Name: "eniagent-forbidden"}},
		}
		b.Name = role.Name
		must(t, c.client.Create(t.Context(), b))
		return b
	}
	b := bind()
	n.has(0, "vfio-pci intel.com/forbidden")
	c.says(t, "forbidden-0", eniOf(n.name, 0), "vfio-pci 0000:00:06.0 intel.com/forbidden bound Right 1")
	must(t, c.client.Delete(t.Context(), b))
	n.line.cut()
	k.create("forbidden-1", forDPDK(1, "intel.com/forbidden"), [2]string{n.name, eniOf(n.name, 1)})
	n.kill()
	n.unbind(0)
	n.start()
	n.has(0, "vfio-pci intel.com/forbidden")
	n.has(1, "ena down 1500")
	k.remove("forbidden-0", nil)
	b = bind()
	t.Cleanup(func() { must(t, c.client.Delete(context.Background(), b)) })
	n.has(0, "ena down 1500")
	n.has(1, "vfio-pci intel.com/forbidden")
	c.says(t, "forbidden-1", eniOf(n.name, 1), "vfio-pci 0000:00:07.0 intel.com/forbidden bound Right 1")
	n.stop()
	if got := n.binds(1); !reflect.DeepEqual(got, map[string]int{"vfio-pci": 1}) {
		t.Errorf("bound %v", got)
	}
	n.binds(0)
}
