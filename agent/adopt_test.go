package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// TestAdoptSaysWhatNewIDMayHaveLeft: a function on a userspace driver with no
// override came there by an ID, or its override was cleared since.
func TestAdoptSaysWhatNewIDMayHaveLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		said := func() string {
			t.Helper()
			report, err := n.agent.adopt(t.Context(), Adoption{Dry: true})
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			for _, l := range report.Leftovers {
				text.WriteString(l.Found + ": " + l.Remedy)
			}
			return text.String()
		}
		if text := said(); strings.Contains(text, "remove_id") {
			t.Errorf("bound by its override, and said to be there by an ID: %s", text)
		}
		n.halt()
		if err := n.kernel.Do(t.Context(), host.Call{
			Op: host.OpSysfs, Target: portA, Path: host.Attr(portA, "driver_override"), Value: "\n",
		}); err != nil {
			t.Fatal(err)
		}
		if text := said(); !strings.Contains(text, portA+" is on vfio-pci with no override") || !strings.Contains(text, "> "+host.PCIDrivers+"vfio-pci/remove_id") {
			t.Errorf("leftovers: %s", text)
		}
	})
}

// TestAReleaseSaysWhoBindsItAgain: driverctl's file is a person's to remove.
func TestAReleaseSaysWhoBindsItAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		n.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		const file = "/etc/driverctl.d/pci-" + portA
		n.edit(func(files map[string]string) { files[file] = "vfio-pci" })
		for _, dry := range []bool{true, false} {
			r := n.release(Order{Targets: []string{portA}, Dry: dry})
			if len(r.Entries) != 1 || !strings.Contains(r.Entries[0].Reason, file+" binds "+portA+" to vfio-pci at each boot") {
				t.Errorf("release, dry %t: %+v", dry, r.Entries)
			}
		}
		n.driver(portA, "igb")
		n.edit(func(files map[string]string) {
			if files[file] != "vfio-pci" {
				t.Errorf("its file has %q", files[file])
			}
			delete(files, file)
		})
		if r := n.release(Order{Targets: []string{portA}}); strings.Contains(r.Entries[0].Reason, "driverctl") {
			t.Errorf("with its file gone: %+v", r.Entries)
		}
	})
}

// TestARefusedReleaseIsLogged: to give back an MTU cuts a link, and the function
// carries a default route that it would also carry without the agent.
func TestARefusedReleaseIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer n.halt()
		asked := pci(portA, "igb")
		asked.MTU = 1400
		n.want(asked)
		settled(5 * time.Second)
		if err := n.agent.rememberTarget(t.Context(), portA, "the IPv6 default route of table 100"); err != nil {
			t.Fatal(err)
		}
		writes := n.kernel.Writes()
		r := n.release(Order{Targets: []string{portA}, Why: "test"})
		if len(r.Entries) != 1 || r.Entries[0].Condition != Refused || r.Entries[0].Ordered {
			t.Errorf("released: %+v", r.Entries)
		}
		for _, word := range []string{`msg="not released"`, "who=somebody", "refused by management-path", "IPv6 default route of table 100"} {
			if !strings.Contains(n.log.String(), word) {
				t.Errorf("the log has no %q:\n%s", word, n.log)
			}
		}
		if now := n.kernel.Writes(); now != writes {
			t.Errorf("%d writes were made", now-writes)
		}
		n.driver(portA, "igb")
	})
}
