package file

import (
	"fmt"

	"go.yaml.in/yaml/v4"

	"eniagent/agent/source"
	"eniagent/drivers"
)

const wantPool = "want the name of a resource of the device plugin, prefix/name, such as intel.com/sriov_dpdk: a DNS subdomain, then letters, digits, '-' and '_'"

func setPool(e *source.Interface, n *yaml.Node) bool {
	e.Pool = n.Value
	_, err := drivers.FileEntry("/x", n.Value)
	return text(n) && err == nil
}

// member is a function that says both its pool and its driver.
type member struct {
	driver string
	line   int
}

// oneDriver refuses two functions of one pool that ask for different drivers: a
// program that is given one of them could not know which.
func (p *parser) oneDriver(list []source.Interface, lines map[source.Selector]int) {
	first := map[string]member{}
	check := func(path string, line int, pool, driver, remedy string) {
		is, known := first[pool]
		switch {
		case pool == "" || driver == "":
		case !known:
			first[pool] = member{driver, line}
		case is.driver != driver:
			p.problems.add(line, join(path, "pool"), &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: pool},
				fmt.Sprintf("its function on line %d is asked to be on %s, this one on %s; give one of them another pool%s", is.line, is.driver, driver, remedy))
		}
	}
	for i, e := range list {
		path, line := fmt.Sprintf("interfaces[%d]", i), lines[e.Selector]
		check(path, line, e.Pool, e.Driver, "")
		if e.VFs == nil {
			continue
		}
		for n := range e.VFs.Count {
			vf := e.VFs.Of(n)
			problems := len(p.problems)
			check(fmt.Sprintf("%s.vfs, VF %d", path, n), line, vf.Pool, vf.Driver, ", or in its override \"pool: none\"")
			if len(p.problems) > problems {
				break // once says it
			}
		}
	}
}
