package plugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"eniagent/agent/source"
)

// walk is a node on which much happens at once: the file changes, the plugin
// crashes, its pods are deleted by others, the API goes away, and the kubelet
// tells of all that some time later.
type walk struct {
	*world

	rng    *rand.Rand
	breaks func(*walk) api                       // wraps the world; nil is the world itself
	since  func(first, last time.Time) time.Time // what is taken for the change
	forget bool                                  // each try is a new restarter's

	mu     sync.Mutex
	reads  map[string]int // what the program of a pod has read that runs now
	number int            // of the last change
	first  time.Time      // that is not paid
	last   time.Time
	made   int           // pods
	clock  time.Duration // by which the kubelet is wrong
	counts map[int]int   // deleted for a change
	trial  int           // the change of the try under way
	trying time.Time     // and when that was
	paid   int
	found  []string
}

func (k *walk) some(low, high time.Duration) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return low + time.Duration(k.rng.Int64N(int64(high-low)))
}

func (k *walk) one(in int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rng.IntN(in) == 0
}

func (k *walk) wrong(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.found = append(k.found, fmt.Sprintf(format, args...))
}

// starts has the program of a pod start now, which is told later.
func (k *walk) starts(name string) {
	k.mu.Lock()
	at := time.Now().Add(k.clock)
	k.reads[name] = k.number
	k.mu.Unlock()
	time.Sleep(k.some(0, 1500*time.Millisecond))
	k.world.mu.Lock()
	_, there := k.pods[name]
	k.world.mu.Unlock()
	if there {
		k.change(name, running(at))
		k.change(name, ready)
	}
}

// crashes has the program of a pod end too often: the kubelet starts it some time
// later, unless it is deleted.
func (k *walk) crashes(name string) {
	k.mu.Lock()
	delete(k.reads, name)
	k.mu.Unlock()
	if k.ends(name) {
		return
	}
	k.change(name, with(func(c *container) {
		at := c.State.started()
		c.State = state{}
		c.State.wait("CrashLoopBackOff")
		c.LastState.end(at)
	}))
	for until := time.Now().Add(k.some(time.Second, 2*time.Minute)); time.Now().Before(until) && !k.ends(name); {
		time.Sleep(500 * time.Millisecond)
	}
	if !k.ends(name) {
		k.starts(name)
	}
}

// pod is the life of one, and those that follow it.
func (k *walk) pod(ctx context.Context) {
	for ctx.Err() == nil {
		k.mu.Lock()
		k.made++
		name := fmt.Sprint("pod-", k.made)
		k.mu.Unlock()
		k.change(name, func(*pod) {})
		time.Sleep(k.some(100*time.Millisecond, 3*time.Second))
		k.starts(name)
		for ctx.Err() == nil && !k.ends(name) {
			time.Sleep(k.some(100*time.Millisecond, 2*time.Second))
			if k.one(30) {
				k.starts(name) // after a crash
			}
			if k.one(40) {
				k.crashes(name)
			}
			if k.one(60) {
				k.change(name, func(p *pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} }) // by another hand
			}
		}
		time.Sleep(k.some(500*time.Millisecond, 4*time.Second))
		k.mu.Lock()
		delete(k.reads, name)
		k.mu.Unlock()
		k.gone(name)
		time.Sleep(k.some(200*time.Millisecond, 2*time.Second))
	}
}

func (k *walk) ends(name string) bool {
	k.world.mu.Lock()
	defer k.world.mu.Unlock()
	return k.pods[name].DeletionTimestamp != nil
}

// changes are made of the file now and then.
func (k *walk) changes(ctx context.Context) {
	for ctx.Err() == nil {
		k.mu.Lock()
		k.number++
		k.last = time.Now()
		if k.paid == k.number-1 {
			k.first = k.last
		}
		k.mu.Unlock()
		if k.one(3) { // a burst
			time.Sleep(k.some(10*time.Millisecond, 3*time.Second))
			continue
		}
		time.Sleep(k.some(5*time.Second, 40*time.Second))
	}
}

