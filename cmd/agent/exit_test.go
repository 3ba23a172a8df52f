package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"eniagent/agent"
	"eniagent/journal"
)

// fullWriter is a file on a full disk.
type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestExitCode(t *testing.T) {
	table, object := &cli{streams: streams{out: fullWriter{}}}, &cli{streams: streams{out: fullWriter{}}, output: "json"}
	wrapped := func(err error) error { return fmt.Errorf("open journal: %w", err) }
	for _, tc := range []struct {
		name string
		err  error
		want int
	}{
		{"none", nil, 0},
		{"any other", errors.New("boom"), 1},
		{"no journal", wrapped(journal.ErrNotExist), 1},
		{"unknown operation", wrapped(journal.ErrUnknown), 1},
		{"usage", usage(errors.New("no such flag")), 64},
		{"flags", &agent.UsageError{Err: errors.New("--interval 1ms")}, 64},
		{"flags, wrapped", wrapped(&agent.UsageError{Err: errors.New("--interval 1ms")}), 64},
		{"flags about a place", &agent.UsageError{Err: fs.ErrPermission}, 64},
		{"cobra's unknown command", errors.New(`unknown command "x" for "agent"`), 64},
		{"pending", errPending, 3},
		{"human", errHuman, 4},
		{"human and pending", errors.Join(errPending, errHuman), 4},
		{"locked", wrapped(journal.ErrLocked), 5},
		{"corrupt", wrapped(journal.ErrCorrupt), 6},
		{"newer", wrapped(journal.ErrNewer), 6},
		{"newer and damaged", errors.Join(journal.ErrCorrupt, journal.ErrNewer), 6},
		{"permission", wrapped(journal.ErrPermission), 7},
		{"permission of the system", wrapped(fs.ErrPermission), 7},
		{"unsafe", wrapped(journal.ErrUnsafe), 7},
		{"what is printed to is full", table.print(nil, func(w io.Writer) { fmt.Fprint(w, "x") }), 1},
		{"the same, for machines", object.print(nil, nil), 1},
		{"read-only", wrapped(journal.ErrReadOnly), 7},
		{"no space", wrapped(journal.ErrNoSpace), 7},
		{"no space of the system", wrapped(syscall.ENOSPC), 7},
		{"quota", wrapped(syscall.EDQUOT), 7},
		{"read-only file system", wrapped(syscall.EROFS), 7},
		{"a stop that left something", wrapped(agent.ErrNotGivenBack), 8},
		{"the same, and the journal's disk is full", errors.Join(agent.ErrNotGivenBack, journal.ErrNoSpace), 7},
		{"interrupted", wrapped(context.Canceled), 130},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := exitCode(tc.err); got != tc.want {
				t.Errorf("%v: got %d, want %d", tc.err, got, tc.want)
			}
		})
	}
}

// The help of the program documents each exit code, and no other.
func TestExitCodesAreDocumented(t *testing.T) {
	codes, documented := declaredCodes(t), documentedCodes(t)
	if len(codes) != 10 {
		t.Errorf("%d exit codes found in exit.go: %v", len(codes), codes)
	}
	codes["2"] = "the Go runtime's"
	for code, name := range codes {
		if !documented[code] {
			t.Errorf("%s, %s, is not in the help", code, name)
		}
		delete(documented, code)
	}
	if len(documented) > 0 {
		t.Errorf("documented and not there: %v", documented)
	}
}

// declaredCodes are the constants of exit.go, by value.
func declaredCodes(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "exit.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			if i < len(spec.Values) && strings.HasPrefix(name.Name, "exit") {
				if value, ok := spec.Values[i].(*ast.BasicLit); ok && value.Kind == token.INT {
					codes[value.Value] = name.Name
				}
			}
		}
		return true
	})
	return codes
}

func documentedCodes(t *testing.T) map[string]bool {
	t.Helper()
	_, status, found := strings.Cut(help(t), "Exit status:\n")
	if !found {
		t.Fatal("the help has no exit status")
	}
	status, _, _ = strings.Cut(status, "\nUsage:")
	documented := map[string]bool{}
	for line := range strings.Lines(status) {
		first, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if _, err := strconv.Atoi(first); err == nil {
			documented[first] = true
		}
	}
	return documented
}

func help(t *testing.T) string {
	t.Helper()
	code, out, errs := command(t, "--help")
	if code != 0 || errs != "" {
		t.Fatalf("--help: %d %s", code, errs)
	}
	return out
}

// command runs one command line in this process, with nobody at its terminal.
func command(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	var o, e bytes.Buffer
	code = execute(context.Background(), args, streams{in, &o, &e})
	return code, o.String(), e.String()
}

// Every command and every flag says what it is for, in the same way.
func TestEverythingIsDescribed(t *testing.T) {
	root := (&cli{options: agent.DefaultOptions()}).root()
	seen := 0
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
		check := func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s --%s: described as %q", cmd.CommandPath(), f.Name, f.Usage)
			}
		}
		cmd.Flags().VisitAll(check)
		cmd.PersistentFlags().VisitAll(check)
		if cmd.Hidden {
			return
		}
		seen++
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || cmd.Short[:1] != strings.ToUpper(cmd.Short[:1]) {
			t.Errorf("%s: described as %q", cmd.CommandPath(), cmd.Short)
		}
	}
	visit(root)
	if seen < 20 {
		t.Errorf("only %d commands", seen)
	}
	for _, name := range []string{"run", "plan", "status", "recover", "journal", "validate", "inventory", "version", "completion"} {
		if !strings.Contains(help(t), "\n  "+name+" ") {
			t.Errorf("agent %s is not in the help", name)
		}
	}
}

