//go:build linux

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"eniagent/recovery/chaos/wire"
)

// Cmd is a program to run in the guest, as root.
type Cmd struct {
	Args  []string // Args are the program and its arguments; no shell is involved.
	Env   []string // Env is added to the guest's environment.
	Dir   string
	Stdin []byte // Stdin is all it reads; without it /dev/null.
}

// Command makes a Cmd of a program and its arguments.
func Command(args ...string) Cmd { return Cmd{Args: args} }

// Result is how a program ended.
type Result struct {
	Stdout, Stderr []byte
	Code           int            // Code is the exit status, -1 when a signal ended it.
	Signal         syscall.Signal // Signal is what ended it, or 0.
}

// OK says that it exited with 0.
func (r Result) OK() bool { return r.Code == 0 && r.Signal == 0 }

// String is for failure messages.
func (r Result) String() string {
	end := fmt.Sprintf("exit status %d", r.Code)
	if r.Signal != 0 {
		end = "signal: " + r.Signal.String()
	}
	return fmt.Sprintf("%s\nstdout: %s\nstderr: %s", end, r.Stdout, r.Stderr)
}

// Proc is a program that runs in the guest. A power cut ends it like everything else.
type Proc struct {
	name string
	vm   *VM
	m    *machine
	id   uint64

	mu      sync.Mutex // guards what follows
	pid     int
	res     Result
	err     error
	ended   bool
	changed chan struct{} // closed, and replaced, with every change
}

// Start runs a program and returns once it runs.
func (v *VM) Start(ctx context.Context, c Cmd) (*Proc, error) {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	name := strings.Join(c.Args, " ")
	m, err := v.machine()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Proc{name: name, vm: v, m: m, changed: make(chan struct{})}
	p.id, err = m.ask(wire.Request{Op: wire.Run, Args: c.Args, Env: c.Env, Dir: c.Dir, Data: c.Stdin}, p.take)
	if err != nil {
		return nil, v.explain("start "+name, err)
	}
	if err := p.await(ctx, func() bool { return p.pid != 0 || p.ended }); err != nil {
		return nil, v.explain("start "+name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 {
		return nil, fmt.Errorf("start %s: %w", name, p.err)
	}
	return p, nil
}

// Run runs a program to its end. That it failed is in the Result; an error means that it could not be run, or that
// the machine went away meanwhile. When the context ends first, the program is killed.
func (v *VM) Run(ctx context.Context, c Cmd) (Result, error) {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	p, err := v.Start(ctx, c)
	if err != nil {
		return Result{}, err
	}
	res, err := p.Wait(ctx)
	if ctx.Err() != nil {
		// Its own context: the caller's has ended. Nobody waits for it to die, it may be past that.
		kill, cancel := bounded(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		_ = p.signal(kill, syscall.SIGKILL, true)
	}
	return res, err
}

// Agent runs the agent with the arguments given.
func (v *VM) Agent(ctx context.Context, args ...string) (Result, error) {
	return v.Run(ctx, Command(append([]string{AgentPath}, args...)...))
}

// StartAgent is Agent for one that stays.
func (v *VM) StartAgent(ctx context.Context, args ...string) (*Proc, error) {
	return v.Start(ctx, Command(append([]string{AgentPath}, args...)...))
}

func (p *Proc) take(r wire.Reply, down error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.res.Stdout = append(p.res.Stdout, r.Stdout...)
	p.res.Stderr = append(p.res.Stderr, r.Stderr...)
	if r.PID != 0 {
		p.pid = r.PID
	}
	if r.Done {
		p.ended = true
		p.res.Code, p.res.Signal = r.Code, syscall.Signal(r.Signal)
		if p.err = down; p.err == nil {
			p.err = remote(r, "", "")
		}
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// await waits for a condition on p, which is evaluated with mu held.
func (p *Proc) await(ctx context.Context, cond func() bool) error {
	for {
		p.mu.Lock()
		ok, changed := cond(), p.changed
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// PID is the program's process ID in the guest.
func (p *Proc) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Ended says whether the program has ended, or the machine with it.
func (p *Proc) Ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// Output is what the program has written so far.
func (p *Proc) Output() (stdout, stderr []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.res.Stdout), bytes.Clone(p.res.Stderr)
}

// Wait waits for the program's end.
func (p *Proc) Wait(ctx context.Context) (Result, error) {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	err := p.await(ctx, func() bool { return p.ended })
	p.mu.Lock()
	res := p.res
	if err == nil {
		err = p.err
	}
	p.mu.Unlock()
	return res, p.vm.explain("wait for "+p.name, err)
}

// Expect waits until the program has written text to either output. One that ends without it is an error.
func (p *Proc) Expect(ctx context.Context, text string) error {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	var found bool
	err := p.await(ctx, func() bool {
		found = bytes.Contains(p.res.Stdout, []byte(text)) || bytes.Contains(p.res.Stderr, []byte(text))
		return found || p.ended
	})
	if found {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		return p.vm.explain(fmt.Sprintf("expect %q of %s (so far: %s%s)", text, p.name, p.res.Stdout, p.res.Stderr), err)
	case p.err != nil:
		return fmt.Errorf("expect %q of %s: %w", text, p.name, p.err)
	}
	return fmt.Errorf("expect %q of %s: it ended: %v", text, p.name, p.res)
}

// Signal sends the program, and not its children, a signal.
func (p *Proc) Signal(ctx context.Context, s syscall.Signal) error { return p.signal(ctx, s, false) }

// SignalGroup sends a signal to the program and all of its process group.
func (p *Proc) SignalGroup(ctx context.Context, s syscall.Signal) error {
	return p.signal(ctx, s, true)
}

func (p *Proc) signal(ctx context.Context, s syscall.Signal, group bool) error {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	r, err := p.m.call(ctx, wire.Request{Op: wire.Signal, Target: p.id, Signal: int(s), Group: group})
	if err == nil {
		err = remote(r, "", "")
	}
	if err != nil {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// AwaitState waits until a thread of the program is in the state that the kernel gives this letter: "D" for a sleep
// that nothing interrupts.
func (p *Proc) AwaitState(ctx context.Context, letter string) error {
	return p.vm.until(ctx, wire.Contains, fmt.Sprintf("/proc/%d/task/*/status", p.PID()), "State:\t"+letter)
}

// AwaitIn waits until a thread of the program sleeps in the kernel function given.
func (p *Proc) AwaitIn(ctx context.Context, function string) error {
	return p.vm.until(ctx, wire.Contains, fmt.Sprintf("/proc/%d/task/*/stack", p.PID()), function)
}
