package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// groupEnv names the memory cgroup that a child joins.
const groupEnv = "JOURNAL_TEST_GROUP"

// starvingMain is the roles of children that lack something.
func starvingMain(role string, args []string) int {
	if role == "descriptors" {
		if err := fewDescriptors(args[0]); err != nil {
			fmt.Fprintln(os.Stdout, err)
			return 1
		}
		return 0
	}
	if err := set(os.Getenv(groupEnv), "cgroup.procs", "0"); err != nil {
		fmt.Fprintln(os.Stdout, err)
		return 1
	}
	if role == "oom-scan" {
		eat()
	}
	go eat()
	return childJournal("life", args)
}

// set writes to a file of a cgroup, and makes none where there is no cgroup.
func set(group, file, value string) error {
	f, err := os.OpenFile(filepath.Join(group, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// eat takes memory until the kernel has had enough.
func eat() {
	for all := [][]byte{}; ; {
		all = append(all, bytes.Repeat([]byte{1}, 1<<20))
	}
}

// memoryGroup makes a cgroup with so much memory.
func memoryGroup(t *testing.T, bytes int) string {
	t.Helper()
	var failed error
	for root, files := range map[string][]string{
		"/sys/fs/cgroup":        {"memory.max", "memory.swap.max"},
		"/sys/fs/cgroup/memory": {"memory.limit_in_bytes"},
	} {
		dir := filepath.Join(root, fmt.Sprintf("journal-test-%d", os.Getpid()))
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			t.Cleanup(func() { _ = os.Remove(dir) })
			err = set(dir, files[0], fmt.Sprint(bytes))
		}
		if err == nil {
			for _, f := range files[1:] {
				_ = set(dir, f, "0") // there is none without swap
			}
			return dir
		}
		failed = errors.Join(failed, err)
	}
	t.Skipf("SKIPPED: no memory cgroup can be made here: %v", failed)
	return ""
}

// TestOutOfMemory: the kernel kills the agent in the middle of its commits, or
// the child that scans.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	group := groupEnv + "=" + memoryGroup(t, 256<<20)
	p := filePlace(t)
	k := &kills{}
	for range 3 {
		c := child(t, "oom-life", p.dir)
		c.Env = append(c.Env, group)
		out, err := c.Output()
		if c.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("not killed: %v: %s", err, out)
		}
		k.check(t, p, ackedIn(string(out)))
	}
	before := fingerprint(t, p.path())
	_, err := p.try(func(o *Options) {
		o.Scan = Reexec("/usr/bin/env", group, childEnv+"=oom-scan", os.Args[0])
	})
	if err == nil || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("a scan without memory: %v", err)
	}
	if fingerprint(t, p.path()) != before {
		t.Fatal("the journal was changed")
	}
	evidence(t, 3, "killed for want of memory, %d operations", k.last)
}

// TestFewDescriptors: whatever call does not get a descriptor, nothing is lost.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	c := child(t, "descriptors", filepath.Join(t.TempDir(), "journal"))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// fewDescriptors opens a journal that is sound, one that is damaged, and none,
// with ever more descriptors, until it works.
func fewDescriptors(dir string) error {
	o := testOptions(nil)
	o.Dir = dir
	path := filepath.Join(dir, FileName)
	for name, prepare := range map[string]func() error{
		"none": func() error { return nil },
		"sound": func() error {
			l := &recordedLife{dir: dir, marks: new(bytes.Buffer)}
			l.short()
			l.close()
			return l.err
		},
		"damaged": func() error {
			l := &recordedLife{dir: dir, marks: new(bytes.Buffer)}
			l.open("short")
			l.begin(1, "9000")
			l.begin(2, "damaged-1")
			l.close()
			return errors.Join(l.err, damage(path, "damaged-1"))
		},
	} {
		n := uint64(0)
		for ; ; n++ {
			enough, err := opensWith(o, n, prepare, map[string]int{"none": 0, "sound": 2, "damaged": 1}[name], name == "damaged")
			if err != nil {
				return fmt.Errorf("%s with %d descriptors: %w", name, n, err)
			}
			if enough {
				break
			}
		}
		if n == 0 {
			return fmt.Errorf("%s: opens without descriptors", name)
		}
	}
	return nil
}

