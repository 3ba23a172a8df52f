package nodeeni

import (
	"cmp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"eniagent/agent/source"
	"eniagent/agent/source/nodeeni/v1alpha1"
)

// The agent's words for conditions that say more here than that something is
// not as asked.
const (
	right    = "right"
	refused  = "refused"
	released = "released"
)

// picture is what the API asks of this node, as it was last made a desired state.
type picture struct {
	objects []*object
	// policies are those of which it is known whether they are about this node, and
	// asks is what those ask that are.
	policies   []*policy
	asks       map[string][]source.Interface
	refused    []source.Refusal
	generation string // of the desired state
}

// refusal is why nothing of what an object asks is taken, if so.
func (p picture) refusal(object string) (string, bool) {
	for _, r := range p.refused {
		if r.Covers(object) {
			return r.Reason, true
		}
	}
	return "", false
}

// observations say which generation of each object was in a desired state.
type observations struct {
	order []string // desired states, the oldest first
	of    map[string]map[types.UID]int64
}

// maxObservations is how many desired states are remembered: what is reported of
// an older one says nothing about a generation.
const maxObservations = 64

func (o *observations) note(p picture) {
	if o.of == nil {
		o.of = map[string]map[types.UID]int64{}
	}
	if o.of[p.generation] == nil {
		o.of[p.generation] = map[types.UID]int64{}
		o.order = append(o.order, p.generation)
	}
	// The same desired state may be asked for by a newer generation.
	for _, object := range p.objects {
		o.of[p.generation][object.UID] = object.Generation
	}
	for _, policy := range p.policies {
		o.of[p.generation][policy.UID] = policy.Generation
	}
	if len(o.order) > maxObservations {
		delete(o.of, o.order[0])
		o.order = o.order[1:]
	}
}

// account is what there is to say of the objects.
type account struct {
	picture
	observations
	report source.Report
	began  time.Time // when this agent did
}

// freshly is how long what an agent knows of the time is of its own start.
const freshly = time.Minute

// since is since when something is so. An agent that just started knows of what
// it first looked at only that it is so: what the API has of it is older, and as
// true, if it says the same.
func (a *account) since(mine time.Time, had *metav1.Time, same bool) *metav1.Time {
	t := metav1.NewTime(mine.UTC().Truncate(time.Second))
	switch {
	case mine.IsZero():
		return nil
	case same && had != nil && had.Before(&t) && mine.Before(a.began.Add(freshly)):
		return had
	}
	return &t
}

// standing is how what an object asks of one interface stands.
func (a *account) standing(object string) (source.Standing, bool) {
	i := slices.IndexFunc(a.report.Standings, func(s source.Standing) bool { return s.Object == object })
	if i < 0 {
		return source.Standing{}, false
	}
	return a.report.Standings[i], true
}

// statuses are what the attachments of an object shall say, in their order; said
// is what they were last made to say, whatever became of it. Settled is false when
// they are about to say something else.
func (a *account) statuses(o *object, said []v1alpha1.ENIAttachment) (want []v1alpha1.ENIAttachment, settled bool) {
	settled = true
	for _, at := range o.attachments {
		name := objectName(o.Name, at.ENIID)
		s, known := a.standing(name)
		status := at.ENIAttachment
		if known {
			settled = settled && s.Settled
			a.stands(&status, s)
		}
		if c, ok := a.condition(o, name, s, known); ok {
			if !known && c.Reason == reasonOf(released) {
				a.stands(&status, source.Standing{})
			}
			if len(status.Conditions) == 0 {
				status.Conditions = conditionsOf(said, at.ENIID)
			}
			setCondition(&status.Conditions, c)
		}
		want = append(want, status)
	}
	return want, settled
}

// conditionsOf are those of an ENI.
func conditionsOf(all []v1alpha1.ENIAttachment, eni string) []metav1.Condition {
	i := slices.IndexFunc(all, func(a v1alpha1.ENIAttachment) bool { return a.ENIID == eni })
	if i < 0 {
		return nil
	}
	return all[i].Conditions
}

// stands fills in what the interface of an attachment is.
func (a *account) stands(status *v1alpha1.ENIAttachment, s source.Standing) {
	status.StateSince = a.since(s.StateSince, status.StateSince, status.State == s.State)
	status.DPDKBound, status.DPDKDriver, status.DPDKPCIAddress = s.Userspace, "", ""
	if s.Userspace {
		status.DPDKDriver, status.DPDKPCIAddress = s.Driver, string(s.Target)
	}
	status.DPDKResourceName = s.Pool
	status.PCIAddress, status.Driver, status.State = string(s.Target), s.Driver, s.State
}

// condition is whether an interface is as asked; false while there is nothing
// true to say.
func (a *account) condition(o *object, name string, s source.Standing, known bool) (metav1.Condition, bool) {
	c := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, LastTransitionTime: metav1.Now().Rfc3339Copy()}
	if why, ok := a.refusal(name); ok {
		c.Reason, c.Message, c.ObservedGeneration = reasonOf(refused), why, o.Generation
		return c, true
	}
	if !known {
		observed, looked := a.of[a.report.Generation][o.UID]
		c.Reason, c.Message, c.ObservedGeneration = reasonOf(released), "nothing of it is left on the node", observed
		return c, looked && o.DeletionTimestamp != nil
	}
	c.Reason, c.Message, c.ObservedGeneration = reasonOf(s.Condition), s.Reason, a.of[s.Generation][o.UID]
	if s.Condition == right {
		c.Status = metav1.ConditionTrue
	}
	if !s.Since.IsZero() {
		c.LastTransitionTime = metav1.NewTime(s.Since.Truncate(time.Second))
	}
	return c, true
}

// reasonOf is the agent's word as the API has reasons: "Right".
func reasonOf(word string) string {
	return strings.ToUpper(word[:min(1, len(word))]) + word[min(1, len(word)):]
}

// maxMessage is how long the message of a condition may be.
const maxMessage = 1024

// setCondition puts a condition into its list. A generation that was observed
// stays so; and the time is that of the last change of its status.
func setCondition(all *[]metav1.Condition, c metav1.Condition) {
	if len(c.Message) > maxMessage {
		c.Message = strings.ToValidUTF8(c.Message[:maxMessage-3], "") + "..."
	}
	conditions := slices.Clone(*all)
	i := slices.IndexFunc(conditions, func(old metav1.Condition) bool { return old.Type == c.Type })
	if i < 0 {
		*all = append(conditions, c)
		return
	}
	old := conditions[i]
	c.ObservedGeneration = cmp.Or(c.ObservedGeneration, old.ObservedGeneration)
	if old.Status == c.Status && !old.LastTransitionTime.IsZero() {
		c.LastTransitionTime = old.LastTransitionTime
	}
	conditions[i] = c
	*all = conditions
}
