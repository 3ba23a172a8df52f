package kube

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"eniagent/agent/source"
	"eniagent/agent/source/nodeeni"
	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
	"eniagent/agent/source/nodeeni/v1alpha1"
)

const (
	here  = "node-1"
	there = "node-2"

	eni1, mac1 = "eni-0123456789abcdef0", "0e:49:61:0f:c3:11"
	eni2, mac2 = "eni-00000000000000002", "0e:49:61:0f:c3:12"
)

// follower is a source of the node under test, and what it sent.
type follower struct {
	t       *testing.T
	source  *nodeeni.Source
	updates <-chan source.Update
	line    *line
	stop    func()
}

// follow starts a source. It ends with the test, or before.
func follow(t *testing.T, c *cluster, config *rest.Config) *follower {
	t.Helper()
	metadata := httptest.NewServer(instance(map[string]string{mac1: eni1, mac2: eni2}))
	t.Cleanup(metadata.Close)
	if config == nil {
		config = c.env.Config
	}
	f := &follower{t: t}
	f.line, config = newLine(t, config)
	s, err := nodeeni.New(nodeeni.Options{Node: here, Config: config, Metadata: metadata.URL, Logger: log.NewLogfmtLogger(t.Output())})
	must(t, err)
	f.source = s
	ctx, cancel := context.WithCancel(context.Background())
	f.updates, err = s.Updates(ctx)
	must(t, err)
	f.stop = func() {
		cancel()
		for range f.updates { // until all behind it has ended
		}
	}
	t.Cleanup(f.stop)
	return f
}

// said is an update in one line: "ERROR", or the entries and what is refused.
func said(u source.Update) string {
	if u.Err != nil {
		return "ERROR"
	}
	var all []string
	for _, i := range u.Desired.Interfaces {
		s := fmt.Sprintf("%s %s", strings.TrimPrefix(i.Object, "nodeeni/"), i.Selector)
		if i.State == source.Released {
			s += " released"
		}
		if i.Up != nil && *i.Up {
			s += " up"
		}
		if i.MTU != 0 {
			s += fmt.Sprintf(" mtu=%d", i.MTU)
		}
		if i.Driver != "" {
			s += " " + i.Driver
		}
		all = append(all, s)
	}
	for _, r := range u.Desired.Refused {
		all = append(all, strings.TrimPrefix(r.Object, "nodeeni/")+" REFUSED")
	}
	if !u.Desired.Complete {
		all = append(all, "NOT COMPLETE")
	}
	return strings.Join(all, "; ")
}

// await takes updates until one says so; each before it is of those that may come.
func (f *follower) await(want string, before ...string) source.Update {
	f.t.Helper()
	over := time.After(2 * time.Minute)
	last := "nothing"
	for {
		select {
		case u := <-f.updates:
			if last = said(u); last == want {
				return u
			}
			if !slices.Contains(before, last) {
				f.t.Fatalf("the source says %q (%v), want %q", last, u.Err, want)
			}
		case <-over:
			f.t.Fatalf("the last the source said is %q, want %q", last, want)
		}
	}
}

// object is a NodeENI of the test, gone at its end.
func (c *cluster) object(t *testing.T, name string, spec v1alpha1.NodeENISpec) {
	t.Helper()
	o := &v1alpha1.NodeENI{Spec: spec}
	o.Name = name
	if o.Spec.NodeSelector == nil {
		o.Spec.NodeSelector = map[string]string{"ng": "multi-eni"}
	}
	must(t, c.client.Create(t.Context(), o))
	t.Cleanup(func() { c.remove(t, name) })
}

// remove takes an object away, whatever holds it.
func (c *cluster) remove(t *testing.T, name string) {
	t.Helper()
	ctx := context.Background()
	o := &v1alpha1.NodeENI{}
	o.Name = name
	must(t, client.IgnoreNotFound(c.client.Delete(ctx, o)))
	c.finalizers(t, name)
}

// finalizers sets those of an object, if it is there.
func (c *cluster) finalizers(t *testing.T, name string, all ...string) {
	t.Helper()
	ctx := context.Background()
	o := &v1alpha1.NodeENI{}
	if err := c.client.Get(ctx, client.ObjectKey{Name: name}, o); apierrors.IsNotFound(err) {
		return
	}
	base := o.DeepCopy()
	o.Finalizers = all
	must(t, client.IgnoreNotFound(c.client.Patch(ctx, o, client.MergeFrom(base))))
}

// attach writes the status of an object as the controller does: the whole list.
func (c *cluster) attach(t *testing.T, name string, attachments ...v1alpha1.ENIAttachment) {
	t.Helper()
	o := &v1alpha1.NodeENI{}
	must(t, c.client.Get(t.Context(), client.ObjectKey{Name: name}, o))
	o.Status.Attachments = attachments
	must(t, c.client.Status().Update(t.Context(), o))
}

