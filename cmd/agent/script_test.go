package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.etcd.io/bbolt"

	"eniagent/agent/source/kubelet/kubelettest"
	"eniagent/journal"
)

// TestMain makes this binary the agent as well: under the name "agent" for
// scripts, and for the children that an agent starts from /proc/self/exe.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "writer" || os.Args[1] == "journal-scan") {
		os.Exit(execute(context.Background(), os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
	}
	if name := filepath.Base(os.Args[0]); name != "agent" && name != "tracer" { // scripts mostly wait: for time-outs, disks, each other's children
		os.Args = slices.Insert(os.Args, 1, "-test.parallel=8")
	}
	flag.Bool("update", false, "write the golden key sets anew")
	testscript.Main(m, map[string]func(){"agent": scriptAgent, "tracer": traceMain})
}

// scriptAgent is the agent on a script's simulated node: the flags that say so
// come first, so that a script may give others. With a uid it runs as that user.
func scriptAgent() {
	if uid, err := strconv.Atoi(os.Getenv("AGENT_UID")); err == nil {
		if err := become(uid); err != nil {
			fmt.Fprintln(os.Stderr, "become another user:", err)
			os.Exit(99)
		}
	}
	args := append(strings.Fields(os.Getenv("AGENT_FLAGS")), os.Args[1:]...)
	os.Exit(execute(context.Background(), args, streams{os.Stdin, os.Stdout, os.Stderr}))
}

func become(uid int) error {
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(uid, uid, uid), syscall.Setresuid(uid, uid, uid)); err != nil {
		return err
	}
	// Else /proc/self/exe is root's.
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// patience is how long a script waits for what it says must come.
const patience = 5 * time.Minute

func TestScript(t *testing.T) {
	golden, err := filepath.Abs("testdata/json") // scripts run elsewhere
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			s := &world{dir: e.WorkDir, golden: golden, update: flag.Lookup("update").Value.String() == "true", running: map[string]*process{}, remembered: map[string]string{}}
			e.Values[worldKey{}] = s
			e.Defer(s.end)
			state := filepath.Join(e.WorkDir, "state")
			e.Setenv("STATE", state)
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each process of a race test ends a second later
			e.Setenv("JOURNAL", filepath.Join(state, "journal", journal.FileName))
			e.Setenv("AGENT_FLAGS", "--simulate --state-dir "+state)
			e.Setenv("CONFIG", filepath.Join(state, "interfaces.yaml"))
			// Others must be able to come here, and nobody else to write.
			return errors.Join(os.Chmod(filepath.Dir(e.WorkDir), 0o711), os.Chmod(e.WorkDir, 0o755))
		},
		Condition: func(c string) (bool, error) {
			if c == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", c)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit": cmdExit, "start": cmdStart, "ended": cmdEnded, "signal": cmdSignal, "until": cmdUntil,
			"remember": cmdRemember, "unchanged": cmdUnchanged, "json": cmdJSON, "want": cmdWant, "asked": cmdAsked,
			"newer": cmdNewer, "damage": cmdDamage, "tmpfs": cmdTmpfs, "readonly": cmdReadOnly, "fill": cmdFill,
			"crowd":    cmdCrowd,
			"freeport": cmdFreePort, "keys": cmdKeys, "crash-and-compare": cmdCompare, "get": cmdGet, "chown": cmdChown, "kubelet": cmdKubelet, "truncate": cmdTruncate,
		},
	})
}

