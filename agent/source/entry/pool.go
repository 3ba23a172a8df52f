package entry

import (
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"

	"eniagent/agent/source"
	"eniagent/drivers"
)

const wantPool = "want the name of a resource of the device plugin, prefix/name, such as intel.com/sriov_dpdk: a DNS subdomain, then letters, digits, '-' and '_'"

// resourceName is what may follow the '/': the kubelet wants a qualified name, of
// which the plugin takes no dots.
var resourceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$`)

// Resource says whether the kubelet takes a name for an extended resource's:
// none of Kubernetes' own, and a qualified name with "requests." before it too,
// as a quota has it (IsExtendedResourceName of pkg/apis/core/v1/helper).
func Resource(name string) bool {
	const quota, maxPrefix = "requests.", 253
	prefix, resource, _ := strings.Cut(name, "/")
	return resourceName.MatchString(resource) && len(quota)+len(prefix) <= maxPrefix &&
		!strings.HasPrefix(name, quota) && !strings.Contains(name, "kubernetes.io/")
}

func setPool(e *source.Interface, n *yaml.Node) bool {
	e.Pool = n.Value
	_, err := drivers.FileEntry("/x", n.Value)
	return text(n) && err == nil && Resource(n.Value)
}

// member is a function that says both its pool and its driver.
type member struct {
	driver string
	place  place
}

// oneDriver refuses two functions of one pool that ask for different drivers: a
// program that is given one of them could not know which.
func (p *parser) oneDriver(list []source.Interface, places map[source.Selector]place) {
	first := map[string]member{}
	check := func(path string, at place, pool, driver, remedy string) {
		is, known := first[pool]
		switch {
		case pool == "" || driver == "":
		case !known:
			first[pool] = member{driver, at}
		case is.driver != driver:
			p.problems.add(at.line, join(path, "pool"), &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: pool},
				fmt.Sprintf("its function %s is asked to be on %s, this one on %s; give one of them another pool%s", is.place, is.driver, driver, remedy))
		}
	}
	for _, e := range list {
		at := places[e.Selector]
		check(at.path, at, e.Pool, e.Driver, "")
		if e.VFs == nil {
			continue
		}
		for n := range e.VFs.Count {
			vf := e.VFs.Of(n)
			problems := len(p.problems)
			check(fmt.Sprintf("%s.vfs, VF %d", at.path, n), at, vf.Pool, vf.Driver, ", or in its override \"pool: none\"")
			if len(p.problems) > problems {
				break // once says it
			}
		}
	}
}
