package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const recoverScript = kustomization + "/recover.sh"

// rescue is how recover.sh ended, and what it printed.
type rescue struct {
	out, err string
	status   int
}

// recoverWith runs recover.sh with the kubectl of a directory.
func recoverWith(ctx context.Context, t *testing.T, dir string, env []string, args ...string) rescue {
	t.Helper()
	script, err := filepath.Abs(recoverScript)
	must(t, err)
	cmd := exec.CommandContext(ctx, script, args...)
	cmd.Env = append(os.Environ(), append(env, "PATH="+dir+":"+os.Getenv("PATH"))...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return rescue{out.String(), complaints.String(), cmd.ProcessState.ExitCode()}
}

// kubelet is as much of one as a pod needs that is only looked at: it answers
// for the log of a container.
func (c *cluster) kubelet(t *testing.T, node, log string) *kubernetes.Clientset {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if log == "" || !strings.HasPrefix(r.URL.Path, "/containerLogs/"+namespace+"/eniagent-recover-") {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, log)
	}))
	t.Cleanup(server.Close)
	api, err := kubernetes.NewForConfig(c.env.Config)
	must(t, err)
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	must(t, err)
	number, err := strconv.ParseInt(port, 10, 32)
	must(t, err)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
	n, err = api.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, api.CoreV1().Nodes().Delete(context.Background(), node, metav1.DeleteOptions{})) })
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}}
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(number)
	_, err = api.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{})
	must(t, err)
	return api
}

// takes waits for the pod of a node, and has it end so.
func takes(t *testing.T, api *kubernetes.Clientset, node string, end corev1.PodStatus) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	eventually(t, "there is a pod for "+node, func() bool {
		list, err := api.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String()})
		must(t, err)
		if len(list.Items) > 0 {
			pod = &list.Items[0]
		}
		return pod != nil
	})
	ended := pod.DeepCopy()
	ended.Status = end
	_, err := api.CoreV1().Pods(namespace).UpdateStatus(t.Context(), ended, metav1.UpdateOptions{})
	must(t, err)
	return pod
}

func terminated(status int32, reason string) corev1.PodStatus {
	s := corev1.PodStatus{Phase: corev1.PodFailed}
	if status == 0 {
		s.Phase = corev1.PodSucceeded
	}
	s.ContainerStatuses = []corev1.ContainerStatus{{Name: "agent", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: status, Reason: reason}}}}
	return s
}

