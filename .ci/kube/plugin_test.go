package kube

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"eniagent/agent"
	"eniagent/agent/source"
	"eniagent/agent/source/nodeeni/plugin"
	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

const pluginLabel = "sriov-device-plugin"

// node is what the kubelet and the DaemonSet's controller do for the plugin,
// which no test has: its pods, in a namespace of the test.
type pluginNode struct {
	*cluster
	t         *testing.T
	namespace string
}

func newPluginNode(t *testing.T, c *cluster) *pluginNode {
	t.Helper()
	ns := &core.Namespace{}
	ns.GenerateName = "plugin-"
	must(t, c.client.Create(t.Context(), ns))
	n := &pluginNode{c, t, ns.Name}
	t.Cleanup(func() { // nobody else would
		must(t, c.client.DeleteAllOf(context.Background(), &core.Pod{}, client.InNamespace(n.namespace), client.GracePeriodSeconds(0)))
	})
	return n
}

// pod makes one, as the DaemonSet's controller does.
func (n *pluginNode) pod(name, on string) {
	n.t.Helper()
	yes := true
	p := &core.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: n.namespace, Labels: map[string]string{"name": pluginLabel},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "sriov", UID: types.UID("1"), Controller: &yes}},
		},
		Spec: core.PodSpec{NodeName: on, Containers: []core.Container{{Name: "plugin", Image: "plugin"}}},
	}
	must(n.t, n.client.Create(context.Background(), p))
}

// starts is what the kubelet tells of a pod that started.
func (n *pluginNode) starts(name string, at time.Time, ready bool) {
	n.t.Helper()
	must(n.t, n.status(name, at, ready))
}

func (n *pluginNode) status(name string, at time.Time, ready bool) error {
	p := &core.Pod{}
	if err := n.client.Get(context.Background(), client.ObjectKey{Namespace: n.namespace, Name: name}, p); err != nil {
		return err
	}
	is := core.ConditionFalse
	if ready {
		is = core.ConditionTrue
	}
	p.Status.Phase = core.PodRunning
	p.Status.Conditions = []core.PodCondition{{Type: core.PodReady, Status: is, Reason: "ContainersNotReady"}}
	p.Status.ContainerStatuses = []core.ContainerStatus{{
		Name: "plugin", Image: "plugin", Ready: ready, State: core.ContainerState{Running: &core.ContainerStateRunning{StartedAt: metav1.NewTime(at)}},
	}}
	return n.client.Status().Update(context.Background(), p)
}

// crashes is what the kubelet tells of a pod that has ended too often, and when it
// was started last.
func (n *pluginNode) crashes(name string, at time.Time) {
	n.t.Helper()
	p := &core.Pod{}
	must(n.t, n.client.Get(context.Background(), client.ObjectKey{Namespace: n.namespace, Name: name}, p))
	p.Status.Phase = core.PodRunning
	p.Status.Conditions = []core.PodCondition{{Type: core.PodReady, Status: core.ConditionFalse, Reason: "ContainersNotReady"}}
	p.Status.ContainerStatuses = []core.ContainerStatus{{
		Name: "plugin", Image: "plugin", RestartCount: 5,
		State: core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 2m40s restarting failed container"}},
		LastTerminationState: core.ContainerState{Terminated: &core.ContainerStateTerminated{
			ExitCode: 1, Reason: "Error", StartedAt: metav1.NewTime(at), FinishedAt: metav1.NewTime(at.Add(time.Second)),
		}},
	}}
	must(n.t, n.client.Status().Update(context.Background(), p))
}

// ends is what the kubelet does when a pod has ended.
func (n *pluginNode) ends(name string) {
	n.t.Helper()
	p := &core.Pod{}
	p.Namespace, p.Name = n.namespace, name
	must(n.t, n.client.Delete(context.Background(), p, client.GracePeriodSeconds(0)))
}

// isDeleted says that somebody asked for the end of a pod, gracefully.
func (n *pluginNode) isDeleted(name string) bool {
	p := &core.Pod{}
	err := n.client.Get(context.Background(), client.ObjectKey{Namespace: n.namespace, Name: name}, p)
	return err == nil && p.DeletionTimestamp != nil && *p.DeletionGracePeriodSeconds == 30
}

