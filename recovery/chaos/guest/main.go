//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() == 1 {
		initialise()
		return
	}
	if err := run(filepath.Base(os.Args[0]), os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

func run(name string, args []string) error {
	if name == "modprobe" {
		return modprobe(args)
	}
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve()
	case len(args) == 2 && args[0] == "hold":
		return hold(args[1])
	case len(args) == 3 && args[0] == "write":
		return poke(args[1], []byte(args[2]))
	case len(args) == 2 && args[0] == "remove":
		return os.RemoveAll(args[1])
	case len(args) == 2 && args[0] == "inode":
		return inode(args[1])
	case len(args) == 4 && args[0] == "mount":
		return mountAt(args[1], args[2], args[3], 0, "")
	case len(args) == 2 && args[0] == "unmount":
		return unix.Unmount(args[1], 0)
	case len(args) == 3 && args[0] == "get":
		return get(args[1], args[2])
	case len(args) == 2 && args[0] == "datapath":
		return datapath(args[1])
	case len(args) == 2 && args[0] == "undatapath":
		return undatapath(args[1])
	case len(args) == 4 && args[0] == "port":
		return port(args[1], args[2], args[3])
	case len(args) == 3 && args[0] == "endpoint":
		return endpoint(args[1], args[2])
	}
	return fmt.Errorf("usage: hold ADDR | write PATH VALUE | remove PATH | inode PATH | mount DEV FS DIR | unmount DIR | get HOST:PORT PATH | " +
		"datapath NAME | undatapath NAME | port DATAPATH netdev|internal NAME | endpoint WIREGUARD ADDRESS")
}
