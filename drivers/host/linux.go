package host

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// maxRead bounds a file that is read whole; modules.dep of a distribution
// kernel is about 0.5 MiB.
const maxRead = 8 << 20

// Linux is the kernel this process runs on. Every method makes its system
// calls in the calling thread, so whatever can block belongs behind a Pool.
type Linux struct {
	// Root is put before every path: "/" on a node, "/host" where a container
	// has the node's file system there.
	Root string
}

func (l Linux) path(p string) string { return filepath.Join(l.Root, p) }

// Read is the content of a small file, without its trailing newline.
func (l Linux) Read(_ context.Context, path string) (string, error) {
	f, err := os.Open(l.path(path))
	if err != nil {
		return "", err
	}
	if isConfig(path) {
		b, err := io.ReadAll(io.LimitReader(f, configHead))
		return hex.EncodeToString(b), errors.Join(err, f.Close())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	if len(b) > maxRead {
		return "", fmt.Errorf("read %s: more than %d bytes", path, maxRead)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

// configHead is how much of a function's config space is read: vendor and
// device. All of it is slow, and on some devices not harmless.
const configHead = 4

func isConfig(path string) bool {
	return strings.HasPrefix(path, PCIDevices) && filepath.Base(path) == "config"
}

// Readlink is the text of a symbolic link.
func (l Linux) Readlink(_ context.Context, path string) (string, error) {
	return os.Readlink(l.path(path))
}

// List is the sorted names in a directory.
func (l Linux) List(_ context.Context, path string) ([]string, error) {
	entries, err := os.ReadDir(l.path(path))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Inode is the inode number of the file that path names, links followed.
func (l Linux) Inode(_ context.Context, path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(l.path(path), &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// Attributes that the netlink package does not decode (linux/if_link.h).
const (
	iflaMinMTU = 50
	iflaMaxMTU = 51
)

// Links dumps the network devices of this network namespace.
func (l Linux) Links(ctx context.Context) ([]Link, error) {
	links, _, err := l.dumpLinks(ctx)
	return links, err
}

// dumpLinks are the links, and the messages that they were read from.
func (l Linux) dumpLinks(ctx context.Context) ([]Link, [][]byte, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	messages, err := complete(func() ([][]byte, error) { return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK) })
	if err != nil {
		return nil, nil, fmt.Errorf("dump links: %w", err)
	}
	eth, err := ethtool.NewEthtool()
	if err != nil {
		return nil, nil, fmt.Errorf("open ethtool socket: %w", err)
	}
	defer eth.Close()
	links := make([]Link, 0, len(messages))
	for _, m := range messages {
		link, err := l.link(ctx, m, eth)
		if err != nil {
			return nil, nil, err
		}
		links = append(links, link)
	}
	slices.SortFunc(links, func(a, b Link) int { return a.Index - b.Index })
	return links, messages, nil
}

// complete asks again while a dump was interrupted by a change: it may be
// incomplete then (NLM_F_DUMP_INTR).
func complete[T any](dump func() (T, error)) (T, error) {
	for range 10 {
		if got, err := dump(); !errors.Is(err, nl.ErrDumpInterrupted) {
			return got, err
		}
	}
	return dump()
}

func (l Linux) link(ctx context.Context, message []byte, eth *ethtool.Ethtool) (Link, error) {
	decoded, err := netlink.LinkDeserialize(nil, message)
	if err != nil {
		return Link{}, fmt.Errorf("decode link: %w", err)
	}
	a := decoded.Attrs()
	link := Link{
		Index: a.Index, Name: a.Name, AltNames: a.AltNames, Up: a.Flags&net.FlagUp != 0,
		Oper: a.OperState.String(), MTU: a.MTU, MAC: a.HardwareAddr.String(),
		PermMAC: a.PermHWAddr.String(), Master: a.MasterIndex,
	}
	if kind := decoded.Type(); kind != "device" {
		link.Kind = kind
	}
	// An index of another namespace is that of something else in this one.
	switch link.Elsewhere = a.NetNsID >= 0; {
	case link.Elsewhere || a.ParentIndex == a.Index:
	case paired(link.Kind):
		link.Peer = a.ParentIndex
	default:
		link.Lower = a.ParentIndex
	}
	link.MinMTU, link.MaxMTU = mtuLimits(message)
	// Virtual devices have no bus info or permanent address; older kernels do
	// not send the latter over netlink.
	if bus, err := eth.BusInfo(a.Name); err == nil {
		link.Bus = bus
	}
	if link.PermMAC == "" && link.Bus != "" {
		if mac, err := eth.PermAddr(a.Name); err == nil && mac != "00:00:00:00:00:00" {
			link.PermMAC = mac
		}
	}
	off, err := l.Read(ctx, "/proc/sys/net/ipv6/conf/"+a.Name+"/disable_ipv6")
	link.IPv6 = err == nil && off == "0"
	return link, nil
}

// paired says that a netdev of a kind has a peer, which the kernel gives in the
// attribute of a lower device.
func paired(kind string) bool { return kind == "veth" || kind == "netkit" || kind == "vxcan" }

func mtuLimits(message []byte) (lowest, highest int) {
	attrs, err := nl.ParseRouteAttr(message[unix.SizeofIfInfomsg:])
	if err != nil {
		return 0, 0
	}
	for _, a := range attrs {
		if len(a.Value) < 4 {
			continue
		}
		switch a.Attr.Type {
		case iflaMinMTU:
			lowest = int(nl.NativeEndian().Uint32(a.Value))
		case iflaMaxMTU:
			highest = int(nl.NativeEndian().Uint32(a.Value))
		}
	}
	return lowest, highest
}

// Do makes one write in the calling thread.
func (l Linux) Do(_ context.Context, c Call) error {
	switch c.Op {
	case OpSysfs:
		return writeOnce(l.path(c.Path), c.Value)
	case OpMTU:
		return netlink.LinkSetMTU(byIndex(c.Index), c.Number)
	case OpAdmin:
		if c.Number == 1 {
			return netlink.LinkSetUp(byIndex(c.Index))
		}
		return netlink.LinkSetDown(byIndex(c.Index))
	case OpName:
		return netlink.LinkSetName(byIndex(c.Index), c.Value)
	case OpMAC:
		mac, err := net.ParseMAC(c.Value)
		if err != nil {
			return fmt.Errorf("%w: %w", unix.EINVAL, err)
		}
		return netlink.LinkSetHardwareAddr(byIndex(c.Index), mac)
	case OpAltName:
		if c.Number == 1 {
			return netlink.LinkAddAltName(byIndex(c.Index), c.Value)
		}
		return netlink.LinkDelAltName(byIndex(c.Index), c.Value)
	case OpChannels, OpRings, OpFeature:
		return onNetdev(c.Index, func(eth *ethtool.Ethtool, name string) error { return set(eth, name, c) })
	case OpVFMAC, OpVFVLAN, OpVFTrust, OpVFSpoofCheck, OpVFState, OpVFRate:
		return setVF(c)
	case OpLoad:
		return loadModule(l.path(c.Path), c.Value)
	case OpUnload:
		return os.NewSyscallError("delete_module", unix.DeleteModule(c.Value, unix.O_NONBLOCK))
	case OpReplace:
		return replace(l.path(c.Path), c.Value, c.Was)
	case OpSync:
		return syncFile(l.path(c.Path))
	default:
		return fmt.Errorf("%s: %w", c, unix.EOPNOTSUPP)
	}
}

func byIndex(i int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: i, Name: "index " + strconv.Itoa(i)}}
}

// writeOnce writes value in a single write(2): sysfs takes each write as a
// whole command, and its errno is the answer.
func writeOnce(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	n, err := unix.Write(fd, []byte(value))
	closed := unix.Close(fd)
	switch {
	case err != nil:
		return &fs.PathError{Op: "write", Path: path, Err: err}
	case n != len(value):
		return &fs.PathError{Op: "write", Path: path, Err: io.ErrShortWrite}
	case closed != nil:
		return &fs.PathError{Op: "close", Path: path, Err: closed}
	}
	return nil
}
