package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// unreachable is a Kubernetes API at which nobody answers.
const unreachable = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

// lives are agents with all that an agent can have under way.
func lives(t *testing.T, n *simulated) map[string][]string {
	t.Helper()
	config := filepath.Join(n.dir, "kubeconfig")
	if err := os.WriteFile(config, []byte(unreachable), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string][]string{
		"file":       {"--listen", "127.0.0.1:0"},
		"kubernetes": {"--listen", "", "--source", "kubernetes", "--node-name", "n", "--kubeconfig", config, "--plugin-namespace", "kube-system"},
	}
}

// trial is an agent on a simulated node, that a service manager started.
type trial struct {
	t     *testing.T
	n     *simulated
	c     *exec.Cmd
	log   *buffer
	ended chan struct{}
}

func (n *simulated) live(t *testing.T, flags []string, env ...string) *trial {
	t.Helper()
	l := &trial{t: t, n: n, c: n.command(append([]string{"run"}, flags...)...), log: &buffer{}, ended: make(chan struct{})}
	l.c.Env = append(l.c.Env, append(env, "NOTIFY_SOCKET="+filepath.Join(n.dir, "nobody"))...)
	l.c.Stderr = l.log
	if err := l.c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.c.Process.Kill()
		<-l.ended
	})
	go func() {
		defer close(l.ended)
		_ = l.c.Wait()
	}()
	return l
}

func (l *trial) over() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// until waits for a condition of an agent that lives.
func (l *trial) until(what string, holds func() bool) {
	l.t.Helper()
	until(l.t, what, func() bool { return l.over() || holds() })
}

// lead has the agent do what it can: take on what is asked, give a function back by an
// order, and, where that is to end it, stop.
func (l *trial) lead(flush, stop bool) {
	l.t.Helper()
	l.until("all is as desired", func() bool {
		code, said := l.n.run("status")
		return code == 0 || strings.Contains(said, "NOT READABLE")
	})
	if flush { // it is the commit's that the release makes, if that comes first
		l.until("the journal is flushed", func() bool { return strings.Contains(l.log.String(), "began agent/journal/flush") })
	}
	if !l.over() {
		l.n.run("release", "0000:03:00.0", "--yes", "--reason", "bench")
	}
	if stop {
		_ = l.c.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	until(l.t, "it ends:\n"+l.log.String(), l.over)
}

// target is what tells one goroutine of a kind from another.
var target = regexp.MustCompile(` [^/]*([0-9a-f]{4}:[0-9a-f]{2}:|module/|links).*$`)

// TestAPanicOfAnyGoroutineEndsTheAgentInOrder: of each goroutine that an agent has, the
// panic is an error of that name, exit status 1, and the next agent brings all right.
func TestAPanicOfAnyGoroutineEndsTheAgentInOrder(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary, and lets many agents live")
	}
	binary := buildAgent(t, "crashpoint")
	want := []ask{{pci: "0000:02:00.0", driver: "vfio-pci"}, {pci: "0000:03:00.0", driver: "igb", mtu: 1400}}
	for name, flags := range lives(t, newSimulated(t, binary)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newSimulated(t, binary)
			n.desire(t, want...)
			l := n.live(t, flags, "ENIAGENT_PANIC=list")
			l.lead(name == "file", true)
			owners := map[string]string{}
			for _, m := range regexp.MustCompile(`(?m)^began (agent/.*)$`).FindAllStringSubmatch(l.log.String(), -1) {
				owners[target.ReplaceAllString(m[1], "")] = m[1]
			}
			for _, kind := range beginsWith(name) { // others begin by chance: an answer that comes late
				owner := owners[kind]
				if owner == "" {
					t.Errorf("no goroutine %s has begun:\n%s", kind, l.log)
					continue
				}
				t.Run(strings.ReplaceAll(kind, "/", " "), func(t *testing.T) {
					t.Parallel()
					n := newSimulated(t, binary)
					n.desire(t, want...)
					n.panics(t, flags, owner)
				})
			}
		})
	}
}

