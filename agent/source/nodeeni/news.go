package nodeeni

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"eniagent/agent/source"
	"eniagent/agent/source/nodeeni/events"
	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
	"eniagent/agent/source/nodeeni/v1alpha1"
)

// The reasons of events about the device plugin. The others are the agent's words
// for conditions.
const (
	pluginRestarted = "PluginRestarted"
	pluginNotReady  = "PluginNotReady"
)

// newsworthy are the conditions that an event tells of, and whether as a warning.
// The others pass, or are a person's own doing.
func newsworthy(condition string) (warning, ok bool) {
	switch condition {
	case right, released, "held":
		return false, true
	case refused, "fenced", "failed", "quarantined", "degraded":
		return true, true
	}
	return false, false
}

// news tells of what becomes of what the objects ask, by events about them.
type news struct {
	record func(events.Event)
	node   string

	mu      sync.Mutex
	kept    *stores
	latest  picture
	report  source.Report
	begun   map[types.UID]bool // what the API had first: nothing is new of what is right there
	objects map[string]subject // as of this look
	tales   map[string]tale    // by what an object asks of an interface
	plugged time.Time          // when the device plugin was restarted last, as told
}

// tale is what was told last of one.
type tale struct {
	about      events.Object
	condition  string // "" is that it was not as asked, and nothing was told
	note       string
	generation int64 // of the object, that is in force
}

func newNews(node string, record func(events.Event)) *news {
	return &news{record: record, node: node, tales: map[string]tale{}}
}

// follow begins to tell of the objects in the stores.
func (n *news) follow(kept *stores) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.kept = kept
}

// show takes what the API asks now.
func (n *news) show(p picture) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.latest = p
	if n.begun == nil {
		n.begun = map[types.UID]bool{}
		for _, s := range n.subjects() {
			n.begun[s.about.UID] = true
		}
	}
	n.look()
}

// Report takes how it stands on the host.
func (n *news) Report(r source.Report) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.report = r
	n.look()
}

// subject is an object that asks something of an interface.
type subject struct {
	about      events.Object
	generation int64
	eni        *object // nil is another kind
}

// subjects are the objects there are, by what the names of what they ask begin
// with. The caller holds mu.
func (n *news) subjects() map[string]subject {
	all := map[string]subject{}
	if n.kept == nil {
		return all
	}
	for _, o := range n.kept.enis.snapshot().all {
		about := events.Object{APIVersion: v1alpha1.GroupVersion().String(), Kind: v1alpha1.Kind, Name: o.Name, UID: o.UID}
		all[objectName(o.Name, "")] = subject{about, o.Generation, o}
	}
	for _, p := range n.kept.policies.snapshot().all {
		about := events.Object{APIVersion: policyv1alpha1.GroupVersion().String(), Kind: policyv1alpha1.Kind, Name: p.Name, UID: p.UID}
		all[policyName(p.Name, nil)] = subject{about, p.Generation, nil}
	}
	return all
}

// subject finds the object of a name; false when it is not there.
func (n *news) subject(name string) (subject, bool) {
	of, rest, _ := strings.Cut(name, "/")
	object, _, _ := strings.Cut(rest, "/")
	s, ok := n.objects[of+"/"+object]
	return s, ok
}

// says is the condition of an interface as the status has it, "Refused: why".
func (s subject) says(name string) string {
	if s.eni == nil {
		return ""
	}
	for _, a := range s.eni.attachments {
		for _, c := range a.Conditions {
			if at := objectName(s.about.Name, a.ENIID); c.Type == v1alpha1.ConditionReady && (at == name || strings.HasPrefix(at, name+"/")) {
				return c.Reason + ": " + c.Message
			}
		}
	}
	return ""
}

// look tells of what is new. The caller holds mu.
func (n *news) look() {
	n.objects = n.subjects()
	there := map[string]bool{}
	// A desired state that the agent has not looked at may be on its way to another.
	whole := n.report.Generation != "" && n.report.Generation == n.latest.generation
	for _, r := range n.latest.refused {
		there[r.Object] = true
		if _, one := n.subject(r.Object); one && whole { // not all that the API cannot tell
			n.stands(r.Object, refused, r.Reason, r.Reason, "")
		}
	}
	for _, s := range n.report.Standings {
		there[s.Object] = true
		_, no := n.latest.refusal(s.Object)
		switch {
		case no, s.Object == "", s.Condition == right && !s.Settled: // in its pool soon
		case s.Settled:
			n.stands(s.Object, s.Condition, noteOf(s), s.Reason, s.Generation)
		default:
			n.stands(s.Object, "", "", "", s.Generation)
		}
	}
	n.gone(there, whole)
	n.plugin()
}

// noteOf is how an interface stands, for people.
func noteOf(s source.Standing) string {
	what := cmp.Or(string(s.Target), s.Entry)
	if s.Condition != right {
		return strings.TrimSuffix(what+": "+s.Reason, ": ")
	}
	note := what + " is as asked"
	if s.Driver != "" {
		note += ", bound to " + s.Driver
	}
	if s.Pool != "" {
		note += ", in pool " + s.Pool
	}
	return note
}

// stands tells how one stands, where that is another thing than was told last.
func (n *news) stands(name, condition, note, reason, of string) {
	last, known := n.tales[name]
	is, there := n.subject(name)
	if !there && !known {
		return
	}
	next := tale{about: is.about, condition: condition, note: note, generation: last.generation}
	if !there {
		next.about = last.about
	}
	if there && (of == n.latest.generation || of == "") {
		next.generation = is.generation
	}
	warning, tell := newsworthy(condition)
	if !tell {
		if !known {
			n.tales[name] = tale{about: next.about}
		}
		return
	}
	if next == last {
		return
	}
	n.tales[name] = next
	// An agent that starts repeats nothing.
	if !known && (condition == right && n.begun[is.about.UID] || is.says(name) == reasonOf(condition)+": "+reason) {
		return
	}
	n.tell(next.about, warning, reasonOf(condition), note)
}

// gone tells of what was given back, and forgets what nothing is to be told of
// any more.
func (n *news) gone(there map[string]bool, whole bool) {
	for _, name := range slices.Sorted(maps.Keys(n.tales)) {
		t := n.tales[name]
		_, kept := n.latest.refusal(name)
		switch {
		case there[name] || kept:
		case t.condition == refused || t.condition == released:
			delete(n.tales, name)
		case whole:
			delete(n.tales, name)
			n.tell(t.about, false, reasonOf(released), "given back: nothing of it is left on the node")
		}
	}
}

// plugin tells the objects that have a pool when the device plugin was restarted
// for one.
func (n *news) plugin() {
	p := n.report.Plugin
	if p.At.IsZero() || p.At.Equal(n.plugged) {
		return
	}
	n.plugged = p.At
	told := map[events.Object]bool{}
	for _, s := range n.report.Standings {
		is, there := n.subject(s.Object)
		if s.Pool == "" || !there || told[is.about] {
			continue
		}
		told[is.about] = true
		n.tell(is.about, false, pluginRestarted, "the device plugin has read its file: "+p.How)
		if p.Warning != "" {
			n.tell(is.about, true, pluginNotReady, "the device plugin does not work: "+p.Warning)
		}
	}
}

// tell records an event. An object is many nodes'.
func (n *news) tell(about events.Object, warning bool, reason, note string) {
	n.record(events.Event{Object: about, Warning: warning, Reason: reason, Note: fmt.Sprintf("node %s: %s", n.node, note)})
}
