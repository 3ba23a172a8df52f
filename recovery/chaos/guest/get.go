//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// get prints what a server in the guest answers. HTTP/1.0, so that the answer ends with the connection.
func get(addr, path string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", path, addr); err != nil {
		return fmt.Errorf("ask for %s: %w", path, err)
	}
	_, err = io.Copy(os.Stdout, c)
	return err
}