// world is what one script has under way.
type world struct {
	dir        string
	golden     string // where key sets are
	update     bool   // write them anew
	running    map[string]*process
	remembered map[string]string
	mounts     []string
	kubelet    *kubelettest.Kubelet
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// process is an agent, or another of its commands, in the background.
type process struct {
	cmd  *exec.Cmd
	out  *buffer
	done chan struct{}
	err  error
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (w *world) end() {
	for _, p := range w.running {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	for _, m := range slices.Backward(w.mounts) {
		_ = syscall.Unmount(m, syscall.MNT_DETACH)
	}
}

// cmdStart starts a command in the background: start NAME agent run. It needs
// not be ready; what a script waits for it says.
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME command...")
	}
	w := worldOf(ts)
	path, err := exec.LookPath(args[1])
	ts.Check(err)
	p := &process{cmd: exec.Command(path, args[2:]...), out: &buffer{}, done: make(chan struct{})}
	p.cmd.Args[0] = args[1]
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = w.dir, p.out, p.out
	// A writer that outlives its agent holds the pipe of its standard error, and
	// its fence: it is waited for, unless it hangs.
	p.cmd.WaitDelay = 3 * time.Second
	p.cmd.Env = os.Environ()
	for _, name := range []string{"AGENT_FLAGS", "AGENT_UID", "STATE", "TMPDIR", "GORACE", "NOTIFY_SOCKET"} {
		p.cmd.Env = append(p.cmd.Env, name+"="+ts.Getenv(name))
	}
	ts.Check(p.cmd.Start())
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	w.running[args[0]] = p
}

func (w *world) process(ts *testscript.TestScript, name string) *process {
	p, ok := w.running[name]
	if !ok {
		ts.Fatalf("nothing called %q was started", name)
	}
	return p
}

// cmdEnded waits for a background command to end: ended NAME [CODE|killed]. Its
// output is then stdout's.
func cmdEnded(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: ended NAME CODE|killed")
	}
	w := worldOf(ts)
	p := w.process(ts, args[0])
	select {
	case <-p.done:
	case <-time.After(patience):
		ts.Fatalf("%s has not ended after %s; it said:\n%s", args[0], patience, p.out)
	}
	got := strconv.Itoa(p.cmd.ProcessState.ExitCode())
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() && s.Signal() == syscall.SIGKILL {
		got = "killed"
	}
	fmt.Fprint(ts.Stdout(), p.out)
	if got != args[1] {
		ts.Fatalf("%s ended with %s, want %s; it said:\n%s", args[0], got, args[1], p.out)
	}
	delete(w.running, args[0])
}

// cmdSignal sends a signal: signal NAME TERM|INT|KILL|STOP|CONT|HUP|QUIT|ABRT.
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: signal NAME TERM|INT|KILL|STOP|CONT|HUP|QUIT|ABRT")
	}
	s, ok := map[string]os.Signal{
		"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "HUP": syscall.SIGHUP,
		"QUIT": syscall.SIGQUIT, "ABRT": syscall.SIGABRT, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT,
	}[args[1]]
	if !ok {
		ts.Fatalf("no signal %s", args[1])
	}
	ts.Check(worldOf(ts).process(ts, args[0]).cmd.Process.Signal(s))
}

// cmdExit runs a command that must end with a code: exit 3 agent plan.
func cmdExit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE command...")
	}
	if got := run(ts, args[1:]); strconv.Itoa(got) != args[0] {
		ts.Fatalf("%s ended with %d, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

func run(ts *testscript.TestScript, args []string) int {
	err := ts.Exec(args[0], args[1:]...)
	var exited *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exited):
		return exited.ExitCode()
	}
	ts.Fatalf("%s: %v", args[0], err)
	return -1
}

// cmdUntil runs a command again and again until its output matches, whatever
// it ends with: until PATTERN agent status. "until NAME: PATTERN" looks at the
// output of a background command instead.
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: until [NAME:] PATTERN [command...]")
	}
	var out func() string
	if name, ok := strings.CutSuffix(args[0], ":"); ok {
		p := worldOf(ts).process(ts, name)
		args, out = args[1:], p.out.String
	} else {
		out = func() string {
			run(ts, args[1:])
			return ts.ReadFile("stdout")
		}
	}
	pattern := regexp.MustCompile("(?m)" + args[0])
	seen := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if seen = out(); pattern.MatchString(seen) != neg {
			return
		}
	}
	ts.Fatalf("after %s: no %s (wanted: %t) in:\n%s", patience, args[0], !neg, seen)
}

