package journal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childMain is the roles of the test binary as a child.
func childMain(role string, args []string) int {
	switch role {
	case "scan":
		return ScanMain(args[0], os.Stderr)
	case "hang":
		time.Sleep(time.Hour)
	case "panic":
		panic("as bbolt does")
	case "hang-once", "panic-once":
		if os.Remove(filepath.Join(filepath.Dir(args[0]), "once")) == nil {
			return childMain(strings.TrimSuffix(role, "-once"), args)
		}
		return ScanMain(args[0], os.Stderr)
	case "hold", "open", "life", "begins":
		return childJournal(role, args)
	case "descriptors", "oom-life", "oom-scan":
		return starvingMain(role, args)
	case "recorded":
		return recordedMain(args)
	}
	return 1
}

func childJournal(role string, args []string) int {
	o := testOptions(nil)
	o.Dir = args[0]
	j, err := Open(context.Background(), o)
	if err != nil {
		fmt.Fprintln(os.Stdout, err)
		return 1
	}
	fmt.Fprintln(os.Stdout, "opened")
	switch role {
	case "hold":
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "life":
		life(j)
	case "begins":
		n, _ := strconv.Atoi(args[1])
		for i := range n {
			op, err := j.Begin(context.Background(), operation(i%7, "9000"), nil)
			if err != nil || j.Finish(op.ID, Done, "") != nil {
				fmt.Fprintln(os.Stdout, err)
				return 1
			}
		}
		j.Abandon() // so that there is no commit of a close
		return 0
	}
	_ = j.Close()
	return 0
}

// life begins and finishes for ever, and says what it was promised.
func life(j *Journal) {
	for i := 0; ; i++ {
		op, err := j.Begin(context.Background(), operation(i%5, strconv.Itoa(i)), nil)
		if err != nil {
			fmt.Fprintln(os.Stdout, err)
			return
		}
		fmt.Fprintln(os.Stdout, "begun", op.ID)
		_ = j.Finish(op.ID, Done, "")
	}
}

func child(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), childEnv+"="+role)
	return c
}

// scanChild is an Options.Scan in a child of the given role.
func scanChild(role string) func(*Options) {
	return func(o *Options) { o.Scan = Reexec("/usr/bin/env", childEnv+"="+role, os.Args[0]) }
}

// hangsOnce has the deadline of the first scan come when its child has taken
// the file "once" and hangs: the scans after it have all the time they need.
func hangsOnce(dir string) func(*Options) {
	return func(o *Options) {
		scanChild("hang-once")(o)
		scan, scans := o.Scan, 0
		o.Scan = func(ctx context.Context, path string) error {
			if scans++; scans > 1 {
				return scan(ctx, path)
			}
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- scan(ctx, path) }()
			for {
				if _, err := os.Stat(filepath.Join(dir, "once")); errors.Is(err, fs.ErrNotExist) {
					cancel()
					if err := <-ended; !errors.Is(err, context.Canceled) {
						return fmt.Errorf("it does not hang: %w", err)
					}
					return context.DeadlineExceeded
				}
				select {
				case err := <-ended:
					return fmt.Errorf("it does not hang: %w", err)
				case <-time.After(time.Millisecond):
				}
			}
		}
	}
}

func TestScanInChild(t *testing.T) {
	t.Parallel()
	p := filePlace(t)
	j := p.open(t, scanChild("scan"))
	begin(t, j, 1, "1")
	ok(t, j.Close())
	j = p.open(t, scanChild("scan"))
	wantOpen(t, j, 1)
	ok(t, j.Close())
	for _, role := range []string{"hang", "panic"} {
		before := fingerprint(t, p.path())
		_, err := p.try(scanChild(role), func(o *Options) { o.ScanTimeout = 2 * time.Second })
		if err == nil || errors.Is(err, ErrCorrupt) || fingerprint(t, p.path()) != before {
			t.Fatalf("a scan that always fails was believed: %v", err)
		}
	}
	for role, scan := range map[string]func(*Options){"hang-once": hangsOnce(p.dir), "panic-once": scanChild("panic-once")} {
		ok(t, os.WriteFile(filepath.Join(p.dir, "once"), nil, 0o600))
		j, err := p.try(scan)
		ok(t, err)
		d, degraded := j.Degraded()
		if !degraded || !strings.Contains(d.Reason, "scan") {
			t.Fatalf("%s: %+v", role, d)
		}
		wantOpen(t, j, 1) // all of it was saved
		ok(t, j.Close())
	}
	// A scan that cannot be made proves nothing.
	_, err := p.try(func(o *Options) { o.Scan = Reexec("/does/not/exist") })
	if err == nil || errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
}

