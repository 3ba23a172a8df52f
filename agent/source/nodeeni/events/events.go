package events

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

const (
	// All events together: so many at once, then one each while.
	burst = 20
	each  = 5 * time.Second
	// A series is told of again so long after the last time; doubled each time.
	pauseFirst, pauseMax = 10 * time.Second, 5 * time.Minute
	// seriesOver is after how long of silence the same is another event.
	seriesOver = 10 * time.Minute
	// What is kept: of all, and of what could not be told.
	maxSeries = 256
	maxAge    = 10 * time.Minute
	// After an error nothing is told for so long, doubled, with jitter; longer
	// where nobody is allowed to.
	restFirst, restMax = time.Second, time.Minute
	restForbidden      = 5 * time.Minute
)

// Event is one thing that happened to an object.
type Event struct {
	Object
	Warning bool
	Reason  string // "Right"
	Note    string // for people
}

// Recorder tells the API of events.
type Recorder struct {
	api    api
	node   string
	logger log.Logger
	limit  *rate.Limiter
	wake   chan struct{}

	mu      sync.Mutex
	known   map[Event]*record
	turns   uint64
	dropped int // that nobody was told of

	// The loop's own.
	pauses *backoff.ExponentialBackOff
	rest   time.Time
	denied map[string]time.Time // until when, by what nobody is allowed to: create, patch
	told   string               // the last error in the log
}

// record is one event, and how often it happened.
type record struct {
	name        string // in the API
	first, last time.Time
	count, sent int
	made        bool          // it is in the API
	since       time.Time     // when what was not sent began
	turn        uint64        // and its place among all of that
	after       time.Time     // it is not sent before
	pause       time.Duration // until it is sent again
}

func (r *record) due() bool { return r.count > r.sent }

// verb is what telling of it asks of the API.
func (r *record) verb() string {
	if r.made {
		return "patch"
	}
	return "create"
}

// New is the recorder of a node. It asks nothing yet.
func New(c *rest.Config, node string, logger log.Logger) (*Recorder, error) {
	a, err := newClient(c)
	if err != nil {
		return nil, err
	}
	return newRecorder(a, node, logger), nil
}

func newRecorder(a api, node string, logger log.Logger) *Recorder {
	return &Recorder{
		api: a, node: clipped(node, maxInstance), logger: log.With(logger, "component", "events"),
		limit: rate.NewLimiter(rate.Every(each), burst), wake: make(chan struct{}, 1), known: map[Event]*record{},
		pauses: &backoff.ExponentialBackOff{InitialInterval: restFirst, RandomizationFactor: 0.3, Multiplier: 2, MaxInterval: restMax},
		denied: map[string]time.Time{},
	}
}

