// Package supervise starts goroutines that have an owner. A panic in one of them is not
// the end of the process, which would leave locks held and files open behind it: it is an
// error that the owner is told, who ends what it runs, in order.
//
// Each goroutine has the path of its owners in its pprof labels, under Label, and so have
// the goroutines that libraries start from it. All of the product's goroutines begin here.
package supervise

import (
	"context"
	"fmt"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"time"
)

// Label is the key of the pprof label that names the owner of a goroutine:
// "agent/reconcile/worker 0000:02:00.0".
const Label = "owner"

// Panic is the panic of a goroutine, as an error.
type Panic struct {
	Owner string // its path
	Value any    // of the panic
	Stack string // where it was
}

// Error has the stack, for the log.
func (p *Panic) Error() string { return fmt.Sprintf("panic in %s: %v\n%s", p.Owner, p.Value, p.Stack) }

// Group owns goroutines. Those of the zero Group have the process for their owner, which
// their panic ends: it is for commands that do one thing.
type Group struct {
	path   string
	failed func(error)
	all    sync.WaitGroup
}

// New is a group whose goroutines' panics are told to failed, each as a *Panic, from the
// goroutine that panicked: it must take no lock that such a goroutine may hold.
func New(path string, failed func(error)) *Group { return &Group{path: path, failed: failed} }

// Below is a group within this one, with a Wait of its own.
func (g *Group) Below(name string) *Group { return New(g.of(name), g.failed) }

// of is the path of what the group owns.
func (g *Group) of(name string) string {
	if g.path == "" {
		return name
	}
	return g.path + "/" + name
}

// Go runs fn in a goroutine of the group.
func (g *Group) Go(name string, fn func()) { g.all.Go(func() { g.run(name, fn) }) }

// AfterFunc is time.AfterFunc with fn in a goroutine of the group, for which Wait does
// not wait.
func (g *Group) AfterFunc(d time.Duration, name string, fn func()) *time.Timer {
	return time.AfterFunc(d, func() { g.run(name, fn) })
}

// Wait waits until none of the group's goroutines runs.
func (g *Group) Wait() { g.all.Wait() }

func (g *Group) run(name string, fn func()) {
	if g.failed == nil {
		Run(g.of(name), fn)
		return
	}
	err := Contain(g.of(name), func() error {
		fn()
		return nil
	})
	if err != nil {
		g.failed(err)
	}
}

// Contain runs fn in the goroutine that calls it, under the path of an owner, and makes
// of its panic an error, a *Panic.
func Contain(path string, fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &Panic{Owner: path, Value: v, Stack: string(debug.Stack())}
		}
	}()
	Run(path, func() { err = fn() })
	return err
}

// Run runs fn in the goroutine that calls it, under the path of an owner, which the
// goroutine keeps.
func Run(path string, fn func()) {
	Own(path)
	begin(path)
	fn()
}

// Own puts the goroutine that calls it under the path of an owner.
func Own(path string) {
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(Label, path)))
}

type key struct{}

// In is a context whose goroutines belong to the group, as Of tells whoever starts them.
func (g *Group) In(ctx context.Context) context.Context { return context.WithValue(ctx, key{}, g) }

// Of is the group that owns what is started for a context; a zero one when there is none.
func Of(ctx context.Context) *Group {
	if g, ok := ctx.Value(key{}).(*Group); ok {
		return g
	}
	return &Group{}
}
