package nodeeni

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"eniagent/agent/source"
)

// readPolicy is a policy as the API has it, in JSON.
func readPolicy(t *testing.T, text string) *policy {
	t.Helper()
	p := &policy{}
	if err := json.Unmarshal([]byte(text), p); err != nil {
		t.Fatal(err)
	}
	return p
}

const fast = `{"matchLabels":{"nic":"fast"}}`

// nodePolicy is a policy for some nodes.
func nodePolicy(name, selector, interfaces string) string {
	return fmt.Sprintf(`{"metadata":{"name":%q,"generation":1},"spec":{"nodeSelector":%s,"interfaces":[%s]}}`, name, selector, interfaces)
}

const pciUp = `{"pci":"3B:00.0","up":true}`

func TestWhatAPolicyAsks(t *testing.T) {
	onBench(t, func(b *bench) {
		b.policies(nodePolicy("one", fast, `{"pci":"3B:00.0","up":true,"vfs":{"count":2,"overrides":[{"index":1,"driver":"vfio-pci"}]}},{"name":"eth2","state":"released"},{"mac":"52-54-00-00-00-0A","onStop":"retain","mtu":9000}`))
		b.has()
		u := b.update()
		want := []source.Interface{
			{
				Selector: source.Selector{PCI: "0000:3b:00.0"}, Object: "nodeinterfacepolicy/one/0000:3b:00.0", State: source.Configured, Up: up(),
				VFs: &source.VFs{Count: 2, Overrides: []source.Override{{Index: 1, VF: source.VF{Driver: "vfio-pci"}}}},
			},
			{Selector: source.Selector{Name: "eth2"}, Object: "nodeinterfacepolicy/one/eth2", State: source.Released},
			{Selector: source.Selector{MAC: "52:54:00:00:00:0a"}, Object: "nodeinterfacepolicy/one/52:54:00:00:00:0a", State: source.Configured, MTU: 9000, OnStop: source.Retain},
		}
		if diff := cmp.Diff(want, u.Desired.Interfaces); diff != "" || len(u.Desired.Refused) > 0 || !u.Desired.Complete {
			t.Errorf("refused %v; want and got differ:\n%s", u.Desired.Refused, diff)
		}
	})
}

// TestWhichNodesAPolicyIsAbout is what Kubernetes means by a selector: one that
// is empty is every node, none is no node.
func TestWhichNodesAPolicyIsAbout(t *testing.T) {
	for selector, want := range map[string]bool{
		`{}`: true, `null`: false, fast: true, `{"matchLabels":{"nic":"slow"}}`: false, `{"matchLabels":{"nic":"fast","x":""}}`: false,
		`{"matchExpressions":[{"key":"nic","operator":"In","values":["slow","fast"]}]}`:                  true,
		`{"matchExpressions":[{"key":"nic","operator":"NotIn","values":["fast"]}]}`:                      false,
		`{"matchExpressions":[{"key":"nic","operator":"Exists"},{"key":"x","operator":"DoesNotExist"}]}`: true,
		`{"matchLabels":{"nic":"fast"},"matchExpressions":[{"key":"x","operator":"Exists"}]}`:            false,
	} {
		ok, problem := readPolicy(t, nodePolicy("one", selector, pciUp)).selects(map[string]string{"nic": "fast"})
		if ok != want || problem != nil {
			t.Errorf("%s: %v, %v", selector, ok, problem)
		}
	}
}

// TestWhatAPolicyNoLongerAsks: it is deleted, going, or about other nodes; the node
// has other labels. Each gives back, as the desired state is complete.
func TestWhatAPolicyNoLongerAsks(t *testing.T) {
	policy, elsewhere := nodePolicy("one", fast, pciUp), nodePolicy("two", `{"matchLabels":{"nic":"slow"}}`, pciUp)
	for name, change := range map[string]func(*bench){
		"deleted":      func(b *bench) { b.policies() },
		"going":        func(b *bench) { b.policies(deleted(policy)) },
		"one of two":   func(b *bench) { b.policies(deleted(policy), elsewhere) },
		"going, wrong": func(b *bench) { b.policies(deleted(nodePolicy("one", fast, `{"pci":"x"}`)), elsewhere) },
		"elsewhere":    func(b *bench) { b.policies(nodePolicy("one", `{"matchLabels":{"nic":"slow"}}`, pciUp)) },
		"other labels": func(b *bench) { b.labels(map[string]string{"nic": "slow"}) },
		"no labels":    func(b *bench) { b.labels(map[string]string{}) },
	} {
		t.Run(name, func(t *testing.T) {
			onBench(t, func(b *bench) {
				b.policies(policy)
				b.has(nodeENI("other", ``))
				b.wants("mac "+mac1+", pci 0000:3b:00.0", "")
				change(b)
				b.wants("mac "+mac1, "")
			})
		})
	}
}

