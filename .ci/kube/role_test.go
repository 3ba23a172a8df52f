package kube

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
	authn "k8s.io/api/authentication/v1"
	authz "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"eniagent/agent/source/nodeeni/v1alpha1"
)

func convert(t *testing.T, from map[string]any, to any) {
	t.Helper()
	must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(from, to))
}

// asTheAgent installs the manifests, and gives what the agent's pod would have.
func asTheAgent(t *testing.T, c *cluster) (*kubernetes.Clientset, *rest.Config) {
	t.Helper()
	c.deploy(t, built(t, c, kustomization))
	return c.as(t, namespace, "eniagent")
}

// as is the API to whoever has a token of a service account.
func (c *cluster) as(t *testing.T, namespace, name string) (*kubernetes.Clientset, *rest.Config) {
	t.Helper()
	admin, err := kubernetes.NewForConfig(c.env.Config)
	must(t, err)
	token, err := admin.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), name, &authn.TokenRequest{}, metav1.CreateOptions{})
	must(t, err)
	config := rest.AnonymousClientConfig(c.env.Config)
	config.QPS, config.BearerToken = -1, token.Status.Token
	api, err := kubernetes.NewForConfig(config)
	must(t, err)
	return api, config
}

// TestTheRoleIsWhatItGrants: of every verb on every resource that the API has,
// in namespaces of its own and of others, the agent may what the manifests grant
// and what any other service account may, and nothing else.
func TestTheRoleIsWhatItGrants(t *testing.T) {
	c := requireCluster(t)
	api, _ := asTheAgent(t, c)
	other := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "somebody", Namespace: "default"}}
	must(t, c.client.Create(t.Context(), other))
	t.Cleanup(func() { must(t, c.client.Delete(context.Background(), other)) })
	somebody, _ := c.as(t, other.Namespace, other.Name)
	want := shipped(t, built(t, c, kustomization))
	resources := resourcesOf(t, api)
	for a := range want {
		resources.Insert(act{group: a.group, resource: a.resource}) // also of definitions that are not installed
	}
	if len(resources) < 60 {
		t.Fatalf("the API tells of %d resources only", len(resources))
	}
	got, anybody := allowed(t, api, resources), allowed(t, somebody, resources)
	for a := range want {
		if !got.Has(a) || anybody.Has(a) {
			t.Errorf("the role does not allow: %s", a)
		}
	}
	for a := range got.Difference(anybody) {
		anywhere := a
		anywhere.namespace = ""
		if !want.Has(a) && !want.Has(anywhere) {
			t.Errorf("the role allows: %s", a)
		}
	}
}

// resourcesOf are all that an API tells of, with their subresources.
func resourcesOf(t *testing.T, api *kubernetes.Clientset) sets.Set[act] {
	t.Helper()
	_, lists, err := api.Discovery().ServerGroupsAndResources()
	must(t, err)
	resources := sets.New[act]()
	for _, list := range lists {
		group, _, found := strings.Cut(list.GroupVersion, "/")
		if !found {
			group = ""
		}
		for _, r := range list.APIResources {
			resources.Insert(act{group: group, resource: r.Name})
		}
	}
	return resources
}

// allowed are all acts on the resources that the API would let somebody do.
func allowed(t *testing.T, api *kubernetes.Clientset, resources sets.Set[act]) sets.Set[act] {
	t.Helper()
	verbs := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "impersonate", "escalate", "bind", "approve", "sign"}
	yes := sets.New[act]()
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(8)
	for r := range resources {
		for _, verb := range verbs {
			for _, ns := range []string{"", "kube-system", "default", namespace} {
				q := act{verb: verb, group: r.group, resource: r.resource, namespace: ns}
				g.Go(func() error {
					ok, err := may(ctx, api, q)
					if ok {
						mu.Lock()
						yes.Insert(q)
						mu.Unlock()
					}
					return err
				})
			}
		}
	}
	must(t, g.Wait())
	t.Logf("%d resources, %d times yes", len(resources), len(yes))
	return yes
}

func may(ctx context.Context, api *kubernetes.Clientset, a act) (bool, error) {
	resource, sub, _ := strings.Cut(a.resource, "/")
	review, err := api.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authz.SelfSubjectAccessReview{Spec: authz.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authz.ResourceAttributes{Verb: a.verb, Group: a.group, Resource: resource, Subresource: sub, Namespace: a.namespace},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("%s: %w", a, err)
	}
	return review.Status.Allowed, nil
}

