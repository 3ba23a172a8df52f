package kube

import (
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// act is something that one may be allowed to do, as an authorizer sees it. A
// request that is not for a resource has a path.
type act struct {
	verb, group, resource, namespace, path string
}

func (a act) String() string {
	if a.path != "" {
		return a.verb + " " + a.path
	}
	name := a.resource
	if a.group != "" {
		name += "." + a.group
	}
	if a.namespace != "" {
		name += " in " + a.namespace
	}
	return a.verb + " " + name
}

// acts are sorted, so that two sets of them compare as text.
func acts(all sets.Set[act]) (names []string) {
	for a := range all {
		names = append(names, a.String())
	}
	slices.Sort(names)
	return names
}

// recorder notes what is asked of an API, in the terms of roles.
type recorder struct {
	infos *request.RequestInfoFactory

	mu      sync.Mutex
	seen    map[act]int // how often
	refused sets.Set[act]
	err     error
	old     bool // it answers as an API that cannot begin a watch with all there is
}

// record gives a configuration all of whose requests are noted.
func record(config *rest.Config) (*recorder, *rest.Config) {
	r := &recorder{seen: map[act]int{}, refused: sets.New[act](), infos: &request.RequestInfoFactory{
		APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api"),
	}}
	config = rest.CopyConfig(config)
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return recording{r, rt} })
	return r, config
}

// proxy notes what a program asks that is not of this process: at its address,
// with the certificate in the file, the API answers to whoever the token is of.
func (r *recorder) proxy(t *testing.T, config *rest.Config) (address, certificate string) {
	t.Helper()
	to, err := url.Parse(config.Host)
	must(t, err)
	transport, err := rest.TransportFor(rest.AnonymousClientConfig(config))
	must(t, err)
	server := httptest.NewTLSServer(&httputil.ReverseProxy{
		Rewrite:       func(q *httputil.ProxyRequest) { q.SetURL(to) },
		Transport:     recording{r, transport},
		FlushInterval: -1, // a watch says what it has at once
	})
	t.Cleanup(server.Close)
	certificate = filepath.Join(t.TempDir(), "ca.crt")
	must(t, os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	return server.URL, certificate
}

// acts are those that were seen so far.
func (r *recorder) acts(t *testing.T) sets.Set[act] {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	must(t, r.err)
	return sets.KeySet(r.seen)
}

// count is how often something was asked.
func (r *recorder) count(a act) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[a]
}

// denied are the acts that the API has refused so far.
func (r *recorder) denied() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return acts(r.refused)
}

// note says whether the API is too old for the request.
func (r *recorder) note(q *http.Request) (old bool) {
	info, err := r.infos.NewRequestInfo(q)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.err = fmt.Errorf("%s %s: %w", q.Method, q.URL, err)
		return false
	}
	r.seen[actOf(info)]++
	return r.old && q.URL.Query().Get("sendInitialEvents") == "true"
}

