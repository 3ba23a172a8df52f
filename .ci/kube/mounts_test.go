package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// sysfsParts are what of the node a container of the agent may write, beside the state and the
// device plugin's directory: sysfs, without the file systems that are mounted in it.
func sysfsParts() []string { return []string{"/sys/bus", "/sys/devices", "/sys/module"} }

// exposed is what a container can do to the node by its mounts, and should not be able to.
func exposed(spec corev1.PodSpec, c corev1.Container, also ...string) (faults []string) {
	may := append(sysfsParts(), also...)
	seen := map[string]bool{}
	for _, v := range spec.Volumes {
		for _, m := range c.VolumeMounts {
			if v.HostPath == nil || m.Name != v.Name {
				continue
			}
			at := v.HostPath.Path
			seen[at] = true
			if m.MountPath != "/host"+at && !slices.Contains(also, m.MountPath) {
				faults = append(faults, at+" of the node is mounted at "+m.MountPath)
			}
			if !slices.Contains(may, at) {
				faults = append(faults, exposes(v.HostPath, m)...)
			}
		}
	}
	for _, at := range may {
		if !seen[at] {
			faults = append(faults, at+" of the node is not mounted")
		}
	}
	return faults
}

// exposes is what is wrong with one mount of what is only read.
func exposes(of *corev1.HostPathVolumeSource, m corev1.VolumeMount) (faults []string) {
	at, file := of.Path, of.Type != nil && *of.Type == corev1.HostPathFileOrCreate
	if slices.Contains([]string{"/", "/etc", "/run", "/var", "/var/lib", "/sys"}, at) {
		faults = append(faults, at+" of the node is mounted as a whole")
	}
	if !m.ReadOnly {
		faults = append(faults, at+" of the node can be written")
	}
	switch later := m.MountPropagation != nil; {
	case later && !strings.HasSuffix(at, "/netns"):
		faults = append(faults, "what is mounted below "+at+" of the node later comes through")
	case !later && !file && m.RecursiveReadOnly == nil:
		faults = append(faults, "what is mounted below "+at+" of the node can be written")
	}
	return faults
}

// TestBrokenMountsAreSeen: each of the manifest's mounts is needed to be as it is.
func TestBrokenMountsAreSeen(t *testing.T) {
	c := requireCluster(t)
	const state, plugin = "/var/lib/eniagent", "/etc/pcidp"
	sound := daemonSet(t, built(t, c, kustomization)).Spec.Template.Spec
	broken := func(name string, change func(*corev1.PodSpec)) {
		spec := sound.DeepCopy()
		change(spec)
		if len(exposed(*spec, spec.Containers[0], state, plugin)) == 0 {
			t.Errorf("%s passes", name)
		}
	}
	broken("the root of the node", func(s *corev1.PodSpec) {
		s.Volumes = append(s.Volumes, corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}})
		s.Containers[0].VolumeMounts = append(s.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "host", MountPath: "/host", ReadOnly: true})
	})
	for i, m := range sound.Containers[0].VolumeMounts {
		if m.ReadOnly {
			broken(m.Name+" writable", func(s *corev1.PodSpec) { s.Containers[0].VolumeMounts[i].ReadOnly = false })
		}
		if m.RecursiveReadOnly != nil {
			broken(m.Name+" not recursive", func(s *corev1.PodSpec) { s.Containers[0].VolumeMounts[i].RecursiveReadOnly = nil })
		}
	}
}

// ownFiles are paths in the source that are not the node's: of this process, of what the
// agent is told by a flag, and what only words of a message name.
func ownFiles() []string {
	return []string{"/proc/self", "/proc/thread-self", "/etc/eniagent", "/var/lib/eniagent", "/var/run/secrets", "/usr/share"}
}

