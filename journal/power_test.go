package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"eniagent/journal/crashimage"
)

// recordedLife is a child whose system calls are recorded. After each change
// that the journal promises to keep it says what the journal then held.
type recordedLife struct {
	dir   string // of the journal
	marks io.Writer
	round int
	j     *Journal
	err   error
}

func recordedMain(args []string) int {
	l := &recordedLife{dir: filepath.Join(args[0], "state", "journal"), marks: os.NewFile(crashimage.MarkFD, "marks")}
	scripts := map[string]func(){
		"verbs": l.verbs, "bounded": l.bounded, "short": l.short, "again": l.again,
		"salvage": func() { l.salvage(5) }, "damaged": func() { l.salvage(1) },
	}
	scripts[args[1]]()
	if l.err != nil {
		fmt.Fprintln(os.Stdout, l.err)
		return 1
	}
	return 0
}

// do makes a change, unless one has failed, and says what is durable then.
func (l *recordedLife) do(change func() error) {
	if l.err != nil {
		return
	}
	if l.err = change(); l.err == nil {
		_, l.err = fmt.Fprintln(l.marks, summary(l.j))
	}
}

// summary is what a journal holds, but for times and places.
func summary(j *Journal) string {
	var b bytes.Buffer
	if err := j.Export(&b); err != nil {
		return err.Error()
	}
	lines := slices.DeleteFunc(strings.Split(b.String(), "\n"), func(l string) bool { return strings.HasPrefix(l, `{"bucket":"meta"`) })
	var ids []string
	for _, o := range slices.Concat(j.Operations(), j.Quarantined(), j.History(0)) {
		ids = append(ids, fmt.Sprintf("%d %s", o.ID, o.State))
	}
	_, degraded := j.Degraded()
	m := j.Manifest()
	return fmt.Sprintf("commit %d next %d degraded %t [%s] %s", m.Sequence, m.NextID, degraded, strings.Join(ids, " "), digestText(strings.Join(lines, "\n")))
}

// recordedOptions are those of the recorded journal and of the one that opens an image of it.
func recordedOptions(script, dir string) Options {
	o := testOptions(nil)
	o.Dir, o.Limits.Done = dir, 3
	if script == "bounded" {
		o.Preallocate, o.Limits.File = 64<<10, 128<<10
	}
	return o
}

func (l *recordedLife) open(script string) {
	l.do(func() (err error) {
		l.round++
		o := recordedOptions(script, l.dir)
		now, later := o.Now, time.Duration(l.round)*time.Hour
		o.Now = func() time.Time { return now().Add(later) }
		l.j, err = Open(context.Background(), o)
		return err
	})
}

func (l *recordedLife) close() { l.do(func() error { return l.j.Close() }) }

func (l *recordedLife) begin(n int, after string) (id uint64) {
	l.do(func() error {
		o, err := l.j.Begin(context.Background(), operation(n, after), []Baseline{{Key: mtu(n), State: "1500", Class: "volatile"}})
		id = o.ID
		return err
	})
	return id
}

// verbs is each change there is, a ring that turns, and a file that grows.
func (l *recordedLife) verbs() {
	ctx := context.Background()
	l.open("verbs")
	a, b, c := l.begin(1, "9000"), l.begin(2, "9000"), l.begin(3, "9000")
	l.do(func() error { _, err := l.j.Attempt(ctx, a); return err })
	l.do(func() error { return errors.Join(l.j.Finish(a, Done, "verified"), l.j.Flush(ctx)) })
	l.do(func() error { return l.j.Reverting(ctx, b, "EBUSY", false) })
	l.do(func() error { return l.j.Quarantine(ctx, c, "foreign") })
	l.do(func() error {
		return errors.Join(l.j.End(Closing{ID: b, State: Reverted, Count: CountRevert}), // rides along
			l.j.SetDesired(ctx, Desired{Source: "file", Document: []byte(`{"a":1}`)}))
	})
	l.do(func() error { return l.j.SetControl(ctx, Control{Action: "paused", Target: pci(3)}) })
	l.do(func() error { return l.j.Resolve(ctx, c, "accept", "me", "looked") })
	for n := range 4 {
		id := l.begin(n, "1400")
		l.do(func() error { return errors.Join(l.j.Finish(id, Done, ""), l.j.Flush(ctx)) })
	}
	for n := 10; n < 13; n++ {
		l.begin(n, strings.Repeat("x", 15_000))
	}
	l.close()
	l.open("verbs")
	l.begin(20, "9000")
	l.close()
}

