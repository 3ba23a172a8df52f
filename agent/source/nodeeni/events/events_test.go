package events

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// book is an API that keeps events.
type book struct {
	t        *testing.T
	recorder *Recorder

	mu       sync.Mutex
	events   map[string]event
	order    []string
	requests int
	err      error // what every request answers
	noPatch  bool  // nobody is allowed to
	lost     bool  // the next answer is
}

func (b *book) answers() error {
	b.requests++
	if b.lost {
		b.lost = false
		return errors.New("lost")
	}
	return nil
}

func (b *book) create(_ context.Context, e event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		b.requests++
		return b.err
	}
	if _, there := b.events[e.Metadata.Name]; there {
		return apierrors.NewAlreadyExists(schema.GroupResource{Resource: "events"}, e.Metadata.Name)
	}
	b.events[e.Metadata.Name] = e
	b.order = append(b.order, e.Metadata.Name)
	return b.answers()
}

func (b *book) patch(_ context.Context, name string, s series) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		b.requests++
		return b.err
	}
	if b.noPatch {
		b.requests++
		return apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, name, errors.New("no"))
	}
	e, there := b.events[name]
	if !there {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "events"}, name)
	}
	e.Series = &s
	b.events[name] = e
	return b.answers()
}

func (b *book) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// asked is how often it was, since this was asked last.
func (b *book) asked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.requests
	b.requests = 0
	return n
}

// says is what it has, "Right x2; Failed".
func (b *book) says() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, name := range b.order {
		e, there := b.events[name]
		if !there {
			continue
		}
		text := e.Reason
		if e.Series != nil {
			text += fmt.Sprintf(" x%d", e.Series.Count)
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

func (b *book) expect(want string) {
	b.t.Helper()
	if got := b.says(); got != want {
		b.t.Errorf("the API has %q, want %q", got, want)
	}
}

func (b *book) happens(reason string) {
	b.recorder.Record(Event{Object: Object{Name: "a", UID: "1"}, Reason: reason, Note: "note"})
}

// settled lets everything happen that happens by itself, some virtual time long.
func settled(d time.Duration) {
	time.Sleep(d) // virtual: only ever called inside a synctest bubble
	synctest.Wait()
}

func withBook(t *testing.T, fn func(b *book)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &book{t: t, events: map[string]event{}}
		b.recorder = newRecorder(b, "node-1", log.NewLogfmtLogger(t.Output()))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			b.recorder.Run(ctx)
		}()
		fn(b)
		cancel()
		<-ended
	})
}

// TestTheSameIsOneEvent, whose series counts, until it has not happened for long.
func TestTheSameIsOneEvent(t *testing.T) {
	withBook(t, func(b *book) {
		b.happens("Right")
		settled(0)
		b.expect("Right")
		b.happens("Failed")
		b.happens("Right")
		settled(0)
		b.expect("Right; Failed")
		settled(pauseFirst)
		b.expect("Right x2; Failed")
		if n := b.asked(); n != 3 {
			t.Errorf("%d requests for 3 changes", n)
		}
		settled(seriesOver + time.Second)
		b.happens("Right")
		settled(0)
		b.expect("Right x2; Failed; Right")
		for _, e := range b.events {
			if e.Regarding.UID != "1" || e.ReportingController == "" || e.ReportingInstance != "node-1" || e.Action == "" || e.Note != "note" || e.Metadata.Namespace != "default" {
				t.Errorf("told %+v", e)
			}
		}
	})
}

// TestWhatFlapsIsNoFlood: one object, and many.
func TestWhatFlapsIsNoFlood(t *testing.T) {
	withBook(t, func(b *book) {
		for i := range 3600 {
			b.happens([]string{"Right", "Failed"}[i%2])
			settled(time.Second)
		}
		settled(pauseMax)
		b.expect("Right x1800; Failed x1800")
		if n := b.asked(); n > 40 {
			t.Errorf("%d requests in an hour", n)
		}
		for i := range 3600 {
			b.happens(fmt.Sprint(i))
			settled(100 * time.Millisecond)
		}
		settled(time.Hour)
		if n, most := b.asked(), burst+int((6*time.Minute+maxAge+time.Minute)/each); n > most {
			t.Errorf("%d requests for 3600 events, want %d at most", n, most)
		}
		if len(b.recorder.known) > maxSeries {
			t.Errorf("%d are kept", len(b.recorder.known))
		}
	})
}

