package kube

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// view makes a shell script that runs a command in what a kubelet would make of
// a container on this machine: its mounts, its capabilities, its read-only root;
// not its seccomp profile and its control groups. Directories of the node that
// are made for the agent are below scratch, and not the machine's.
func view(spec corev1.PodSpec, scratch, bin string, readOnly bool) string {
	var s strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	container, at := spec.Containers[0], scratch+"/root"
	line("set -eu; mkdir -p %s; mount -t tmpfs none %s; mkdir -p %s/proc; cp %s %s/agent", at, at, at, bin, at)
	// Nothing else can drop capabilities once the root is another.
	line("for f in $(command -v setpriv) $(ldd $(command -v setpriv) | grep -o '/[^ ]*'); do mkdir -p %s${f%%/*}; cp -L $f %s$f; done", at, at)
	line("mount --rbind /proc %s/proc", at)
	line("mkdir %s/dev; touch %s/dev/null; mount --bind /dev/null %s/dev/null", at, at, at) // as every runtime does
	for _, m := range container.VolumeMounts {
		for _, v := range spec.Volumes {
			if v.Name != m.Name {
				continue
			}
			from, to := v.HostPath.Path, at+m.MountPath
			if *v.HostPath.Type == corev1.HostPathDirectoryOrCreate {
				from = scratch + "/node" + from
				line("mkdir -p %s", from)
			}
			if strings.HasPrefix(m.MountPath, "/host/etc/") {
				line("mount -t tmpfs none %s/host/etc", at) // a machine that is no node has no such directory
			}
			line("mkdir -p %s; mount --rbind %s %s; mount --make-rslave %s", to, from, to, to)
			if m.ReadOnly || readOnly {
				line("mount -o remount,ro,bind %s", to)
			}
		}
	}
	var keep []string
	for _, c := range container.SecurityContext.Capabilities.Add {
		keep = append(keep, "+"+strings.ToLower(string(c)))
	}
	line("mount -o remount,ro %s", at)
	line(`exec chroot %s $(command -v setpriv) --no-new-privs --inh-caps=-all --bounding-set=-all,%s -- "$@"`, at, strings.Join(keep, ","))
	return s.String()
}

// TestThePodsView: with the mounts and the capabilities of its pod the agent
// finds this machine's functions, takes its journal and answers; and recover.sh's
// pod, in which all is read-only, can be told everything and write nothing.
func TestThePodsView(t *testing.T) {
	c := requireCluster(t)
	for _, name := range []string{"unshare", "setpriv", "ldd"} {
		if _, err := exec.LookPath(name); err != nil || os.Geteuid() != 0 {
			t.Skipf("NOT TESTED IN THE POD'S VIEW: it needs root and %s", name)
		}
	}
	spec := daemonSet(t, built(t, c, kustomization)).Spec.Template.Spec
	scratch := t.TempDir()
	bin := buildAgent(t)
	inside := func(readOnly bool, args ...string) *exec.Cmd {
		script := filepath.Join(t.TempDir(), "view")
		must(t, os.WriteFile(script, []byte(view(spec, scratch, bin, readOnly)), 0o600))
		return exec.CommandContext(t.Context(), "unshare", append([]string{"--mount", "--propagation", "private", "bash", script, "/agent"}, args...)...)
	}
	say := func(readOnly bool, args ...string) (string, int) {
		t.Helper()
		cmd := inside(readOnly, args...)
		out, _ := cmd.CombinedOutput() // how it ended is looked at
		return string(out), cmd.ProcessState.ExitCode()
	}
	want, err := ran(t, "", bin, "inventory")
	must(t, err)
	if out, status := say(false, "inventory", "--root=/host"); out != want || status != 0 {
		t.Errorf("in the pod's view there is, ending with %d,\n%s\nand on the machine\n%s", status, out, want)
	}
	if out, status := say(true, "run", "--root=/host", "--listen="); status != 7 {
		t.Errorf("with a state directory that is read-only it ended with %d:\n%s", status, out)
	}
	var args []string
	flags := runFlags(t)
	for _, arg := range spec.Containers[0].Args {
		flag, _, _ := strings.Cut(arg, "=")
		if arg = strings.ReplaceAll(arg, "$(HOST_IP)", "127.0.0.1"); flag == "--listen" {
			arg = "--listen=" // another agent may be there
		}
		if _, known := flags[flag]; known || flag == "run" {
			args = append(args, arg)
		}
	}
	running := inside(false, args...)
	var log bytes.Buffer
	running.Stdout, running.Stderr = &log, &log
	must(t, running.Start())
	ended := make(chan error, 1)
	go func() { ended <- running.Wait() }()
	socket := filepath.Join(scratch, "node/var/lib/eniagent/agent.sock")
	eventually(t, "the agent answers", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("the agent ended: %v\n%s", err, &log)
		default:
		}
		_, err := os.Stat(socket)
		return err == nil
	})
	if out, _ := say(true, "status"); !strings.Contains(out, "Mode observe") {
		t.Errorf("of the running agent status says\n%s", out)
	}
	if out, status := say(true, "recover", "--dry-run", "--root=/host"); status != 0 || !strings.Contains(out, "Nothing was left unfinished") {
		t.Errorf("with the agent running recover --dry-run ended with %d:\n%s", status, out)
	}
	must(t, running.Process.Kill())
	if err := <-ended; err == nil {
		t.Error("it ended well, though it was killed")
	}
	if out, status := say(true, "recover", "--dry-run", "--root=/host"); status != 0 || !strings.Contains(out, "Nothing was left unfinished") {
		t.Errorf("after a crash of the agent recover --dry-run ended with %d:\n%s", status, out)
	}
}
