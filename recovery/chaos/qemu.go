//go:build linux

package chaos

import (
	"fmt"
	"strconv"

	"eniagent/recovery/chaos/wire"
)

// args is the machine as QEMU's command line says it. The caller holds mu.
func (v *VM) args() []string {
	c := v.cfg
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-M", "q35,kernel-irqchip=split", "-accel", accel(), "-cpu", "max",
		"-smp", strconv.Itoa(c.CPUs), "-m", strconv.Itoa(c.Memory),
		"-kernel", v.parts.Kernel, "-initrd", inherited(0), "-append", v.cmdline(),
	}
	args = append(args, v.diskArgs()...)
	if c.Systemd {
		args = append(args, "-drive", "if=none,id=root,format=raw,readonly=on,file="+v.parts.Root, "-device", "virtio-blk-pci,drive=root")
	}
	if !c.NoIOMMU {
		// Before the devices it translates for.
		args = append(args, "-device", "intel-iommu,intremap=on,caching-mode=on")
	}
	if c.Uplink {
		args = append(args, "-netdev", "user,ipv6=off,id=uplink", "-device", "virtio-net-pci,netdev=uplink,mac="+uplinkMAC)
	}
	if c.HostRoot {
		args = append(args, "-virtfs", "local,path=/,security_model=none,readonly=on,multidevs=remap,mount_tag="+wire.Tag)
	}
	for port := range c.NICs + c.FreePorts {
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=%s,bus=pcie.0,chassis=%d,addr=%#x", portID(port), port+1, portSlot(port)))
		if mac, ok := v.ports[port]; ok {
			args = append(args,
				"-netdev", "user,restrict=on,ipv6=off,id="+netID(port),
				"-device", fmt.Sprintf("igb,id=%s,netdev=%s,bus=%s,mac=%s", nicID(port), netID(port), portID(port), mac))
		}
	}
	return args
}

// diskArgs are the state disk, with a log of what it is told to write where one is asked for.
func (v *VM) diskArgs() []string {
	if v.cfg.WriteLog == "" {
		return []string{"-drive", "if=none,id=disk,format=raw,file=" + inherited(1), "-device", "virtio-blk-pci,drive=disk"}
	}
	return []string{
		"-blockdev", "driver=raw,node-name=image,file.driver=file,file.filename=" + inherited(1),
		"-blockdev", "driver=file,node-name=log,filename=" + v.cfg.WriteLog,
		"-blockdev", "driver=blklogwrites,node-name=disk,file=image,log=log",
		"-device", "virtio-blk-pci,drive=disk",
	}
}

func (v *VM) cmdline() string {
	// panic=-1: a crashed kernel reboots at once, and with -no-reboot that ends QEMU. no_timer_check: on a busy machine
	// the emulated timer is late, and the kernel panics for it. The second line only saves time.
	line := "console=ttyS0 loglevel=5 panic=-1 oops=panic net.ifnames=0 sysrq_always_enabled no_timer_check " +
		"nokaslr random.trust_cpu=on mitigations=off rcupdate.rcu_expedited=1"
	if !v.cfg.NoIOMMU {
		line += " intel_iommu=on iommu=pt"
	}
	if v.cfg.Systemd {
		line += " systemd.show_status=error"
	}
	if v.cfg.HugePages > 0 {
		line += fmt.Sprintf(" hugepagesz=2M hugepages=%d", v.cfg.HugePages)
	}
	return line + " " + v.cfg.Cmdline
}

// channels are the sockets QEMU inherits; ExtraFiles begin at 3.
func channels() []string { return []string{"console", "rig", "qmp"} }

// channelArgs put each channel where the guest, or the rig, expects it.
func channelArgs() []string {
	var args []string
	for i, id := range channels() {
		args = append(args, "-chardev", "socket,id="+id+",fd="+strconv.Itoa(3+i))
	}
	return append(args,
		"-serial", "chardev:console",
		"-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=rig,name="+wire.Port)
}

// inherited names the i-th file given to power, as QEMU can open it.
func inherited(i int) string { return fmt.Sprintf("/proc/self/fd/%d", 3+len(channels())+i) }