func (k *walk) trouble(ctx context.Context) {
	for ctx.Err() == nil {
		time.Sleep(k.some(time.Second, 20*time.Second))
		switch {
		case k.one(2):
			k.cut()
		case k.one(2):
			k.fail(errors.New("away"))
			k.cut()
			time.Sleep(k.some(10*time.Millisecond, 5*time.Second))
			k.fail(nil)
		default:
			k.mu.Lock()
			k.clock = [...]time.Duration{0, 0, -time.Hour, 24 * time.Hour}[k.rng.IntN(4)]
			k.mu.Unlock()
		}
	}
}

// remove notes who was deleted without need.
func (k *walk) remove(ctx context.Context, p *pod) error {
	if k.one(4) { // much happens before it arrives
		time.Sleep(k.some(10*time.Millisecond, 3*time.Second))
	}
	k.world.mu.Lock()
	at := time.Time{}
	if is, ok := k.pods[p.Name]; ok {
		at = is.Status.ContainerStatuses[0].State.started()
		if at.IsZero() {
			at = is.Status.ContainerStatuses[0].LastState.started()
		}
	}
	k.world.mu.Unlock()
	err := k.world.remove(ctx, p)
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.counts[k.trial]++
	many, trying := k.counts[k.trial], k.trying
	k.mu.Unlock()
	if at.After(trying) && !at.After(time.Now()) {
		k.wrong("W2: %s was deleted, which has read the change", p.Name)
	}
	if many > 2 { // there are two
		k.wrong("W3: %d pods were deleted for one change", many)
	}
	return nil
}

// pays is an agent.
func (k *walk) pays(ctx context.Context) {
	var r *Restarter
	for ctx.Err() == nil {
		time.Sleep(k.some(100*time.Millisecond, time.Second))
		k.mu.Lock()
		number, change, open := k.number, k.since(k.first, k.last), k.number > k.paid
		k.trial, k.trying = number, change
		k.mu.Unlock()
		if !open {
			continue
		}
		if r == nil || k.forget {
			r = newRestarter(k.breaks(k), options())
		}
		if _, err := r.Restart(ctx, source.Owed{Number: uint64(number), Last: change}, func(string) {}); err != nil {
			continue
		}
		k.mu.Lock()
		k.paid, k.first = number, k.last
		for name, has := range k.reads {
			if has < number {
				k.found = append(k.found, fmt.Sprintf("W1: %d is paid, and %s has read %d", number, name, has))
			}
		}
		k.mu.Unlock()
	}
}

func (k *walk) run(t *testing.T, seed uint64) (found []string, paid int) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		k.world, k.rng = newWorld(t), rand.New(rand.NewPCG(seed, 1))
		k.reads, k.counts = map[string]int{}, map[int]int{}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		var all sync.WaitGroup
		for range 1 + seed%2 {
			all.Go(func() { k.pod(ctx) })
		}
		all.Go(func() { k.changes(ctx) })
		all.Go(func() { k.trouble(ctx) })
		all.Go(func() { k.pays(ctx) })
		all.Wait()
	})
	return k.found, k.paid
}

func itself(k *walk) api { return k }

func theLast(_, last time.Time) time.Time { return last }

// TestWhateverHappens: nothing is paid while one runs that has not read it, none
// is deleted that the API says has, and none makes a loop.
func TestWhateverHappens(t *testing.T) {
	paid := 0
	for seed := range uint64(60) {
		k := &walk{breaks: itself, since: theLast}
		found, n := k.run(t, seed)
		paid += n
		if len(found) > 0 {
			t.Errorf("seed %d: %s", seed, strings.Join(found, "\n"))
		}
	}
	t.Logf("%d changes paid", paid)
	if paid < 300 {
		t.Errorf("no more than %d changes were paid", paid)
	}
}

// wrapped is the API with one thing wrong.
type wrapped struct {
	*walk
	edit   func(all map[string]*pod) // of what is listed and watched
	loose  bool                      // deletes whatever has that name
	cached time.Duration             // the age of what is listed

	mu    sync.Mutex
	lists []struct {
		at time.Time
		l  *pods
	}
}

func (v *wrapped) edited(p *pod) *pod {
	if v.edit == nil {
		return p
	}
	all := map[string]*pod{p.Name: p.DeepCopyObject().(*pod)}
	v.edit(all)
	return all[p.Name]
}

