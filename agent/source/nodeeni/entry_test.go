package nodeeni

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"eniagent/agent/source"
)

const here = "node-1"

// read is an object as the API has it, in JSON.
func read(t *testing.T, text string) *object {
	t.Helper()
	o := &object{}
	if err := json.Unmarshal([]byte(text), o); err != nil {
		t.Fatal(err)
	}
	return o
}

// nodeENI is a NodeENI with one attachment on this node and one on another.
func nodeENI(name, spec string) string {
	return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"nodeSelector":{"ng":"multi-eni"}%s},"status":{"attachments":[
		{"nodeID":"node-2","eniID":"eni-0ffffffffffffffff","status":"attached"},
		{"nodeID":"node-1","eniID":%q,"status":"attached","lastUpdated":"2025-07-03T10:00:00Z"}]}}`, name, spec, eni1)
}

func told(eni string) (string, error) {
	if mac := map[string]string{eni1: mac1, eni2: mac2, eni3: mac3}[eni]; mac != "" {
		return mac, nil
	}
	return "", errors.New("nobody knows it")
}

// translated is what objects ask of this node.
func translated(t *testing.T, texts ...string) ([]source.Interface, []source.Refusal) {
	t.Helper()
	tr := translation{mac: told, kernelDriver: defaultKernelDriver}
	for _, text := range texts {
		if o := read(t, text); o.keep(here) {
			tr.object(o)
		}
	}
	all := tr.settle()
	return all, tr.refused
}

func up() *bool {
	yes := true
	return &yes
}

func TestTheCases(t *testing.T) {
	mac, pci := source.Selector{MAC: mac1}, source.Selector{PCI: "0000:00:07.0"}
	tests := []struct {
		name, spec string
		want       source.Interface
	}{
		{"plain", ``, source.Interface{Selector: mac, Up: up(), Driver: "ena"}},
		{"plain with an MTU", `,"mtu":9001`, source.Interface{Selector: mac, Up: up(), MTU: 9001, Driver: "ena"}},
		{
			"the kernel's driver with a pool", `,"mtu":9001,"enableDPDK":false,"dpdkResourceName":"intel.com/sriov_kernel_1","dpdkPCIAddress":"0000:00:07.0"`,
			source.Interface{Selector: pci, Up: up(), MTU: 9001, Driver: "ena", Pool: "intel.com/sriov_kernel_1"},
		},
		{
			"DPDK", `,"mtu":9001,"enableDPDK":true,"dpdkDriver":"vfio-pci","dpdkResourceName":"intel.com/sriov_test_1","dpdkPCIAddress":"0000:00:07.0"`,
			source.Interface{Selector: pci, Driver: "vfio-pci", Pool: "intel.com/sriov_test_1"},
		},
		{"DPDK by its ENI, with the default driver", `,"enableDPDK":true`, source.Interface{Selector: mac, Driver: "vfio-pci"}},
		{"DPDK with another driver", `,"enableDPDK":true,"dpdkDriver":"uio_pci_generic"`, source.Interface{Selector: mac, Driver: "uio_pci_generic"}},
		{"DPDK with a driver of the kernel", `,"mtu":1500,"enableDPDK":true,"dpdkDriver":"ena"`, source.Interface{Selector: mac, Up: up(), MTU: 1500, Driver: "ena"}},
		{"a driver and no DPDK", `,"dpdkDriver":"vfio-pci"`, source.Interface{Selector: mac, Up: up(), Driver: "ena"}},
		{
			"one subnet, named twice", `,"subnetID":"subnet-1","subnetIDs":["subnet-1"],"dpdkPCIAddress":"0000:00:07.0"`,
			source.Interface{Selector: pci, Up: up(), Driver: "ena"},
		},
		{ // the second is not attached yet
			"the first of several subnets", `,"subnetIDs":["subnet-1","subnet-2"],"dpdkPCIAddress":"0000:00:07.0"`,
			source.Interface{Selector: mac, Up: up(), Driver: "ena"},
		},
		{
			"a subnet and one by name", `,"subnetIDs":["subnet-1"],"subnetNames":["second"],"dpdkPCIAddress":"0000:00:07.0"`,
			source.Interface{Selector: mac, Up: up(), Driver: "ena"},
		},
		{"an address without a domain", `,"dpdkPCIAddress":"00:07.0"`, source.Interface{Selector: pci, Up: up(), Driver: "ena"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, refused := translated(t, nodeENI("one", tc.spec))
			tc.want.State, tc.want.Object = source.Configured, "nodeeni/one/"+eni1
			if diff := cmp.Diff([]source.Interface{tc.want}, got); diff != "" || len(refused) > 0 {
				t.Errorf("refused %v; want and got differ:\n%s", refused, diff)
			}
		})
	}
}

// several has three ENIs on this node.
const several = `{"metadata":{"name":"three"},"spec":{"nodeSelector":{},"mtu":9001%s},"status":{"attachments":[
	{"nodeID":"node-1","eniID":"` + eni1 + `","status":"attached"},{"nodeID":"node-1","eniID":"` + eni2 + `","status":"attached"},
	{"nodeID":"node-1","eniID":"` + eni3 + `"},{"nodeID":"node-1","eniID":"` + eni3 + `"},{"nodeID":"node-10","eniID":"eni-0aaaaaaaaaaaaaaaa"}]}}`

func TestOneObjectOfSeveralENIs(t *testing.T) {
	for _, spec := range []string{``, `,"dpdkPCIAddress":"0000:00:07.0"`} { // which of the three that is, nobody can tell
		got, refused := translated(t, fmt.Sprintf(several, spec))
		var macs []string
		for _, i := range got {
			macs = append(macs, i.Selector.String())
		}
		if strings.Join(macs, " ") != "mac "+mac1+" mac "+mac2+" mac "+mac3 || len(refused) > 0 {
			t.Errorf("got %v, refused %v", macs, refused)
		}
	}
}

// deleted is an object that waits for its finalizer.
func deleted(text string) string {
	return strings.Replace(text, `"metadata":{`, `"metadata":{"deletionTimestamp":"2025-07-03T11:00:00Z","finalizers":["nodeeni.networking.k8s.aws/finalizer"],`, 1)
}

func TestWhatIsDeletedIsReleased(t *testing.T) {
	for _, spec := range []string{`,"enableDPDK":true`, `,"mtu":-7`} { // whatever it asked
		got, refused := translated(t, deleted(nodeENI("one", spec)))
		want := []source.Interface{{Selector: source.Selector{MAC: mac1}, State: source.Released, Object: "nodeeni/one/" + eni1}}
		if diff := cmp.Diff(want, got); diff != "" || len(refused) > 0 {
			t.Errorf("refused %v; want and got differ:\n%s", refused, diff)
		}
	}
	// One that took its place is not held up by it.
	got, refused := translated(t, deleted(nodeENI("old", ``)), nodeENI("new", ``))
	if len(got) != 1 || got[0].Object != "nodeeni/new/"+eni1 || got[0].State != source.Configured || len(refused) > 0 {
		t.Errorf("got %v, refused %v", got, refused)
	}
	// Of an ENI that nobody knows any more, it is enough that nothing asks for it.
	got, refused = translated(t, deleted(strings.Replace(nodeENI("one", ``), eni1, "eni-0bbbbbbbbbbbbbbbb", 1)))
	if len(got) > 0 || len(refused) > 0 {
		t.Errorf("got %v, refused %v", got, refused)
	}
}

func TestTwoObjectsForOneInterface(t *testing.T) {
	const address = `,"dpdkPCIAddress":"0000:00:07.0"`
	other := strings.Replace(nodeENI("b", address), eni1, eni2, 1)
	got, refused := translated(t, nodeENI("a", address), other, nodeENI("c", ``))
	want := "pci 0000:00:07.0 is asked for by nodeeni/a/" + eni1 + " and nodeeni/b/" + eni2 + ": keep one"
	if len(got) != 1 || got[0].Object != "nodeeni/c/"+eni1 || len(refused) != 2 || refused[0].Reason != want || refused[1].Object != "nodeeni/b/"+eni2 {
		t.Errorf("got %v, refused %v", got, refused)
	}
}

func TestMalformed(t *testing.T) {
	attachment := func(text string) string { return strings.Replace(nodeENI("bad", ``), `"eniID":"`+eni1+`"`, text, 1) }
	many := strings.Repeat(`{"nodeID":"node-1","eniID":"eni-0123456789abcdef0"},`, maxAttachments+1)
	tests := []struct{ name, text, object, reason string }{
		{"absurd mtu", nodeENI("bad", `,"mtu":70000`), "bad", `spec.mtu: "70000": want 68 to 65535 bytes, or 0 for as it is`},
		{"negative mtu", nodeENI("bad", `,"mtu":-9001`), "bad", `spec.mtu: "-9001": want 68`},
		{"mtu beyond all numbers", nodeENI("bad", `,"mtu":1e300`), "bad", `spec.mtu: "number 1e300": that cannot be read: want what kubectl explain nodeeni.spec.mtu says`},
		{"mtu in words", nodeENI("bad", `,"mtu":"jumbo"`), "bad", "spec.mtu"},
		{"an address that is none", nodeENI("bad", `,"dpdkPCIAddress":"eth1"`), "bad", `spec.dpdkPCIAddress: "eth1": want domain:bus:device.function`},
		{"an address with a path", nodeENI("bad", `,"dpdkPCIAddress":"0000:00:07.0/../../x"`), "bad", "spec.dpdkPCIAddress"},
		{"a driver with a path", nodeENI("bad", `,"enableDPDK":true,"dpdkDriver":"../../x"`), "bad", `spec.dpdkDriver: "../../x": want a driver's name`},
		{"a module for a driver", nodeENI("bad", `,"enableDPDK":true,"dpdkDriver":"vfio_pci"`), "bad", "the driver is vfio-pci"},
		{"a resource of two slashes", nodeENI("bad", `,"dpdkResourceName":"a/b/c"`), "bad", `spec.dpdkResourceName: "a/b/c": want prefix/name`},
		{"a resource of strange letters", nodeENI("bad", `,"dpdkResourceName":"ſriov\u202e\n"`), "bad", `\u202e\n`},
		{"a long resource", nodeENI("bad", `,"dpdkResourceName":"`+strings.Repeat("x", 100_000)+`"`), "bad", "xxx...: want"},
		{"an ENI that is none", attachment(`"eniID":"☃"`), "bad", `status.attachments[1].eniID: "\u2603": want the ID of an ENI`},
		{"an ENI with a slash", attachment(`"eniID":"eni-01234567/x"`), "bad", "status.attachments[1].eniID"},
		{"no ENI", attachment(`"instanceID":"i-1"`), "bad", `status.attachments[1].eniID: ""`},
		{"an ENI that nobody knows", attachment(`"eniID":"eni-0cccccccccccccccc"`), "bad/eni-0cccccccccccccccc", "nobody knows it"},
		{"on its way", strings.ReplaceAll(nodeENI("bad", ``), `"attached"`, `"detaching"`), "bad/" + eni1, `status.attachments[1].status: "detaching": want attached`},
		{"a time that is none", strings.Replace(nodeENI("bad", ``), "2025-07-03T10:00:00Z", "yesterday", 1), "bad", "that cannot be read"},
		{"a spec that is a list", `{"metadata":{"name":"bad"},"spec":[],"status":{"attachments":[{"nodeID":"node-1"}]}}`, "bad", "that cannot be read"},
		{"attachments that are none", `{"metadata":{"name":"bad"},"spec":{},"status":{"attachments":7}}`, "bad", "that cannot be read"},
		{"a huge list", `{"metadata":{"name":"bad"},"status":{"attachments":[` + many + `{"nodeID":"x"}]}}`, "bad", `"129 of this node": want 128 at most`},
	}
	good := strings.ReplaceAll(nodeENI("good", ``), eni1, eni2)
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, refused := translated(t, tc.text, good)
			if len(got) != 1 || got[0].Object != "nodeeni/good/"+eni2 {
				t.Errorf("of another object: %v", got)
			}
			if len(refused) != 1 || refused[0].Object != "nodeeni/"+tc.object || !strings.Contains(refused[0].Reason, tc.reason) {
				t.Fatalf("refused %+v; want %s with %q", refused, tc.object, tc.reason)
			}
			if r := refused[0].Reason; len(r) > 400 || !utf8.ValidString(r) || strings.ContainsAny(r, "\n\x00\u202e") {
				t.Errorf("not fit to be shown: %q", r)
			}
		})
	}
}

