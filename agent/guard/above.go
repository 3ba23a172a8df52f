package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/link"
)

// above refuses to cut what others have on top of a function while they use it:
// its VFs, and netdevs of other network namespaces that sit on its own.
func (g *Guard) above(ctx context.Context, spec drivers.Spec, key drivers.Key, from, to drivers.State, since time.Time) error {
	if !spec.Netdev && spec.Hides == nil || spec.Hides != nil && spec.Hides(from) || raises(key.Kind, from, to) {
		return nil
	}
	if spec.Netdev { // inUse has asked for what takes the netdev away
		dev, err := host.NetdevOf(ctx, g.o.Host, string(key.Target))
		if err != nil {
			return err
		}
		if err := g.parent(ctx, key.Target, dev); err != nil {
			return err
		}
	}
	vfs, err := g.vfsOf(ctx, key.Target)
	if err != nil {
		return err
	}
	for _, vf := range vfs {
		err := g.vfInUse(ctx, vf, since)
		if used := (*Refusal)(nil); errors.As(err, &used) {
			return &Refusal{Rule: used.Rule, Target: key.Target, Why: fmt.Sprintf("its VF %s is in use: %s", vf, used.Why), Remedy: used.Remedy}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *Guard) vfInUse(ctx context.Context, vf drivers.Target, since time.Time) error {
	name, err := host.DriverOf(ctx, g.o.Host, string(vf))
	if errors.Is(err, drivers.ErrGone) || err == nil && name == "" {
		return nil
	}
	if err != nil {
		return err
	}
	driver, _ := g.o.Specs.Find(dpdk.KindDriver)
	return g.inUse(ctx, driver, vf, dpdk.Bound(name), since)
}

// raises says that a change takes nothing from those above: a larger MTU.
func raises(kind drivers.Kind, from, to drivers.State) bool {
	was, err := strconv.Atoi(string(from))
	is, err2 := strconv.Atoi(string(to))
	return kind == link.KindMTU && err == nil && err2 == nil && is > was
}

// vfsOf are the VFs of a function that are there.
func (g *Guard) vfsOf(ctx context.Context, t drivers.Target) ([]drivers.Target, error) {
	names, err := g.o.Host.List(ctx, host.PCIDevices+string(t))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it is still to be made, and so are they
	}
	if err != nil {
		return nil, fmt.Errorf("list VFs of %s: %w", t, err)
	}
	var vfs []drivers.Target
	for _, name := range names {
		if !strings.HasPrefix(name, "virtfn") {
			continue
		}
		vf, err := g.o.Host.Readlink(ctx, host.Attr(string(t), name))
		if err != nil {
			return nil, fmt.Errorf("read VF of %s: %w", t, err)
		}
		vfs = append(vfs, drivers.Target(path.Base(vf)))
	}
	return vfs, nil
}

// parent refuses to cut a netdev that one of another network namespace sits on,
// itself or by a bond or a VLAN.
func (g *Guard) parent(ctx context.Context, t drivers.Target, dev host.Netdev) error {
	if dev.Name == "" {
		return nil
	}
	children, err := g.o.Host.Children(ctx)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return g.refuse(InUse, t, "run the agent with CAP_NET_ADMIN, or as root", "whether a pod has a netdev on %s cannot be asked: %v", dev.Name, err)
	case err != nil:
		return fmt.Errorf("look for netdevs on %s in other network namespaces: %w", dev.Name, err)
	case len(children) == 0:
		return nil
	}
	links, err := g.o.Host.Links(ctx)
	if err != nil {
		return fmt.Errorf("list network devices: %w", err)
	}
	on := upon(links, dev.Index)
	for _, c := range children {
		if on[c.Lower] {
			return g.refuse(InUse, t, "it goes on by itself when that netdev is gone", "%s %s in the network namespace of %s sits on %s", c.Kind, c.Name, c.Where, dev.Name)
		}
	}
	return nil
}

// upon is a netdev and all of this namespace that sit on it.
func upon(links []host.Link, index int) map[int]bool {
	on := map[int]bool{index: true}
	for range links { // each round goes one floor up
		for _, l := range links {
			if on[l.Lower] {
				on[l.Index] = true
			}
			if on[l.Index] && l.Master != 0 {
				on[l.Master] = true
			}
		}
	}
	return on
}
