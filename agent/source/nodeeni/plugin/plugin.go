package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"eniagent/agent/source"
)

const (
	// patience is how long a request may take.
	patience = 30 * time.Second
	// watchFor is how long the API is watched before it is asked for all again.
	watchFor = 5 * time.Minute
	// relist is how long a watch that broke off is rested after; doubled each time.
	relist    = time.Second
	relistMax = 30 * time.Second
	// readiness is how long the pod that follows a deleted one has to be ready.
	readiness = time.Minute

	mirror = "kubernetes.io/config.mirror" // of a static pod, which only the kubelet can end
)

// Options are what a Restarter is made of.
type Options struct {
	// Config is how to reach the API; nodeeni.Connect makes it.
	Config *rest.Config
	// Node is the name of this node in the API.
	Node string
	// Namespace and Selector are where the pods of the plugin are, and their labels.
	Namespace string
	Selector  string
	Logger    log.Logger // may be nil
}

// api is what is asked of the Kubernetes API, of the plugin's pods on this node.
type api interface {
	list(ctx context.Context) (*pods, error)
	watch(ctx context.Context, from string) (watch.Interface, error)
	// remove asks for the end of a pod, if it is still as it is here.
	remove(ctx context.Context, p *pod) error
}

// Restarter is the device plugin's. It is a source.Restarter.
type Restarter struct {
	api    api
	node   string
	logger log.Logger
	where  string // what is looked for, for people

	mu  sync.Mutex // one at a time
	job job        // of the last change that was owed for
}

// New is the restarter of one node's plugin. It asks nothing yet.
func New(o Options) (*Restarter, error) {
	if o.Config == nil {
		return nil, errors.New("nothing says how to reach the Kubernetes API")
	}
	if o.Node == "" {
		return nil, errors.New("the name of this node is missing: set it from spec.nodeName of the pod")
	}
	if o.Namespace == "" {
		return nil, errors.New("the namespace of the device plugin is missing: want the one that its pods are in, such as kube-system")
	}
	if err := CheckSelector(o.Selector); err != nil {
		return nil, fmt.Errorf("selector of the device plugin's pods %q: %w", o.Selector, err)
	}
	c, err := newClient(o)
	if err != nil {
		return nil, err
	}
	return newRestarter(c, o), nil
}

func newRestarter(a api, o Options) *Restarter {
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	return &Restarter{
		api: a, node: o.Node, logger: log.With(o.Logger, "component", "plugin"),
		where: fmt.Sprintf("%s in namespace %s on node %s", o.Selector, o.Namespace, o.Node),
	}
}

// CheckNamespace wants the name of a namespace.
func CheckNamespace(name string) error {
	if len(validation.IsDNS1123Label(name)) > 0 {
		return errors.New("want a namespace's name: lower case letters, digits and '-'")
	}
	return nil
}

// CheckSelector wants labels that say what a pod is: what they only exclude
// would leave all other pods of the node.
func CheckSelector(text string) error {
	s, err := labels.Parse(text)
	if err != nil {
		return fmt.Errorf("%w: want labels such as name=sriov-device-plugin", err)
	}
	all, _ := s.Requirements()
	for _, r := range all {
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In, selection.Exists:
			return nil
		}
	}
	return errors.New("selects pods that are not the plugin's: want labels such as name=sriov-device-plugin")
}

// client is the real API.
type client struct {
	rest       rest.Interface
	parameters runtime.ParameterCodec
	o          Options
}

func newClient(o Options) (*client, error) {
	c := rest.CopyConfig(o.Config)
	gv := version()
	c.APIPath, c.GroupVersion = "/api", &gv
	k := &client{o: o}
	c.NegotiatedSerializer, k.parameters = codecs()
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	c.WarningHandlerWithContext = rest.NoWarnings{}
	c.UserAgent = "eniagent"
	var err error
	if k.rest, err = rest.RESTClientFor(c); err != nil {
		return nil, fmt.Errorf("reach the Kubernetes API: %w", err)
	}
	return k, nil
}

// ask is a request for these pods, made once: who asks knows when to ask again.
func (c *client) ask(o metav1.ListOptions) *rest.Request {
	o.LabelSelector, o.FieldSelector = c.o.Selector, "spec.nodeName="+c.o.Node
	return c.rest.Get().Namespace(c.o.Namespace).Resource("pods").VersionedParams(&o, c.parameters).MaxRetries(0)
}

