package events

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

const (
	// namespace is where the events of objects without one are.
	namespace = metav1.NamespaceDefault
	// controller is who reports them.
	controller = "eniagent.dev/agent"
	// What the API takes at most, in bytes.
	maxNote     = 1024
	maxInstance = 128
	maxPrefix   = 230 // of a name, before what makes it unique

	patience = 10 * time.Second
)

// Object is what an event is about.
type Object struct {
	APIVersion string    `json:"apiVersion,omitempty"`
	Kind       string    `json:"kind,omitempty"`
	Name       string    `json:"name,omitempty"`
	UID        types.UID `json:"uid,omitempty"`
}

// event is one as the API has it. The types of all Kubernetes are many megabytes.
type event struct {
	metav1.TypeMeta `json:",inline"`

	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	EventTime           metav1.MicroTime `json:"eventTime"`
	Series              *series          `json:"series,omitempty"`
	ReportingController string           `json:"reportingController"`
	ReportingInstance   string           `json:"reportingInstance"`
	Action              string           `json:"action"`
	Reason              string           `json:"reason"`
	Regarding           Object           `json:"regarding"`
	Note                string           `json:"note,omitempty"`
	Type                string           `json:"type"`
}

type series struct {
	Count            int              `json:"count"`
	LastObservedTime metav1.MicroTime `json:"lastObservedTime"`
}

// api takes events.
type api interface {
	create(ctx context.Context, e event) error
	patch(ctx context.Context, name string, s series) error
}

// client is the real one.
type client struct{ rest rest.Interface }

func newClient(c *rest.Config) (*client, error) {
	c = rest.CopyConfig(c)
	gv := schema.GroupVersion{Group: "events.k8s.io", Version: "v1"}
	c.APIPath, c.GroupVersion = "/apis", &gv
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, gv)
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	c.WarningHandlerWithContext = rest.NoWarnings{}
	c.UserAgent = "eniagent"
	r, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("reach the Kubernetes API: %w", err)
	}
	return &client{r}, nil
}

func (c *client) create(ctx context.Context, e event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return answer(ctx, c.rest.Post().SetHeader("Content-Type", runtime.ContentTypeJSON), body)
}

func (c *client) patch(ctx context.Context, name string, s series) error {
	body, err := json.Marshal(map[string]series{"series": s})
	if err != nil {
		return err
	}
	return answer(ctx, c.rest.Patch(types.MergePatchType).Name(name), body)
}

// answer is that of a request, made once: who asks knows when to ask again.
func answer(ctx context.Context, r *rest.Request, body []byte) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %s", patience))
	defer cancel()
	return r.Namespace(namespace).Resource("events").Body(body).MaxRetries(0).Do(ctx).Error()
}

// nameOf is that of an event that a node tells of since a time, which no other
// has.
func nameOf(node string, e Event, since time.Time) string {
	prefix := strings.TrimRight(e.Name[:min(len(e.Name), maxPrefix)], "-.")
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %+v %d", node, e, since.UnixNano()))
	return fmt.Sprintf("%s.%x", prefix, sum[:8])
}

// clipped is a text of no more bytes than that.
func clipped(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-3], "") + "..."
}