// TestRecoverOnARealAPI: the pod is taken, is what the agent's pod is but for
// what it does, tells its report and its exit status, and is gone afterwards.
func TestRecoverOnARealAPI(t *testing.T) {
	c := requireCluster(t)
	c.deploy(t, built(t, c, kustomization))
	api := c.kubelet(t, "crash-looping", "1 operation is open. Nothing was touched.\n")
	ds := &appsv1.DaemonSet{}
	must(t, c.client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "eniagent"}, ds))
	env := []string{"KUBECONFIG=" + c.kubeconfig(t)}
	for _, tc := range []struct {
		name   string
		end    corev1.PodStatus
		status int
		out    string
		err    string
	}{
		{"nothing is unfinished", terminated(0, "Completed"), 0, "Nothing was touched", ""},
		{"something is", terminated(3, "Error"), 3, "Nothing was touched", ""},
		{"a person is needed", terminated(4, "Error"), 4, "Nothing was touched", ""},
		{"out of memory", terminated(137, "OOMKilled"), 137, "Nothing was touched", "OOMKilled"},
		{"the node refuses it", corev1.PodStatus{Phase: corev1.PodFailed, Reason: "OutOfmemory", Message: "no room"}, 1, "", "OutOfmemory no room"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			done := make(chan rescue)
			go func() { done <- recoverWith(t.Context(), t, c.assets, env, "crash-looping") }()
			pod := takes(t, api, "crash-looping", tc.end)
			got := <-done
			if got.status != tc.status || !strings.Contains(got.out, tc.out) || !strings.Contains(got.err, tc.err) || tc.err == "" && got.err != "" {
				t.Errorf("it ended with %+v, want %d", got, tc.status)
			}
			isTheAgents(t, pod, ds)
			// It was deleted; only a kubelet could let it go.
			left, err := api.CoreV1().Pods(namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
			if err == nil && left.DeletionTimestamp == nil || err != nil && !apierrors.IsNotFound(err) {
				t.Errorf("the pod is still there: %v", err)
			}
			if err == nil {
				must(t, api.CoreV1().Pods(namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
			}
		})
	}
}

// isTheAgents holds the pod that recovers against the one that it stands in for.
func isTheAgents(t *testing.T, pod *corev1.Pod, ds *appsv1.DaemonSet) {
	t.Helper()
	want := ds.Spec.Template.Spec
	got, a, b := pod.Spec, pod.Spec.Containers[0], want.Containers[0]
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	must(t, err)
	if selector.Matches(labels.Set(pod.Labels)) {
		t.Errorf("the DaemonSet takes the pod with %v for its own", pod.Labels)
	}
	for what, equal := range map[string]bool{
		"image": a.Image == b.Image && a.ImagePullPolicy == b.ImagePullPolicy, "environment": reflect.DeepEqual(a.Env, b.Env),
		"security context": reflect.DeepEqual(a.SecurityContext, b.SecurityContext), "resources": reflect.DeepEqual(a.Resources, b.Resources),
		"volumes": reflect.DeepEqual(got.Volumes, want.Volumes), "host": got.HostNetwork && got.HostPID,
		"service account": got.ServiceAccountName == want.ServiceAccountName && !*got.AutomountServiceAccountToken,
		"priority":        got.PriorityClassName == want.PriorityClassName, "restart policy": got.RestartPolicy == corev1.RestartPolicyNever,
		"its end": got.ActiveDeadlineSeconds != nil, "tolerations": slices.ContainsFunc(got.Tolerations, func(t corev1.Toleration) bool { return reflect.DeepEqual(t, want.Tolerations[0]) }),
	} {
		if !equal {
			t.Errorf("the pod has another %s than the agent's: %+v", what, got)
		}
	}
	var mounts []corev1.VolumeMount
	for _, m := range b.VolumeMounts {
		all := corev1.RecursiveReadOnlyIfPossible
		mounts = append(mounts, corev1.VolumeMount{Name: m.Name, MountPath: m.MountPath, ReadOnly: true, RecursiveReadOnly: &all})
	}
	if !reflect.DeepEqual(a.VolumeMounts, mounts) {
		t.Errorf("the pod mounts\n%+v\nwant\n%+v", a.VolumeMounts, mounts)
	}
	if args := []string{"recover", "--dry-run", "--output=table", "--root=/host", "--state-dir=/var/lib/eniagent", "--node-address=$(HOST_IP)"}; !slices.Equal(a.Args, args) {
		t.Errorf("it runs %q, want %q", a.Args, args)
	}
}

// TestRecoverWithoutAnAnswer: no report is never success, and what a real API
// says is told.
func TestRecoverWithoutAnAnswer(t *testing.T) {
	c := requireCluster(t)
	env := []string{"KUBECONFIG=" + c.kubeconfig(t)}
	c.kubelet(t, "silent", "")
	if got := recoverWith(t.Context(), t, c.assets, env, "silent"); got.status != 1 || !strings.Contains(got.err, "there is no DaemonSet eniagent in "+namespace) {
		t.Errorf("without a DaemonSet: %+v", got)
	}
	c.deploy(t, built(t, c, kustomization))
	if got := recoverWith(t.Context(), t, c.assets, env, "nowhere"); got.status != 1 || !strings.Contains(got.err, `nodes "nowhere" not found`) {
		t.Errorf("for a node that is not there: %+v", got)
	}
	if got := recoverWith(t.Context(), t, c.assets, env, "-t", "1", "silent"); got.status != 1 || !strings.Contains(got.err, "has not ended within 1 s") {
		t.Errorf("with nobody to run the pod: %+v", got)
	}
	api, err := kubernetes.NewForConfig(c.env.Config)
	must(t, err)
	left, err := api.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=eniagent-recover"})
	must(t, err)
	for _, p := range left.Items {
		if p.DeletionTimestamp == nil {
			t.Errorf("pod %s was left", p.Name)
		}
		must(t, api.CoreV1().Pods(namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	}
	done := make(chan rescue)
	go func() { done <- recoverWith(t.Context(), t, c.assets, env, "silent") }()
	pod := takes(t, api, "silent", terminated(0, "Completed"))
	if got := <-done; got.status != 1 || !strings.Contains(got.err, "its report cannot be read") {
		t.Errorf("without a report: %+v", got)
	}
	must(t, client.IgnoreNotFound(api.CoreV1().Pods(namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})))
}

// fakeKubectl answers as it is told: FAIL names the command that fails, and NOW
// is what there is to see of the pod. It notes what it is asked.
const fakeKubectl = `#!/usr/bin/env bash
echo "$*" >>"$ASKED"
case " $* " in
*" get node "*) verb=node ;;
*" get daemonset "*) verb=daemonset; printf 'image\nAlways\n{}\n{}\n[]\n[{}]\n[]\n\naccount\npriority\n{},\nrun\n--root=/host\n--state-dir=/a "b"\\c\n--observe=true\n' ;;
*" create "*) verb=create; cat >"$ASKED.pod"; echo pod/eniagent-recover-x ;;
*" get pod/"*) verb=get; printf '%s' "$NOW" ;;
*" logs "*) verb=logs; echo report ;;
*" delete "*) verb=delete ;;
esac
[ "$verb" != "$FAIL" ] || { echo "kubectl: no $verb" >&2; exit 1; }
`

// TestRecoverTellsTheTruth of all that can go wrong on the way.
func TestRecoverTellsTheTruth(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "kubectl"), []byte(fakeKubectl), 0o700)) //nolint:gosec // it is run
	for _, tc := range []struct {
		name, fail, now string
		args            []string
		status          int
		err             string
		deleted         bool
	}{
		{"all well", "", "Succeeded|0|Completed|| ", nil, 0, "", true},
		{"open operations", "", "Failed|3|Error|| ", nil, 3, "", true},
		{"a crash of the agent", "", "Failed|139|Error|| ", nil, 139, "ended with 139: Error", true},
		{"a panic of the agent", "", "Failed|2|Error|| ", nil, 2, "ended with 2: Error", true},
		{"wrong flags", "", "Failed|64|Error|| ", nil, 64, "", true},
		{"no node", "node", "", nil, 1, "node n cannot be read", false},
		{"no DaemonSet", "daemonset", "", nil, 1, "there is no DaemonSet", false},
		{"a pod of which nobody knows", "create", "", nil, 1, "the pod cannot be made", true},
		{"no image", "", "Pending|||ErrImagePull not found| ", []string{"-t", "1"}, 1, "ErrImagePull not found", true},
		{"an API that does not answer", "get", "", []string{"-t", "1"}, 1, "kubectl: no get", true},
		{"no report", "logs", "Succeeded|0|Completed|| ", nil, 1, "its report cannot be read", true},
		{"evicted", "", "Failed||||Evicted the node was low", nil, 1, "did not run the pod: Evicted", true},
		{"a pod that stays", "delete", "Succeeded|0|Completed|| ", nil, 1, "delete it yourself", true},
		{"a pod that stays, and open operations", "delete", "Failed|3|Error|| ", nil, 3, "delete it yourself", true},
		{"no such output", "", "", []string{"-o", "yaml"}, 64, "usage", false},
		{"no such patience", "", "", []string{"-t", "soon"}, 64, "usage", false},
		{"two nodes", "", "", []string{"m"}, 64, "usage", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked := filepath.Join(t.TempDir(), "asked")
			got := recoverWith(t.Context(), t, dir, []string{"ASKED=" + asked, "FAIL=" + tc.fail, "NOW=" + tc.now}, append(tc.args, "n")...)
			if got.status != tc.status || !strings.Contains(got.err, tc.err) || tc.err == "" && got.err != "" {
				t.Errorf("it ended with %+v, want %d and %q", got, tc.status, tc.err)
			}
			if (got.status == 0 || got.status == 3) && got.out != "report\n" {
				t.Errorf("it printed %q", got.out)
			}
			questions, err := os.ReadFile(asked)
			if err != nil && tc.status != 64 {
				t.Fatal(err)
			}
			if deleted := strings.Contains(string(questions), "delete pod/eniagent-recover-x"); deleted != tc.deleted {
				t.Errorf("deleted: %t, want %t, of\n%s", deleted, tc.deleted, questions)
			}
		})
	}
}

