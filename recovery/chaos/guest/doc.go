//go:build linux

// Command guest is the whole userspace of the rig's VM. As /init it sets the machine up and then only reaps, or
// becomes systemd; its child serves the host's requests. Under other names and subcommands it is the few tools a test
// needs in there:
//
//	modprobe NAME...      load a module and what it depends on (the kernel calls this too)
//	rig hold ADDR         open a VFIO device as a DPDK program does, print "held", and keep it until a signal
//	rig write PATH VALUE  write VALUE to PATH in one write(2)
//	rig get ADDR PATH     print what a server in the guest answers over HTTP
package main
