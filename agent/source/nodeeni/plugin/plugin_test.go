package plugin

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// settled lets everything happen that happens by itself, some virtual time long.
func settled(d time.Duration) {
	time.Sleep(d) // virtual: only ever called inside a synctest bubble
	synctest.Wait()
}

// inWorld runs a test in virtual time.
func inWorld(t *testing.T, fn func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour + 300*time.Millisecond) // there was a time before
		fn(newWorld(t))
	})
}

// TestWhoRunsSinceBeforeIsRestarted, once, and what follows is waited for.
func TestWhoRunsSinceBeforeIsRestarted(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change("a", running(time.Now()))
		w.change("a", ready)
		settled(time.Minute)
		c := w.restart(w.restarter(), 1, time.Now())
		c.expect("the end of pod kube-system/a, which is being deleted", "a")
		w.cut()
		c.expect("the end of pod kube-system/a, which is being deleted", "a")
		w.gone("a")
		c.expect("another pod name=sriov-device-plugin in namespace kube-system on node node-1", "a")
		w.change("b", func(*pod) {})
		c.expect("the start of pod kube-system/b: ContainersNotReady", "a")
		w.change("b", waiting("ImagePullBackOff"))
		c.expect("the start of pod kube-system/b: ImagePullBackOff", "a")
		w.change("b", running(time.Now()))
		c.expect("pod kube-system/b to be ready: ContainersNotReady", "a")
		w.change("b", ready)
		c.expect("! it was restarted, and pod kube-system/b is ready", "a")
		if w.lists != 2 {
			t.Errorf("%d lists, want one and one after the watch was cut", w.lists)
		}
	})
}

// TestWhoNeedsNoRestart is left alone.
func TestWhoNeedsNoRestart(t *testing.T) {
	for _, v := range []struct {
		name string
		is   func(w *world, change time.Time)
		want string
	}{
		{"none there", func(*world, time.Time) {}, "! no pod name=sriov-device-plugin in namespace kube-system on node node-1 runs"},
		{"evicted", func(w *world, _ time.Time) {
			w.change("a", func(p *pod) { p.Status.Phase = "Failed" })
		}, "! no pod"},
		{"started since", func(w *world, change time.Time) {
			w.change("a", running(change.Add(2*time.Second)))
		}, "! pod kube-system/a has started since"},
		{"crashes since", func(w *world, change time.Time) {
			w.change("a", running(change.Add(-time.Minute)))
			w.change("a", with(func(c *container) {
				c.State.wait("CrashLoopBackOff")
				c.LastState.end(change.Add(2 * time.Second))
			}))
		}, "! pod kube-system/a has started since"},
		{"cannot get its image", func(w *world, change time.Time) {
			w.change("a", with(func(c *container) {
				c.State.wait("ImagePullBackOff")
				c.LastState.end(change.Add(-2 * time.Second))
			}))
		}, "the start of pod kube-system/a: ImagePullBackOff"},
		{"pending", func(w *world, _ time.Time) {
			w.change("a", func(*pod) {})
		}, "the start of pod kube-system/a: ContainersNotReady"},
		{"ends", func(w *world, _ time.Time) {
			w.change("a", func(p *pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
		}, "the end of pod kube-system/a, which is being deleted"},
		{"of another node", func(w *world, change time.Time) {
			w.change("a", running(change.Add(-time.Minute)))
			w.change("a", func(p *pod) { p.Spec.NodeName = "node-2" })
		}, "! no pod"},
	} {
		t.Run(v.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				change := time.Now()
				v.is(w, change)
				settled(5 * time.Second)
				c := w.restart(w.restarter(), 1, change)
				defer c.stop()
				c.expect(v.want, "")
			})
		})
	}
}

// TestWhoMayNotHaveReadIt is deleted, once.
func TestWhoMayNotHaveReadIt(t *testing.T) {
	for _, v := range []struct {
		name string
		is   func(w *world, change time.Time)
		want string
	}{
		{"in the second of the change", func(w *world, change time.Time) { w.change("a", running(change)) }, "a"},
		{"by a clock that was ahead", func(w *world, change time.Time) { w.change("a", running(change.Add(time.Hour))) }, "a"},
		{"one container of two", func(w *world, change time.Time) {
			w.change("a", running(change.Add(-time.Minute)))
			w.change("a", func(p *pod) {
				p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0])
				p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, container{})
				p.Status.ContainerStatuses[1].State.run(change.Add(2 * time.Second))
			})
		}, "a"},
		{"crashes since before", func(w *world, change time.Time) {
			w.change("a", with(func(c *container) {
				c.State.wait("CrashLoopBackOff")
				c.LastState.end(change.Add(-2 * time.Second))
			}))
		}, "a"},
		{"crashed in the second of the change", func(w *world, change time.Time) {
			w.change("a", with(func(c *container) {
				c.State.wait("CrashLoopBackOff")
				c.LastState.end(change)
			}))
		}, "a"},
		{"several pods", func(w *world, change time.Time) {
			w.change("a", running(change.Add(-time.Minute)))
			w.change("b", running(change.Add(2*time.Second)))
			w.change("c", running(change.Add(-time.Hour)))
		}, "a c"},
	} {
		t.Run(v.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				change := time.Now()
				v.is(w, change)
				settled(5 * time.Second)
				c := w.restart(w.restarter(), 1, change)
				defer c.stop()
				c.expect("the end of pod kube-system/a, which is being deleted", v.want)
			})
		})
	}
}

// TestItStartsByItselfMeanwhile: the pod that was looked at is no longer that pod.
func TestItStartsByItselfMeanwhile(t *testing.T) {
	inWorld(t, func(w *world) {
		change := time.Now()
		w.change("a", running(change.Add(-time.Minute)))
		settled(5 * time.Second)
		w.before = func() { w.change("a", running(time.Now())) }
		w.restart(w.restarter(), 1, change).expect("! pod kube-system/a has started since", "")
	})
}