// All that is wrong with the flags is told at once: flag, value, remedy.
func TestAllFlagsAtOnce(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	open := filepath.Join(dir, "open.yaml")
	for _, err := range []error{
		os.Symlink(dir, link), os.WriteFile(open, nil, 0o600), os.Chmod(open, 0o666),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	code, out, errs := command(t, "run", "-o", "xml", "--interval", "999ms", "--shutdown-timeout", "11m", "--write-timeout", "0s",
		"--lock-timeout", "-1s", "--config", open, "--state-dir", filepath.Join(link, "below"), "--root", "a/../b", "--listen", "127.0.0.1:99999",
		"--log-level", "loud", "--log-format", "xml", "--simulate-state", "/a/../b", "--node-address", "10.0.0.5,node7")
	if code != 64 || out != "" {
		t.Errorf("exit code %d, output %q", code, out)
	}
	for _, want := range []string{
		"--output xml: want table or json",
		"--interval 999ms: want 1s to 10m0s",
		"--shutdown-timeout 11m0s: want 1s to 10m0s",
		"--write-timeout 0s: want 1s to 10m0s",
		"--lock-timeout -1s: want 0s to 10m0s",
		"--config " + open + ": can be written by others (mode 0666): chmod go-w " + open,
		"--state-dir " + filepath.Join(link, "below") + ": " + link + " is a symbolic link: give the path it leads to",
		"--root " + filepath.Join(here, "a") + "/../b: want a path without",
		"--simulate-state /a/../b: want a path without",
		"--listen 127.0.0.1:99999: want host:port, such as 127.0.0.1:9810, or nothing",
		"--node-address node7: want an IP address, such as 10.0.0.5 or fd00::5",
		"--log-level loud: want one of debug, info, warn, error",
		"--log-format xml: want one of logfmt, json",
	} {
		if !strings.Contains("\n"+errs, "\nagent: "+want) {
			t.Errorf("not told: %s", want)
		}
	}
	if n := strings.Count(errs, "\n"); n != 13 {
		t.Errorf("%d lines, want 13:\n%s", n, errs)
	}
}

func TestFlagEdges(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	good := func() agent.Options {
		o := agent.DefaultOptions()
		o.StateDir, o.ConfigFile = filepath.Join(dir, "state"), filepath.Join(dir, "config.yaml")
		return o
	}
	if err := good().Validate(); err != nil {
		t.Fatalf("the defaults: %v", err)
	}
	for name, tc := range map[string]struct {
		set  func(*agent.Options)
		want string
	}{
		"interval low":  {func(o *agent.Options) { o.Interval = 1e9 }, ""},
		"interval high": {func(o *agent.Options) { o.Interval = 600e9 }, ""},
		"interval more": {func(o *agent.Options) { o.Interval = 600e9 + 1 }, "--interval 10m0.000000001s: want 1s to 10m0s"},
		"no listen":     {func(o *agent.Options) { o.Listen = "" }, ""},
		"any address":   {func(o *agent.Options) { o.Listen = ":0" }, ""},
		"IPv6":          {func(o *agent.Options) { o.Listen = "[::1]:9810" }, ""},
		"no port":       {func(o *agent.Options) { o.Listen = "localhost" }, "--listen localhost: want host:port"},
		"empty port":    {func(o *agent.Options) { o.Listen = "localhost:" }, "--listen localhost:: want host:port"},
		"no config":     {func(o *agent.Options) { o.ConfigFile = "" }, "--config : want an absolute path"},
		"config a dir":  {func(o *agent.Options) { o.ConfigFile = dir }, "is not a file"},
		"long state dir": {
			func(o *agent.Options) { o.StateDir = "/" + strings.Repeat("x", 97) },
			"is 2 bytes too long for the control socket in it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := good()
			tc.set(&o)
			err := o.Validate()
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// An error is one line for people and one object for machines, also when the
// command line itself cannot be understood.
func TestErrorsInJSON(t *testing.T) {
	for _, args := range [][]string{
		{"bogus", "-o", "json"}, {"run", "--bogus", "--output=json"}, {"-ojson", "journal", "bogus"}, {"plan", "extra", "--output", "json"},
	} {
		code, out, errs := command(t, args...)
		if code != 64 || out != "" || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, `{"error":"`) || !strings.HasSuffix(errs, "\"exit_code\":64}\n") {
			t.Errorf("%v: %d %q %q", args, code, out, errs)
		}
	}
}

func TestCompletionAndVersion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, out, errs := command(t, "completion", shell); code != 0 || !strings.Contains(out, "completion") || errs != "" {
			t.Errorf("completion %s: %d %q", shell, code, errs)
		}
	}
	if code, out, _ := command(t, "version"); code != 0 || !strings.HasPrefix(out, "agent devel (go1.") {
		t.Errorf("version: %d %q", code, out)
	}
}

// The binary that is shipped has no hook that a crash test could pull; the one
// that is built for crash tests has.
func TestShippedBinaryHasNoCrashHook(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary twice")
	}
	for _, tags := range []string{"", "crashpoint"} {
		binary := filepath.Join(t.TempDir(), "agent")
		if out, err := exec.Command("go", "build", "-tags", tags, "-o", binary, ".").CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
		data, err := os.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		if has := bytes.Contains(data, []byte("ENIAGENT_CRASH")); has != (tags != "") {
			t.Errorf("built with -tags %q: has ENIAGENT_CRASH is %t", tags, has)
		}
	}
}