// panics has an agent panic in one goroutine, and the next one bring all right.
func (n *simulated) panics(t *testing.T, flags []string, owner string) {
	t.Helper()
	l := n.live(t, flags, "ENIAGENT_PANIC="+owner)
	l.lead(owner == "agent/journal/flush", owner == "agent/ending/deadline")
	if code := l.c.ProcessState.ExitCode(); code != exitError || !strings.Contains(l.log.String(), "panic in "+owner+": injected") {
		t.Errorf("it ended with %d:\n%s", code, l.log)
	}
	n.run("release", "--cancel", "0000:03:00.0", "--yes") // where it was ordered
	if problems := n.converge(t); len(problems) > 0 {
		t.Errorf("the next agent: %s", strings.Join(problems, "\n"))
	}
}

// beginsWith are the goroutines that there must be, so that the test shows something.
func beginsWith(source string) []string {
	all := []string{
		"signals", "reconcile", "writers", "journal", "notify", "socket", "ending/deadline", "writers/answer",
		"reconcile/aside/events", "reconcile/aside/simulated events",
	}
	switch source {
	case "file":
		all = append(all, "http", "journal/flush", "reconcile/worker", "reconcile/aside/file", "reconcile/aside/file watch")
	case "kubernetes":
		all = append(all, "reconcile/tell", "reconcile/plugin restarts", "reconcile/aside/kubernetes")
		for _, part := range []string{"nodeenis", "policies", "nodes", "status", "events"} {
			all = append(all, "reconcile/aside/kubernetes/"+part)
		}
	}
	for i := range all {
		all[i] = "agent/" + all[i]
	}
	return all
}

// TestEachGoroutineHasAnOwner: the dump that SIGQUIT makes of a running agent has no
// goroutine without one, but the runtime's own.
func TestEachGoroutineHasAnOwner(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	n := newSimulated(t, buildAgent(t))
	for name, flags := range lives(t, n) {
		t.Run(name, func(t *testing.T) {
			n := newSimulated(t, n.agent)
			n.desire(t, ask{pci: "0000:02:00.0", driver: "vfio-pci"})
			l := n.live(t, flags, "GODEBUG=tracebacklabels=1")
			l.until("it is up", func() bool { _, said := n.run("status"); return strings.Contains(said, "Mode reconcile") })
			if err := l.c.Process.Signal(syscall.SIGQUIT); err != nil {
				t.Fatal(err)
			}
			until(t, "it ends", l.over)
			owned, unowned := owners(l.log.String())
			if len(owned) < 8 {
				t.Errorf("only %d goroutines with an owner in:\n%s", len(owned), l.log)
			}
			for _, g := range unowned {
				t.Errorf("nobody owns\n%s", g)
			}
		})
	}
}

// TestBrokenGoroutineHasNoOwner: the reading of a dump above tells.
func TestBrokenGoroutineHasNoOwner(t *testing.T) {
	owned, unowned := owners("SIGQUIT: quit\n\ngoroutine 7 gp=0x1 m=nil [select labels:{\"owner\": \"agent/signals\"}]:\nmain.f()\ncreated by main.g in goroutine 1\n\n" +
		"goroutine 8 gp=0x2 m=nil [select]:\nmain.h()\n\t/x.go:1\ncreated by main.g in goroutine 1\n\n" +
		"goroutine 9 gp=0x3 m=nil [GC worker (idle)]:\ncreated by runtime.gcBgMarkStartWorkers in goroutine 24\n")
	if len(owned) != 1 || len(unowned) != 1 || !strings.HasPrefix(unowned[0], "goroutine 8 ") {
		t.Errorf("owned %q, not owned %q", owned, unowned)
	}
}

// owners reads a dump.
func owners(dump string) (owned, unowned []string) {
	for g := range strings.SplitSeq(dump, "\n\n") {
		head, _, _ := strings.Cut(g, "\n")
		switch {
		case !strings.HasPrefix(head, "goroutine "), strings.HasPrefix(head, "goroutine 0 "), strings.Contains(g, "\ncreated by runtime."):
		case strings.Contains(head, `"owner": "agent`):
			owned = append(owned, g)
		default:
			unowned = append(unowned, g)
		}
	}
	slices.Sort(owned)
	return owned, unowned
}
