package kubelet

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"eniagent/drivers"
)

// allocations are the functions in an answer. What several containers have is
// the first one's.
func (c *Client) allocations(ctx context.Context, r *podresources.ListPodResourcesResponse) (map[drivers.Target]string, error) {
	allocated := map[drivers.Target]string{}
	for _, pod := range r.GetPodResources() {
		for _, with := range pod.GetContainers() {
			to := fmt.Sprintf("pod %s/%s, container %s", pod.GetNamespace(), pod.GetName(), with.GetName())
			for _, d := range append(pluginDevices(with), claimedDevices(with)...) {
				functions, as, err := c.functions(ctx, d)
				if err != nil {
					return nil, err
				}
				for _, t := range functions {
					if _, ok := allocated[t]; !ok {
						allocated[t] = to + ", " + as
					}
				}
			}
		}
	}
	return allocated, nil
}

// group is an id that may be an IOMMU group: its number, as KubeVirt's device plugin
// has it, or the node of the group in /dev.
var group = regexp.MustCompile(`^(?:(?:/dev/)?vfio/(?:noiommu-)?)?([0-9]{1,6})$`)

// functions are those that a device is, and what it was allocated as.
func (c *Client) functions(ctx context.Context, d device) ([]drivers.Target, string, error) {
	m := group.FindStringSubmatch(d.id)
	if m == nil || c.groups == nil {
		return functionsIn(d.id), d.as, nil
	}
	functions, err := c.groups(ctx, m[1])
	if err != nil {
		return nil, "", fmt.Errorf("%s has device %s, which may be an IOMMU group: %w", d.as, d.id, err)
	}
	return functions, d.as + ", as IOMMU group " + m[1], nil
}

// device is a device of a container, and what it was allocated as.
type device struct{ id, as string }

func pluginDevices(c *podresources.ContainerResources) (ds []device) {
	for _, d := range c.GetDevices() {
		for _, id := range d.GetDeviceIds() {
			ds = append(ds, device{id, "resource " + d.GetResourceName()})
		}
	}
	return ds
}

// claimedDevices are those of DRA drivers.
func claimedDevices(c *podresources.ContainerResources) (ds []device) {
	for _, d := range c.GetDynamicResources() {
		for _, r := range d.GetClaimResources() {
			as := fmt.Sprintf("claim %s/%s of %s", d.GetClaimNamespace(), d.GetClaimName(), r.GetDriverName())
			ds = append(ds, device{r.GetDeviceName(), as})
			for _, cdi := range r.GetCdiDevices() {
				ds = append(ds, device{cdi.GetName(), as})
			}
		}
	}
	return ds
}

// within is a PCI address in an id, with colons or dashes.
var within = regexp.MustCompile(`([0-9a-f]{4,8})[:-]([0-9a-f]{2})[:-]([01][0-9a-f])[.-]([0-7])`)

// functionsIn are the functions that a device id names. A longer domain may be
// one of four digits after a letter of another word ("vf0000:..."): it is taken
// for both, as a name too many holds nothing that is there.
func functionsIn(id string) (ts []drivers.Target) {
	if t, err := drivers.PCI(id); err == nil {
		return []drivers.Target{t}
	}
	for _, m := range within.FindAllStringSubmatch(strings.ToLower(id), -1) {
		domain, rest := m[1], ":"+m[2]+":"+m[3]+"."+m[4]
		for _, d := range []string{domain, domain[len(domain)-4:]} {
			if t, err := drivers.PCI(d + rest); err == nil {
				ts = append(ts, t)
			}
		}
	}
	return ts
}
