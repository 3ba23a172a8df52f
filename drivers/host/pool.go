package host

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"eniagent/drivers"
	"eniagent/supervise"
)

// PoolOptions are what a Pool needs to make its children.
type PoolOptions struct {
	// Command is the argument vector of a writer child; the owner token of the
	// fences is appended. The child must call Serve on its standard input and
	// output.
	Command []string
	// Files are the files that may be written (Rules); they are appended too.
	Files  []string
	Fences Fences
	// WriteTimeout is how long a write may take before its child is abandoned;
	// 10 s when zero.
	WriteTimeout time.Duration
	// ReadTimeout is the same for reads that may block; 5 s when zero: on a busy
	// node a child may wait for seconds until it runs.
	ReadTimeout time.Duration
	// Quiet is how long a child that is kept must not have been needed before it
	// ends, if it is not the last; 10 s when zero.
	Quiet time.Duration
	// MaxChildren bounds the children at work and the abandoned ones together;
	// 64 when zero.
	MaxChildren int
	// Owner owns the goroutines that wait for children; nil has the process own them.
	Owner *supervise.Group
	// OnAbandon is told of each abandoned request, and OnReturn when it ended
	// after all; both may be nil.
	OnAbandon func(t drivers.Target, what string)
	OnReturn  func(t drivers.Target, what string, err error)
}

const (
	keepIdle    = 4 // children kept between writes
	keepQuiet   = 1 // and once there were none for some time
	maxChildren = 64
)

// Pool is a Host whose writes, and whose reads that can block, are made by
// writer children.
type Pool struct {
	Kernel // reads that never block, and events
	opts   PoolOptions
	owner  string
	slots  chan struct{}
	events chan Event

	mu     sync.Mutex
	idle   []*child
	trim   *time.Timer            // ends those that are not needed
	stuck  map[drivers.Target]int // abandoned writes that still run
	unread map[drivers.Target]int // abandoned reads that were not answered yet
	closed bool
}

// NewPool claims the fences and makes a Pool over k. Close it.
func NewPool(k Kernel, opts PoolOptions) (*Pool, error) {
	if opts.WriteTimeout == 0 {
		opts.WriteTimeout = 10 * time.Second
	}
	if opts.ReadTimeout == 0 {
		opts.ReadTimeout = 5 * time.Second
	}
	if opts.Quiet == 0 {
		opts.Quiet = 10 * time.Second
	}
	if opts.MaxChildren == 0 {
		opts.MaxChildren = maxChildren
	}
	if opts.Owner == nil {
		opts.Owner = &supervise.Group{}
	}
	owner, err := opts.Fences.Claim()
	if err != nil {
		return nil, err
	}
	return &Pool{
		Kernel: k, opts: opts, owner: owner,
		slots:  make(chan struct{}, opts.MaxChildren),
		events: make(chan Event, opts.MaxChildren),
		stuck:  map[drivers.Target]int{}, unread: map[drivers.Target]int{},
	}, nil
}

