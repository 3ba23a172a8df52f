//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"eniagent/recovery/chaos/wire"
)

// beganVar carries from PID 1 when it began.
const beganVar = "RIG_BEGAN"

// server answers the host. Every request has a goroutine of its own: some of them block for as long as a test likes.
type server struct {
	in  *json.Decoder
	mu  sync.Mutex // guards what follows: replies are whole, processes are looked up by request
	out *json.Encoder
	run map[uint64]*os.Process
}

func serve() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	s := &server{in: json.NewDecoder(port), out: json.NewEncoder(port), run: map[uint64]*os.Process{}}
	began, _ := strconv.ParseInt(os.Getenv(beganVar), 10, 64)
	if err := os.Unsetenv(beganVar); err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	hello := &wire.Hello{
		Kernel: unix.ByteSliceToString(u.Release[:]),
		BootID: trimmed("/proc/sys/kernel/random/boot_id"),
		Init:   time.Duration(began),
		Up:     uptime(),
	}
	fmt.Fprintf(os.Stderr, "rig: up at %.2fs, of which userspace %.2fs\n", hello.Up.Seconds(), (hello.Up - hello.Init).Seconds())
	s.reply(wire.Reply{Hello: hello})
	for {
		var r wire.Request
		if err := s.in.Decode(&r); err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		go s.answer(r)
	}
}

// openPort finds the host's port by name, since nobody makes /dev/virtio-ports here. The file is left blocking: a
// port that the host has not opened yet is an end of file to a poller.
func openPort() (*os.File, error) {
	if _, err := until(wire.Exists, "/sys/class/virtio-ports/vport*/name", "", 10*time.Second); err != nil {
		return nil, fmt.Errorf("find the port: %w", err)
	}
	list, err := filepath.Glob("/sys/class/virtio-ports/vport*")
	if err != nil {
		return nil, err
	}
	for _, dir := range list {
		if trimmed(dir+"/name") != wire.Port {
			continue
		}
		dev := "/dev/" + filepath.Base(dir)
		fd, err := unix.Open(dev, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", dev, err)
		}
		return os.NewFile(uintptr(fd), dev), nil
	}
	return nil, fmt.Errorf("no port named %s", wire.Port)
}

// reply has nobody to report an error to: without the host the guest is of no use, and the host will end it.
func (s *server) reply(r wire.Reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.out.Encode(r)
}

func (s *server) answer(r wire.Request) {
	if r.Op == wire.Run {
		s.runCommand(r)
		return
	}
	a := wire.Reply{ID: r.ID, Done: true}
	if err := s.do(r, &a); err != nil {
		fail(&a, err)
	}
	s.reply(a)
}

// fail keeps the errno beside the text: that is what a test compares.
func fail(a *wire.Reply, err error) {
	a.Err = err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		a.Errno = int(errno)
	}
}

func (s *server) do(r wire.Request, a *wire.Reply) (err error) {
	switch r.Op {
	case wire.Signal:
		return s.signal(r)
	case wire.Read:
		a.Data, err = os.ReadFile(r.Path)
	case wire.Write:
		err = writeFile(r.Path, r.Data, os.FileMode(r.Perm))
	case wire.Poke:
		err = poke(r.Path, r.Data)
	case wire.Readlink:
		var link string
		link, err = os.Readlink(r.Path)
		a.Data = []byte(link)
	case wire.ReadDir:
		a.Names, err = names(r.Path)
	case wire.Until:
		var seen string
		seen, err = until(r.Test, r.Path, r.Want, r.Within)
		a.Data = []byte(seen)
	case wire.Dmesg:
		a.Data, err = dmesg()
	case wire.Sysrq:
		err = poke("/proc/sysrq-trigger", r.Data)
	case wire.PowerOff:
		err = powerOff()
	default:
		err = fmt.Errorf("unknown operation %q", r.Op)
	}
	return err
}

func powerOff() error {
	unix.Sync()
	// Busy is no reason to stay on: a file system that was synced survives.
	_ = unix.Unmount("/state", 0)
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func (s *server) signal(r wire.Request) error {
	s.mu.Lock()
	p := s.run[r.Target]
	s.mu.Unlock()
	if p == nil {
		return unix.ESRCH
	}
	if r.Group {
		return unix.Kill(-p.Pid, syscall.Signal(r.Signal))
	}
	return p.Signal(syscall.Signal(r.Signal))
}

// stream sends what a program writes until nobody holds the pipe's other end.
func (s *server) stream(from io.Reader, part func([]byte) wire.Reply) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			s.reply(part(buf[:n]))
		}
		if err != nil {
			return
		}
	}
}
