package agent

import (
	"context"
	"fmt"
	"time"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/dpdk"
)

// lately is how old the kubelet's answer may be where nothing is written by it.
const lately = 250 * time.Millisecond

// podOf is the pod that a function is allocated to; "" is none. While the kubelet
// does not say, it may be any.
func (v View) podOf(ctx context.Context, t drivers.Target) string {
	if v.Allocated == nil {
		return ""
	}
	allocated, err := v.Allocated(ctx, time.Now().Add(-lately))
	if err != nil {
		return fmt.Sprintf("the kubelet does not say which: %v", err)
	}
	return allocated[t]
}

// withPod is the pod that has taken the netdev of a function into its namespace;
// "" is none. Its driver of the kernel is bound then, and shows no netdev here.
func (v View) withPod(ctx context.Context, t drivers.Target, observed plan.Observed) string {
	b, err := dpdk.Parse(observed[drivers.Key{Kind: dpdk.KindDriver, Target: t}].State)
	if err != nil || b.Driver == "" || drivers.Userspace(b.Driver) {
		return ""
	}
	for k, o := range observed {
		spec, _ := v.Drivers.Specs.Find(k.Kind)
		if k.Target == t && spec.Netdev && o.Presence == drivers.Concealed {
			return v.podOf(ctx, t)
		}
	}
	return ""
}