// requests notes what a restarter asks for, and may come before a deletion.
type requests struct {
	http.RoundTripper

	mu       sync.Mutex
	verbs    []string
	answered int
	before   func() // the next deletion
}

// noted notes what is asked with a configuration.
func noted(config *rest.Config) *requests {
	asked := &requests{}
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		asked.RoundTripper = rt
		return asked
	})
	return asked
}

func (r *requests) RoundTrip(q *http.Request) (*http.Response, error) {
	what := strings.ToLower(q.Method)
	if q.URL.Query().Get("watch") != "" {
		what = "watch"
	}
	r.mu.Lock()
	r.verbs = append(r.verbs, what)
	before := r.before
	if what == "delete" {
		r.before = nil
	}
	r.mu.Unlock()
	if what == "delete" && before != nil {
		before()
	}
	answer, err := r.RoundTripper.RoundTrip(q)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered++
	return answer, err
}

// answers are the requests that have got one.
func (r *requests) answers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answered
}

func (r *requests) count(what string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.verbs {
		if v == what {
			n++
		}
	}
	return n
}

// restarter is the product's, over a line that can be cut.
func (n *pluginNode) restarter(config *rest.Config) (*plugin.Restarter, *line, *requests) {
	n.t.Helper()
	if config == nil {
		config = n.env.Config
	}
	l, config := newLine(n.t, config)
	asked := noted(config)
	r, err := plugin.New(plugin.Options{
		Config: config, Node: here, Namespace: n.namespace, Selector: "name=" + pluginLabel, Logger: log.NewLogfmtLogger(n.t.Output()),
	})
	must(n.t, err)
	return r, l, asked
}

// restarting is a restart under way.
type restarting struct {
	t     *testing.T
	ended chan struct{}
	done  source.Restarted
	err   error

	mu    sync.Mutex
	waits string
}

func restart(t *testing.T, r source.Restarter, last time.Time) *restarting {
	c := &restarting{t: t, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		c.done, c.err = r.Restart(t.Context(), source.Owed{Number: 1, Last: last, Why: "test"}, func(what string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.waits = what
		})
	}()
	return c
}

func (c *restarting) waitsFor(what string) {
	c.t.Helper()
	eventually(c.t, "it waits for "+what, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return strings.Contains(c.waits, what)
	})
}

// end is how it ended: what it says, or the error.
func (c *restarting) end() string {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(2 * time.Minute):
		c.t.Fatal("it does not end")
	}
	if c.err != nil {
		return "ERROR " + c.err.Error()
	}
	return strings.TrimSpace(c.done.How + " " + c.done.Warning)
}

func (c *restarting) ends(want string) {
	c.t.Helper()
	if got := c.end(); !strings.Contains(got, want) {
		c.t.Errorf("it ended with %q, want %q", got, want)
	}
}

// TestThePluginIsRestarted on this node, and on no other.
func TestThePluginIsRestarted(t *testing.T) {
	n := newPluginNode(t, requireCluster(t))
	r, l, asked := n.restarter(nil)
	long, change := time.Now().Add(-time.Hour), time.Now().Add(-5*time.Second)
	n.pod("old", here)
	n.starts("old", long, true)
	n.pod("other", there)
	n.starts("other", long, true)
	c := restart(t, r, change)
	c.waitsFor("the end of pod " + n.namespace + "/old, which is being deleted")
	if !n.isDeleted("old") || n.isDeleted("other") {
		t.Error("want the pod of this node deleted, gracefully")
	}
	l.cut() // the watch goes on
	n.pod("new", here)
	n.ends("old")
	c.waitsFor("the start of pod " + n.namespace + "/new")
	n.starts("new", time.Now(), false)
	c.waitsFor("new to be ready")
	n.starts("new", time.Now(), true)
	c.ends("it was restarted, and pod " + n.namespace + "/new is ready")
	restart(t, r, change).ends("new is ready")
	n.ends("new")
	again, _, _ := n.restarter(nil)
	restart(t, again, change).ends("no pod name=" + pluginLabel)
	if asked.count("delete") != 1 {
		t.Errorf("asked for %v", asked.verbs)
	}
}