// bounded reserves its file and fills it to the brim.
func (l *recordedLife) bounded() {
	l.open("bounded")
	for n := 0; l.err == nil; n++ {
		l.begin(n, strings.Repeat("x", 12_000))
	}
	if errors.Is(l.err, ErrNoSpace) {
		l.err = nil
	}
	l.close()
	l.open("bounded")
}

// salvage is a journal that is damaged, again and again.
func (l *recordedLife) salvage(times int) {
	l.open("salvage")
	for n := range times {
		l.begin(2*n, "9000")
		text := fmt.Sprintf("damaged-%d", n)
		l.begin(2*n+1, text)
		l.close()
		if l.err == nil {
			l.err = damage(filepath.Join(l.dir, FileName), text)
		}
		l.open("salvage")
	}
	l.close()
}

// damage flips a bit in the only place of the text.
func damage(path, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if bytes.Count(b, []byte(text)) != 1 {
		return fmt.Errorf("%q is not in one place of %s", text, path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{text[0] ^ 1}, int64(bytes.Index(b, []byte(text))))
	return errors.Join(err, f.Sync(), f.Close())
}

func (l *recordedLife) short() {
	l.open("short")
	l.begin(1, "9000")
	l.begin(2, "9000")
}

// again is a life after that of an agent that was killed.
func (l *recordedLife) again() {
	l.open("again")
	l.begin(3, "9000")
}

// recording is lives of one journal, and what it said.
type recording struct {
	*crashimage.Recording
	script string
	marks  []string
	top    string
}

func newRecording(t *testing.T, script string) *recording {
	t.Helper()
	top := t.TempDir()
	return &recording{Recording: crashimage.New(top), script: script, top: top}
}

// live records one more life.
func (r *recording) live(t *testing.T) {
	t.Helper()
	strace := needs(t, "strace")
	trace := filepath.Join(t.TempDir(), "trace")
	c := exec.Command(strace, append(crashimage.Strace(trace), os.Args[0], r.top, r.script)...)
	c.Env = append(os.Environ(), childEnv+"=recorded")
	marks, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	ok(t, err)
	defer func() { _ = marks.Close() }()
	c.ExtraFiles = []*os.File{marks}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.Open(trace)
	ok(t, err)
	defer func() { _ = f.Close() }()
	ok(t, r.Read(f))
	r.marks = r.Marks()
}

// needs is the path of a program. Where everything must be tested, its absence
// is a failure, as every skip is.
func needs(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if os.Getenv("ENIAGENT_REQUIRE_VM") == "1" {
		t.Fatalf("no %s; run as root: apt-get install %s", program, program)
	}
	t.Skipf("SKIPPED: no %s; run as root: apt-get install %s", program, program)
	return ""
}

// check opens an image as an agent that starts does. A power cut is no damage:
// what was promised is there, nothing else but what was under way, and no file
// is set aside.
func (r *recording) check(im crashimage.Image, top string) error {
	defer func() { _ = os.RemoveAll(top) }()
	if err := im.Write(top); err != nil {
		return err
	}
	dir := filepath.Join(top, "state", "journal")
	j, err := Open(context.Background(), recordedOptions(r.script, dir))
	if err != nil {
		return fmt.Errorf("%s: %w", im.Lost, err)
	}
	defer j.Abandon()
	have := summary(j)
	for n := im.Said; n <= im.Sure; n++ {
		if legal := r.marks[max(0, n-1):min(n+1, len(r.marks))]; !slices.Contains(legal, have) {
			return fmt.Errorf("%s:\nopens as %s\nwant     %s", im.Lost, have, strings.Join(legal, "\nor       "))
		}
	}
	if err := asideIsThere(j, filepath.Join(dir, FileName)); err != nil {
		return fmt.Errorf("%s: %w", im.Lost, err)
	}
	_, err = j.Begin(context.Background(), operation(100, "9000"), nil)
	if err != nil && !errors.Is(err, ErrNoSpace) {
		return fmt.Errorf("%s: %w", im.Lost, err)
	}
	return nil
}

// asideIsThere wants the damaged file of a degraded journal, and no other one
// to have any.
func asideIsThere(j *Journal, path string) error {
	names, err := asides(path)
	if err != nil {
		return err
	}
	d, degraded := j.Degraded()
	switch {
	case !degraded && len(names) > 0:
		return fmt.Errorf("%v beside a journal that was never damaged", names)
	case degraded:
		if _, err := OpenReadOnly(filepath.Join(filepath.Dir(path), filepath.Base(d.Aside))); !errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("the damaged file that the journal names is not there: %w", err)
		}
	}
	return nil
}

// durable is a file whose contents mean nothing after a crash.
const durable = "state/journal/" + lockName

