package nodeeni

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"eniagent/agent/source/nodeeni/v1alpha1"
)

func status(code int32) *metav1.Status {
	return &metav1.Status{Status: metav1.StatusFailure, Code: code, Message: "stream error"}
}

// TestASoundWatchJustEnds: whatever broke it, the reflector sees an end and no
// error, and not within a second after it was told nothing.
func TestASoundWatchJustEnds(t *testing.T) {
	t.Run("closed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { soundWatch(t, (*watch.FakeWatcher).Stop) })
	})
	t.Run("broken", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			soundWatch(t, func(f *watch.FakeWatcher) { f.Error(status(http.StatusInternalServerError)) })
		})
	})
}

func soundWatch(t *testing.T, finish func(*watch.FakeWatcher)) {
	s, p, of := newStore[*object](here, make(chan struct{}, 1)), &pace{}, watch.NewFake()
	s.failed(errors.New("away"))
	w := newSteady(t.Context(), of, s, nodeENIs(), p)
	defer w.Stop()
	if err := s.snapshot().err; err != nil {
		t.Errorf("a watch is there, and the API is away: %v", err)
	}
	of.Action(watch.Bookmark, read(t, nodeENI("x", ``)))
	if e := <-w.ResultChan(); e.Type != watch.Bookmark {
		t.Errorf("got %v", e)
	}
	begun := time.Now()
	finish(of)
	if e, more := <-w.ResultChan(); more {
		t.Errorf("got %v instead of an end", e)
	}
	if took := time.Since(begun); took < time.Second || took > 2*time.Second {
		t.Errorf("ended after %s", took)
	}
	if err := s.snapshot().err; err != nil || p.count() != 0 {
		t.Errorf("it counts as unsound (%d), and as %v", p.count(), err)
	}
}

func TestWhatTheAPISaysOfAWatchIsPassedOn(t *testing.T) {
	for _, code := range []int32{http.StatusGone, http.StatusTooManyRequests} {
		synctest.Test(t, func(t *testing.T) {
			of := watch.NewFake()
			w := newSteady(t.Context(), of, newStore[*object](here, make(chan struct{}, 1)), nodeENIs(), &pace{})
			defer w.Stop()
			of.Error(status(code))
			if e := <-w.ResultChan(); e.Type != watch.Error || e.Object.(*metav1.Status).Code != code {
				t.Errorf("got %+v", e)
			}
		})
	}
}

// TestAWatchThatBreaksAgainAndAgain is resumed ever more seldom, and at last said
// to be broken.
func TestAWatchThatBreaksAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := newStore[*object](here, make(chan struct{}, 1)), &pace{}
		var last time.Duration
		for i := range 3 * maxResumes {
			begun, of := time.Now(), watch.NewFake()
			w := newSteady(t.Context(), of, s, nodeENIs(), p)
			of.Error(status(http.StatusInternalServerError))
			e, passed := <-w.ResultChan()
			took := time.Since(begun)
			w.Stop()
			err := s.snapshot().err
			if many := i >= maxResumes; passed != many || (err != nil) != many {
				t.Errorf("the %dth: passed on %v (%v), and the API is said to be %v", i+1, passed, e, err)
			}
			if took < last*3/4 || took > restMax+restMax/4 {
				t.Errorf("the %dth ended after %s, the one before after %s", i+1, took, last)
			}
			last = took
		}
		if err := s.snapshot().err; !strings.Contains(err.Error(), "15 times in a row: stream error") {
			t.Errorf("the error is %v", err)
		}
		// One that lives is sound, though it tells nothing.
		w := newSteady(t.Context(), watch.NewFake(), s, nodeENIs(), p)
		time.Sleep(soundAfter) // virtual
		synctest.Wait()
		if err := s.snapshot().err; err != nil || p.count() != 0 {
			t.Errorf("a watch lives, and the API is away: %v", err)
		}
		w.Stop()
		if _, more := <-w.ResultChan(); more {
			t.Error("an event after the end")
		}
	})
}

func TestWhatAConnectionThatBrokeLooksLike(t *testing.T) {
	if !nothing(watch.NewEmptyWatch()) || nothing(watch.NewFake()) {
		t.Error("a broken connection is not told from a watch")
	}
	resource := v1alpha1.GroupVersion().WithResource(v1alpha1.Resource).GroupResource()
	for err, want := range map[error]bool{
		errNothing:                               true,
		apierrors.NewInternalError(errNothing):   true,
		apierrors.NewTooManyRequests("later", 1): true,
		apierrors.NewResourceExpired("too old"):  false,
		apierrors.NewUnauthorized("who are you"): false,
		apierrors.NewGenericServerResponse(http.StatusNotFound, "get", resource, "", "", 0, true): true,
		apierrors.NewServiceUnavailable("not yet"):                                                true,
	} {
		if away(err) != want {
			t.Errorf("%v: away is %v", err, !want)
		}
	}
}