func on(node, eni string) v1alpha1.ENIAttachment {
	return v1alpha1.ENIAttachment{
		NodeID: node, ENIID: eni, InstanceID: "i-0123456789abcdef0", AttachmentID: "eni-attach-01", SubnetID: "subnet-1",
		SubnetCIDR: "10.0.0.0/24", MTU: 9001, DeviceIndex: 2, Status: v1alpha1.Attached, LastUpdated: metav1.Now(),
	}
}

// TestALife is that of an object, in the order in which the controller writes it.
func TestALife(t *testing.T) {
	c := requireCluster(t)
	f := follow(t, c, nil)
	f.await("", "ERROR", "nodeeni REFUSED", "nodeinterfacepolicy REFUSED") // the definitions were just installed
	const name = "life"
	c.object(t, name, v1alpha1.NodeENISpec{
		DeviceIndex: 2, MTU: 9001, EnableDPDK: true, DPDKDriver: "vfio-pci", DPDKResourceName: "intel.com/sriov_test_1", DPDKPCIAddress: "0000:00:07.0",
	})
	c.finalizers(t, name, v1alpha1.Finalizer)
	c.attach(t, name, on(there, "eni-0ffffffffffffffff"))
	c.attach(t, name, on(there, "eni-0ffffffffffffffff"), on(here, eni1))
	f.await("life/" + eni1 + " pci 0000:00:07.0 vfio-pci")
	// The controller renews what it wrote, and the other node's goes: no news.
	c.attach(t, name, on(here, eni1))
	o := &v1alpha1.NodeENI{}
	must(t, c.client.Get(t.Context(), client.ObjectKey{Name: name}, o))
	o.Spec.EnableDPDK = false
	must(t, c.client.Update(t.Context(), o))
	f.await("life/" + eni1 + " pci 0000:00:07.0 up mtu=9001 ena")
	must(t, c.client.Delete(t.Context(), o))
	f.await("life/" + eni1 + " pci 0000:00:07.0 released") // the finalizer holds it
	c.attach(t, name)
	f.await("")
	c.finalizers(t, name)
}

func TestSeveralENIsByTheirMAC(t *testing.T) {
	c := requireCluster(t)
	c.object(t, "several", v1alpha1.NodeENISpec{MTU: 9001, DPDKPCIAddress: "0000:00:07.0"})
	c.attach(t, "several", on(here, eni1), on(there, "eni-0ffffffffffffffff"), on(here, eni2))
	c.object(t, "unused", v1alpha1.NodeENISpec{})
	c.object(t, "wrong", v1alpha1.NodeENISpec{MTU: -1})
	c.attach(t, "wrong", on(here, "eni-0aaaaaaaaaaaaaaaa"))
	f := follow(t, c, nil)
	f.await("several/" + eni1 + " mac " + mac1 + " up mtu=9001 ena; several/" + eni2 + " mac " + mac2 + " up mtu=9001 ena; wrong REFUSED")
}

func TestADeletionWhileNobodyLooks(t *testing.T) {
	c := requireCluster(t)
	plain := func(name, eni, mac string) string { return name + "/" + eni + " mac " + mac + " up ena" }
	c.object(t, "goes", v1alpha1.NodeENISpec{})
	c.attach(t, "goes", on(here, eni1))
	c.object(t, "stays", v1alpha1.NodeENISpec{})
	c.attach(t, "stays", on(here, eni2))
	f := follow(t, c, nil)
	f.await(plain("goes", eni1, mac1) + "; " + plain("stays", eni2, mac2))
	f.stop()
	c.remove(t, "goes")
	f = follow(t, c, nil)
	f.await(plain("stays", eni2, mac2))
}

