package plugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"eniagent/agent/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	here      = "node-1"
	namespace = "kube-system"
)

func options() Options {
	return Options{Node: here, Namespace: namespace, Selector: "name=sriov-device-plugin"}
}

// world is an API with the pods of the plugin, and whoever else writes them.
type world struct {
	t *testing.T

	mu      sync.Mutex
	version int
	pods    map[string]*pod
	history []watch.Event // that of version i at i-1
	watches []*watch.RaceFreeFakeWatcher
	lists   int
	deleted []string // what was asked to be
	away    error    // what every request answers
	before  func()   // is called once, before the next request to delete
}

func newWorld(t *testing.T) *world { return &world{t: t, pods: map[string]*pod{}} }

func (w *world) restarter() *Restarter {
	o := options()
	o.Logger = log.NewLogfmtLogger(w.t.Output())
	return newRestarter(w, o)
}

func (w *world) list(context.Context) (*pods, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lists++
	if w.away != nil {
		return nil, w.away
	}
	l := &pods{ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(w.version)}}
	for _, name := range slices.Sorted(maps.Keys(w.pods)) {
		l.Items = append(l.Items, *w.pods[name].DeepCopyObject().(*pod))
	}
	return l, nil
}

func (w *world) watch(_ context.Context, from string) (watch.Interface, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away != nil {
		return nil, w.away
	}
	at, err := strconv.Atoi(from)
	if err != nil {
		return nil, err
	}
	f := watch.NewRaceFreeFake()
	for _, e := range w.history[at:] {
		f.Action(e.Type, e.Object)
	}
	w.watches = append(w.watches, f)
	return f, nil
}

func (w *world) remove(_ context.Context, p *pod) error {
	if before := w.before; before != nil {
		w.before = nil
		before()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	pods := schema.GroupResource{Resource: "pods"}
	now, ok := w.pods[p.Name]
	switch {
	case w.away != nil:
		return w.away
	case !ok:
		return apierrors.NewNotFound(pods, p.Name)
	case now.UID != p.UID || now.ResourceVersion != p.ResourceVersion:
		return apierrors.NewConflict(pods, p.Name, errors.New("precondition failed"))
	}
	w.deleted = append(w.deleted, p.Name)
	w.put(now, func(p *pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
	return nil
}

// put changes a pod and tells. The caller holds mu.
func (w *world) put(p *pod, change func(*pod)) {
	p = p.DeepCopyObject().(*pod)
	change(p)
	w.version++
	p.ResourceVersion = strconv.Itoa(w.version)
	what := watch.Modified
	if _, there := w.pods[p.Name]; !there {
		what = watch.Added
	}
	w.pods[p.Name] = p
	w.tell(watch.Event{Type: what, Object: p.DeepCopyObject()})
}

func (w *world) tell(e watch.Event) {
	w.history = append(w.history, e)
	for _, f := range w.watches {
		if !f.IsStopped() {
			f.Action(e.Type, e.Object)
		}
	}
}

// gone is what the kubelet does last.
func (w *world) gone(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pods[name]
	delete(w.pods, name)
	w.version++
	w.tell(watch.Event{Type: watch.Deleted, Object: p})
}

// change changes a pod, or makes it.
func (w *world) change(name string, change func(*pod)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.pods[name]
	if !ok {
		yes := true
		p = &pod{ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: namespace, UID: types.UID(fmt.Sprintf("%s-%d", name, w.version)),
			OwnerReferences: []metav1.OwnerReference{{Kind: "DaemonSet", Name: "sriov", Controller: &yes}},
		}}
		p.Spec.NodeName = here
		p.Spec.Containers = append(p.Spec.Containers, struct {
			Name string `json:"name"`
		}{"plugin"})
		p.Status.Phase = "Pending"
		p.Status.Conditions = []condition{{Type: "Ready", Status: "False", Reason: "ContainersNotReady"}}
	}
	w.put(p, change)
}

// cut ends all watches.
func (w *world) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.watches {
		f.Stop()
	}
	w.watches = nil
}

func (w *world) fail(err error) {
	w.mu.Lock()
	w.away = err
	w.mu.Unlock()
}

func (w *world) asked() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.deleted, " ")
}

// told is a time as the kubelet tells it.
func told(at time.Time) metav1.Time { return metav1.Time{Time: at.Truncate(time.Second)} }

func (s *state) run(at time.Time) {
	*s = state{Running: &struct {
		StartedAt metav1.Time `json:"startedAt"`
	}{told(at)}}
}

func (s *state) wait(reason string) {
	*s = state{Waiting: &struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}{Reason: reason}}
}

func (s *state) end(began time.Time) {
	*s = state{Terminated: &struct {
		StartedAt metav1.Time `json:"startedAt"`
		Reason    string      `json:"reason"`
	}{told(began), "Error"}}
}

// with has the one container of a pod stand so.
func with(change func(*container)) func(*pod) {
	return func(p *pod) {
		if len(p.Status.ContainerStatuses) == 0 {
			p.Status.ContainerStatuses = []container{{Name: "plugin"}}
		}
		change(&p.Status.ContainerStatuses[0])
	}
}

func running(at time.Time) func(*pod) {
	return func(p *pod) {
		p.Status.Phase = "Running"
		with(func(c *container) { c.State.run(at) })(p)
	}
}

func ready(p *pod) { p.Status.Conditions = []condition{{Type: "Ready", Status: "True"}} }

func waiting(reason string) func(*pod) {
	return with(func(c *container) { c.State.wait(reason) })
}

// call is a restart under way.
type call struct {
	w     *world
	ended bool
	done  source.Restarted
	err   error
	waits string
	mu    sync.Mutex
	stop  context.CancelFunc
}

// restart begins one for a change that was made some time ago.
func (w *world) restart(r source.Restarter, number uint64, last time.Time) *call {
	ctx, cancel := context.WithCancel(w.t.Context())
	c := &call{w: w, stop: cancel}
	go func() {
		done, err := r.Restart(ctx, source.Owed{Number: number, Last: last, Why: "test"}, func(what string) {
			c.mu.Lock()
			c.waits = what
			c.mu.Unlock()
		})
		c.mu.Lock()
		c.ended, c.done, c.err = true, done, err
		c.mu.Unlock()
	}()
	return c
}

// expect is what it waits for, or, from a '!' on, how it ended, a while later.
func (c *call) expect(want string, deleted string) {
	c.w.t.Helper()
	settled(5 * time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.waits
	switch {
	case c.err != nil:
		got = "! " + c.err.Error()
	case c.ended:
		got = strings.TrimSpace("! " + c.done.How + " " + c.done.Warning)
	}
	if !strings.HasPrefix(got, strings.TrimSuffix(want, "!")) || strings.HasPrefix(got, "!") != strings.HasPrefix(want, "!") {
		c.w.t.Errorf("it is %q, want %q", got, want)
	}
	if asked := c.w.asked(); asked != deleted {
		c.w.t.Errorf("deleted is %q, want %q", asked, deleted)
	}
}
