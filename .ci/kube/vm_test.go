//go:build linux

package kube

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"eniagent/recovery/chaos"
)

// requireVMVar is the variable that the rig's own tests go by.
const requireVMVar = "ENIAGENT_REQUIRE_VM"

// guest is a node on a real kernel that reaches the API of the tests.
type guest struct {
	t          *testing.T
	c          *cluster
	vm         *chaos.VM
	kubeconfig string // for kubectl here
	agent      []string
}

const (
	crashing   = "/bin/agent-crash"
	pluginFile = chaos.DiskDir + "/config.json"
)

// bootGuest boots a node with two PFs.
func bootGuest(t *testing.T, c *cluster) *guest {
	t.Helper()
	if _, err := chaos.Find(); err != nil {
		if os.Getenv(requireVMVar) == "1" {
			t.Fatalf("%s=1, but: %v", requireVMVar, err)
		}
		t.Skipf("NOT TESTED ON A REAL KERNEL: %v", err)
	}
	g := &guest{t: t, c: c}
	dir := t.TempDir()
	agent, crash := filepath.Join(dir, "agent"), filepath.Join(dir, "agent-crash")
	build(t, agent)
	build(t, crash, "-tags=crashpoint")
	files := map[string]string{crashing: crash}
	ip, err := exec.LookPath("ip")
	must(t, err)
	linked, err := exec.CommandContext(t.Context(), "ldd", ip).Output()
	must(t, err)
	files["/bin/ip"] = ip
	for word := range strings.FieldsSeq(string(linked)) {
		if strings.HasPrefix(word, "/") {
			files[word] = word
		}
	}
	g.vm, err = chaos.Start(t.Context(), chaos.Config{NICs: 2, Uplink: true, Agent: agent, Files: files})
	must(t, err)
	t.Cleanup(func() { must(t, g.vm.Close()) })
	t.Logf("booted: %+v", g.vm.LastBoot())
	return g
}

// build builds the agent from the product's own module.
func build(t *testing.T, out string, flags ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"build", "-C", root, "-trimpath", "-ldflags=-s -w", "-o", out}, flags...), "./cmd/agent")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, said)
	}
}

// written is a kubeconfig file for an API at a host, which the certificate need not name.
func written(t *testing.T, config *rest.Config, host, path string) []byte {
	t.Helper()
	at, err := url.Parse(config.Host)
	must(t, err)
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{
		Server: "https://" + net.JoinHostPort(host, at.Port()), TLSServerName: "localhost", CertificateAuthorityData: config.CAData,
	}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	file.CurrentContext = "x"
	b, err := clientcmd.Write(*file)
	must(t, err)
	if path != "" {
		must(t, os.WriteFile(path, b, 0o600))
	}
	return b
}

// join makes the guest a node of the cluster: the way there, who it is, and the metadata of its instance.
func (g *guest) join(macs map[string]string) {
	g.t.Helper()
	metadata := httptest.NewServer(instance(macs))
	g.t.Cleanup(metadata.Close)
	port := metadata.Listener.Addr().(*net.TCPAddr).Port
	user, err := g.c.env.AddUser(envtest.User{Name: "node", Groups: []string{"system:masters"}}, nil)
	must(g.t, err)
	must(g.t, g.vm.WriteFile(g.ctx(), "/state/kubeconfig", written(g.t, user.Config(), chaos.HostAddr, ""), 0o600))
	g.kubeconfig = filepath.Join(g.t.TempDir(), "kubeconfig")
	written(g.t, g.c.env.Config, "localhost", g.kubeconfig)
	must(g.t, g.vm.WriteFile(g.ctx(), pluginFile, []byte("{\"resourceList\": []}\n"), 0o644))
	g.agent = []string{
		"run", "--source", "kubernetes", "--kubeconfig", "/state/kubeconfig", "--node-name", here, "--kernel-driver", "igb",
		"--metadata", fmt.Sprintf("http://%s:%d", chaos.HostAddr, port), "--state-dir", chaos.StateDir, "--listen", "",
		"--pod-resources", "", "--root", "/", "--device-plugin-config", pluginFile, "--write-timeout", "5s",
	}
	g.online()
}

func (g *guest) ctx() context.Context { return g.t.Context() }

func (g *guest) online() {
	g.t.Helper()
	_, err := g.vm.Uplink(g.ctx())
	must(g.t, err)
}

// start starts an agent there. When the test fails, its log is shown.
func (g *guest) start(binary string, env ...string) *chaos.Proc {
	g.t.Helper()
	p, err := g.vm.Start(g.ctx(), chaos.Cmd{Args: append([]string{binary}, g.agent...), Env: env})
	must(g.t, err)
	g.t.Cleanup(func() {
		if _, log := p.Output(); g.t.Failed() {
			g.t.Logf("log of the agent:\n%s", log)
		}
	})
	return p
}