// TestThePluginStartsByItself between the look at it and its deletion: the API
// holds the deletion against the pod as it was.
func TestThePluginStartsByItself(t *testing.T) {
	n := newPluginNode(t, requireCluster(t))
	r, _, asked := n.restarter(nil)
	n.pod("old", here)
	n.starts("old", time.Now().Add(-time.Hour), true)
	change := time.Now().Add(-5 * time.Second)
	asked.before = func() {
		if err := n.status("old", time.Now(), true); err != nil {
			t.Error(err)
		}
	}
	restart(t, r, change).ends("old has started since")
	if n.isDeleted("old") || asked.count("delete") != 1 {
		t.Errorf("want one deletion, refused; asked for %v", asked.verbs)
	}
}

// TestAPluginThatCrashesIsRestarted: it is not left to the kubelet's back-off, of
// minutes by then. What follows it crashes too, and has read the change.
func TestAPluginThatCrashesIsRestarted(t *testing.T) {
	n := newPluginNode(t, requireCluster(t))
	r, _, asked := n.restarter(nil)
	change := time.Now().Add(-5 * time.Second)
	n.pod("old", here)
	n.crashes("old", change.Add(-time.Minute))
	c := restart(t, r, change)
	c.waitsFor("the end of pod " + n.namespace + "/old, which is being deleted")
	n.ends("old")
	n.pod("new", here)
	n.starts("new", time.Now(), true)
	c.ends("it was restarted, and pod " + n.namespace + "/new is ready")
	n.crashes("new", change.Add(3*time.Second))
	again, _, asked2 := n.restarter(nil)
	restart(t, again, change).ends("pod " + n.namespace + "/new has started since")
	if asked.count("delete") != 1 || asked2.count("delete") != 0 {
		t.Errorf("asked for %v, then for %v", asked.verbs, asked2.verbs)
	}
}

// TestTheAPIGoesAwayDuringARestart: it is asked again, and deletes nothing twice.
func TestTheAPIGoesAwayDuringARestart(t *testing.T) {
	n := newPluginNode(t, requireCluster(t))
	r, l, asked := n.restarter(nil)
	n.pod("old", here)
	n.starts("old", time.Now().Add(-time.Hour), true)
	change := time.Now().Add(-5 * time.Second)
	l.set(true)
	restart(t, r, change).ends("ERROR")
	l.set(false)
	c := restart(t, r, change)
	c.waitsFor("the end of pod")
	l.set(true)
	c.ends("ERROR")
	n.ends("old")
	n.pod("new", here)
	n.starts("new", time.Now(), true)
	l.set(false)
	restart(t, r, change).ends("new is ready")
	if asked.count("delete") != 1 {
		t.Errorf("asked for %v", asked.verbs)
	}
}

// TestRestartingWithoutPermission says what is missing; with no more than that,
// it can.
func TestRestartingWithoutPermission(t *testing.T) {
	n := newPluginNode(t, requireCluster(t))
	user, err := n.env.AddUser(envtest.User{Name: "restarter"}, nil)
	must(t, err)
	r, _, _ := n.restarter(user.Config())
	n.pod("old", here)
	n.starts("old", time.Now().Add(-time.Hour), true)
	change := time.Now().Add(-5 * time.Second)
	restart(t, r, change).ends("let this agent's service account list, watch and delete pods in that namespace")
	role := &rbac.Role{Rules: []rbac.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "watch", "delete"}}}}
	role.Namespace, role.Name = n.namespace, "restarter"
	binding := &rbac.RoleBinding{
		RoleRef:  rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "Role", Name: role.Name},
		Subjects: []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.UserKind, Name: "restarter"}},
	}
	binding.Namespace, binding.Name = n.namespace, "restarter"
	must(t, n.client.Create(t.Context(), role))
	must(t, n.client.Create(t.Context(), binding))
	var c *restarting
	eventually(t, "the API knows of the role", func() bool {
		c = restart(t, r, change)
		select {
		case <-c.ended:
			return false
		case <-time.After(time.Second):
			return true
		}
	})
	c.waitsFor("the end of pod")
	n.ends("old")
	n.pod("new", here)
	n.starts("new", time.Now(), true)
	c.ends("new is ready")
}

