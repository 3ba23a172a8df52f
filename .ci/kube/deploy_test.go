package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	kustomization = root + "/deploy/kubernetes"
	chart         = root + "/deploy/helm/eniagent"
	namespace     = "eniagent-system"
)

// helm is where the pinned Helm is; it is built on first use.
//
//nolint:gochecknoglobals // once for all tests
var helm = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("../helm").Output()
	return strings.TrimSpace(string(out)), err
})

// ran runs a program, and gives what it printed and how it ended.
func ran(t *testing.T, stdin, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, complaints.String())
	}
	return string(out), err
}

// built is what kubectl makes of a kustomization.
func built(t *testing.T, c *cluster, dir string) string {
	t.Helper()
	out, err := ran(t, "", filepath.Join(c.assets, "kubectl"), "kustomize", dir)
	must(t, err)
	return out
}

// rendered is what Helm makes of a chart with these flags.
func rendered(t *testing.T, at string, flags ...string) (string, error) {
	t.Helper()
	bin, err := helm()
	must(t, err)
	return ran(t, "", bin, append([]string{"template", "eniagent", at, "--namespace", namespace, "--include-crds", "--kube-version", "1.37.0"}, flags...)...)
}

// objects are those of a stream, by kind, namespace and name.
func objects(t *testing.T, stream string) map[string]*unstructured.Unstructured {
	t.Helper()
	all := map[string]*unstructured.Unstructured{}
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(stream), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(&o.Object); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(o.Object) == 0 {
			continue
		}
		key := o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
		if all[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		all[key] = o
	}
}

func daemonSet(t *testing.T, stream string) *appsv1.DaemonSet {
	t.Helper()
	o := objects(t, stream)["DaemonSet "+namespace+"/eniagent"]
	if o == nil {
		t.Fatal("there is no DaemonSet " + namespace + "/eniagent")
	}
	ds := &appsv1.DaemonSet{}
	must(t, runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, ds, true))
	return ds
}

// TestTheChartIsTheKustomization, object by object. A chart cannot make the
// namespace that it is installed into.
func TestTheChartIsTheKustomization(t *testing.T) {
	c := requireCluster(t)
	for _, tc := range []struct {
		dir   string
		flags []string
	}{
		{kustomization, nil},
		{with(t, "active"), []string{"--set", "observe=false"}},
		{with(t, "adopt"), []string{"--set", "adopt.enabled=true"}},
		{with(t, "active", "adopt"), []string{"--set", "adopt.enabled=true,observe=false"}},
	} {
		want := objects(t, built(t, c, tc.dir))
		delete(want, "Namespace /"+namespace)
		out, err := rendered(t, chart, tc.flags...)
		must(t, err)
		got := objects(t, out)
		for key, w := range want {
			if g := got[key]; g == nil {
				t.Errorf("the chart %v has no %s", tc.flags, key)
			} else if !reflect.DeepEqual(g.Object, w.Object) {
				t.Errorf("%s of the chart %v is\n%v\nof the kustomization\n%v", key, tc.flags, g.Object, w.Object)
			}
		}
		for key := range got {
			if want[key] == nil {
				t.Errorf("the kustomization has no %s", key)
			}
		}
	}
}

// with is a kustomization that adds components.
func with(t *testing.T, components ...string) string {
	t.Helper()
	dir := t.TempDir()
	text := "resources: [" + relative(t, kustomization, dir) + "]\ncomponents:\n"
	for _, name := range components {
		text += "- " + relative(t, kustomization+"/components/"+name, dir) + "\n"
	}
	must(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600))
	return dir
}

// relative is a path as a kustomization elsewhere can name it.
func relative(t *testing.T, path, from string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	must(t, err)
	path, err = filepath.Rel(from, path)
	must(t, err)
	return path
}

// TestAllDefinitionsAreInTheKustomization: it cannot name a whole directory.
func TestAllDefinitionsAreInTheKustomization(t *testing.T) {
	c := requireCluster(t)
	got := objects(t, built(t, c, kustomization))
	files, err := filepath.Glob(crds + "/*.yaml")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("no definitions in " + crds)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		for key := range objects(t, string(text)) {
			if got[key] == nil {
				t.Errorf("%s is not among the resources of deploy/kubernetes/kustomization.yaml: %s", filepath.Base(file), key)
			}
		}
	}
}

