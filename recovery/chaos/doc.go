// Package chaos runs the agent on a real kernel and takes that kernel's power away.
//
// It is a virtual machine made for tests: a distribution kernel under QEMU with Intel 82576 NICs (igb: real SR-IOV,
// seven VFs each), an IOMMU, one disk that survives, and a userspace that is one Go program. It is up in a few
// seconds, so a test can afford power cuts, kernel crashes, hot-plug and unbinds that hang, all of them real.
//
// # How it is used
//
// `make vm-deps` once fetches QEMU and a kernel; Find says what is missing. Then:
//
//	vm, err := chaos.Start(ctx, chaos.Config{NICs: 2, Agent: "bin/agent", Log: w})
//	defer vm.Close()
//	res, err := vm.Agent(ctx, "status", "-o", "json")     // or vm.Run, for any program
//	p, err := vm.StartAgent(ctx, "run", "--state-dir", chaos.StateDir)
//	err = p.Expect(ctx, "recovered")                      // waits for output
//	err = vm.PowerCut()                                   // and the disk is what was flushed
//	err = vm.Boot(ctx)                                    // the same machine, the same disk, a new boot_id
//	err = vm.WaitLink(ctx, nic.Sysfs("driver"), "vfio-pci")
//
// The guest's root is an initramfs: /bin/agent, /lib/modules with the modules a node of this kind uses, modprobe, and
// Helper with a few tools. Nothing else: with HostRoot every program of the host is there too, read-only under an
// overlay. The disk is mounted at /state; everything else is gone after a power cut. igb and igbvf are loaded at
// boot, VFIO is not: loading it is the agent's work.
//
// With Systemd the machine is a small installation of the host's own distribution: systemd is PID 1, udev runs, and
// systemctl, driverctl, lspci and ip are there. Boot returns when the boot's last job is done. What is changed in that
// root is on the disk (RootDir), so an installation outlives a reboot and a power cut.
//
// Every wait has a deadline: the context's, or one of the package's own. An error about the machine carries the last
// lines of its console.
//
// # Caveats
//
//   - A power cut is SIGKILL to QEMU. It loses the guest's page cache, and nothing that the guest's disk had
//     acknowledged: a disk that lies about a flush is not what this models.
//   - Emulation is by default in software (TCG): nested virtualisation that claims to work and does not is common.
//     ENIAGENT_VM_ACCEL=kvm uses KVM where it is known to be good. Times measured in the guest mean little, and its
//     two CPUs take turns.
//   - Without Systemd no udev runs: nothing renames interfaces, and a module is loaded only when something asks for it.
//   - A PCI address is looked up by the root port a NIC is behind, so a NIC is found whatever driver it has.
//   - The kernel has no VFIO no-IOMMU mode. NoIOMMU gives the guest in which vfio-pci refuses to bind.
//   - Linux on x86-64 only.
package chaos