// list asks for what there is at the earliest now: what a cache has may be older
// than the change.
func (c *client) list(ctx context.Context) (*pods, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %s", patience))
	defer cancel()
	l := &pods{}
	if err := c.ask(metav1.ListOptions{}).Do(ctx).Into(l); err != nil {
		return nil, c.explained("list", err)
	}
	return l, nil
}

func (c *client) watch(ctx context.Context, from string) (watch.Interface, error) {
	seconds := int64(watchFor / time.Second)
	w, err := c.ask(metav1.ListOptions{Watch: true, AllowWatchBookmarks: true, ResourceVersion: from, TimeoutSeconds: &seconds}).Watch(ctx)
	if err != nil {
		return nil, c.explained("watch", err)
	}
	return w, nil
}

func (c *client) remove(ctx context.Context, p *pod) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %s", patience))
	defer cancel()
	o := metav1.DeleteOptions{
		TypeMeta:      metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		Preconditions: &metav1.Preconditions{UID: &p.UID, ResourceVersion: &p.ResourceVersion},
	}
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	err = c.rest.Delete().Namespace(p.Namespace).Resource("pods").Name(p.Name).
		SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body).MaxRetries(0).Do(ctx).Error()
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return err
	}
	return c.explained("delete", err)
}

// explained adds to an API's answer what is to be done about it.
func (c *client) explained(verb string, err error) error {
	err = fmt.Errorf("%s pods %s in namespace %s: %w", verb, c.o.Selector, c.o.Namespace, err)
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: let this agent's service account list, watch and delete pods in that namespace", err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: the agent's credentials for the Kubernetes API are not valid", err)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: is that the address of a Kubernetes API?", err)
	}
	return err
}

// job is what is known of a change that was owed for.
type job struct {
	owed  source.Owed
	there map[types.UID]bool // the pods when it was first looked at: only these may be older
	ended map[types.UID]bool // those of them that were deleted
	until time.Time          // how long the next one has to be ready
}