// TestTheChartIsSound: lint, and that a package of it has the definitions, which
// are a link in the source.
func TestTheChartIsSound(t *testing.T) {
	requireCluster(t)
	bin, err := helm()
	must(t, err)
	if out, err := ran(t, "", bin, "lint", "--strict", chart); err != nil {
		t.Errorf("helm lint: %v\n%s", err, out)
	}
	dir := t.TempDir()
	if out, err := ran(t, "", bin, "package", chart, "--destination", dir); err != nil {
		t.Fatalf("helm package: %v\n%s", err, out)
	}
	packed, err := rendered(t, filepath.Join(dir, "eniagent-0.1.0.tgz"))
	must(t, err)
	source, err := rendered(t, chart)
	must(t, err)
	if !reflect.DeepEqual(objects(t, packed), objects(t, source)) {
		t.Error("the packed chart renders other objects than its source")
	}
}

// TestTheChartRefuses what cannot be meant, and says which value it is.
func TestTheChartRefuses(t *testing.T) {
	requireCluster(t)
	for flag, want := range map[string]string{
		"--set=observe=yes":                               "/observe",
		"--set=source=nodeeni":                            "/source",
		"--set=source=file":                               "/file",
		"--set=stateDir=var/lib/eniagent":                 "/stateDir",
		"--set=stateDir=/var/../lib":                      "/stateDir",
		"--set=stateDir=/var/lib #eniagent":               "/stateDir",
		"--set=plugin.configDir=":                         "/plugin/configDir",
		"--set=plugin.namespace=Kube_System":              "/plugin/namespace",
		"--set=plugin.selector=":                          "/plugin/selector",
		"--set=listen.host=0.0.0.0":                       "/listen/host",
		"--set=listen.port=70000":                         "/listen/port",
		"--set=image.digest=latest":                       "/image/digest",
		"--set=log.level=verbose":                         "/log/level",
		"--set=resources.limits=null":                     "/resources",
		"--set=kernelDriver=":                             "/kernelDriver",
		"--set=keepReachable[0]=api.example":              "/keepReachable",
		"--set=extraArgs[0]=--":                           "",
		"--set=adopt.pools[0]=sriov":                      "/adopt/pools",
		"--set=adopt.pools[0]=a.b/sriov:":                 "/adopt/pools",
		"--set=observed=false":                            "observed",
		"--set=source=file,file.inline=a,file.hostDir=/b": "/file",
	} {
		_, err := rendered(t, chart, flag)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", flag, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: want a refusal that names %s, got %v", flag, want, err)
		}
	}
}