func TestLockNamesHolder(t *testing.T) {
	t.Parallel()
	p := filePlace(t)
	c := child(t, "hold", p.dir)
	in, err := c.StdinPipe()
	ok(t, err)
	out, err := c.StdoutPipe()
	ok(t, err)
	ok(t, c.Start())
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "opened\n" {
		t.Fatal(line)
	}
	pid := fmt.Sprintf("pid %d ", c.Process.Pid)
	_, err = p.try(func(o *Options) { o.LockTimeout = 50 * time.Millisecond })
	wantErr(t, err, ErrLocked, pid, "stop it")
	_, err = OpenReadOnly(p.path())
	wantErr(t, err, ErrLocked, pid)
	_, err = Verify(p.path())
	wantErr(t, err, ErrLocked, pid)
	ok(t, in.Close())
	ok(t, c.Wait())
	p.open(t)
}

// The critical path of an operation is two fdatasync and no other sync.
func TestTwoSyncsAnOperation(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("SKIPPED: no strace: the number of syncs is not checked here")
	}
	p := filePlace(t)
	ok(t, p.open(t, func(o *Options) { o.Preallocate = 0 }).Close())
	count := func(n int) map[string]int {
		trace := filepath.Join(t.TempDir(), "trace")
		c := exec.Command(strace, "-f", "-qq", "-o", trace, "-e", "trace=fdatasync,fsync,ftruncate,sync_file_range,msync", os.Args[0], p.dir, strconv.Itoa(n))
		c.Env = append(os.Environ(), childEnv+"=begins")
		if out, err := c.CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: strace: %v: %s", err, out)
		}
		b, err := os.ReadFile(trace)
		ok(t, err)
		calls := map[string]int{}
		for _, m := range regexp.MustCompile(`(?m)(fdatasync|fsync|ftruncate|sync_file_range|msync)\(\d+`).FindAllSubmatch(b, -1) {
			calls[string(m[1])]++
		}
		return calls
	}
	none, fifty := count(0), count(50)
	if d := fifty["fdatasync"] - none["fdatasync"]; d != 100 {
		t.Errorf("%d fdatasync for 50 operations, want 100", d)
	}
	if none["fdatasync"] != 0 || fifty["fsync"] != none["fsync"] {
		t.Errorf("other syncs: %v at open, %v with 50 operations", none, fifty)
	}
	t.Logf("open: %v; open and 50 operations: %v", none, fifty)
}

func killOne(t *testing.T, p *place, after time.Duration) (acked []uint64) {
	t.Helper()
	c := child(t, "life", p.dir)
	out, err := c.StdoutPipe()
	ok(t, err)
	ok(t, c.Start())
	lines := bufio.NewScanner(out)
	var timer *time.Timer
	for lines.Scan() {
		if lines.Text() == "opened" {
			timer = time.AfterFunc(after, func() { _ = c.Process.Kill() })
		}
		acked = append(acked, ackedIn(lines.Text())...)
	}
	_ = c.Wait()
	if timer == nil {
		t.Fatal("child did not open the journal")
	}
	return acked
}

// asNobody opens the journal as an unprivileged user and returns what it says.
func asNobody(t *testing.T, dir string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: not root: cannot become another user")
	}
	// The test binary sits where only root may go.
	exe := filepath.Join(openDir(t), "journal.test")
	b, err := os.ReadFile(os.Args[0])
	ok(t, err)
	ok(t, writeProgram(exe, b))
	c := exec.Command(exe, dir)
	c.Dir = "/"
	c.Env = append(os.Environ(), childEnv+"=open")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := c.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s does not run: %v", exe, err)
	}
	return string(out)
}

// writeProgram writes a file that can be executed at once. A child that another
// test forks meanwhile would have the file open for writing until its own
// execve, and execve(2) of such a file is ETXTBSY.
func writeProgram(path string, text []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, text, 0o755)
}