// TestAllThatIsReadIsMounted: each path of a node that the source of the agent names is
// below a mount of its pod, or of the pod that adopts.
func TestAllThatIsReadIsMounted(t *testing.T) {
	c := requireCluster(t)
	var mounted []string
	for _, m := range daemonSet(t, built(t, c, with(t, "adopt"))).Spec.Template.Spec.InitContainers[0].VolumeMounts {
		if at, ok := strings.CutPrefix(m.MountPath, "/host"); ok {
			mounted = append(mounted, at)
		}
	}
	below := func(path string, dirs []string) bool {
		return slices.ContainsFunc(dirs, func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") })
	}
	found := 0
	for path, at := range namedPaths(t) {
		switch {
		case below(path, ownFiles()):
		case !below(path, mounted):
			t.Errorf("%s: %s of the node is not mounted", at, path)
		default:
			found++
		}
	}
	if found < 30 {
		t.Errorf("only %d paths were found in the source", found)
	}
	if below("/etc/shadow", mounted) || below("/run/containerd", mounted) {
		t.Error("more of the node is mounted than is read")
	}
}

// namedPaths are the literals of the program's source that look like a path of a node, and
// where each is.
func namedPaths(t *testing.T) map[string]string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Dir,GoFiles", "./cmd/agent")
	list.Dir = root
	out, err := list.Output()
	must(t, err)
	paths := map[string]string{}
	fset := token.NewFileSet()
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath, Dir string
			GoFiles         []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return paths
		} else if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(p.ImportPath, "eniagent/") || p.ImportPath == "eniagent/drivers/host/sim" {
			continue
		}
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, 0)
			must(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
					if path, ok := nodePath(l.Value); ok {
						paths[path] = fset.Position(l.Pos()).String()
					}
				}
				return true
			})
		}
	}
}

// nodePath is the path that a literal begins with.
func nodePath(literal string) (string, bool) {
	text, err := strconv.Unquote(literal)
	if err != nil || !strings.HasPrefix(text, "/") || strings.ContainsAny(text, " \n(|*") {
		return "", false
	}
	parts := strings.Split(strings.TrimSuffix(text, "/"), "/")
	if len(parts) < 3 || !slices.Contains([]string{"etc", "run", "usr", "lib", "dev", "proc", "sys", "var"}, parts[1]) {
		return "", false
	}
	path, _, _ := strings.Cut(strings.Join(parts, "/"), "/%")
	return path, strings.Count(path, "/") > 1
}

// TestWhatThePodCanWrite: with the mounts of its pod, nothing of the node can be written but
// sysfs, the state and the plugin's directory, whatever is mounted below what is read.
func TestWhatThePodCanWrite(t *testing.T) {
	c := requireCluster(t)
	for _, name := range []string{"unshare", "setpriv", "ldd", "findmnt"} {
		if _, err := exec.LookPath(name); err != nil || os.Geteuid() != 0 {
			t.Skipf("NOT TESTED IN THE POD'S VIEW: it needs root and %s", name)
		}
	}
	bin, err := program()
	must(t, err)
	spec := daemonSet(t, built(t, c, kustomization)).Spec.Template.Spec
	may := map[string]bool{}
	for _, at := range append(sysfsParts(), "/etc/pcidp") {
		may["/host"+at] = true
	}
	may["/var/lib/eniagent"] = true
	for _, readOnly := range []bool{false, true} {
		got := writable(t, spec, bin, readOnly)
		for at := range may {
			if slices.Contains(got, at) == readOnly {
				t.Errorf("all of it read-only: %t; %s can be written: %t", readOnly, at, !readOnly)
			}
		}
		for _, at := range got {
			if !may[at] {
				t.Errorf("%s can be written", at)
			}
		}
	}
	broken := spec.DeepCopy()
	for i := range broken.Containers[0].VolumeMounts {
		broken.Containers[0].VolumeMounts[i].RecursiveReadOnly = nil
	}
	if got := writable(t, *broken, bin, false); len(got) <= len(may) {
		t.Errorf("nothing is mounted below what is read on this machine, so this shows little: %v", got)
	}
}

// writable are the mounts of a view that can be written.
func writable(t *testing.T, spec corev1.PodSpec, bin string, readOnly bool) (all []string) {
	t.Helper()
	scratch := t.TempDir()
	text := view(spec, scratch, bin, readOnly)
	text = text[:strings.LastIndex(text, "exec chroot")] + fmt.Sprintf("findmnt -Rrno TARGET,VFS-OPTIONS %s/root\n", scratch)
	script := filepath.Join(scratch, "view")
	must(t, os.WriteFile(script, []byte(text), 0o600))
	out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "bash", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	top := map[string]string{} // one mount may cover another
	for line := range strings.Lines(string(out)) {
		at, options, _ := strings.Cut(strings.TrimSpace(line), " ")
		at = strings.TrimPrefix(at, scratch+"/root")
		top[at] = options
	}
	for at, options := range top {
		// What every runtime gives a container of its own is not the node's.
		own := at == "" || at == "/proc" || strings.HasPrefix(at, "/proc/") || at == "/dev/null"
		if !own && slices.Contains(strings.Split(options, ","), "rw") {
			all = append(all, at)
		}
	}
	return all
}