// TestTheRoleInUse makes the agent's requests with its token, and those that
// would make it more than it is.
func TestTheRoleInUse(t *testing.T) {
	c := requireCluster(t)
	api, config := asTheAgent(t, c)
	objects, err := dynamic.NewForConfig(config)
	must(t, err)
	ctx := t.Context()
	c.object(t, "in-use", v1alpha1.NodeENISpec{})
	plugin := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "sriov-device-plugin-1", Namespace: "kube-system"},
		Spec:       corev1.PodSpec{NodeName: here, Containers: []corev1.Container{{Name: "a", Image: "a"}}},
	}
	must(t, c.client.Create(ctx, plugin))
	enis := objects.Resource(v1alpha1.GroupVersion().WithResource(v1alpha1.Resource))
	all, now := metav1.ListOptions{}, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	patch := func(fn func(pt types.PatchType, data []byte) error) error {
		return fn(types.MergePatchType, []byte(`{}`))
	}
	watched := func(w interface{ Stop() }, err error) error {
		if err == nil {
			w.Stop()
		}
		return err
	}
	for what, err := range map[string]error{
		"list nodeenis":  second(enis.List(ctx, all)),
		"watch nodeenis": watched(enis.Watch(ctx, all)),
		"patch nodeenis/status": patch(func(pt types.PatchType, data []byte) error {
			return second(enis.Patch(ctx, "in-use", pt, data, metav1.PatchOptions{}, "status"))
		}),
		"list nodes":   second(api.CoreV1().Nodes().List(ctx, all)),
		"watch nodes":  watched(api.CoreV1().Nodes().Watch(ctx, all)),
		"create event": second(api.EventsV1().Events("default").Create(ctx, anEvent(), metav1.CreateOptions{})),
		"patch event": patch(func(pt types.PatchType, data []byte) error {
			return second(api.EventsV1().Events("default").Patch(ctx, "eniagent-test", pt, data, metav1.PatchOptions{}))
		}),
		"list pods":  second(api.CoreV1().Pods("kube-system").List(ctx, all)),
		"watch pods": watched(api.CoreV1().Pods("kube-system").Watch(ctx, all)),
		"delete pod": api.CoreV1().Pods("kube-system").Delete(ctx, plugin.Name, now),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: plugin.Spec}
	for what, err := range map[string]error{
		"get secret":         second(api.CoreV1().Secrets("kube-system").Get(ctx, "a", metav1.GetOptions{})),
		"list secrets":       second(api.CoreV1().Secrets(namespace).List(ctx, all)),
		"create pod":         second(api.CoreV1().Pods("kube-system").Create(ctx, pod, metav1.CreateOptions{})),
		"list other pods":    second(api.CoreV1().Pods(namespace).List(ctx, all)),
		"delete other pod":   api.CoreV1().Pods("default").Delete(ctx, "a", now),
		"exec in the plugin": api.CoreV1().RESTClient().Post().Namespace("kube-system").Resource("pods").Name("a").SubResource("exec").Do(ctx).Error(),
		"create a token":     second(api.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, "eniagent", &authn.TokenRequest{}, metav1.CreateOptions{})),
		"get configmap":      second(api.CoreV1().ConfigMaps("kube-system").Get(ctx, "a", metav1.GetOptions{})),
		"get node":           second(api.CoreV1().Nodes().Get(ctx, here, metav1.GetOptions{})),
		"delete node":        api.CoreV1().Nodes().Delete(ctx, here, now),
		"delete nodeeni":     enis.Delete(ctx, "in-use", now),
		"get daemonsets":     second(api.AppsV1().DaemonSets(namespace).Get(ctx, "eniagent", metav1.GetOptions{})),
		"list events":        second(api.EventsV1().Events("default").List(ctx, all)),
		"events elsewhere":   second(api.EventsV1().Events(namespace).Create(ctx, anEvent(), metav1.CreateOptions{})),
		"patch nodeeni's spec": patch(func(pt types.PatchType, data []byte) error {
			return second(enis.Patch(ctx, "in-use", pt, data, metav1.PatchOptions{}))
		}),
		"patch node": patch(func(pt types.PatchType, data []byte) error {
			return second(api.CoreV1().Nodes().Patch(ctx, here, pt, data, metav1.PatchOptions{}))
		}),
		"patch node's status": patch(func(pt types.PatchType, data []byte) error {
			return second(api.CoreV1().Nodes().Patch(ctx, here, pt, data, metav1.PatchOptions{}, "status"))
		}),
		"patch its own role": patch(func(pt types.PatchType, data []byte) error {
			return second(api.RbacV1().ClusterRoles().Patch(ctx, "eniagent", pt, data, metav1.PatchOptions{}))
		}),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: want it forbidden, got %v", what, err)
		}
	}
}

// second is the error of what gives two.
func second[T any](_ T, err error) error { return err }

func anEvent() *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "eniagent-test", Namespace: "default"}, EventTime: metav1.NowMicro(), Type: "Normal", Reason: "Test", Action: "Test",
		ReportingController: "eniagent.dev/agent", ReportingInstance: here, Regarding: corev1.ObjectReference{Kind: v1alpha1.Kind, Name: "in-use"},
	}
}

// TestTheRolesTextIsThePlan: a change of the manifests' roles is a change here.
func TestTheRolesTextIsThePlan(t *testing.T) {
	c := requireCluster(t)
	got := acts(shipped(t, built(t, c, kustomization)))
	want := []string{
		"create events.events.k8s.io in default", "delete pods in kube-system", "list nodeenis.networking.k8s.aws",
		"list nodeinterfacepolicies.eniagent.dev", "list nodes", "list pods in kube-system", "patch events.events.k8s.io in default",
		"patch nodeenis/status.networking.k8s.aws", "patch nodeinterfacepolicies/status.eniagent.dev", "watch nodeenis.networking.k8s.aws",
		"watch nodeinterfacepolicies.eniagent.dev", "watch nodes", "watch pods in kube-system",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the roles allow\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// leading is a kubeconfig that leads to an API, as whoever the token is of.
func leading(address string, ca []byte, token string) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Config","current-context":"x","contexts":[{"name":"x","context":{"cluster":"c","user":"u"}}],
		"clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority-data":%q}}],"users":[{"name":"u","user":{"token":%q}}]}`,
		address, base64.StdEncoding.EncodeToString(ca), token)
}
