package host_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"eniagent/drivers/host"
)

// mapped is how much of files this process has mapped and resident, in kB.
func mapped(t *testing.T) (kb int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return kb
}

// TestForgetStart: less is resident, and all of the program still works.
func TestForgetStart(t *testing.T) {
	before := mapped(t)
	for range 3 {
		if err := host.ForgetStart(); err != nil {
			t.Fatal(err)
		}
	}
	if after := mapped(t); after > before*3/4 {
		t.Errorf("%d kB of files are resident, %d before", after, before)
	}
}