func TestMalformedObjectsOfOthersAreTheirs(t *testing.T) {
	for _, text := range []string{
		`{"metadata":{"name":"x"},"spec":[],"status":{"attachments":[{"nodeID":"node-2"}]}}`,
		`{"metadata":{"name":"x"},"spec":{"mtu":"y"},"status":{}}`,
		`{"metadata":{"name":"x"},"spec":{"nodeSelector":{"kubernetes.io/hostname":"node-1"}}}`,
		strings.Replace(nodeENI("x", ``), `"nodeID":"node-1"`, `"nodeID":"NODE-1"`, 1),
	} {
		if got, refused := translated(t, text); len(got)+len(refused) > 0 {
			t.Errorf("%s: got %v, refused %v", text, got, refused)
		}
	}
}

func TestPools(t *testing.T) {
	for name, want := range map[string]string{
		"": "", "sriov": "intel.com/sriov", "intel.com/sriov": "intel.com/sriov", "amazon.com/bypass-NIC_1": "amazon.com/bypass-NIC_1",
	} {
		s := read(t, nodeENI("x", `,"dpdkResourceName":"`+name+`"`)).spec
		if got, p := poolOf(s); got != want || p != nil {
			t.Errorf("%q is %q, %v; want %q", name, got, p, want)
		}
	}
}
