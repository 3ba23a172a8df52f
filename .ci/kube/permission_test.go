package kube

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
	"eniagent/agent/source/nodeeni/v1alpha1"
)

// plugins is where the manifests have the device plugin.
const plugins = "kube-system"

// TestTheAgentsRequestsAreTheRole: all that an agent does in its life, it does
// with the token and the roles of the manifests, and they allow nothing else. On
// an API that sends all objects on a watch, that leaves only the lists.
func TestTheAgentsRequestsAreTheRole(t *testing.T) {
	c := requireCluster(t)
	_, config := asTheAgent(t, c)
	want := shipped(t, built(t, c, kustomization))
	token, k := config.BearerToken, newController(t, c)
	nodes := []*subject{newSubject(t, c, "whole-older", token, true), newSubject(t, c, "whole-newer", token, false)}
	kubelets := newKubelet(t, c, nodes[0].name, nodes[1].name)
	for _, s := range nodes {
		s.kubelets = kubelets
		s.restartsPlugins()
		s.begin(k)
	}
	for _, s := range nodes {
		s.goOn(t, k)
	}
	for _, s := range nodes {
		s.changeAgain(t, k)
	}
	for _, s := range nodes {
		for _, f := range facts() {
			s.comes(t, f)
		}
		k.remove(s.second(), nil)
		k.remove(s.first(), nil)
		must(t, c.client.Delete(t.Context(), &policyv1alpha1.NodeInterfacePolicy{ObjectMeta: metav1.ObjectMeta{Name: s.name}}))
	}
	unusedWith := map[bool][]string{true: nil, false: {"list nodeenis.networking.k8s.aws", "list nodeinterfacepolicies.eniagent.dev", "list nodes"}}
	for i, s := range nodes {
		for slot := range 3 {
			s.has(slot, "ena down 1500")
		}
		s.stop()
		missing, unused := compare(s.asked.acts(t), want)
		if len(missing) > 0 || !slices.Equal(unused, unusedWith[i == 0]) || len(s.asked.denied()) > 0 {
			t.Errorf("%s: asked for, and not granted: %q; granted, and not asked for: %q, want %q; refused: %q", s.name, missing, unused, unusedWith[i == 0], s.asked.denied())
		}
	}
}

// grant is a role that allows some acts, bound to the service account of its name.
func (c *cluster) grant(t *testing.T, name string, all sets.Set[act]) {
	t.Helper()
	rules := map[string][]rbac.PolicyRule{}
	for _, a := range slices.SortedFunc(maps.Keys(all), func(a, b act) int { return strings.Compare(a.String(), b.String()) }) {
		rules[a.namespace] = append(rules[a.namespace], rbac.PolicyRule{APIGroups: []string{a.group}, Resources: []string{a.resource}, Verbs: []string{a.verb}})
	}
	who := []rbac.Subject{{Kind: rbac.ServiceAccountKind, Name: name, Namespace: metav1.NamespaceDefault}}
	objects := []client.Object{&core.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault}}}
	for in, rules := range rules {
		meta := metav1.ObjectMeta{Name: name, Namespace: in}
		if in == "" {
			objects = append(objects, &rbac.ClusterRole{ObjectMeta: meta, Rules: rules},
				&rbac.ClusterRoleBinding{ObjectMeta: meta, Subjects: who, RoleRef: rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: name}})
			continue
		}
		objects = append(objects, &rbac.Role{ObjectMeta: meta, Rules: rules},
			&rbac.RoleBinding{ObjectMeta: meta, Subjects: who, RoleRef: rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "Role", Name: name}})
	}
	for _, o := range objects {
		must(t, c.client.Create(t.Context(), o))
		t.Cleanup(func() { must(t, c.client.Delete(context.Background(), o)) })
	}
}

// allow sets the rule of one act in the role of a name, and waits until the API
// goes by it.
func (s *subject) allow(t *testing.T, a act, yes bool) {
	t.Helper()
	verbs := []string{"get"} // which asks nothing of what the agent asks
	if yes {
		verbs = []string{a.verb}
	}
	set := func(rules []rbac.PolicyRule, was string) {
		for i, r := range rules {
			if r.Verbs[0] == was && r.Resources[0] == a.resource && r.APIGroups[0] == a.group {
				rules[i].Verbs = verbs
				return
			}
		}
		t.Fatalf("no rule about %s", a)
	}
	was := map[bool]string{true: "get", false: a.verb}[yes]
	key := client.ObjectKey{Name: s.name, Namespace: a.namespace}
	if a.namespace == "" {
		r := &rbac.ClusterRole{}
		must(t, s.c.client.Get(t.Context(), key, r))
		set(r.Rules, was)
		must(t, s.c.client.Update(t.Context(), r))
	} else {
		r := &rbac.Role{}
		must(t, s.c.client.Get(t.Context(), key, r))
		set(r.Rules, was)
		must(t, s.c.client.Update(t.Context(), r))
	}
	s.permitted(t, a, yes)
}

