package nodeeni

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/go-kit/log"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"eniagent/agent/source"
	"eniagent/agent/source/nodeeni/events"
	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
	"eniagent/agent/source/nodeeni/v1alpha1"
	"eniagent/supervise"
)

// Name is the source's, and Object what it reads.
const (
	Name   = "kubernetes"
	Object = v1alpha1.Resource + "." + v1alpha1.Group + ", " + policyv1alpha1.Resource + "." + policyv1alpha1.Group
)

// Options are what the source is made of. Those that say so may be left out.
type Options struct {
	// Node is the name of this node in the API, as status.attachments have it.
	Node string
	// Config is how to reach the API; Connect makes it.
	Config *rest.Config
	// Metadata is where the instance metadata answers; "" is where AWS has it.
	Metadata string
	// KernelDriver is the kernel's driver of an ENI; "" is ena.
	KernelDriver string
	Logger       log.Logger // may be nil
}

// Source follows the NodeENIs and NodeInterfacePolicies that concern one node.
type Source struct {
	o      Options
	apis   *apis
	macs   lookup
	writer *writer
	news   *news
	events *events.Recorder
}

// Connect is how to reach the API of a kubeconfig file; "" is the API of the
// cluster that this program is a pod of.
func Connect(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		c, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("reach the Kubernetes API as a pod: %w: outside of a cluster name a kubeconfig file", err)
		}
		return c, nil
	}
	c, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	return c, nil
}

// CheckNode wants a name that a node of the API can have.
func CheckNode(name string) error {
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		return errors.New("want a node's name: lower case letters, digits, '-' and '.'")
	}
	return nil
}

var errNoNode = errors.New("the name of this node is missing: set it from spec.nodeName of the pod")

// New is the source of one node. It asks nothing yet.
func New(o Options) (*Source, error) {
	if o.Node == "" {
		return nil, errNoNode
	}
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	o.KernelDriver = cmp.Or(o.KernelDriver, defaultKernelDriver)
	all, err := newAPIs(o.Config, o.Node)
	if err != nil {
		return nil, err
	}
	m, err := newMetadata(o.Metadata)
	if err != nil {
		return nil, err
	}
	recorder, err := events.New(o.Config, o.Node, o.Logger)
	if err != nil {
		return nil, err
	}
	return &Source{
		o: o, apis: all, macs: m.macs, writer: newWriter(all.enis.patchStatus, all.policies.applyStatus(o.Node), o.Node, o.Logger),
		news: newNews(o.Node, recorder.Record), events: recorder,
	}, nil
}

// Updates sends an update when the objects were listed, or could not be, and
// whenever what they ask of this node changed; an offer that nobody has taken is
// replaced. The channel is closed once all behind it has ended, after ctx has.
func (s *Source) Updates(ctx context.Context) (<-chan source.Update, error) {
	kept := newStores(s.o.Node)
	owner := supervise.Of(ctx)
	behind := owner.Below("kubernetes")
	ctx = behind.In(ctx)
	behind.Go("nodeenis", func() { s.apis.enis.reflect(ctx, kept.enis, s.o.Logger) })
	behind.Go("policies", func() { s.apis.policies.reflect(ctx, kept.policies, s.o.Logger) })
	behind.Go("nodes", func() { s.apis.nodes.reflect(ctx, kept.nodes, s.o.Logger) })
	behind.Go("status", func() { s.writer.write(ctx) })
	behind.Go("events", func() { s.events.Run(ctx) })
	s.news.follow(kept)
	updates := make(chan source.Update)
	owner.Go("kubernetes", func() {
		defer close(updates)
		f := follower{kept: kept, macs: s.macs, kernelDriver: s.o.KernelDriver, show: s.show}
		f.follow(ctx, updates)
		behind.Wait()
	})
	return updates, nil
}

// show tells whoever writes about the objects what the API asks.
func (s *Source) show(p picture) {
	s.writer.show(p)
	s.news.show(p)
}

// Report has the status of the objects say how it stands, some moments later, and
// events tell of what is new.
func (s *Source) Report(r source.Report) {
	s.writer.Report(r)
	s.news.Report(r)
}
