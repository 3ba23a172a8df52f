package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Child is a netdev in another network namespace that sits on one of this, as
// the macvlan of a pod does.
type Child struct {
	Lower int    `json:"lower"` // ifindex of what it sits on, here
	Name  string `json:"name"`  // there
	Kind  string `json:"kind"`  // "macvlan", "ipvlan", "vlan", ...
	Where string `json:"where"` // whose namespace that is: "nginx (pid 17, pod 6f1c...)", "/run/netns/blue"
}

// nsfs are where namespaces are kept that may have no process.
func nsfs() []string { return []string{"/run/netns", "/run/docker/netns"} }

// Children are found by asking in every other network namespace. Nothing in
// this one tells of them: sysfs has links to neighbours of the same namespace
// only (netdev_adjacent_add_links, net/core/dev.c), and so does RTM_GETLINK.
//
// A namespace is asked by its id here (IFLA_TARGET_NETNSID, Linux 4.17), which
// wants CAP_NET_ADMIN and, unlike to enter it, nothing else. One that has none is
// given one, as `ip netns` does.
func (l Linux) Children(ctx context.Context) ([]Child, error) {
	spaces, err := l.namespaces(ctx)
	if err != nil {
		return nil, err
	}
	var all []Child
	for _, s := range spaces {
		if all, err = s.add(all); err != nil {
			return nil, fmt.Errorf("look into the network namespace of %s: %w", s.where(), err)
		}
	}
	return all, nil
}

// namespace is another network namespace.
type namespace struct {
	id    int
	where func() string
}

// add appends the netdevs of a namespace that sit on one of this. Those of one
// that has gone are none.
func (s namespace) add(all []Child) ([]Child, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(s.id))))
	messages, err := complete(func() ([][]byte, error) { return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK) })
	if errors.Is(err, unix.EINVAL) {
		return all, nil // the id of none
	}
	if err != nil {
		return nil, err
	}
	own, err := ownNetns() // the kernel gives it an id when it has to tell of it
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		link, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, fmt.Errorf("decode link: %w", err)
		}
		a := link.Attrs()
		if own >= 0 && a.NetNsID == own && a.ParentIndex > 0 && !paired(link.Type()) {
			all = append(all, Child{Lower: a.ParentIndex, Name: a.Name, Kind: link.Type(), Where: s.where()})
		}
	}
	return all, nil
}

// ownNetns is the id of this namespace in itself, -1 when it has none.
func ownNetns() (int, error) { return netlink.GetNetNsIdByPid(unix.Gettid()) }

// namespaces are the other network namespaces: of all processes, and those that
// are kept by name.
func (l Linux) namespaces(ctx context.Context) ([]namespace, error) {
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("read own network namespace: %w", err)
	}
	f := finding{seen: map[string]bool{own: true}}
	// The pids that the kernel takes are those of this process's own /proc.
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, p := range processes {
		if pid, err := strconv.Atoi(p.Name()); err == nil {
			if err := f.process(ctx, l, pid); err != nil {
				return nil, err
			}
		}
	}
	for _, dir := range nsfs() {
		names, err := l.List(ctx, dir)
		if err != nil {
			continue // there are none
		}
		for _, name := range names {
			if err := f.named(l, filepath.Join(dir, name)); err != nil {
				return nil, err
			}
		}
	}
	return f.found, nil
}

// finding is the namespaces that were found so far.
type finding struct {
	seen  map[string]bool // "net:[4026531840]"
	found []namespace
}

// process finds that of a process. Where the link may not be read, the id does.
func (f *finding) process(ctx context.Context, l Linux, pid int) error {
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err == nil && f.seen[name] || ended(err) {
		return nil
	}
	f.seen[name] = err == nil
	return f.take(
		func() (int, error) { return netlink.GetNetNsIdByPid(pid) },
		func() error { return netlink.SetNetNsIdByPid(pid, -1) },
		func() string { return holder(ctx, l, strconv.Itoa(pid)) },
	)
}

// named finds one that is kept in a file.
func (f *finding) named(l Linux, path string) error {
	file, err := os.Open(l.path(path))
	if err != nil {
		return nil //nolint:nilerr // it went, or is no namespace
	}
	defer func() { _ = file.Close() }()
	name, err := os.Readlink(fmt.Sprintf("/proc/thread-self/fd/%d", file.Fd()))
	var st unix.Stat_t
	if err != nil || unix.Fstat(int(file.Fd()), &st) != nil || f.seen[fmt.Sprintf("net:[%d]", st.Ino)] {
		return nil //nolint:nilerr // the same
	}
	f.seen[name] = true
	return f.take(
		func() (int, error) { return netlink.GetNetNsIdByFd(int(file.Fd())) },
		func() error { return netlink.SetNetNsIdByFd(int(file.Fd()), -1) },
		func() string { return path },
	)
}

// take adds a namespace by its id, unless it is there.
func (f *finding) take(get func() (int, error), set func() error, where func() string) error {
	id, err := get()
	if err == nil && id < 0 {
		if err = set(); err == nil || errors.Is(err, unix.EEXIST) {
			id, err = get()
		}
	}
	switch {
	case ended(err), errors.Is(err, unix.EINVAL), err == nil && id < 0:
		return nil // it ended, or is a file that is no namespace
	case err != nil:
		return fmt.Errorf("ask for the id of the network namespace of %s: %w", where(), err)
	}
	if !slices.ContainsFunc(f.found, func(s namespace) bool { return s.id == id }) {
		f.found = append(f.found, namespace{id, where})
	}
	return nil
}