// openDir is a directory that every user may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "journal-test-")
	ok(t, err)
	ok(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestOtherUser(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	p := &place{dir: filepath.Join(dir, "journal")}
	ok(t, os.Mkdir(p.dir, 0o700))
	if out := asNobody(t, p.dir); !strings.Contains(out, "belongs to uid 0") || !strings.Contains(out, "chown 65534") {
		t.Fatal(out)
	}
	if out := asNobody(t, filepath.Join(dir, "new")); !strings.Contains(out, ErrPermission.Error()) {
		t.Fatal(out)
	}
	ok(t, os.Chown(p.dir, 65534, 65534))
	ok(t, os.Chown(dir, 65534, 65534))
	if out := asNobody(t, p.dir); out != "opened\n" {
		t.Fatal(out)
	}
	ok(t, os.Chown(p.path(), 0, 0))
	if out := asNobody(t, p.dir); !strings.Contains(out, "belongs to uid 0") || !strings.Contains(out, p.path()) {
		t.Fatal(out)
	}
	ok(t, os.Chown(p.path(), 65534, 65534))
	ok(t, os.Chmod(p.dir, 0o500))
	if out := asNobody(t, p.dir); !strings.Contains(out, ErrReadOnly.Error()) || !strings.Contains(out, "chmod 0700") {
		t.Fatal(out)
	}
}

// mount mounts, when this may, and unmounts at the end.
func mount(t *testing.T, source, kind string, flags uintptr, data string) string {
	t.Helper()
	dir := openDir(t)
	if err := syscall.Mount(source, dir, kind, flags, data); err != nil {
		t.Skipf("SKIPPED: cannot mount a %s here: %v", kind, err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func TestReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	dir := mount(t, "tmpfs", "tmpfs", 0, "mode=755,size=20m")
	p := filePlace(t)
	p.dir = filepath.Join(dir, "journal")
	j := p.open(t)
	begin(t, j, 1, "1")
	ok(t, j.Close())
	ok(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "mode=755"))
	_, err := p.try()
	wantErr(t, err, ErrReadOnly)
	p.dir = filepath.Join(dir, "other")
	_, err = p.try()
	wantErr(t, err, ErrReadOnly)
	s, err := OpenReadOnly(filepath.Join(dir, "journal", FileName))
	ok(t, err)
	wantOpen(t, s, 1)
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := mount(t, "tmpfs", "tmpfs", 0, "mode=755,size=2m")
	p := filePlace(t)
	p.dir = filepath.Join(dir, "journal")
	_, err := p.try(func(o *Options) { o.Preallocate = 8 << 20 })
	wantErr(t, err, ErrNoSpace)
	j := p.open(t, func(o *Options) { o.Preallocate = 256 << 10 })
	if w := j.Warnings(); len(w) != 1 || !strings.Contains(w[0], "memory") {
		t.Fatalf("warnings %v", w)
	}
	fill, err := os.Create(filepath.Join(dir, "fill"))
	ok(t, err)
	defer func() { _ = fill.Close() }()
	for {
		if _, err := fill.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	// What was reserved at creation carries many operations.
	n := 0
	for ; n < 250; n++ {
		if _, err = j.Begin(context.Background(), operation(n, strings.Repeat("x", 2000)), nil); err != nil {
			break
		}
	}
	wantErr(t, err, ErrNoSpace)
	ok(t, j.Err())
	if n < 10 {
		t.Fatalf("only %d operations", n)
	}
	ok(t, j.Finish(1, Done, ""))
	ok(t, fill.Truncate(0))
	begin(t, j, n, "1")
	ok(t, j.Close())
	j = p.open(t)
	if d, degraded := j.Degraded(); degraded {
		t.Fatalf("a full disk damaged the journal: %+v", d)
	}
	if got := len(j.Operations()); got != n {
		t.Fatalf("%d open, want %d", got, n)
	}
	t.Logf("%d operations of 4 KiB on a full disk", n)
}

func TestReexecMapsExits(t *testing.T) {
	for code, want := range map[int]error{
		exitCorrupt: ErrCorrupt, exitNewer: ErrNewer, exitLocked: ErrLocked, exitPermission: ErrPermission, 2: ErrCorrupt,
	} {
		err := Reexec("/bin/sh", "-c", fmt.Sprintf("echo why >&2; exit %d", code))(context.Background(), "x")
		wantErr(t, err, want, "why")
	}
	for _, script := range []string{"kill -9 $$", fmt.Sprintf("exit %d", exitOther)} {
		if err := Reexec("/bin/sh", "-c", script)(context.Background(), "x"); err == nil || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", script, err)
		}
	}
	wantErr(t, Reexec("/bin/sh", "-c", "kill -7 $$")(context.Background(), "x"), ErrCorrupt)
	var b bytes.Buffer
	if code := ScanMain("/does/not/exist", &b); code != exitCorrupt || b.Len() == 0 {
		t.Errorf("%d %s", code, b.String())
	}
}