// TestTheAPIGoesAway in each way that there is: nothing is taken for a deletion,
// and what changed meanwhile is seen without another list.
func TestTheAPIGoesAway(t *testing.T) {
	c := requireCluster(t)
	c.object(t, "kept", v1alpha1.NodeENISpec{})
	c.attach(t, "kept", on(here, eni1))
	const kept = "kept/" + eni1 + " mac " + mac1 + " up ena"
	f := follow(t, c, nil)
	f.await(kept)
	changes := 0
	// changed makes a change, and says how it looks.
	changed := func() string {
		o := &v1alpha1.NodeENI{}
		must(t, c.client.Get(t.Context(), client.ObjectKey{Name: "kept"}, o))
		changes++
		o.Spec.MTU = 1500 + changes
		must(t, c.client.Update(t.Context(), o))
		return fmt.Sprintf("kept/%s mac %s up mtu=%d ena", eni1, mac1, o.Spec.MTU)
	}
	last := kept
	again := func(how string, most int, back func()) {
		t.Helper()
		lists := f.line.lists()
		back()
		was := last
		last = changed()
		f.await(last, "ERROR", was)
		if n := f.line.lists() - lists; n > most {
			t.Errorf("%s: %d more lists, want %d at most", how, n, most)
		}
	}
	again("the watch is cut", 0, f.line.cut)
	again("the line is down", 0, func() {
		f.line.set(true)
		f.await("ERROR", last)
		f.line.set(false)
	})
	again("the API server hangs", 0, func() {
		pid := c.pid(t)
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		f.line.cut() // as its end of a hung connection would be, after a while
		select {
		case u := <-f.updates:
			t.Errorf("from a server that hangs: %s", said(u))
		case <-time.After(2 * time.Second):
		}
		must(t, syscall.Kill(pid, syscall.SIGCONT))
	})
	// A new server may know no changes from before its start, and says 410 Gone.
	again("the API server is killed", 1, func() {
		start := c.kill(t)
		f.await("ERROR", last)
		start()
	})
	lists := f.line.lists()
	f.line.mu.Lock()
	f.line.expire = true
	f.line.mu.Unlock()
	f.line.cut()
	was := last
	eventually(t, "the source lists again after 410", func() bool {
		return f.line.lists() > lists
	})
	f.await(changed(), "ERROR", was)
	if n := f.line.lists() - lists; n != 1 {
		t.Errorf("410 Gone: %d lists, want one", n)
	}
}

func TestWithoutPermission(t *testing.T) {
	c := requireCluster(t)
	c.object(t, "secret", v1alpha1.NodeENISpec{})
	c.attach(t, "secret", on(here, eni1))
	user, err := c.env.AddUser(envtest.User{Name: "eniagent"}, nil)
	must(t, err)
	// The way there is a kubeconfig file's.
	kubeconfig, err := user.KubeConfig()
	must(t, err)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(path, kubeconfig, 0o600))
	config, err := nodeeni.Connect(path)
	must(t, err)
	f := follow(t, c, config)
	u := f.await("ERROR")
	if !strings.Contains(u.Err.Error(), "forbidden") || !strings.Contains(u.Err.Error(), "let this agent's service account list and watch node") {
		t.Errorf("the error does not say what to do: %v", u.Err)
	}
	// Each kind comes by itself, and what is still unknown is kept.
	const secret = "secret/" + eni1 + " mac " + mac1 + " up ena"
	c.allow(t, "enis", v1alpha1.Group, v1alpha1.Resource)
	u = f.await(secret+"; nodeinterfacepolicy REFUSED", "ERROR")
	if r := u.Desired.Refused[0].Reason; !strings.Contains(r, "let this agent's service account list and watch nodeinterfacepolicies.eniagent.dev") {
		t.Errorf("the refusal does not say what to do: %s", r)
	}
	c.allow(t, "policies", policyv1alpha1.Group, policyv1alpha1.Resource)
	f.await(secret, secret+"; nodeinterfacepolicy REFUSED") // there are none, whatever the node's labels
	c.policy(t, "bad", "", "pci: '0000:3b:00.0', up: true")
	u = f.await(secret+"; nodeinterfacepolicy REFUSED", secret)
	if r := u.Desired.Refused[0].Reason; !strings.Contains(r, "let this agent's service account list and watch nodes") {
		t.Errorf("the refusal does not say what to do: %s", r)
	}
	c.node(t, here, "")
	c.allow(t, "nodes", "", "nodes")
	f.await(secret+"; nodeinterfacepolicy/bad/0000:3b:00.0 pci 0000:3b:00.0 up", secret+"; nodeinterfacepolicy REFUSED")
}

// allow lets the user of this test list and watch one kind.
func (c *cluster) allow(t *testing.T, name, group, resource string) {
	t.Helper()
	role := &rbac.ClusterRole{Rules: []rbac.PolicyRule{{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{"list", "watch"}}}}
	role.Name = "eniagent-" + name
	binding := &rbac.ClusterRoleBinding{
		RoleRef:  rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.UserKind, Name: "eniagent"}},
	}
	binding.Name = role.Name
	for _, o := range []client.Object{role, binding} {
		must(t, c.client.Create(t.Context(), o))
		t.Cleanup(func() { must(t, c.client.Delete(context.Background(), o)) })
	}
}