// cmdRemember and cmdUnchanged hold files and whole directories against each
// other: bytes, mode, owner, times, inodes, names.
func cmdRemember(ts *testscript.TestScript, _ bool, args []string) {
	for _, path := range args {
		worldOf(ts).remembered[path] = fingerprint(ts, path)
	}
}

func cmdUnchanged(ts *testscript.TestScript, neg bool, args []string) {
	for _, path := range args {
		was, ok := worldOf(ts).remembered[path]
		if !ok {
			ts.Fatalf("%s was not remembered", path)
		}
		if now := fingerprint(ts, path); (now == was) == neg {
			ts.Fatalf("%s: unchanged is %t, want %t; was\n%snow\n%s", path, now == was, !neg, was, now)
		}
	}
}

func fingerprint(ts *testscript.TestScript, root string) string {
	var b strings.Builder
	ts.Check(filepath.WalkDir(ts.MkAbs(root), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		var sum [32]byte
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = sha256.Sum256(data)
		}
		fmt.Fprintf(&b, "%s inode=%d mode=%o owner=%d:%d links=%d size=%d mtime=%d.%09d ctime=%d.%09d %x\n", path, st.Ino, st.Mode,
			st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec, sum[:8])
		return nil
	}))
	return b.String()
}

// cmdJSON looks into the JSON on stdout or stderr: json .interfaces[0].condition right.
// A path may end in .length. A value "..." only has to be there.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	from := "stdout"
	if len(args) == 3 {
		from, args = args[0], args[1:]
	}
	if len(args) != 2 {
		ts.Fatalf("usage: json [stderr] .path[0].to VALUE")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(from)), &v))
	got, found := lookup(v, args[0])
	equal := found && (args[1] == "..." || spelled(got) == args[1])
	if equal == neg {
		ts.Fatalf("%s is %s (there: %t), want %s (%t)", args[0], spelled(got), found, args[1], !neg)
	}
}

func spelled(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

var pathPart = regexp.MustCompile(`\.([a-z_]+)|\[(\d+)\]`)

func lookup(v any, path string) (any, bool) {
	for _, part := range pathPart.FindAllStringSubmatch(path, -1) {
		switch at := v.(type) {
		case map[string]any:
			if v = at[part[1]]; !slices.Contains(slices.Collect(maps.Keys(at)), part[1]) {
				return nil, false
			}
		case []any:
			if part[1] == "length" {
				return len(at), true
			}
			i, err := strconv.Atoi(part[2])
			if err != nil || i >= len(at) {
				return nil, false
			}
			v = at[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// cmdWant is what a script asks of the node, line by line: want 'pci: "0000:02:00.0"' 'driver: vfio-pci'.
// A "-" begins the next interface. The file is replaced in one rename.
func cmdWant(ts *testscript.TestScript, neg bool, args []string) {
	var b strings.Builder
	b.WriteString("apiVersion: eniagent/v1alpha1\ninterfaces:\n")
	mark := "  - "
	for _, a := range args {
		if a == "-" {
			mark = "  - "
			continue
		}
		b.WriteString(mark + a + "\n")
		mark = "    "
	}
	cmdAsked(ts, neg, []string{b.String()})
}

// cmdAsked puts a text, or a file of the script, in the place of the desired state.
func cmdAsked(ts *testscript.TestScript, _ bool, args []string) {
	data := args[0]
	if len(args) == 2 && args[0] == "from" {
		data = ts.ReadFile(args[1])
	}
	path := ts.Getenv("CONFIG")
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o700))
	ts.Check(os.WriteFile(path+".new", []byte(data), 0o644))
	ts.Check(os.Rename(path+".new", path))
}

// cmdNewer makes a journal one that only a newer agent may read.
func cmdNewer(ts *testscript.TestScript, _ bool, args []string) {
	db, err := bbolt.Open(ts.MkAbs(args[0]), 0o600, &bbolt.Options{Timeout: time.Second})
	ts.Check(err)
	ts.Check(db.Update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte(journal.BucketMeta))
		raw, err := journal.Encode(journal.BucketMeta, []byte("journal"), &journal.Meta{Format: 99, MinReader: 99, Created: time.Unix(1767225600, 0).UTC(), Agent: "v99"})
		if err != nil {
			return err
		}
		return meta.Put([]byte("journal"), raw)
	}))
	ts.Check(db.Close())
}

