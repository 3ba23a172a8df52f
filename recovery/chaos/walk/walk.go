package walk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"eniagent/drivers/host"
)

// Line is one step, and what came of it.
type Line struct {
	Walk    string   `json:"walk"`
	Step    int      `json:"step"` // 0 is the reset
	Call    string   `json:"call"`
	Outcome string   `json:"outcome"`           // "ok", or the name of the errno
	Changed []string `json:"changed,omitempty"` // what there is now, and with a "-" what is gone
}

// Walker walks on a machine.
type Walker struct {
	Machine Machine
	Host    host.Host
	// Write makes the agent's own writes: it is Host.Do.
	Write func(context.Context, host.Call) error
	// Foreign makes a write that host.Allowed refuses, as another tool may.
	Foreign func(context.Context, host.Call) error
	// Hold makes a program open a vfio function until release is called.
	Hold func(ctx context.Context, addr string) (release func() error, err error)
	// Tell is given each line of the trace.
	Tell func(Line) error

	eyes eyes
	last state
	held map[string]func() error // by function: ends the program
}

// Walk resets the machine and takes the steps. It ends early only when the
// machine cannot be looked at.
func (w *Walker) Walk(ctx context.Context, name string, steps []Step) error {
	w.eyes, w.held = eyes{Host: w.Host, seen: map[string][]uint64{}, sets: map[string]host.Setting{}}, map[string]func() error{}
	if err := w.Reset(ctx); err != nil {
		return fmt.Errorf("reset before %s: %w", name, err)
	}
	// From here on numbers count from 0, and everything is new.
	w.eyes.seen = map[string][]uint64{}
	w.last = state{}
	if err := w.tell(ctx, Line{Walk: name, Call: "reset", Outcome: "ok"}); err != nil {
		return err
	}
	for i, s := range steps {
		c := s.call(w.Machine.Release, w.last)
		err := w.take(ctx, s, c)
		if err := w.tell(ctx, Line{Walk: name, Step: i + 1, Call: s.told(c), Outcome: outcome(err)}); err != nil {
			return err
		}
	}
	return nil
}

// take takes a step, which may be one of the program that holds a function.
func (w *Walker) take(ctx context.Context, s Step, c host.Call) error {
	end := w.held[s.on]
	switch {
	case s.verb == hold:
		end, err := w.Hold(ctx, s.on)
		if err == nil {
			w.held[s.on], w.eyes.careful = end, true
		}
		return err
	case s.verb == release:
		delete(w.held, s.on)
		if err := end(); err != nil {
			return err
		}
		return w.until(ctx, func() bool {
			fenced, err := w.Host.Fenced(c.Target)
			return err == nil && !fenced
		})
	case s.setting() != "":
		w.eyes.sets[s.on] = s.setting()
	case s.verb == unbind && end != nil && w.last.drivers[s.on] != "":
		return w.leave(ctx, c)
	}
	return w.do(ctx, c)
}

// leave makes a write that hangs, and no longer waits for it once the link to
// the driver has gone.
func (w *Walker) leave(ctx context.Context, c host.Call) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.Write(ctx, c) }()
	err := w.until(ctx, func() bool { return w.eyes.base(ctx, host.Attr(c.Value, "driver")) == "-" })
	cancel()
	return errors.Join(err, <-done)
}