// TestWhatTheChartsValuesDo: each shows in the DaemonSet, and nowhere twice.
func TestWhatTheChartsValuesDo(t *testing.T) {
	c := requireCluster(t)
	c.namespace(t, namespace)
	for _, tc := range []struct {
		flags []string
		want  []string // in the pod, as JSON has it
	}{
		{[]string{"--set", "image.repository=mirror/eniagent,image.tag=v1"}, []string{`"image":"mirror/eniagent:v1"`}},
		{[]string{"--set", "image.digest=sha256:" + strings.Repeat("ab", 32)}, []string{`"image":"eniagent@sha256:abab`}},
		{[]string{"--set", "imagePullSecrets[0].name=pull"}, []string{`"imagePullSecrets":[{"name":"pull"}]`}},
		{[]string{"--set", "source=file", "--set-string", "file.inline=apiVersion: eniagent/v1alpha1"}, []string{
			`"--source=file"`, `"configMap":{"name":"eniagent"}`, `"mountPath":"/etc/eniagent"`, `"automountServiceAccountToken":true`,
		}},
		{[]string{"--set", "source=file,file.hostDir=/etc/eniagent,plugin.namespace="}, []string{
			`"path":"/etc/eniagent","type":"Directory"`, `"--plugin-namespace="`, `"automountServiceAccountToken":false`,
		}},
		{[]string{"--set", "plugin.namespace=sriov,plugin.selector=app=dp,plugin.configDir=/opt/pcidp"}, []string{
			`"--plugin-namespace=sriov"`, `"--plugin-selector=app=dp"`, `"--device-plugin-config=/opt/pcidp/config.json"`, `"mountPath":"/host/opt/pcidp"`, `"path":"/opt/pcidp"`,
		}},
		{[]string{"--set", "stateDir=/data/eniagent"}, []string{`"--state-dir=/data/eniagent"`, `"mountPath":"/data/eniagent"`, `"path":"/data/eniagent"`}},
		{[]string{"--set", "podResources=/data/kubelet/k.sock,metadata=http://10.0.0.1,kernelDriver=igb"}, []string{
			`"--pod-resources=/host/data/kubelet/k.sock"`, `"mountPath":"/host/data/kubelet"`, `"path":"/data/kubelet"`, `"--metadata=http://10.0.0.1"`, `"--kernel-driver=igb"`,
		}},
		{[]string{"--set", "listen.host=,listen.port=9000"}, []string{`"--listen=:9000"`, `"host":"127.0.0.1"`, `"port":9000`}},
		{[]string{"--set", "keepReachable={10.0.0.1,fd00::1},allowNoIOMMU=true,log.level=debug,log.format=json,extraArgs={--interval=1m}"}, []string{
			`"--keep-reachable=10.0.0.1","--keep-reachable=fd00::1","--allow-noiommu","--log-level=debug","--log-format=json","--interval=1m"`,
		}},
		{[]string{"--set", "priorityClassName=,nodeSelector.ng=multi-eni,resources.limits.memory=1Gi"}, []string{`"ng":"multi-eni"`, `"memory":"1Gi"`}},
		{[]string{"--set", "adopt.enabled=true,adopt.pools={intel.com/a,intel.com/b}"}, []string{`"adopt","--yes"`, `"--pool=intel.com/a","--pool=intel.com/b"`}},
		{[]string{"--set", "tolerations=null,podAnnotations.a=b"}, []string{`"a":"b"`}},
	} {
		out, err := rendered(t, chart, tc.flags...)
		must(t, err)
		o := objects(t, out)["DaemonSet "+namespace+"/eniagent"]
		text, err := o.MarshalJSON()
		must(t, err)
		for _, want := range tc.want {
			if !strings.Contains(string(text), want) {
				t.Errorf("%v: no %s in\n%s", tc.flags, want, text)
			}
		}
		c.accepts(t, out)
	}
}

// accepts has the API look at every object, strictly, and keep none of it. The
// namespaces must be there.
func (c *cluster) accepts(t *testing.T, stream string) {
	t.Helper()
	for key, o := range objects(t, stream) {
		if ns := o.GetNamespace(); ns != "" {
			c.namespace(t, ns)
		}
		text, err := o.MarshalJSON()
		must(t, err)
		if out, err := c.asked(t, string(text), "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"); err != nil {
			t.Errorf("the API refuses %s: %v\n%s", key, err, out)
		}
	}
}

// asked is the real kubectl as the administrator.
func (c *cluster) asked(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	return ran(t, stdin, filepath.Join(c.assets, "kubectl"), append([]string{"--kubeconfig", c.kubeconfig(t)}, args...)...)
}

// kubeconfig is a file that leads to the API.
func (c *cluster) kubeconfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(path, c.env.KubeConfig, 0o600))
	return path
}

// namespace makes one that stays: without a controller none ever goes.
func (c *cluster) namespace(t *testing.T, name string) {
	t.Helper()
	ns := &corev1.Namespace{}
	ns.Name = name
	if err := c.client.Create(t.Context(), ns); !apierrors.IsAlreadyExists(err) {
		must(t, err)
	}
}

// deploy installs all of a kustomization until the test ends. The definitions
// stay, as other tests have objects of them.
func (c *cluster) deploy(t *testing.T, stream string) {
	t.Helper()
	if out, err := c.asked(t, stream, "apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-"); err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		for _, o := range objects(t, stream) {
			if kind := o.GetKind(); kind != "Namespace" && kind != "CustomResourceDefinition" {
				must(t, client.IgnoreNotFound(c.client.Delete(context.Background(), o, client.GracePeriodSeconds(0))))
			}
		}
	})
}