// cmdDamage flips one bit in each of a file's pages but the first two, as a
// dying disk does.
func cmdDamage(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	const page = 4096
	for at := 2 * page; at < min(len(data), 64*page); at += page {
		for i := at + 16; i < at+page; i++ {
			if data[i] != 0 {
				data[i] ^= 0x10
			}
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.Write(data)
	ts.Check(errors.Join(err, f.Close()))
}

func cmdTruncate(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
}

// cmdTmpfs mounts a small file system: tmpfs DIR 5m.
func cmdTmpfs(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+args[1]))
	w := worldOf(ts)
	w.mounts = append(w.mounts, dir)
}

// cmdReadOnly makes such a file system read-only, or with ! writable again.
func cmdReadOnly(ts *testscript.TestScript, neg bool, args []string) {
	flags := uintptr(syscall.MS_REMOUNT)
	if !neg {
		flags |= syscall.MS_RDONLY
	}
	ts.Check(syscall.Mount("", ts.MkAbs(args[0]), "", flags, ""))
}

// cmdFill writes a file until the disk is full.
func cmdFill(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	for _, size := range []int{1 << 16, 1 << 12, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			ts.Check(err)
		}
	}
	ts.Check(f.Close())
}

// cmdCrowd makes empty files in a directory until there is no inode left.
func cmdCrowd(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.MkdirAll(ts.MkAbs(args[0]), 0o700))
	for n := 0; ; n++ {
		f, err := os.Create(filepath.Join(ts.MkAbs(args[0]), strconv.Itoa(n)))
		if errors.Is(err, syscall.ENOSPC) {
			return
		}
		ts.Check(err)
		ts.Check(f.Close())
	}
}

func cmdChown(ts *testscript.TestScript, _ bool, args []string) {
	uid, err := strconv.Atoi(args[0])
	ts.Check(err)
	for _, path := range args[1:] {
		ts.Check(os.Lchown(ts.MkAbs(path), uid, uid))
	}
}

// cmdFreePort sets a variable to an address that was free a moment ago.
func cmdFreePort(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], l.Addr().String())
	ts.Check(l.Close())
}

// cmdGet gets a URL until it answers with a code: get 200 http://...; the body
// is then stdout's.
func cmdGet(ts *testscript.TestScript, _ bool, args []string) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	last := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := client.Get(args[1])
		if err != nil {
			last = err.Error()
			continue
		}
		var b bytes.Buffer
		_, err = b.ReadFrom(resp.Body)
		ts.Check(errors.Join(err, resp.Body.Close()))
		if last = resp.Status + " " + b.String(); strconv.Itoa(resp.StatusCode) == args[0] {
			fmt.Fprint(ts.Stdout(), b.String())
			return
		}
	}
	ts.Fatalf("%s: want %s, last was %s", args[1], args[0], last)
}

