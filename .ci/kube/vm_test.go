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
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

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
	privileges []string // what the agent is started with
}

const (
	crashing  = "/bin/agent-crash"
	guestFile = chaos.DiskDir + "/config.json"
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
	for _, name := range []string{"ip", "setpriv"} {
		path, err := exec.LookPath(name)
		must(t, err)
		linked, err := exec.CommandContext(t.Context(), "ldd", path).Output()
		must(t, err)
		files["/bin/"+name] = path
		for word := range strings.FieldsSeq(string(linked)) {
			if strings.HasPrefix(word, "/") {
				files[word] = word
			}
		}
	}
	var err error
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
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: config.BearerToken, ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	file.CurrentContext = "x"
	b, err := clientcmd.Write(*file)
	must(t, err)
	if path != "" {
		must(t, os.WriteFile(path, b, 0o600))
	}
	return b
}

// join makes the guest a node of the cluster: the way there, who it is, and the metadata of its instance. Its agent may
// what the shipped manifests let it, in the API and in the kernel, and no more.
func (g *guest) join(macs map[string]string) {
	g.t.Helper()
	metadata := httptest.NewServer(instance(macs))
	g.t.Cleanup(metadata.Close)
	port := metadata.Listener.Addr().(*net.TCPAddr).Port
	_, config := asTheAgent(g.t, g.c)
	must(g.t, g.vm.WriteFile(g.ctx(), "/state/kubeconfig", written(g.t, config, chaos.HostAddr, ""), 0o600))
	g.kubeconfig = filepath.Join(g.t.TempDir(), "kubeconfig")
	written(g.t, g.c.env.Config, "localhost", g.kubeconfig)
	must(g.t, g.vm.WriteFile(g.ctx(), guestFile, []byte("{\"resourceList\": []}\n"), 0o644))
	g.privileges = []string{"/bin/setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"}
	security := daemonSet(g.t, built(g.t, g.c, kustomization)).Spec.Template.Spec.Containers[0].SecurityContext
	for _, capability := range security.Capabilities.Add {
		g.privileges[3] += ",+" + strings.ToLower(string(capability))
	}
	g.agent = []string{
		"run", "--plugin-namespace", "kube-system", "--source", "kubernetes", "--kubeconfig", "/state/kubeconfig", "--node-name", here, "--kernel-driver", "igb",
		"--metadata", fmt.Sprintf("http://%s:%d", chaos.HostAddr, port), "--state-dir", chaos.StateDir, "--listen", "",
		"--pod-resources", "", "--root", "/", "--device-plugin-config", guestFile, "--write-timeout", "5s",
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
	p, err := g.vm.Start(g.ctx(), chaos.Cmd{Args: slices.Concat(g.privileges, []string{binary}, g.agent), Env: env})
	must(g.t, err)
	g.t.Cleanup(func() {
		if _, log := p.Output(); g.t.Failed() {
			g.t.Logf("log of the agent:\n%s", log)
		}
	})
	return p
}

// kubectl is what a person types; what it prints is in the log.
func (g *guest) kubectl(in string, args ...string) {
	g.t.Helper()
	cmd := exec.CommandContext(g.ctx(), filepath.Join(g.c.assets, "kubectl"), append([]string{"--kubeconfig", g.kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(in)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		g.t.Fatalf("kubectl %v: %v\n%s", args, err, said.String())
	}
	g.t.Logf("$ kubectl %s\n%s", strings.Join(args, " "), out.String())
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

// onThePF asks for two VFs, onAVF for one of them, and onAnENI for a NIC that only its MAC address tells.
const (
	onThePF = `
apiVersion: eniagent.dev/v1alpha1
kind: NodeInterfacePolicy
metadata: {name: functions}
spec:
  nodeSelector: {matchLabels: {nic: sriov}}
  interfaces:
  - pci: %q
    up: true
    vfs: {count: 2}
`
	onAVF = `
apiVersion: networking.k8s.aws/v1alpha1
kind: NodeENI
metadata: {name: dpdk}
spec:
  nodeSelector: {nic: sriov}
  enableDPDK: true
  dpdkDriver: vfio-pci
  dpdkResourceName: intel.com/sriov_test_1
  dpdkPCIAddress: %q
`
	onAnENI = `
apiVersion: networking.k8s.aws/v1alpha1
kind: NodeENI
metadata: {name: plain}
spec:
  nodeSelector: {nic: sriov}
  mtu: 9001
`
)

// TestANodeOnARealKernel is one with a real API: what is asked with kubectl is on its NICs, also after a power cut that
// came half-way, and the objects say what is.
func TestANodeOnARealKernel(t *testing.T) {
	c := requireCluster(t)
	g := bootGuest(t, c)
	nics, err := g.vm.NICs(t.Context())
	must(t, err)
	pf, vf := nics[0], chaos.NIC{Addr: strings.Replace(nics[0].Addr, ":00.0", ":10.0", 1)}
	g.join(map[string]string{pf.MAC: eni1, nics[1].MAC: eni2})
	for _, name := range []string{"dpdk", "plain"} {
		t.Cleanup(func() { c.remove(t, name) })
	}
	g.kubectl(fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: %s, labels: {nic: sriov}}\n", here), "apply", "-f", "-")
	t.Cleanup(func() { g.gone("node/"+here, "nodeinterfacepolicy/functions") })
	g.kubectl(fmt.Sprintf(onThePF+"---"+onAVF+"---"+onAnENI, pf.Addr, vf.Addr), "apply", "-f", "-")
	g.kubectl("", "patch", "nodeeni", "dpdk", "--subresource=status", "--type=merge", "-p", attached(eni1))
	g.kubectl("", "patch", "nodeeni", "plain", "--subresource=status", "--type=merge", "-p", attached(eni2))

	p := g.start(crashing, "ENIAGENT_CRASH=bind:before:1", "ENIAGENT_CRASH_HOW=stop")
	must(t, p.Expect(t.Context(), "stopped at "))
	must(t, g.vm.PowerCut())
	must(t, g.vm.Boot(t.Context()))
	g.online()
	if said := g.status(3, "recover", "--dry-run"); !strings.Contains(said, vf.Addr) {
		t.Errorf("what was left half-way on %s is not told", vf.Addr)
	}
	p = g.start(chaos.AgentPath)
	g.ready("nodeeni/dpdk")
	g.ready("nodeeni/plain")
	g.status(0, "status", "--wait", "60s")
	g.kubectl("", "get", "nodeenis,nodeinterfacepolicies", "-o", "wide")
	g.kubectl("", "get", "nodeeni", "dpdk", "-o", "yaml")
	// The kernel's word, not the agent's.
	must(t, g.vm.WaitText(t.Context(), pf.Sysfs("sriov_numvfs"), "2"))
	must(t, g.vm.WaitLink(t.Context(), vf.Sysfs("driver"), "vfio-pci"))
	must(t, g.vm.WaitText(t.Context(), nics[1].Sysfs("net", g.netdev(nics[1].Addr), "mtu"), "9001"))
	g.pooled(vf.Addr, true)

	// A change, and an attachment that the controller no longer has: what is at its ENI's place is left as it was before.
	mtu := nics[1].Sysfs("net", g.netdev(nics[1].Addr), "mtu")
	g.kubectl("", "patch", "nodeeni", "plain", "--type=merge", "-p", `{"spec":{"mtu":4000}}`)
	must(t, g.vm.WaitText(t.Context(), mtu, "4000"))
	g.ready("nodeeni/plain")
	g.kubectl("", "patch", "nodeeni", "plain", "--subresource=status", "--type=merge", "-p", `{"status":{"attachments":[]}}`)
	must(t, g.vm.WaitText(t.Context(), mtu, "1500"))

	g.kubectl("", "delete", "nodeeni", "dpdk", "--wait=false")
	must(t, g.vm.WaitLink(t.Context(), vf.Sysfs("driver"), "igbvf"))
	g.pooled(vf.Addr, false)
	g.kubectl("", "delete", "nodeinterfacepolicy", "functions")
	must(t, g.vm.WaitText(t.Context(), pf.Sysfs("sriov_numvfs"), "0"))
	g.status(0, "status", "--wait", "60s")
	if p.Ended() {
		t.Error("the agent has ended")
	}
}

// status is what a command of the agent says there, which must end so.
func (g *guest) status(code int, args ...string) string {
	g.t.Helper()
	res, err := g.vm.Agent(g.ctx(), append(args, "--state-dir", chaos.StateDir)...)
	must(g.t, err)
	g.t.Logf("$ agent %s\n%s%s", strings.Join(args, " "), res.Stdout, res.Stderr)
	if res.Code != code {
		g.t.Errorf("agent %v ended with %d, want %d", args, res.Code, code)
	}
	return string(res.Stdout)
}

// pooled wants a function in the device plugin's file, or not.
func (g *guest) pooled(addr string, want bool) {
	g.t.Helper()
	file, err := g.vm.ReadText(g.ctx(), guestFile)
	must(g.t, err)
	if strings.Contains(file, addr) != want {
		g.t.Errorf("the device plugin's file has %s, want it there: %t", file, want)
	}
}

// gone takes objects away, at the end of a test.
func (g *guest) gone(objects ...string) {
	cmd := exec.Command(filepath.Join(g.c.assets, "kubectl"), append([]string{"--kubeconfig", g.kubeconfig, "delete", "--ignore-not-found"}, objects...)...)
	if said, err := cmd.CombinedOutput(); err != nil {
		g.t.Errorf("kubectl %v: %v\n%s", cmd.Args, err, said)
	}
}

func (g *guest) netdev(addr string) string {
	g.t.Helper()
	names, err := g.vm.ReadDir(g.ctx(), chaos.Sysfs(addr, "net"))
	must(g.t, err)
	return names[0]
}