// kubectl is what a person types, and what it prints.
func (g *guest) kubectl(in string, args ...string) string {
	g.t.Helper()
	cmd := exec.CommandContext(g.ctx(), filepath.Join(g.c.assets, "kubectl"), append([]string{"--kubeconfig", g.kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(in)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		g.t.Fatalf("kubectl %v: %v\n%s", args, err, said.String())
	}
	g.t.Logf("$ kubectl %s\n%s", strings.Join(args, " "), out.String())
	return out.String()
}

// ready waits until an object says that its interface here is as asked.
func (g *guest) ready(object string) {
	g.t.Helper()
	const of = `jsonpath={.status.attachments[?(@.nodeID=="` + here + `")].conditions[?(@.type=="Ready")].status}`
	eventually(g.t, object+" is ready", func() bool {
		cmd := exec.CommandContext(g.ctx(), filepath.Join(g.c.assets, "kubectl"), "--kubeconfig", g.kubeconfig, "get", object, "-o", of)
		out, err := cmd.Output()
		return err == nil && string(out) == "True"
	})
}

// attached is what the controller writes once it has attached an ENI to this node.
func attached(eni string) string {
	return fmt.Sprintf(`{"status":{"attachments":[{"nodeID":%q,"instanceID":"i-0123456789abcdef0","eniID":%q,"attachmentID":"eni-attach-01",`+
		`"subnetID":"subnet-1","subnetCIDR":"10.0.0.0/24","deviceIndex":2,"status":"attached","lastUpdated":%q}]}}`, here, eni, time.Now().UTC().Format(time.RFC3339))
}

// TestANodeOnARealKernel is one with a real API: what is asked with kubectl is on its NICs, also after a power cut that
// came half-way, and the objects say what is.
func TestANodeOnARealKernel(t *testing.T) {
	c := requireCluster(t)
	g := bootGuest(t, c)
	nics, err := g.vm.NICs(t.Context())
	must(t, err)
	g.join(map[string]string{nics[0].MAC: eni1, nics[1].MAC: eni2})
	for _, name := range []string{"dpdk", "plain"} {
		t.Cleanup(func() { c.remove(t, name) })
	}
	g.kubectl(fmt.Sprintf(`
apiVersion: networking.k8s.aws/v1alpha1
kind: NodeENI
metadata: {name: dpdk}
spec:
  nodeSelector: {ng: multi-eni}
  enableDPDK: true
  dpdkDriver: vfio-pci
  dpdkResourceName: intel.com/sriov_test_1
  dpdkPCIAddress: %q
---
apiVersion: networking.k8s.aws/v1alpha1
kind: NodeENI
metadata: {name: plain}
spec:
  nodeSelector: {ng: multi-eni}
  mtu: 9001
`, nics[0].Addr), "apply", "-f", "-")
	g.kubectl("", "patch", "nodeeni", "dpdk", "--subresource=status", "--type=merge", "-p", attached(eni1))
	g.kubectl("", "patch", "nodeeni", "plain", "--subresource=status", "--type=merge", "-p", attached(eni2))

	p := g.start(crashing, "ENIAGENT_CRASH=bind:before:1", "ENIAGENT_CRASH_HOW=stop")
	must(t, p.Expect(t.Context(), "stopped at "))
	must(t, g.vm.PowerCut())
	must(t, g.vm.Boot(t.Context()))
	g.online()
	res, err := g.vm.Agent(t.Context(), "recover", "--dry-run", "--state-dir", chaos.StateDir)
	must(t, err)
	t.Logf("$ agent recover --dry-run\n%s", res.Stdout)
	if res.Code != 3 {
		t.Errorf("what was left half-way is not told: %v", res)
	}
	p = g.start(chaos.AgentPath)
	g.ready("nodeeni/dpdk")
	g.ready("nodeeni/plain")
	g.kubectl("", "get", "nodeenis", "-o", "wide")
	g.kubectl("", "get", "nodeeni", "dpdk", "-o", "yaml")
	// The kernel's word, not the agent's.
	must(t, g.vm.WaitLink(t.Context(), nics[0].Sysfs("driver"), "vfio-pci"))
	must(t, g.vm.WaitText(t.Context(), nics[1].Sysfs("net", netdev(t, g, nics[1].Addr), "mtu"), "9001"))
	if file, err := g.vm.ReadText(t.Context(), pluginFile); err != nil || !strings.Contains(file, nics[0].Addr) {
		t.Errorf("the device plugin's file is %q, %v", file, err)
	}

	g.kubectl("", "delete", "nodeeni", "dpdk", "--wait=false")
	must(t, g.vm.WaitLink(t.Context(), nics[0].Sysfs("driver"), "igb"))
	res, err = g.vm.Agent(t.Context(), "status", "--wait", "60s", "--state-dir", chaos.StateDir)
	must(t, err)
	t.Logf("$ agent status\n%s", res.Stdout)
	if file, err := g.vm.ReadText(t.Context(), pluginFile); err != nil || strings.Contains(file, nics[0].Addr) {
		t.Errorf("the device plugin's file is %q, %v", file, err)
	}
	if p.Ended() {
		t.Error("the agent has ended")
	}
}

func netdev(t *testing.T, g *guest, addr string) string {
	t.Helper()
	names, err := g.vm.ReadDir(t.Context(), chaos.Sysfs(addr, "net"))
	must(t, err)
	return names[0]
}