// Record notes that something happened. It waits for nothing.
func (r *Recorder) Record(e Event) {
	e.Note = clipped(e.Note, maxNote)
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(now)
	is, ok := r.known[e]
	if !ok && len(r.known) >= maxSeries && !r.makeRoom() {
		r.dropped++
		return
	}
	if !ok {
		is = &record{name: nameOf(r.node, e, now), first: now, pause: pauseFirst}
		r.known[e] = is
	}
	if !is.due() {
		r.turns++
		is.since, is.turn = now, r.turns
	}
	is.count++
	is.last = now
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// forget drops what has not happened again for long, and what could not be told
// for long. The caller holds mu.
func (r *Recorder) forget(now time.Time) {
	maps.DeleteFunc(r.known, func(_ Event, is *record) bool {
		if is.due() {
			if old := now.Sub(is.since) > maxAge; old {
				r.dropped++
				return true
			}
			return false
		}
		return now.Sub(is.last) > seriesOver
	})
}

// makeRoom drops the record that was told and has been silent longest. The
// caller holds mu.
func (r *Recorder) makeRoom() bool {
	var oldest Event
	found := false
	for e, is := range r.known {
		if !is.due() && (!found || is.last.Before(r.known[oldest].last)) {
			oldest, found = e, true
		}
	}
	if found {
		delete(r.known, oldest)
	}
	return found
}

// Run tells of what was recorded until ctx ends.
func (r *Recorder) Run(ctx context.Context) {
	for ctx.Err() == nil {
		e, at, ok := r.next()
		if !ok {
			wait(ctx, r.wake, nil)
			continue
		}
		if at.After(time.Now()) {
			t := time.NewTimer(time.Until(at))
			wait(ctx, r.wake, t.C)
			t.Stop()
			continue
		}
		if r.limit.Wait(ctx) == nil { // what happens meanwhile is told too
			r.send(ctx, e)
		}
	}
}

func wait(ctx context.Context, wake <-chan struct{}, until <-chan time.Time) {
	select {
	case <-ctx.Done():
	case <-wake:
	case <-until:
	}
}

// next is what is to be told first, and when.
func (r *Recorder) next() (e Event, at time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(time.Now())
	var turn uint64
	for candidate, is := range r.known {
		if !is.due() {
			continue
		}
		after := latest(is.after, r.rest, r.denied[is.verb()])
		if !ok || after.Before(at) || after.Equal(at) && is.turn < turn {
			e, at, turn, ok = candidate, after, is.turn, true
		}
	}
	return e, at, ok
}

func latest(all ...time.Time) time.Time { return slices.MaxFunc(all, time.Time.Compare) }

// send tells of one record.
func (r *Recorder) send(ctx context.Context, e Event) {
	r.mu.Lock()
	is, ok := r.known[e]
	if !ok || !is.due() {
		r.mu.Unlock()
		return
	}
	count, name, made, first, last := is.count, is.name, is.made, is.first, is.last
	r.mu.Unlock()
	var err error
	if made {
		err = r.api.patch(ctx, name, series{count, metav1.NewMicroTime(last)})
	} else {
		err = r.api.create(ctx, r.eventOf(e, name, count, first, last))
		if apierrors.IsAlreadyExists(err) {
			err = nil // an answer was lost
		}
	}
	r.sent(ctx, e, count, err)
}

func (r *Recorder) eventOf(e Event, name string, count int, first, last time.Time) event {
	v := event{
		TypeMeta:  metav1.TypeMeta{APIVersion: "events.k8s.io/v1", Kind: "Event"},
		EventTime: metav1.NewMicroTime(first), ReportingController: controller, ReportingInstance: r.node,
		Action: "Configure", Reason: e.Reason, Regarding: e.Object, Note: e.Note, Type: "Normal",
	}
	v.Metadata.Name, v.Metadata.Namespace = name, namespace
	if e.Warning {
		v.Type = "Warning"
	}
	if count > 1 {
		v.Series = &series{count, metav1.NewMicroTime(last)}
	}
	return v
}

// sent notes how telling of a record ended.
func (r *Recorder) sent(ctx context.Context, e Event, count int, err error) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	is, ok := r.known[e]
	if !ok || ctx.Err() != nil && err != nil {
		return
	}
	switch {
	case err == nil:
		is.made, is.sent, is.since = true, count, now
		is.after, is.pause = now.Add(is.pause), min(2*is.pause, pauseMax)
		r.rest, r.told = time.Time{}, ""
		r.pauses.Reset()
	case is.made && apierrors.IsNotFound(err): // the API keeps events for a while only
		is.made, is.name, is.first = false, nameOf(r.node, e, now), is.last
		is.count, is.sent = is.count-is.sent, 0
	case passing(err):
		r.rest = now.Add(r.pauses.NextBackOff())
		r.tell(err)
	case apierrors.IsUnauthorized(err):
		r.rest = now.Add(restForbidden)
		r.tell(fmt.Errorf("%w: the agent's credentials for the Kubernetes API are not valid", err))
	case apierrors.IsForbidden(err):
		r.denied[is.verb()] = now.Add(restForbidden)
		r.tell(fmt.Errorf("%w: let this agent's service account create and patch events.events.k8s.io in namespace %s", err, namespace))
	default: // this one will never be taken
		delete(r.known, e)
		r.dropped++
		r.tell(err)
	}
}

// passing says that an error is not about what was told.
func passing(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true
	}
	code := status.Status().Code
	return code == http.StatusTooManyRequests || code == http.StatusConflict || code >= http.StatusInternalServerError
}

// tell logs an error that was not the last.
func (r *Recorder) tell(err error) {
	if err.Error() == r.told {
		return
	}
	r.told = err.Error()
	level.Warn(r.logger).Log("err", err, "count", r.dropped, "msg", "event not told to the Kubernetes API")
}
