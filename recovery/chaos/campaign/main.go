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
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"eniagent/recovery/chaos"
)

func main() {
	var c campaign
	var fs, on string
	flag.IntVar(&c.rounds, "rounds", 3, "how often each label meets each end; those of vfs a third of it")
	flag.IntVar(&c.random, "random", 20, "power cuts at random moments, of each family and on each file system")
	flag.IntVar(&c.images, "images", 150, "images of a disk that had not written all, on each file system")
	flag.StringVar(&fs, "fs", "ext4,xfs", "file systems of the journal's disk")
	flag.StringVar(&on, "on", "driver,link,vfs", "families of operations")
	flag.StringVar(&c.only, "only", "", "run only what has this in its name, such as \"bind unbind:after\"")
	flag.Uint64Var(&c.seed, "seed", uint64(time.Now().Unix()), "of the random moments")
	flag.Parse()
	c.disks = strings.Split(fs, ",")
	for name := range strings.SplitSeq(on, ",") {
		at := slices.IndexFunc(families(), func(f family) bool { return f.name == name })
		if at < 0 {
			fmt.Fprintf(os.Stderr, "chaos: -on %q: want some of driver, link and vfs, with commas between\n", on)
			os.Exit(2)
		}
		c.families = append(c.families, families()[at])
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := c.run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// campaign is what is run, and what came of it.
type campaign struct {
	rounds, random, images int
	disks                  []string
	families               []family
	only                   string
	seed                   uint64
	agent, crashing        string // the agent's binaries

	mu         sync.Mutex // guards what follows
	out        io.Writer
	began      time.Time
	runs, all  int
	covered    map[string]int // by name, without the round
	wanted     map[string]int // how often, at least
	violations []string
}

var errViolated = errors.New("a rule was violated: see above")

func (c *campaign) run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "eniagent-chaos-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c.out, c.began, c.covered, c.wanted = out, time.Now(), map[string]int{}, map[string]int{}
	c.agent, c.crashing = filepath.Join(dir, "agent"), filepath.Join(dir, "agent-crash")
	fmt.Fprintf(out, "Seed %d. Building the agent, as it is shipped and with crash points\n", c.seed)
	if err := chaos.Build(ctx, "eniagent/cmd/agent", c.agent); err != nil {
		return err
	}
	if err := chaos.Build(ctx, "eniagent/cmd/agent", c.crashing, "-tags=crashpoint"); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, fs := range c.disks {
		g.Go(func() error {
			if err := c.onDisk(ctx, fs, rand.New(rand.NewPCG(c.seed, uint64(i)))); err != nil {
				return fmt.Errorf("%s: %w", fs, err)
			}
			return nil
		})
	}
	err = g.Wait()
	c.table()
	if err == nil && len(c.violations) > 0 {
		err = errViolated
	}
	return err
}

// onDisk is the campaign on one file system.
func (c *campaign) onDisk(ctx context.Context, fs string, rng *rand.Rand) error {
	n, err := c.newNode(ctx, fs, "", "")
	if err != nil {
		return err
	}
	defer func() { _ = n.vm.Close() }() // it is off, or about to be killed anyway
	for _, f := range c.families {
		if err := c.family(ctx, n, f, rng); err != nil {
			return err
		}
	}
	if err := n.vm.Close(); err != nil {
		return err
	}
	return c.replayed(ctx, fs, rng)
}

// family is the campaign on one family of operations.
func (c *campaign) family(ctx context.Context, n *node, f family, rng *rand.Rand) error {
	cases, err := n.cases(ctx, f)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.all += len(cases)*c.roundsOf(f) + c.random
	for _, k := range cases {
		c.covered[n.fs+" "+k.String()] += 0
		c.wanted[n.fs+" "+k.String()] = c.roundsOf(f)
	}
	c.mu.Unlock()
	for round := range c.roundsOf(f) {
		for _, k := range cases {
			if err := c.attempt(ctx, n, n.fs+" "+k.String(), round, func() error { return n.crash(ctx, k) }); err != nil {
				return err
			}
		}
	}
	for i := range c.random {
		at := time.Duration(rng.Int64N(int64(f.whole)))
		if err := c.attempt(ctx, n, n.fs+" "+f.name+" random moment", i, func() error { return n.anyMoment(ctx, f, at) }); err != nil {
			return err
		}
	}
	return nil
}

// attempt makes one run, prints its line, and goes on after a violation with a
// node that is made anew.
func (c *campaign) attempt(ctx context.Context, n *node, name string, round int, run func() error) error {
	if !strings.Contains(name, c.only) {
		return nil
	}
	began := time.Now()
	err := run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.mu.Lock()
	c.runs++
	c.covered[name]++
	verdict := "ok"
	if err != nil {
		verdict = "VIOLATED: " + err.Error()
		c.violations = append(c.violations, name+": "+err.Error())
	}
	fmt.Fprintf(c.out, "%4d/%d %7s  %-52s %d  %5.1fs  %s\n", c.runs, c.all, time.Since(c.began).Round(time.Second), name, round+1, time.Since(began).Seconds(), verdict)
	c.mu.Unlock()
	if err == nil || n == nil {
		return nil
	}
	return n.anew(ctx)
}

// table prints which label met which end how often.
func (c *campaign) table() {
	rows := map[string]map[string]int{}
	columns := map[string]bool{}
	total, holes := 0, 0
	for name, n := range c.covered {
		total += n
		label, end, ok := strings.Cut(name, " by ")
		if !ok {
			label, end = name, "power cut"
		}
		if rows[label] == nil {
			rows[label] = map[string]int{}
		}
		rows[label][end] += n
		columns[end] = true
		if n < c.wanted[name] {
			holes++
		}
	}
	ends := sorted(columns)
	fmt.Fprintf(c.out, "\n%-40s", "LABEL")
	for _, end := range ends {
		fmt.Fprintf(c.out, "  %s", end)
	}
	fmt.Fprintln(c.out)
	for _, label := range sorted(rows) {
		fmt.Fprintf(c.out, "%-40s", label)
		for _, end := range ends {
			fmt.Fprintf(c.out, "  %*d", len(end), rows[label][end])
		}
		fmt.Fprintln(c.out)
	}
	if holes > 0 && c.only == "" {
		c.violations = append(c.violations, fmt.Sprintf("%d labels met an end less often than they should", holes))
	}
	for _, v := range c.violations {
		fmt.Fprintln(c.out, "VIOLATED:", v)
	}
	images := ""
	if c.images > 0 {
		images = ", disk images"
	}
	fmt.Fprintf(c.out, "\nevidence: real kernel, %s | %s: %s at each label, random moments%s | %d | %d\n",
		strings.Join(c.disks, " and "), c.about(), c.ends(), images, total, len(c.violations))
	fmt.Fprintf(c.out, "%d runs in %s\n", total, time.Since(c.began).Round(time.Second))
}

// about names the operations, and ends how they are cut off.
func (c *campaign) about() string {
	var names []string
	for _, f := range c.families {
		names = append(names, f.name)
	}
	return strings.Join(names, " and ")
}

func (c *campaign) ends() string {
	var all []string
	for _, f := range c.families {
		for _, end := range f.ends {
			if !slices.Contains(all, end) {
				all = append(all, end)
			}
		}
	}
	return strings.Join(all, ", ")
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
