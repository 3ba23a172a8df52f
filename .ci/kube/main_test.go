// Package kube holds the source of desired state against a real Kubernetes API.
package kube

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	policyv1alpha1 "eniagent/agent/source/nodeeni/policy/v1alpha1"
	"eniagent/agent/source/nodeeni/v1alpha1"
)

// requireVar makes a missing part a failure: CI must not pass because it tested nothing.
const requireVar = "ENIAGENT_REQUIRE_KUBE"

const (
	root = "../.."
	crds = root + "/deploy/kubernetes/crds"
)

// cluster is the one API that the tests use in turn.
type cluster struct {
	env    *envtest.Environment
	client client.Client
	assets string
	server *exec.Cmd // one that was started again
}

// It outlives every test, so it cannot be a local of one.
//
//nolint:gochecknoglobals // see above
var shared struct {
	*cluster
	err error
}

func TestMain(m *testing.M) {
	log.SetLogger(klog.Background())
	shared.cluster, shared.err = start()
	code := m.Run()
	if shared.cluster != nil {
		shared.stop()
	}
	if binary.path != "" {
		_ = os.RemoveAll(filepath.Dir(binary.path))
	}
	os.Exit(code)
}

// requireCluster skips, or fails where an API is required, when there cannot be one.
func requireCluster(t *testing.T) *cluster {
	t.Helper()
	if shared.err != nil {
		if os.Getenv(requireVar) == "1" {
			t.Fatalf("%s=1, but: %v", requireVar, shared.err)
		}
		t.Skipf("NOT TESTED ON A REAL KUBERNETES API: %v", shared.err)
	}
	return shared.cluster
}

// find is where the programs are.
func find() (string, error) {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		return dir, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	parts, err := os.ReadFile(filepath.Join(cache, "eniagent/kube/parts"))
	if err != nil {
		return "", fmt.Errorf("%w: run .ci/kube-deps", err)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(parts), "ASSETS=")), nil
}

func start() (*cluster, error) {
	assets, err := find()
	if err != nil {
		return nil, err
	}
	c := &cluster{assets: assets, env: &envtest.Environment{
		BinaryAssetsDirectory: assets, CRDDirectoryPaths: []string{crds}, ErrorIfCRDPathMissing: true,
		ControlPlaneStartTimeout: 2 * time.Minute, ControlPlaneStopTimeout: time.Minute,
	}}
	config, err := c.env.Start()
	if err != nil {
		return nil, fmt.Errorf("start a Kubernetes API: %w", err)
	}
	config.QPS = -1
	known := runtime.NewScheme()
	known.AddKnownTypes(v1alpha1.GroupVersion(), &v1alpha1.NodeENI{}, &v1alpha1.NodeENIList{})
	metav1.AddToGroupVersion(known, v1alpha1.GroupVersion())
	known.AddKnownTypes(policyv1alpha1.GroupVersion(), &policyv1alpha1.NodeInterfacePolicy{}, &policyv1alpha1.NodeInterfacePolicyList{})
	metav1.AddToGroupVersion(known, policyv1alpha1.GroupVersion())
	if err := scheme.AddToScheme(known); err != nil {
		return nil, err
	}
	c.client, err = client.New(config, client.Options{Scheme: known})
	return c, err
}

// stop leaves no process behind. A server that a test killed is not the one that
// the environment knows, so its word on that is no failure.
func (c *cluster) stop() {
	if c.server != nil {
		_ = c.server.Process.Kill()
		_ = c.server.Wait()
	}
	_ = c.env.Stop()
}

// pid is the API server's.
func (c *cluster) pid(t *testing.T) int {
	t.Helper()
	if c.server != nil {
		return c.server.Process.Pid
	}
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", os.Getpid()))
	must(t, err)
	for _, file := range all {
		b, err := os.ReadFile(file)
		must(t, err)
		for field := range strings.FieldsSeq(string(b)) {
			comm, _ := os.ReadFile("/proc/" + field + "/comm")
			if strings.HasPrefix(string(comm), "kube-apiserver") {
				var pid int
				_, err := fmt.Sscan(field, &pid)
				must(t, err)
				return pid
			}
		}
	}
	t.Fatal("no kube-apiserver among the children of this test")
	return 0
}

// kill ends the API server as a crash does, and gives what starts it again.
func (c *cluster) kill(t *testing.T) (again func()) {
	t.Helper()
	pid := c.pid(t)
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	must(t, err)
	args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	if c.server != nil {
		_ = c.server.Wait()
	}
	return func() {
		c.server = exec.Command(filepath.Join(c.assets, "kube-apiserver"), args[1:]...)
		var said bytes.Buffer
		c.server.Stderr = &said
		must(t, c.server.Start())
		eventually(t, "the API server answers again", func() bool {
			return c.client.List(t.Context(), &v1alpha1.NodeENIList{}) == nil
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition of another process, which tells nobody when it holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(errors.New("it did not come to be that " + what))
		}
	}
}