// TestTheAPIIsAway: what is not too old is told when it is back, and no more than
// a bound is kept. Nobody waits.
func TestTheAPIIsAway(t *testing.T) {
	withBook(t, func(b *book) {
		b.fail(errors.New("away"))
		began := time.Now()
		b.happens("old")
		settled(maxAge / 2)
		for i := range 2 * maxSeries {
			b.happens(fmt.Sprint("many-", i))
		}
		b.happens("new")
		if waited := time.Since(began) - maxAge/2; waited != 0 {
			t.Errorf("it waited %s", waited)
		}
		settled(maxAge/2 + time.Minute)
		b.fail(nil)
		settled(time.Hour)
		if says := b.says(); strings.Contains(says, "old") || !strings.HasPrefix(says, "many-0; many-1;") {
			t.Errorf("the API has %.100q", says)
		}
		if len(b.recorder.known) != 0 || b.recorder.dropped < maxSeries {
			t.Errorf("%d are kept, %d were dropped", len(b.recorder.known), b.recorder.dropped)
		}
	})
}

// TestAnAnswerIsLost: the event was made, and is not made twice.
func TestAnAnswerIsLost(t *testing.T) {
	withBook(t, func(b *book) {
		b.lost = true
		b.happens("Right")
		settled(time.Minute)
		b.expect("Right")
		b.happens("Right")
		settled(time.Minute)
		b.expect("Right x2")
	})
}

// TestAnEventHasExpired: the API keeps them for a while only.
func TestAnEventHasExpired(t *testing.T) {
	withBook(t, func(b *book) {
		b.happens("Right")
		settled(time.Minute)
		b.mu.Lock()
		b.events = map[string]event{}
		b.mu.Unlock()
		b.happens("Right")
		settled(time.Minute)
		b.expect("Right")
	})
}

// TestWithoutPermission asks now and then, and of one that is refused never again.
func TestWithoutPermission(t *testing.T) {
	withBook(t, func(b *book) {
		b.fail(apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "", errors.New("no")))
		for range 60 {
			b.happens("Right")
			settled(time.Minute)
		}
		if n := b.asked(); n > 15 {
			t.Errorf("%d requests in an hour", n)
		}
		b.fail(apierrors.NewBadRequest("no"))
		settled(restForbidden)
		b.asked()
		b.happens("Wrong")
		settled(time.Hour)
		if n := b.asked(); n != 1 {
			t.Errorf("asked %d times for one that is never taken", n)
		}
	})
}

// TestWithoutPermissionToPatch what is new is told all the same.
func TestWithoutPermissionToPatch(t *testing.T) {
	withBook(t, func(b *book) {
		b.noPatch = true
		b.happens("Right")
		settled(time.Second)
		b.happens("Right")
		settled(pauseFirst)
		b.happens("Failed")
		settled(time.Second)
		b.expect("Right; Failed")
		b.mu.Lock()
		b.noPatch = false
		b.mu.Unlock()
		settled(restForbidden)
		b.expect("Right x2; Failed")
		if n := b.asked(); n != 4 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestNames are an API's, and no two events have the same.
func TestNames(t *testing.T) {
	now, long := time.Now(), strings.Repeat("a", 229)+".b.c"
	names := map[string]bool{}
	for _, object := range []string{"a", long} {
		for _, node := range []string{"node-1", "node-2"} {
			for _, reason := range []string{"Right", "Failed"} {
				name := nameOf(node, Event{Object: Object{Name: object}, Reason: reason}, now)
				if len(name) > 253 || strings.Contains(name, "..") || names[name] {
					t.Errorf("%q", name)
				}
				names[name] = true
			}
		}
	}
	if s := clipped(strings.Repeat("é", 1000), maxNote); len(s) > maxNote || !strings.HasSuffix(s, "é...") {
		t.Errorf("%q", s)
	}
}
