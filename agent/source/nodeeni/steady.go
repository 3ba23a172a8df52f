package nodeeni

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"eniagent/supervise"
)

const (
	// A watch that lived this long, or told something, was a sound one.
	soundAfter = 10 * time.Second
	// How long the next waits after one that was not: doubled each time, with
	// jitter. The reflector takes one that tells nothing and ends within a second
	// for a failure, and lists everything again.
	restFirst = 1100 * time.Millisecond
	restMax   = 30 * time.Second
	// maxResumes is how often in a row an unsound watch is resumed where it was.
	maxResumes = 5
)

var errNothing = errors.New("the connection broke before the API answered")

// nothing says that a watch is what client-go makes of a connection that broke:
// one that ends at once, and no error.
func nothing(w watch.Interface) bool {
	return reflect.TypeOf(w) == reflect.TypeOf(watch.NewEmptyWatch())
}

// pace counts the watches in a row that were not sound.
type pace struct {
	mu      sync.Mutex
	unsound int
}

func (p *pace) sound() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unsound = 0
}

// ended counts one that was not, and says how long to rest.
func (p *pace) ended() (count int, rest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rest = min(restFirst<<min(p.unsound, 10), restMax)
	p.unsound++
	return p.unsound, rest + rand.N(rest/4) //nolint:gosec // spreads load, hides nothing
}

func (p *pace) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unsound
}

// steady is a watch whose end is never more than an end: after a connection that
// broke, the reflector resumes it where it was. Only what the API itself says of
// the place, and what breaks off again and again, makes it list everything.
type steady struct {
	kind    kind
	of      watch.Interface
	out     chan watch.Event
	stopped chan struct{}
	once    sync.Once
}

// newSteady makes one of a watch that was just begun.
func newSteady(ctx context.Context, of watch.Interface, s keeper, k kind, p *pace) *steady {
	w := &steady{kind: k, of: of, out: make(chan watch.Event), stopped: make(chan struct{})}
	if p.count() == 0 {
		s.restored()
	}
	supervise.Of(ctx).Go("watch "+k.resource, func() { w.run(s, p) })
	return w
}

// ResultChan is where the events are.
func (w *steady) ResultChan() <-chan watch.Event { return w.out }

// Stop ends the watch.
func (w *steady) Stop() {
	w.once.Do(func() { close(w.stopped) })
	w.of.Stop()
}

func (w *steady) run(s keeper, p *pace) {
	defer close(w.out)
	defer w.of.Stop()
	lived := time.NewTimer(soundAfter)
	defer lived.Stop()
	sound, quiet := false, time.Now() // since when nothing was told
	approve := func() {
		if !sound {
			sound = true
			p.sound()
			s.restored()
		}
	}
	for {
		select {
		case <-w.stopped:
			return
		case <-lived.C:
			approve()
		case e, more := <-w.of.ResultChan():
			switch {
			case !more || e.Type == watch.Error && !verdict(e):
				w.end(e, sound, quiet, s, p)
				return
			case e.Type == watch.Bookmark: // the reflector may begin anew with what follows
				approve()
				quiet = time.Now()
			case e.Type != watch.Error:
				approve()
				quiet = time.Time{}
			}
			w.pass(e)
		}
	}
}

// pass hands an event on.
func (w *steady) pass(e watch.Event) {
	select {
	case w.out <- e:
	case <-w.stopped:
	}
}

// end rests after a watch, and says so when many in a row were not sound.
func (w *steady) end(e watch.Event, sound bool, quiet time.Time, s keeper, p *pace) {
	if sound {
		w.rest(restFirst - time.Since(quiet))
		return
	}
	count, rest := p.ended()
	if count > maxResumes {
		err := errors.New("it ends")
		if e.Type == watch.Error {
			err = apierrors.FromObject(e.Object)
		}
		s.failed(fmt.Errorf("watch %s, %d times in a row: %w", w.kind, count, err))
	}
	w.rest(rest)
	if count > maxResumes && e.Type == watch.Error {
		w.pass(e)
	}
}

// rest waits, or until the watch is stopped.
func (w *steady) rest(d time.Duration) {
	pause := time.NewTimer(d)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-w.stopped:
	}
}

// verdict says that an error is the API's own word on the watch: its place is no
// longer known, or too many ask.
func verdict(e watch.Event) bool {
	var status apierrors.APIStatus
	if !errors.As(apierrors.FromObject(e.Object), &status) {
		return false
	}
	switch status.Status().Code {
	case http.StatusGone, http.StatusTooManyRequests:
		return true
	}
	return false
}