// TestTheManifestsOnARealAPI: they are taken, strictly, and taken again change nothing.
func TestTheManifestsOnARealAPI(t *testing.T) {
	c := requireCluster(t)
	stream := built(t, c, kustomization)
	c.deploy(t, stream)
	c.accepts(t, stream)
	ds := &appsv1.DaemonSet{}
	key := client.ObjectKey{Namespace: namespace, Name: "eniagent"}
	must(t, c.client.Get(t.Context(), key, ds))
	generation := ds.Generation
	c.deploy(t, stream)
	must(t, c.client.Get(t.Context(), key, ds))
	if ds.Generation != generation {
		t.Error("the same manifests again are another generation of the DaemonSet")
	}
	// What the DaemonSet's controller would make: nobody else looks at a pod's own rules.
	pod := &corev1.Pod{ObjectMeta: *ds.Spec.Template.ObjectMeta.DeepCopy(), Spec: *ds.Spec.Template.Spec.DeepCopy()}
	pod.Namespace, pod.Name, pod.Spec.NodeName = namespace, "eniagent-"+here, here
	must(t, c.client.Create(t.Context(), pod))
	t.Cleanup(func() { must(t, c.client.Delete(context.Background(), pod, client.GracePeriodSeconds(0))) })
	if pod.Spec.Priority == nil || *pod.Spec.Priority != 2000001000 {
		t.Errorf("the pod's priority is %v", pod.Spec.Priority)
	}
}

// TestThePod is what the manifests promise: where they say it twice, it is the same.
func TestThePod(t *testing.T) {
	c := requireCluster(t)
	ds := daemonSet(t, built(t, c, kustomization))
	spec, flags := ds.Spec.Template.Spec, runFlags(t)
	state, listen, plugin := flags["--state-dir"], flags["--listen"], filepath.Dir(flags["--device-plugin-config"])
	container := spec.Containers[0]
	// The AWS multi-ENI controller runs commands in pods that it finds so.
	theirs, err := labels.Parse("app=eni-manager")
	must(t, err)
	if theirs.Matches(labels.Set(ds.Spec.Template.Labels)) || ds.Spec.Template.Labels["app"] != "" || ds.Namespace == "eni-controller-system" {
		t.Errorf("the AWS multi-ENI controller would run commands in this pod: %v", ds.Spec.Template.Labels)
	}
	patience, err := time.ParseDuration(flags["--shutdown-timeout"])
	must(t, err)
	if grace := time.Duration(*spec.TerminationGracePeriodSeconds) * time.Second; grace <= patience {
		t.Errorf("%s of grace, and a stop may take %s", grace, patience)
	}
	if faults := exposed(spec, spec.Containers[0], state, plugin); len(faults) > 0 {
		t.Error(strings.Join(faults, "\n"))
	}
	for _, arg := range []string{"--observe=true", "--root=/host", "--state-dir=" + state, "--listen=" + listen} {
		if !slices.Contains(container.Args, arg) {
			t.Errorf("no %s among %v", arg, container.Args)
		}
	}
	for _, p := range []*corev1.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
		if at := fmt.Sprintf("%s:%s", p.HTTPGet.Host, p.HTTPGet.Port.String()); at != listen {
			t.Errorf("a probe asks %s, and the agent listens at %s", at, listen)
		}
	}
	unit, err := os.ReadFile(root + "/deploy/systemd/eniagent.service")
	must(t, err)
	var have []string
	for _, capability := range container.SecurityContext.Capabilities.Add {
		have = append(have, "CAP_"+string(capability))
	}
	if line := "\nCapabilityBoundingSet=" + strings.Join(have, " ") + "\n"; !strings.Contains(string(unit), line) {
		t.Errorf("the service of systemd has other capabilities than the pod's %v", have)
	}
	if *container.SecurityContext.Privileged || !*container.SecurityContext.ReadOnlyRootFilesystem || !spec.HostPID || !spec.HostNetwork {
		t.Error("the pod is not as confined, or not as much on the host, as it should be")
	}
}