// images checks what a crash can leave and returns how many images there were
// and what was wrong with the first few.
func (r *recording) images(t *testing.T, c crashimage.Choice, enough int) (n int, wrong []error) {
	t.Helper()
	top := memoryDir(t)
	c.Durable = []string{durable}
	for im := range r.Images(c) {
		n++
		if err := r.check(im, filepath.Join(top, fmt.Sprint(n))); err != nil {
			if wrong = append(wrong, err); len(wrong) == enough {
				break
			}
		}
	}
	return n, wrong
}

// memoryDir is a directory whose syncs cost nothing.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "journal-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestPowerCut: at every moment of a journal's life, whatever was not synced
// yet is lost or not, in any combination.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for script, each := range map[string]int{"verbs": 4, "bounded": 4, "salvage": 3} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			r := newRecording(t, script)
			r.live(t)
			c := crashimage.Choice{Each: each, Seed: seed(t)}
			if campaign() {
				c.Each = 0
			}
			n, wrong := r.images(t, c, 3)
			for _, err := range wrong {
				t.Error(err)
			}
			evidence(t, n, "crash images of %d recorded system calls (%s)", len(r.Events), script)
		})
	}
}

// TestKilledThenPowerCut: an agent is killed at any of its calls, another one
// starts, and then the power goes. What the first had not synced yet the second
// has read all the same, and gone on from.
func TestKilledThenPowerCut(t *testing.T) {
	t.Parallel()
	for script, skip := range map[string]int{"short": 0, "damaged": 3} { // the damage
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			first := newRecording(t, script)
			first.live(t)
			c := crashimage.Choice{Each: 1, Seed: seed(t)}
			if campaign() {
				c.Each = 0
			}
			kills, images := 0, 0
			for k, e := range first.Events {
				if !e.Changes() || e.Path == durable || k < first.after(skip) {
					continue // the same as before it, or not what this is about
				}
				kills++
				n, err := killed(t, first, k+1, c)
				if err != nil {
					t.Errorf("killed after %s: %v", e.Text, err)
				}
				images += n
			}
			evidence(t, images, "crash images after each of %d kills and a restart (%s)", kills, t.Name())
		})
	}
}

// after is the number of events until so many marks were made.
func (r *recording) after(marks int) int {
	for i, e := range r.Events {
		if marks == 0 {
			return i
		}
		if e.Mark != "" {
			marks--
		}
	}
	return len(r.Events)
}

// killed is the life of an agent that comes after one that was killed, and how
// many images a power cut in it can leave.
func killed(t *testing.T, first *recording, events int, c crashimage.Choice) (int, error) {
	t.Helper()
	second := &recording{script: "again", top: t.TempDir()}
	var err error
	second.Recording, err = first.Kill(events, second.top)
	ok(t, err)
	second.live(t)
	c.From = events // what the first alone can leave is TestPowerCut's
	n, wrong := second.images(t, c, 1)
	return n, errors.Join(wrong...)
}

// TestOmittedSyncsAreCaught: each kind of sync that a journal makes is needed,
// and its absence is seen.
func TestOmittedSyncsAreCaught(t *testing.T) {
	t.Parallel()
	const file = "state/journal/" + FileName
	of := func(call, path string) func(crashimage.Event) bool {
		return func(e crashimage.Event) bool { return e.Text == call+" "+path }
	}
	every := func(turn int, drop func(crashimage.Event) bool) func(crashimage.Event) bool {
		n := 0
		return func(e crashimage.Event) bool {
			if !drop(e) {
				return false
			}
			n++
			return n%2 == turn
		}
	}
	recordings := map[string]*recording{}
	for _, script := range []string{"short", "damaged"} {
		recordings[script] = newRecording(t, script)
		recordings[script].live(t)
	}
	for name, tc := range map[string]struct {
		script string
		drop   func(crashimage.Event) bool
	}{
		"of the new file":                   {"short", func(e crashimage.Event) bool { return e.Path == file+tempSuffix }},
		"of the directories above":          {"short", of("fsync", ".")},
		"of the directory above":            {"short", of("fsync", "state")},
		"of the new name":                   {"short", of("fsync", "state/journal")},
		"of the pages before the meta page": {"short", every(1, of("fdatasync", file))},
		"of the meta page":                  {"short", every(0, of("fdatasync", file))},
		"of the name of the damaged file":   {"damaged", every(0, of("fsync", "state/journal"))},
	} {
		t.Run(name, func(t *testing.T) {
			r := *recordings[tc.script]
			r.Recording = r.Without(tc.drop)
			if len(r.Events) == len(recordings[tc.script].Events) {
				t.Fatal("there is none")
			}
			if _, wrong := r.images(t, crashimage.Choice{Each: 1}, 1); wrong == nil {
				t.Error("its absence harms nothing")
			}
		})
	}
}
