package host_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"eniagent/drivers/host"
)

// TestChildrenInOtherNamespaces: one that was moved there, one that was made
// there, of which this namespace was never told, and none of this one.
func TestChildrenInOtherNamespaces(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("*** NOT TESTED: no iproute2 ***")
	}
	inNetns(t, func() {
		ip(t, "link add nic0 type veth peer name nic1")
		ip(t, "link add link nic0 name here type macvlan mode bridge")
		pod := exec.CommandContext(context.Background(), "sleep", "600")
		pod.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if err := pod.Start(); err != nil {
			t.Error(err)
			return
		}
		defer func() {
			_ = pod.Process.Kill()
			_ = pod.Wait()
		}()
		pid := strconv.Itoa(pod.Process.Pid)
		ip(t, "link add link nic0 name moved type macvlan mode bridge")
		ip(t, "link set moved netns "+pid)
		ip(t, "link add link nic0 name made netns "+pid+" type macvlan mode bridge")
		ip(t, "link add host0 type veth peer name eth0 netns "+pid) // whose peer is no child
		nic := byName(t, dump(t), "nic0").Index
		want := []string{"made", "moved"}
		if got := childrenOn(t, nic, "sleep (pid "+pid); !slices.Equal(got, want) {
			t.Errorf("on nic0 sit %v, want %v", got, want)
		}
		if uppers, err := filepath.Glob("/sys/class/net/nic0/upper_made"); err != nil || len(uppers) > 0 {
			t.Errorf("sysfs tells of it: %v %v", uppers, err)
		}
	})
}

func childrenOn(t *testing.T, index int, where string) (names []string) {
	t.Helper()
	children, err := host.Linux{Root: "/"}.Children(context.Background())
	if err != nil {
		t.Error(err)
	}
	for _, c := range children {
		if c.Lower != index || c.Kind != "macvlan" || !strings.HasPrefix(c.Where, where) {
			t.Errorf("a child that is none: %+v", c)
			continue
		}
		names = append(names, c.Name)
	}
	slices.Sort(names)
	return names
}
