package agent

import (
	"fmt"

	"github.com/go-kit/log"

	"eniagent/agent/source"
	words "eniagent/agent/source/entry"
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

// validate looks at what is given where desired state comes from a file as well:
// it may be switched later.
func (k Kubernetes) validate(p *problems, inUse bool) {
	if k.Node == "" && (inUse || k.PluginNamespace != "") {
		p.bad("node-name", `""`, "want this node's name in Kubernetes, as NODE_NAME has it from spec.nodeName of the pod")
	}
	for _, f := range []struct {
		flag, value string
		check       func(string) error
	}{
		{"node-name", k.Node, nodeeni.CheckNode},
		{"metadata", k.Metadata, nodeeni.CheckMetadata},
		{"kernel-driver", k.KernelDriver, words.CheckDriver},
		{"kubeconfig", k.Kubeconfig, checkConfig},
		{"plugin-namespace", k.PluginNamespace, plugin.CheckNamespace},
	} {
		if f.value == "" {
			continue
		}
		if err := f.check(f.value); err != nil {
			p.bad(f.flag, f.value, "%v", err)
		}
	}
	if err := plugin.CheckSelector(k.PluginSelector); k.PluginNamespace != "" && err != nil {
		p.bad("plugin-selector", k.PluginSelector, "%v", err)
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