// runFlags are the flags of `agent run`, with their defaults.
func runFlags(t *testing.T) map[string]string {
	t.Helper()
	bin, err := program()
	must(t, err)
	help, err := ran(t, "", bin, "run", "--help")
	must(t, err)
	flags := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^ +(?:-[a-z], |)(--[a-z-]+) .*?(?:\(default "?([^)"]*)"?\))?$`).FindAllStringSubmatch(help, -1) {
		flags[m[1]] = m[2]
	}
	return flags
}

// TestTheFlagsAreTheAgents: each that the chart can give is one of `agent run`.
func TestTheFlagsAreTheAgents(t *testing.T) {
	requireCluster(t)
	known := runFlags(t)
	out, err := rendered(t, chart, "--set", "plugin.configDir=/a,podResources=/a,metadata=http://a,keepReachable={::1},allowNoIOMMU=true,log.level=info,log.format=json")
	must(t, err)
	for _, arg := range daemonSet(t, out).Spec.Template.Spec.Containers[0].Args[1:] {
		flag, _, _ := strings.Cut(arg, "=")
		if _, ok := known[flag]; !ok {
			t.Errorf("the agent has no %s", flag)
		}
	}
}

// TestTheExamples are taken by the API.
func TestTheExamples(t *testing.T) {
	c := requireCluster(t)
	files, err := filepath.Glob(kustomization + "/examples/*.yaml")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("no examples")
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		if len(objects(t, string(text))) == 0 {
			t.Errorf("%s has no object", file)
		}
		c.accepts(t, string(text))
	}
	own := built(t, c, kustomization+"/examples/overlay")
	c.accepts(t, own)
	spec := daemonSet(t, own).Spec.Template.Spec
	if got := spec.Containers[0].Image; got != "your.registry.example/eniagent:v1" || spec.NodeSelector["ng"] != "multi-eni" || spec.Containers[0].Args[1] != "--observe=false" {
		t.Errorf("the overlay's DaemonSet has %s, %v, %v", got, spec.NodeSelector, spec.Containers[0].Args)
	}
}

// TestTheExamplesFitTogether: the plugin's DaemonSet is the one that the agent
// restarts and whose file it writes, and the pod asks for a pool of the NodeENIs.
func TestTheExamplesFitTogether(t *testing.T) {
	c := requireCluster(t)
	example := func(name string) map[string]*unstructured.Unstructured {
		text, err := os.ReadFile(kustomization + "/examples/" + name)
		must(t, err)
		return objects(t, string(text))
	}
	agents := daemonSet(t, built(t, c, kustomization)).Spec.Template.Spec
	plugin := &appsv1.DaemonSet{}
	convert(t, example("sriov-device-plugin.yaml")["DaemonSet kube-system/kube-sriov-device-plugin"].Object, plugin)
	args := strings.Join(agents.Containers[0].Args, "\n")
	_, selector, _ := strings.Cut(args, "--plugin-selector=")
	selector, _, _ = strings.Cut(selector, "\n")
	wanted, err := labels.Parse(selector)
	must(t, err)
	if !wanted.Matches(labels.Set(plugin.Spec.Template.Labels)) || !strings.Contains(args, "--plugin-namespace="+plugin.Namespace+"\n") {
		t.Errorf("%s does not lead to a pod with %v in %s", selector, plugin.Spec.Template.Labels, plugin.Namespace)
	}
	const dir = "/etc/pcidp"
	for name, spec := range map[string]corev1.PodSpec{"agent": agents, "plugin": plugin.Spec.Template.Spec} {
		if !slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.HostPath != nil && v.HostPath.Path == dir }) {
			t.Errorf("the %s has not %s of the node", name, dir)
		}
	}
	pool := example("nodeeni.yaml")["NodeENI /dpdk-pool"]
	name, _, err := unstructured.NestedString(pool.Object, "spec", "dpdkResourceName")
	must(t, err)
	pod := &corev1.Pod{}
	convert(t, example("pod.yaml")["Pod default/dpdk"].Object, pod)
	if _, ok := pod.Spec.Containers[0].Resources.Limits[corev1.ResourceName(name)]; !ok || name == "" {
		t.Errorf("the pod asks for no %s", name)
	}
}
