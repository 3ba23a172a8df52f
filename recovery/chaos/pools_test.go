//go:build linux

package chaos

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const (
	pluginFile = DiskDir + "/config.json"
	ownPool    = "example.com/dpdk"
	// foreign is what others have in the file; no byte of it is the agent's.
	foreign = "{\n  \"resourceList\": [\n\t{ \"resourceName\":\"mlnx\", \"resourcePrefix\" : \"mellanox.com\",\n" +
		"      \"selectors\": {\"vendors\": [\"15b3\"], \"isRdma\": true }, \"unknown\": 1.0 }\n  ],\n  \"other\": null\n}\n"
)

// pooled asks for VFs that are in a pool, but for the second.
func pooled(pf NIC, count int) string {
	return fmt.Sprintf("{pci: %q, up: true, vfs: {count: %d, defaults: {driver: vfio-pci, pool: %s}, overrides: [{index: 1, driver: igbvf, pool: none}]}}",
		pf.Addr, count, ownPool)
}

// withPools starts an agent that has the plugin's file on the disk.
func (n *node) withPools(binary string, env ...string) *Proc {
	n.t.Helper()
	p, err := n.vm.Start(n.ctx(), Cmd{Env: env, Args: []string{
		binary, "run", "--config", wanted, "--state-dir", StateDir, "--listen", "", "--allow-without-default-route", "--device-plugin-config", pluginFile,
	}})
	must(n.t, err)
	return p
}

// pool is the functions that the agent's entry of the file names; the rest of
// the file must be as it was.
func (n *node) pool() (addresses []string) {
	n.t.Helper()
	text, err := n.vm.ReadFile(n.ctx(), pluginFile)
	must(n.t, err)
	var file struct {
		ResourceList []struct {
			ResourceName   string
			ResourcePrefix string
			Selectors      json.RawMessage
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		n.t.Fatalf("the plugin's file is torn: %v\n%s", err, text)
	}
	for _, part := range []string{strings.Split(foreign, "\n  ],")[0], "],\n  \"other\": null\n}\n"} {
		if !strings.Contains(string(text), part) {
			n.t.Errorf("what others wrote has changed:\n%s\nwant in it:\n%s", text, part)
		}
	}
	for _, r := range file.ResourceList {
		if r.ResourcePrefix+"/"+r.ResourceName != ownPool {
			continue
		}
		var selectors []struct{ PCIAddresses []string }
		must(n.t, json.Unmarshal(r.Selectors, &selectors))
		for _, s := range selectors {
			addresses = append(addresses, s.PCIAddresses...)
		}
	}
	return addresses
}

// pools wants the pool to have all VFs but the second.
func (n *node) pools(pf NIC) {
	n.t.Helper()
	var want []string
	for i, vf := range n.vfsOf(pf) {
		if i != 1 {
			want = append(want, vf.Addr)
		}
	}
	if got := n.pool(); len(want) == 0 || !slices.Equal(got, want) {
		n.t.Errorf("the pool has %v, want %v", got, want)
	}
}

// TestPoolsThroughAPowerCut: after a reboot the plugin's file has the VFs of a
// life before. Nothing is begun, and readiness is not told, before they are out
// of it; and they come back once they are there.
func TestPoolsThroughAPowerCut(t *testing.T) {
	n := newNode(t)
	must(t, n.vm.WriteFile(t.Context(), pluginFile, []byte(foreign), 0o644))
	n.ask(pooled(n.a, 3))
	p := n.withPools(AgentPath)
	n.settled(p)
	n.pools(n.a)
	if said := n.agent(0, "status"); !strings.Contains(said, "RESTART OWED to the device plugin") {
		t.Errorf("status owes no restart:\n%s", said)
	}

	must(t, n.vm.PowerCut())
	must(t, n.vm.Boot(t.Context()))
	if got := n.pool(); len(got) != 2 {
		t.Fatalf("after the power cut the file names %v: there is nothing to withdraw", got)
	}
	p = n.withPools(crashing, "ENIAGENT_CRASH=autoprobe:before:1", "ENIAGENT_CRASH_HOW=stop")
	must(t, p.Expect(t.Context(), "stopped at "))
	if got := n.pool(); len(got) != 0 {
		t.Errorf("the agent makes VFs, and the file still names %v", got)
	}
	must(t, p.Signal(t.Context(), syscall.SIGKILL))
	n.killed(p)
	p = n.withPools(AgentPath)
	n.settled(p)
	n.pools(n.a)

	// Another number of VFs takes all out first, whatever comes then.
	n.stop(p)
	n.ask(pooled(n.a, 4))
	p = n.withPools(crashing, "ENIAGENT_CRASH=numvfs:before:1", "ENIAGENT_CRASH_HOW=stop")
	must(t, p.Expect(t.Context(), "stopped at "))
	if got := n.pool(); len(got) != 0 {
		t.Errorf("the VFs are about to be removed, and the file names %v", got)
	}
	must(t, p.Signal(t.Context(), syscall.SIGKILL))
	n.killed(p)
	p = n.withPools(AgentPath)
	n.settled(p)
	n.pools(n.a)

	n.ask(released(n.a))
	must(t, n.vm.WaitGone(t.Context(), n.a.Sysfs("virtfn0")))
	n.settled(p)
	if got := n.pool(); len(got) != 0 {
		t.Errorf("given back, and the file names %v", got)
	}
	if text, err := n.vm.ReadFile(t.Context(), pluginFile); err != nil || string(text) != foreign {
		t.Errorf("the file is not as it was (%v):\n%s", err, text)
	}
	n.stop(p)
}
