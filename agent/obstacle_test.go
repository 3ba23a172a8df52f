package agent

import (
	"strings"
	"testing"
	"time"
)

// TestAPoolThatThePluginDoesNotHandOut: its entry is there and right, and what
// others have in the file keeps the plugin from it. That is said, also by a plan,
// until they have mended it; the entry stays.
func TestAPoolThatThePluginDoesNotHandOut(t *testing.T) {
	for entry, want := range map[string]string{
		`{"resourceName":"all","selectors":{"vendors":["8086"]}}`: "the plugin gives 0000:02:00.0 to resource intel.com/all",
		`{"resourceName":"a.b","selectors":{"vendors":["15b3"]}}`: "the plugin exits when it reads " + pluginFile + ": line 1, column 18: resourceName \"a.b\"",
	} {
		withPools(t, func(n *node) {
			n.writePlugin(`{"resourceList":[` + entry + `]}`)
			n.want(inPool(pci(portA, "vfio-pci"), poolX))
			settled(40 * time.Second)
			n.expect("pci 0000:02:00.0=right")
			n.expectPool(poolX, portA)
			n.expectPools("intel.com/x=degraded")
			for _, p := range n.agent.Status(n.t.Context()).Pools {
				if !strings.Contains(p.Reason, want) {
					n.t.Errorf("the reason is %q, want %q", p.Reason, want)
				}
			}
			said := false
			for _, e := range n.agent.Plan(n.t.Context()).Entries {
				said = said || e.Condition == Degraded && strings.Contains(e.Reason, want) && len(e.Steps) == 0
			}
			if !said {
				n.t.Errorf("a plan does not say %q", want)
			}
			text, err := n.kernel.File(n.t.Context(), pluginFile)
			if err != nil {
				n.t.Fatal(err)
			}
			n.writePlugin(strings.Replace(text, entry, `{"resourceName":"all","selectors":{"vendors":["15b3"]}}`, 1))
			settled(40 * time.Second)
			n.expectPools("intel.com/x=right")
		})
	}
}

// TestAPoolWithADashInItsName is right: what the input takes, the plugin does.
func TestAPoolWithADashInItsName(t *testing.T) {
	const pool = "intel-nic.com/sriov-dpdk"
	withPools(t, func(n *node) {
		n.want(inPool(pci(portA, "vfio-pci"), pool))
		settled(40 * time.Second)
		n.expectPool(pool, portA)
		n.expectPools(pool + "=right")
	})
}
