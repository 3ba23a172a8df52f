package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	eventsv1 "k8s.io/api/events/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"eniagent/agent/source"
	"eniagent/agent/source/nodeeni/events"
	"eniagent/agent/source/nodeeni/v1alpha1"
)

// told are the events about an object, "Normal Right x2: note", by when they
// came, without what is each run's own.
func (c *cluster) told(t *testing.T, uid string) []string {
	t.Helper()
	l := &eventsv1.EventList{}
	must(t, c.client.List(t.Context(), l, client.InNamespace("default")))
	slices.SortFunc(l.Items, func(a, b eventsv1.Event) int { return a.EventTime.Compare(b.EventTime.Time) })
	var all []string
	for _, e := range l.Items {
		if string(e.Regarding.UID) != uid {
			continue
		}
		if e.ReportingController != "eniagent.dev/agent" || e.ReportingInstance != here {
			t.Errorf("reported by %s, %s", e.ReportingController, e.ReportingInstance)
		}
		times := ""
		if e.Series != nil {
			times = fmt.Sprintf(" x%d", e.Series.Count)
		}
		all = append(all, fmt.Sprintf("%s %s%s: %s", e.Type, e.Reason, times, e.Note))
	}
	return all
}

// recorderOf is the product's, over a line that can be cut.
func recorderOf(t *testing.T, config *rest.Config) (*events.Recorder, *line, *requests) {
	t.Helper()
	l, config := newLine(t, config)
	asked := noted(config)
	r, err := events.New(config, here, log.NewLogfmtLogger(t.Output()))
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return r, l, asked
}

// happened is one about an object of that name.
func happened(name, reason string) events.Event {
	return events.Event{
		Object: events.Object{APIVersion: v1alpha1.GroupVersion().String(), Kind: v1alpha1.Kind, Name: name, UID: types.UID("uid-" + name)},
		Reason: reason, Note: "note",
	}
}

// TestEvents are taken by the API as they are, and patched when they happen again,
// also while the API is away at first.
func TestEvents(t *testing.T) {
	c := requireCluster(t)
	r, l, asked := recorderOf(t, c.env.Config)
	e := happened("events-"+strings.Repeat("x", 240), "Right")
	e.Note = strings.Repeat("é", 1024)
	r.Record(e)
	eventually(t, "it is told", func() bool { return len(c.told(t, string(e.UID))) == 1 })
	w := happened("warned", "Failed")
	w.Warning = true
	l.set(true)
	r.Record(w)
	r.Record(w)
	eventually(t, "it could not be told", func() bool { return asked.count("post") > 1 })
	r.Record(w)
	l.set(false)
	eventually(t, "it is told when the API is back", func() bool {
		return slices.Equal(c.told(t, string(w.UID)), []string{"Warning Failed x3: note"})
	})
	r.Record(w)
	eventually(t, "its series goes on", func() bool {
		return slices.Equal(c.told(t, string(w.UID)), []string{"Warning Failed x4: note"})
	})
	if n := asked.count("patch"); n != 1 {
		t.Errorf("asked for %v", asked.verbs)
	}
	// The API forgets events after a while.
	must(t, c.client.DeleteAllOf(t.Context(), &eventsv1.Event{}, client.InNamespace("default")))
	r.Record(w)
	eventually(t, "it is told anew", func() bool {
		return slices.Equal(c.told(t, string(w.UID)), []string{"Warning Failed: note"})
	})
}

// TestEventsWithNoMorePermissionThanTheirs.
func TestEventsWithNoMorePermissionThanTheirs(t *testing.T) {
	c := requireCluster(t)
	user, err := c.env.AddUser(envtest.User{Name: "recorder"}, nil)
	must(t, err)
	role := &rbac.Role{Rules: []rbac.PolicyRule{{APIGroups: []string{"events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}}}}
	binding := &rbac.RoleBinding{
		RoleRef:  rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "Role", Name: "recorder"},
		Subjects: []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.UserKind, Name: "recorder"}},
	}
	for _, o := range []client.Object{role, binding} {
		o.SetNamespace("default")
		o.SetName("recorder")
		must(t, c.client.Create(t.Context(), o))
		t.Cleanup(func() { must(t, c.client.Delete(context.Background(), o)) })
	}
	allowed := rest.CopyConfig(user.Config())
	e := happened("permitted", "Right")
	// The API learns of a role some moments after it is there; each recorder asks
	// once, and then not for minutes.
	eventually(t, "it is told", func() bool {
		r, _, asked := recorderOf(t, allowed)
		r.Record(e)
		eventually(t, "it is answered", func() bool { return asked.answers() > 0 })
		return len(c.told(t, string(e.UID))) == 1
	})
	r, _, asked := recorderOf(t, allowed)
	r.Record(e)
	eventually(t, "another is told", func() bool { return len(c.told(t, string(e.UID))) == 2 })
	r.Record(e)
	eventually(t, "and patched", func() bool {
		return asked.count("patch") == 1 && strings.Contains(strings.Join(c.told(t, string(e.UID)), " "), "x2")
	})
}

// TestWhatBecomesOfAnObjectIsTold, about it.
func TestWhatBecomesOfAnObjectIsTold(t *testing.T) {
	c := requireCluster(t)
	f := follow(t, c, nil)
	f.await("", "ERROR", "nodeeni REFUSED", "nodeinterfacepolicy REFUSED")
	c.object(t, "told", v1alpha1.NodeENISpec{})
	o := &v1alpha1.NodeENI{}
	must(t, c.client.Get(t.Context(), client.ObjectKey{Name: "told"}, o))
	uid := string(o.UID)
	c.attach(t, "told", on(here, eni1))
	asks := "told/" + eni1 + " mac " + mac1 + " up ena"
	u := f.await(asks)
	stands := func(condition, reason string, settled bool) {
		f.source.Report(source.Report{Generation: u.Desired.Generation, Standings: []source.Standing{{
			Object: "nodeeni/told/" + eni1, Target: "0000:00:07.0", Condition: condition, Reason: reason, Driver: "ena",
			Settled: settled, Generation: u.Desired.Generation, Since: time.Now(),
		}}})
	}
	stands("changing", "", false)
	stands("right", "", true)
	stands("failed", "bind: no such device", true)
	stands("right", "", true)
	want := []string{
		"Normal Right x2: node node-1: 0000:00:07.0 is as asked, bound to ena",
		"Warning Failed: node node-1: 0000:00:07.0: bind: no such device",
	}
	eventually(t, "it is told", func() bool { return slices.Equal(c.told(t, uid), want) })
	if text := c.kubectl(t, "", "describe", "nodeeni", "told"); !strings.Contains(text, "no such device") || !strings.Contains(text, "x2") {
		t.Errorf("kubectl describe says\n%s", text)
	}
	c.remove(t, "told")
	u = f.await("")
	f.source.Report(source.Report{Generation: u.Desired.Generation})
	eventually(t, "that it was given back is told", func() bool {
		all := c.told(t, uid)
		return len(all) == 3 && strings.Contains(all[2], "Normal Released: node node-1: given back")
	})
}
