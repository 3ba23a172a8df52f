//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	r := runner{out: os.Stdout}
	flag.IntVar(&r.sample, "sample", 60, "how many mutants of each package; 0 is all")
	flag.Uint64Var(&r.seed, "seed", 1, "which ones")
	flag.IntVar(&r.workers, "workers", 2, "how many at once")
	packages := flag.String("packages", "agent/plan,recovery,agent/engine,journal", "whose mutants")
	flag.Func("only", "of those, the ones whose line matches this regexp", func(s string) (err error) {
		r.only, err = regexp.Compile(s)
		return err
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := r.run(ctx, strings.Split(*packages, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// trial is a run of tests that may notice a mutant.
type trial struct {
	dir  string // of the package whose tests they are
	args []string
}

func (t trial) String() string { return t.dir + " " + strings.Join(t.args, " ") }

// trials are the tests that a package's mutants have to pass, the quick ones
// first.
func trials(dir string) []trial {
	crashes := []trial{
		{"agent/engine", []string{"-test.skip", "^TestEvery"}},
		{"agent/engine", []string{"-test.run", "^TestEvery", "-test.skip", "OnDisk"}},
		{"agent", nil},
	}
	if dir == "agent/engine" {
		return crashes
	}
	return append([]trial{{dir, nil}}, crashes...)
}

type runner struct {
	out             io.Writer
	sample, workers int
	seed            uint64
	only            *regexp.Regexp           // nil is all
	dir             string                   // of the test binaries
	equivalent      map[string]string        // reasons, by key
	took            map[string]time.Duration // by trial, without a mutant

	mu     sync.Mutex // guards what follows
	killed map[string]int
	tried  map[string]int
	left   []mutant
}

func (r *runner) run(ctx context.Context, packages []string) (err error) {
	if r.dir, err = os.MkdirTemp("", "eniagent-mutants-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	r.killed, r.tried, r.took = map[string]int{}, map[string]int{}, map[string]time.Duration{}
	if r.equivalent, err = readEquivalent("recovery/chaos/mutants/equivalent.txt"); err != nil {
		return err
	}
	all, err := r.build(ctx, packages)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.workers)
	for i, m := range all {
		g.Go(func() error { return r.try(ctx, i, len(all), m) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return r.report(packages)
}

// build compiles the tests over the mutated packages, and chooses the mutants.
func (r *runner) build(ctx context.Context, packages []string) ([]mutant, error) {
	replace, chosen, err := r.mutate(packages)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return nil, err
	}
	list := filepath.Join(r.dir, "overlay.json")
	if err := os.WriteFile(list, raw, 0o600); err != nil {
		return nil, err
	}
	for _, dir := range append(slices.Clone(packages), "agent/engine", "agent") {
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-overlay", list, "-o", r.binary(dir), "./"+dir)
		if said, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("compile the tests of %s: %w\n%s", dir, err, said)
		}
		// None on: they pass.
		for _, t := range trials(dir) {
			began := time.Now()
			if t.dir != dir {
				continue
			}
			if !r.passes(ctx, 0, t) {
				return nil, fmt.Errorf("the tests of %s fail without a mutant", dir)
			}
			r.took[t.String()] = time.Since(began)
		}
	}
	return chosen, nil
}

// mutate writes the mutated files, and says what each stands for; of the
// mutants of each package it chooses some.
func (r *runner) mutate(packages []string) (replace map[string]string, chosen []mutant, err error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, nil, err
	}
	replace = map[string]string{}
	next := 0
	for _, dir := range packages {
		files, found, err := mutate(dir, &next)
		if err != nil {
			return nil, nil, err
		}
		rng := rand.New(rand.NewPCG(r.seed, 0)) // the same ones, whichever packages are asked for
		for path, text := range files {
			to := filepath.Join(r.dir, strings.ReplaceAll(path, "/", "_"))
			if err := os.WriteFile(to, text, 0o600); err != nil {
				return nil, nil, err
			}
			replace[filepath.Join(root, path)] = to
		}
		found = slices.DeleteFunc(found, func(m mutant) bool { return r.equivalent[m.key()] != "" })
		rng.Shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] })
		if r.sample > 0 {
			found = found[:min(len(found), r.sample)]
		}
		found = slices.DeleteFunc(found, func(m mutant) bool { return r.only != nil && !r.only.MatchString(m.String()) })
		chosen = append(chosen, found...)
	}
	return replace, chosen, nil
}

func (r *runner) binary(dir string) string {
	return filepath.Join(r.dir, strings.ReplaceAll(dir, "/", "-")+".test")
}

// passes runs tests with a mutant on. One that hangs is given up after several
// times what they take without it.
func (r *runner) passes(ctx context.Context, id int, t trial) bool {
	limit := 5 * time.Minute
	if took, known := r.took[t.String()]; known {
		limit = max(30*time.Second, 8*took)
	}
	cmd := exec.CommandContext(ctx, r.binary(t.dir), append([]string{"-test.short", "-test.failfast", "-test.timeout", limit.String()}, t.args...)...)
	cmd.Dir = t.dir
	cmd.Env = append(os.Environ(), fmt.Sprintf("ENIAGENT_MUTANT=%d", id))
	cmd.WaitDelay = time.Second
	return cmd.Run() == nil
}

func (r *runner) try(ctx context.Context, i, n int, m mutant) error {
	began, by := time.Now(), ""
	dir := filepath.Dir(m.file)
	for _, t := range trials(dir) {
		if !r.passes(ctx, m.id, t) {
			by = t.dir
			break
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tried[dir]++
	verdict := "SURVIVES"
	if by != "" {
		r.killed[dir]++
		verdict = "noticed by " + by
	} else {
		r.left = append(r.left, m)
	}
	fmt.Fprintf(r.out, "%4d/%d %6.1fs  %-24s %s\n", i+1, n, time.Since(began).Seconds(), verdict, m)
	return nil
}

var errSurvivors = errors.New("less than nine in ten were noticed")

func (r *runner) report(packages []string) error {
	fmt.Fprintf(r.out, "\n%-16s %6s %8s\n", "PACKAGE", "TRIED", "NOTICED")
	tried, killed := 0, 0
	for _, dir := range packages {
		fmt.Fprintf(r.out, "%-16s %6d %8d\n", dir, r.tried[dir], r.killed[dir])
		tried, killed = tried+r.tried[dir], killed+r.killed[dir]
	}
	for _, m := range r.left {
		fmt.Fprintln(r.out, "survives:", m)
	}
	fmt.Fprintf(r.out, "\nevidence: mutants of %s (seed %d) | one place wrong at a time: noticed %d | %d | %d unnoticed\n",
		strings.Join(packages, ", "), r.seed, killed, tried, tried-killed)
	if 10*killed < 9*tried {
		return errSurvivors
	}
	return nil
}

// readEquivalent reads the mutants that nothing can notice: "key # reason".
func readEquivalent(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	all := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, why, ok := strings.Cut(lines.Text(), " # ")
		if ok {
			all[strings.TrimSpace(key)] = strings.TrimSpace(why)
		}
	}
	return all, nil
}