// Close ends the idle children. Abandoned ones cannot be ended; they leave by
// themselves when the kernel lets them.
func (p *Pool) Close() error {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	if p.trim != nil {
		p.trim.Stop()
	}
	p.mu.Unlock()
	var errs []error
	for _, c := range idle {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

// Do makes one write in a child, which takes the target's fence first.
func (p *Pool) Do(ctx context.Context, c Call) error {
	if err := (Rules{Files: p.opts.Files}).Allowed(c); err != nil {
		return err
	}
	CrashPoint(c.Label() + ":before")
	_, err := p.ask(ctx, c.Target, c.Label(), request{Call: &c}, p.opts.WriteTimeout)
	CrashPoint(c.Label() + ":after")
	return err
}

// Read reads in this process what cannot block, and in a child what can.
func (p *Pool) Read(ctx context.Context, file string) (string, error) {
	t := drivers.Target(path.Base(path.Dir(file)))
	switch {
	case ails(file):
		// A look at its health that hangs does not fence the function.
		t = "health " + LastPCI(file)
	case !blocks(file):
		return p.Kernel.Read(ctx, file)
	}
	r, err := p.ask(ctx, t, "read "+path.Base(file), request{Read: file}, p.opts.ReadTimeout)
	return r.Text, err
}

// blocks says whether reading the attribute takes device_lock, and so waits
// for a write that hangs: driver_override_show does on all kernels so far,
// sriov_numvfs_show from 5.5 to early 2024.
func blocks(file string) bool {
	return slices.Contains([]string{"driver_override", "sriov_numvfs"}, path.Base(file))
}

// ails says whether reading the attribute asks a device that may be dead, or
// its driver: pci_read_config wakes it up, speed_show waits for rtnl, and
// statistics are the driver's ndo_get_stats64.
func ails(file string) bool {
	return strings.HasPrefix(file, PCIDevices) &&
		slices.Contains([]string{"config", "speed", "rx_errors", "tx_errors"}, path.Base(file))
}

// netns stands for the whole network namespace where a target is named.
const netns = drivers.Target("links")

// Links dumps the links in a child: it takes the rtnl lock on some kernels,
// and ethtool's ioctls take it on all.
func (p *Pool) Links(ctx context.Context) ([]Link, error) {
	r, err := p.ask(ctx, netns, "links", request{Links: true}, p.opts.ReadTimeout)
	return r.Links, err
}

// Settings asks in a child: ethtool's ioctls take rtnl, and may ask the device.
func (p *Pool) Settings(ctx context.Context, index int, which Setting) (Settings, error) {
	r, err := p.ask(ctx, netns, string(which), request{Settings: which, Index: index}, p.opts.ReadTimeout)
	return r.Set, err
}

// Network dumps the network in a child, for the same reason.
func (p *Pool) Network(ctx context.Context, to []string) (Network, error) {
	r, err := p.ask(ctx, netns, "network", request{Network: true, To: to}, p.opts.ReadTimeout)
	return r.Net, err
}

// Children asks in a child: it is a dump of links for each namespace. One that
// hangs does not keep this namespace's own from being read.
func (p *Pool) Children(ctx context.Context) ([]Child, error) {
	r, err := p.ask(ctx, "namespaces", "children", request{Children: true}, p.opts.ReadTimeout)
	return r.Children, err
}

// Fenced says whether a write still runs on the target. A read that was not
// answered yet is none.
func (p *Pool) Fenced(t drivers.Target) (bool, error) {
	if errors.Is(p.abandoned(t), drivers.ErrFenced) {
		return true, nil
	}
	return p.opts.Fences.Held(t)
}

// abandoned is what still runs on the target: drivers.ErrFenced is a write,
// drivers.ErrUnanswered a read, nil nothing.
func (p *Pool) abandoned(t drivers.Target) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stuck[t] > 0:
		return drivers.ErrFenced
	case p.unread[t] > 0:
		return drivers.ErrUnanswered // a write would wait for the same lock
	}
	return nil
}

// Watch adds to the kernel's events the end of an abandoned request.
func (p *Pool) Watch(ctx context.Context) (<-chan Event, error) {
	in, err := p.Kernel.Watch(ctx)
	if err != nil {
		return nil, err
	}
	out := make(chan Event)
	supervise.Of(ctx).Go("events", func() {
		defer close(out)
		for in != nil {
			var e Event
			var ok bool
			select {
			case e, ok = <-in:
				if !ok {
					return
				}
			case e = <-p.events:
			case <-ctx.Done():
				return
			}
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	})
	return out, nil
}

// ask sends one request to a child and waits for the answer, no longer than
// the timeout. What takes longer is left to itself.
func (p *Pool) ask(ctx context.Context, t drivers.Target, what string, r request, timeout time.Duration) (response, error) {
	if ctx.Err() != nil {
		return response{}, fmt.Errorf("%s %s: %w", what, t, context.Cause(ctx))
	}
	write := r.Call != nil
	if err := p.abandoned(t); err != nil {
		return response{}, fmt.Errorf("%s %s: %w", what, t, err)
	}
	if err := p.slot(ctx, timeout, write); err != nil {
		return response{}, fmt.Errorf("%s %s: %w", what, t, err)
	}
	c, err := p.send(r)
	if err != nil {
		<-p.slots
		return response{}, fmt.Errorf("%s %s: %w", what, t, err)
	}
	answer := make(chan reply, 1)
	p.opts.Owner.Go("answer for "+string(t), func() { answer <- c.receive() })
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case a := <-answer:
		<-p.slots
		p.put(c, a.err)
		return a.result(what, t)
	case <-late.C:
		left := p.abandon(c, t, what, answer, write)
		return response{}, fmt.Errorf("%s %s: %w: not within %s: %w", what, t, left, timeout, context.DeadlineExceeded)
	case <-ctx.Done():
	}
	if write {
		// Whoever gave up on a write must not find its target free.
		left := p.abandon(c, t, what, answer, write)
		return response{}, fmt.Errorf("%s %s: %w: %w", what, t, left, context.Cause(ctx))
	}
	p.opts.Owner.Go("late answer for "+string(t), func() { p.outlive(c, t, what, answer, timeout) })
	return response{}, fmt.Errorf("%s %s: %w", what, t, context.Cause(ctx))
}

// outlive waits for the answer of a read whose caller has lost patience. That
// says nothing of the kernel: only a read past its own deadline hangs.
func (p *Pool) outlive(c *child, t drivers.Target, what string, answer chan reply, timeout time.Duration) {
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case a := <-answer:
		<-p.slots
		p.put(c, a.err)
	case <-late.C:
		_ = p.abandon(c, t, what, answer, false)
	}
}