// cmdCompare has the agent killed at one write of binding 0000:02:00.0, and
// holds the steps of the dry run against those that recover makes, and their
// number against the node's counter: crash-and-compare override before STEPS.
// It ends with the node booted anew.
func cmdCompare(ts *testscript.TestScript, _ bool, args []string) {
	const function = "0000:02:00.0"
	run := func(code string, args ...string) string {
		cmdExit(ts, false, append([]string{code, "agent"}, args...))
		return ts.ReadFile("stdout")
	}
	dump := func() string {
		for line := range strings.Lines(run("0", "sim", "show")) {
			if strings.HasPrefix(line, "function "+function) {
				return strings.TrimSpace(line)
			}
		}
		ts.Fatalf("no %s in the node", function)
		return ""
	}
	run("0", "sim", "fault", args[0], "--path", function, "--when", args[1], "--crash")
	cmdStart(ts, false, []string{"victim", "agent", "run", "--listen", ""})
	cmdEnded(ts, false, []string{"victim", "killed"})
	found, writes := dump(), strings.TrimSpace(run("0", "sim", "writes"))

	var dry, wet struct {
		Entries []struct {
			Decision, Outcome string
			Steps             []struct{ Kind, Target, From, To string }
		}
	}
	ts.Check(json.Unmarshal([]byte(run("3", "recover", "--dry-run", "-o", "json")), &dry))
	if dump() != found || strings.TrimSpace(run("0", "sim", "writes")) != writes {
		ts.Fatalf("the dry run wrote")
	}
	if len(dry.Entries) != 1 {
		ts.Fatalf("%d operations are open", len(dry.Entries))
	}
	ts.Check(json.Unmarshal([]byte(run("0", "recover", "--yes", "-o", "json")), &wet))
	var planned []string
	for _, step := range dry.Entries[0].Steps {
		planned = append(planned, fmt.Sprintf("kind=%s target=%s before=%q after=%q", step.Kind, step.Target, step.From, step.To))
	}
	var made []string
	for _, m := range stepMade.FindAllStringSubmatch(ts.ReadFile("stderr"), -1) {
		made = append(made, m[1])
	}
	if !slices.Equal(planned, made) {
		ts.Fatalf("planned\n%s\nmade\n%s", strings.Join(planned, "\n"), strings.Join(made, "\n"))
	}
	if wet.Entries[0].Decision != dry.Entries[0].Decision || wet.Entries[0].Outcome != "done" {
		ts.Fatalf("planned %v, reported %v", dry.Entries, wet.Entries)
	}
	if before, after := number(ts, writes), number(ts, run("0", "sim", "writes")); after-before != len(planned) {
		ts.Fatalf("%d writes for %d steps", after-before, len(planned))
	}
	if n := len(planned); len(args) > 2 && strconv.Itoa(n) != args[2] {
		ts.Fatalf("%d steps, want %s", n, args[2])
	}
	if now := dump(); !strings.Contains(now, ` driver=vfio-pci override="vfio-pci"`) {
		ts.Fatalf("left at %s", now)
	}
	run("0", "sim", "reboot")
}

var stepMade = regexp.MustCompile(`(?m) (kind=\S+ target=\S+ before=.* after=.*) attempt=.* msg="step made"$`)

func number(ts *testscript.TestScript, s string) int {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	ts.Check(err)
	return n
}

// cmdKeys holds the keys of the JSON on stdout against testdata/json/NAME.keys.
// The JSON is a contract that is only added to: a key that is gone breaks
// somebody's program. A "?" in the golden file marks a key that may be missing.
func cmdKeys(ts *testscript.TestScript, _ bool, args []string) {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	got := map[string]bool{}
	collect(v, "", got)
	w := worldOf(ts)
	path := filepath.Join(w.golden, args[0]+".keys")
	if w.update {
		ts.Check(os.WriteFile(path, []byte(strings.Join(slices.Sorted(maps.Keys(got)), "\n")+"\n"), 0o644))
		return
	}
	data, err := os.ReadFile(path)
	ts.Check(err)
	known := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		key, optional := strings.CutSuffix(strings.TrimSpace(line), "?")
		known[key] = true
		if !optional && !got[key] {
			ts.Fatalf("%s: %s is gone", args[0], key)
		}
	}
	for key := range got {
		if !known[key] {
			ts.Fatalf("%s: %s is new: add it to %s", args[0], key, path)
		}
	}
}

// collect notes the paths of all keys. Keys that are data are "*".
func collect(v any, at string, keys map[string]bool) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			collect(e, at+"[]", keys)
		}
	case map[string]any:
		for k, e := range v {
			if slices.Contains([]string{"want", "observed", "identity", "records"}, at[strings.LastIndexAny(at, ".]")+1:]) {
				k = "*"
			}
			keys[at+"."+k] = true
			collect(e, at+"."+k, keys)
		}
	}
}