// until polls, because nothing tells of these; it is not long.
func (w *Walker) until(ctx context.Context, is func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for a held function: %w", ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// do goes through the seam wherever that lets it.
func (w *Walker) do(ctx context.Context, c host.Call) error {
	if host.Allowed(c) != nil {
		return w.Foreign(ctx, c)
	}
	return w.Write(ctx, c)
}

// tell completes a line with what has changed.
func (w *Walker) tell(ctx context.Context, l Line) error {
	now, err := w.look(ctx)
	if err != nil {
		return fmt.Errorf("look after step %d of %s (%s): %w", l.Step, l.Walk, l.Call, err)
	}
	for thing, line := range now.lines {
		if w.last.lines[thing] != line {
			l.Changed = append(l.Changed, line)
		}
	}
	for thing := range w.last.lines {
		if _, ok := now.lines[thing]; !ok {
			l.Changed = append(l.Changed, "-"+thing)
		}
	}
	slices.Sort(l.Changed)
	w.last = now
	return w.Tell(l)
}

// readyWithin bounds the wait for what comes about by itself.
const readyWithin = 30 * time.Second

// look waits until the machine is ready, or tells what it is then.
func (w *Walker) look(ctx context.Context) (state, error) {
	deadline := time.Now().Add(readyWithin)
	for {
		now, err := w.eyes.look(ctx, w.Machine.functions())
		if err != nil || now.ready() || time.Now().After(deadline) {
			return now, err
		}
	}
}

// errReset is returned when a reset did not bring the machine where it should.
var errReset = errors.New("the machine is not as it should be after a reset")

// Reset brings the machine to where every walk begins: all modules loaded, the
// first PF with two VFs, the second with none, all on their own drivers, down,
// with the MTU they come up with.
func (w *Walker) Reset(ctx context.Context) error {
	for _, part := range []func(state) []Step{w.resetModules, w.resetPFs, w.resetVFs, w.resetLinks} {
		now, err := w.look(ctx)
		if err != nil {
			return err
		}
		for _, s := range part(now) {
			// Unbinding takes away what a later step would have undone.
			if now, err = w.eyes.look(ctx, w.Machine.functions()); err != nil {
				return err
			}
			if err := w.do(ctx, s.call(w.Machine.Release, now)); err != nil {
				return fmt.Errorf("%s: %w", s.told(s.call(w.Machine.Release, now)), err)
			}
		}
	}
	now, err := w.look(ctx)
	if err != nil {
		return err
	}
	for _, part := range []func(state) []Step{w.resetModules, w.resetPFs, w.resetVFs, w.resetLinks} {
		if left := part(now); len(left) > 0 {
			return fmt.Errorf("%w: %v is still to be done", errReset, left)
		}
	}
	return nil
}

func (w *Walker) resetModules(now state) []Step {
	var steps []Step
	for _, m := range modules() {
		if now.lines["module "+m.Name] == "" {
			steps = append(steps, Step{verb: load, on: m.Name})
		}
	}
	if !now.there(w.Machine.PFs[0].Address) || !now.there(w.Machine.PFs[1].Address) {
		steps = append(steps, Step{verb: rescan, value: "1"})
	}
	return steps
}

func (w *Walker) resetPFs(now state) []Step {
	var steps []Step
	for i, p := range w.Machine.PFs {
		steps = append(steps, resetDriver(now, p.Address, pfDriver)...)
		if !now.has(p.Address, "drivers_autoprobe=1") {
			steps = append(steps, Step{verb: setAutoprobe, on: p.Address, value: "1"})
		}
		want := startVFs * (1 - i)
		if now.has(p.Address, fmt.Sprintf("numvfs=%d", want)) && now.driverOf(p.Address) == pfDriver {
			continue
		}
		steps = append(steps, Step{verb: setVFs, on: p.Address, value: "0"})
		if want > 0 {
			steps = append(steps, Step{verb: setVFs, on: p.Address, value: fmt.Sprint(want)})
		}
	}
	return steps
}

// startVFs is how many VFs the first PF has when a walk begins.
const startVFs = 2

func (w *Walker) resetVFs(now state) []Step {
	var steps []Step
	for n := range startVFs {
		steps = append(steps, resetDriver(now, w.Machine.PFs[0].vf(n), vfDriver)...)
	}
	return steps
}

func resetDriver(now state, addr, driver string) []Step {
	var steps []Step
	if !now.has(addr, "override=(null)") {
		steps = append(steps, Step{verb: setOverride, on: addr, value: "\n"})
	}
	if is := now.drivers[addr]; is != driver {
		if is != "" {
			steps = append(steps, Step{verb: unbind, on: addr})
		}
		steps = append(steps, Step{verb: bind, on: addr, driver: driver})
	}
	return steps
}

func (w *Walker) resetLinks(now state) []Step {
	var steps []Step
	for _, addr := range w.Machine.functions() {
		l, ok := now.links[addr]
		if ok && l.MTU != 1500 {
			steps = append(steps, Step{verb: setMTU, on: addr, number: 1500})
		}
		if ok && l.Up {
			steps = append(steps, Step{verb: setAdmin, on: addr, number: 0})
		}
	}
	return steps
}

// Restore leaves the machine as it was found: without VFs.
func (w *Walker) Restore(ctx context.Context) error {
	w.eyes = eyes{Host: w.Host, seen: map[string][]uint64{}}
	if err := w.Reset(ctx); err != nil {
		return err
	}
	s := Step{verb: setVFs, on: w.Machine.PFs[0].Address, value: "0"}
	return w.do(ctx, s.call(w.Machine.Release, state{}))
}
