package plugin

import (
	"cmp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// pod is what is read of one. The types of all Kubernetes are many megabytes.
type pod struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		NodeName   string `json:"nodeName"`
		Containers []struct {
			Name string `json:"name"`
		} `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase             string      `json:"phase"`
		Reason            string      `json:"reason"`
		Conditions        []condition `json:"conditions"`
		ContainerStatuses []container `json:"containerStatuses"`
	} `json:"status"`
}

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// container is how one of a pod fares.
type container struct {
	Name      string `json:"name"`
	State     state  `json:"state"`
	LastState state  `json:"lastState"`
}

type state struct {
	Running *struct {
		StartedAt metav1.Time `json:"startedAt"`
	} `json:"running"`
	Waiting *struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	} `json:"waiting"`
	Terminated *struct {
		StartedAt metav1.Time `json:"startedAt"`
		Reason    string      `json:"reason"`
	} `json:"terminated"`
}

// started is when a container with this state was; zero when it was not, or
// nobody knows.
func (s state) started() time.Time {
	switch {
	case s.Running != nil:
		return s.Running.StartedAt.Time
	case s.Terminated != nil:
		return s.Terminated.StartedAt.Time
	}
	return time.Time{}
}

// ran says that a container was in a state that follows its start.
func (s state) ran() bool { return s.Running != nil || s.Terminated != nil }

// DeepCopyObject makes it a runtime.Object. Nobody changes what it shares.
func (p *pod) DeepCopyObject() runtime.Object {
	c := *p
	c.ObjectMeta = *p.ObjectMeta.DeepCopy()
	c.Status.Conditions = slices.Clone(p.Status.Conditions)
	c.Status.ContainerStatuses = slices.Clone(p.Status.ContainerStatuses)
	return &c
}

type pods struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []pod `json:"items"`
}

// DeepCopyObject makes it a runtime.Object.
func (l *pods) DeepCopyObject() runtime.Object {
	c := &pods{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		c.Items = append(c.Items, *l.Items[i].DeepCopyObject().(*pod))
	}
	return c
}

func version() schema.GroupVersion { return schema.GroupVersion{Version: "v1"} }

// codecs read what the API answers as these types.
func codecs() (runtime.NegotiatedSerializer, runtime.ParameterCodec) {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypeWithName(version().WithKind("Pod"), &pod{})
	scheme.AddKnownTypeWithName(version().WithKind("PodList"), &pods{})
	metav1.AddToGroupVersion(scheme, version())
	return serializer.NewCodecFactory(scheme).WithoutConversion(), runtime.NewParameterCodec(scheme)
}

// standing is what a pod has to do with a change of the file.
type standing int

const (
	ended     standing = iota // it has ended, and nobody starts it again
	read                      // it has read the change
	stale                     // it runs since before, or crashes and is left to wait
	ending                    // it is being deleted
	unstarted                 // it reads it when it starts
)

// against says how a pod stands to a change that was made at a time, and that it
// is of later origin than that, if that is known.
func (p *pod) against(change, now time.Time, later bool) standing {
	if p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
		return ended
	}
	has, runs, backsOff := 0, false, false
	for _, c := range p.Status.ContainerStatuses {
		after := func(s state) bool {
			at := s.started()
			return s.ran() && later || at.After(change) && !at.After(now)
		}
		if after(c.State) || after(c.LastState) {
			has++
			continue
		}
		runs = runs || c.State.Running != nil
		backsOff = backsOff || c.State.Waiting != nil && c.State.Waiting.Reason == crashLoop
	}
	switch {
	case has > 0 && has >= len(p.Spec.Containers):
		return read
	case p.DeletionTimestamp != nil:
		return ending
	case runs, backsOff:
		return stale
	}
	return unstarted
}

// crashLoop is why a container waits that has ended too often: for 10 s at first,
// and up to 5 minutes (MaxContainerBackOff of the kubelet). Its pod's successor
// starts at once.
const crashLoop = "CrashLoopBackOff"

func (p *pod) name() string { return p.Namespace + "/" + p.Name }

// trouble is why a pod is not ready, and if it is.
func (p *pod) trouble() (why string, ready bool) {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" && c.Status == "True" && p.DeletionTimestamp == nil {
			return "", true
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "" {
			return w.Reason, false
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Status != "True" && c.Reason != "" {
			return c.Reason, false
		}
	}
	return cmp.Or(p.Status.Reason, p.Status.Phase, "the kubelet says nothing of it yet"), false
}