// TestOneThatIsNeverReady is told of, and not restarted again.
func TestOneThatIsNeverReady(t *testing.T) {
	inWorld(t, func(w *world) {
		r, change := w.restarter(), time.Now()
		w.change("a", running(change.Add(-time.Minute)))
		settled(5 * time.Second)
		c := w.restart(r, 1, change)
		c.expect("the end of pod", "a")
		w.gone("a")
		w.change("b", running(time.Now()))
		for range 20 { // it crashes, and starts again
			settled(2 * time.Second)
			w.change("b", with(func(c *container) { c.LastState, c.State = c.State, state{}; c.State.wait("CrashLoopBackOff") }))
			settled(2 * time.Second)
			w.change("b", running(time.Now()))
		}
		c.expect("! it was restarted waited 1m0s in vain for pod kube-system/b to be ready", "a")
		w.restart(r, 1, change).expect("! it was restarted", "a")
	})
}

// TestNoOtherComes: who takes the DaemonSet off the node leaves nothing owed.
func TestNoOtherComes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change("a", running(time.Now().Add(-time.Minute)))
		c := w.restart(w.restarter(), 1, time.Now())
		c.expect("the end of pod", "a")
		w.gone("a")
		settled(time.Minute)
		c.expect("! it was restarted waited 1m0s in vain for another pod", "a")
	})
}

// TestWhomTheAPICannotRestart: a person is told, and the others are restarted.
func TestWhomTheAPICannotRestart(t *testing.T) {
	inWorld(t, func(w *world) {
		change := time.Now()
		w.change("alone", func(p *pod) { p.OwnerReferences = nil; running(change.Add(-time.Minute))(p) })
		w.change("other", running(change.Add(-time.Minute)))
		w.change("static", func(p *pod) {
			p.Annotations = map[string]string{mirror: "x"}
			running(change.Add(-time.Minute))(p)
		})
		settled(5 * time.Second)
		r := w.restarter()
		w.restart(r, 7, change).expect("! pod kube-system/alone belongs to no DaemonSet, and nobody would make it again: restart it on this node, then: agent plugin-restarted 7\n"+
			"pod kube-system/static is a static one", "other")
		w.gone("other")
		w.change("alone", running(time.Now()))
		w.change("static", running(time.Now()))
		settled(5 * time.Second)
		w.restart(r, 7, change).expect("pod kube-system/alone to be ready", "other")
		w.change("alone", ready)
		w.change("static", ready)
		settled(5 * time.Second)
	})
}

// TestTheAPIIsAwayMeanwhile: whatever was asked of it stays asked, once.
func TestTheAPIIsAwayMeanwhile(t *testing.T) {
	inWorld(t, func(w *world) {
		r, change := w.restarter(), time.Now()
		w.change("a", running(change.Add(-time.Minute)))
		settled(5 * time.Second)
		away := errors.New("away")
		w.fail(away)
		w.restart(r, 1, change).expect("! away", "")
		w.fail(nil)
		w.before = func() { w.fail(away) }
		w.restart(r, 1, change).expect("! away", "")
		w.fail(nil)
		c := w.restart(r, 1, change)
		c.expect("the end of pod", "a")
		w.fail(away)
		w.cut()
		c.expect("! away", "a")
		w.fail(nil)
		w.restart(r, 1, change).expect("the end of pod", "a")
		w.gone("a")
		w.change("b", running(time.Now()))
		w.change("b", ready)
		settled(5 * time.Second)
	})
}

// TestAWatchThatBreaksOff each time costs a list now and then.
func TestAWatchThatBreaksOff(t *testing.T) {
	inWorld(t, func(w *world) {
		w.change("a", func(*pod) {})
		c := w.restart(w.restarter(), 1, time.Now())
		for range 600 {
			settled(time.Second)
			w.cut()
		}
		if w.lists > 40 {
			t.Errorf("%d lists in 10 minutes", w.lists)
		}
		c.stop()
		settled(time.Second)
	})
}

// TestNoClockMakesALoop: what follows a deleted pod is not deleted, whenever its
// kubelet says that it started. The next change is another thing.
func TestNoClockMakesALoop(t *testing.T) {
	inWorld(t, func(w *world) {
		r, change := w.restarter(), time.Now().Add(24*time.Hour)
		w.change("a", running(time.Now()))
		c := w.restart(r, 1, change)
		c.expect("the end of pod", "a")
		w.gone("a")
		w.change("b", running(time.Now()))
		w.change("b", ready)
		c.expect("! it was restarted, and pod kube-system/b is ready", "a")
		for range 3 {
			w.restart(r, 1, change).expect("! it was restarted", "a")
		}
		w.restart(r, 2, change).expect("the end of pod kube-system/b", "a b")
		w.gone("b")
		settled(2 * time.Minute)
	})
}

// TestOptionsThatCannotBe are refused with what to give instead.
func TestOptionsThatCannotBe(t *testing.T) {
	good := options()
	good.Config = &rest.Config{Host: "http://127.0.0.1:1"}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []func(*Options){
		func(o *Options) { o.Config = nil },
		func(o *Options) { o.Node = "" },
		func(o *Options) { o.Namespace = "" },
		func(o *Options) { o.Selector = "" },
		func(o *Options) { o.Selector = "name!=x" },
		func(o *Options) { o.Selector = "!name" },
		func(o *Options) { o.Selector = "a b" },
	} {
		o := good
		bad(&o)
		if _, err := New(o); err == nil {
			t.Errorf("taken: %+v", o)
		} else {
			t.Log(err)
		}
	}
}