// TestLabelsThatAreNotKnownYetAreNoDeletion of what was asked before this start.
func TestLabelsThatAreNotKnownYetAreNoDeletion(t *testing.T) {
	onEmptyBench(t, false, func(b *bench) {
		b.has(nodeENI("eni", ``))
		b.policies(nodePolicy("one", fast, pciUp))
		b.silent(time.Hour)
		b.kept.nodes.failed(errors.New("list nodes: forbidden:\n let it"))
		b.wants("mac "+mac1, "nodeinterfacepolicy: the labels of this node are not known: list nodes: forbidden: let it")
		b.labels(map[string]string{"nic": "fast"})
		b.wants("mac "+mac1+", pci 0000:3b:00.0", "")
	})
}

// TestANodeThatIsNotThereIsNoDeletion, whatever was known of it before.
func TestANodeThatIsNotThereIsNoDeletion(t *testing.T) {
	onBench(t, func(b *bench) {
		b.policies(nodePolicy("one", fast, pciUp))
		b.has()
		b.wants("pci 0000:3b:00.0", "")
		b.labels(nil)
		b.wants("", `nodeinterfacepolicy: node: "node-1": there is no such Node, so that its labels are not known: want its name in the API, as spec.nodeName of the pod has it`)
		b.policies() // nothing is asked of any node: that is known without labels
		b.wants("", "")
	})
}

// TestLabelsThatWereKnownHold while the API is away.
func TestLabelsThatWereKnownHold(t *testing.T) {
	onBench(t, func(b *bench) {
		b.policies(nodePolicy("one", fast, pciUp))
		b.has()
		b.wants("pci 0000:3b:00.0", "")
		b.kept.nodes.failed(errors.New("away"))
		if u := b.update(); u.Err == nil {
			t.Errorf("got %+v", u.Desired)
		}
		b.silent(time.Hour)
	})
}

// TestAKindThatIsNotKnownIsKept, and the other goes on.
func TestAKindThatIsNotKnownIsKept(t *testing.T) {
	t.Run("policies", func(t *testing.T) {
		onEmptyBench(t, false, func(b *bench) {
			b.has(nodeENI("eni", ``))
			b.silent(time.Hour)
			b.kept.policies.failed(errors.New("404"))
			b.wants("mac "+mac1, "nodeinterfacepolicy: 404")
			b.has(nodeENI("eni", ``), nodeENI("addressed", `,"dpdkPCIAddress":"0000:00:07.0"`))
			b.wants("pci 0000:00:07.0, mac "+mac1, "nodeinterfacepolicy: 404")
			b.silent(time.Hour)
		})
	})
	t.Run("NodeENIs", func(t *testing.T) {
		onEmptyBench(t, false, func(b *bench) {
			b.labels(map[string]string{"nic": "fast"})
			b.policies(nodePolicy("one", fast, pciUp))
			b.silent(time.Hour)
			b.store.failed(errors.New("403"))
			b.wants("pci 0000:3b:00.0", "nodeeni: 403")
			b.store.restored() // that is no list yet
			b.silent(time.Hour)
			b.has()
			b.wants("pci 0000:3b:00.0", "")
		})
	})
	t.Run("both", func(t *testing.T) {
		onEmptyBench(t, false, func(b *bench) {
			b.kept.policies.failed(errors.New("away"))
			if u := b.update(); u.Err == nil || u.Desired != nil {
				t.Errorf("got %+v", u)
			}
			b.store.failed(errors.New("away"))
			b.silent(time.Hour)
		})
	})
}

// TestTwoObjectsForOneFunction: neither's ask is taken, and both are named; all
// else of them holds.
func TestTwoObjectsForOneFunction(t *testing.T) {
	const a = "nodeinterfacepolicy/a/0000:00:07.0"
	for name, tc := range map[string]struct {
		enis, policies []string
		entries        string
		rivals         []string
	}{
		"a NodeENI and a policy": {
			[]string{nodeENI("one", `,"dpdkPCIAddress":"0000:00:07.0"`)},
			[]string{nodePolicy("a", fast, `{"pci":"00:07.0","up":true},`+pciUp)},
			"pci 0000:3b:00.0",
			[]string{"nodeeni/one/" + eni1, a},
		},
		"two policies": {
			nil,
			[]string{nodePolicy("a", fast, `{"pci":"00:07.0","up":true},`+pciUp), nodePolicy("b", `{}`, `{"pci":"0000:00:07.0","up":true}`)},
			"pci 0000:3b:00.0",
			[]string{a, "nodeinterfacepolicy/b/0000:00:07.0"},
		},
		"one that gives back": {
			[]string{nodeENI("one", `,"dpdkPCIAddress":"0000:00:07.0"`)},
			[]string{nodePolicy("a", fast, `{"pci":"00:07.0","state":"released"}`)},
			"",
			[]string{"nodeeni/one/" + eni1, a},
		},
		"one that is going": {
			[]string{deleted(nodeENI("one", `,"dpdkPCIAddress":"0000:00:07.0"`))},
			[]string{nodePolicy("a", fast, `{"pci":"00:07.0","up":true}`)},
			"pci 0000:00:07.0", nil,
		},
		"one that is about other nodes": {
			[]string{nodeENI("one", `,"dpdkPCIAddress":"0000:00:07.0"`)},
			[]string{nodePolicy("a", `{"matchLabels":{"nic":"slow"}}`, `{"pci":"00:07.0","up":true}`)},
			"pci 0000:00:07.0", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBench(t, func(b *bench) {
				b.policies(tc.policies...)
				b.has(tc.enis...)
				var want []string
				for _, r := range tc.rivals {
					want = append(want, r+": pci 0000:00:07.0 is asked for by "+strings.Join(tc.rivals, " and ")+": keep one")
				}
				b.wants(tc.entries, strings.Join(want, "\n"))
			})
		})
	}
}