// answered notes whether the API has refused a request.
func (r *recorder) answered(q *http.Request, status int) {
	info, err := r.infos.NewRequestInfo(q)
	if err != nil || status != http.StatusForbidden {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused.Insert(actOf(info))
}

// age has it answer as an old API, or as a new one.
func (r *recorder) age(old bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.old = old
}

func actOf(info *request.RequestInfo) act {
	if !info.IsResourceRequest {
		return act{verb: info.Verb, path: info.Path}
	}
	resource := info.Resource
	if info.Subresource != "" {
		resource += "/" + info.Subresource
	}
	return act{verb: info.Verb, group: info.APIGroup, resource: resource, namespace: info.Namespace}
}

type recording struct {
	*recorder
	http.RoundTripper
}

// RoundTrip notes a request and sends it.
func (r recording) RoundTrip(q *http.Request) (*http.Response, error) {
	if r.note(q) {
		const invalid = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422,"message":"sendInitialEvents is forbidden for watch"}`
		return &http.Response{
			Status: "422 Unprocessable Entity", StatusCode: http.StatusUnprocessableEntity, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: q,
			Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(invalid)), ContentLength: int64(len(invalid)),
		}, nil
	}
	a, err := r.RoundTripper.RoundTrip(q)
	if err == nil {
		r.answered(q, a.StatusCode)
	}
	return a, err
}

// granted are the acts that rules allow, in a namespace or, with "", anywhere.
// Rules that allow more than can be listed are an error.
func granted(rules []rbac.PolicyRule, namespace string) (sets.Set[act], error) {
	all := sets.New[act]()
	for _, rule := range rules {
		if len(rule.ResourceNames)+len(rule.NonResourceURLs) > 0 {
			return nil, fmt.Errorf("rule %v is for some names or paths only", rule)
		}
		for _, verb := range rule.Verbs {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					if strings.Contains(verb+group+resource, "*") {
						return nil, fmt.Errorf("rule %v allows everything of something", rule)
					}
					all.Insert(act{verb: verb, group: group, resource: resource, namespace: namespace})
				}
			}
		}
	}
	return all, nil
}

// compare says what was done that nothing grants, and what is granted and was
// not done. What is granted anywhere is so in each namespace.
func compare(done, may sets.Set[act]) (missing, unused []string) {
	used, lacks := sets.New[act](), sets.New[act]()
	for a := range done {
		anywhere := a
		anywhere.namespace = ""
		switch {
		case may.Has(a):
			used.Insert(a)
		case may.Has(anywhere):
			used.Insert(anywhere)
		default:
			lacks.Insert(a)
		}
	}
	return acts(lacks), acts(may.Difference(used))
}

// shipped are the acts that the manifests grant the agent: of its cluster role,
// and of its roles in their namespaces.
func shipped(t *testing.T, stream string) sets.Set[act] {
	t.Helper()
	all := sets.New[act]()
	for key, o := range objects(t, stream) {
		if kind := o.GetKind(); kind != "ClusterRole" && kind != "Role" {
			continue
		}
		role := &rbac.Role{}
		convert(t, o.Object, role)
		may, err := granted(role.Rules, o.GetNamespace())
		if err != nil {
			t.Errorf("%s: %v", key, err)
		}
		all = all.Union(may)
	}
	return all
}

// TestRequestsAreHeldAgainstTheRole: a request that the role forgot and one that
// nobody makes are told, and nothing else.
func TestRequestsAreHeldAgainstTheRole(t *testing.T) {
	c := requireCluster(t)
	r, config := record(c.env.Config)
	api, err := kubernetes.NewForConfig(config)
	must(t, err)
	ctx := t.Context()
	for range 2 {
		_, err = api.CoreV1().Nodes().List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + here})
		must(t, err)
	}
	w, err := api.CoreV1().Pods("kube-system").Watch(ctx, metav1.ListOptions{})
	must(t, err)
	w.Stop()
	_, err = api.CoreV1().Pods("kube-system").Patch(ctx, "nobody", "application/merge-patch+json", []byte("{}"), metav1.PatchOptions{}, "status")
	if err == nil {
		t.Error("a pod that is not there was patched")
	}
	_, err = api.ServerVersion()
	must(t, err)
	done := r.acts(t)
	want := []string{"get /version", "list nodes", "patch pods/status in kube-system", "watch pods in kube-system"}
	if got := acts(done); !slices.Equal(got, want) {
		t.Fatalf("recorded %q, want %q", got, want)
	}
	may, err := granted([]rbac.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list", "watch"}},
	}, "")
	must(t, err)
	inPlugins, err := granted([]rbac.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods", "pods/status"}, Verbs: []string{"watch"}}}, "kube-system")
	must(t, err)
	missing, unused := compare(done, may.Union(inPlugins))
	if want := []string{"get /version", "patch pods/status in kube-system"}; !slices.Equal(missing, want) {
		t.Errorf("missing %q, want %q", missing, want)
	}
	if want := []string{"watch nodes", "watch pods/status in kube-system"}; !slices.Equal(unused, want) {
		t.Errorf("unused %q, want %q", unused, want)
	}
	anywhere, err := granted([]rbac.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"watch"}}}, "")
	must(t, err)
	if missing, unused := compare(sets.New(act{verb: "watch", resource: "pods", namespace: "a"}), anywhere); len(missing)+len(unused) > 0 {
		t.Errorf("what is allowed anywhere is not in a: %q, %q", missing, unused)
	}
	for name, rule := range map[string]rbac.PolicyRule{
		"all verbs":  {APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"*"}},
		"some names": {APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}, ResourceNames: []string{"a"}},
	} {
		if all, err := granted([]rbac.PolicyRule{rule}, ""); err == nil {
			t.Errorf("%s: taken for %v", name, slices.Collect(maps.Keys(all)))
		}
	}
}

// TestAProgramsRequestsAreRecorded, of one that has nothing but an address and a
// token; and the API takes it for whom the token says.
func TestAProgramsRequestsAreRecorded(t *testing.T) {
	c := requireCluster(t)
	_, config := asTheAgent(t, c)
	r, _ := record(config)
	address, certificate := r.proxy(t, config)
	kubectl := func(args ...string) (string, error) {
		return ran(t, "", filepath.Join(c.assets, "kubectl"), append([]string{
			"--kubeconfig=/dev/null", "--cache-dir=" + t.TempDir(), "--server=" + address, "--certificate-authority=" + certificate, "--token=" + config.BearerToken,
		}, args...)...)
	}
	if out, err := kubectl("get", "--raw", "/apis/networking.k8s.aws/v1alpha1/nodeenis?watch=1&timeoutSeconds=1"); err != nil {
		t.Errorf("a watch: %v\n%s", err, out)
	}
	if out, err := kubectl("get", "--raw", "/api/v1/namespaces/kube-system/pods"); err != nil {
		t.Errorf("a list: %v\n%s", err, out)
	}
	if _, err := kubectl("get", "--raw", "/api/v1/namespaces/kube-system/secrets/a"); err == nil || !strings.Contains(err.Error(), "system:serviceaccount:"+namespace+":eniagent") {
		t.Errorf("a secret: want it forbidden to the agent, got %v", err)
	}
	missing, _ := compare(r.acts(t), shipped(t, built(t, c, kustomization)))
	if want := []string{"get secrets in kube-system"}; !slices.Equal(missing, want) {
		t.Errorf("of %q missing are %q, want %q", acts(r.acts(t)), missing, want)
	}
	if got := acts(r.acts(t)); len(got) != 3 {
		t.Errorf("recorded %q", got)
	}
}