// feed is a source that says one thing.
type feed chan source.Update

func (f feed) Updates(context.Context) (<-chan source.Update, error) { return f, nil }

// machine is a node that outlives its agents: a simulated kernel, and a disk.
type machine struct {
	t      *testing.T
	kernel *sim.Kernel
	disk   *journal.Memory
}

// agent runs one, until the test or end is called; what it asks for is one
// function in a pool.
func (m *machine) agent(r source.Restarter) (a *agent.Agent, debt func() journal.Debt, end func()) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	boot, err := host.BootID(ctx, m.kernel)
	must(m.t, err)
	j, err := journal.OpenMemory(ctx, m.disk, journal.Options{BootID: boot, MachineID: "m"})
	must(m.t, err)
	asks := make(feed, 1)
	asks <- source.Update{Desired: &source.Desired{
		Source: "test", Object: "test", Generation: "1", Interfaces: []source.Interface{{
			Selector: source.Selector{PCI: "0000:02:00.0"}, State: source.Configured, Driver: "vfio-pci", Pool: "intel.com/x",
		}},
	}}
	a = agent.New(agent.Config{
		Journal: j, Host: m.kernel, Source: asks, Name: "test", Object: "test", Logger: log.NewLogfmtLogger(m.t.Output()),
		BootID: boot, MachineID: "m", Interval: 30 * time.Second, PluginFile: pluginFile, Plugin: r,
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = a.Reconcile(ctx) // that it was asked to
	}()
	end = sync.OnceFunc(func() {
		cancel()
		<-ended
		must(m.t, j.Close())
	})
	m.t.Cleanup(end)
	return a, func() journal.Debt { d, _ := j.Debt(deviceplugin.Restart); return d }, end
}

// TestAnAgentEndsDuringARestart: the next one finds the debt, and that it needs
// no second restart, whether the pod that it would delete is still ending, has
// not started, or has.
func TestAnAgentEndsDuringARestart(t *testing.T) {
	for made, when := range []string{"it is ending", "there is no other", "the next has not started", "the next is ready"} {
		t.Run(when, func(t *testing.T) {
			n := newPluginNode(t, requireCluster(t))
			m := &machine{t, sim.New(sim.DefaultNode()), journal.NewMemory()}
			must(t, m.kernel.WriteFile(pluginFile, `{"resourceList": []}`))
			n.pod("old", here)
			n.starts("old", time.Now().Add(-time.Hour), true)
			r, _, first := n.restarter(nil)
			_, debt, end := m.agent(r)
			eventually(t, "the pod is deleted", func() bool { return n.isDeleted("old") })
			end()
			if d := debt(); d.Open() != 1 || first.count("delete") != 1 {
				t.Fatalf("%+v, asked for %v", d, first.verbs)
			}
			next := []func(){
				func() { n.ends("old") },
				func() { n.pod("new", here) },
				func() { n.starts("new", time.Now(), true) },
			}
			for _, step := range next[:made] {
				step()
			}
			r, _, second := n.restarter(nil)
			a, debt, end := m.agent(r)
			if waits := []string{"the end of pod", "", "the start of pod", ""}[made]; waits != "" {
				eventually(t, "the agent waits for "+waits, func() bool {
					s := a.Status(t.Context()).PluginRestart
					return s != nil && strings.Contains(s.Waiting, waits)
				})
			}
			for _, step := range next[made:] {
				step()
			}
			eventually(t, "it is paid", func() bool { return debt().Open() == 0 })
			end()
			if second.count("delete") != 0 {
				t.Errorf("the second agent asked for %v", second.verbs)
			}
			m.pools("0000:02:00.0")
		})
	}
}

// pools wants one function in the plugin's file.
func (m *machine) pools(function drivers.Target) {
	m.t.Helper()
	file, err := m.kernel.File(m.t.Context(), pluginFile)
	must(m.t, err)
	d, err := deviceplugin.Parse(file)
	must(m.t, err)
	if s, err := d.State("intel.com/x"); err != nil || !slices.Equal(deviceplugin.Functions(s), []drivers.Target{function}) {
		m.t.Errorf("the file has %s, %v", s, err)
	}
}
