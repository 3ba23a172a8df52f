//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"eniagent/recovery/chaos"
)

func main() {
	var c churn
	var seeds int
	var first uint64
	flag.DurationVar(&c.lasts, "for", 10*time.Minute, "how long the desired state changes, of each seed")
	flag.IntVar(&seeds, "seeds", 5, "how many seeds")
	flag.Uint64Var(&first, "seed", 1, "the first of them")
	flag.BoolVar(&c.verbose, "v", false, "print each desired state")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := c.all(ctx, os.Stdout, first, seeds); err != nil {
		fmt.Fprintln(os.Stderr, "churn:", err)
		os.Exit(1)
	}
}

// churn is what is run.
type churn struct {
	lasts   time.Duration
	verbose bool
	agent   string // its binary
}

var errViolated = errors.New("release --all did not restore what was there before: see above")

// all runs each of the seeds on a machine of its own.
func (c *churn) all(ctx context.Context, out io.Writer, first uint64, seeds int) (err error) {
	dir, err := os.MkdirTemp("", "eniagent-churn-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c.agent = filepath.Join(dir, "agent")
	if err := chaos.Build(ctx, "eniagent/cmd/agent", c.agent); err != nil {
		return err
	}
	violated := 0
	for seed := first; seed < first+uint64(seeds); seed++ {
		found, err := c.one(ctx, out, seed)
		if err != nil {
			return fmt.Errorf("seed %d: %w", seed, err)
		}
		for _, f := range found {
			fmt.Fprintf(out, "VIOLATED by seed %d: %s\n", seed, f)
		}
		if len(found) > 0 {
			violated++
		}
	}
	fmt.Fprintf(out, "\nevidence: real kernel, churn of %s and release --all | desired states at random, SIGKILL and SIGTERM | %d | %d\n", c.lasts, seeds, violated)
	if violated > 0 {
		return errViolated
	}
	return nil
}

// one runs one seed, and returns what is not as it was.
func (c *churn) one(ctx context.Context, out io.Writer, seed uint64) (found []string, err error) {
	n, err := boot(ctx, c.agent, out)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.vm.Close()) }()
	l := life{rand.New(rand.NewPCG(seed, 0))}
	if err := n.prepare(ctx, l); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	before, err := n.look(ctx)
	if err != nil {
		return nil, err
	}
	kills, states, err := c.churn(ctx, n, l)
	if err != nil {
		return nil, fmt.Errorf("%w\nthe agents' log:\n%s", err, n.said())
	}
	fmt.Fprintf(out, "seed %d: %d desired states, %d ends of the agent; released\n", seed, states, kills)
	found, err = c.restored(ctx, n, before)
	if len(found) > 0 || err != nil {
		fmt.Fprintf(out, "the agents' log:\n%s\n", n.said())
	}
	return found, err
}

// churn changes what is desired, and ends and starts the agent.
func (c *churn) churn(ctx context.Context, n *node, l life) (ends, states int, err error) {
	var pfs []string
	for _, pf := range n.pfs {
		pfs = append(pfs, pf.Addr)
	}
	told := time.Now()
	for end := time.Now().Add(c.lasts); time.Now().Before(end) && ctx.Err() == nil; states++ {
		entries := l.entries(pfs)
		if c.verbose {
			fmt.Fprintf(n.out, "%s\n", strings.Join(entries, "\n"))
		}
		if err := n.ask(ctx, entries); err != nil {
			return ends, states, err
		}
		if err := n.start(ctx); err != nil {
			return ends, states, err
		}
		ended, err := c.next(ctx, n, l)
		if err != nil {
			return ends, states, err
		}
		if ended {
			ends++
		}
		if time.Since(told) > 30*time.Second {
			told = time.Now()
			fmt.Fprintf(n.out, "  %d desired states, %d ends of the agent, %s to go\n", states, ends, time.Until(end).Round(time.Second))
		}
	}
	return ends, states, context.Cause(ctx)
}

// next gives the agent time for the desired state, and may end it.
func (c *churn) next(ctx context.Context, n *node, l life) (ended bool, err error) {
	if l.rng.IntN(4) == 0 { // until it is right, or said not to be
		_, err = n.ran(ctx, "status", "--wait", "10s")
	} else {
		pause(ctx, time.Duration(l.rng.IntN(4000))*time.Millisecond)
	}
	if err != nil || !l.chance(40) {
		return false, err
	}
	s := syscall.SIGKILL
	if l.chance(25) {
		s = syscall.SIGTERM
	}
	return true, n.end(ctx, s)
}

// restored releases everything, and returns what is not as it was before.
func (c *churn) restored(ctx context.Context, n *node, before picture) (found []string, err error) {
	if err := n.start(ctx); err != nil {
		return nil, err
	}
	// What is under way is finished: what release says is about all there is.
	if _, err := n.ran(ctx, "status", "--wait", "30s"); err != nil {
		return nil, err
	}
	if err := n.release(ctx); err != nil {
		found = append(found, err.Error())
	}
	quarantined, err := n.quarantined(ctx)
	if err != nil {
		return found, err
	}
	found = append(found, quarantined...)
	if err := n.end(ctx, syscall.SIGTERM); err != nil {
		return found, err
	}
	after, err := n.look(ctx)
	if err != nil {
		return found, err
	}
	return append(found, before.differences(after)...), nil
}
