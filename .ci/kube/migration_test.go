package kube

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// theirs is all that the predecessor's node agent can be told, by its flags, its
// environment, its manifests and its chart.
//
//nolint:gochecknoglobals // a table
var theirs = []string{
	"--check-interval", "--primary-interface", "--debug", "--eni-pattern", "ENI_PATTERN", "--ignore-interfaces", "IGNORE_INTERFACES",
	"--use-netlink", "NODE_NAME", "DPDK_BINDING_SCRIPT", "SRIOV_DP_CONFIG_PATH", "ENABLE_DPDK", "DEFAULT_DPDK_DRIVER", "DPDK_RESOURCE_NAMES",
	"DEFAULT_MTU", "INTERFACE_MTUS", "INTERFACE_UP_TIMEOUT", "INTERFACE_MAPPING_STORE_PATH", "LOG_LEVEL", "METRICS_PORT", "AWS_REGION", "AWS_*",
	"IMDS_*", "COMPONENT",
	"eni-controller-system", "eni-controller", "privileged", "hostNetwork", "hostPID", "nodeSelector", "tolerations", "resources", "/sys", "/proc", "/run",
	"/etc/pcidp", "dpdk-tools", "dpdk-setup", "/usr/bin/dpdk-devbind.py", "/etc/modules-load.d/dpdk.conf", "/etc/modprobe.d/dpdk.conf",
	"enable_unsafe_noiommu_mode", "updateStrategy", "priorityClassName",
	"defaultMTU", "checkInterval", "debug", "eniPattern", "ignoreInterfaces", "useNetlink", "dpdk.enabled", "dpdk.driver", "dpdk.bindingScript",
	"dpdk.sriovDPConfigPath", "dpdk.resourceNames", "metrics.enabled", "metrics.port", "imds.*", "logLevel", "dpdk.aws.k8s/loaded",
}

// TestAllOfTheOldOneIsMapped: each thing that it could be told is in a row of its
// own or with others, and the row says what ours is, or that there is none and
// why.
func TestAllOfTheOldOneIsMapped(t *testing.T) {
	text, err := os.ReadFile(kustomization + "/MIGRATION.md")
	must(t, err)
	quoted := regexp.MustCompile("`([^`]+)`")
	flag := regexp.MustCompile(`--[a-z-]+`)
	known := runFlags(t)
	var told []string
	for line := range strings.SplitSeq(string(text), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || strings.Contains(line, "---") {
			continue
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			told = append(told, m[1])
		}
		ours, why := strings.TrimSpace(cells[2]), strings.TrimSpace(cells[3])
		if ours == "" || strings.HasPrefix(ours, "none") && why == "" {
			t.Errorf("says neither what ours is nor why there is none: %s", line)
		}
		for _, f := range flag.FindAllString(ours, -1) {
			if _, ok := known[f]; !ok {
				t.Errorf("the agent has no %s: %s", f, line)
			}
		}
	}
	for _, name := range theirs {
		if !slices.Contains(told, name) {
			t.Errorf("MIGRATION.md does not say what became of %s", name)
		}
	}
}

// TestTheGuideNamesWhatIsThere: files, directories and values.
func TestTheGuideNamesWhatIsThere(t *testing.T) {
	text, err := os.ReadFile(kustomization + "/MIGRATION.md")
	must(t, err)
	values, err := os.ReadFile(chart + "/values.yaml")
	must(t, err)
	paths := regexp.MustCompile(`deploy/[a-z/-]+|components/[a-z]+|examples/[a-z-]+\.yaml|base/[a-z]+\.yaml`).FindAllString(string(text), -1)
	if len(paths) < 8 {
		t.Fatalf("the guide names %q only", paths)
	}
	for _, path := range paths {
		at := kustomization + "/" + path
		if strings.HasPrefix(path, "deploy/") {
			at = root + "/" + path
		}
		if _, err := os.Stat(at); err != nil {
			t.Error(err)
		}
	}
	for _, m := range regexp.MustCompile("\\(`([a-zA-Z]+)(?:\\.([a-zA-Z]+))?`").FindAllStringSubmatch(string(text), -1) {
		if !regexp.MustCompile(`(?m)^`+m[1]+`:`).Match(values) || m[2] != "" && !regexp.MustCompile(`(?m)^  `+m[2]+`:`).Match(values) {
			t.Errorf("the chart has no value %s", strings.Trim(m[0], "(`"))
		}
	}
}