// opensWith says whether so many descriptors are enough for a journal. If not,
// a later start finds everything as it was.
func opensWith(o Options, n uint64, prepare func() error, operations int, damaged bool) (bool, error) {
	defer func() { _ = os.RemoveAll(o.Dir) }()
	if err := prepare(); err != nil {
		return false, err
	}
	err := openWith(o, n)
	if err == nil {
		return true, nil
	}
	// Not always wrapped: a scan that fails twice is told in words.
	if !strings.Contains(err.Error(), syscall.EMFILE.Error()) || errors.Is(err, ErrCorrupt) {
		return false, err
	}
	j, err := Open(context.Background(), o)
	if err != nil {
		return false, err
	}
	defer j.Abandon()
	_, degraded := j.Degraded()
	if have := len(j.Operations()); degraded != damaged || have != operations {
		return false, fmt.Errorf("later: degraded %t, %d operations", degraded, have)
	}
	return false, nil
}

// openWith opens and closes a journal while only n more descriptors are to be had.
func openWith(o Options, n uint64) error {
	probe, err := os.Open("/")
	if err != nil {
		return err
	}
	next := uint64(probe.Fd())
	if err := probe.Close(); err != nil {
		return err
	}
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: next + n, Max: was.Max}); err != nil {
		return err
	}
	j, err := Open(context.Background(), o)
	if err == nil {
		j.Abandon()
	}
	return errors.Join(err, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was))
}

// TestReadErrors: a page that the disk does not give is damage; one for which
// there was no memory is not.
func TestReadErrors(t *testing.T) {
	t.Parallel()
	strace := needs(t, "strace")
	p := filePlace(t)
	fill(t, p)
	before := fingerprint(t, p.path())
	reads := []int{2, 3, 5, 8, 13}
	if campaign() {
		reads = nil
		for n := range 60 {
			reads = append(reads, n+1)
		}
	}
	verdicts := map[string]int{}
	for _, n := range reads {
		for _, name := range []string{"ENOMEM", "EIO"} {
			// A bad page stays bad, for the salvage too.
			c := exec.Command(strace, "-f", "-qq", "-o", os.DevNull, "-e", "trace=pread64",
				"-e", fmt.Sprintf("inject=pread64:error=%s:when=%d", name, n), os.Args[0], p.dir)
			c.Env = append(os.Environ(), childEnv+"=open")
			out, _ := c.CombinedOutput()
			names, err := asides(p.path())
			ok(t, err)
			switch opened := strings.HasPrefix(string(out), "opened"); {
			case opened && len(names) == 0:
				verdicts["not met"]++
			case name == "EIO" && len(names) == 1:
				verdicts["damage"]++
				ok(t, p.open(t).Close()) // also when the fresh one met it as well
				ok(t, os.Rename(names[0], p.path()))
			case opened || len(names) > 0 || fingerprint(t, p.path()) != before:
				t.Fatalf("%s at read %d: %v, %s", name, n, names, out)
			case strings.HasPrefix(string(out), "open journal: "):
				verdicts["refused for "+name]++
			default:
				verdicts["not the journal's"]++ // of the program's own start
			}
			before = fingerprint(t, p.path())
		}
	}
	if verdicts["damage"]+verdicts["refused for EIO"] == 0 || verdicts["refused for ENOMEM"] == 0 {
		t.Errorf("%v", verdicts)
	}
	t.Log(verdicts)
}

// kills is what was acknowledged by agents that were killed one after another.
type kills struct{ last uint64 }

// check opens the journal: it holds all that was acknowledged and not more than
// one operation beyond.
func (k *kills) check(t *testing.T, p *place, acked []uint64) {
	t.Helper()
	j := p.open(t)
	if _, degraded := j.Degraded(); degraded {
		t.Fatal("degraded")
	}
	for _, id := range acked {
		if _, found := j.Get(id); !found && id+900 > j.Manifest().NextID {
			t.Fatalf("operation %d was acknowledged and is lost", id)
		}
	}
	k.last = max(k.last, slices.Max(append(acked, 0)))
	if over := j.Manifest().NextID - 1 - k.last; over > 1 {
		t.Fatalf("%d operations beyond what was acknowledged", over)
	}
	k.last = j.Manifest().NextID - 1
	for _, o := range j.Operations() {
		finish(t, j, o.ID, Done)
	}
	ok(t, j.Close())
}

// ackedIn is what a life said that it was promised.
func ackedIn(out string) (acked []uint64) {
	for line := range strings.Lines(out) {
		var id uint64
		if _, err := fmt.Sscanf(line, "begun %d", &id); err == nil {
			acked = append(acked, id)
		}
	}
	return acked
}

// TestKill: killed at any moment.
func TestKill(t *testing.T) {
	t.Parallel()
	n := 20
	if campaign() {
		n = 200
	}
	p := filePlace(t)
	rnd := rand.New(rand.NewPCG(seed(t), 3))
	k := &kills{}
	for range n {
		k.check(t, p, killOne(t, p, time.Duration(rnd.IntN(40))*time.Millisecond))
	}
	evidence(t, n, "SIGKILL at random moments, %d operations", k.last)
}
