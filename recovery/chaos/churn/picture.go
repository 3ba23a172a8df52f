//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"eniagent/recovery/chaos"
)

// picture is what the kernel has, one line of text for each attribute:
// "0000:01:00.0 mtu" is "1500".
type picture map[string]string

// link is what ip tells of a network device.
type link struct {
	Index    int               `json:"ifindex"`
	Name     string            `json:"ifname"`
	MTU      int               `json:"mtu"`
	Flags    []string          `json:"flags"`
	MAC      string            `json:"address"`
	AltNames []string          `json:"altnames"`
	VFs      []json.RawMessage `json:"vfinfo_list"`
}

// look takes the picture of the PFs and of their VFs.
func (n *node) look(ctx context.Context) (picture, error) {
	p := picture{}
	modules, err := n.vm.ReadText(ctx, "/proc/modules")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(modules) {
		name, _, _ := strings.Cut(line, " ")
		p["module "+name] = "loaded"
	}
	said, err := n.output(ctx, "/bin/ip", "-d", "-j", "link", "show")
	if err != nil {
		return nil, err
	}
	var links []link
	if err := json.Unmarshal([]byte(said), &links); err != nil {
		return nil, fmt.Errorf("ip link: %w", err)
	}
	for _, pf := range n.pfs {
		if err := n.function(ctx, p, pf.Addr, links); err != nil {
			return nil, err
		}
		for i := 0; ; i++ {
			to, err := n.vm.Readlink(ctx, pf.Sysfs(fmt.Sprintf("virtfn%d", i)))
			if errors.Is(err, fs.ErrNotExist) {
				break
			}
			if err != nil {
				return nil, err
			}
			if err := n.function(ctx, p, path.Base(to), links); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// function adds one function to a picture.
func (n *node) function(ctx context.Context, p picture, addr string, links []link) error {
	for _, file := range []string{"driver_override", "sriov_numvfs", "sriov_drivers_autoprobe"} {
		text, err := n.vm.ReadText(ctx, chaos.Sysfs(addr, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // of a VF
		}
		if err != nil {
			return err
		}
		p[addr+" "+file] = text
	}
	driver, err := n.vm.Readlink(ctx, chaos.Sysfs(addr, "driver"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p[addr+" driver"] = path.Base(driver)
	names, err := n.vm.ReadDir(ctx, chaos.Sysfs(addr, "net"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	at := slices.IndexFunc(links, func(l link) bool { return l.Name == names[0] })
	if at < 0 {
		return fmt.Errorf("ip link tells nothing of %s", names[0])
	}
	return n.netdev(ctx, p, addr, links[at])
}

// netdev adds the network device of a function to a picture.
func (n *node) netdev(ctx context.Context, p picture, addr string, l link) error {
	p[addr+" name"], p[addr+" mtu"] = l.Name, fmt.Sprint(l.MTU)
	// A VF's permanent address is what its PF had for it when it was probed: nobody can set it.
	p[addr+" mac"] = l.MAC
	p[addr+" up"] = fmt.Sprint(slices.Contains(l.Flags, "UP"))
	p[addr+" altnames"] = strings.Join(slices.Sorted(slices.Values(l.AltNames)), " ")
	for i, vf := range l.VFs {
		p[fmt.Sprintf("%s vf %d", addr, i)] = string(vf)
	}
	for what, option := range map[string]string{"features": "-k", "rings": "-g", "channels": "-l"} {
		res, err := n.vm.Run(ctx, chaos.Command("/bin/ethtool", option, l.Name))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(res.Stdout)) {
			name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
			// What is active of a feature follows from the link and from others; what is asked for is in brackets.
			if ok && what == "features" {
				p[addr+" feature "+name] = value
			}
		}
		_, values, _ := strings.Cut(string(res.Stdout), "\n") // the first line is about the name
		if what != "features" && res.OK() {
			p[addr+" "+what] = strings.Join(strings.Fields(values), " ")
		}
	}
	return nil
}

// differences are the lines in which two pictures differ. Of a function or a
// network device that only one of them has, it is one line.
func (p picture) differences(after picture) (all []string) {
	keys := maps.Clone(p)
	maps.Copy(keys, after)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		was, is := p.value(key), after.value(key)
		if was != is && !p.implies(after, key) && !after.implies(p, key) {
			all = append(all, fmt.Sprintf("%s was %s, is %s", key, was, is))
		}
	}
	return all
}

func (p picture) value(key string) string {
	if v, ok := p[key]; ok {
		return fmt.Sprintf("%q", v)
	}
	return "not there"
}

// implies says that the other picture lacks an attribute because it lacks what has it.
func (p picture) implies(other picture, key string) bool {
	addr, attribute, _ := strings.Cut(key, " ")
	has := func(q picture, attribute string) bool { _, ok := q[addr+" "+attribute]; return ok }
	switch attribute {
	case "driver":
		return false
	case "driver_override", "sriov_numvfs", "sriov_drivers_autoprobe":
		return has(p, "driver") && !has(other, "driver")
	case "name":
		return has(p, "driver") && !has(other, "driver")
	}
	return has(p, "name") && !has(other, "name")
}
