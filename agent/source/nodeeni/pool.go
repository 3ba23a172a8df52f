package nodeeni

import (
	"strings"

	"eniagent/agent/source"
	"eniagent/agent/source/entry"
	"eniagent/agent/source/nodeeni/v1alpha1"
	"eniagent/drivers"
)

// defaultPrefix is the device plugin's own for a resource that has none.
const defaultPrefix = "intel.com"

// poolOf is the resource of the device plugin that an object's interfaces are
// in; "" is none.
func poolOf(s v1alpha1.NodeENISpec) (string, *source.Problem) {
	if s.DPDKResourceName == "" {
		return "", nil
	}
	name := s.DPDKResourceName
	if !strings.Contains(name, "/") {
		name = defaultPrefix + "/" + name
	}
	// The file does not matter: what a resource may be called is the same in all.
	if _, err := drivers.FileEntry("/config.json", name); err != nil || !entry.Resource(name) {
		return "", wrong("spec.dpdkResourceName", s.DPDKResourceName, "want prefix/name, a DNS subdomain and letters, digits, '-' and '_', such as intel.com/sriov")
	}
	return name, nil
}

// pooled puts an interface into its pool.
func pooled(i *source.Interface, s v1alpha1.NodeENISpec) (p *source.Problem) {
	i.Pool, p = poolOf(s)
	return p
}
