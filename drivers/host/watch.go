package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"eniagent/drivers"
	"eniagent/supervise"
)

// Watch listens to kernel uevents of PCI functions, drivers and netdevs and to
// link changes. A full receive buffer is an Event "lost". The channel closes
// when ctx ends, or a socket fails: then nobody would notice what happens.
func (l Linux) Watch(ctx context.Context) (<-chan Event, error) {
	uevents, err := openUevents()
	if err != nil {
		return nil, err
	}
	links, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return nil, fmt.Errorf("subscribe to links: %w", errors.Join(err, uevents.Close()))
	}
	out := make(chan Event, 64)
	ctx, failed := context.WithCancel(ctx)
	owner := supervise.Of(ctx)
	readers := owner.Below("kernel events")
	readers.Go("uevents", func() {
		defer failed()
		readUevents(ctx, uevents, out)
	})
	readers.Go("links", func() {
		defer failed()
		l.readLinks(ctx, links, out)
	})
	owner.Go("kernel events", func() {
		<-ctx.Done()
		_ = uevents.Close() // both end a read
		links.Close()
		readers.Wait()
		close(out)
	})
	return out, nil
}

// readLinks sends an event for each link that changes. The socket goes on when
// its buffer was too small.
func (l Linux) readLinks(ctx context.Context, s *nl.NetlinkSocket, out chan<- Event) {
	for ctx.Err() == nil {
		messages, from, err := s.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			send(ctx, out, Event{What: EventLost})
			continue
		case err != nil:
			return // closed
		case from.Pid != nl.PidKernel:
			continue
		}
		for _, m := range messages {
			if m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK {
				continue
			}
			link, err := netlink.LinkDeserialize(nil, m.Data)
			if err != nil {
				send(ctx, out, Event{What: EventLost})
				continue
			}
			// Of one that is gone by now the kernel's uevent names the function.
			send(ctx, out, Event{Target: l.pciOf(ctx, link.Attrs().Name), What: EventLink})
		}
	}
}

func send(ctx context.Context, out chan<- Event, e Event) {
	select {
	case out <- e:
	case <-ctx.Done():
	}
}

// pciOf is the PCI function behind a netdev; "" when there is none.
func (l Linux) pciOf(ctx context.Context, name string) drivers.Target {
	link, err := l.Readlink(ctx, SysNet+name)
	if err != nil {
		return ""
	}
	return LastPCI(link)
}

// LastPCI is the innermost PCI address in a path of /sys/devices.
func LastPCI(path string) drivers.Target {
	parts := strings.Split(path, "/")
	for i := len(parts) - 1; i >= 0; i-- {
		if t := drivers.Target(parts[i]); strings.Contains(parts[i], ":") {
			if _, ok := t.PCIAddress(); ok {
				return t
			}
		}
	}
	return ""
}

// openUevents opens the kernel's uevent socket (lib/kobject_uevent.c, group 1).
func openUevents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open uevent socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return nil, fmt.Errorf("bind uevent socket: %w", errors.Join(err, unix.Close(fd)))
	}
	return os.NewFile(uintptr(fd), "uevent"), nil
}

func readUevents(ctx context.Context, f *os.File, out chan<- Event) {
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		n, err := f.Read(buf)
		var e Event
		switch {
		case errors.Is(err, unix.ENOBUFS):
			e = Event{What: EventLost}
		case err != nil:
			return // closed
		default:
			var relevant bool
			if e, relevant = parseUevent(buf[:n]); !relevant {
				continue
			}
		}
		send(ctx, out, e)
	}
}

// parseUevent reads "action@devpath\0KEY=value\0...". Only PCI functions, their
// netdevs, drivers and modules concern the agent.
func parseUevent(message []byte) (Event, bool) {
	head, rest, _ := bytes.Cut(message, []byte{0})
	action, devpath, ok := strings.Cut(string(head), "@")
	if !ok {
		return Event{}, false
	}
	subsystem := ""
	for field := range bytes.SplitSeq(rest, []byte{0}) {
		if s, ok := strings.CutPrefix(string(field), "SUBSYSTEM="); ok {
			subsystem = s
		}
	}
	e := Event{What: action}
	switch subsystem {
	case "pci":
		e.Target = LastPCI(devpath)
	case "net":
		e.Target, e.What = LastPCI(devpath), EventLink
	case "module":
		e.Target, _ = drivers.Module(strings.TrimPrefix(devpath, "/module/"))
	case "drivers":
		if name, ok := strings.CutPrefix(devpath, "/bus/pci/drivers/"); ok {
			e.Driver = name
		}
	}
	return e, e.Target != "" || e.Driver != ""
}