// permitted waits until the API goes by a role.
func (s *subject) permitted(t *testing.T, a act, yes bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s may %s: %t", s.name, a, yes), func() bool {
		is, err := may(t.Context(), s.api, a)
		must(t, err)
		return is == yes
	})
}

// trial is what the agent is without one permission.
type trial struct {
	verb, resource, namespace string
	lost                      []fact
	older                     bool   // on an API where that permission is needed
	advice                    string // what to grant
	back                      bool   // it is given back, too
	also                      func(*testing.T, *without, *controller)
}

func trials() []trial {
	const (
		enis     = v1alpha1.Resource + "." + v1alpha1.Group
		policies = policyv1alpha1.Resource + "." + policyv1alpha1.Group
		events   = "let this agent's service account create and patch events.events.k8s.io in namespace default"
		pods     = "let this agent's service account list, watch and delete pods in that namespace"
	)
	follow := func(what string) string { return "let this agent's service account list and watch " + what }
	ofENI, ofPolicy := []fact{eniDone, eniTold, eniEvent, eniAgain}, []fact{policyDone, policyTold, policyEvent}
	return []trial{
		{verb: "delete", resource: "pods", namespace: plugins, lost: []fact{restarted}, advice: pods, back: true},
		{verb: "list", resource: "nodeenis", older: true, lost: ofENI, advice: follow(enis), back: true},
		{verb: "watch", resource: "nodeenis", advice: follow(enis)},
		{verb: "patch", resource: "nodeenis/status", lost: []fact{eniTold}, advice: "let this agent's service account patch " + enis + "/status", back: true},
		{verb: "list", resource: "nodeinterfacepolicies", older: true, lost: ofPolicy, advice: follow(policies)},
		{verb: "watch", resource: "nodeinterfacepolicies", advice: follow(policies)},
		{verb: "patch", resource: "nodeinterfacepolicies/status", lost: []fact{policyTold}, advice: "let this agent's service account patch " + policies + "/status"},
		{verb: "list", resource: "nodes", older: true, lost: ofPolicy, advice: follow("nodes")},
		{verb: "watch", resource: "nodes", advice: follow("nodes")},
		{verb: "create", resource: "events", namespace: "default", lost: []fact{eniEvent, eniAgain, policyEvent}, advice: events},
		{verb: "patch", resource: "events", namespace: "default", lost: []fact{eniAgain}, advice: events, also: tellsOfWhatIsNew},
		{verb: "list", resource: "pods", namespace: plugins, lost: []fact{restarted}, advice: pods},
		{verb: "watch", resource: "pods", namespace: plugins, advice: pods},
	}
}

// without is a node whose agent is tried.
type without struct {
	trial
	*subject
	act act
}

// TestWithoutAPermission: a role that lacks one permission costs what that is for
// and no more: the agent says what to grant, nothing that it has done is undone,
// and everything else goes on. All of that at once, for each permission that the
// manifests grant, each on a node of its own, whose agent is started anew without
// it; what watches were begun before, the API does not break off.
func TestWithoutAPermission(t *testing.T) {
	c := requireCluster(t)
	all := tried(t, c)
	k := newController(t, c)
	for _, w := range all {
		w.begin(k)
	}
	for _, w := range all {
		w.goOnWithout(t, k)
	}
	for _, w := range all {
		if !slices.Contains(w.lost, eniEvent) {
			w.comes(t, eniEvent)
		} else {
			w.says(t, w.advice)
		}
		k.spec(w.second(), func(spec *v1alpha1.NodeENISpec) { spec.MTU = 1300 })
	}
	// The longer it is forbidden, the longer it takes to be tried again.
	slices.SortStableFunc(all, func(a, b *without) int {
		return cmp.Compare(map[bool]int{false: 1}[a.back], map[bool]int{false: 1}[b.back])
	})
	for _, w := range all {
		t.Run(strings.ReplaceAll(w.act.String(), "/", "."), func(t *testing.T) { w.holds(t, k) })
	}
	for _, w := range all {
		if w.back {
			t.Run(strings.ReplaceAll(w.act.String(), "/", ".")+" again", func(t *testing.T) { w.catchesUp(t) })
		}
	}
}

