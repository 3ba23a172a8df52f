package agent

import (
	"fmt"
	"net/url"
	"regexp"

	"github.com/go-kit/log"

	"eniagent/agent/source"
	"eniagent/agent/source/file"
	"eniagent/agent/source/nodeeni"
	"eniagent/journal"
)

// Origins are where desired state may come from.
func Origins() []string { return []string{file.Name, nodeeni.Name} }

// Kubernetes is how the source of that name finds its API, and this node in it.
type Kubernetes struct {
	Node         string // this node's name in the API
	Kubeconfig   string // file; "" is the API of the cluster that this is a pod of
	Metadata     string // URL of the instance metadata; "" is where AWS has them
	KernelDriver string // of an ENI; "" is ena
}

var (
	// A node is named as a DNS subdomain, RFC 1123.
	nodeName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	driverName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,54}$`)
)

const maxNodeName = 253

// validate looks at what is given where desired state comes from a file as well:
// it may be switched later.
func (k Kubernetes) validate(p *problems, inUse bool) {
	switch {
	case k.Node == "" && inUse:
		p.bad("node-name", `""`, "want this node's name in Kubernetes, as NODE_NAME has it from spec.nodeName of the pod")
	case k.Node != "" && (len(k.Node) > maxNodeName || !nodeName.MatchString(k.Node)):
		p.bad("node-name", k.Node, "want a node's name: lower case letters, digits, '-' and '.'")
	}
	if u, err := url.Parse(k.Metadata); k.Metadata != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		p.bad("metadata", k.Metadata, "want a URL, such as %s", nodeeni.DefaultMetadata)
	}
	if k.KernelDriver != "" && !driverName.MatchString(k.KernelDriver) {
		p.bad("kernel-driver", k.KernelDriver, "want a driver's name, such as ena")
	}
	if k.Kubeconfig != "" {
		if err := checkConfig(k.Kubeconfig); err != nil {
			p.bad("kubeconfig", k.Kubeconfig, "%v", err)
		}
	}
}

// openSource is where desired state comes from, and what it is called there.
func (o Options) openSource(logger log.Logger) (s source.Source, name, object string, err error) {
	if o.Source != nodeeni.Name {
		return file.New(o.ConfigFile, file.Options{}), file.Name, o.ConfigFile, nil
	}
	k := o.Kubernetes
	c, err := nodeeni.Connect(k.Kubeconfig)
	if err != nil {
		return nil, "", "", err
	}
	s, err = nodeeni.New(nodeeni.Options{Node: k.Node, Config: c, Metadata: k.Metadata, KernelDriver: k.KernelDriver, Logger: logger})
	if err != nil {
		return nil, "", "", fmt.Errorf("open source %s: %w", nodeeni.Name, err)
	}
	return s, nodeeni.Name, nodeeni.Object, nil
}

// InForce is the desired state that an agent kept here last, whatever its
// source; none but its name before there was any.
func InForce(records journal.View, otherwise string) journal.Desired {
	last := journal.Desired{Source: otherwise}
	for _, d := range records.Sources() {
		if d.Updated.After(last.Updated) {
			last = d
		}
	}
	return last
}
