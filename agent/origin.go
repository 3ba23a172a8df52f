package agent

import (
	"fmt"
	"net/url"
	"regexp"

	"github.com/go-kit/log"

	"eniagent/agent/source"
	"eniagent/agent/source/file"
	"eniagent/agent/source/nodeeni"
	"eniagent/agent/source/nodeeni/plugin"
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
	// PluginNamespace and PluginSelector are where the pods of the SR-IOV device
	// plugin are, and their labels; without a namespace it is not restarted.
	PluginNamespace string
	PluginSelector  string
}

// DefaultPluginSelector is the label that the device plugin's own manifests have.
const DefaultPluginSelector = "name=sriov-device-plugin"

var (
	// A node is named as a DNS subdomain, RFC 1123.
	nodeName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	namespace  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`) // a DNS label
	driverName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,54}$`)
)

const (
	maxNodeName  = 253
	maxNamespace = 63
)

// validate looks at what is given where desired state comes from a file as well:
// it may be switched later.
func (k Kubernetes) validate(p *problems, inUse bool) {
	switch {
	case k.Node == "" && (inUse || k.PluginNamespace != ""):
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
	if k.PluginNamespace != "" && (len(k.PluginNamespace) > maxNamespace || !namespace.MatchString(k.PluginNamespace)) {
		p.bad("plugin-namespace", k.PluginNamespace, "want a namespace's name: lower case letters, digits and '-'")
	}
	if err := plugin.CheckSelector(k.PluginSelector); k.PluginNamespace != "" && err != nil {
		p.bad("plugin-selector", k.PluginSelector, "%v", err)
	}
	if k.Kubeconfig != "" {
		if err := checkConfig(k.Kubeconfig); err != nil {
			p.bad("kubeconfig", k.Kubeconfig, "%v", err)
		}
	}
}

// origin is where desired state comes from, what it is called there, and who
// restarts the device plugin.
type origin struct {
	source       source.Source
	name, object string
	plugin       source.Restarter // nil restarts none
}

func (o Options) openSource(logger log.Logger) (from origin, err error) {
	k := o.Kubernetes
	from = origin{source: file.New(o.ConfigFile, file.Options{}), name: file.Name, object: o.ConfigFile}
	if o.Source != nodeeni.Name && k.PluginNamespace == "" {
		return from, nil
	}
	c, err := nodeeni.Connect(k.Kubeconfig)
	if err != nil {
		return from, err
	}
	if k.PluginNamespace != "" {
		from.plugin, err = plugin.New(plugin.Options{Config: c, Node: k.Node, Namespace: k.PluginNamespace, Selector: k.PluginSelector, Logger: logger})
		if err != nil {
			return from, fmt.Errorf("restart the device plugin: %w", err)
		}
	}
	if o.Source == nodeeni.Name {
		from.name, from.object = nodeeni.Name, nodeeni.Object
		from.source, err = nodeeni.New(nodeeni.Options{Node: k.Node, Config: c, Metadata: k.Metadata, KernelDriver: k.KernelDriver, Logger: logger})
		if err != nil {
			return from, fmt.Errorf("open source %s: %w", nodeeni.Name, err)
		}
	}
	return from, nil
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