// TestManyObjectsOfOthers: what they cost is the time of reading them.
func TestManyObjectsOfOthers(t *testing.T) {
	c := requireCluster(t)
	const many = 1000
	attachments := make([]v1alpha1.ENIAttachment, 20)
	for i := range attachments {
		attachments[i] = on(fmt.Sprintf("other-%d", i), fmt.Sprintf("eni-%017d", i))
	}
	each := func(fn func(name string) error) {
		t.Helper()
		errs := make(chan error, many)
		slots := make(chan struct{}, 8)
		for i := range many {
			go func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				errs <- fn(fmt.Sprintf("other-%d", i))
			}()
		}
		for range many {
			must(t, <-errs)
		}
	}
	ctx := context.Background()
	each(func(name string) error {
		o := &v1alpha1.NodeENI{Spec: v1alpha1.NodeENISpec{NodeSelector: map[string]string{"a": "b"}, Description: strings.Repeat("x", 500)}}
		o.Name = name
		if err := c.client.Create(ctx, o); err != nil {
			return err
		}
		o.Status.Attachments = attachments
		return c.client.Status().Update(ctx, o)
	})
	t.Cleanup(func() {
		must(t, c.client.DeleteAllOf(ctx, &v1alpha1.NodeENI{}))
	})
	c.object(t, "own", v1alpha1.NodeENISpec{})
	c.attach(t, "own", on(here, eni1))
	before := heap()
	f := follow(t, c, nil)
	f.await("own/" + eni1 + " mac " + mac1 + " up ena")
	kept := int64(heap()) - int64(before)
	t.Logf("%d objects of other nodes, about 8 MB of JSON: %d KB are kept", many, kept>>10)
	if kept > 1<<20 {
		t.Errorf("%d bytes are kept", kept)
	}
}

// heap is what is in use once nothing else is.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestExistingObjectsStayValid: whatever the controller's own definition lets
// pass, and its defaults.
func TestExistingObjectsStayValid(t *testing.T) {
	c := requireCluster(t)
	odd := v1alpha1.NodeENISpec{
		NodeSelector: map[string]string{}, DeviceIndex: -7, MTU: 1 << 40, EnableDPDK: true, DPDKDriver: "☃", DPDKResourceName: "//", DPDKPCIAddress: "eth1",
		SubnetIDs: []string{"", "x"}, SecurityGroupNames: []string{strings.Repeat("y", 10_000)},
	}
	c.object(t, "odd", odd)
	c.attach(t, "odd", v1alpha1.ENIAttachment{NodeID: "", Status: "whatever", LastUpdated: metav1.Now(), MTU: -1})
	samples := []string{
		`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"name":"nothing"}}`,
		`{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"name":"least"},"spec":{"nodeSelector":{"ng":"multi-eni"},"dpdkEnabled":true}}`,
	}
	for i, name := range []string{"nothing", "least"} {
		c.kubectl(t, samples[i], "apply", "-f", "-")
		t.Cleanup(func() { c.remove(t, name) })
	}
	o := &v1alpha1.NodeENI{}
	must(t, c.client.Get(t.Context(), client.ObjectKey{Name: "least"}, o))
	if o.Spec.DeviceIndex != 1 || !o.Spec.DeleteOnTermination {
		t.Errorf("defaults are %+v", o.Spec)
	}
	table := c.kubectl(t, "", "get", "neni")
	if head := strings.Join(strings.Fields(strings.SplitN(table, "\n", 2)[0]), " "); head != "NAME INDEX MTU DPDK RESOURCE FIRST NODE STATE READY AGE" {
		t.Errorf("kubectl get neni shows\n%s", table)
	}
}

// kubectl is the real one.
func (c *cluster) kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(path, c.env.KubeConfig, 0o600))
	cmd := exec.CommandContext(t.Context(), filepath.Join(c.assets, "kubectl"), append([]string{"--kubeconfig", path, "--validate=false"}, args...)...)
	if args[0] == "get" || args[0] == "describe" {
		cmd.Args = slices.Delete(cmd.Args, 3, 4)
	}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestWhatIsGeneratedIsCommitted: the definitions and the copying are the types'.
func TestWhatIsGeneratedIsCommitted(t *testing.T) {
	c := requireCluster(t)
	for definition, types := range map[string]string{
		"networking.k8s.aws_nodeenis.yaml":        "agent/source/nodeeni/v1alpha1",
		"eniagent.dev_nodeinterfacepolicies.yaml": "agent/source/nodeeni/policy/v1alpha1",
	} {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), filepath.Join(c.assets, "controller-gen"), "object", "crd",
			"paths=./"+types, "output:crd:dir="+dir, "output:object:dir="+dir)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("controller-gen: %v\n%s", err, out)
		}
		for name, at := range map[string]string{definition: crds, "zz_generated.deepcopy.go": filepath.Join(root, types)} {
			want, err := os.ReadFile(filepath.Join(dir, name))
			must(t, err)
			got, err := os.ReadFile(filepath.Join(at, name))
			must(t, err)
			if string(got) != string(want) {
				t.Errorf("%s of %s is not what its types say: run .ci/kube-generate", name, types)
			}
		}
	}
}
