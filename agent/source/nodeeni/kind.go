package nodeeni

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
	"eniagent/agent/source/nodeeni/v1alpha1"
)

// kind is one kind of object that is read from the API.
type kind struct {
	gv       schema.GroupVersion
	name     string // "NodeENI"
	resource string // "nodeenis"
	// selector of fields; "" is for all objects.
	selector string
	// metadata says that no more than that is asked for.
	metadata bool
	// one and many are what the API's answers are read as.
	one  runtime.Object
	many func() bundle
}

// bundle is what a list is read as.
type bundle interface {
	runtime.Object
	// keep drops what does not concern a node.
	keep(node string)
}

// String is the kind as kubectl and roles have it: "nodeenis.networking.k8s.aws".
func (k kind) String() string {
	if k.gv.Group == "" {
		return k.resource
	}
	return k.resource + "." + k.gv.Group
}

func nodeENIs() kind {
	return kind{
		gv: v1alpha1.GroupVersion(), name: v1alpha1.Kind, resource: v1alpha1.Resource,
		one: &object{}, many: func() bundle { return &bundleOf[object, *object]{} },
	}
}

func nodePolicies() kind {
	return kind{
		gv: policyv1alpha1.GroupVersion(), name: policyv1alpha1.Kind, resource: policyv1alpha1.Resource,
		one: &policy{}, many: func() bundle { return &bundleOf[policy, *policy]{} },
	}
}

func nodesNamed(name string) kind {
	return kind{
		gv: schema.GroupVersion{Version: "v1"}, name: "Node", resource: "nodes", selector: "metadata.name=" + name, metadata: true,
		one: &node{}, many: func() bundle { return &bundleOf[node, *node]{} },
	}
}

// bundleOf is a list of one kind.
type bundleOf[T any, P interface {
	*T
	item
}] struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []T `json:"items"`
}

func (l *bundleOf[T, P]) keep(node string) {
	for i := range l.Items {
		P(&l.Items[i]).keep(node)
	}
}

// DeepCopyObject makes it a runtime.Object.
func (l *bundleOf[T, P]) DeepCopyObject() runtime.Object {
	c := &bundleOf[T, P]{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		c.Items = append(c.Items, *P(&l.Items[i]).DeepCopyObject().(P))
	}
	return c
}

// codecs read what the API answers about a kind.
func (k kind) codecs() (runtime.NegotiatedSerializer, runtime.ParameterCodec) {
	scheme := runtime.NewScheme()
	known := func(gv schema.GroupVersion, name string) {
		scheme.AddKnownTypeWithName(gv.WithKind(name), k.one)
		scheme.AddKnownTypeWithName(gv.WithKind(name+"List"), k.many())
	}
	known(k.gv, k.name)
	if k.metadata {
		known(schema.GroupVersion{Group: "meta.k8s.io", Version: "v1"}, "PartialObjectMetadata")
	}
	metav1.AddToGroupVersion(scheme, k.gv)
	return serializer.NewCodecFactory(scheme).WithoutConversion(), runtime.NewParameterCodec(scheme)
}

// connect is the API of a kind.
func connect(c *rest.Config, transport *http.Client, k kind) (*api, error) {
	c = rest.CopyConfig(c)
	c.APIPath, c.GroupVersion = "/apis", &k.gv
	if k.gv.Group == "" {
		c.APIPath = "/api"
	}
	a := &api{kind: k}
	c.NegotiatedSerializer, a.parameters = k.codecs()
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	c.WarningHandlerWithContext = rest.NoWarnings{}
	c.UserAgent = "eniagent"
	var err error
	if a.client, err = rest.RESTClientForConfigAndClient(c, transport); err != nil {
		return nil, fmt.Errorf("reach the Kubernetes API: %w", err)
	}
	return a, nil
}

// apis are those of the kinds that are read, over one connection.
type apis struct{ enis, policies, nodes *api }

func newAPIs(c *rest.Config, node string) (*apis, error) {
	if c == nil {
		return nil, errors.New("nothing says how to reach the Kubernetes API")
	}
	transport, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("reach the Kubernetes API: %w", err)
	}
	all := &apis{}
	var errs [3]error
	all.enis, errs[0] = connect(c, transport, nodeENIs())
	all.policies, errs[1] = connect(c, transport, nodePolicies())
	all.nodes, errs[2] = connect(c, transport, nodesNamed(node))
	return all, cmp.Or(errs[:]...)
}

// explained adds to an API's answer what is to be done about it.
func (k kind) explained(err error) error {
	// Of the way there the host is enough; what was asked is said already.
	if at := (*url.Error)(nil); errors.As(err, &at) {
		if u, broken := url.Parse(at.URL); broken == nil {
			return fmt.Errorf("%s://%s: %w", u.Scheme, u.Host, retell(at.Err))
		}
	}
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: let this agent's service account list and watch %s", err, k)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: the agent's credentials for the Kubernetes API are not valid", err)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: install the %s resource, deploy/kubernetes/crds", err, k.name)
	}
	return err
}
