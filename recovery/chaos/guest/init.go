//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"eniagent/recovery/chaos/wire"
)

// machineID is constant: a guest that lost its identity at each boot would look like another node.
const machineID = "6e6961676e740000000000000000feed\n"

// initialise is PID 1. What it starts does the work, so that waiting for any child here, which reaps the orphans that
// killed programs leave, never takes an exit status from somebody who waits for it.
func initialise() {
	began := uptime()
	child, systemd, err := boot(began)
	if err == nil && systemd {
		err = fmt.Errorf("become systemd: %w", syscall.Exec("/sbin/init", []string{"/sbin/init"}, environment()))
	}
	if err != nil {
		die(err)
	}
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if pid == child {
			die(fmt.Errorf("the server has exited"))
		}
		if err != nil && err != unix.EINTR {
			die(fmt.Errorf("wait for a child: %w", err))
		}
	}
}

// die says why on the console and ends the machine: the host sees QEMU exit.
func die(err error) {
	fmt.Fprintf(os.Stderr, "rig: %v\n", err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// boot returns the server's PID, and whether systemd is to be PID 1.
func boot(began time.Duration) (int, bool, error) {
	if err := mountKernel(); err != nil {
		return 0, false, err
	}
	raw, err := os.ReadFile(wire.Config)
	if err != nil {
		return 0, false, fmt.Errorf("read setup: %w", err)
	}
	var s wire.Setup
	if err := json.Unmarshal(raw, &s); err != nil {
		return 0, false, fmt.Errorf("parse setup: %w", err)
	}
	if err := settle(s); err != nil {
		return 0, false, err
	}
	cmd := exec.CommandContext(context.Background(), wire.Helper, "serve")
	// systemd's last sweep at a shutdown spares what has such a name: see "Storage Daemons for the Root File System".
	cmd.Args[0] = "@rig"
	cmd.Env = append(environment(), fmt.Sprintf("%s=%d", beganVar, began))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, false, fmt.Errorf("start the server: %w", err)
	}
	return cmd.Process.Pid, s.Systemd, nil
}

func environment() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=dumb"}
}