// Restart implements source.Restarter.
func (r *Restarter) Restart(ctx context.Context, o source.Owed, waits func(string)) (source.Restarted, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rest := relist
	for {
		asked := time.Now()
		l, err := r.api.list(ctx)
		if err != nil {
			return source.Restarted{}, err
		}
		r.begin(o, l)
		done, over, err := r.follow(ctx, l, waits)
		if err != nil || over {
			return done, err
		}
		// A watch that breaks off again and again is no reason to list as often.
		rest = min(2*rest, relistMax)
		if time.Since(asked) > relistMax {
			rest = relist
		}
		if err := pause(ctx, rest); err != nil {
			return source.Restarted{}, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// begin keeps what was there when a change is looked at for the first time.
func (r *Restarter) begin(o source.Owed, l *pods) {
	if r.job.there != nil && r.job.owed.Number == o.Number && r.job.owed.Last.Equal(o.Last) {
		return
	}
	r.job = job{owed: o, there: map[types.UID]bool{}, ended: map[types.UID]bool{}}
	for _, p := range l.Items {
		r.job.there[p.UID] = true
	}
}

// follow does what is to be done about the pods of a list, and of a watch from
// there on, until it is over or all must be listed again.
func (r *Restarter) follow(ctx context.Context, l *pods, waits func(string)) (done source.Restarted, over bool, err error) {
	all := map[types.UID]*pod{}
	for i := range l.Items {
		all[l.Items[i].UID] = &l.Items[i]
	}
	if done, over, err = r.step(ctx, all, waits); over || err != nil {
		return done, over, err
	}
	watching, cancel := context.WithTimeout(ctx, watchFor+patience)
	defer cancel()
	w, err := r.api.watch(watching, l.ResourceVersion)
	if err != nil {
		return done, false, err
	}
	defer w.Stop()
	for {
		ready := time.NewTimer(time.Until(r.job.until))
		if r.job.until.IsZero() {
			ready.Stop()
		}
		select {
		case <-watching.Done():
			ready.Stop()
			return done, false, context.Cause(ctx) // nil when it was only the watch's time
		case e, more := <-w.ResultChan():
			ready.Stop()
			if !more || !take(all, e) {
				return done, false, nil
			}
		case <-ready.C:
		}
		if done, over, err = r.step(ctx, all, waits); over || err != nil {
			return done, over, err
		}
	}
}

// take notes what a watch tells; false when it has lost its place.
func take(all map[types.UID]*pod, e watch.Event) bool {
	p, ok := e.Object.(*pod)
	switch {
	case e.Type == watch.Error || !ok:
		return false
	case e.Type == watch.Deleted:
		delete(all, p.UID)
	case e.Type != watch.Bookmark:
		all[p.UID] = p
	}
	return true
}

// step deletes the pods that run since before the change, and says whether none
// is left and what is there instead.
func (r *Restarter) step(ctx context.Context, all map[types.UID]*pod, waits func(string)) (done source.Restarted, over bool, err error) {
	var wait []string
	var have []*pod // read it
	var errs []error
	for _, p := range slices.SortedFunc(maps.Values(all), func(a, b *pod) int { return strings.Compare(a.Name, b.Name) }) {
		if p.Spec.NodeName != r.node {
			continue
		}
		switch p.against(r.job.owed.Last, time.Now(), !r.job.there[p.UID]) {
		case read:
			have = append(have, p)
		case ending:
			wait = append(wait, fmt.Sprintf("the end of pod %s, which is being deleted", p.name()))
		case unstarted:
			why, _ := p.trouble()
			wait = append(wait, fmt.Sprintf("the start of pod %s: %s", p.name(), why))
		case stale:
			errs = append(errs, r.end(ctx, p))
			wait = append(wait, fmt.Sprintf("the end of pod %s, which was deleted", p.name()))
		case ended:
		}
	}
	if err := errors.Join(errs...); err != nil {
		return done, false, err
	}
	if len(wait) > 0 {
		waits(strings.Join(wait, "; "))
		return done, false, nil
	}
	done, over = r.settled(have, waits)
	return done, over, nil
}

// end deletes a pod, once. Where it is no longer as it was, the watch will tell.
func (r *Restarter) end(ctx context.Context, p *pod) error {
	if r.job.ended[p.UID] {
		return nil
	}
	const byHand = "restart it on this node, then: agent plugin-restarted %d"
	if _, static := p.Annotations[mirror]; static {
		return fmt.Errorf("pod %s is a static one, which only its kubelet can restart: "+byHand, p.name(), r.job.owed.Number)
	}
	if metav1.GetControllerOfNoCopy(p) == nil {
		return fmt.Errorf("pod %s belongs to no DaemonSet, and nobody would make it again: "+byHand, p.name(), r.job.owed.Number)
	}
	err := r.api.remove(ctx, p)
	if apierrors.IsConflict(err) {
		return nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	r.job.ended[p.UID] = true
	level.Info(r.logger).Log("target", p.name(), "why", r.job.owed.Why, "msg", "pod of the device plugin deleted, so that it reads its file anew")
	return nil
}

// settled says what became of it once nothing runs that read the file before.
func (r *Restarter) settled(have []*pod, waits func(string)) (done source.Restarted, over bool) {
	deleted := len(r.job.ended) > 0
	switch {
	case !deleted && len(have) == 0:
		return source.Restarted{How: "no pod " + r.where + " runs: the next reads what is there"}, true
	case !deleted:
		return source.Restarted{How: fmt.Sprintf("pod %s has started since", have[0].name())}, true
	}
	if r.job.until.IsZero() {
		r.job.until = time.Now().Add(readiness)
	}
	missing := []string{}
	for _, p := range have {
		if why, ready := p.trouble(); !ready {
			missing = append(missing, fmt.Sprintf("pod %s to be ready: %s", p.name(), why))
		}
	}
	switch {
	case len(have) > 0 && len(missing) == 0:
		return source.Restarted{How: fmt.Sprintf("it was restarted, and pod %s is ready", have[0].name())}, true
	case len(have) == 0:
		missing = append(missing, "another pod "+r.where)
	}
	what := strings.Join(missing, "; ")
	if time.Now().Before(r.job.until) {
		waits(what)
		return done, false
	}
	return source.Restarted{How: "it was restarted", Warning: fmt.Sprintf("waited %s in vain for %s", readiness, what)}, true
}