// abandon leaves a child to the kernel and notes its target until it returns;
// the error is what runs on it until then.
func (p *Pool) abandon(c *child, t drivers.Target, what string, answer <-chan reply, write bool) error {
	left, by := drivers.ErrUnanswered, p.unread
	if write {
		left, by = drivers.ErrFenced, p.stuck
	}
	p.mu.Lock()
	by[t]++
	p.mu.Unlock()
	if p.opts.OnAbandon != nil {
		p.opts.OnAbandon(t, what)
	}
	p.opts.Owner.Go("abandoned on "+string(t), func() {
		a := <-answer
		_, err := a.result(what, t)
		err = errors.Join(err, c.close())
		p.mu.Lock()
		if by[t]--; by[t] == 0 {
			delete(by, t)
		}
		p.mu.Unlock()
		<-p.slots
		if p.opts.OnReturn != nil {
			p.opts.OnReturn(t, what, err)
		}
		select {
		case p.events <- Event{Target: t, What: "unfenced"}:
		default: // a reader that slow makes a full pass anyway
		}
	})
	return left
}

// slot waits for its turn while all children are at work. It does not wait for
// children that hang. Half of them are out of the reach of reads that hang, so
// that these never keep a write from a target that they do not concern.
func (p *Pool) slot(ctx context.Context, timeout time.Duration, write bool) error {
	left := drivers.ErrFenced
	if !write {
		left = drivers.ErrUnanswered
		if n := p.unanswered(); n > 0 && n >= cap(p.slots)/2 {
			return fmt.Errorf("%d reads hang in the kernel already: %w", n, left)
		}
	}
	select {
	case p.slots <- struct{}{}:
		return nil
	default:
	}
	if n := p.hung(); n >= cap(p.slots) {
		return fmt.Errorf("%d writer children hang in the kernel already: %w", n, left)
	}
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-late.C:
		return fmt.Errorf("no writer child came free within %s, %d hang in the kernel: %w", timeout, p.hung(), left)
	}
}

// hung is how many children were abandoned and have not come back.
func (p *Pool) hung() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, children := range p.stuck {
		n += children
	}
	for _, children := range p.unread {
		n += children
	}
	return n
}

// unanswered is how many of those were abandoned over a read.
func (p *Pool) unanswered() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, children := range p.unread {
		n += children
	}
	return n
}

// send gives a request to a child. A kept one that has died since has got
// nothing of it, and the next one is asked.
func (p *Pool) send(r request) (*child, error) {
	for {
		c, kept, err := p.take()
		if err != nil {
			return nil, err
		}
		if err = c.enc.Encode(r); err == nil {
			return c, nil
		}
		_ = c.close()
		if !kept || !errors.Is(err, syscall.EPIPE) {
			return nil, fmt.Errorf("writer child: %w", err)
		}
	}
}

func (p *Pool) take() (c *child, kept bool, err error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return c, true, nil
	}
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return nil, false, errors.New("pool of writer children is closed")
	}
	c, err = startChild(slices.Concat(p.opts.Command, []string{p.owner}, p.opts.Files))
	if err != nil { // no pipe, no process, no memory: nothing was asked of the target yet
		err = fmt.Errorf("%w: %w", drivers.ErrStarved, err)
	}
	return c, false, err
}

// put keeps a child for the next request unless its pipe failed.
func (p *Pool) put(c *child, failed error) {
	p.mu.Lock()
	keep := failed == nil && !p.closed && len(p.idle) < keepIdle
	if keep {
		c.used = time.Now()
		p.idle = append(p.idle, c)
		if p.trim == nil && len(p.idle) > keepQuiet {
			p.trim = p.opts.Owner.AfterFunc(p.opts.Quiet, "shrink", p.shrink)
		}
	}
	p.mu.Unlock()
	if !keep {
		// The child has answered, or is gone: this does not wait for the kernel.
		_ = c.close()
	}
}

// shrink ends the idle children that were not needed for some time: each is a
// process with memory of its own. The last in are the first out, so those are at
// the front.
func (p *Pool) shrink() {
	p.mu.Lock()
	n := 0
	for n < len(p.idle)-keepQuiet && time.Since(p.idle[n].used) >= p.opts.Quiet {
		n++
	}
	ended := p.idle[:n:n]
	p.idle = slices.Clone(p.idle[n:])
	if p.trim = nil; len(p.idle) > keepQuiet && !p.closed {
		p.trim = p.opts.Owner.AfterFunc(p.opts.Quiet, "shrink", p.shrink)
	}
	p.mu.Unlock()
	for _, c := range ended {
		_ = c.close() // it waits for a request, and so ends at once
	}
}
