package nodeeni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
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
)

// listPatience is how long a list may take. A watch has the API's own timeout,
// and the connection under it is asked for signs of life.
const listPatience = time.Minute

// api lists and watches the objects of one kind.
type api struct {
	kind       kind
	client     rest.Interface
	parameters runtime.ParameterCodec
	pace       pace
}

// keeper is what a reflector fills.
type keeper interface {
	cache.ReflectorStore
	of() (node string)
	failed(err error) // the API could not be asked
	restored()        // it can be again
}

// reflect keeps in the store what the API has, until ctx ends.
func (a *api) reflect(ctx context.Context, s keeper, logger log.Logger) {
	l := klogTo(logger)
	lw := &cache.ListWatch{
		ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return a.list(ctx, s, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return a.watch(ctx, s, o) },
	}
	r := cache.NewReflectorWithOptions(lw, a.kind.one, s, cache.ReflectorOptions{Name: Name, TypeDescription: a.kind.name, Logger: &l})
	r.RunWithContext(klog.NewContext(ctx, l))
}

// list asks for what there is at the earliest now: what some cache of the API
// has may be older than what this node acted on, before the agent's last start.
func (a *api) list(ctx context.Context, s keeper, o metav1.ListOptions) (runtime.Object, error) {
	if o.ResourceVersion == "0" {
		o.ResourceVersion = ""
	}
	ctx, cancel := context.WithTimeoutCause(ctx, listPatience, fmt.Errorf("no answer within %s", listPatience))
	defer cancel()
	l := a.kind.many()
	if err := a.ask(o).Do(ctx).Into(l); err != nil {
		s.failed(fmt.Errorf("list %s: %w", a.kind, a.kind.explained(err)))
		return nil, err
	}
	l.keep(s.of())
	return l, nil
}

// ask is a request for the objects, made once: the reflector knows when to make
// it again.
func (a *api) ask(o metav1.ListOptions) *rest.Request {
	o.FieldSelector = a.kind.selector
	r := a.client.Get().Resource(a.kind.resource).VersionedParams(&o, a.parameters).MaxRetries(0)
	if !a.kind.metadata {
		return r
	}
	form := "PartialObjectMetadataList"
	if o.Watch {
		form = "PartialObjectMetadata"
	}
	return r.SetHeader("Accept", runtime.ContentTypeJSON+";as="+form+";g=meta.k8s.io;v=v1")
}

// watch follows the changes since a resourceVersion, or, where the API can, has
// all objects sent first.
func (a *api) watch(ctx context.Context, s keeper, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	w, err := a.ask(o).Watch(ctx)
	if err == nil && !nothing(w) {
		return newSteady(ctx, w, s, a.kind, &a.pace), nil
	}
	err = cmp.Or(err, errNothing)
	resumable := away(err)
	if first := o.SendInitialEvents; resumable || first == nil || !*first {
		s.failed(fmt.Errorf("watch %s: %w", a.kind, a.kind.explained(err)))
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
