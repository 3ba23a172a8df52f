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
			s.WriteString(mounted(*v.HostPath, m, scratch, readOnly))
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

// mounted are the lines that make one mount of a view.
func mounted(of corev1.HostPathVolumeSource, m corev1.VolumeMount, scratch string, readOnly bool) string {
	var s strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	from, to := of.Path, scratch+"/root"+m.MountPath
	if strings.HasSuffix(string(*of.Type), "OrCreate") {
		from = scratch + "/node" + from
	}
	if *of.Type == corev1.HostPathFileOrCreate {
		line("mkdir -p $(dirname %s %s); touch %s %s", from, to, from, to)
	} else {
		line("mkdir -p %s %s", from, to)
	}
	line("mount --rbind %s %s; mount --make-rslave %s", from, to, to)
	switch {
	case readOnly || m.ReadOnly && m.RecursiveReadOnly != nil:
		line("findmnt -Rrno TARGET %s | while read -r m; do mount -o remount,ro,bind $m; done", to)
	case m.ReadOnly:
		line("mount -o remount,ro,bind %s", to)
	}
	return s.String()
}

// sandbox runs commands of the agent in the view of its pod.
type sandbox struct {
	t            *testing.T
	spec         corev1.PodSpec
	scratch, bin string
}

func (s sandbox) command(readOnly bool, args ...string) *exec.Cmd {
	s.t.Helper()
	script := filepath.Join(s.t.TempDir(), "view")
	must(s.t, os.WriteFile(script, []byte(view(s.spec, s.scratch, s.bin, readOnly)), 0o600))
	cmd := exec.CommandContext(s.t.Context(), "unshare", append([]string{"--mount", "--propagation", "private", "bash", script, "/agent"}, args...)...)
	cmd.Env = append(os.Environ(), "NODE_NAME="+here)
	return cmd
}

// says wants a command to end with a status, and to print something.
func (s sandbox) says(readOnly bool, status int, want string, args ...string) {
	s.t.Helper()
	cmd := s.command(readOnly, args...)
	out, _ := cmd.CombinedOutput() // how it ended is looked at
	if got := cmd.ProcessState.ExitCode(); got != status || !strings.Contains(string(out), want) {
		s.t.Errorf("agent %v ended with %d, want %d and %q\n%s", args, got, status, want, out)
	}
}

// start starts the agent with the arguments of its container and these, and
// waits until it answers.
func (s sandbox) start(more ...string) (kill func()) {
	s.t.Helper()
	var args []string
	for _, arg := range append(s.spec.Containers[0].Args, more...) {
		args = append(args, strings.ReplaceAll(arg, "$(HOST_IP)", "127.0.0.1"))
	}
	cmd := s.command(false, args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	must(s.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	eventually(s.t, "the agent answers", func() bool {
		select {
		case err := <-ended:
			s.t.Fatalf("the agent ended: %v\n%s", err, &log)
		default:
		}
		return s.command(true, "status", "--wait", "1s").Run() == nil
	})
	return func() {
		must(s.t, cmd.Process.Kill())
		if err := <-ended; err == nil {
			s.t.Error("it ended well, though it was killed")
		}
	}
}

// TestThePodsView: with the mounts, the capabilities, the arguments and the token
// of its pod the agent finds this machine's functions, takes its journal, reaches
// the API and is ready; and recover.sh's pod, in which all is read-only, can be
// told everything and write nothing.
func TestThePodsView(t *testing.T) {
	c := requireCluster(t)
	for _, name := range []string{"unshare", "setpriv", "ldd", "findmnt"} {
		if _, err := exec.LookPath(name); err != nil || os.Geteuid() != 0 {
			t.Skipf("NOT TESTED IN THE POD'S VIEW: it needs root and %s", name)
		}
	}
	bin, err := program()
	must(t, err)
	s := sandbox{t: t, spec: daemonSet(t, built(t, c, kustomization)).Spec.Template.Spec, scratch: t.TempDir(), bin: bin}
	machine, err := ran(t, "", bin, "inventory")
	must(t, err)
	s.says(false, 0, machine, "inventory", "--root=/host")
	s.says(true, 7, "read-only", "run", "--root=/host", "--listen=")
	c.node(t, here, "view")
	_, config := asTheAgent(t, c)
	const kubeconfig = "/var/lib/eniagent/kubeconfig" // the pod sees nothing else that a test may write
	must(t, os.WriteFile(s.scratch+"/node"+kubeconfig, leading(config.Host, config.CAData, config.BearerToken), 0o600))
	kill := s.start("--kubeconfig="+kubeconfig, "--listen=") // another agent may have the port
	s.says(true, 0, "Mode observe", "status")
	const nothing = "Nothing was left unfinished"
	s.says(true, 0, nothing, "recover", "--dry-run", "--root=/host")
	kill()
	s.says(true, 0, nothing, "recover", "--dry-run", "--root=/host")
	s.spec = daemonSet(t, built(t, c, with(t, "adopt"))).Spec.Template.Spec
	s.spec.Containers = s.spec.InitContainers
	s.says(false, 0, "", s.spec.Containers[0].Args...) // this machine's functions are its kernel's
}
