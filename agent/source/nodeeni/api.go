package nodeeni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/go-kit/log"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"eniagent/agent/source/nodeeni/v1alpha1"
)

// listPatience is how long a list may take. A watch has the API's own timeout,
// and the connection under it is asked for signs of life.
const listPatience = time.Minute

// api lists and watches the NodeENI objects of a Kubernetes API.
type api struct {
	client     rest.Interface
	parameters runtime.ParameterCodec
	pace       pace
}

func newAPI(c *rest.Config) (*api, error) {
	if c == nil {
		return nil, errors.New("nothing says how to reach the Kubernetes API")
	}
	c = rest.CopyConfig(c)
	gv := v1alpha1.GroupVersion()
	c.APIPath, c.GroupVersion = "/apis", &gv
	a := &api{}
	c.NegotiatedSerializer, a.parameters = codecs()
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	c.WarningHandlerWithContext = rest.NoWarnings{}
	c.UserAgent = "eniagent"
	var err error
	if a.client, err = rest.RESTClientFor(c); err != nil {
		return nil, fmt.Errorf("reach the Kubernetes API: %w", err)
	}
	return a, nil
}

// reflect keeps in the store what the API has, until ctx ends.
func (a *api) reflect(ctx context.Context, s *store, logger log.Logger) {
	l := klogTo(logger)
	lw := &cache.ListWatch{
		ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return a.list(ctx, s, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return a.watch(ctx, s, o) },
	}
	r := cache.NewReflectorWithOptions(lw, &object{}, s, cache.ReflectorOptions{Name: Name, TypeDescription: v1alpha1.Kind, Logger: &l})
	r.RunWithContext(klog.NewContext(ctx, l))
}

// list asks for what there is at the earliest now: what some cache of the API
// has may be older than what this node acted on, before the agent's last start.
func (a *api) list(ctx context.Context, s *store, o metav1.ListOptions) (runtime.Object, error) {
	if o.ResourceVersion == "0" {
		o.ResourceVersion = ""
	}
	ctx, cancel := context.WithTimeoutCause(ctx, listPatience, fmt.Errorf("no answer within %s", listPatience))
	defer cancel()
	l := &objects{}
	if err := a.ask(o).Do(ctx).Into(l); err != nil {
		s.failed(fmt.Errorf("list %s: %w", Object, explained(err)))
		return nil, err
	}
	for i := range l.Items {
		l.Items[i].keep(s.node)
	}
	return l, nil
}

// ask is a request for the objects, made once: the reflector knows when to make
// it again.
func (a *api) ask(o metav1.ListOptions) *rest.Request {
	return a.client.Get().Resource(v1alpha1.Resource).VersionedParams(&o, a.parameters).MaxRetries(0)
}

// watch follows the changes since a resourceVersion, or, where the API can, has
// all objects sent first.
func (a *api) watch(ctx context.Context, s *store, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	w, err := a.ask(o).Watch(ctx)
	if err == nil && !nothing(w) {
		return newSteady(w, s, &a.pace), nil
	}
	err = cmp.Or(err, errNothing)
	resumable := away(err)
	if first := o.SendInitialEvents; resumable || first == nil || !*first {
		s.failed(fmt.Errorf("watch %s: %w", Object, explained(err)))
	}
	if resumable {
		err = unreachable{err}
	}
	return nil, err
}

// unreachable is an error after which the reflector goes on from where it was,
// which it does for a refused connection only: after any other it lists
// everything again.
type unreachable struct{ error }

func (unreachable) Unwrap() error { return syscall.ECONNREFUSED }

// away says that the API could not be reached, or is not itself just now: no
// answer to what was asked.
func away(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true
	}
	switch code := status.Status().Code; code {
	case http.StatusTooManyRequests, http.StatusNotFound: // an API that just started does not know all its resources
		return true
	default:
		return code >= http.StatusInternalServerError
	}
}

// explained adds to an API's answer what is to be done about it.
func explained(err error) error {
	// Of the way there the host is enough; what was asked is said already.
	if at := (*url.Error)(nil); errors.As(err, &at) {
		if u, broken := url.Parse(at.URL); broken == nil {
			return fmt.Errorf("%s://%s: %w", u.Scheme, u.Host, at.Err)
		}
	}
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: let this agent's service account get, list and watch %s", err, Object)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: the agent's credentials for the Kubernetes API are not valid", err)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: install the NodeENI resource, deploy/kubernetes/crds", err)
	}
	return err
}