// TestRecoverPassesOnFlags, as they are, whatever is in them, and no others.
func TestRecoverPassesOnFlags(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "kubectl"), []byte(fakeKubectl), 0o700)) //nolint:gosec // it is run
	asked := filepath.Join(dir, "asked")
	got := recoverWith(t.Context(), t, dir, []string{"ASKED=" + asked, "FAIL=", "NOW=Succeeded|0|Completed|| "}, "-o", "json", "n")
	if got.status != 0 {
		t.Fatalf("it ended with %+v", got)
	}
	text, err := os.ReadFile(asked + ".pod")
	must(t, err)
	var args []any
	for _, o := range objects(t, string(text)) {
		containers := o.Object["spec"].(map[string]any)["containers"].([]any)
		args = containers[0].(map[string]any)["args"].([]any)
	}
	if want := []any{"recover", "--dry-run", "--output=json", "--root=/host", `--state-dir=/a "b"\c`}; !reflect.DeepEqual(args, want) {
		t.Errorf("it runs %q, want %q", args, want)
	}
}

// TestRecoverInterrupted: the pod is deleted all the same.
func TestRecoverInterrupted(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "kubectl"), []byte(fakeKubectl), 0o700)) //nolint:gosec // it is run
	asked := filepath.Join(dir, "asked")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan rescue)
	go func() {
		done <- recoverWith(ctx, t, dir, []string{"ASKED=" + asked, "FAIL=", "NOW=Running|||| "}, "n")
	}()
	eventually(t, "the pod is looked at", func() bool {
		text, err := os.ReadFile(asked)
		return err == nil && strings.Contains(string(text), "get pod/")
	})
	cancel()
	got := <-done
	text, err := os.ReadFile(asked)
	must(t, err)
	if got.status != 130 || !strings.Contains(string(text), "delete pod/eniagent-recover-x") {
		t.Errorf("it ended with %+v, asked\n%s", got, text)
	}
}

// TestTheScriptsAreClean, where there is a shellcheck.
func TestTheScriptsAreClean(t *testing.T) {
	bin, err := exec.LookPath("shellcheck")
	if err != nil {
		t.Skip("NOT CHECKED BY SHELLCHECK: it is not installed")
	}
	if out, err := ran(t, "", bin, "--severity=warning", recoverScript, "../helm", "../sizes"); err != nil {
		t.Errorf("%s\n%v", out, fmt.Errorf("shellcheck: %w", err))
	}
}
