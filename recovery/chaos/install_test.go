//go:build linux

package chaos

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// staging is a directory that is installed into, as a package's build does.
type staging struct {
	t      *testing.T
	root   string
	binary string
}

func newStaging(t *testing.T) staging {
	t.Helper()
	s := staging{t: t, root: t.TempDir(), binary: filepath.Join(t.TempDir(), "agent")}
	must(t, Build(t.Context(), "eniagent/cmd/agent", s.binary))
	return s
}

// tool runs install.sh and wants that exit status.
func (s staging) tool(code int, verb string, env ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "../../deploy/systemd/install.sh", verb)
	cmd.Env = append(os.Environ(), append(env, "DESTDIR="+s.root, "BINARY="+s.binary)...)
	said, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		s.t.Fatalf("install.sh %s: want exit status %d, got %v:\n%s", verb, code, err, said)
	}
	return string(said)
}

func (s staging) files() (names []string) {
	s.t.Helper()
	must(s.t, filepath.WalkDir(s.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, strings.TrimPrefix(path, s.root))
		}
		return err
	}))
	return names
}

func (s staging) want(names ...string) {
	s.t.Helper()
	if got := s.files(); !slices.Equal(got, names) {
		s.t.Errorf("installed are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(names, "\n"))
	}
}

func (s staging) agent(args ...string) *exec.Cmd {
	return exec.CommandContext(s.t.Context(), s.binary, append(args, "--simulate", "--state-dir", s.root+"/var/lib/eniagent")...)
}

func TestInstallLaysAndTakesOff(t *testing.T) {
	s := newStaging(t)
	const unitFile, config = "/usr/local/lib/systemd/system/eniagent.service", "/etc/eniagent/interfaces.yaml"
	said := s.tool(0, "install")
	if !strings.Contains(said, "Next: cp "+config+".example "+config) {
		t.Errorf("install does not tell what is next:\n%s", said)
	}
	s.want(config+".example", installed, unitFile)
	if said, err := s.agent("validate", s.root+config+".example").CombinedOutput(); err != nil {
		t.Errorf("the example is not valid: %v\n%s", err, said)
	}

	must(t, os.WriteFile(s.root+config, []byte("mine"), 0o600))
	if said := s.tool(0, "install"); !strings.Contains(said, "Next: systemctl enable --now eniagent\n") {
		t.Errorf("install over a configuration:\n%s", said)
	}
	s.tool(0, "uninstall")
	s.want(config)
	if text, err := os.ReadFile(s.root + config); err != nil || string(text) != "mine" {
		t.Errorf("the configuration is now %q, %v", text, err)
	}

	s.tool(0, "install", "PREFIX=/opt/eniagent")
	s.want(config, config+".example", "/etc/systemd/system/eniagent.service", "/opt/eniagent/bin/agent")
	text, err := os.ReadFile(s.root + "/etc/systemd/system/eniagent.service")
	must(t, err)
	if !strings.Contains(string(text), "\nExecStart=/opt/eniagent/bin/agent run ") {
		t.Errorf("the unit does not start what was installed:\n%s", text)
	}
	s.tool(0, "uninstall", "PREFIX=/opt/eniagent")
	s.want(config)
}

// TestUninstallKeepsWhatIsTaken: the journal is what a release is made from, so it is not removed before.
func TestUninstallKeepsWhatIsTaken(t *testing.T) {
	s := newStaging(t)
	s.tool(0, "install")
	journal := s.root + "/var/lib/eniagent/journal/journal.db"
	must(t, os.MkdirAll(s.root+"/var/lib", 0o755))
	s.runs(func() {
		if said := s.tool(1, "uninstall"); !strings.Contains(said, "held by") {
			t.Errorf("uninstall under a running agent:\n%s", said)
		}
	})
	if said := s.tool(1, "uninstall"); !strings.Contains(said, installed+" release --all") || !strings.Contains(said, "FORCE=1") {
		t.Errorf("uninstall with functions taken:\n%s", said)
	}
	if said := s.tool(0, "uninstall", "FORCE=1"); !strings.Contains(said, "The journal is still in ") {
		t.Errorf("uninstall by force:\n%s", said)
	}
	_, err := os.Stat(journal)
	must(t, err)

	s.tool(0, "install")
	if said, err := s.agent("release", "--all", "--yes").CombinedOutput(); err != nil {
		t.Fatalf("release --all: %v\n%s", err, said)
	}
	s.tool(0, "uninstall")
	s.want()
}

// runs has a simulated agent take two functions, calls during, and stops it.
func (s staging) runs(during func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	run := s.agent("run", "--listen", "")
	cmd := exec.CommandContext(ctx, run.Path, run.Args[1:]...)
	must(s.t, cmd.Start())
	if said, err := s.agent("status", "--wait", "30s").CombinedOutput(); err != nil {
		s.t.Errorf("status: %v\n%s", err, said)
	}
	during()
	must(s.t, cmd.Process.Signal(syscall.SIGTERM))
	must(s.t, cmd.Wait())
}

// TestInstallBuildsWhatIsStale: after a pull, what is installed is built from what
// was pulled, or nothing is; what is up to date needs neither Go nor git.
func TestInstallBuildsWhatIsStale(t *testing.T) {
	repo := t.TempDir()
	script, err := os.ReadFile("../../deploy/systemd/fresh.sh")
	must(t, err)
	write := func(name, content string, mode fs.FileMode) {
		path := filepath.Join(repo, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(content), mode))
	}
	at := func(name string, hour int) {
		when := time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC)
		must(t, os.Chtimes(filepath.Join(repo, name), when, when))
	}
	write("deploy/systemd/fresh.sh", string(script), 0o755)
	write("go.mod", "module x\n", 0o644)
	write("agent/x.go", "package agent\n", 0o644)
	write("agent/x_test.go", "package agent\n", 0o644)
	write("bin/agent", "old", 0o755)
	builds := func(recipe string) { write("Makefile", "build:\n\t@"+recipe+"\n", 0o644) }
	run := func(want string, code int, env ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(repo, "deploy/systemd/fresh.sh"))
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SUDO_USER=") }), env...)
		said, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
			t.Fatalf("exit status %v, want %d:\n%s", err, code, said)
		}
		if is, err := os.ReadFile(filepath.Join(repo, "bin/agent")); err != nil || string(is) != want {
			t.Errorf("bin/agent is %q (%v), want %q", is, err, want)
		}
		return string(said)
	}
	for _, name := range []string{"go.mod", "agent/x.go"} {
		at(name, 1)
	}
	at("bin/agent", 2)
	at("agent/x_test.go", 3) // no part of it
	builds("false")
	run("old", 0)
	at("agent/x.go", 3) // a pull
	if said := run("old", 1); !strings.Contains(said, "older than ./agent/x.go") || !strings.Contains(said, "make build && sudo make install") {
		t.Errorf("it said:\n%s", said)
	}
	if said := run("old", 0, "STALE=1"); !strings.Contains(said, "as it is") {
		t.Errorf("it said:\n%s", said)
	}
	builds("printf new >$(OUT)")
	run("new", 0)
	run("new", 0)
}