// lists says how often the agent asked for all there is: once, or not at all where
// the watch began with it; again and again where it may not watch.
func (w *without) lists(t *testing.T) {
	t.Helper()
	for _, tr := range trials() {
		if tr.verb != "watch" {
			continue
		}
		a := act{verb: "list", resource: tr.resource, namespace: tr.namespace}
		a.group = map[string]string{"nodeenis": v1alpha1.Group, "nodeinterfacepolicies": policyv1alpha1.Group}[tr.resource]
		n, most := w.asked.count(a), 0
		switch {
		case tr.verb == w.verb && tr.resource == w.resource:
			if n < 2 {
				t.Errorf("%d times asked to %s, without a watch", n, a)
			}
			continue
		case tr.resource == "pods", w.verb == "list" && tr.resource == w.resource:
			continue // each try of a restart; each try
		case w.older:
			most = 2 // of each start
		}
		if n > most {
			t.Errorf("%d times asked to %s", n, a)
		}
	}
}

// tellsOfWhatIsNew after it could not tell that something happened again.
func tellsOfWhatIsNew(t *testing.T, w *without, k *controller) {
	t.Helper()
	k.remove(w.second(), nil)
	await(t, w.name+" tells that it was given back", "1", func() string {
		return fmt.Sprint(w.events(v1alpha1.Kind, w.second(), "Released"))
	})
}

// tried are the nodes, one for each permission of the manifests.
func tried(t *testing.T, c *cluster) (all []*without) {
	t.Helper()
	want := shipped(t, built(t, c, kustomization))
	rest := want.Clone()
	var names []string
	for i, tr := range trials() {
		w := &without{trial: tr}
		for a := range want {
			if a.verb == tr.verb && a.resource == tr.resource && a.namespace == tr.namespace {
				w.act = a
			}
		}
		if w.act == (act{}) {
			t.Fatalf("the manifests do not grant %s %s in %q", tr.verb, tr.resource, tr.namespace)
		}
		rest.Delete(w.act)
		name := fmt.Sprintf("without-%d", i)
		names = append(names, name)
		c.grant(t, name, want)
		api, config := c.as(t, metav1.NamespaceDefault, name)
		w.subject = newSubject(t, c, name, config.BearerToken, tr.older)
		w.api = api
		all = append(all, w)
	}
	if rest.Len() > 0 {
		t.Fatalf("nothing says what the agent is without %q", acts(rest))
	}
	kubelets := newKubelet(t, c, names...)
	for _, w := range all {
		w.kubelets = kubelets
		for a := range want {
			w.permitted(t, a, true)
		}
	}
	return all
}

// goOnWithout takes the permission from an agent that has done what was asked
// first, and asks more of the next.
func (w *without) goOnWithout(t *testing.T, k *controller) {
	t.Helper()
	await(t, w.name+" has what was asked first", fmt.Sprint(append(hasFirst(), "ena up 9000 intel.com/p")), func() string {
		return fmt.Sprint(append(w.stillHas(), w.sees(2)))
	})
	w.allow(t, w.act, false)
	w.kill()
	w.restartsPlugins()
	w.start()
	w.ask(t, k)
}

// holds compares it with what it shall be.
func (w *without) holds(t *testing.T, k *controller) {
	t.Helper()
	for _, f := range facts() {
		if !slices.Contains(w.lost, f) && !(w.back && f == eniAgain) { // which takes its time, and is waited for below
			w.comes(t, f)
		}
	}
	w.says(t, fmt.Sprintf("cannot %s resource %q", w.act.verb, w.act.resource))
	w.says(t, w.advice)
	for _, f := range w.lost {
		if is := w.is(f); is == "true" {
			t.Errorf("%s, which takes that permission", f)
		}
	}
	if got := w.stillHas(); !slices.Equal(got, hasFirst()) {
		t.Errorf("of what was asked first there is %q, want %q", got, hasFirst())
	}
	for _, at := range []int{0, 2} {
		if is := w.sees(at); !strings.HasPrefix(is, "ena ") || at == 2 && !strings.HasSuffix(is, "intel.com/p") {
			t.Errorf("%s is %s", slot(at), is)
		}
	}
	if got, want := w.asked.denied(), []string{w.act.String()}; !slices.Equal(got, want) {
		t.Errorf("refused was %q, want %q", got, want)
	}
	w.lists(t)
	if w.also != nil {
		w.also(t, w, k)
	}
	if w.back {
		w.allow(t, w.act, true)
	}
}

// catchesUp when it may again, by itself.
func (w *without) catchesUp(t *testing.T) {
	t.Helper()
	for _, f := range facts() {
		if f == eniAgain && slices.Contains(w.lost, eniEvent) {
			continue // what was never told did not happen again
		}
		eventually(t, string(f), func() bool { return w.is(f) == "true" })
	}
}