func (v *wrapped) list(ctx context.Context) (*pods, error) {
	l, err := v.walk.list(ctx)
	if err != nil {
		return nil, err
	}
	if v.cached > 0 {
		v.mu.Lock()
		defer v.mu.Unlock()
		for i := len(v.lists) - 1; i >= 0; i-- {
			if time.Since(v.lists[i].at) >= v.cached {
				return v.lists[i].l, nil
			}
		}
		return &pods{ListMeta: metav1.ListMeta{ResourceVersion: "0"}}, nil
	}
	edited := &pods{ListMeta: l.ListMeta}
	for i := range l.Items {
		if p := v.edited(&l.Items[i]); p != nil {
			edited.Items = append(edited.Items, *p)
		}
	}
	return edited, nil
}

func (v *wrapped) watch(ctx context.Context, from string) (watch.Interface, error) {
	w, err := v.walk.watch(ctx, from)
	if err != nil {
		return nil, err
	}
	return drained{watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
		p, ok := e.Object.(*pod)
		if !ok || e.Type == watch.Deleted {
			return e, true
		}
		if p = v.edited(p); p == nil {
			e.Type = watch.Deleted
			return e, true
		}
		e.Object = p
		return e, true
	})}, nil
}

// drained is a watch that leaves nothing behind.
type drained struct{ watch.Interface }

func (d drained) Stop() {
	d.Interface.Stop()
	for range d.ResultChan() {
	}
}

func (v *wrapped) remove(ctx context.Context, p *pod) error {
	if v.loose {
		if v.one(2) {
			time.Sleep(v.some(10*time.Millisecond, 3*time.Second))
		}
		v.world.mu.Lock()
		if is, ok := v.pods[p.Name]; ok {
			p = is.DeepCopyObject().(*pod)
		}
		v.world.mu.Unlock()
	}
	return v.walk.remove(ctx, p)
}

// caches remembers, each half second, what there was.
func (v *wrapped) caches() {
	for {
		l, err := v.walk.list(context.Background())
		v.mu.Lock()
		if err == nil {
			v.lists = append(v.lists, struct {
				at time.Time
				l  *pods
			}{time.Now(), l})
		}
		v.mu.Unlock()
		select {
		case <-v.t.Context().Done():
			return
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// dropping shows no pods of a sort.
func dropping(which func(*pod) bool) func(*walk) api {
	return editing(func(all map[string]*pod) {
		maps.DeleteFunc(all, func(_ string, p *pod) bool { return which(p) })
	})
}

func editing(edit func(map[string]*pod)) func(*walk) api {
	return func(k *walk) api { return &wrapped{walk: k, edit: edit} }
}

// roundedUp has every start told a second later.
func roundedUp(all map[string]*pod) {
	for _, p := range all {
		for i := range p.Status.ContainerStatuses {
			if r := p.Status.ContainerStatuses[i].State.Running; r != nil {
				p.Status.ContainerStatuses[i].State.run(r.StartedAt.Add(time.Second))
			}
		}
	}
}

// TestBrokenRestartersAreCaught breaks one thing at a time.
func TestBrokenRestartersAreCaught(t *testing.T) {
	for _, v := range []struct {
		name, sees string
		breaks     func(*walk) api
		since      func(first, last time.Time) time.Time
		forget     bool
	}{
		{"paid once it was deleted", "W1", dropping(func(p *pod) bool { return p.DeletionTimestamp != nil }), theLast, false},
		{"who has not started is not looked at", "W1", dropping(func(p *pod) bool { return len(p.Status.ContainerStatuses) == 0 }), theLast, false},
		{"the second of the start is rounded up", "W1", editing(roundedUp), theLast, false},
		{"the time of the first change", "W1", itself, func(first, _ time.Time) time.Time { return first }, false},
		{"whatever the pod is by now", "W2", func(k *walk) api { return &wrapped{walk: k, loose: true} }, theLast, false},
		{"each try begins anew", "W3", itself, theLast, true},
		{"a list from a cache", "W1", func(k *walk) api {
			w := &wrapped{walk: k, cached: 3 * time.Second}
			go w.caches()
			return w
		}, theLast, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			var all []string
			for seed := range uint64(60) {
				found, _ := (&walk{breaks: v.breaks, since: v.since, forget: v.forget}).run(t, seed)
				if slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, v.sees) }) {
					return
				}
				all = append(all, found...)
			}
			t.Errorf("not noticed; found was %q", all)
		})
	}
}