// TestMalformedPolicies: one that cannot be used is refused as a whole, with the
// field, and the others hold.
func TestMalformedPolicies(t *testing.T) {
	for name, tc := range map[string]struct{ text, reason string }{
		"an mtu":      {nodePolicy("bad", fast, pciUp+`,{"name":"a","up":true},{"mac":"52:54:00:00:00:01","mtu":70000}`), `spec.interfaces[2].mtu: 70000: want a number of bytes from 68 to 65535, without quotes, such as 9000`},
		"many":        {nodePolicy("bad", fast, strings.Repeat(`{"nam":"a"},`, 9)+`{}`), "; and "},
		"none":        {nodePolicy("bad", fast, ``), `spec.interfaces: empty; to give interfaces back, delete the object`},
		"no list":     {`{"metadata":{"name":"bad"},"spec":{"nodeSelector":{},"interfaces":7}}`, `spec.interfaces: 7: want a list of interfaces`},
		"no spec":     {`{"metadata":{"name":"bad"},"spec":[]}`, `spec: "array": that cannot be read: want what kubectl explain nodeinterfacepolicy.spec says`},
		"a selector":  {nodePolicy("bad", `{"matchExpressions":[{"key":"a","operator":"Gt","values":["1"]}]}`, pciUp), `spec.nodeSelector: "Gt" is not a valid label selector operator; want labels`},
		"a label":     {nodePolicy("bad", `{"matchLabels":{"a b":"c"}}`, pciUp), `spec.nodeSelector: `},
		"no selector": {nodePolicy("bad", `"x"`, pciUp), `spec.nodeSelector: "string": that cannot be read`},
	} {
		t.Run(name, func(t *testing.T) {
			onBench(t, func(b *bench) {
				b.policies(tc.text, nodePolicy("good", fast, `{"pci":"00:08.0","up":true}`))
				b.has()
				u := b.update()
				if len(u.Desired.Interfaces) != 1 || len(u.Desired.Refused) != 1 || u.Desired.Refused[0].Object != "nodeinterfacepolicy/bad" {
					t.Fatalf("got %+v", u.Desired)
				}
				if r := u.Desired.Refused[0].Reason; !strings.Contains(r, tc.reason) || strings.Contains(r, "\n") || len(r) > 1000 {
					t.Errorf("refused for %q, want %q", r, tc.reason)
				}
			})
		})
	}
}

// TestANodeThatChangesAllTheTime is no news but for its labels.
func TestANodeThatChangesAllTheTime(t *testing.T) {
	s := newStores(here)
	is := func(text string) (news bool) {
		n := &node{}
		if err := json.Unmarshal([]byte(text), n); err != nil {
			t.Fatal(err)
		}
		if err := s.nodes.Update(n); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.changed:
			return true
		default:
			return false
		}
	}
	for i, tc := range []struct {
		text string
		news bool
	}{
		{`{"metadata":{"name":"node-1","labels":{"a":"b"},"resourceVersion":"1"}}`, true},
		{`{"metadata":{"name":"node-1","labels":{"a":"b"},"resourceVersion":"2"},"status":{"x":1}}`, false},
		{`{"metadata":{"name":"node-2","labels":{"a":"c"},"resourceVersion":"3"}}`, false},
		{`{"metadata":{"name":"node-1","labels":{"a":"c"},"resourceVersion":"4"}}`, true},
	} {
		if got := is(tc.text); got != tc.news {
			t.Errorf("the %dth: news is %v", i+1, got)
		}
	}
}

// TestPoliciesThatAreAllGoingAreJudged also where no labels are known: their
// status is to say what is given back.
func TestPoliciesThatAreAllGoingAreJudged(t *testing.T) {
	going, other := readPolicy(t, deleted(nodePolicy("one", fast, pciUp))), readPolicy(t, nodePolicy("two", `{"matchLabels":{"nic":"slow"}}`, pciUp))
	labels := content[*node]{listed: true, all: []*node{{ObjectMeta: metav1.ObjectMeta{Name: here, Labels: map[string]string{"nic": "fast"}}}}}
	for name, tc := range map[string]struct {
		all    []*policy
		nodes  content[*node]
		judged int
	}{
		"all":               {[]*policy{going}, content[*node]{}, 1},
		"one of two":        {[]*policy{going, other}, labels, 2},
		"without any label": {[]*policy{going, other}, content[*node]{err: errors.New("away")}, 0},
	} {
		var tr translation
		tr.policies(content[*policy]{all: tc.all, listed: true}, tc.nodes, here)
		if len(tr.judged) != tc.judged || len(tr.asks) > 0 {
			t.Errorf("%s: judged %v, which ask %v", name, tr.judged, tr.asks)
		}
	}
}