// settle loads and mounts what the setup asks for and enters the root it asks for.
func settle(s wire.Setup) error {
	ix, err := readIndex()
	if err != nil {
		return err
	}
	// The NIC driver's probe and the disk take their time; they do not need each other.
	var g errgroup.Group
	g.Go(func() error { return ix.loadAll(s.Load...) })
	g.Go(func() error { return mountDisk(ix, s.DiskFS) })
	g.Go(loopbackUp)
	if s.HostRoot {
		g.Go(func() error { return mountHostRoot(ix) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := changeRoot(ix, s); err != nil {
		return err
	}
	if s.HugePages {
		return mountAt("hugetlbfs", "hugetlbfs", "/dev/hugepages", 0, "")
	}
	return nil
}

// changeRoot gives the machine its identity, and another root where one is asked for.
func changeRoot(ix *index, s wire.Setup) error {
	switch {
	case s.HostRoot:
		if err := furnish(s.Files); err != nil {
			return err
		}
		return enter(rootDir)
	case s.Systemd:
		if err := mountSystemRoot(ix); err != nil {
			return err
		}
		if err := furnish(s.Files); err != nil {
			return err
		}
		// What is changed from here on, and only that, is on the disk.
		if err := overlay(rootDir, filepath.Dir(wire.RootDir), nodeDir); err != nil {
			return err
		}
		return enter(nodeDir)
	}
	return identity("")
}

func mountAt(source, fstype, dir string, flags uintptr, data string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	if err := unix.Mount(source, dir, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fstype, dir, err)
	}
	return nil
}

func mountKernel() error {
	for _, m := range []struct{ fstype, dir, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", "mode=0755"},
		{"devpts", "/dev/pts", "mode=0620,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"tmpfs", "/run", "mode=0755"},
		{"tmpfs", "/tmp", "mode=1777"},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := mountAt(m.fstype, m.fstype, m.dir, 0, m.data); err != nil {
			return err
		}
	}
	return nil
}

// mountDisk mounts the state disk with the file system's own defaults: barriers on, as on a node.
func mountDisk(ix *index, fstype string) error {
	if err := ix.loadAll("virtio_blk", "crc32c_generic", fstype); err != nil {
		return err
	}
	if _, err := until(wire.Exists, "/dev/vda", "", 10*time.Second); err != nil {
		return fmt.Errorf("the disk: %w", err)
	}
	return mountAt("/dev/vda", fstype, "/state", 0, "")
}

const (
	lowerDir = "/mnt/lower"
	upperDir = "/mnt/upper"
	rootDir  = "/mnt/root"
	nodeDir  = "/mnt/node"
)

// mountHostRoot lays a tmpfs over the host's root, which comes in over 9p and read-only.
func mountHostRoot(ix *index) error {
	if err := ix.loadAll("9pnet_virtio", "9p", "overlay"); err != nil {
		return err
	}
	if err := mountAt(wire.Tag, "9p", lowerDir, unix.MS_RDONLY,
		"trans=virtio,version=9p2000.L,cache=loose,msize=262144"); err != nil {
		return err
	}
	return overlayMemory()
}

// mountSystemRoot lays a tmpfs over the root with systemd, which is on the second disk.
func mountSystemRoot(ix *index) error {
	if err := ix.loadAll("ext4", "overlay"); err != nil {
		return err
	}
	if err := mountAt("/dev/vdb", "ext4", lowerDir, unix.MS_RDONLY, ""); err != nil {
		return err
	}
	return overlayMemory()
}

func overlayMemory() error {
	if err := mountAt("tmpfs", "tmpfs", upperDir, 0, "mode=0755"); err != nil {
		return err
	}
	return overlay(lowerDir, upperDir, rootDir)
}

// overlay mounts at dir what is in lower, with changes kept in upper/up.
func overlay(lower, upper, dir string) error {
	for _, d := range []string{upper + "/up", upper + "/work"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make overlay directory: %w", err)
		}
	}
	return mountAt("overlay", "overlay", dir, 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/up,workdir=%s/work", lower, upper, upper))
}

// furnish copies the files of the initramfs that a test counts on into the new root, and gives it its identity.
func furnish(files []string) error {
	for _, file := range files {
		if err := carry(file); err != nil {
			return fmt.Errorf("carry %s into the new root: %w", file, err)
		}
	}
	return identity(rootDir)
}

// enter makes dir the root, as switch_root does: what is mounted moves along.
func enter(root string) error {
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/state"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
		if err := unix.Mount(dir, root+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s into the new root: %w", dir, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return os.Chdir("/")
}

// carry copies one file, keeping a symbolic link one. What the host has under that name, which may be a link to
// something else, is replaced and not followed.
func carry(file string) error {
	to := rootDir + file
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if link, err := os.Readlink(file); err == nil {
		return os.Symlink(link, to)
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, info.Mode().Perm())
}

// identity writes the little that programs expect of a node's /etc. In another root it goes to the overlay only.
func identity(root string) error {
	if err := os.MkdirAll(root+"/etc", 0o755); err != nil {
		return fmt.Errorf("make /etc: %w", err)
	}
	for file, content := range map[string]string{
		"/etc/machine-id": machineID,
		"/etc/hostname":   "rig\n",
		"/etc/hosts":      "127.0.0.1 localhost rig\n",
		"/etc/passwd":     "root:x:0:0:root:/root:/bin/sh\n",
		"/etc/group":      "root:x:0:\n",
	} {
		if _, err := os.Lstat(root + file); err == nil && file != "/etc/machine-id" {
			continue
		}
		// It may be read-only, or a link to nowhere.
		_ = os.Remove(root + file)
		if err := os.WriteFile(root+file, []byte(content), 0o644); err != nil {
			return fmt.Errorf("write identity: %w", err)
		}
	}
	if err := os.MkdirAll(root+"/root", 0o700); err != nil {
		return fmt.Errorf("make /root: %w", err)
	}
	return unix.Sethostname([]byte("rig"))
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(s) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// uptime is the kernel's clock: time since power-on, less what the firmware took.
func uptime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

func trimmed(file string) string {
	raw, _ := os.ReadFile(file)
	return strings.TrimSpace(string(raw))
}
