package file

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/supervise"
)

// TestAReadThatHangsIsTold after its time, and following goes on: what can be read
// later is taken without anybody telling that it changed.
func TestAReadThatHangsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung, fine := make(chan struct{}), false
		r := reader{path: "/x.yaml", within: time.Second, owner: supervise.New("test", nil), read: func(string) (*source.Desired, error) {
			if !fine {
				<-hung
			}
			return &source.Desired{Generation: "1"}, nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		updates, ended := make(chan source.Update), make(chan struct{})
		go func() {
			defer close(ended)
			follow(ctx, func() source.Update { return r.update(ctx) }, nil, nil, 100*time.Millisecond, updates)
		}()
		began := time.Now()
		u := <-updates
		if !errors.Is(u.Err, errSlow) || !strings.Contains(u.Err.Error(), "not read within 1s") || time.Since(began) != time.Second {
			t.Errorf("after %s: %v", time.Since(began), u.Err)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := r.stuck.Load(); n < 2 || n > maxStuck {
			t.Errorf("%d reads hang", n)
		}
		fine = true
		close(hung)
		for u = <-updates; u.Err != nil; u = <-updates {
			if !errors.Is(u.Err, errSlow) {
				t.Error(u.Err)
			}
		}
		if u.Desired.Generation != "1" {
			t.Errorf("%+v", u)
		}
		cancel()
		<-ended
		synctest.Wait()
		if n := r.stuck.Load(); n != 0 {
			t.Errorf("%d reads hang still", n)
		}
	})
}

// TestAWatchThatHangsIsNotWaitedFor for ever.
func TestAWatchThatHangsIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if err := within(time.Second, make(chan error)); !errors.Is(err, errSlow) {
			t.Error(err)
		}
		wrong := make(chan error, 1)
		wrong <- context.Canceled
		if err := within(time.Second, wrong); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
